"""The plan in words, one labelled line at a time."""

import math
from collections.abc import Sequence
from pathlib import Path

from dynclip.plan import disk, memory
from dynclip.plan.assess import Plan, assess
from dynclip.plan.calibration import (
    Estimate,
)
from dynclip.plan.disk import amount
from dynclip.runtime.errors import UserError
from dynclip.runtime.hardware import GIB
from dynclip.studies.scales import Scale, Study


def print_plan(study: Study, results: Path = Path("results"), studies: Sequence[str] = (), remote=False) -> Plan:
    """Print the plan of a study, or of the named ones, and return it. Raises UserError, after printing, for what cannot
    finish here; `remote` as in `assess`."""
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


def count(number: float) -> str:
    """A number of tokens, in millions or billions where it is large."""
    if number < 1e6:
        return f"{number:,.0f}"
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"
