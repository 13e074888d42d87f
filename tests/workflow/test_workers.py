"""A training in two real processes under torchrun: a killed worker, a SIGTERM, and what the same command then does.

Also with nodes=2: a stand-in for `srun` starts the tasks of both nodes on this machine.
"""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from workspace import slurm_commands

from dynclip.runtime.checkpoints import weights_sha256

pytestmark = [pytest.mark.workflow, pytest.mark.slow]  # tests/test_ranks.py trains in two processes
STEPS = 12
TRAIN = (
    "dynclip", "train", "--scale", "miniature", "--set", "trainer=trl", "--method", "od", "--seed", "5", "--steps",
    str(STEPS),
)  # fmt: skip
TWO = (*TRAIN, "--set", "processes=2")
MACHINES = (*TWO, "--set", "nodes=2")


def rows(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def workers(workspace, out: str) -> list[int]:
    """Process numbers of the workers whose job is under folder `out`."""
    return processes(workspace, f"dynclip.training.processes.worker {out}/state/job")


def processes(workspace, words: str) -> list[int]:
    """Process numbers of the workspace's processes whose command line holds `words`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if words in " ".join(process.cmdline()) and process.cwd() == str(workspace.root.resolve()):
                found.append(process.pid)
    return sorted(found)


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    """A job of SLURM, of two nodes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_commands(tmp_path_factory.mktemp("slurm")).items():
            patch.setenv(name, value)
        patch.setenv("SLURM_JOB_ID", "7")
        yield


@pytest.fixture(scope="module")
def whole(finished):
    """The run in two processes that nothing happens to."""
    workspace, _ = finished
    assert workspace.run("dynclip", "warmup", "--scale", "miniature", "--seeds", "5").returncode == 0
    done = workspace.run(*TWO, "--out", "two")
    assert done.returncode == 0, done.stdout[-3000:]
    return workspace.root / "two"


def start(workspace, words, out):
    log = (workspace.root / f"{out}.log").open("w")
    return subprocess.Popen(
        words, cwd=workspace.root, env=workspace.environment(), stdout=log, stderr=log,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )  # fmt: skip


def wait_for_rows(process, path: Path, number: int) -> None:
    while rows(path) < number:
        assert process.poll() is None, "ended too early"
        time.sleep(0.02)


def test_two_processes_leave_what_one_does(whole):
    record = json.loads((whole / "run.json").read_text())
    assert record["execution"]["processes"] == 2 and record["execution"]["restarts"] == 0
    assert rows(whole / "metrics.jsonl") == STEPS and not [*whole.glob("state/checkpoint-*")]
    assert record["protocol"]["completions per mini-batch"] == "8"


@pytest.mark.parametrize("words", [TWO, MACHINES], ids=["one machine", "two machines"])
def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_nothing_had_been(finished, whole, words):
    workspace, _ = finished
    out = f"killed{len(words)}"
    process = start(workspace, (*words, "--out", out), out)
    wait_for_rows(process, workspace.root / out / "state" / "metrics.jsonl", 5)
    partner, victim = workers(workspace, out)
    os.kill(partner, signal.SIGSTOP)  # it hangs, as in a collective operation that never ends
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=1800) == 0, (workspace.root / f"{out}.log").read_text()[-3000:]
    assert "SIGKILL: restarting once from the last checkpoint" in (workspace.root / f"{out}.log").read_text()
    execution = json.loads((workspace.root / out / "run.json").read_text())["execution"]
    assert (execution["restarts"], execution["nodes"]) == (1, 2 if words == MACHINES else 1)
    last = f"checkpoints/step{STEPS}"
    assert weights_sha256(workspace.root / out / last) == weights_sha256(whole / last)
    assert not workers(workspace, out)


def test_a_training_that_is_interrupted_takes_all_machines_along(finished):
    workspace, _ = finished
    process = start(workspace, (*MACHINES, "--out", "interrupted"), "interrupted")
    wait_for_rows(process, workspace.root / "interrupted" / "state" / "metrics.jsonl", 2)
    assert len(workers(workspace, "interrupted")) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=1800) not in (0, 75)
    assert not workers(workspace, "interrupted")


def test_workers_do_not_outlive_torchrun(finished, whole):
    workspace, _ = finished
    process = start(workspace, (*TWO, "--out", "orphans"), "orphans")
    wait_for_rows(process, workspace.root / "orphans" / "state" / "metrics.jsonl", 2)
    before = workers(workspace, "orphans")
    [launcher] = processes(workspace, "dynclip.training.processes.launch orphans/")
    os.kill(launcher, signal.SIGKILL)
    assert process.wait(timeout=1800) == 0, (workspace.root / "orphans.log").read_text()[-3000:]
    assert len(before) == 2 and not workers(workspace, "orphans")
    assert rows(workspace.root / "orphans" / "metrics.jsonl") == STEPS
    last = f"checkpoints/step{STEPS}"
    assert weights_sha256(workspace.root / "orphans" / last) == weights_sha256(whole / last)


def test_two_machines_outside_a_job_are_refused_in_one_line(finished, monkeypatch):
    workspace, _ = finished
    monkeypatch.delenv("SLURM_JOB_ID")
    done = workspace.run(*MACHINES, "--out", "refused")
    assert done.returncode == 2
    last = done.stdout.strip().splitlines()[-1]
    assert "nodes=2: a training on several machines runs in a SLURM job of as many nodes" in last, done.stdout


@pytest.mark.parametrize("words", [TWO, MACHINES, TRAIN], ids=["two processes", "two machines", "one"])
def test_on_sigterm_it_writes_a_checkpoint_and_asks_to_be_queued_again(finished, whole, words):
    workspace, _ = finished
    out = f"stopped{len(words)}"
    process = start(workspace, (*words, "--out", out), out)
    wait_for_rows(process, workspace.root / out / "state" / "metrics.jsonl", 3)
    process.terminate()
    assert process.wait(timeout=1800) == 75, (workspace.root / f"{out}.log").read_text()[-3000:]
    state = workspace.root / out / "state"
    assert "stopped by SIGTERM; a checkpoint is written" in (workspace.root / f"{out}.log").read_text()
    done = rows(state / "metrics.jsonl")
    assert (state / f"checkpoint-{done * 4}" / "model.json").exists()  # four updates a step: no step is lost
    again = workspace.run(*words, "--out", out)
    assert again.returncode == 0 and f"resuming at step {done} of {STEPS}" in again.stdout
    assert rows(workspace.root / out / "metrics.jsonl") == STEPS
    if words != TRAIN:
        last = f"checkpoints/step{STEPS}"
        assert weights_sha256(workspace.root / out / last) == weights_sha256(whole / last)
