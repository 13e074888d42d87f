"""Programs that only plan start without torch, and what they have imported uses the real one when it is called."""

import subprocess
import sys

import pytest

PLAN = """
import sys
from dynclip.runtime.fast_imports import torch_later
with torch_later():
    from dynclip.cli import pipeline
    from dynclip.methods import bounds, surrogate, vocabulary
    from dynclip.methods.types import Clock
    from dynclip.studies.arms import arm
study = pipeline.call_from({"scale": "miniature"}, []).studies["miniature"]
print([pipeline.code_of(rule, study) for rule in pipeline.CODE], pipeline.method_code("id"))
assert not {"torch", "scipy", "transformers"} & {*sys.modules}
"""
USE = """
import torch
assert surrogate.torch.Tensor is torch.Tensor and "torch" in sys.modules
ratio, one = torch.tensor([0.5, 2.0]), torch.ones(2)
assert surrogate.clamp(ratio, 0.2, 0.3).tolist() == torch.clamp(ratio, 0.8, 1.3).tolist()
weight = torch.ones(2, requires_grad=True)
vocabulary.checkpoint(lambda x: (x * x).sum(), weight, use_reentrant=False).backward()
assert weight.grad.tolist() == [2.0, 2.0]
"""
PLAIN = PLAN.replace("with torch_later():", "import torch\nif True:").rpartition("\nassert")[0]


def said(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_planning_imports_no_torch_and_gives_the_same_digests():
    assert said(PLAN + USE) == said(PLAIN)


@pytest.mark.parametrize("words", [["plan", "--scale", "miniature"], ["plan"]])
def test_the_plan_imports_no_torch(words):
    program = f"import sys\nfrom dynclip.cli.commands import main\nassert main({words}) == 0\n"
    assert "runs" in said(program + "assert 'torch' not in sys.modules")
