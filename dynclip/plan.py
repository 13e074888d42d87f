"""What would run here: scale and why, runs, time, memory, disk; refuses to start what cannot finish.

A tiny policy's minutes come from seconds measured on one machine, stretched by how much slower this one is in half a
second of the same kind of work; a language model's from seconds per rollout step (`dynclip.calibration`). They are an
estimate, meant to tell ten minutes from two hours, or a day from a month.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynclip import disk, hardware, memory
from dynclip.calibration import REFERENCE, Calibration, Estimate, estimate, estimate_minutes, hub_minutes, measure_speed
from dynclip.disk import MIB
from dynclip.errors import UserError
from dynclip.hardware import GIB
from dynclip.scales import REHEARSAL, SCALES, HubPolicy, Scale, Study, resolve

__all__ = [
    "REFERENCE", "Calibration", "Plan", "choose_scale", "describe", "estimate_minutes", "is_finished", "is_scored",
    "jobs_at_once", "measure_speed", "plan", "plan_study", "print_plan",
]  # fmt: skip

# GPU memory from which a scale is meant: one GPU, and each of eight (cards of 80 GB report 79 to 80 GiB).
WORKSTATION_GIB, PAPER_GIB, PAPER_GPUS = 16, 79, 8
# Disk of a tiny policy's study, per training (two checkpoints, resumable state with optimizer moments), per evaluated
# checkpoint (samples), and once (base policy, data, figures, report, MLflow database): rounded up from a laptop study.
RUN_MIB, EVALUATION_MIB, FIXED_MIB = 12, 3, 100


@dataclass(frozen=True)
class Plan:
    """A study on this machine. `minutes` and `disk_needed` (bytes) count what is left to do.

    studies: the named ones that are planned, empty for the default study of methods × seeds.
    """

    study: Study
    studies: tuple[str, ...]
    why: str  # this scale
    machine: hardware.Hardware
    runs: int
    runs_left: int
    evaluations: int  # checkpoints scored on all of the scale's benchmarks, the base policy among them
    evaluations_left: int
    at_once: int  # jobs running side by side
    speed: float  # of this machine in units of the reference machine; 1 where nothing is stretched by it
    minutes: float
    results: Path
    disk_needed: int
    disk_free: int
    cost: Estimate | None = None  # of a language model's parts
    refusal: str | None = None  # why it cannot finish here, in one line


def plan(
    scale: str | None = None,
    methods=None,
    seeds=None,
    steps=None,
    results: Path = Path("results"),
    **overrides,
) -> Plan:
    """The plan for a user's overrides; None for `scale` takes the one that this machine can carry.

    Raises UserError for an unknown name, a results folder that cannot be written, a machine that the scale does not fit
    on, or a disk without enough room.
    """
    chosen = scale or choose_scale(hardware.detect())[0]
    return plan_study(resolve(chosen, methods, seeds, steps, **overrides), results)


def plan_study(study: Study, results: Path = Path("results"), studies: Sequence[str] = (), remote=False) -> Plan:
    """The plan of an already checked study, or of the named `studies` at its scale. Raises UserError as `plan` does;
    starts and leaves nothing. `remote`: its jobs run on other machines, so that this one's size refuses nothing."""
    made = assess(study, results, studies, remote)
    if made.refusal:
        raise UserError(made.refusal)
    return made


def assess(study: Study, results: Path = Path("results"), studies: Sequence[str] = (), remote=False) -> Plan:
    """As `plan_study`, but what does not fit is in the plan's `refusal`."""
    machine, scale = hardware.detect(), study.scale
    suitable, reason = choose_scale(machine)
    folder = Path(results) / study.name
    hardware.check_writable(folder)
    runs = [(method, seed) for method in study.methods for seed in study.seeds]
    evaluated = runs
    if studies:
        from dynclip.studies import study_runs  # brings torch with it

        runs, evaluated = study_runs(study, studies)
    left = sum(not is_finished(folder, *run, study.steps) for run in runs)
    scored = [("base", 0, "final"), *((*run, label) for run in evaluated for label in study.checkpoints)]
    scored_left = sum(not is_scored(folder, *place, scale.benchmarks) for place in scored)
    warm_start_left = not (folder / "base" / "model.json").exists()
    at_once, speed, cost = jobs_at_once(scale, machine), 1.0, None
    if is_large(scale):
        cost = estimate(scale, machine, folder)
        minutes = hub_minutes(cost, study.steps, warm_start_left, left, scored_left, at_once)
        disk_needed = disk.written(scale, left, len(study.checkpoints), scored_left, at_once)
        disk_needed += sum(disk.downloads(scale).values())
    else:
        speed = measure_speed() / REFERENCE.reference_score
        minutes = estimate_minutes(study.steps, warm_start_left, left, scored_left, at_once, speed)
        disk_needed = (RUN_MIB * left + EVALUATION_MIB * scored_left + FIXED_MIB) * MIB
    disk_free = hardware.disk_free(folder)
    return Plan(
        study=study,
        studies=tuple(studies),
        why=reason if study.name == suitable else f"asked for; this machine's own is {suitable}: {reason}",
        machine=machine,
        runs=len(runs),
        runs_left=left,
        evaluations=len(scored),
        evaluations_left=scored_left,
        at_once=at_once,
        speed=speed,
        minutes=minutes,
        results=Path(results),
        disk_needed=disk_needed,
        disk_free=disk_free,
        cost=cost,
        refusal=refuse(scale, machine, folder, disk_needed, disk_free, remote),
    )


