"""The fixture of the workflow tests: a fresh copy, `make reproduce` at miniature scale, once for all of them."""

import shutil

import pytest
from environment import lend_environment
from workspace import RESULTS, SCALE, copy_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(workspace, output of `make reproduce`): every rule run for real, in the packages that these tests run in."""
    workspace = copy_project(tmp_path_factory.mktemp("workspace"))
    lend_environment(workspace.root)
    done = workspace.run("make", "reproduce", f"CONFIG=scale={SCALE}", timeout=3600)
    assert done.returncode == 0, done.stdout[-4000:]
    return workspace, done.stdout


@pytest.fixture
def restored(finished, tmp_path):
    """The finished workspace for a test that makes results again: afterwards they are as they were, times included."""
    workspace, _ = finished
    results, copy = workspace.root / RESULTS, tmp_path / "results"
    shutil.copytree(results, copy)
    yield workspace
    shutil.rmtree(results)
    shutil.copytree(copy, results)


@pytest.fixture
def current(finished):
    """The finished workspace, brought up to date after what other tests did to it."""
    workspace, _ = finished
    if workspace.planned():
        done = workspace.snakemake()
        assert done.returncode == 0, done.stdout[-4000:]
    return workspace
