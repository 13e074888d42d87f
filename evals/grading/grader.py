r"""Grading: is the final answer of a text equal to the gold? One function for rewards and benchmarks.

A text's answer is found, written in one form and, where both sides are plain numbers, compared here, at thousands per
second, in any thread of any process. Everything else is compared by math-verify under the rules of `equivalence.py`, in
worker processes that are killed at their limits. Every decision and its reason: docs/grading.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from evals.grading.answers import MAX_ANSWER, extract, last_boxes
from evals.grading.cleaning import INTEGER, clean, too_large
from evals.grading.numbers import Reading, compare_readings, read
from evals.grading.workers import POOL

GRADER_VERSION = "2"  # changes with any decision: stored with scores, and what makes stored texts graded again
TIMEOUT_S = 1.9  # for a comparison, so that a text is settled within two seconds


@dataclass(frozen=True)
class Verdict:
    """`status`: "correct", "wrong", "unparsable" (or no answer), "timed_out" (or out of memory) or "truncated"."""

    correct: bool
    status: str


def grade(prediction: str, gold: str, tolerance: str = "") -> bool:
    """Whether the final answer of `prediction`, a whole response, equals `gold`."""
    return grade_many([(prediction, gold)], tolerances=[tolerance])[0].correct


def grade_many(
    pairs: Sequence[tuple[str, str]],
    timeout_s: float = TIMEOUT_S,
    truncated: Sequence[bool] | None = None,
    tolerances: Sequence[str] | None = None,
) -> list[Verdict]:
    """A verdict for each (prediction, gold); equal ones are graded once. Never raises for what the texts hold.

    `truncated[i]` says that prediction i was cut off: where it then has no answer, its status is "truncated".
    `tolerances[i]` is the absolute error that gold i grants, as OlympiadBench writes it ("1e-1"; "" for none).
    `timeout_s` bounds each comparison by math-verify; those beyond it are "timed_out".
    """
    given = tolerances or [""] * len(pairs)
    cuts = truncated or [False] * len(pairs)
    wanted = [(prediction, gold, tolerance or "") for (prediction, gold), tolerance in zip(pairs, given, strict=True)]
    judged = judge_many(list(dict.fromkeys(wanted)), timeout_s)
    verdicts = []
    for key, cut in zip(wanted, cuts, strict=True):
        status = judged[key]
        if status is None:
            status = "truncated" if cut else "unparsable"
        verdicts.append(Verdict(status == "correct", status))
    return verdicts


def judge_many(wanted: list[tuple[str, str, str]], timeout_s: float) -> dict[tuple[str, str, str], str | None]:
    """The status of each (prediction, gold, tolerance), None where the prediction has no answer."""
    judged: dict[tuple[str, str, str], str | None] = {}
    open_questions: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {}
    for key in wanted:
        prediction, gold, tolerance = key
        answer = extract(prediction)
        if answer is None:
            judged[key] = None
            continue
        judged[key] = compare(answer, gold, tolerance)
        if judged[key] is None:
            for question in questions(prediction, answer, gold, tolerance):
                open_questions.setdefault(question, []).append(key)
    for question, status in zip(open_questions, POOL.map(list(open_questions), timeout_s), strict=True):
        for key in open_questions[question]:
            if judged[key] is None or status == "correct":
                judged[key] = status
    return judged


def questions(prediction: str, answer: str, gold: str, tolerance: str) -> list[tuple[str, str, str]]:
    """What the workers are asked about a text: its answer and, where the gold has parts, its last boxes together."""
    expected = form(gold).text_and_marks
    asked = [(form(answer).text_and_marks, expected, tolerance)]
    if any(mark in expected for mark in (",", ";", "\\pm", " and ", " or ")) and (boxes := last_boxes(prediction)):
        together = form(boxes).text_and_marks
        if not too_large(together):
            asked.append((together, expected, tolerance))
    return asked


def compare(answer: str, gold: str, tolerance: str = "") -> str | None:
    """The status of an extracted answer where it can be told without mathematics, else None."""
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold) and not tolerance:
        return "correct" if answer == gold else "wrong"
    if len(answer) > MAX_ANSWER:
        return "unparsable"
    given, expected = form(answer), form(gold)
    if given.text_and_marks == expected.text_and_marks and given.text_and_marks:
        return "correct"
    if too_large(given.text_and_marks) or too_large(expected.text_and_marks):
        return "unparsable"
    plain = compare_readings(given.reading, expected.reading, Fraction(tolerance) if tolerance else None)
    if plain is None or (not plain and "," in expected.text_and_marks):
        return None if given.text_and_marks else "unparsable"
    return "correct" if plain else "wrong"


@dataclass(frozen=True)
class Form:
    """An answer in one form, as text and taken apart."""

    text_and_marks: str
    reading: Reading


@lru_cache(maxsize=4096)
def form(text: str) -> Form:
    cleaned = clean(text)
    return Form(cleaned, read(cleaned) if len(cleaned) <= MAX_ANSWER else Reading(cleaned))
