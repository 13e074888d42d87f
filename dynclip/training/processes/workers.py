"""A training in worker processes, one per GPU, started from the process that watches them.

Workers get the environment that `accelerate launch` and torchrun give (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), which accelerate reads. They are started here and not by those, because both end their workers 30 seconds
after a SIGTERM, and a rollout step of a 7B model takes minutes: here the workers finish it and write a checkpoint.
Those of several machines are started by `machines`, with `start` below on each.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.gpu_locks import take

FAILURE = "failure.json"  # in a training's state: what a worker says of its own end
PATIENCE_S = 20  # between the first worker's death and the end of the others, which wait for it


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
            command = [sys.executable, "-m", "dynclip.training.worker", str(description)]
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


def free_port(address: str = "127.0.0.1") -> int:
    """A port of this machine that was free a moment ago at `address`."""
    with socket.socket() as found:
        found.bind((address, 0))
        return found.getsockname()[1]


STOP_FILE = "stop"  # in a training's state: finish the rollout step, write a checkpoint, end
