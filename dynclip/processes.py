"""A training in worker processes, one per GPU, started from the process that watches them.

Workers get the environment that `accelerate launch` and torchrun give (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), which accelerate reads. They are started here and not by those, because both end their workers 30 seconds
after a SIGTERM, and a rollout step of a 7B model takes minutes: here the workers finish it and write a checkpoint.
Those of several machines are started by `machines`, with `start` below on each.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dynclip.errors import UserError
from dynclip.files import write_json
from dynclip.recovery import OutOfMemory, WorkerDied
from dynclip.scales import Execution, Scale

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
    return execution.processes or execution.nodes * max(1, execution.gpus)


def processes_here(execution: Execution) -> int:
    """Those of one training on one of its machines."""
    return processes_of(execution) // execution.nodes


def sharding_of(execution: Execution) -> str:
    """How its processes share weights and moments; one alone has all of them."""
    return execution.sharding if processes_of(execution) > 1 else "none"


def micro_batches(scale: Scale, world: int, most: int | None) -> tuple[int, int]:
    """(completions in one forward pass of one process, passes per update): the largest that divides a mini-batch.

    Raises UserError where the processes cannot share a mini-batch evenly.
    """
    minibatch = scale.completions // scale.minibatches
    if minibatch % world:
        raise UserError(
            f"{minibatch} completions of a mini-batch cannot be shared by {world} processes; set minibatches= or the "
            "number of GPUs so that they can"
        )
    share = minibatch // world
    micro = max(size for size in range(1, min(most or share, share) + 1) if share % size == 0)
    return micro, share // micro


def in_workers(execution: Execution) -> bool:
    """Whether a training runs in processes of its own: GPUs, a sampling engine or several processes."""
    return processes_of(execution) > 1 or execution.gpus > 0 or execution.sampler == "vllm"


def run_workers(job: Job, scale: Scale, say=print) -> None:
    """Start the workers of `job`, wait for their end, passing on a SIGTERM by a file.

    Raises OutOfMemory, WorkerDied or UserError, by what the first worker to fail said or did.
    """
    from dynclip.machines import run_on_machines
    from dynclip.run import STOP_FILE

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


@dataclass(frozen=True)
class Share:
    """What one machine has of a training: `processes` and `gpus` of its own; it is number `machine` of `machines`."""

    processes: int
    gpus: int
    machine: int = 0
    machines: int = 1


def start(description: Path, share: Share, address: str, port: int, over=None) -> int | None:
    """Start this machine's workers of the job described in a file and `wait` for them, with GPUs taken by lock.

    They meet those of the other machines at `address`:`port`, of the first machine.
    """
    from dynclip.gpus import take

    with take(share.gpus) as visible:
        workers = []
        for local in range(share.processes):
            environment = os.environ | {
                "RANK": str(share.machine * share.processes + local),
                "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(share.machines * share.processes),
                "LOCAL_WORLD_SIZE": str(share.processes),
                "MASTER_ADDR": address,
                "MASTER_PORT": str(port),
            }
            if visible is not None:
                environment["CUDA_VISIBLE_DEVICES"] = visible
            command = [sys.executable, "-m", "dynclip.worker", str(description)]
            workers.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return wait(workers, over)


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


def wait(workers: list[subprocess.Popen], over: Callable[[], bool] | None = None) -> int | None:
    """Wait for all; when one fails the others, which would wait for it for ever, are ended. Its status, or None.

    `over`: whether a worker failed that is not among them, which ends them with status 1.
    """
    failed = None
    try:
        while True:
            ended = [worker.poll() for worker in workers]
            # A worker that was killed has a negative status, and is the cause where its partners failed with it.
            failed = min((status for status in ended if status), default=None)
            if failed is None and None in ended and over is not None and over():
                failed = 1
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


def free_port(address: str = "127.0.0.1") -> int:
    """A port of this machine that was free a moment ago at `address`."""
    with socket.socket() as found:
        found.bind((address, 0))
        return found.getsockname()[1]
