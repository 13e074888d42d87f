"""Start the worker processes of one training, and turn the failure of one into an exception."""

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.studies.execution import processes_of
from dynclip.studies.scales import Scale
from dynclip.training.processes.machines import run_on_machines
from dynclip.training.processes.recovery import OutOfMemory, WorkerDied
from dynclip.training.processes.workers import FAILURE, STOP_FILE, Share, free_port, passing_on, start


@dataclass(frozen=True)
class Job:
    """What a worker has to know. `given`: the arguments of `resolve` that make the study again."""

    given: dict
    arm: str
    seed: int
    base: Path
    data: Path
    state: Path
    log: Path | None
    resume: Path | None
    done: int
    micro_batch: int | None


def run_workers(job: Job, scale: Scale, say=print) -> None:
    """Start the workers of `job`, wait for their end, passing on a SIGTERM by a file.

    Raises OutOfMemory, WorkerDied or UserError, by what the first worker to fail said or did.
    """
    execution = scale.execution
    (job.state / FAILURE).unlink(missing_ok=True)
    description = job.state / "job.json"
    write_json(description, {name: str(v) if isinstance(v, Path) else v for name, v in asdict(job).items()})
    with passing_on(job.state / STOP_FILE, say):
        if execution.nodes > 1:
            failed = run_on_machines(description, execution, scale.threads)
        else:
            failed = start(description, Share(processes_of(execution), execution.gpus), "127.0.0.1", free_port())
    if failed is not None:
        raise reason(job.state / FAILURE, failed)


def reason(failure: Path, status: int) -> Exception:
    """The exception for a failed worker: what it wrote, else what its exit status says."""
    try:
        said = json.loads(failure.read_text())
    except (OSError, ValueError):
        said = None
    if status < 0 and not (said and said["kind"] == "out of memory"):
        return WorkerDied(f"a worker was ended by {signal.Signals(-status).name}")
    if said is None:
        return UserError(f"a worker ended with status {status}; its messages are above and in the log")
    kinds = {"out of memory": OutOfMemory, "engine died": WorkerDied}
    return kinds.get(said["kind"], UserError)(said["message"])
