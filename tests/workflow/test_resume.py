"""A run killed at any moment and rerun ends with the weights of one that was never killed, bit for bit."""

import json
import shutil
import signal

import pytest
from workspace import RESULTS, SCALE

from dynclip.runtime.checkpoints import weights_sha256

pytestmark = pytest.mark.workflow
STEPS = 30
CONFIG = ("--config", "scale=miniature", "methods=od", "seeds=7,8", f"steps={STEPS}")


def rows(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(finished):
    """The runs of two seeds side by side that nobody killed, trained into a results folder of their own."""
    workspace, _ = finished
    shared = ("--scale", "miniature", "--seeds", "7,8", "--results", "whole")
    for words in (("data",), ("warmup",), ("train", "--method", "od", "--steps", str(STEPS))):
        done = workspace.run("dynclip", words[0], *shared, *words[1:])
        assert done.returncode == 0, done.stdout[-2000:]
    return workspace.root / "whole" / SCALE / "runs" / "od"


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=number.name, marks=[] if number == signal.SIGKILL else pytest.mark.slow)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    ],
)
def test_kill_and_rerun_gives_the_same_weights(finished, uninterrupted, number):
    workspace, _ = finished
    runs = workspace.root / RESULTS / "runs" / "od"
    run, target = runs / "seed7", f"{RESULTS}/runs/od/seed7/run.json"
    log = workspace.root / RESULTS / "logs" / "train" / "od.log"
    words = ("snakemake", "--cores", "all", *CONFIG, "--", target)
    for seed in (7, 8):
        shutil.rmtree(runs / f"seed{seed}", ignore_errors=True)
    log.unlink(missing_ok=True)
    status = workspace.kill_when(words, lambda: rows(run / "state" / "metrics.jsonl") >= 13, number)
    assert status != 0
    assert not (run / "run.json").exists() and (run / "state" / "fingerprint.json").exists()
    workspace.run("snakemake", "--unlock", *CONFIG)
    done = workspace.run(*words)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming at step" in log.read_text()
    for seed in ("seed7", "seed8"):
        last = f"{seed}/checkpoints/step{STEPS}"
        assert weights_sha256(runs / last) == weights_sha256(uninterrupted / last)
        metrics, whole = (
            [json.loads(line) for line in (folder / seed / "metrics.jsonl").read_text().splitlines()]
            for folder in (runs, uninterrupted)
        )
        assert [row["step"] for row in metrics] == list(range(STEPS))
        for key in ("policy/entropy", "train/reward", "clip/state", "clip/eps_high_mean", "train/grad_norm"):
            assert [row[key] for row in metrics] == [row[key] for row in whole]


def test_a_changed_fingerprint_starts_over_and_says_why(finished):
    workspace, _ = finished
    out = workspace.root / "changed" / SCALE / "runs" / "grpo" / "seed3"
    shared = ("--scale", "miniature", "--seeds", "3", "--results", "changed")
    for command in ("data", "warmup"):
        assert workspace.run("dynclip", command, *shared).returncode == 0
    words = ("dynclip", "train", *shared, "--method", "grpo")
    status = workspace.kill_when(
        (*words, "--steps", "40"), lambda: rows(out / "state" / "metrics.jsonl") >= 5, signal.SIGKILL
    )
    assert status == -signal.SIGKILL
    done = workspace.run(*words, "--steps", "8")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "starting over: steps changed since" in done.stdout
    assert rows(out / "metrics.jsonl") == 8
