"""A training on several machines of a SLURM job: `srun` starts this module once on each, and it the machine's workers.

The training's own process stays the only one that locks, recovers and publishes. The machines share its disk, and tell
each other there, in files named by the attempt, where the workers meet and that some have failed: a partner of a failed
worker would wait for it for ever. The state's own messages (`processes.FAILURE`, `run.STOP_FILE`) do the rest.
"""

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.studies.execution import processes_here
from dynclip.studies.scales import Execution
from dynclip.training.processes.recovery import WorkerDied, first_line
from dynclip.training.processes.workers import FAILURE, PATIENCE_S, STOP_FILE, Share, free_port, passing_on, start

MEETING_S = 300  # until every machine has seen where to meet: shared disks show new files late
KEPT = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME")


def run_on_machines(description: Path, execution: Execution, threads: int) -> int | None:
    """Run the job described in a file on the machines of this SLURM job; the status of the first worker to fail, or
    None. threads: of each process.

    Raises UserError outside a SLURM job, and WorkerDied where a machine ended without a word.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            f"nodes={execution.nodes}: a training on several machines runs in a SLURM job of as many nodes "
            "(snakemake --workflow-profile profiles/slurm, or this command in salloc or sbatch)"
        )
    local, attempt = processes_here(execution), str(time.time_ns())
    command = [
        "srun", f"--nodes={execution.nodes}", f"--ntasks={execution.nodes}", "--ntasks-per-node=1", "--overlap",
        f"--cpus-per-task={local * threads}",
        *([f"--gpus-per-node={execution.gpus}"] if execution.gpus else []),
        "--kill-on-bad-exit=0", "--wait=0",  # the machines end each other, when the first has said why it failed
        sys.executable, "-m", "dynclip.training.processes.machines",
        str(description), attempt, str(local), str(execution.gpus),
    ]  # fmt: skip
    # What the job asked for as a whole is not what this step asks for.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))
    }
    try:
        step = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    except FileNotFoundError:
        raise UserError(f"nodes={execution.nodes}: srun is not found; load SLURM's commands on the nodes") from None
    try:
        status = step.wait()
    finally:
        if step.poll() is None:  # this process is ended, and takes all machines along
            say_failed(description.parent, attempt, "first", 1)
            with suppress(subprocess.TimeoutExpired):
                step.wait(2 * PATIENCE_S)
            step.kill()
    failed = failures(description.parent, attempt)
    if status and not failed:
        raise WorkerDied(f"srun ended with status {status}")
    return min(failed, default=None)


def main(description: str, attempt: str, processes: str, gpus: str) -> int:
    """One machine's part: 0, or 1 when a worker failed on any machine."""
    path = Path(description)
    state, number = path.parent, int(os.environ["SLURM_PROCID"])
    share = Share(int(processes), int(gpus), number, int(os.environ["SLURM_NTASKS"]))
    with passing_on(state / STOP_FILE, print):
        try:
            address, port = meeting(state / f"meeting-{attempt}.json", number == 0)
            failed = start(path, share, address, port, lambda: bool(failures(state, attempt)))
        except Exception as error:
            failed = 1
            if not isinstance(error, UserError):
                traceback.print_exc()
            write_json(state / FAILURE, {"kind": "error", "message": f"{socket.gethostname()}: {first_line(error)}"})
        if failed is not None:
            say_failed(state, attempt, str(number), failed)
    return int(failed is not None)


def meeting(place: Path, first: bool) -> tuple[str, int]:
    """(address, port) where all workers meet: chosen by the first machine, found by the others in file `place`."""
    if first:
        address = own_address()
        write_json(place, [address, free_port(address)])
    end = time.monotonic() + MEETING_S
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            address, port = json.loads(place.read_text())
            return address, port
        time.sleep(0.2)
    raise UserError(f"{place}: not seen within {MEETING_S} s; is it on a disk that all machines of the job share?")


def own_address() -> str:
    """This machine's address in the network that srun came over."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
            probe.connect((os.environ["SLURM_LAUNCH_NODE_IPADDR"], 9))
            return probe.getsockname()[0]
    except (KeyError, OSError):
        return socket.gethostname()


def say_failed(state: Path, attempt: str, who: str, status: int) -> None:
    """Tell the other machines, and the process that started them, of a failed worker."""
    write_json(state / f"failed-{attempt}-{who}.json", status)


def failures(state: Path, attempt: str) -> list[int]:
    """The statuses that were told so far."""
    return [json.loads(path.read_text()) for path in state.glob(f"failed-{attempt}-*.json")]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
