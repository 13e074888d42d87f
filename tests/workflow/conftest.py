"""The fixture of the workflow tests: a fresh copy, `make reproduce` at miniature scale, once for all of them."""

import pytest
from house import SCALE, copy_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(house, output of `make reproduce`): environment built from the lock, every rule run for real."""
    house = copy_project(tmp_path_factory.mktemp("house"))
    done = house.run("make", "reproduce", f"CONFIG=scale={SCALE}", timeout=1200)
    assert done.returncode == 0, done.stdout[-4000:]
    return house, done.stdout


@pytest.fixture
def current(finished):
    """The finished house, brought up to date after what other tests did to it."""
    house, _ = finished
    if house.planned():
        done = house.snakemake()
        assert done.returncode == 0, done.stdout[-4000:]
    return house
