"""Run the workers of one training under torchrun: one torchrun on each machine, one worker per process of the scale.

The training's own process locks, recovers and publishes. It starts this module as a program on each machine, on several
machines through srun. The program locks the machine's GPUs and runs torchrun there. The torchruns of several machines
find each other by c10d rendezvous, which listens on all interfaces. On one machine they listen on loopback alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.runtime.locks import take
from dynclip.studies.execution import processes_here
from dynclip.studies.scales import Execution, Scale
from dynclip.training.processes.recovery import FAILURE, STOP_FILE, OutOfMemory, WorkerDied, first_line

RENDEZVOUS_TIMEOUT_S = 300  # until the torchruns of all machines have started
RENDEZVOUS_PORT = 29400  # torchrun's default; the job's number is added, so that two jobs on a machine differ
SHUTDOWN_GRACE_S = 20  # between the interruption of a worker and SIGKILL
KEPT_SLURM_VARIABLES = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME")


@dataclass(frozen=True)
class Job:
    """What a worker has to know, passed in a JSON file. `given`: the arguments of `resolve` that make its study."""

    given: dict
    arm: str
    seed: int
    base: Path
    data: Path
    state: Path
    log_file: Path | None
    resume: Path | None
    done: int
    micro_batch: int | None


def run_workers(job: Job, scale: Scale, log=print) -> None:
    """Run the workers of `job` to their end. A SIGTERM to this process makes them stop after the rollout step.

    Raises OutOfMemory, WorkerDied or UserError, by the message of the worker that failed.
    """
    (job.state / FAILURE).unlink(missing_ok=True)
    job_file = job.state / "job.json"
    write_json(job_file, {name: str(v) if isinstance(v, Path) else v for name, v in asdict(job).items()})
    command = launch_command(job_file, scale.execution, scale.threads)
    with stop_file_on_sigterm(job.state / STOP_FILE, log):
        status = run_command(command, scale)
    if status:
        raise failure_of(job.state / FAILURE, status)


def launch_command(job_file: Path, execution: Execution, threads: int) -> list[str]:
    """The command that runs `main` below on every machine; `threads` of each worker.

    Raises UserError for several machines outside a SLURM job.
    """
    nodes, workers, gpus = execution.nodes, processes_here(execution), execution.gpus
    endpoint, srun = "localhost:0", []
    if nodes > 1:
        endpoint = rendezvous_endpoint(nodes)
        srun = [
            "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap",
            f"--cpus-per-task={workers * threads}",
            *([f"--gpus-per-node={gpus}"] if gpus else []),
            "--kill-on-bad-exit=1",  # the other machines' workers may wait for a failed one in a collective operation
            "--quit-on-interrupt",
        ]  # fmt: skip
    program = [sys.executable, "-m", "dynclip.training.processes.launch"]
    return [*srun, *program, str(job_file), endpoint, *map(str, (nodes, workers, gpus, time.time_ns()))]


def rendezvous_endpoint(nodes: int) -> str:
    """host:port on the first machine of this SLURM job. Raises UserError outside a job, or without SLURM's commands."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise UserError(
            f"nodes={nodes}: a training on several machines runs in a SLURM job of as many nodes "
            "(snakemake --workflow-profile profiles/slurm, or this command in salloc or sbatch)"
        )
    command = ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]
    try:
        hosts = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"nodes={nodes}: SLURM's command scontrol fails on this node: {first_line(error)}") from None
    return f"{hosts[0]}:{RENDEZVOUS_PORT + int(job) % 1000}"


