"""How long things take: measured rows, and what follows from them for other models, batches and machines.

The laptop's parts were measured on one machine (`REFERENCE`) and are stretched by how much slower this one is. Language
models go by seconds per rollout step: those of finished runs of the same scale if there are any, else the nearest row
of `ROWS`, scaled. All are estimates, meant to tell an hour from a day; their basis is said in words.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynclip.plan.disk import evaluation_tokens
from dynclip.plan.memory import architecture, length
from dynclip.runtime.hardware import Hardware
from dynclip.studies.architectures import QWEN25_7B, QWEN25_MATH_7B
from dynclip.studies.scales import HubPolicy, Scale
from evals.sampling.choice import WAYS, Job


@dataclass(frozen=True)
class Calibration:
    """Seconds of the laptop study's parts, measured on the reference machine, and that machine's speed.

    Measure each on an idle machine with one torch thread: `warm_start_s` the base policy; `start_s` one
    training up to its first step (imports, loading); `step_s` one rollout step at the scale's own batch and
    updates, mean over methods; `evaluation_s` one checkpoint on all benchmarks, start included; `report_s`
    data, tables, figures, report and MLflow import together. `reference_score` is `measure_speed()` there.
    """

    warm_start_s: float
    step_s: float
    start_s: float
    evaluation_s: float
    report_s: float
    reference_score: float


REFERENCE = Calibration(  # 2 cores of an AMD EPYC (Zen 5) virtual machine: results/reference/laptop-2core
    warm_start_s=119.0, step_s=0.77, start_s=8.2, evaluation_s=11.9, report_s=33.0, reference_score=22.5
)


@dataclass(frozen=True)
class Row:
    """Measured seconds of one rollout step, sampling and updates together.

    gpus: 0 for a CPU. max_completion: the longest, tokens; mean_tokens: of the completions, where it is known.
    """

    model: str
    parameters: int
    hardware: str
    gpus: int
    completions: int
    max_completion: int
    mean_tokens: float | None
    seconds: float
    source: str


# The paper gives the time of 400 steps of GRPO: 17 h 24 min and 27 h 18 min.
PAPER = "arXiv 2602.09782, with verl"
ROWS = (
    Row("Qwen2.5-Math-7B", QWEN25_MATH_7B.parameters, "8 x H100", 8, 4096, 3072, None, 62_640 / 400, PAPER),
    Row("Qwen2.5-7B", QWEN25_7B.parameters, "8 x H100", 8, 4096, 7168, None, 98_280 / 400, PAPER),
)
# Operations a second in matrix products, assumed: one core with bfloat16 instructions (half of it without), one GPU
# that trains a small model. They stand in where no row is near.
CORE_RATE, GPU_RATE = 150e9, 100e12
SUPERVISED_TOKENS = 250  # of a worked solution with its problem, about GSM8K's in any tokenizer
REPORT_S = 60.0  # tables, figures, report, MLflow


@dataclass(frozen=True)
class Estimate:
    """Seconds of a hub scale's parts, and in words what they rest on."""

    step_s: float
    basis: str
    evaluation_s: float  # of one checkpoint on all benchmarks
    evaluation_basis: str
    warm_start_s: float


def estimate(scale: Scale, machine: Hardware, folder: Path) -> Estimate:
    """The parts of a scale of the hub's models; `folder` is results/<scale>, whose finished runs come first.

    Tokens are counted at their longest. On a GPU machine that this one is not, times are those of the row's hardware.
    """
    row = measured(folder, scale)
    if row is not None:
        step_s, basis = row.seconds, f"measured: {row.source}, {row.hardware}"
    elif scale.execution.gpus:
        step_s, basis = scaled(scale, nearest(scale))
    else:
        step_s, basis = computed(scale, machine)
    evaluation_s, evaluation_basis = evaluation(scale, machine, step_s)
    return Estimate(step_s, basis, evaluation_s, evaluation_basis, warm_start(scale, machine))