def refuse(
    scale: Scale, machine: hardware.Hardware, folder: Path, disk_needed: int, disk_free: int, remote: bool
) -> str | None:
    """Why the scale cannot finish here, in one line that says what would; None if it can."""
    if scale.execution.nodes > 1 and not remote and "SLURM_JOB_ID" not in os.environ:
        return (
            f"nodes={scale.execution.nodes}: trainings on several machines are jobs of SLURM: add --workflow-profile "
            "profiles/slurm; or in verl: engine=verl"
        )
    reason = memory.fits(scale, machine) if is_large(scale) and not remote else None
    if reason:
        rehearsed = f"; or ask for {scale.name + REHEARSAL}" if scale.name + REHEARSAL in SCALES else ""
        return f"{scale.name}: {reason}; the largest scale that fits is {choose_scale(machine)[0]}{rehearsed}"
    if disk_free < disk_needed:
        return (
            f"{folder}: {amount(disk_free, disk_needed)} free on its disk, the study needs "
            f"{amount(disk_needed, disk_needed)}; free some or ask for fewer methods=, seeds="
        )
    return None


def is_large(scale: Scale) -> bool:
    """Whether the scale trains a language model of the hub, at its full width."""
    return isinstance(scale.policy, HubPolicy) and not scale.policy.random


def choose_scale(machine: hardware.Hardware) -> tuple[str, str]:
    """(scale, why) for a machine: the largest study that it can carry in sensible time."""
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
        return False  # no record or an unreadable one: the workflow will rebuild it or say what is wrong with it


def is_scored(folder: Path, method: str, seed: int, checkpoint: str, benchmarks: tuple[str, ...]) -> bool:
    """Whether the checkpoint has a score file for every benchmark."""
    place = folder / "scores" / method / f"seed{seed}" / checkpoint
    return all((place / f"{name}.json").exists() for name in benchmarks)


