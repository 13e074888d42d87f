"""The committed comparison with other harnesses: page and document follow from its data, and each case is decided."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from evals.grading import GRADER_VERSION, grade_many

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results" / "reference" / "agreement"
ONE_FORM = "strict-match|minerva_math500$|hendrycks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import agreement_kinds
    import agreement_page

    return agreement_page, agreement_kinds


@pytest.fixture(scope="module")
def verdicts():
    return pd.read_parquet(FOLDER / "verdicts.parquet")


@pytest.fixture(scope="module")
def differences():
    return pd.read_csv(FOLDER / "differences.csv", keep_default_na=False)


def test_the_page_follows_from_the_data(bench):
    assert bench[0].page(FOLDER) == (FOLDER / "README.md").read_text(), "write it: python bench/agreement.py --page …"


def test_every_difference_is_listed_and_decided(bench, verdicts, differences):
    page, kinds = bench
    assert set(differences["kind"]) == set(kinds.KINDS)
    listed = differences.groupby(["source", "set", "rule", "correct"]).size()
    for row in page.count(verdicts).itertuples():
        found = [listed.get((row.source, row.set, row.rule, side), 0) for side in ("dynclip", "harness")]
        assert found == [row.ours, row.theirs], row


def test_there_are_two_thousand_responses_and_they_are_stored(verdicts):
    model = verdicts[verdicts["source"] == "model"]
    assert len(model) >= 2000
    for name, part in model.groupby("set"):
        table = pd.read_parquet(FOLDER / "samples" / f"{name}.parquet")
        assert list(zip(part["problem"], part["index"], strict=True)) == list(
            zip(table["problem_id"], table["index"], strict=True)
        )


def test_the_grader_of_today_gives_the_listed_verdicts(bench, differences):
    """On the responses that dynclip and a harness score differently; their gold answers are listed."""
    assert json.loads((FOLDER / "agreement.json").read_text())["grader"] == GRADER_VERSION
    texts = {}
    for path in (FOLDER / "samples").glob("*.parquet"):
        for row in pd.read_parquet(path).to_dict("records"):
            texts[row["problem_id"], row["index"]] = row["text"], row["finish"] != "stop"
    # To see that an answer repeats its problem needs the problem's text, which is not committed.
    alone = (differences["source"] == "model") & (differences["kind"] != "the problem's own formula")
    rows = differences[alone].to_dict("records")
    found = [texts[row["problem"], row["index"]] for row in rows]
    graded = grade_many(
        [(text, row["gold"]) for (text, _), row in zip(found, rows, strict=True)],
        truncated=[cut for _, cut in found],
        flexible=True,
    )
    for row, verdict in zip(rows, graded, strict=True):
        ours = verdict.correct if bench[0].mode_of(row["rule"]) == "strict" else verdict.flexible
        assert ours == (row["correct"] == "dynclip"), row


def test_the_document_states_the_counts(bench, verdicts):
    page = (ROOT / "docs" / "grading.md").read_text()
    names = {"model": "responses", "solution": "solutions"}
    for row in bench[0].count(verdicts).itertuples():
        if row.source in names and row.set != "aime24" and not re.search(ONE_FORM, row.rule):
            agree = f"{row.both + row.neither:,} of {row.n:,}"
            line = (
                f"| {names[row.source]}, {bench[0].SETS[row.set]} | {row.rule} | {agree} | {row.ours} | {row.theirs} |"
            )
            assert line in page, line
    formulas = verdicts[verdicts["source"] == "own formula"]
    rules = ("strict", "lm-eval minerva_math500 math_verify", "lighteval math_500", "evalscope math_500")
    counts = [formulas.loc[formulas[rule].astype(bool), "problem"].nunique() for rule in rules]
    said = "for {} problems, math_verify (lm-eval) for {}, lighteval for {} and EvalScope for {}"
    assert said.format(*counts) in page
    solved = verdicts[verdicts["set"].isin(["gsm8k", "math500"])].groupby("source")["strict"]
    assert solved.all()["solution"] and solved.sum()["next gold"] == 1  # 5 and x=5


def test_the_files_name_no_path_of_a_machine():
    for path in FOLDER.rglob("*"):
        if path.suffix in (".md", ".json", ".csv"):
            assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work)/", path.read_text()), path