def measured(folder: Path, scale: Scale) -> Row | None:
    """The median step of the finished runs under results/<scale> = `folder` as a row; None without such a run."""
    seconds, lengths, runs, machines = [], [], 0, set()
    for record in sorted(folder.glob("runs/*/seed*/run.json")):
        try:
            run = json.loads(record.read_text())
            rows = [json.loads(line) for line in record.with_name("metrics.jsonl").read_text().splitlines()]
            if run["state"] != "finished":
                continue
            seconds += [row["time/step"] for row in rows]
            lengths += [row["train/completion_length"] for row in rows if "train/completion_length" in row]
            machines.add(run.get("environment", {}).get("cpu") or "machine not recorded")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # unreadable: the workflow will rebuild it or say what is wrong with it
        runs += 1
    if not seconds:
        return None
    policy, gpus = scale.policy, scale.execution.all_gpus
    model = policy.id if isinstance(policy, HubPolicy) else "tiny policy"
    hardware = f"{gpus} GPUs, {', '.join(sorted(machines))}" if gpus else ", ".join(sorted(machines))
    return Row(
        model=model,
        parameters=architecture(policy).parameters,
        hardware=hardware,
        gpus=gpus,
        completions=scale.completions,
        max_completion=scale.max_completion,
        mean_tokens=statistics.mean(lengths) if lengths else None,
        seconds=statistics.median(seconds),
        source=f"median of {len(seconds)} steps of {runs} runs in {folder}",
    )


def nearest(scale: Scale, rows: Sequence[Row] = ROWS) -> Row:
    """The row of the model nearest in size, then in the length of its completions; ratios count."""
    parameters = architecture(scale.policy).parameters

    def distance(row: Row) -> tuple[float, float]:
        sizes, lengths = row.parameters / parameters, row.max_completion / scale.max_completion
        return abs(math.log(sizes)), abs(math.log(lengths))

    return min(rows, key=distance)


def scaled(scale: Scale, row: Row) -> tuple[float, str]:
    """(seconds of a step on GPUs, its basis in words): the row's, times parameters, completions and their length,
    shared by more or fewer GPUs.

    A model that is smaller than the row's is not faster without end: no token is sampled, or trained on, faster than
    the sampling rate that evals/sampling/choice.py has for a GPU at most.
    """
    gpus = max(1, scale.execution.all_gpus)
    share = architecture(scale.policy).parameters / row.parameters
    factor = share * scale.completions / row.completions * scale.max_completion / row.max_completion * row.gpus / gpus
    origin = f"{row.completions} completions of {row.model} on {row.hardware} ({row.source})"
    if abs(factor - 1) < 0.01:
        return row.seconds, f"measured for {origin}"
    seconds, limit = row.seconds * factor, ""
    slowest = scale.completions * scale.max_completion * (1 + scale.epochs) / (gpu_ceiling() * gpus)
    if share < 0.5 and seconds < slowest:
        seconds, limit = slowest, f", but no faster than {gpu_ceiling():,.0f} tokens a second on a GPU"
    return seconds, f"scaled from {row.seconds:.1f} s for {origin}{limit}; expect a factor of two either way"


def computed(scale: Scale, machine: Hardware) -> tuple[float, str]:
    """(seconds of a step on a CPU, its basis in words): sampling at the rates of `evals.sampling.choice`; for each
    token 2 operations a weight to score it and 6 an epoch to train on it (8 with checkpointing), at an assumed rate."""
    weights, cores = architecture(scale.policy).parameters, _cores(scale, machine)
    tokens = scale.completions * length(scale)
    operations = weights * tokens * (2 + scale.epochs * (8 if scale.execution.checkpointing else 6))
    rate = core_rate(machine) * cores
    engines = ("vllm",) if scale.execution.sampler == "vllm" else ("transformers",)
    sampling = sampling_s(scale.completions * scale.max_completion, weights, machine, cores, engines, start=False)
    return sampling + operations / rate, (
        f"scaled from evals/sampling/choice.py's rates and {rate / 1e9:.0f} G operations a second assumed on {cores} "
        "cores, at full lengths; expect a factor of two either way"
    )


def warm_start(scale: Scale, machine: Hardware) -> float:
    """Seconds of the supervised stage before RL, from its operations; 0 where the scale has none."""
    stage = scale.policy.supervised
    if stage is None:
        return 0.0
    rate = GPU_RATE if scale.execution.gpus else core_rate(machine) * _cores(scale, machine)
    tokens = stage.solutions * stage.epochs * min(SUPERVISED_TOKENS, length(scale))
    return 6 * architecture(scale.policy).parameters * tokens / rate


