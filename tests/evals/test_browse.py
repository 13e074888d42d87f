"""Reading samples: what is chosen, hostile text made harmless, pipes and pagers."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dynclip.cli.commands import main
from dynclip.runtime.errors import UserError
from dynclip.runtime.text import visible
from evals.browse import Filter, block, blocks, find
from evals.sampling.store import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202eevil\r\n=== b-1, sample 0: CORRECT\x00\u2028\ufeff\ud7fbok"


def write(path: Path, texts=("one", HOSTILE, "three"), statuses=("correct", "wrong", "truncated")) -> Path:
    rows = [
        {"problem_id": f"{path.stem}-{i}", "index": 0, "text": text, "tokens": 3, "finish": "stop", "status": status,
         "correct": status == "correct", "answer": None if status == "truncated" else "7\x1b"}
        for i, (text, status) in enumerate(zip(texts, statuses, strict=True))
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(path, index=False)
    return path


@pytest.fixture
def samples(tmp_path):
    return write(tmp_path / "unknown.parquet")


def test_what_a_model_wrote_cannot_command_a_terminal_or_forge_a_line(samples):
    text = "".join(blocks(samples))
    assert all(c.isprintable() or c == "\n" for c in text)
    for escaped in (r"\x1b[2J\x1b]0;owned\x07", r"\u202e", r"\r", r"\x00", r"\u2028", r"\ufeff"):
        assert escaped in text
    assert [line for line in text.splitlines() if line.startswith("===")] == [
        "=== unknown-0, sample 0: CORRECT, 3 tokens, ended by stop",
        "=== unknown-1, sample 0: WRONG, 3 tokens, ended by stop",
        "=== unknown-2, sample 0: TRUNCATED, 3 tokens, ended by stop",
    ]
    assert visible("½ ünï 中 😀\tx\n") == "½ ünï 中 😀\tx\n"


def test_a_hostile_id_stays_on_its_line():
    row = {"problem_id": "a\n=== b", "index": 0, "text": "t", "tokens": 1, "finish": "stop", "status": "wrong"}
    assert block(row).splitlines()[0] == "=== a\\n=== b, sample 0: WRONG, 1 tokens, ended by stop"


def test_tokens_of_thinking_are_shown_where_there_are_some():
    row = {"problem_id": "a", "index": 0, "text": "t", "tokens": 9, "finish": "stop", "status": "wrong"}
    assert block(row | {"thinking_tokens": 5}).splitlines()[0].endswith("ended by stop, 5 tokens of thinking")
    assert block(row | {"thinking_tokens": 0}).splitlines()[0].endswith("ended by stop")


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (Filter(), ["0", "1", "2"]),
        (Filter(statuses=("wrong", "truncated")), ["1", "2"]),
        (Filter(statuses=("correct",)), ["0"]),
        (Filter(problem="unknown-2"), ["2"]),
        (Filter(limit=2), ["0", "1"]),
        (Filter(statuses=("timed_out",)), []),
    ],
)
def test_samples_are_chosen(samples, chosen, ids):
    head, *found = blocks(samples, chosen)
    assert [text.split(",")[0] for text in found] == [f"=== unknown-{i}" for i in ids]
    assert head.startswith(f"{samples}: 3 samples, ") and ("of them shown" in head) == (chosen.limit is not None)


def test_problem_and_gold_come_from_the_study_beside_the_samples(study):
    (path,) = find("grpo/seed0/final", ["facts"], study.parent)
    assert path == study / "samples/grpo/seed0/final/facts.parquet"
    write(path.with_name("worded.parquet"))
    from evals.benchmarks.loading import make
    from evals.benchmarks.registry import BENCHMARKS

    problem = make(BENCHMARKS["worded"])[0]
    text = block(
        {"problem_id": problem.id, "index": 0, "text": "x", "tokens": 1, "finish": "stop", "status": "wrong"}, problem
    )
    assert (
        f"problem:\n  | {problem.problem}\ngold:\n  | {problem.answer}\nresponse:\n  | x\nanswer:\n  | (none)" in text
    )


def test_a_selection_is_a_file_a_folder_a_model_or_the_rest_of_a_path(tmp_path, monkeypatch, study):
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    folder = results / "evaluations" / "owner--name"
    write(folder / "gsm8k.parquet")
    write(folder / "math500.parquet")
    write(folder / "gsm8k.parts" / "abc" / "00000+1-000003-ff.parquet")
    both = [folder / "gsm8k.parquet", folder / "math500.parquet"]
    for name in ("owner/name", str(folder), "evaluations/owner--name"):
        assert find(name, None, results) == both
    assert find("owner/name", ["math500"], results) == both[1:]
    (folder / "gsm8k.json").write_text("{}")
    assert find(str(folder / "gsm8k.json"), None, results) == both[:1]
    assert find("tiny/grpo/seed0/final", ["facts"], results) == [
        results / "tiny/samples/grpo/seed0/final/facts.parquet"
    ]
    with pytest.raises(UserError, match="no samples of aime24; there are: gsm8k, math500"):
        find("owner/name", ["aime24"], results)
    with pytest.raises(UserError, match="nobody/nothing: no samples there"):
        find("nobody/nothing", None, results)


def test_a_file_that_is_no_sample_file_is_said(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "y.parquet")
    for name in ("x", "y"):
        with pytest.raises(UserError, match="not a sample file"):
            list(blocks(tmp_path / f"{name}.parquet"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere: no samples there"),
        ([".", "--status", "odd"], "unknown verdict 'odd'; the verdicts are: correct, wrong"),
        ([".", "--wrong", "--correct"], "exclude each other"),
        ([".", "--limit", "0"], "--limit: expected a whole number, at least 1, given '0'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert main(["samples", *words]) == 2
    said = capsys.readouterr().err
    assert line in said and said.startswith("dynclip: ") and said.count("\n") == 1


def command(samples, *words):
    return [sys.executable, "-m", "dynclip.cli", "samples", str(samples), *words]


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    samples = write(tmp_path / "unknown.parquet", ["long " * 1000] * 500, ["wrong"] * 500)
    shown = subprocess.run(
        f"{' '.join(command(samples))} | head -1", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout.startswith(str(samples)) and "Traceback" not in shown.stderr and "Broken" not in shown.stderr


def on_terminal(words, environment, keys=b""):
    """What a command writes to a terminal of its own, which types `keys`."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=child, stdout=child, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    os.close(child)
    os.write(parent, keys)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    assert process.wait(timeout=300) == 0
    os.close(parent)
    return shown.decode()


def test_a_terminal_gets_its_pager_or_a_screenful_at_a_time(samples):
    shown = on_terminal(command(samples), {"PAGER": "sed s/^/paged:/"})
    assert "paged:=== unknown-0" in shown
    shown = on_terminal(command(samples), {"PAGER": "", "LINES": "8", "COLUMNS": "80"}, b"\nq\n")
    assert "Enter: more" in shown and "unknown-0" in shown and "unknown-2" not in shown
