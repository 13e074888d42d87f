"""What a browser shows: MLflow's charts of a study, two runs side by side, a table of samples."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from browsing import free_port, needs_browser, page_of, running
from synthetic_study import FIVE, write_study

from dynclip.report.tracking import track
from dynclip.report.tracking.view import CHARTS, address


@pytest.fixture(scope="module")
def interface(tmp_path_factory):
    """(address of `dynclip ui`, run ids by name) for a study of five methods."""
    folder, port = tmp_path_factory.mktemp("interface"), free_port()
    write_study(folder / "results" / "tiny", FIVE, (0, 1), steps=12)
    report = track(folder / "results", "tiny")
    words = [sys.executable, "-m", "dynclip.cli", "ui", "--port", str(port)]
    with running(words, f"http://127.0.0.1:{port}/health", folder):
        yield f"http://127.0.0.1:{port}", {name: entry["run_id"] for name, entry in report.items()}


@needs_browser
def test_mlflow_opens_on_the_curves_of_five_methods(interface):
    page = page_of(address(interface[0], "1"), *(f"{method} (policy/entropy)" for method in FIVE))
    drawn = set(re.findall(r"(\w+) \(((?:policy|train|clip|eval)/\w+)\)", page))
    recorded = [metric for metric in CHARTS if metric != "policy/entropy_neutral"]  # the synthetic study lacks it
    assert {(method, metric) for method in FIVE for metric in recorded[:2]} <= drawn
    assert "Group: id" in page and "10</strong> matching runs" in page


@needs_browser
def test_two_runs_are_compared(interface):
    server, runs = interface
    pair = json.dumps([runs["grpo/seed0"], runs["id/seed0"]])
    page = page_of(f"{server}/#/compare-runs?runs={pair}&experiments=[%221%22]", "fp-id-0")
    assert "Comparing 2 Runs" in page and "grpo · seed 0" in page and "id · seed 0" in page
    assert "policy/entropy" in page and "fp-id-0" in page  # metrics and tags, side by side


@needs_browser
def test_samples_are_a_table(interface):
    server, runs = interface
    page = page_of(f"{server}/#/experiments/1/runs/{runs['id/seed0']}/artifacts/samples/facts.json", "View as table")
    assert "View as table" in page and "problem_id" in page
    assert re.search("no idea|&lt;script&gt;alert", page)  # hostile text is shown, not run


@pytest.mark.slow  # a second start of MLflow
def test_the_interface_ends_with_all_its_processes_and_names_a_port_in_use(tmp_path):
    port = free_port()
    words = [sys.executable, "-m", "dynclip.cli", "ui", "--port", str(port)]
    nothing = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert nothing.returncode == 2 and "no run was imported; run: snakemake --cores all" in nothing.stderr
    write_study(tmp_path / "results" / "tiny", ("grpo",), (0,), steps=6)
    track(tmp_path / "results", "tiny")
    with running(words, f"http://127.0.0.1:{port}/health", tmp_path) as process:
        taken = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert taken.returncode == 2 and taken.stderr.count("\n") == 1
        assert f"port {port} of this machine is in use; run: dynclip ui --port {port + 1}" in taken.stderr
        os.kill(process.pid, signal.SIGTERM)
        process.wait(300)
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port))
