"""A run killed at any moment and rerun ends with the weights of one that was never killed, bit for bit."""

import json
import signal

import pytest
from workspace import RESULTS

from dynclip.runtime.checkpoints import weights_sha256

pytestmark = pytest.mark.workflow
STEPS = 30
CONFIG = ("--config", "scale=miniature", "methods=od", "seeds=7", f"steps={STEPS}")


def rows(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(finished):
    """Final weights of the run that nobody killed, trained into a folder of its own."""
    workspace, _ = finished
    words = ("dynclip", "train", "--scale", "miniature", "--method", "od", "--seed", "7", "--steps", str(STEPS))
    done = workspace.run(*words, "--out", "whole")
    assert done.returncode == 0, done.stdout[-2000:]
    return weights_sha256(workspace.root / "whole" / "checkpoints" / f"step{STEPS}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_kill_and_rerun_gives_the_same_weights(finished, uninterrupted, number):
    workspace, _ = finished
    run = workspace.root / RESULTS / "runs" / "od" / "seed7"
    target = f"{RESULTS}/runs/od/seed7/run.json"
    log = workspace.root / RESULTS / "logs" / "train" / "od-seed7.log"
    words = ("snakemake", "--cores", "all", *CONFIG, "--", target)
    for name in ("run.json", "metrics.jsonl"):
        (run / name).unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    status = workspace.kill_when(words, lambda: rows(run / "state" / "metrics.jsonl") >= 13, number)
    assert status != 0
    assert not (run / "run.json").exists() and (run / "state" / "fingerprint.json").exists()
    workspace.run("snakemake", "--unlock", *CONFIG)
    done = workspace.run(*words)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming at step" in log.read_text()
    assert weights_sha256(run / "checkpoints" / f"step{STEPS}") == uninterrupted
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(STEPS))
    whole = [json.loads(line) for line in (workspace.root / "whole" / "metrics.jsonl").read_text().splitlines()]
    for key in ("policy/entropy", "train/reward", "clip/state", "clip/eps_high_mean", "train/grad_norm"):
        assert [row[key] for row in metrics] == [row[key] for row in whole]


def test_a_changed_fingerprint_starts_over_and_says_why(finished):
    workspace, _ = finished
    out = workspace.root / "changed"
    words = ("dynclip", "train", "--scale", "miniature", "--method", "grpo", "--seed", "3", "--out", "changed")
    status = workspace.kill_when(
        (*words, "--steps", "40"), lambda: rows(out / "state" / "metrics.jsonl") >= 5, signal.SIGKILL
    )
    assert status == -signal.SIGKILL
    done = workspace.run(*words, "--steps", "8")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "starting over: steps changed since" in done.stdout
    assert rows(out / "metrics.jsonl") == 8
