"""Evaluations as a whole: incremental, continued after a kill, graded again without a model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tiny_models import CHAT, save_tiny

from dynclip.runtime.errors import UserError
from evals import evaluation, grading, metrics, scoring
from evals.benchmarks.hub import LOCAL_COPY
from evals.benchmarks.loading import content_hash, load_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS
from evals.engines import start
from evals.evaluation import Request
from evals.sampling.models import resolve
from evals.sampling.prompts import TEMPLATES
from evals.sampling.settings import Evaluation, Sampling
from evals.sampling.task import Task

ROOT = Path(__file__).resolve().parents[2]


def score(model, out: Path, k: int, limit: int, max_tokens: int = 8, template: str = "auto") -> dict:
    """The score record of `facts`."""
    how = Evaluation(k=k, limit=limit, max_tokens=max_tokens, engine="transformers", template=template)
    return evaluation.evaluate(Request(resolve(str(model)), ("facts",), how, out, out))["facts"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """Four samples of each of five problems, to be copied."""
    out = tmp_path_factory.mktemp("finished")
    return out, score(tiny, out, 4, 5)


def again(tiny, finished, tmp_path, k=4, limit=5, **more):
    """A second evaluation of a copy of the first one's folder."""
    if not (tmp_path / "out").exists():
        shutil.copytree(finished[0], tmp_path / "out")
    return score(tiny, tmp_path / "out", k, limit, **more)


