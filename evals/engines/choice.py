"""The choice of a sampling engine: the installed one that finishes a job first, starting included, and the reason."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from dynclip.runtime.errors import UserError
from dynclip.runtime.progress import clock

NAMES = ("vllm", "transformers")
REFERENCE = 135e6
MOST_AT_ONCE = 256  # requests that vLLM runs at the same time
BLOCK = 128  # tokens: vLLM's unit of keys and values on a CPU
SMALL = 50e6  # parameters; below this, reduced precision is not faster


@dataclass(frozen=True)
class Job:
    """The work: `samples` of about `tokens` each, at most `limit`, by a model of `parameters` weights."""

    samples: int
    tokens: int
    parameters: int
    limit: int = 0


@dataclass(frozen=True)
class Choice:
    """The engine, its device and dtype, whether vLLM compiles the model first, and `why` as a sentence."""

    engine: str
    device: str
    dtype: str
    why: str
    compiled: bool = False


@dataclass(frozen=True)
class Way:
    """One way to do a job. start: seconds. rate: tokens per second of a model with REFERENCE parameters, in a large
    batch. half: the batch that has half of this rate. ceiling: the highest rate of any model.
    """

    engine: str
    device: str
    dtype: str
    start: float
    rate: float
    ceiling: float = 10_000
    compiled: bool = False
    half: int = 0

    @property
    def name(self) -> str:
        return f"{self.engine} compiled" if self.compiled else self.engine

    def seconds(self, job: Job, cores: int, tokens: int | None = None) -> float:
        """Seconds for the job on so many cores, starting included. tokens: of a response, if not the job's."""
        share = cores / 2 if self.device == "cpu" else 1.0
        batch = max(1, min(job.samples, MOST_AT_ONCE))
        rate = self.rate * batch / (batch + self.half)
        rate = min(self.ceiling, rate * share * REFERENCE / max(job.parameters, 1))
        return self.start + job.samples * (tokens or job.tokens) / rate


# CPU: SmolLM2-135M on 2 cores in bfloat16, measured (docs/evaluation.md). Rates count `max_tokens` for each response;
# they include what transformers computes until the longest response of a batch ends. float32: scaled by a measured
# ratio. vLLM made 330 tokens/s in a batch of 16 and 1,000 in one of 256. GPU: orders of magnitude, enough to tell a few
# hundred samples from many thousands; vLLM always compiles there, since capturing its graphs takes as long.
WAYS = (
    Way("transformers", "cpu", "bfloat16", 4, 200),
    Way("transformers", "cpu", "float32", 4, 95),
    Way("vllm", "cpu", "bfloat16", 14, 1_150, half=40),
    Way("vllm", "cpu", "float32", 14, 750, half=40),
    Way("vllm", "cpu", "bfloat16", 75, 1_450, compiled=True, half=40),
    Way("vllm", "cpu", "float32", 75, 940, compiled=True, half=40),
    Way("transformers", "cuda", "bfloat16", 10, 3_000, 3_000),
    Way("transformers", "cuda", "float32", 10, 2_000, 2_000),
    Way("vllm", "cuda", "bfloat16", 60, 20_000, 20_000, compiled=True),
    Way("vllm", "cuda", "float32", 60, 8_000, 8_000, compiled=True),
)


def choose_engine(
    job: Job, hardware, installed: dict[str, str | None], wanted: str = "auto", float32: bool = False
) -> Choice:
    """The engine that finishes `job` first among the installed ones, or the one that is `wanted`, and why.

    hardware: `dynclip.runtime.hardware.Hardware`. float32: the weights are stored in float32. Raises UserError for an
    engine that is unknown or not installed.
    """
    device = "cuda" if hardware.gpus else "cpu"
    reduced = all(gpu.bf16 for gpu in hardware.gpus) if hardware.gpus else hardware.cpu_bf16
    dtype = "bfloat16" if reduced and not (float32 and job.parameters < SMALL) else "float32"
    if wanted not in ("auto", *NAMES):
        raise UserError(f"unknown engine {wanted!r}; the engines are: auto, {', '.join(NAMES)}")
    if wanted != "auto" and not installed[wanted]:
        raise UserError(f"engine {wanted!r} is not installed here; run `make install`, or leave --engine out")
    present = [name for name in NAMES if installed[name]]
    if not present:
        raise UserError("no sampling engine is installed (vllm or transformers); run `make install`")
    ways = [way for way in WAYS if way.engine in present and (way.device, way.dtype) == (device, dtype)]
    ways.sort(key=lambda way: way.seconds(job, hardware.cores))
    best = next(way for way in ways if wanted in ("auto", way.engine))
    times = ", ".join(f"{way.name} {_range(way, job, hardware.cores)}" for way in ways)
    reason = "as asked, for " if wanted != "auto" else ""
    absent = "".join(f"; {name} is not installed" for name in NAMES if name not in present)
    length = f"{job.tokens} to {job.limit}" if job.limit > job.tokens else f"about {job.tokens}"
    size = f"{job.samples} samples of {length} tokens on {device} in {dtype}"
    why = f"{reason}{size}; expected, starting included: {times}{absent}"
    return Choice(best.engine, device, dtype, why, best.compiled)


def _range(way: Way, job: Job, cores: int) -> str:
    """Time for responses of the expected length, and if every one runs to its limit."""
    low = way.seconds(job, cores)
    return clock(low) + (f" to {clock(way.seconds(job, cores, job.limit))}" if job.limit > job.tokens else "")


def fitting_batch(memory_bytes: float, bytes_per_token: int, tokens: int, most: int = 64) -> int:
    """How many sequences of `tokens` fit in a quarter of `memory_bytes`, at least 1 and at most `most`."""
    return max(1, min(most, int(memory_bytes / 4 / max(1, bytes_per_token * tokens))))


def cache_bytes(memory_bytes: float, bytes_per_token: int, lengths: Iterable[int], context: int | None) -> int:
    """vLLM's memory for keys and values on a CPU: what the longest sequences need that run at the same time.

    lengths: tokens of prompt and response of each sequence, at the most. At least one sequence of the whole `context`
    fits, without which vLLM does not start. At most a sixth of `memory_bytes`, between 1 and 8 GiB; with less than it
    needs, vLLM runs fewer sequences at the same time.
    """
    blocks = (-(-length // BLOCK) * BLOCK for length in heapq.nlargest(MOST_AT_ONCE, lengths))
    needed = max(sum(blocks), context or 0) * bytes_per_token
    return int(min(max(2**30, min(8 * 2**30, memory_bytes / 6)), needed + 2**26))
