"""The plan as text: one labelled line per fact."""

import math
from collections.abc import Sequence
from pathlib import Path

from dynclip.plan import disk, memory
from dynclip.plan.assess import Plan, assess
from dynclip.plan.disk import amount
from dynclip.runtime.errors import UserError
from dynclip.runtime.hardware import GIB
from dynclip.studies.scales import RunConfig, Scale


def print_plan(
    configs: Sequence[RunConfig], results: Path = Path("results"), studies: Sequence[str] = (), remote: bool = False
) -> list[Plan]:
    """Print a plan of each of several scales, or of the named studies at it, and the time of all. Return the plans.

    remote: as in `assess`. Raises UserError, after printing, for a study that cannot finish here.
    """
    plans = [assess(config, results, studies, remote) for config in configs]
    for made in plans:
        print_table("Plan" if len(plans) == 1 else f"Plan of {made.config.name}", describe(made))
    if len(plans) > 1:
        print_table("All scales", [together(plans)])
    for made in plans:
        if made.refusal:
            raise UserError(made.refusal)
    # Each of several scales fits the disk alone: do all of them?
    needed, free = sum(made.disk_needed for made in plans), min(made.disk_free for made in plans)
    if free < needed:
        raise UserError(f"{results}: {amount(free, needed)} free on its disk, all scales need {amount(needed, needed)}")
    return plans


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print (name, text) rows below a title."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    # Not wrapped when piped: each fact stays on one line of a log.
    console = Console(stderr=False)
    console.print(table) if console.is_terminal else Console(width=400).print(table)


def together(plans: Sequence[Plan]) -> tuple[str, str]:
    """The time of several scales, one after another."""
    seconds = sum(sum(made.seconds.values()) for made in plans)
    return "time", f"about {duration(seconds)}; expect a factor of two either way" if seconds else "nothing is left"


def describe(made: Plan) -> list[tuple[str, str]]:
    """A plan as (name, text) lines."""
    config, scale, machine = made.config, made.config.scale, made.machine
    gpus = ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in machine.gpus) or "no GPU"
    size = f"{len(config.methods)} methods x {len(config.seeds)} seeds"
    if made.studies:
        size = f"{len(made.studies)} studies, {made.runs} different runs"
    tested = f"{', '.join(config.checkpoints)} on {', '.join(scale.benchmarks)}"
    needed, free = amount(made.disk_needed, made.disk_needed), amount(made.disk_free, made.disk_needed)
    missing = downloads(scale)
    return [
        ("scale", f"{config.name}: {scale.title} ({made.why})"),
        ("machine", f"{machine.cores} of {machine.cores_present} cores, {machine.memory_gib:.1f} GiB, {gpus}"),
        ("studies", " ".join(made.studies)) if made.studies else ("methods", " ".join(config.methods)),
        ("seeds", " ".join(map(str, config.seeds))),
        ("runs", f"{size}, {made.runs_left} of {made.runs} trainings left"),
        ("steps", f"{config.steps} rollout batches a run, {scale.updates_per_rollout} updates on each"),
        ("evaluated", f"{tested}, {made.evaluations_left} of {made.evaluations} left"),
        *([("memory", describe_memory(made))] if memory.is_large(scale) else []),
        *describe_time(made),
        ("disk", f"{needed} needed, {free} free; {made.results} is writable"),
        *([("download", missing)] if missing else []),
    ]


def describe_memory(made: Plan) -> str:
    """What a training asks of the GPUs or of the machine, and the size of its two phases."""
    scale = memory.as_computed(made.config.scale, made.machine)
    execution, micro = scale.execution, memory.micro_batch(scale)
    least, own = (math.ceil(memory.needed(scale, size) / GIB) for size in (1, micro))
    count = execution.gpus
    asked = f"{count} GPU{'s' if count > 1 else ''} of {own} GiB" if count else f"{own} GiB"
    asked += f" on each of {execution.nodes} machines" if execution.nodes > 1 else ""
    each = ", ".join(f"{name} {size / GIB:.1f} GiB" for name, size in memory.phases(scale).items())
    share = f", vLLM may take {execution.gpu_share:g} of it" if count and execution.sampler == "vllm" else ""
    passes = f"with {micro} completions of {memory.length(scale)} tokens a pass"
    return f"{asked} {passes}, {least} with 1 ({each} on each {'GPU' if count else 'process'}{share})"


def describe_time(made: Plan) -> list[tuple[str, str]]:
    """The time of each phase that is left, with its reason, and of all together."""
    scale, parts, gpus = made.config.scale, made.cost, made.config.scale.execution.all_gpus
    if not any(made.seconds.values()):
        return [("time", "nothing is left")]
    train = f"{made.runs_left} runs x {made.config.steps} steps x {short(parts.step_s)}, {parts.source}"
    if gpus:
        hours = made.runs_left * made.config.steps * parts.step_s / 3600 * gpus
        train += f"; {hours:.0f} GPU hours"
    reasons = {
        "base": "supervised stage" if memory.is_large(scale) else "warm start",
        "train": train,
        "evaluate": f"{made.evaluations_left} checkpoints x {short(parts.evaluation_s)}",
        "report": "tables, figures, report, MLflow",
    }
    lines = [(name, f"{duration(seconds)} ({reasons[name]})") for name, seconds in made.seconds.items() if seconds]
    together = f"{made.at_once} jobs at once" if made.at_once > 1 else "one job at a time"
    total = f"about {duration(sum(made.seconds.values()))}, {together}"
    return [*lines, ("time", f"{total}; expect a factor of two either way")]


def short(seconds: float) -> str:
    """Seconds of one part: two digits below 1 s."""
    return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 600 else duration(seconds)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits their size."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def downloads(scale: Scale) -> str:
    """What has still to come from the hub; empty where nothing has."""
    missing = disk.downloads(scale)
    named = [f"{name} {amount(size, size)}" for name, size in missing.items() if size > disk.SMALL_DATA]
    small = sum(size <= disk.SMALL_DATA for size in missing.values())
    return ", ".join(named + ([f"{small} data sets of a few MB"] if small else []))