@pytest.fixture
def no_engine(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(start, "start_engine", fail)


def table(out: Path, name="facts") -> pd.DataFrame:
    return pd.read_parquet(out / f"{name}.parquet")


def test_a_record_says_what_was_done_and_what_is_promised(finished, tiny):
    out, record = finished
    assert record == json.loads((out / "facts.json").read_text())
    assert (record["k"], record["n_problems"], record["samples"]["rows"]) == (4, 5, 20)
    assert record["address"]["template"] == "plain/1" and record["address"]["model"] == resolve(str(tiny)).digest
    assert record["sampling"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8, "seed": 102}
    (maker,) = record["guarantees"]
    assert (maker["engine"], maker["samples"], maker["dtype"]) == ("transformers", 20, "float32")
    assert "released" not in record  # generated problems are new
    assert record["engine"] == "transformers" and record["grader"] == scoring.grader_version()
    assert record["tokens"] == table(out)["tokens"].sum()
    assert {"torch", "cpu", "git_commit"} <= record["environment"].keys()


def test_a_benchmark_that_its_first_load_pins_is_addressed_by_what_was_found(tiny, tmp_path, monkeypatch, capsys):
    """The address has the hash of the whole set, and the record and the log say since when its problems are public."""
    monkeypatch.setenv(LOCAL_COPY, str(tmp_path / "copies"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "copies" / "MathArena" / "aime_2026"
    folder.mkdir(parents=True)
    rows = [{"problem_idx": i, "answer": i, "problem": "3 +10 *4 . . ="} for i in range(1, 31)]  # pieces of `facts`
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = Evaluation(k=1, limit=2, max_tokens=4, engine="transformers", template="plain")
    request = Request(resolve(str(tiny)), ("aime26",), how, tmp_path / "out", tmp_path / "out")
    record = evaluation.evaluate(request)["aime26"]
    assert record["released"] == "2026-02-06" and record["n_problems"] == 2
    assert record["address"]["content"] == content_hash(load_problems(BENCHMARKS["aime26"]))
    said = "".join(capsys.readouterr())
    assert said.count("aime26: problems public since 2026-02-06: a model trained on later data may have seen them") == 1
    evaluation.tasks_of(replace(request, labels={"scale": "paper"}))  # no such line for a study
    assert "public since" not in "".join(capsys.readouterr())


def test_the_same_evaluation_again_loads_nothing_and_changes_nothing(tiny, finished, tmp_path, no_engine):
    record = again(tiny, finished, tmp_path)
    own = {name: record[name] for name in ("samples", "environment", "record_sha256")}
    assert record == finished[1] | own and record["samples"]["sha256"] == finished[1]["samples"]["sha256"]


def test_a_lost_sample_file_is_made_again_from_the_parts(tiny, finished, tmp_path, no_engine):
    shutil.copytree(finished[0], tmp_path / "out")
    (tmp_path / "out" / "facts.parquet").unlink()
    (tmp_path / "out" / "facts.json").unlink()
    assert again(tiny, finished, tmp_path)["samples"]["sha256"] == finished[1]["samples"]["sha256"]


def test_a_larger_k_and_more_problems_generate_the_rest_only(tiny, finished, tmp_path, monkeypatch):
    asked = []
    real = start.TransformersEngine.stream

    def counting(self, prompts, n, *rest, **more):
        asked.append((len(prompts), n))
        return real(self, prompts, n, *rest, **more)

    monkeypatch.setattr(start.TransformersEngine, "stream", counting)
    before = table(finished[0])
    again(tiny, finished, tmp_path, k=16)
    assert asked == [(5, 12)]
    after = table(tmp_path / "out")
    kept = after[after["index"] < 4].reset_index(drop=True)
    assert len(after) == 80 and kept.equals(before)
    again(tiny, finished, tmp_path, k=16, limit=7)
    assert asked[1:] == [(2, 16)]
    assert again(tiny, finished, tmp_path, k=2, limit=3)["samples"]["rows"] == 6 and len(asked) == 2


def test_later_samples_are_not_the_first_ones_again(tiny, finished, tmp_path):
    again(tiny, finished, tmp_path, k=8)
    texts = table(tmp_path / "out").groupby("problem_id")["text"].apply(list)
    assert any(each[:4] != each[4:] for each in texts)


def test_another_template_or_sampling_is_sampled_anew_beside_the_old(tiny, finished, tmp_path):
    again(tiny, finished, tmp_path, max_tokens=4)
    again(tiny, finished, tmp_path, template="dapo")
    parts = tmp_path / "out" / "facts.parts"
    assert len([path for path in parts.iterdir() if path.is_dir()]) == 3
    addresses = [json.loads(path.read_text()) for path in parts.glob("*/address.json")]
    assert {address["template"] for address in addresses} == {"plain/1", "dapo/2"}


def test_a_new_grader_grades_stored_text_without_a_model(tiny, finished, tmp_path, monkeypatch, no_engine):
    graded = []
    real = grading.grade_many
    monkeypatch.setattr(grading, "grade_many", lambda pairs, **more: graded.append(len(pairs)) or real(pairs, **more))
    again(tiny, finished, tmp_path)
    assert 20 not in graded
    monkeypatch.setattr(scoring, "grader_version", lambda: "another")
    assert again(tiny, finished, tmp_path)["grader"] == "another" and 20 in graded


def test_the_grader_sees_the_problem():
    problem = Problem("p", "What is $2^5$?", "32", 1, "x", "")
    texts = [r"\boxed{2^5}", r"\boxed{2^4 \cdot 2}", "It is $2^5$"]
    rows = [
        {"problem_id": "p", "index": i, "text": text, "tokens": 9, "finish": "stop"} for i, text in enumerate(texts)
    ]
    judged = scoring.with_verdicts(rows, [problem], {})
    assert [(row["correct"], row["flexible"]) for row in judged] == [(False, False), (True, True), (False, False)]


def test_one_pass_gives_a_strict_and_a_flexible_score_and_votes_by_value():
    problem = Problem("p", "2+3?", "5", 1, "x", "")
    texts = [r"\boxed{5}", "It is 5.", r"\boxed{0.5}", r"\boxed{\frac12}", r"\boxed{1/2}", r"\boxed{5.0}"]
    texts += [r"\boxed{??}"]
    rows = [
        {"problem_id": "p", "index": i, "text": text, "tokens": 9, "finish": "stop"} for i, text in enumerate(texts)
    ]
    judged = scoring.with_verdicts(rows, [problem], {})
    assert [row["correct"] for row in judged] == [True, False, False, False, False, True, False]
    assert [row["flexible"] for row in judged] == [True, True, False, False, False, True, False]
    assert [row["candidate"] for row in judged] == ["5", None, "0.5", "0.5", "0.5", "5", "??"]
    found = metrics.score(judged)
    assert found["headline"] == "strict" and found["maj_at_k"] == 0  # three votes for a half, two for five
    assert (found["avg_at_k"]["value"], found["flexible"]["avg_at_k"]["value"]) == (2 / 7, 3 / 7)
    known = {(row["problem_id"], row["index"]): row for row in judged}
    assert scoring.with_verdicts(rows, [problem], known) == judged


def test_a_damaged_part_is_generated_again_the_same(tiny, finished, tmp_path, capsys):
    shutil.copytree(finished[0], tmp_path / "out")
    (part,) = (tmp_path / "out").rglob("*+*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    assert again(tiny, finished, tmp_path)["samples"]["sha256"] == finished[1]["samples"]["sha256"]
    assert str(part) in capsys.readouterr().err


def test_overflow_is_a_verdict_and_not_the_end(tmp_path):
    short = save_tiny(tmp_path / "short", positions=6)
    record = score(short, tmp_path / "out", 2, 20)
    found = table(tmp_path / "out")
    over = found[found["finish"] == "overflow"]
    assert len(over) == 40 and set(over["status"]) == {"truncated"} and set(over["tokens"]) == {0}
    assert record["overflow_share"] == 1


def test_a_chat_model_is_asked_through_its_template(tmp_path):
    chatty = save_tiny(tmp_path / "chatty", chat=CHAT)
    record = score(chatty, tmp_path / "out", 1, 2)
    assert record["address"]["template"] == "chat/1"


def test_vllm_that_cannot_run_a_model_gives_way_only_where_nobody_asked_for_it(tiny, monkeypatch):
    def refuse(*_, **__):
        raise UserError("vLLM cannot run it")

    monkeypatch.setattr(start.VLLMEngine, "load", refuse)
    choice = start.Choice("vllm", "cpu", "float32", "")
    said = []
    machine = start.hardware.detect()
    task = Task("x", "", [], 1, Sampling(1.0, 1.0, 0, 4), 0, TEMPLATES["plain"], 0, 0)
    engine = start.start_engine(choice, resolve(str(tiny)), [task], machine, 4, True, said.append)
    assert engine.name == "transformers" and "going on with transformers" in said[0]
    with pytest.raises(UserError, match="vLLM cannot run it"):
        start.start_engine(choice, resolve(str(tiny)), [task], machine, 4, False)


def command(tiny, out, k=8):
    return [
        sys.executable, "-m", "dynclip.cli", "evaluate", "--model", str(tiny), "--benchmark", "facts",
        "--benchmark", "worded", "--k", str(k), "--limit", "100", "--max-tokens", "24",
        "--engine", "transformers", "--out", str(out),
    ]  # fmt: skip


def test_a_killed_evaluation_goes_on_and_ends_as_if_it_had_not_been(tiny, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        command(tiny, killed), env=environment, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 600
    while len(list(killed.rglob("*+*.parquet"))) < 3:
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = {path: path.read_bytes() for path in killed.rglob("*+*.parquet")}
    assert not (killed / "worded.parquet").exists()

    done = subprocess.run(command(tiny, killed), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of 800 samples are stored" in done.stderr
    assert all(path.read_bytes() == content for path, content in parts.items()), "finished parts were left alone"
    done = subprocess.run(command(tiny, whole), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("facts", "worded"):
        found = table(killed, name)
        assert not found.duplicated(["problem_id", "index"]).any() and len(found) == 800
        assert found.equals(table(whole, name)), "the transformers engine promises the very same samples"
