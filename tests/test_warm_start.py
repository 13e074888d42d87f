"""The warm start of a world's base policies: killed and resumed to the same bits, by one process at a time."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from dynclip.runtime.errors import UserError
from dynclip.studies.overrides import resolve
from dynclip.training.worlds import warm_start as module
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.worlds import generate

STAGE = {"batch": 16, "check_every": 2, "max_steps": 6}


@pytest.fixture(scope="module")
def problems():
    return generate("facts", 40, 1, held_out=False)


def scale_of(**changes):
    scale = resolve("miniature").scale
    stage = replace(scale.policy.warm_start, **(STAGE | changes))
    return replace(scale, policy=replace(scale.policy, warm_start=stage))


class Killed(Exception):
    pass


def policies(folder):
    """Every file of the base policies, without the seconds that they took."""
    found = {}
    for path in sorted(folder.glob("seed*/*")):
        content = path.read_bytes()
        if path.name == "warm_start.json":
            content = {k: v for k, v in json.loads(content).items() if k != "seconds"}
        if path.name != "model.json":
            found[str(path.relative_to(folder))] = content
    return found


@pytest.fixture
def checks(monkeypatch):
    """Every seed passes at its own check: seed 0 at the first, seed 1 at the third."""
    course, seen = module.text_course, []

    def scripted(scale, problems, seeds, folder):
        made = course(scale, problems, seeds, folder)

        def pass_at_1(weights):
            seen.append(seen[-1] + 1 if seen else 1)
            return [1.0 if seed == 0 or seen[-1] == 3 else 0.0 for seed in seeds]

        return replace(made, pass_at_1=pass_at_1)

    monkeypatch.setattr(module, "text_course", scripted)
    return seen


def test_a_killed_warm_start_goes_on_to_the_same_bits(problems, checks, tmp_path, monkeypatch):
    scale, save, said = scale_of(pass_at_1=0.5), module.save, []
    bases = {name: {seed: tmp_path / name / f"seed{seed}" for seed in (0, 1)} for name in ("whole", "killed")}
    warm_start(scale, problems, bases["whole"], said.append)
    checks.clear()

    def dying(state, step, *rest):
        save(state, step, *rest)
        if step == 4:
            raise Killed

    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "save", dying)
        warm_start(scale, problems, bases["killed"], said.append)
    assert (tmp_path / "killed" / "seed0" / "model.json").exists()
    assert not (tmp_path / "killed" / "seed1").exists()
    warm_start(scale, problems, bases["killed"], said.append)
    assert "warm start: resuming at step 4" in said and checks == [1, 2, 3]
    assert policies(tmp_path / "killed") == policies(tmp_path / "whole")
    assert not (tmp_path / "killed" / ".warm_start").exists()


def killed_at_its_first_checkpoint(scale, problems, base, monkeypatch):
    save = module.save

    def dying(*arguments):
        save(*arguments)
        raise Killed

    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "save", dying)
        warm_start(scale, problems, base, lambda text: None)


def test_a_seed_that_had_stopped_does_not_go_on_from_later_weights(problems, checks, tmp_path, monkeypatch):
    scale, base = scale_of(pass_at_1=0.5), {seed: tmp_path / f"seed{seed}" for seed in (0, 1)}
    killed_at_its_first_checkpoint(scale, problems, base, monkeypatch)
    before = policies(tmp_path)
    shutil.rmtree(base[0])
    checks.clear()
    warm_start(scale, problems, base, lambda text: None)
    assert before.items() <= policies(tmp_path).items() and len(before) > 3


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(problems, checks, tmp_path, monkeypatch):
    base, said = {1: tmp_path / "seed1"}, []
    killed_at_its_first_checkpoint(scale_of(pass_at_1=0.5), problems, base, monkeypatch)
    checks.clear()
    warm_start(scale_of(pass_at_1=0.5, learning_rate=1e-4), problems, base, said.append)
    assert not [line for line in said if "resuming" in line] and checks == [1, 2, 3]


def test_a_rule_that_is_never_met_is_one_line_and_leaves_no_checkpoint(problems, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    with pytest.raises(UserError, match="after 6 updates pass@1 is below 2 for the seeds 0; change miniature's"):
        warm_start(scale_of(pass_at_1=2), problems, {0: tmp_path / "seed0"}, lambda text: None)
    assert not (tmp_path / ".warm_start").exists()


HOLD = """
import sys
from pathlib import Path
from dynclip.runtime.locks import hold
with hold(Path(sys.argv[1]), "the test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_warm_start_waits_and_says_for_whom(problems, tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".warm_start.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "held\n"
    said = []

    def log(text):
        said.append(text)
        if "waiting" in text:
            other.communicate(timeout=60)

    warm_start(scale_of(pass_at_1=0.0), problems, {0: tmp_path / "seed0"}, log)
    assert f"waiting for the warm start in {tmp_path}: " in said[0] and f"held by process {other.pid} on" in said[0]
    assert (tmp_path / "seed0" / "model.json").exists()