def evaluation(scale: Scale, machine: Hardware, step_s: float) -> tuple[float, str]:
    """(seconds of one checkpoint on all benchmarks, its basis in words) at the longest responses: orders of magnitude.

    On a GPU at the rate of evals/sampling/choice.py or, if that is faster, the rate at which a training samples and
    trains on its tokens: the former was set for small models.
    """
    tokens, weights = evaluation_tokens(scale), architecture(scale.policy).parameters
    if not scale.execution.gpus:
        seconds = sampling_s(tokens, weights, machine, _cores(scale, machine), ("vllm", "transformers"))
        return seconds, "rates of evals/sampling/choice.py, orders of magnitude"

    start, rate = 60.0, scale.completions * scale.max_completion / (step_s * scale.execution.all_gpus)
    by_rate = start + tokens / rate
    ways = [way.seconds(Job(1, tokens, weights), machine.cores) for way in WAYS if way.device == "cuda"]
    if min(ways) <= by_rate:
        return min(ways), "rates of evals/sampling/choice.py, orders of magnitude"
    return by_rate, f"{rate:,.0f} tokens a second and GPU as in training, orders of magnitude"


def sampling_s(tokens: int, weights: int, machine: Hardware, cores: int, engines: tuple, start: bool = True) -> float:
    """Seconds to sample so many tokens on a CPU by the faster of `engines`; `start`: starting it included."""
    dtype = "bfloat16" if machine.cpu_bf16 else "float32"
    ways = [way for way in WAYS if (way.device, way.dtype) == ("cpu", dtype) and way.engine in engines]
    if not start:  # inside a training, where vLLM does not compile
        ways = [way for way in ways if not way.compiled]
    return min(way.seconds(Job(1, tokens, weights), cores) - (0 if start else way.start) for way in ways)


def core_rate(machine: Hardware) -> float:
    return CORE_RATE if machine.cpu_bf16 else CORE_RATE / 2


def gpu_ceiling() -> float:
    """Tokens a second that no model exceeds on one GPU."""
    return max(way.ceiling for way in WAYS if way.device == "cuda")


def hub_minutes(cost: Estimate, steps: int, warm: bool, runs: int, evaluations: int, at_once: int) -> float:
    """Minutes for what is left of a hub scale's study, with `at_once` jobs side by side; 0 when nothing is left."""
    if not (warm or runs or evaluations):
        return 0.0
    seconds = cost.warm_start_s * warm + -(-runs // at_once) * steps * cost.step_s + REPORT_S
    return (seconds + -(-evaluations // at_once) * cost.evaluation_s) / 60


def estimate_minutes(
    steps: int,
    warm_start: bool,
    runs: int,
    evaluations: int,
    at_once: int,
    speed: float,
    calibration: Calibration = REFERENCE,
) -> float:
    """Minutes for what is left: `runs` trainings of `steps` and `evaluations`, `at_once` side by side, then
    the report.

    0 when nothing is left. Trainings wait for the warm start, and the last jobs leave cores idle (whole
    rounds count).
    """
    if not (warm_start or runs or evaluations):
        return 0.0
    rounds = -(-runs // at_once)
    seconds = calibration.warm_start_s * warm_start + calibration.report_s
    seconds += rounds * (calibration.start_s + steps * calibration.step_s)
    seconds += -(-evaluations // at_once) * calibration.evaluation_s
    return seconds / speed / 60


def measure_speed(budget_s: float = 0.5) -> float:
    """Speed of one core of this machine at small matrix products and interpreted Python, the two halves of a
    tiny policy's training: geometric mean of both rates, in arbitrary units (thousands a second).

    The best of short slices, so that a moment's other load does not count.
    """
    import numpy as np

    left, right = np.random.default_rng(0).standard_normal((2, 64, 64), dtype=np.float32)

    def multiply() -> None:
        for _ in range(20):
            left @ right

    def interpret() -> None:
        total = 0
        for number in range(500):
            total += number * number % 7

    def rate(work) -> float:
        best, end = 0.0, time.perf_counter() + budget_s / 2
        while (start := time.perf_counter()) < end:
            calls = 0
            while (spent := time.perf_counter() - start) < budget_s / 20:
                work()
                calls += 1
            best = max(best, calls / spent)
        return best / 1000

    return (rate(multiply) * rate(interpret)) ** 0.5


def _cores(scale: Scale, machine: Hardware) -> int:
    return min(machine.cores, scale.threads)
