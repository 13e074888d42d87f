"""How responses are sampled and scored, and what a sample is: plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# A response repeats itself if it ends with the same block of 32 to 128 tokens four times. Shorter blocks count as
# several in a row. Names and meaning are those of vLLM's RepetitionDetectionParams.
REPETITION = {"min_pattern_size": 32, "max_pattern_size": 128, "min_count": 4}


def repeats(tokens: Sequence[int]) -> bool:
    """Whether a response of `tokens` repeats itself at its end, as REPETITION says."""
    count = REPETITION["min_count"]
    for size in range(REPETITION["min_pattern_size"], REPETITION["max_pattern_size"] + 1):
        if size * count > len(tokens):
            return False
        end = tokens[-size * count :]
        if end[size:] == end[:-size]:
            return True
    return False


@dataclass(frozen=True)
class Evaluation:
    """How a model is scored. None stands for the benchmark's own value; `limit` draws a subset of so many problems (a
    study's data file: the first so many). until: more problems are drawn until the standard error is at most so many
    points (`evals.metrics.precise`); `limit` is the most then.

    engine: "fixed" is transformers on the CPU with one thread and a fixed batch size, which draws the same samples on
    every machine; "auto" is the engine that finishes first; "vllm" and "transformers" name one.
    template: a name of `prompts.TEMPLATES`, or "auto". shots: worked examples before each problem, instead of a
    template. concurrency: requests to a served model at the same time.
    """

    k: int | None = None
    limit: int | None = None
    until: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    thinking_budget: int | None = None
    seed: int | None = None
    stop_repetition: bool | None = None
    engine: str = "fixed"
    template: str = "auto"
    shots: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k=0` and `top_p=1` keep the whole distribution; `max_tokens` counts new tokens.

    With `temperature=0` the likeliest token is taken each time, and the n samples of a prompt are equal.
    stop_repetition: end a response that repeats itself (REPETITION), which a small model does up to its limit.
    thinking_budget: the number of tokens after which open thinking is closed, None for no limit.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    # Without text form: a benchmark's entry is digested as text.
    stop_repetition: bool = field(default=False, repr=False)
    thinking_budget: int | None = field(default=None, repr=False)

    @property
    def record(self) -> dict:
        """The fields as addresses and scores record them: without those that are off."""
        optional = ("stop_repetition", "thinking_budget")
        return {name: value for name, value in vars(self).items() if name not in optional or value}

    @property
    def rule(self) -> dict:
        """The keyword arguments of `draws.draw`."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


@dataclass(frozen=True)
class Sample:
    """One completion: its text, its length in tokens (with the end token) and why it ended.

    `finish`: "stop"; "length", cut off by `max_tokens` or the model's context; "overflow", the prompt alone fills the
    context and nothing was generated; "repetition", see `Sampling`.
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
