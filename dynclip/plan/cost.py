"""Estimated time of a study's parts on this machine, in seconds.

Times of the synthetic worlds were measured on a reference machine and are divided by this machine's relative speed. A
language model's step is the median of finished runs of the same scale, or else the nearest measured step of STEPS,
scaled by parameters, tokens and devices. Expect a factor of two either way.
"""

import heapq
import json
import math
import statistics
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from dynclip.plan.disk import evaluation_tokens
from dynclip.plan.memory import architecture, is_large, length
from dynclip.runtime.hardware import Hardware
from dynclip.studies.architectures import QWEN25_7B, SMOLLM2_135M
from dynclip.studies.scales import SCALES, Scale, WorldPolicy
from evals.benchmarks.worlds import WORLDS, paths
from evals.engines.choice import WAYS, Job


@dataclass(frozen=True)
class Cost:
    """Seconds of a study's parts, and the source of the step's.

    base_s: one base policy. start_s: one job of trainings or evaluations up to its first step. step_s: one rollout step
    of one seed with its updates, mean over methods. evaluation_s: one checkpoint on all benchmarks. report_s: data,
    tables, figures, report, MLflow.
    """

    base_s: float
    start_s: float
    step_s: float
    evaluation_s: float
    report_s: float
    source: str


# Per seed, two jobs of one thread side by side on an AMD EPYC virtual machine of 2 cores; REFERENCE_SPEED is what
# `measure_speed()` gives there. From timings.json of the run at commit e8635d5: base_s is the warm-up job's time
# over its seeds; step_s and evaluation_s are a job's time without its start over the seed-steps or checkpoints in it,
# with 20 seeds in a job (6 in `worded`). `paths` and `worded` went over a batch once then: their step_s is multiplied
# by 2.2 and 1.64, the ratios of a rollout step with four epochs to one with one, timed one after the other.
REFERENCE_SPEED = 13.9
START_S, REPORT_S = 5.0, 90.0  # a job up to its first step; all report jobs of a study
SOURCE = "measured on the reference machine"
MEASURED = {
    "paths": Cost(2.9, START_S, 0.0328, 0.13, REPORT_S, SOURCE),
    "facts": Cost(2.9, START_S, 0.0374, 0.32, REPORT_S, SOURCE),
    "worded": Cost(13.2, START_S, 0.225, 1.46, REPORT_S, SOURCE),
}
# Tiny policies through TRL: the rehearsal of a hub scale, and how many times as long a world's step takes. Assumed.
REHEARSED = Cost(15.0, 8.0, 1.0, 8.0, REPORT_S, "tiny policy in TRL on the reference machine")
TRL_STEP = 10
GPU_CORES = 500  # cores whose work one GPU does in the stacked loop, assumed


@dataclass(frozen=True)
class Step:
    """A measured rollout step with its updates. `longest`: of a completion, in tokens. `devices`: GPUs or cores."""

    on_gpu: bool
    parameters: int
    completions: int
    longest: int
    devices: int
    seconds: float
    source: str


STEPS = (
    # arXiv 2602.09782: 400 steps of GRPO took 17 h 24 min and 27 h 18 min on 8 H100.
    Step(True, QWEN25_7B.parameters, 4096, 3072, 8, 62_640 / 400, "the paper's time"),
    Step(True, QWEN25_7B.parameters, 4096, 7168, 8, 98_280 / 400, "the paper's time"),
    # results/reference/workstation-small-2core: median of 48 steps in bfloat16.
    Step(False, SMOLLM2_135M.parameters, 32, 96, 2, 49.3, "a run on 2 cores"),
)
FLOAT32 = 2  # times as long on a CPU without bfloat16 instructions, assumed
# Operations a second of the supervised stage: one core in bfloat16, from the same run; one GPU, assumed.
CORE_RATE, GPU_RATE = 150e9, 100e12
SUPERVISED_TOKENS = 250  # of a problem with its worked solution, about GSM8K's in any tokenizer


def estimate(scale: Scale, machine: Hardware, folder: Path) -> Cost:
    """The cost of a scale's parts; `folder` is results/<scale>, where finished runs are looked for.

    Completions are counted at their longest. A GPU scale's times are those of the GPUs that it asks for.
    """
    if not is_large(scale):
        speed = round(measure_speed() / REFERENCE_SPEED, 2)
        parts = world_cost(scale) if isinstance(scale.policy, WorldPolicy) else REHEARSED
        seconds = {name: value / speed for name, value in vars(parts).items() if name != "source"}
        return replace(parts, **seconds, source=f"{parts.source}, {speed:.1f} times its speed here")
    if measured := finished_steps(folder):
        step_s, source = statistics.median(measured), f"median of {len(measured)} finished steps"
    else:
        step_s, source = scaled_step(scale, machine)
    return Cost(supervised(scale, machine), 0.0, step_s, evaluation(scale, machine, step_s), REPORT_S, source)


def world_cost(scale: Scale) -> Cost:
    """The cost of a scale on a world: that of the world's own scale, other batches and sizes in proportion."""
    usual, parts = SCALES[scale.policy.world], MEASURED[scale.policy.world]
    size = products(scale.policy) / products(usual.policy) / (GPU_CORES if scale.execution.gpus else 1)
    step_s = parts.step_s * size * work(scale) / work(usual)
    parts = replace(parts, base_s=parts.base_s * size, step_s=step_s, evaluation_s=parts.evaluation_s * size)
    return parts if scale.trainer == "loop" else replace(parts, step_s=TRL_STEP * step_s, start_s=REHEARSED.start_s)


