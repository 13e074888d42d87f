"""Every command of the README is executed, at miniature scale, in the copy that `make reproduce` built."""

import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from workspace import RESULTS, ROOT, Workspace

from dynclip.methods.registry import METHODS

pytestmark = pytest.mark.workflow
README = (ROOT / "README.md").read_text()
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINI = "--config scale=miniature"

# README command -> what runs here: the same at miniature scale, without the tests inside the tests.
RUN = {
    "make reproduce": "make reproduce CONFIG=scale=miniature",
    "make test": 'make test ARGS="tests/test_bounds.py"',
    "make test-all": 'make test-all ARGS="tests/test_bounds.py -k thermostat"',
    "snakemake --cores all": f"snakemake --cores all {MINI}",
    "snakemake --cores all results/facts/scores/id/seed20/final/facts.json": (
        f"snakemake --cores all {RESULTS}/scores/od/seed0/final/facts.json {MINI}"
    ),
    "snakemake --cores all --config methods=grpo,id seeds=20-22 steps=20": (
        f"snakemake -n --cores all {MINI} methods=grpo,id seeds=0-2 steps=20"
    ),
    "snakemake --cores all phase_ratio": f"snakemake -n --cores all phase_ratio {MINI}",
    "snakemake --cores all studies": f"snakemake -n --cores all studies {MINI}",
    "dynclip plan --studies all": "dynclip plan --studies all --scale miniature",
    "dynclip follow --scale facts --method id --seed 20": "dynclip follow --scale miniature --method od --seed 0",
    "dynclip verify results/facts": f"dynclip verify {RESULTS}",
    "make install": "make install",
    f"dynclip evaluate --model {MODEL} --benchmark gsm8k --k 1 --limit 64 --max-tokens 256": (
        f"dynclip evaluate --model {RESULTS}/base/seed0 --benchmark facts --k 1 --limit 4 --out first"
    ),
    f"dynclip samples {MODEL} --wrong --benchmark gsm8k": ("dynclip samples first --wrong --benchmark facts"),
    "snakemake --unlock": f"snakemake --unlock {MINI}",
    "make plan": "make plan",
    "make doctor": "make doctor",
    "make bench": 'make bench ARGS="1 1"',
    "make bench-methods": 'make bench-methods ARGS="1 1 --size 8x256"',
    "make peers": 'make peers ARGS="-k canary"',
    "make docs": "make docs ARGS=--check",
    "make lint": "make lint",
}
SERVERS = {
    "dynclip ui": "dynclip ui --port {port}",
    "make ui": 'make ui ARGS="--port {port}"',
}
# They take long, or run some tests again.
SLOW = ("make bench", "make bench-methods", "make peers", "make test", "make test-all")


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme_is_known_here():
    assert sorted(commands()) == sorted([*RUN, *SERVERS]) and {*SLOW} <= {*RUN}


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in RUN]
)
def test_command(finished, command):
    workspace, _ = finished
    done = workspace.run(*shlex.split(RUN[command]))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("command", [pytest.param("dynclip ui", marks=pytest.mark.slow), "make ui"])  # which calls it
def test_server_answers_on_loopback(finished, command):
    workspace, _ = finished
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (workspace.root / "server.log").open("w") as log:
        process = subprocess.Popen(
            shlex.split(SERVERS[command].format(port=port)), cwd=workspace.root, env=workspace.environment(),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            assert "MLflow" in page(f"http://127.0.0.1:{port}", time.monotonic() + 300)
        finally:
            Workspace.stop(process, signal.SIGTERM)


def page(address, deadline):
    while True:
        try:
            return urllib.request.urlopen(address, timeout=5).read().decode()
        except OSError:
            assert time.monotonic() < deadline, f"{address} did not answer"
            time.sleep(0.5)


def test_adding_a_method_as_described_trains_it_alone(finished):
    workspace, _ = finished
    function, entry = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    bounds = workspace.root / "dynclip" / "methods" / "bounds.py"
    before, runs = bounds.read_text(), workspace.root / RESULTS / "runs" / "closing"
    try:
        head, tail = before.split("METHODS = (\n")
        bounds.write_text(f"{head}{function}\n\nMETHODS = (\n{entry.rstrip()},\n{tail}")
        planned = workspace.planned(config=("methods=grpo,closing",))
        done = workspace.run("dynclip", "train", "--scale", "miniature", "--method", "closing", "--seeds", "0")
        written = runs / "seed0" / "run.json"
        assert done.returncode == 0 and written.exists(), done.stdout[-2000:]
    finally:
        bounds.write_text(before)
        shutil.rmtree(runs, ignore_errors=True)
    assert planned["train"] == 1 and planned["evaluate"] == 1, "one job for all seeds of the new method"
    assert "closing" not in METHODS


def test_the_file_tree_names_real_files():
    tree = README.split("## Where things are")[1]
    named = re.findall(r"^    (\S+)", tree, re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_relative_links_lead_somewhere():
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        links = re.findall(r"\]\(([^)]+)\)", page.read_text())
        dead = [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).exists()]
        assert dead == [], page
