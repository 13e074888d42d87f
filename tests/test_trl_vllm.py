"""vLLM in the training process, for real: after every update the sampler has the trainer's weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.utils.distributed import get_free_port

from evals.engines.engine import installed_engines

PROGRAM = Path(__file__).with_name("vllm_program.py")
pytestmark = [
    pytest.mark.slow,  # two starts of vLLM
    pytest.mark.skipif(not installed_engines()["vllm"], reason="no vLLM installed"),
]


def run(folder, *words):
    path = os.pathsep.join(map(str, (PROGRAM.parent, PROGRAM.parent.parent)))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(get_free_port()), *words], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads(line.removeprefix("RESULT "))


def test_sampler_and_trainer_agree_after_every_sync(tmp_path):
    found = run(tmp_path)
    assert len(found["differences"]) == 3 and found["updates"] == 12
    assert all(mean < 1e-4 and most < 1e-2 for mean, most in found["differences"]), found


def test_a_sampler_with_old_weights_would_be_seen(tmp_path):
    first, *later = run(tmp_path, "stale")["differences"]
    assert first[0] < 1e-4
    assert all(mean > 0.01 for mean, _ in later)
