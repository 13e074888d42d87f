"""The grader on the gold answers of the benchmarks: equal variants, changed variants and fixed answers.

A local hub serves the gold answers from ../shared; without that folder these tests are skipped. DYNCLIP_EXAMPLES sets
how often each gold answer is perturbed (default 1).
"""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from gold_variants import WRAPPERS, perturbations
from grading_decisions import DOCUMENT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lazy_answers import HOSTILE, lazy_answers

from evals.grading import GRADER_VERSION, grade_many

HERE = Path(__file__).parent
TABLE = HERE / "lazy_equalities.txt"
EXAMPLES = int(os.environ.get("DYNCLIP_EXAMPLES", "1"))


@pytest.fixture(scope="session")
def every_gold(golds) -> list[tuple[str, str]]:
    """Return each different (gold answer, tolerance)."""
    return list(dict.fromkeys(gold for rows in golds.values() for gold in rows))


@pytest.fixture(scope="session", params=[12, pytest.param(1, marks=pytest.mark.slow)], ids=["a twelfth", "all"])
def graded(request, every_gold) -> list[tuple[str, str]]:
    """Return the gold answers that other answers are compared with."""
    return every_gold[:: request.param]


def test_wrappers_change_no_verdict(every_gold):
    cases = [(name, gold, tolerance) for name in WRAPPERS for gold, tolerance in every_gold]
    verdicts = grade_many(
        [(WRAPPERS[name](gold), gold) for name, gold, _ in cases], tolerances=[tolerance for *_, tolerance in cases]
    )
    assert [(*case, v.status) for case, v in zip(cases, verdicts, strict=True) if not v.correct] == []
    assert len(cases) > 35_000


CONSTANT = re.compile(r"[fg]\([A-Za-z]\)=(-?\d+)(?![\w+])")  # renaming the variable of a constant function is allowed


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_no_gold_is_answered_by_another_answer_like_it(every_gold, graded, seed):
    draw = random.Random(seed)
    cases = [(*case, gold) for gold, tolerance in graded if not tolerance for case in perturbations(gold, draw)]
    verdicts = grade_many([(f"\\boxed{{{answer}}}", gold) for _, answer, gold in cases])
    fooled = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.correct]
    assert [case for case in fooled if CONSTANT.sub(r"f=\1", case[1]) != CONSTANT.sub(r"f=\1", case[2])] == []
    assert {verdict.status for verdict in verdicts} <= {"correct", "wrong", "unparsable"}
    kinds = Counter(kind for kind, *_ in cases)
    share = len(graded) / len(every_gold)
    assert len(cases) > 3000 * share and len(kinds) == 10 and kinds["a digit"] > 900 * share


@pytest.fixture(scope="session")
def answers(graded, every_gold) -> list[str]:
    return lazy_answers((gold for gold, _ in graded), len(every_gold) // len(graded))


@pytest.fixture(scope="session")
def equal_pairs(graded, every_gold) -> list[tuple[str, str]]:
    """Return the (fixed answer, gold answer) pairs that the grader calls equal, identical texts included."""
    script = [sys.executable, str(HERE / "lazy_answers.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    asked = json.dumps([graded, len(every_gold) // len(graded)])
    done = subprocess.run(script, input=asked, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(pair) for pair in json.loads(done.stdout)]


def reviewed() -> set[tuple[str, str]]:
    lines = TABLE.read_text().splitlines()
    return {tuple(line.split("\t")) for line in lines if line and not line.startswith("# ")}


def test_a_fixed_answer_scores_the_golds_that_it_equals_and_no_other(every_gold, graded, answers, equal_pairs):
    assert len(answers) >= (3000 if graded == every_gold else 500)
    written_otherwise = {pair for pair in equal_pairs if pair[0] != pair[1]}
    golds = {gold for gold, _ in graded}
    expected = {(answer, gold) for answer, gold in reviewed() if answer in answers and gold in golds}
    new, gone = written_otherwise - expected, expected - written_otherwise
    assert len(expected) > (10 if graded == every_gold else 0)
    assert not new, f"equal, and not in {TABLE.name}: is that right? {sorted(new)}"
    assert not gone, f"no longer equal, but in {TABLE.name}: {sorted(gone)}"
    assert {pair for pair in equal_pairs if pair[0] == pair[1]} == {(gold, gold) for gold in golds}
    assert graded != every_gold or expected == reviewed()


def best_fixed_answers(golds, equal_pairs) -> dict[str, tuple[str, int, int]]:
    """Return, for each benchmark, the fixed answer with the highest score, its score and the number of problems."""
    answered: dict[str, list[str]] = {}
    for answer, gold in equal_pairs:
        answered.setdefault(gold, []).append(answer)
    best = {}
    for name, rows in golds.items():
        scores = Counter(answer for gold, _ in rows for answer in answered[gold])
        most = max(scores.values())
        shortest = min((answer for answer, n in scores.items() if n == most), key=lambda a: (len(a), a))
        best[name] = shortest, most, len(rows)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("graded", [1], indirect=True, ids=["all"])
def test_the_document_names_the_best_fixed_answers_of_today(golds, equal_pairs):
    page = DOCUMENT.read_text()
    for name, (answer, score, total) in best_fixed_answers(golds, equal_pairs).items():
        assert f"| {name} | `{answer}` | {score} of {total} ({score / total:.1%}) |" in page
        assert score / total < 0.12


def test_hostile_fixed_answers_are_right_nowhere(every_gold, graded):
    some = graded[:: len(graded) // (12 if graded == every_gold else 1)]
    pairs = [(f"\\boxed{{{answer}}}", gold) for answer in HOSTILE for gold, _ in some]
    verdicts = grade_many(pairs, timeout_s=0.5)
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct] == []


SAMPLES = HERE.parents[1] / "results" / "reference" / "smollm2-135m" / "vllm"


@pytest.mark.parametrize("name", ["gsm8k", "math500", "aime24"])
def test_committed_samples_are_graded_as_their_scores_say(problems, name):
    record = json.loads((SAMPLES / f"{name}.json").read_text())
    rows = pd.read_parquet(SAMPLES / f"{name}.parquet").to_dict("records")
    golds = {problem: (gold, tolerance) for gold, tolerance, problem in problems[name]}
    assert record["grader"] == GRADER_VERSION and record["headline"] == "strict"
    verdicts = grade_many(
        [(row["text"], golds[row["problem_id"]][0]) for row in rows],
        truncated=[row["finish"] != "stop" for row in rows],
        tolerances=[golds[row["problem_id"]][1] for row in rows],
        flexible=True,
    )
    assert [(v.status, v.correct, v.flexible) for v in verdicts] == [
        (row["status"], row["correct"], row["flexible"]) for row in rows
    ]
    assert Counter(v.status for v in verdicts) == Counter({k: n for k, n in record["verdicts"].items() if n})
    assert record["avg_at_k"]["value"] == pytest.approx(sum(v.correct for v in verdicts) / len(rows))
    assert record["flexible"]["avg_at_k"]["value"] == pytest.approx(sum(v.flexible for v in verdicts) / len(rows))