def jobs_at_once(scale: Scale, machine: hardware.Hardware) -> int:
    """Trainings that run side by side: each takes its GPUs, or the scale's threads and its memory."""
    if scale.execution.gpus:
        return max(1, len(memory.usable_gpus(scale, machine)) // scale.execution.gpus)
    each = memory.needed(memory.as_computed(scale, machine)) / GIB if is_large(scale) else 1.5
    return max(1, min(machine.cores // scale.threads, int(machine.memory_gib // each)))


def print_plan(study: Study, results: Path = Path("results"), studies: Sequence[str] = (), remote=False) -> Plan:
    """Print the plan of a study, or of the named ones, and return it. Raises UserError, after printing, for what cannot
    finish here; `remote` as in `plan_study`."""
    from rich.console import Console
    from rich.table import Table

    made = assess(study, results, studies, remote)
    table = Table(title="Plan", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in describe(made):
        table.add_row(name, value)
    # Not wrapped when piped: each fact stays on one line of a log.
    console = Console(stderr=False)
    console.print(table) if console.is_terminal else Console(width=400).print(table)
    if made.refusal:
        raise UserError(made.refusal)
    return made


def describe(made: Plan) -> list[tuple[str, str]]:
    """A plan as (name, text) lines."""
    study, machine = made.study, made.machine
    gpus = ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in machine.gpus) or "no GPU"
    trainings, evaluations = (
        f"{made.runs_left} of {made.runs}",
        f"{made.evaluations_left} of {made.evaluations}",
    )
    size = f"{len(study.methods)} methods x {len(study.seeds)} seeds"
    if made.studies:
        size = f"{len(made.studies)} studies, {made.runs} different runs"
    needed, free = amount(made.disk_needed, made.disk_needed), amount(made.disk_free, made.disk_needed)
    return [
        ("scale", f"{study.name}: {study.scale.title} ({made.why})"),
        (
            "machine",
            f"{machine.cores} of {machine.cores_present} cores, {machine.memory_gib:.1f} GiB, {gpus}",
        ),
        ("studies", " ".join(made.studies)) if made.studies else ("methods", " ".join(study.methods)),
        ("seeds", " ".join(map(str, study.seeds))),
        ("runs", f"{size}, {trainings} trainings left"),
        ("steps", f"{study.steps} rollout batches a run, {study.scale.updates_per_rollout} updates on each"),
        (
            "evaluated",
            f"{', '.join(study.checkpoints)} on {', '.join(study.scale.benchmarks)}, {evaluations} left",
        ),
        *(describe_memory(made) + describe_cost(made, made.cost) if made.cost else [("minutes", duration(made))]),
        ("disk", f"{needed} needed, {free} free; {made.results} is writable"),
        *describe_downloads(study.scale),
    ]


def duration(made: Plan) -> str:
    """The minutes that are left, in words; a language model's many in hours."""
    if made.cost and made.minutes >= 120:
        number = f"{made.minutes / 60:.0f} hours"
    else:
        number = f"{made.minutes:.0f}" if made.minutes >= 1 else "less than 1" if made.minutes else "0: nothing is left"
        number += " minutes" if made.cost and made.minutes else ""
    speed = "" if made.cost else f", speed {made.speed:.1f} of the reference machine's"
    return f"about {number} ({made.at_once} at once{speed})"


def describe_memory(made: Plan) -> list[tuple[str, str]]:
    """What each phase holds, part by part with its source, and what that asks of a GPU or of the machine."""
    scale, machine = memory.as_computed(made.study.scale, made.machine), made.machine
    gpus, micro = scale.execution.gpus, memory.micro_batch(scale)
    lines = []
    for phase in memory.phases(scale):
        lines.append((f"{phase.name} memory", f"{phase.size / GIB:.1f} GiB {'a GPU' if gpus else 'a process'}"))
        lines += [("", f"{item.size / GIB:6.2f}  {item.name}: {item.source}") for item in phase.items if item.size]
    least, own = (math.ceil(memory.needed(scale, size) / GIB) for size in (1, micro))
    share = f" (vLLM may take {scale.execution.gpu_share:g} of each)" if scale.execution.sampler == "vllm" else ""
    asks = f"{gpus} GPU{'s' if gpus > 1 else ''} of {own} GiB{share}" if gpus else f"{own} GiB of memory"
    asks += f" on each of {scale.execution.nodes} machines" if scale.execution.nodes > 1 else ""
    usable = memory.usable_gpus(scale, machine)[:gpus] if gpus else []
    room = min(gpu.memory_gib for gpu in usable) if len(usable) == gpus and gpus else machine.memory_gib
    fits = memory.largest_micro_batch(scale, room * GIB) if usable or not gpus else 0
    here = f", {fits} fit here" if fits else ""
    passes = f"{micro} completions of {memory.length(scale)} tokens a pass{here}"
    return [*lines, ("asks for", f"{asks} at {passes}; {least} GiB at 1")]


def describe_cost(made: Plan, cost: Estimate) -> list[tuple[str, str]]:
    """Tokens, hours and GPU hours of what is left, each with its basis."""
    study, scale, gpus = made.study, made.study.scale, made.study.scale.execution.all_gpus
    run_tokens = study.steps * scale.completions * scale.max_completion
    trained = (
        f"training up to {count(made.runs_left * run_tokens)} = {made.runs_left} runs x {study.steps} steps x "
        f"{scale.completions} completions x {scale.max_completion}"
    )
    samples, tokens = sum(disk.evaluation_samples(scale).values()), disk.evaluation_tokens(scale)
    scored = (
        f"evaluation up to {count(made.evaluations_left * tokens)} = {made.evaluations_left} checkpoints x "
        f"{samples} samples x {tokens // samples}"
    )
    run_hours = study.steps * cost.step_s / 3600
    run = f"{run_hours:.1f} hours" if run_hours >= 2 else f"{60 * run_hours:.0f} minutes"
    hours, evaluation_hours = made.runs_left * run_hours, made.evaluations_left * cost.evaluation_s / 3600
    step = f"{cost.step_s:.1f} s a step: {cost.basis}"
    scoring = f"{cost.evaluation_s / 60:.1f} minutes a checkpoint: {cost.evaluation_basis}"
    lines = [
        ("tokens", trained),
        ("", scored),
        ("training", f"{run} a run, {step}"),
        ("evaluation", scoring),
    ]
    if scale.policy.supervised:
        lines.append(("warm start", f"about {cost.warm_start_s:.0f} s, from its operations at an assumed rate"))
    lines.append(("time", duration(made)))
    if gpus:
        product = f"{hours:.0f} hours x {gpus} GPU{'s' if gpus > 1 else ''} = {hours * gpus:.0f} of training"
        lines.append(("GPU hours", f"about {product}, {evaluation_hours:.0f} of evaluation"))
    return lines


def describe_downloads(scale: Scale) -> list[tuple[str, str]]:
    """What has still to come from the hub; no line where nothing ever does."""
    missing = disk.downloads(scale)
    named = [f"{name} {amount(size, size)}" for name, size in missing.items() if size > disk.SMALL_DATA]
    small = sum(size <= disk.SMALL_DATA for size in missing.values())
    named += [f"{small} data sets of a few MB"] if small else []
    return [("download", ", ".join(named))] if named else []


def amount(size: float, scale: float) -> str:
    """Bytes in MiB, or in GiB where `scale` is large."""
    return f"{size / GIB:.0f} GiB" if scale >= 10 * GIB else f"{size / MIB:.0f} MiB"


def count(number: float) -> str:
    """A number of tokens, in millions or billions where it is large."""
    if number < 1e6:
        return f"{number:,.0f}"
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"
