"""How responses are sampled and scored, and what a sample is: plain data."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """How a model is scored. None stands for the benchmark's own value; `limit` keeps the first so many problems.

    engine: "fixed" is transformers on the CPU with one thread and a fixed batch size, which draws the same samples on
    every machine; "auto" is the engine that finishes first; "vllm" and "transformers" name one.
    template: a name of `prompts.TEMPLATES`, or "auto". shots: worked examples before each problem, instead of a
    template. concurrency: requests to a served model at the same time.
    """

    k: int | None = None
    limit: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    thinking_budget: int | None = None
    seed: int | None = None
    engine: str = "fixed"
    template: str = "auto"
    shots: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k=0` and `top_p=1` keep the whole distribution; `max_tokens` counts new tokens.

    With `temperature=0` the likeliest token is taken each time, and the n samples of a prompt are equal.
    thinking_budget: the number of tokens after which open thinking is closed, None for no limit.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    thinking_budget: int | None = field(default=None, repr=False)  # a benchmark's entry is digested as text

    @property
    def record(self) -> dict:
        """The fields for addresses and score records, without a budget that is not there."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def rule(self) -> dict:
        """The keyword arguments of `draws.draw`."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


@dataclass(frozen=True)
class Sample:
    """One completion: its text, its length in tokens (with the end token) and why it ended.

    `finish`: "stop"; "length", cut off by `max_tokens` or the model's context; "overflow", the prompt alone fills the
    context and nothing was generated.
    thinking_tokens: of `tokens`, those up to the end of the thinking; all of them where it does not end; None where the
    number is not known.
    """

    text: str
    tokens: int
    finish: str
    thinking_tokens: int | None = 0


@dataclass(frozen=True)
class Chunk:
    """Finished samples of the prompts at `positions`; `state` is the random state after them, if it can be restored."""

    positions: list[int]
    samples: list[list[Sample]]
    state: bytes = b""
