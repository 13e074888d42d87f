"""`python -m dynclip.training.processes.worker JOB`: one process of a training. `processes.launch` starts it."""

import ctypes
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.runtime.progress import Progress
from dynclip.studies.overrides import resolve
from dynclip.training.lifecycle import arm_config, export_folders
from dynclip.training.processes.recovery import FAILURE, first_line, ran_out_of_memory
from dynclip.training.trl_run.session import run_trainer
from evals.benchmarks.loading import read_problems


class NoProgress:
    """The progress display of all processes but the first."""

    def start(self, done: int = 0) -> None:
        """Shows nothing."""

    def step(self, done: int, text: str) -> None:
        """Shows nothing."""

    def log(self, text: str) -> None:
        """Shows nothing."""


def main(path: str) -> int:
    """Run the job in the JSON file `path`; 0, or 1 with the kind and message of the failure in its state folder."""
    if sys.platform == "linux":  # else a worker would go on beside those that replace it after the death of torchrun
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    job = json.loads(Path(path).read_text())
    state = Path(job["state"])
    try:
        arm, config = arm_config(resolve(methods=job["arm"], seeds=str(job["seed"]), **job["given"]), job["arm"])
        main_process = os.environ.get("RANK", "0") == "0"
        log_file = Path(job["log_file"]) if job["log_file"] else None
        run_trainer(
            config,
            arm,
            job["seed"],
            Path(job["base"]),
            read_problems(Path(job["data"])),
            state,
            export_folders(config, state),
            Progress(f"{arm.name} seed {job['seed']}", config.steps, log_file) if main_process else NoProgress(),
            Path(job["resume"]) if job["resume"] else None,
            job["done"],
            job["micro_batch"],
        )
        return 0
    except Exception as error:
        kind = kind_of(error)
        if kind in ("error", "consequence"):
            traceback.print_exc()
        if kind != "consequence":
            name = "" if kind == "bad input" else f"{type(error).__name__}: "
            write_json(state / FAILURE, {"kind": kind, "message": f"{name}{first_line(error)}"})
        return 1
    finally:
        end_group()


def kind_of(error: Exception) -> str:
    """Which of the recovery rules a failure falls under."""
    if ran_out_of_memory(error):
        return "out of memory"
    if isinstance(error, UserError):
        return "bad input"
    name = type(error).__name__
    if name in ("EngineDeadError", "EngineGenerateError"):  # of vLLM, which is not imported here
        return "engine died"
    # When one worker dies, the collective operations of the others fail: NCCL's with Dist…Error, gloo's with its path.
    lost = name.startswith("Dist") or "gloo" in str(error)
    return "consequence" if lost and os.environ.get("WORLD_SIZE", "1") != "1" else "error"


def end_group() -> None:
    """Leave the process group, if this process is in one: else torch warns at exit."""
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        with suppress(ValueError):  # vLLM's engine may have dissolved it already
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
