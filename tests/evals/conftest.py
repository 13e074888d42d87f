"""Fixtures: a local hub that serves ../shared/hub, and the gold answers of the six benchmarks."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
SIX = ("aime24", "aime25", "amc", "math500", "gsm8k", "olympiad")
LOAD = """
import json
from evals.benchmarks import BENCHMARKS, load_problems
golds = {name: [(p.answer, p.tolerance, p.id) for p in load_problems(BENCHMARKS[name])] for name in %r}
print(json.dumps(golds))
"""


@pytest.fixture(scope="session")
def stand_in():
    """Return the address of the local hub."""
    tool = SHARED / "tools" / "hubserver.py"
    if not tool.is_file():
        pytest.skip(f"no local hub: {tool} is missing")
    spec = importlib.util.spec_from_file_location("hubserver", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.make_server(SHARED / "hub")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="session")
def problems(stand_in, tmp_path_factory) -> dict[str, list[tuple[str, str, str]]]:
    """Return (gold answer, tolerance, problem id) for each problem of each benchmark.

    A separate process loads them, because hub clients read their environment when they are imported.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "DYNCLIP_", "HUGGINGFACE"))}
    home = tmp_path_factory.mktemp("golds")
    hub = {"PYTHONPATH": str(ROOT), "HF_HOME": str(home), "HF_ENDPOINT": stand_in}
    done = subprocess.run(
        [sys.executable, "-c", LOAD % (SIX,)], env=kept | hub, cwd=home, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: [tuple(row) for row in rows] for name, rows in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.fixture(scope="session")
def golds(problems) -> dict[str, list[tuple[str, str]]]:
    """Return (gold answer, tolerance) for each problem of each benchmark."""
    return {name: [(gold, tolerance) for gold, tolerance, _ in rows] for name, rows in problems.items()}
