"""What would run here: scale and why, runs, minutes, disk; refuses to start what cannot finish.

Minutes come from seconds measured on one machine (`REFERENCE`), stretched by how much slower this one is in
half a second of the same kind of work. They are an estimate, meant to tell ten minutes from two hours.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynclip import hardware
from dynclip.errors import UserError
from dynclip.scales import Scale, Study, resolve

MIB = 2**20
WORKSTATION_GIB = 16  # GPU memory from which the workstation scale is meant


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
# Disk per training (two checkpoints, resumable state with optimizer moments), per evaluated checkpoint
# (samples), and once (base policy, data, figures, report, MLflow database): rounded up from a laptop study.
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
    speed: float  # of this machine in units of the reference machine
    minutes: float
    results: Path
    disk_needed: int
    disk_free: int


def plan(
    scale: str | None = None,
    methods=None,
    seeds=None,
    steps=None,
    results: Path = Path("results"),
    **overrides,
) -> Plan:
    """The plan for a user's overrides; None for `scale` takes the one that this machine can carry.

    Raises UserError for an unknown name, a results folder that cannot be written, or a disk without enough
    room.
    """
    chosen = scale or choose_scale(hardware.detect())[0]
    return plan_study(resolve(chosen, methods, seeds, steps, **overrides), results)


def plan_study(study: Study, results: Path = Path("results"), studies: Sequence[str] = ()) -> Plan:
    """The plan of an already checked study, or of the named `studies` at its scale. Raises UserError as `plan` does;
    starts and leaves nothing."""
    machine = hardware.detect()
    suitable, reason = choose_scale(machine)
    folder = Path(results) / study.name
    hardware.check_writable(folder)
    runs = [(method, seed) for method in study.methods for seed in study.seeds]
    evaluated = runs
    if studies:
        from dynclip.studies import study_runs  # brings torch with it

        runs, evaluated = study_runs(study, studies)
    runs_left = [run for run in runs if not is_finished(folder, *run, study.steps)]
    scored = [("base", 0, "final"), *((*run, label) for run in evaluated for label in study.checkpoints)]
    scored_left = [place for place in scored if not is_scored(folder, *place, study.scale.benchmarks)]
    disk_needed = (RUN_MIB * len(runs_left) + EVALUATION_MIB * len(scored_left) + FIXED_MIB) * MIB
    disk_free = hardware.disk_free(folder)
    if disk_free < disk_needed:
        raise UserError(
            f"{folder}: {disk_free / MIB:.0f} MiB free on its disk, the study needs "
            f"{disk_needed / MIB:.0f} MiB; free some or ask for fewer methods=, seeds="
        )
    at_once = jobs_at_once(study.scale, machine)
    speed = measure_speed() / REFERENCE.reference_score
    warm_start_left = not (folder / "base" / "model.json").exists()
    minutes = estimate_minutes(study.steps, warm_start_left, len(runs_left), len(scored_left), at_once, speed)
    return Plan(
        study=study,
        studies=tuple(studies),
        why=reason if study.name == suitable else f"asked for; this machine's own is {suitable}: {reason}",
        machine=machine,
        runs=len(runs),
        runs_left=len(runs_left),
        evaluations=len(scored),
        evaluations_left=len(scored_left),
        at_once=at_once,
        speed=speed,
        minutes=minutes,
        results=Path(results),
        disk_needed=disk_needed,
        disk_free=disk_free,
    )


def choose_scale(machine: hardware.Hardware) -> tuple[str, str]:
    """(scale, why) for a machine: the largest built one that it can carry."""
    if not machine.gpus:
        return "laptop", "no GPU here"
    largest = max(machine.gpus, key=lambda gpu: gpu.memory_gib)
    if largest.memory_gib < WORKSTATION_GIB:
        return (
            "laptop",
            f"{largest.name} has {largest.memory_gib:.0f} GiB, workstation asks for {WORKSTATION_GIB}",
        )
    return "laptop", f"{largest.name} could carry workstation, which is not built yet in this version"


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
    """Trainings that run side by side: each takes the scale's threads and about 1.5 GiB."""
    return max(1, min(machine.cores // scale.threads, int(machine.memory_gib // 1.5)))


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


def print_plan(study: Study, results: Path = Path("results"), studies: Sequence[str] = ()) -> Plan:
    """Print the plan of a study, or of the named ones, and return it. Raises UserError for what cannot finish."""
    from rich.console import Console
    from rich.table import Table

    made = plan_study(study, results, studies)
    table = Table(title="Plan", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in describe(made):
        table.add_row(name, value)
    # Not wrapped when piped: each fact stays on one line of a log.
    console = Console(stderr=False)
    console.print(table) if console.is_terminal else Console(width=200).print(table)
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
    duration = f"{made.minutes:.0f}" if made.minutes >= 1 else "less than 1" if made.minutes else "0: nothing is left"
    needed, free = f"{made.disk_needed / MIB:.0f} MiB", f"{made.disk_free / MIB:.0f} MiB"
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
        (
            "minutes",
            f"about {duration} ({made.at_once} at once, speed {made.speed:.1f} of the reference machine's)",
        ),
        ("disk", f"{needed} needed, {free} free; {made.results} is writable"),
    ]
