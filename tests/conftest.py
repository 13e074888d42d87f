"""What every test runs under, and the study that tables, figures, report and tracking are tested on."""

import os
import sys
from pathlib import Path

import pytest
import torch
from synthetic_study import write_study

from dynclip.runtime import fast_imports

TOGETHER = ("workflow", "peers")  # the first share a finished study, the second build .venv-verl
APART = ("test_slurm.py",)  # this one has a copy of the project of its own

torch.set_num_threads(1)  # the tensors are tiny, and on a busy machine a second thread makes a test 25 times slower


@pytest.fixture(autouse=True)
def nothing_stays_marked_absent():
    """`lean.prepare` hides packages and the hub for a process of its own; here the next test may need them."""
    before = os.environ.get("HF_HUB_OFFLINE")
    yield
    if before is None:
        os.environ.pop("HF_HUB_OFFLINE", None)
    for package in fast_imports.UNUSED:
        if package in sys.modules and sys.modules[package] is None:
            del sys.modules[package]


@pytest.fixture
def study(tmp_path) -> Path:
    """results/<scale> of a synthetic study: 3 methods, 3 seeds, 12 steps."""
    (tmp_path / "Snakefile").touch()  # as in a project, where messages name Snakemake's commands
    return write_study(tmp_path / "results" / "tiny")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where pytest-xdist spreads the tests over processes: a file stays together, and most of TOGETHER do.

    `--dist loadgroup` would do it by markers, but pytest-xdist 3.8 cannot write them into the node ids of pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.split("::", 1)[0])
            return file.parent.name if file.parent.name in TOGETHER and file.name not in APART else str(file)

    return ByPlace(config, log)


def pytest_collection_modifyitems(items):
    """The longest group starts first, so that no process waits for the other at the end."""
    items.sort(key=lambda item: item.path.parent.name != TOGETHER[0])
