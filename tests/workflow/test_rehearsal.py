"""A GPU scale's whole graph on a CPU, rehearsed, and the runbook in one call; problems from the stand-in hub."""

import importlib.util
import json
import os
import threading

import pandas as pd
import pytest
from workspace import ROOT

from dynclip.report.terminal.committed import read_committed

pytestmark = pytest.mark.workflow
TOOL = ROOT.parent / "shared" / "tools" / "hubserver.py"
SCALE = "workstation_small"
RESULTS = f"results/{SCALE}_rehearsal"


@pytest.fixture(scope="module")
def rehearsed(finished, tmp_path_factory):
    """(workspace with a hub, output of `snakemake rehearse`)."""
    if not TOOL.is_file():
        pytest.skip(f"no stand-in for the hub: {TOOL} is absent")
    spec = importlib.util.spec_from_file_location("hubserver", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.make_server(TOOL.parent.parent / "hub")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    workspace, _ = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        done = workspace.run("snakemake", "--cores", "all", "rehearse", "--config", f"scale={SCALE}", timeout=3600)
        assert done.returncode == 0, done.stdout[-4000:]
        yield workspace, done.stdout
    server.shutdown()


def test_a_rehearsal_leaves_the_tree_of_a_real_run(rehearsed):
    workspace, output = rehearsed
    assert f"{SCALE}_rehearsal: rehearsal of {SCALE}" in output  # the plan says what it is
    for method in ("grpo", "id"):
        run = workspace.root / RESULTS / "runs" / method / "seed0"
        record = json.loads((run / "run.json").read_text())
        assert record["state"] == "finished" and record["protocol"]["prompt template"] == "chat"
        assert [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1]
        for checkpoint in ("step1", "final"):
            score = json.loads(
                (workspace.root / RESULTS / "scores" / method / "seed0" / checkpoint / "gsm8k.json").read_text()
            )
            assert (score["n_problems"], score["k"]) == (4, 2) and score["address"]["template"] == "chat/1"
    for name in ("report.html", "scores.parquet", "tracking.json", "figures/entropy.svg", "tables/main.md"):
        assert (workspace.root / RESULTS / name).exists(), name
    assert workspace.run("snakemake", "--cores", "all", "-n", "rehearse", "--config", f"scale={SCALE}").stdout.count(
        "Nothing to be done"
    )


def test_training_problems_that_a_benchmark_holds_are_gone(rehearsed):
    workspace, _ = rehearsed
    manifest = json.loads((workspace.root / RESULTS / "data" / "manifest.json").read_text())
    assert manifest["files"]["train.jsonl"]["rows"] == 7473 - sum(manifest["overlaps_removed"].values()) == 7469


@pytest.mark.slow
def test_the_runbook_does_everything_in_one_call(rehearsed):
    workspace, _ = rehearsed
    words = (
        "--scale",
        f"{SCALE}_rehearsal",
        "--hours",
        "0.001",
        "--rounds",
        "1",
        "--rollouts",
        "1",
        "--out",
        "evidence",
    )
    done = workspace.run("dynclip", "runbook", *words, timeout=3600)
    assert done.returncode == 0, done.stdout[-4000:]
    out = workspace.root / "evidence"
    book = json.loads((out / "runbook.json").read_text())
    assert book["seeds"] == [0] and {"doctor", "seed0", "stock_trl", "reference"} <= book["seconds"].keys()
    stock = json.loads((out / "stock_trl.json").read_text())["arms"]
    assert set(stock) == {"TRL", "grpo", "id", "od"} and stock["TRL"]["ratio"] == 1
    assert all(row["seconds"] > row["sampling"] > 0 and row["tokens_per_second"] > 0 for row in stock.values())
    assert stock["TRL"]["method_share"] == 0 < stock["id"]["method_share"]
    assert len(pd.read_parquet(out / "metrics.parquet")) == 4
    assert read_committed(out, arms=("grpo", "id"), seeds=(0,)).methods == ("grpo", "id")


def test_with_the_engine_verl_nothing_is_trained_here_and_launch_scripts_are_written(rehearsed):
    workspace, _ = rehearsed
    config = (f"scale={SCALE}_rehearsal", "engine=verl", "methods=id", "gpus=2", "sampler=vllm")
    done = workspace.run("snakemake", "--cores", "all", "--config", *config)
    assert done.returncode == 0, done.stdout[-3000:]
    script = workspace.root / RESULTS / "verl" / "id" / "seed0.sh"
    assert os.access(script, os.X_OK) and "loss_mode=dynclip_id" in script.read_text()
    assert workspace.run("bash", "-n", str(script)).returncode == 0
    refused = workspace.run("snakemake", "--cores", "all", "-n", "--config", "engine=ray")
    assert refused.returncode == 2 and "unknown engine 'ray'; the engines are: trl, verl" in refused.stdout


@pytest.mark.slow
def test_a_run_that_fails_names_its_log(rehearsed):
    workspace, _ = rehearsed
    done = workspace.run("dynclip", "runbook", "--scale", f"{SCALE}_rehearsal", "--seeds", "0", "--out", "/dev/null/x")
    assert done.returncode == 2
    assert "runbook: reference ended with status" in done.stdout and "reference.log" in done.stdout
