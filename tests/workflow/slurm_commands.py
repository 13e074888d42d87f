#!/usr/bin/env python3
"""A stand-in for SLURM's commands, one file under many names: jobs run at once, on this machine, one after another.

$CLUSTER_TEST is a folder: each call is a line of calls.jsonl, each job has a file jobs/<id> with its state. (The plugin
takes every variable SLURM_... from a job step.) A file `refuse` there makes sbatch refuse; a file `end_early` names a
file, and once that has 5 lines the running step gets a SIGTERM, as before a time limit: all of its processes, not the
batch script around it, and once. All tasks of a step run on this machine, whatever number of nodes is asked for.
srun ends the other tasks when one fails (--kill-on-bad-exit) and all on SIGINT (--quit-on-interrupt).
"""

import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

FOLDER = Path(os.environ["CLUSTER_TEST"])
KILL_WAIT_S = 2  # between SIGTERM and SIGKILL for the tasks that are left when one has failed


def sbatch(words: list[str]) -> int:
    if (FOLDER / "refuse").exists():
        print("sbatch: error: Batch job submission failed: no such machines here", file=sys.stderr)
        return 1
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        number = len(list((FOLDER / "jobs").iterdir())) + 1
        state = FOLDER / "jobs" / str(number)
        state.write_text("RUNNING")
    script = next(word.removeprefix("--wrap=") for word in words if word.startswith("--wrap="))
    output = words[words.index("--output") + 1].replace("%j", str(number))
    environment = os.environ | {"SLURM_JOB_ID": str(number)}
    with open(output, "w") as log:
        done = subprocess.run(script, shell=True, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    state.write_text("FAILED" if done.returncode else "COMPLETED")
    print(number)
    return 0


def srun(words: list[str]) -> int:
    options = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    number = next((int(word.removeprefix("--ntasks=")) for word in options if word.startswith("--ntasks=")), 1)
    own = {"SLURM_NTASKS": str(number)}
    tasks = [
        psutil.Popen(words[len(options) :], start_new_session=True, env=os.environ | own | {"SLURM_PROCID": str(task)})
        for task in range(number)
    ]
    if "--quit-on-interrupt" in options:
        signal.signal(signal.SIGINT, lambda *_: signal_all(tasks, signal.SIGKILL))
    wish, kill_at = FOLDER / "end_early", None
    while None in [task.poll() for task in tasks]:
        if wish.exists() and lines(Path(wish.read_text())) >= 5:
            wish.unlink()
            signal_all(tasks, signal.SIGTERM)
        if "--kill-on-bad-exit=1" in options and kill_at is None and any(task.poll() for task in tasks):
            signal_all(tasks, signal.SIGTERM)
            kill_at = time.monotonic() + KILL_WAIT_S
        if kill_at is not None and time.monotonic() > kill_at:
            signal_all(tasks, signal.SIGKILL)
        time.sleep(0.02)
    return max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks)


def signal_all(tasks: list[psutil.Popen], number: signal.Signals) -> None:
    """Signal every process of a step."""
    for task in tasks:
        with suppress(psutil.NoSuchProcess):
            for process in [*task.children(recursive=True), task]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


def sacct(words: list[str]) -> int:
    if "--name" in words:
        for job in (FOLDER / "jobs").iterdir():
            print(f"{job.name}|{job.read_text()}")
    return 0


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def main() -> int:
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    shown = [re.sub("^--wrap=.*", "--wrap", word, flags=re.DOTALL) for word in words]
    with (FOLDER / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, *shown]) + "\n")
    match name:
        case "sbatch":
            return sbatch(words)
        case "srun":
            return srun(words)
        case "sacct":
            return sacct(words)
        case "sinfo":
            print("PARTITION\ngpu*")
        case "scontrol" if "hostnames" in words:
            print("localhost\nlocalhost")
        case "scontrol":
            print("MaxArraySize = 1001\nMinJobAge = 300 sec")
    return 0


if __name__ == "__main__":
    sys.exit(main())
