"""A training in worker processes on one machine, one per GPU, started from the process that watches them.

Workers get the environment that `accelerate launch` and torchrun give (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), which accelerate reads. They are started here and not by those, because both end their workers 30 seconds
after a SIGTERM, and a rollout step of a 7B model takes minutes: here the workers finish it and write a checkpoint.
A training on several machines is verl's work (`verl_launch`).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dynclip.errors import UserError
from dynclip.files import write_json
from dynclip.recovery import OutOfMemory, WorkerDied
from dynclip.scales import Execution

FAILURE = "failure.json"  # in a training's state: what a worker says of its own end
PATIENCE_S = 20  # between the first worker's death and the end of the others, which wait for it


@dataclass(frozen=True)
class Job:
    """What a worker has to know. `words`: the overrides that make the study again; paths as they are."""

    words: str
    arm: str
    seed: int
    base: Path
    data: Path
    state: Path
    log: Path | None
    resume: Path | None
    done: int
    micro_batch: int | None


def processes_of(execution: Execution) -> int:
    """Processes of one training: one per GPU, or as many as asked for on a CPU."""
    return execution.processes or max(1, execution.gpus)


def in_workers(execution: Execution) -> bool:
    """Whether a training runs in processes of its own: GPUs, a sampling engine or several processes."""
    return processes_of(execution) > 1 or execution.gpus > 0 or execution.sampler == "vllm"


def run_workers(job: Job, execution: Execution, say=print) -> None:
    """Start the workers of `job`, wait for their end, passing on a SIGTERM by a file.

    Raises OutOfMemory, WorkerDied or UserError, by what the first worker to fail said or did.
    """
    from dynclip.gpus import take
    from dynclip.run import STOP_FILE

    total = processes_of(execution)
    (job.state / FAILURE).unlink(missing_ok=True)
    description = job.state / "job.json"
    write_json(description, {name: str(v) if isinstance(v, Path) else v for name, v in asdict(job).items()})
    with take(execution.gpus) as visible, passing_on(job.state / STOP_FILE, say):
        workers, port = [], str(free_port())
        for rank in range(total):
            environment = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(total),
                "LOCAL_WORLD_SIZE": str(total),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            if visible is not None:
                environment["CUDA_VISIBLE_DEVICES"] = visible
            command = [sys.executable, "-m", "dynclip.worker", str(description)]
            workers.append(subprocess.Popen(command, env=environment, start_new_session=True))
        failed = wait(workers)
    if failed is not None:
        raise reason(job.state / FAILURE, failed)


@contextmanager
def passing_on(stop: Path, say):
    """While this holds, a SIGTERM to this process becomes the file `stop`, which workers look for after each step."""

    def told(*_):
        if not stop.exists():
            say("told to stop: finishing this rollout step, then a checkpoint")
        stop.touch()

    try:
        before = signal.signal(signal.SIGTERM, told)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait(workers: list[subprocess.Popen]) -> int | None:
    """Wait for all; when one fails the others, which would wait for it for ever, are ended. Its status, or None."""
    failed = None
    try:
        while True:
            ended = [worker.poll() for worker in workers]
            # A worker that was killed has a negative status, and is the cause where its partners failed with it.
            failed = min((status for status in ended if status), default=None)
            if failed is not None or None not in ended:
                return failed
            time.sleep(0.2)
    finally:
        end = time.monotonic() + PATIENCE_S
        for worker in workers:
            try:
                # A worker that failed by itself takes its moment to say so; the others hang in a collective.
                worker.wait(timeout=max(0.0, end - time.monotonic()) if failed is not None else 0.0)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


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


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
