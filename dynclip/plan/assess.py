"""What would run on this machine: scale, runs, time, memory, disk. A study that cannot finish here is refused."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynclip.plan import cost, disk, memory
from dynclip.plan.disk import MIB, amount
from dynclip.plan.memory import is_large
from dynclip.plan.outputs import base_folder, base_places, base_seeds, is_world
from dynclip.runtime import hardware
from dynclip.runtime.checkpoints import MANIFEST
from dynclip.runtime.hardware import GIB
from dynclip.studies.scales import REHEARSAL, SCALES, SUITES, RunConfig, Scale

# GPU memory that a scale asks for: of one GPU, and of each of eight (80 GB cards report 79 to 80 GiB).
WORKSTATION_GIB, PAPER_GIB, PAPER_GPUS = 16, 79, 8
# Disk of a tiny policy's study, rounded up. RUN: one training with two checkpoints and its resumable state. EVALUATION:
# samples of one checkpoint. FIXED: base policies, data, figures, report, MLflow database.
RUN_MIB, EVALUATION_MIB, FIXED_MIB = 3, 1, 100
TINY_PROCESS_GIB = 1.5  # one job of tiny policies; a training through TRL was measured


@dataclass(frozen=True)
class Plan:
    """A study on this machine. `seconds` and `disk_needed` (bytes) count what is left to do.

    studies: the named ones that are planned, empty for the default study of methods × seeds.
    """

    config: RunConfig
    studies: tuple[str, ...]
    why: str  # this scale
    machine: hardware.Hardware
    runs: int
    runs_left: int
    evaluations: int  # checkpoints scored on all of the scale's benchmarks, the base policies among them
    evaluations_left: int
    at_once: int  # jobs side by side
    cost: cost.Cost
    seconds: dict[str, float]  # phase (base, train, evaluate, report) -> its time
    results: Path
    disk_needed: int
    disk_free: int
    refusal: str | None = None  # why it cannot finish here, in one line


def assess(config: RunConfig, results: Path = Path("results"), studies: Sequence[str] = (), remote=False) -> Plan:
    """The plan of a study, or of the named `studies` at its scale; starts and leaves nothing.

    remote: jobs run on other machines, so that this machine's size refuses nothing. The plan's `refusal` says what does
    not fit. Raises UserError for a results folder that cannot be written.
    """
    machine, scale = hardware.detect(), config.scale
    suitable, reason = choose_scale(machine)
    folder = Path(results) / config.name
    hardware.check_writable(folder)
    runs = [(method, seed) for method in config.methods for seed in config.seeds]
    evaluated = runs
    if studies:
        from dynclip.studies.arms import study_runs

        runs, evaluated = study_runs(config, studies)
    left = [run for run in runs if not is_finished(folder, *run, config.steps)]
    scored = [*base_places(config), *((*run, label) for run in evaluated for label in config.checkpoints)]
    scored_left = [place for place in scored if not is_scored(folder, *place, scale.benchmarks)]
    bases = sum(not (folder / base_folder(config, seed) / MANIFEST).exists() for seed in base_seeds(config))
    at_once, parts = jobs_at_once(scale, machine), cost.estimate(scale, machine, folder)
    jobs = by_method(left) if scale.trainer == "loop" else [1] * len(left)
    scoring = by_method(scored_left) if is_world(config) else [1] * len(scored_left)
    disk_needed = (RUN_MIB * len(left) + EVALUATION_MIB * len(scored_left) + FIXED_MIB) * MIB
    if is_large(scale):
        disk_needed = disk.written(scale, len(left), len(config.checkpoints), len(scored_left), at_once)
        disk_needed += sum(disk.downloads(scale).values())
    disk_free = hardware.disk_free(folder)
    return Plan(
        config=config,
        studies=tuple(studies),
        why=reason if config.name in SUITES.get(suitable, (suitable,)) else f"this machine suits {suitable}: {reason}",
        machine=machine,
        runs=len(runs),
        runs_left=len(left),
        evaluations=len(scored),
        evaluations_left=len(scored_left),
        at_once=at_once,
        cost=parts,
        seconds=cost.phase_seconds(parts, config.steps, bases, jobs, scoring, at_once),
        results=Path(results),
        disk_needed=disk_needed,
        disk_free=disk_free,
        refusal=refuse(scale, machine, folder, disk_needed, disk_free, remote),
    )


def refuse(
    scale: Scale, machine: hardware.Hardware, folder: Path, disk_needed: int, disk_free: int, remote: bool
) -> str | None:
    """Why the scale cannot finish here and what would, in one line; None if it can finish."""
    if scale.execution.nodes > 1 and not remote and "SLURM_JOB_ID" not in os.environ:
        return (
            f"nodes={scale.execution.nodes}: trainings on several machines are jobs of SLURM: add --workflow-profile "
            "profiles/slurm; or in verl: engine=verl"
        )
    reason = None
    if not remote and is_large(scale):
        reason = memory.fits(scale, machine)
    elif not remote and scale.execution.gpus > len(machine.gpus):
        reason = f"needs {scale.execution.gpus} GPU, this machine has {len(machine.gpus) or 'none'}"
    if reason:
        rehearsed = f"; or ask for {scale.name + REHEARSAL}" if scale.name + REHEARSAL in SCALES else ""
        return f"{scale.name}: {reason}; the largest scale that fits is {choose_scale(machine)[0]}{rehearsed}"
    if disk_free < disk_needed:
        return (
            f"{folder}: {amount(disk_free, disk_needed)} free on its disk, the study needs "
            f"{amount(disk_needed, disk_needed)}; free some or ask for fewer methods=, seeds="
        )
    return None


def choose_scale(machine: hardware.Hardware) -> tuple[str, str]:
    """(scale or suite, why): the largest study that the machine can finish in sensible time."""
    if not machine.gpus:
        return "laptop", "no GPU here"
    able = [gpu for gpu in machine.gpus if gpu.bf16]
    large = [gpu for gpu in able if gpu.memory_gib >= PAPER_GIB]
    if len(large) >= PAPER_GPUS:
        return "paper", f"{len(large)} x {large[0].name} with {min(gpu.memory_gib for gpu in large):.0f} GiB"
    largest = max(able or machine.gpus, key=lambda gpu: gpu.memory_gib)
    has = f"{largest.name} has {largest.memory_gib:.0f} GiB"
    if largest.memory_gib < WORKSTATION_GIB:
        return "laptop", f"{has}, workstation asks for {WORKSTATION_GIB}"
    if not able:
        return "laptop", f"{largest.name} has no bfloat16, which workstation computes in"
    return "workstation", f"{has}; paper asks for {PAPER_GPUS} GPUs with {PAPER_GIB}"


def is_finished(folder: Path, method: str, seed: int, steps: int) -> bool:
    """Whether the run's record under results/<scale> = `folder` says finished, at this number of steps."""
    try:
        record = json.loads((folder / "runs" / method / f"seed{seed}" / "run.json").read_text())
        return record["state"] == "finished" and record["steps"] == steps
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no record or an unreadable one: the workflow rebuilds it or reports it


def by_method(work: Sequence[tuple]) -> list[int]:
    """How many of (method, …) each method has: one job does them all."""
    return list(Counter(method for method, *_ in work).values())


def is_scored(folder: Path, method: str, seed: int, checkpoint: str, benchmarks: tuple[str, ...]) -> bool:
    """Whether the checkpoint has a score file for every benchmark."""
    place = folder / "scores" / method / f"seed{seed}" / checkpoint
    return all((place / f"{name}.json").exists() for name in benchmarks)


def jobs_at_once(scale: Scale, machine: hardware.Hardware) -> int:
    """Jobs side by side: limited by GPUs, or by cores and memory."""
    if scale.execution.gpus:
        return max(1, len(memory.usable_gpus(scale, machine)) // scale.execution.gpus)
    size = memory.needed(memory.as_computed(scale, machine)) / GIB if is_large(scale) else TINY_PROCESS_GIB
    return max(1, min(machine.cores // scale.threads, int(machine.memory_gib // size)))
