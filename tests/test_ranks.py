"""Several processes of one training against one process on the same global batch: real processes, gloo, real TRL."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynclip.runtime.errors import UserError
from dynclip.studies.scales import Execution
from dynclip.training.lifecycle import check_shards

PROGRAM = Path(__file__).with_name("ranks_program.py")


def run(folder, processes, **wish):
    """What the first process says after a training of `wish["steps"]` rollout steps, four updates each."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    places = (PROGRAM.parent, PROGRAM.parent.parent, os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*launch, str(PROGRAM), str(folder), json.dumps(wish)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def assert_same(one, other, tolerance):
    assert one["losses"] == pytest.approx(other["losses"], abs=tolerance)
    for first, second in zip(one["rows"], other["rows"], strict=True):
        assert first.keys() == second.keys()
        for name in ("policy/entropy", "policy/kl_old", "clip/low_fraction", "clip/high_fraction", "policy/ratio_max"):
            assert first[name] == pytest.approx(second[name], rel=1e-3, abs=tolerance), name


# OD's band is set so that its state changes within these few steps.
OD = {"method": "od", "options": {"fraction": 0.999}, "steps": 3, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(OD on one process, its exported policy)."""
    folder = tmp_path_factory.mktemp("alone")
    return run(folder, 1, **OD, save=1, export=str(folder / "policy")), folder


SLOW = pytest.mark.slow
NO_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is absent, and not in the lock")


@pytest.mark.parametrize(
    "sharding", ["none", pytest.param("fsdp2", marks=SLOW), pytest.param("zero3", marks=[SLOW, NO_DEEPSPEED])]
)
def test_two_processes_train_as_one_does(alone, tmp_path, sharding):
    both = run(tmp_path, 2, **OD, sharding=sharding, export=str(tmp_path / "policy"))
    assert_same(alone[0], both, 1e-5)
    states = [row["clip/state"] for row in both["rows"]]
    assert states == [row["clip/state"] for row in alone[0]["rows"]] and len(set(states)) > 1
    first, second = both["states"]
    assert first == second  # every process decides by itself, and alike
    assert first["signal"] == alone[0]["states"][0]["signal"]
    assert first["reference_entropy"] == pytest.approx(alone[0]["states"][0]["reference_entropy"], abs=1e-5)
    weights, others = (load_file(path / "policy" / "model.safetensors") for path in (alone[1], tmp_path))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], atol=1e-4, rtol=1e-3)


@SLOW
def test_two_processes_compare_the_completions_of_a_group_as_one_does(tmp_path):
    wish = {"method": "grpo_dropout", "steps": 2, "learning_rate": 1e-2}
    one, two = (run(tmp_path / str(processes), processes, **wish) for processes in (1, 2))
    assert_same(one, two, 1e-5)
    assert one["losses"] != pytest.approx(run(tmp_path / "grpo", 1, **wish | {"method": "grpo"})["losses"], abs=1e-3)


@SLOW
def test_smaller_micro_batches_leave_the_update_as_it_is(alone, tmp_path):
    assert_same(alone[0], run(tmp_path, 1, **OD, passes=4), 1e-5)


@SLOW
@pytest.mark.parametrize(("before", "after", "sharding"), [(1, 2, "none"), (2, 1, "none"), (2, 4, "fsdp2")])
def test_a_checkpoint_of_another_number_of_processes_is_gone_on_from(alone, tmp_path, before, after, sharding):
    run(tmp_path, before, **OD, sharding=sharding, save=1)
    checkpoint = tmp_path / "checkpoint-4"
    check_shards(checkpoint, Execution(processes=after, sharding=sharding))
    with pytest.raises(UserError, match=f"checkpoint-4: written with sharding={sharding}, this training has "):
        check_shards(checkpoint, Execution(processes=2, sharding="none" if sharding == "fsdp2" else "fsdp2"))
    resumed = run(tmp_path / "again", after, **OD, sharding=sharding, resume=str(checkpoint))
    assert resumed["losses"][-8:] == pytest.approx(alone[0]["losses"][-8:], abs=1e-5)
    assert [row["clip/state"] for row in resumed["rows"]] == [row["clip/state"] for row in alone[0]["rows"][1:]]
