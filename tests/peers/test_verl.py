"""The comparison with verl 0.9.1: builds verl's own environment and runs tests/peers/verl inside it (`make peers`).

verl wants other versions of the same packages than TRL, so that it cannot be imported here. Where .venv-verl has to be
built and no package index can be reached, the build fails, and so does the test.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-verl" / "bin" / "python"
FILES = {"test_cpu_run": 34, "test_loading": 35, "test_losses": 96, "test_route": 100, "test_traps": 14}  # at least


@pytest.fixture(scope="session")
def verl_python() -> Path:
    """The Python of .venv-verl, built when it is not there or its lock has changed."""
    command = [sys.executable, ROOT / "requirements" / "install.py", "verl"]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return PYTHON


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dynclip_inside_verl(verl_python, tmp_path):
    report = tmp_path / "report.xml"
    command = [verl_python, "-W", "ignore", "-m", "pytest", "-W", "ignore", "tests/peers/verl", "--junitxml", report]
    command += ["--confcutdir", "tests/peers/verl", "--basetemp", tmp_path / "inside", "-p", "no:cacheprovider"]
    foreign = ("PYTEST_", "PYTHON", "RAY_", "VERL_")  # settings of this environment, or of a cluster
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    outcome = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout[-6000:] + outcome.stderr[-2000:]
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    for name, least in FILES.items():
        own = [c for c in cases if c.get("classname", "").rpartition(".")[2] == name]
        passed = [c for c in own if not {child.tag for child in c} & {"failure", "error", "skipped"}]
        assert len(passed) >= least, f"{name}: {len(passed)} tests passed, expected at least {least}"
    assert {path.stem for path in (ROOT / "tests/peers/verl").glob("test_*.py")} == set(FILES)


def test_without_verl_the_adapter_says_what_it_needs():
    outcome = subprocess.run([sys.executable, "-c", "import dynclip.verl"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode != 0
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("ImportError: dynclip.verl needs verl 0.9.1") and "make peers" in last


def test_nothing_of_verl_is_collected_here():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/peers/verl", "-p", "no:cacheprovider"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, outcome.stdout + outcome.stderr
