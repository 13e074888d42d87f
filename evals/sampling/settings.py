"""How responses are sampled and scored, and what a sample is: plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """How checkpoints are scored. None: the benchmark's own number of samples, length, or all problems."""

    k: int | None = None
    limit: int | None = None
    max_tokens: int | None = None
    engine: str = "transformers"  # or "auto": the one that finishes first


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `top_k=0` and `top_p=1` leave the distribution whole; `max_tokens` counts new tokens.

    `temperature=0` takes the likeliest token each time: the n samples of a prompt are then equal.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int

    @property
    def rule(self) -> dict:
        """What decides a token: the keyword arguments of `draws.draw`."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


@dataclass(frozen=True)
class Sample:
    """One completion: its text, its length in tokens (with the end token) and why it ended.

    `finish`: "stop"; "length" (cut off by `max_tokens` or the model's context); "overflow" (the prompt alone fills the
    context: nothing was generated).
    """

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class Chunk:
    """Finished samples of the prompts at `positions`; `state` is the random state after them, if it can be restored."""

    positions: list[int]
    samples: list[list[Sample]]
    state: bytes = b""
