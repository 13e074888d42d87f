"""What every test runs under, and the study that tables, figures, report and tracking are tested on."""

import os
import sys
from pathlib import Path

import pytest
from synthetic_study import write_study

from dynclip.runtime import fast_imports

TOGETHER = ("workflow", "peers")  # the first share a finished study, the second build .venv-verl


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
    return write_study(tmp_path / "results" / "tiny")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the markers
def pytest_collection_modifyitems(items):
    """Where pytest-xdist spreads the tests over processes: a file stays together, and so do the folders TOGETHER."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in TOGETHER else item.path.stem))