def products(policy: WorldPolicy) -> int:
    """Multiplications of a world's policy for one token, without attention."""
    if not policy.layers:
        return policy.hidden * (3 * policy.intermediate + policy.hidden + paths.NODES)
    layer = policy.hidden * (4 * policy.hidden + 3 * policy.intermediate)
    return policy.layers * layer + policy.hidden * len(WORLDS[policy.world].vocabulary)


def work(scale: Scale) -> int:
    """Completions that a step samples and trains on, each pass of an epoch counted."""
    return scale.completions * (1 + scale.epochs)


def phase_seconds(
    cost: Cost, steps: int, bases: int, trainings: Sequence[int], evaluations: Sequence[int], at_once: int
) -> dict[str, float]:
    """Seconds of the phases base, train, evaluate and report for what is left, with `at_once` jobs side by side.

    bases: base policies. trainings: runs of each job. evaluations: checkpoints of each job. The last jobs leave cores
    idle. All are 0 when nothing is left.
    """
    train = [cost.start_s + number * steps * cost.step_s for number in trainings]
    evaluate = [cost.start_s + number * cost.evaluation_s for number in evaluations]
    return {
        "base": cost.base_s * bases,
        "train": makespan(train, at_once),
        "evaluate": makespan(evaluate, at_once),
        "report": cost.report_s * bool(bases or trainings or evaluations),
    }


def makespan(jobs: Iterable[float], at_once: int) -> float:
    """Seconds until the last of `jobs` (seconds each) ends where the longest start first, `at_once` side by side."""
    ends = [0.0] * at_once
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def finished_steps(folder: Path) -> list[float]:
    """Seconds of all steps of the finished runs under results/<scale> = `folder`."""
    seconds = []
    for record in sorted(folder.glob("runs/*/seed*/run.json")):
        try:
            if json.loads(record.read_text())["state"] == "finished":
                rows = record.with_name("metrics.jsonl").read_text().splitlines()
                seconds += [json.loads(row)["time/step"] for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # unreadable: the workflow rebuilds it or reports it
    return seconds


def scaled_step(scale: Scale, machine: Hardware) -> tuple[float, str]:
    """(seconds, source) of a step: the nearest of STEPS, times parameters and tokens, divided among GPUs or cores."""
    gpus, tokens = scale.execution.all_gpus, scale.completions * scale.max_completion
    rows = [row for row in STEPS if row.on_gpu == bool(gpus)]
    row = min(rows, key=lambda row: abs(math.log(row.longest / scale.max_completion)))
    share = architecture(scale.policy).parameters / row.parameters
    factor = share * tokens / (row.completions * row.longest) * row.devices / (gpus or cores(scale, machine))
    factor *= 1 if gpus or machine.cpu_bf16 else FLOAT32
    seconds = row.seconds * factor
    if (
        gpus and share < 0.5
    ):  # overhead bounds a small model: no GPU handles more tokens than the sampling rate's ceiling
        ceiling = max(way.ceiling for way in WAYS if way.device == "cuda")
        seconds = max(seconds, tokens * (1 + scale.epochs) / (ceiling * gpus))
    return seconds, row.source if abs(factor - 1) < 0.01 else f"scaled from {row.source}"


def supervised(scale: Scale, machine: Hardware) -> float:
    """Seconds of the supervised stage before RL, from its operations; 0 where the scale has none."""
    stage = scale.policy.supervised
    if stage is None:
        return 0.0
    rate = CORE_RATE * cores(scale, machine) / (1 if machine.cpu_bf16 else FLOAT32)
    tokens = stage.solutions * stage.epochs * min(SUPERVISED_TOKENS, length(scale))
    return 6 * architecture(scale.policy).parameters * tokens / (GPU_RATE if scale.execution.gpus else rate)


def evaluation(scale: Scale, machine: Hardware, step_s: float) -> float:
    """Seconds of one checkpoint on all benchmarks at the longest responses: an order of magnitude."""
    job = Job(1, evaluation_tokens(scale), architecture(scale.policy).parameters)
    if not scale.execution.gpus:
        dtype = "bfloat16" if machine.cpu_bf16 else "float32"
        ways = [way for way in WAYS if (way.device, way.dtype) == ("cpu", dtype)]
        return min(way.seconds(job, cores(scale, machine)) for way in ways)
    # The rates of `evals.engines.choice` were set for small models; a large one samples at least as fast as it trains.
    rate = scale.completions * scale.max_completion / (step_s * scale.execution.all_gpus)
    ways = [way for way in WAYS if way.device == "cuda"]
    return min(60 + job.tokens / rate, *(way.seconds(job, machine.cores) for way in ways))


def cores(scale: Scale, machine: Hardware) -> int:
    """Cores that one process of the scale uses on this machine."""
    return min(machine.cores, scale.threads)


@cache
def measure_speed(slices: int = 15) -> float:
    """Speed of one core in arbitrary units (thousands a second): the geometric mean of its rates at small matrix
    products and at interpreted Python, the two halves of a tiny policy's training."""
    import numpy as np

    left, right = np.random.default_rng(0).standard_normal((2, 64, 64), dtype=np.float32)

    def multiply() -> None:
        for _ in range(20):
            left @ right

    def interpret() -> None:
        total = 0
        for number in range(500):
            total += number * number % 7

    # The best of short slices: another process's load for a moment does not count.
    best = [30 / min(timeit.repeat(work, number=30, repeat=slices)) for work in (multiply, interpret)]
    return math.prod(best) ** 0.5 / 1000
