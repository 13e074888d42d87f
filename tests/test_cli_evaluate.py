"""`dynclip evaluate` as a person calls it: a tiny local model, a generated benchmark, bad input."""

import json
import sys
from pathlib import Path

import pytest

from dynclip.cli.commands import main

sys.path.insert(0, str(Path(__file__).parent / "evals"))
from tiny_models import THINK, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def evaluate(model, *words):
    return main(["evaluate", "--model", str(model), *words])


def test_a_score_with_its_error_time_speed_and_samples_is_printed(tiny, capsys):
    words = ("--benchmark", "facts", "--benchmark", "worded", "--k", "2", "--limit", "3", "--max-tokens", "8")
    assert evaluate(tiny, *words, "--out", "here", "--log", "here/log.txt") == 0
    said = capsys.readouterr()
    for name in ("facts", "worded"):
        (line,) = [line for line in said.out.splitlines() if line.startswith(f"{name}: strict avg@2 ")]
        assert "±" in line and "; flexible " in line and "3 of 200 problems" in line and "tokens/s" in line
        assert f"samples: here/{name}.parquet" in said.out
        assert Path("here", f"{name}.json").is_file() and Path("here", f"{name}.parquet").is_file()
    assert "engine transformers: 12 samples of about 8 tokens" in said.err and "template plain/1" in said.err
    assert "tokens/s" in Path("here/log.txt").read_text() and " left" in said.err

    assert evaluate(tiny, *words, "--out", "here") == 0
    again = capsys.readouterr()
    assert "none to generate" in again.err and "engine" not in again.err and again.out == said.out

    assert main(["samples", "here", "--wrong", "--benchmark", "worded", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "problem:" in shown and "gold:" in shown and "response:" in shown


def test_without_out_results_have_a_place_by_the_models_name(tiny, capsys):
    assert evaluate(tiny, "--benchmark", "facts", "--k", "1", "--limit", "2", "--temperature", "0") == 0
    (found,) = Path("results/evaluations").iterdir()
    assert found.name.endswith("--tiny") and (found / "facts.json").is_file()


def test_shots_and_a_thinking_budget_are_recorded_and_have_their_own_samples(tmp_path, capsys):
    model = save_tiny(tmp_path / "thinking", chat=THINK, tags=("<think>", "</think>"))
    words = ("--benchmark", "facts", "--k", "2", "--limit", "2", "--max-tokens", "9", "--out", "here")
    found = []
    for more in ((), ("--thinking-budget", "4"), ("--shots", "3")):
        assert evaluate(model, *words, *more) == 0
        found.append(json.loads(Path("here/facts.json").read_text()))
    plain, budget, shots = found
    assert "thinking_budget" not in plain["sampling"] and budget["address"]["sampling"]["thinking_budget"] == 4
    assert plain["address"] | {"sampling": budget["address"]["sampling"]} == budget["address"]
    assert plain["shots"] is budget["shots"] is None and plain["thinking"]["unclosed_share"] > 0
    assert budget["thinking"]["tokens_mean"] <= 4 and budget["guarantees"][0]["continues"] is False
    assert shots["shots"]["n"] == len(shots["shots"]["ids"]) == 3 and shots["shots"]["set"] == "facts_train"
    assert shots["thinking"]["tokens_mean"] == 0
    assert len([place for place in Path("here/facts.parts").iterdir() if place.is_dir()]) == 3
    capsys.readouterr()
    assert evaluate(model, *words, "--thinking-budget", "4") == 0
    assert "none to generate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "give --model (a folder or a hub id) or --method (of a study), one of the two"),
        (["--model", "{tiny}", "--method", "id"], "one of the two"),
        (["--model", "{tiny}"], "which benchmark? for example --benchmark gsm8k"),
        (["--model", "{tiny}", "--benchmark", "aime99"], "unknown benchmark 'aime99'; the benchmarks are: paths"),
        (
            ["--model", "{tiny}", "--benchmark", "facts", "--k", "0"],
            "--k: expected a whole number, at least 1, given '0'",
        ),
        (
            ["--model", "{tiny}", "--benchmark", "facts", "--limit", "-1"],
            "--limit: expected a whole number, at least 1, given",
        ),
        (
            ["--model", "{tiny}", "--benchmark", "facts", "--temperature", "-1"],
            "--temperature: expected a number, at least 0",
        ),
        (
            ["--model", "{tiny}", "--benchmark", "facts", "--top-p", "0"],
            "--top-p: expected a number, more than 0 and",
        ),
        (["--model", "{tiny}", "--benchmark", "facts", "--top-p", "nan"], "--top-p: expected a number"),
        (["--model", "{tiny}", "--benchmark", "facts", "--engine", "sglang"], "unknown engine 'sglang'"),
        (["--model", "{tiny}", "--benchmark", "facts", "--template", "cot"], "unknown template 'cot'"),
        (["--model", "{tiny}", "--benchmark", "facts", "--template", "chat"], "has no chat template"),
        (["--model", "{tiny}", "--benchmark", "facts", "--template", "few-shot"], "unknown template 'few-shot'"),
        (["--model", "{tiny}", "--benchmark", "facts", "--shots", "2", "--template", "chat"], "leave --template out"),
        (["--model", "{tiny}", "--benchmark", "facts", "--shots", "9"], "--shots: expected a whole number, at least 1"),
        (
            ["--model", "{tiny}", "--benchmark", "facts", "--thinking-budget", "0"],
            "--thinking-budget: expected a whole",
        ),
        (["--method", "base", "--shots", "4"], "--shots goes with --model"),
        (["--method", "base", "--thinking-budget", "4"], "--thinking-budget goes with --model"),
        (["--model", "{tiny}", "--benchmark", "facts", "--checkpoint", "final"], "--checkpoint goes with --method"),
        (["--model", "/no/such", "--benchmark", "facts"], "/no/such: no such folder, and not a hub id"),
        (["--model", ".", "--benchmark", "facts"], "no readable config.json"),
        (["--model", "{tiny}", "--benchmark", "facts", "--option", "eps=0.1"], "--option goes with --method"),
        (["--method", "base", "--k", "4"], "--k goes with --model"),
        (["--method", "idd"], "unknown method 'idd'"),
        (["--method", "id", "--option", "swich=1"], "method 'id': unknown option 'swich'; its options are: eps=0.2"),
        (["--nothing"], "unrecognized arguments: --nothing; see dynclip --help"),
        (
            ["--scale", "facts", "--method", "id", "--checkpoint", "step7"],
            "unknown checkpoint 'step7'; this study has: step30, final",
        ),
        (["--method", "id"], "--scale laptop stands for several scales; give one of them: paths, facts, worded"),
        (["--scale", "facts", "--method", "base", "--benchmark", "aime99"], "unknown benchmark 'aime99'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tiny, capsys, words, line):
    assert main(["evaluate", *(word.format(tiny=tiny) for word in words)]) == 2
    said = [text for text in capsys.readouterr().err.splitlines() if text.startswith("dynclip: ")]
    assert len(said) == 1 and line in said[0]
    assert not list(Path(".").rglob("*.parquet"))


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert evaluate("owner/name", "--benchmark", "facts") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "was not asked (HF_HUB_OFFLINE)" in said and "HF_ENDPOINT" in said


def test_ctrl_c_says_that_nothing_is_lost(tiny, capsys, monkeypatch):
    from evals import evaluation

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "run_tasks", interrupt)
    assert evaluate(tiny, "--benchmark", "facts", "--limit", "2") == 130
    assert "continues from what is on disk" in capsys.readouterr().err
