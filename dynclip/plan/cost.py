"""Estimated time of a study's parts on this machine, in seconds.

A tiny policy's times were measured on a reference machine and are divided by this machine's relative speed. A language
model's step is the median of finished runs of the same scale, or is scaled from the paper's hours (GPU), or is computed
from assumed rates (CPU). Expect a factor of two either way.
"""

import json
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from dynclip.plan.disk import evaluation_tokens
from dynclip.plan.memory import architecture, is_large, length
from dynclip.runtime.hardware import Hardware
from dynclip.studies.architectures import QWEN25_7B
from dynclip.studies.scales import Scale
from evals.sampling.choice import WAYS, Job


@dataclass(frozen=True)
class Cost:
    """Seconds of a study's parts, and the source of the step's.

    base_s: the base policy. start_s: one training up to its first step. step_s: one rollout step with its updates, mean
    over methods. evaluation_s: one checkpoint on all benchmarks. report_s: data, tables, figures, report, MLflow.
    """

    base_s: float
    start_s: float
    step_s: float
    evaluation_s: float
    report_s: float
    source: str


# Laptop scale, one torch thread, 2 cores of an AMD EPYC (Zen 5) virtual machine: results/reference/laptop-2core.
# REFERENCE_SPEED is what `measure_speed()` gives there.
REFERENCE = Cost(base_s=119.0, start_s=8.2, step_s=0.77, evaluation_s=11.9, report_s=33.0, source="laptop study")
REFERENCE_SPEED = 22.5
# arXiv 2602.09782: longest completion in tokens -> seconds of a GRPO step. 400 steps took 17 h 24 min and 27 h 18 min,
# with 4096 completions a step of a model of 7.6 B parameters on 8 H100.
PAPER_STEP_S = {3072: 62_640 / 400, 7168: 98_280 / 400}
PAPER_COMPLETIONS, PAPER_GPUS = 4096, 8
# Operations a second in matrix products, assumed: one core with bfloat16 instructions (half of it without), one GPU.
CORE_RATE, GPU_RATE = 150e9, 100e12
SUPERVISED_TOKENS = 250  # of a problem with its worked solution, about GSM8K's in any tokenizer
REPORT_S = 60.0  # tables, figures, report, MLflow of a language model's study


def estimate(scale: Scale, machine: Hardware, folder: Path) -> Cost:
    """The cost of a scale's parts; `folder` is results/<scale>, where finished runs are looked for.

    Completions are counted at their longest. A GPU scale's times are those of the GPUs that it asks for.
    """
    if not is_large(scale):
        speed = measure_speed() / REFERENCE_SPEED
        seconds = {name: value / speed for name, value in vars(REFERENCE).items() if name != "source"}
        return replace(REFERENCE, **seconds, source=f"laptop study on a machine {speed:.1f} as fast as the reference")
    if measured := finished_steps(folder):
        step_s, source = statistics.median(measured), f"median of {len(measured)} finished steps"
    elif scale.execution.gpus:
        step_s, source = scaled_step(scale)
    else:
        step_s, source = computed_step(scale, machine), "assumed rate of a core"
    return Cost(supervised(scale, machine), 0.0, step_s, evaluation(scale, machine, step_s), REPORT_S, source)