def run_command(command: list[str], scale: Scale) -> int:
    """Run the command of `launch_command`; its exit status. An exception in this process ends all workers."""
    environment = {"OMP_NUM_THREADS": str(scale.threads)} | os.environ  # unset, torchrun sets 1 with a warning
    if scale.execution.nodes > 1:  # srun would read what the whole job asked for as options of this step
        for name in [*environment]:
            if name.startswith(("SLURM_", "SRUN_", "SBATCH_")) and name not in KEPT_SLURM_VARIABLES:
                del environment[name]
    # In a session of its own, so that Ctrl-C in a terminal reaches this process alone.
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(2 * SHUTDOWN_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def stop_file_on_sigterm(stop: Path, log: Callable[[str], None], unless: Path | None = None) -> Iterator[None]:
    """While this holds, a SIGTERM to this process creates the file `stop`, which workers look for after each rollout
    step, unless the file `unless` exists."""

    def create(*_):
        if unless and unless.exists():
            return
        if not stop.exists():
            log("SIGTERM: finishing this rollout step, then writing a checkpoint")
        stop.touch()

    try:
        before = signal.signal(signal.SIGTERM, create)
    except ValueError:  # only a main thread receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def failure_of(failure: Path, status: int) -> Exception:
    """The exception for failed workers: by the message that one left in the file `failure`, else by the exit status."""
    try:
        report = json.loads(failure.read_text())
    except (OSError, ValueError):  # a worker that is killed writes none
        number = status - 128 if status > 128 else -status
        name = next((each.name for each in signal.Signals if each == number), None)
        return WorkerDied(f"a worker was ended by {name}" if name else f"a worker ended with status {status}")
    kinds = {"out of memory": OutOfMemory, "engine died": WorkerDied}
    return kinds.get(report["kind"], UserError)(report["message"])


def main(job_file: str, endpoint: str, nodes: str, workers: str, gpus: str, run_id: str) -> int:
    """Run this machine's workers of a job; 0, 1, or 128 + the number of the signal that ended a worker."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousTimeoutError, rendezvous_handler_registry

    stop, failure = (Path(job_file).parent / name for name in (STOP_FILE, FAILURE))
    alone = int(nodes) == 1
    if alone:
        rendezvous_handler_registry.register("loopback", loopback_rendezvous)
        interface = "lo" if sys.platform == "linux" else "lo0"
        os.environ.update({"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface})
    arguments = [
        f"--nnodes={nodes}", f"--nproc-per-node={workers}",
        f"--rdzv-backend={'loopback' if alone else 'c10d'}", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={run_id}",
        f"--rdzv-conf=join_timeout={RENDEZVOUS_TIMEOUT_S}",
        *(["--local-addr=127.0.0.1"] if alone else []),
        "--max-restarts=0",  # `with_recovery` decides what is tried again
        # Not SIGTERM: torchrun would send it on and kill the workers before the rollout step has ended.
        "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT", f"--shutdown-timeout={SHUTDOWN_GRACE_S}",
        f"--log-dir={failure.with_name('torchrun')}",
        "--module", "dynclip.training.processes.worker", job_file,
    ]  # fmt: skip
    try:
        # After a failure srun sends SIGTERM to the other machines: then it is no request to stop the training.
        with stop_file_on_sigterm(stop, print, unless=failure), take(int(gpus)) as visible:
            if visible is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = visible
            torchrun.run(torchrun.parse_args(arguments))
        return 0
    except ChildFailedError as error:
        failure.touch()
        status = min(failure.exitcode for failure in error.failures.values())
        return 128 - status if status < 0 else 1
    except (UserError, RendezvousTimeoutError) as error:
        message = f"{socket.gethostname()}: {type(error).__name__}: {first_line(error)}"
        write_json(failure, {"kind": "bad input", "message": message})
    except Exception:  # the connection to the torchrun of a machine that failed
        traceback.print_exc()
    return 1


def loopback_rendezvous(parameters):
    """torchrun's rendezvous for the workers of one machine. Its stores listen on loopback alone."""
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

    def store(*_) -> TCPStore:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        return TCPStore("127.0.0.1", port, is_master=True, multi_tenant=True, master_listen_fd=listening.detach())

    class Rendezvous(DynamicRendezvousHandler):
        def get_backend(self) -> str:
            return parameters.backend

        def _create_tcp_store_server(self, *_) -> TCPStore:
            return store()

    own, name = store(), parameters.run_id
    return Rendezvous.from_backend(name, own, C10dRendezvousBackend(own, name), 1, 1, parameters.local_addr)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
