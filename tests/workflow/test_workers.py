"""A training in two real processes: one that dies, one that is told to stop, and what the same command then makes."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dynclip.checkpoints import weights_sha256

pytestmark = pytest.mark.workflow
STEPS = 12
TRAIN = ("dynclip", "train", "--scale", "miniature", "--method", "od", "--seed", "5", "--steps", str(STEPS))
TWO = (*TRAIN, "--set", "processes=2")


def rows(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def workers(out: str) -> list[int]:
    """Process numbers of the workers whose job lies under folder `out`."""
    found = subprocess.run(["pgrep", "-f", f"dynclip.worker {out}/state/job"], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


@pytest.fixture(scope="module")
def whole(finished):
    """The run in two processes that nothing happens to."""
    house, _ = finished
    done = house.run(*TWO, "--out", "two")
    assert done.returncode == 0, done.stdout[-3000:]
    return house.root / "two"


def start(house, words, out):
    log = (house.root / f"{out}.log").open("w")
    return subprocess.Popen(words, cwd=house.root, env=house.environment(), stdout=log, stderr=log)


def wait_for_rows(process, path: Path, number: int) -> None:
    while rows(path) < number:
        assert process.poll() is None, "ended too early"


def test_two_processes_leave_what_one_does(whole):
    record = json.loads((whole / "run.json").read_text())
    assert record["execution"]["processes"] == 2 and record["execution"]["restarts"] == 0
    assert rows(whole / "metrics.jsonl") == STEPS and not (whole / "state").exists()
    assert record["protocol"]["completions per mini-batch"] == "8"


def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_nothing_had_been(finished, whole):
    house, _ = finished
    process = start(house, (*TWO, "--out", "killed"), "killed")
    wait_for_rows(process, house.root / "killed" / "state" / "metrics.jsonl", 5)
    os.kill(workers("killed")[-1], signal.SIGKILL)
    assert process.wait(timeout=300) == 0, (house.root / "killed.log").read_text()[-3000:]
    assert "starting once again from the last checkpoint" in (house.root / "killed.log").read_text()
    assert json.loads((house.root / "killed" / "run.json").read_text())["execution"]["restarts"] == 1
    last = f"checkpoints/step{STEPS}"
    assert weights_sha256(house.root / "killed" / last) == weights_sha256(whole / last)
    assert not workers("killed")


@pytest.mark.parametrize("words", [TWO, TRAIN], ids=["two processes", "one"])
def test_told_to_stop_it_writes_a_checkpoint_and_asks_to_be_queued_again(finished, whole, words):
    house, _ = finished
    out = f"stopped{len(words)}"
    process = start(house, (*words, "--out", out), out)
    wait_for_rows(process, house.root / out / "state" / "metrics.jsonl", 3)
    process.terminate()
    assert process.wait(timeout=120) == 75, (house.root / f"{out}.log").read_text()[-3000:]
    state = house.root / out / "state"
    assert "told to stop; a checkpoint is written" in (house.root / f"{out}.log").read_text()
    done = rows(state / "metrics.jsonl")
    assert (state / f"checkpoint-{done * 4}" / "model.json").exists()  # four updates a step: no step is lost
    again = house.run(*words, "--out", out)
    assert again.returncode == 0 and f"resuming at step {done} of {STEPS}" in again.stdout
    assert rows(house.root / out / "metrics.jsonl") == STEPS
    if words == TWO:
        last = f"checkpoints/step{STEPS}"
        assert weights_sha256(house.root / out / last) == weights_sha256(whole / last)