def phase_seconds(cost: Cost, steps: int, base: bool, runs: int, evaluations: int, at_once: int) -> dict[str, float]:
    """Seconds of the phases base, train, evaluate and report for what is left, with `at_once` jobs side by side.

    The last jobs leave cores idle: whole rounds count. All are 0 when nothing is left.
    """
    return {
        "base": cost.base_s * base,
        "train": -(-runs // at_once) * (cost.start_s + steps * cost.step_s),
        "evaluate": -(-evaluations // at_once) * cost.evaluation_s,
        "report": cost.report_s * bool(base or runs or evaluations),
    }


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


def scaled_step(scale: Scale) -> tuple[float, str]:
    """(seconds, source) of a step on GPUs: the paper's, times parameters, completions and their length, divided among
    the GPUs."""
    gpus = max(1, scale.execution.all_gpus)
    nearest = min(PAPER_STEP_S, key=lambda tokens: abs(math.log(tokens / scale.max_completion)))
    share = architecture(scale.policy).parameters / QWEN25_7B.parameters
    tokens = scale.completions * scale.max_completion
    factor = share * tokens / (PAPER_COMPLETIONS * nearest) * PAPER_GPUS / gpus
    seconds = PAPER_STEP_S[nearest] * factor
    if share < 0.5:  # a small model is bound by overhead: no GPU processes more tokens than the sampling rate's ceiling
        ceiling = max(way.ceiling for way in WAYS if way.device == "cuda")
        seconds = max(seconds, tokens * (1 + scale.epochs) / (ceiling * gpus))
    return seconds, "the paper's time" if abs(factor - 1) < 0.01 else "scaled from the paper's time"


def computed_step(scale: Scale, machine: Hardware) -> float:
    """Seconds of a step on a CPU: sampling at the rates of `evals.sampling.choice`, training by its operations."""
    weights, tokens = architecture(scale.policy).parameters, scale.completions * length(scale)
    # Operations per token and weight: 2 to score, 6 per epoch to train (8 when layers are computed again).
    operations = weights * tokens * (2 + scale.epochs * (8 if scale.execution.checkpointing else 6))
    # Inside a training vLLM does not compile, and its start is not part of a step.
    engine = "vllm" if scale.execution.sampler == "vllm" else "transformers"
    ways = [way for way in cpu_ways(machine) if way.engine == engine and not way.compiled]
    job, cores = Job(scale.completions, scale.max_completion, weights), min(machine.cores, scale.threads)
    return min(way.seconds(job, cores) - way.start for way in ways) + operations / cpu_rate(scale, machine)


def supervised(scale: Scale, machine: Hardware) -> float:
    """Seconds of the supervised stage before RL, from its operations; 0 where the scale has none."""
    stage = scale.policy.supervised
    if stage is None:
        return 0.0
    rate = GPU_RATE if scale.execution.gpus else cpu_rate(scale, machine)
    tokens = stage.solutions * stage.epochs * min(SUPERVISED_TOKENS, length(scale))
    return 6 * architecture(scale.policy).parameters * tokens / rate


def evaluation(scale: Scale, machine: Hardware, step_s: float) -> float:
    """Seconds of one checkpoint on all benchmarks at the longest responses: an order of magnitude."""
    job = Job(1, evaluation_tokens(scale), architecture(scale.policy).parameters)
    if not scale.execution.gpus:
        return min(way.seconds(job, min(machine.cores, scale.threads)) for way in cpu_ways(machine))
    # The rates of `evals.sampling.choice` were set for small models; a large one samples at least as fast as it trains.
    rate = scale.completions * scale.max_completion / (step_s * scale.execution.all_gpus)
    ways = [way for way in WAYS if way.device == "cuda"]
    return min(60 + job.tokens / rate, *(way.seconds(job, machine.cores) for way in ways))


def cpu_ways(machine: Hardware) -> list:
    """The ways of `evals.sampling.choice` to sample on this CPU."""
    dtype = "bfloat16" if machine.cpu_bf16 else "float32"
    return [way for way in WAYS if (way.device, way.dtype) == ("cpu", dtype)]


def cpu_rate(scale: Scale, machine: Hardware) -> float:
    """Operations a second of a training on this CPU."""
    return (CORE_RATE if machine.cpu_bf16 else CORE_RATE / 2) * min(machine.cores, scale.threads)


def measure_speed(budget_s: float = 0.5) -> float:
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

    def rate(work) -> float:
        # The best of short slices: another process's load for a moment does not count.
        best, end = 0.0, time.perf_counter() + budget_s / 2
        while (start := time.perf_counter()) < end:
            calls = 0
            while (spent := time.perf_counter() - start) < budget_s / 20:
                work()
                calls += 1
            best = max(best, calls / spent)
        return best / 1000

    return (rate(multiply) * rate(interpret)) ** 0.5
