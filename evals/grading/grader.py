r"""The verdict on a response: its final answer is found, written in one form and compared with the gold.

Where both sides are plain numbers they are compared here, at thousands per second, in any thread of any process.
Everything else is compared by the rules of `equivalence.py` in worker processes that are killed at their limits. Every
decision and its reason: docs/grading.md.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations

from evals.grading.answers import MAX_ANSWER, extract, fall_back, last_boxes, text_of
from evals.grading.cleaning import INTEGER, clean, too_large
from evals.grading.numbers import compare_readings, readings
from evals.grading.workers import POOL

GRADER_VERSION = "3"  # changes with any decision: stored with scores, and what makes stored texts graded again
TIMEOUT_S = 1.9  # of processor time for a comparison, so that a text is settled within two seconds on an idle core


@dataclass(frozen=True)
class Verdict:
    """`status`: "correct", "wrong", "unparsable" (or no answer), "timed_out" (or out of memory) or "truncated".

    `correct` is strict: the response marks its answer. `flexible` counts an answer without a mark as well, where
    `grade_many` was asked for it.
    """

    correct: bool
    status: str
    flexible: bool = False


@dataclass(frozen=True)
class Question:
    """Whether `answer`, or else `together` (the last boxes as one answer), equals `gold` within its `tolerance`."""

    answer: str
    gold: str
    tolerance: str = ""
    together: str = ""


def grade(prediction, gold, tolerance: str = "") -> bool:
    """Whether the final answer of `prediction`, a whole response, equals `gold`."""
    return grade_many([(prediction, gold)], tolerances=[tolerance])[0].correct


def grade_many(
    pairs: Sequence[tuple],
    timeout_s: float = TIMEOUT_S,
    truncated: Sequence[bool] | None = None,
    tolerances: Sequence[str] | None = None,
    flexible: bool = False,
) -> list[Verdict]:
    """A verdict for each (prediction, gold); equal ones are graded once. Never raises for what the texts hold.

    Predictions and golds are texts; None, numbers and lists of chat messages stand for theirs.
    `truncated[i]` says that prediction i was cut off: where it then has no answer, its status is "truncated".
    `tolerances[i]` is the absolute error that gold i grants, as OlympiadBench writes it ("1e-1"; "" for none).
    `timeout_s` bounds each comparison's processor time; those beyond it are "timed_out".
    `flexible` fills `Verdict.flexible` as well, from the same pass: a response without a mark is read by its end.
    """
    given = tolerances or [""] * len(pairs)
    cuts = truncated or [False] * len(pairs)
    wanted = [
        (
            prediction if isinstance(prediction, str) else text_of(prediction),
            gold if isinstance(gold, str) else text_of(gold),
            tolerance or "",
        )
        for (prediction, gold), tolerance in zip(pairs, given, strict=True)
    ]
    strict: dict[tuple, str] = {}
    marked, unmarked = {}, {}
    for key in dict.fromkeys(wanted):
        text, gold, tolerance = key
        answer = extract(text)
        if answer is None:
            if flexible and (answer := fall_back(text)) is not None:
                unmarked[key] = Question(answer, gold, tolerance)
        elif (status := compare(answer, gold, tolerance)) is not None:
            strict[key] = status
        else:
            marked[key] = Question(answer, gold, tolerance, boxes_together(text, gold))
    strict |= settle(marked, timeout_s)
    lenient = settle(unmarked, timeout_s)
    return [
        verdict(strict.get(key) or ("truncated" if cut else "unparsable"), lenient.get(key) == "correct")
        for key, cut in zip(wanted, cuts, strict=True)
    ]


@cache
def verdict(status: str, unmarked: bool) -> Verdict:
    """The verdict for a status; `unmarked`: an answer that nothing marks is correct."""
    return Verdict(status == "correct", status, status == "correct" or unmarked)


def boxes_together(text: str, gold: str) -> str:
    r"""The boxes that end a text as one answer, where the gold has several parts: `\boxed{1} and \boxed{2}` for 1,2."""
    if not any(mark in gold for mark in (",", ";", "\\pm", " and ", " or ", "\\text{and}", "\\text{or}")):
        return ""
    boxes = last_boxes(text)
    return boxes if boxes and len(boxes) <= MAX_ANSWER else ""


def settle(questions: dict[Hashable, Question], timeout_s: float) -> dict[Hashable, str]:
    """The status of each question, those that take mathematics from the workers; equal ones are asked once."""
    settled: dict[Hashable, str] = {}
    asked: dict[tuple[str, str, str], list[Hashable]] = {}
    for key, question in questions.items():
        if (status := compare(question.answer, question.gold, question.tolerance)) is not None:
            settled[key] = status
            continue
        for answer in filter(None, (question.answer, question.together)):
            text, gold = clean(answer), clean(question.gold)
            if not too_large(text):
                asked.setdefault((text, gold, question.tolerance), []).append(key)
    for pair, status in zip(asked, POOL.map(list(asked), timeout_s), strict=True):
        for key in asked[pair]:
            if key not in settled or status == "correct":
                settled[key] = status
    return settled


def compare(answer: str, gold: str, tolerance: str = "") -> str | None:
    """The status of an extracted answer where it can be told without mathematics, else None."""
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold) and not tolerance:
        return "correct" if answer == gold else "wrong"
    if len(answer) > MAX_ANSWER:
        return "unparsable"
    given, expected = clean(answer), clean(gold)
    if given == expected and given:
        return "correct"
    if not given or too_large(given) or too_large(expected):
        return "unparsable"
    plain = compare_readings(*readings(given, expected), Fraction(tolerance) if tolerance else None)
    if plain is None or (not plain and "," in expected):
        return None
    return "correct" if plain else "wrong"


# --- votes ------------------------------------------------------------------------------------------------------

MAX_CANDIDATES = 16  # answers of one problem, each different as a text, that are compared with one another as values


def candidates(groups: Sequence[Sequence[str | None]], timeout_s: float = TIMEOUT_S) -> list[list[str | None]]:
    """For each answer of each group the candidate that it votes for: the first answer of the group that is equal to it.

    Equal are answers with the same plain form and those that the grader's own rules find equal both ways. None does not
    vote. Beyond the first MAX_CANDIDATES texts of a group only the form decides.
    """
    firsts = [first_of_each_form(group) for group in groups]
    pairs = {
        (i, a, b): Question(b, a)
        for i, texts in enumerate(firsts)
        for a, b in combinations([*texts.values()][:MAX_CANDIDATES], 2)
    }
    forward = settle(pairs, timeout_s)
    back = {key: Question(question.gold, question.answer) for key, question in pairs.items()}
    back = settle({key: question for key, question in back.items() if forward[key] == "correct"}, timeout_s)
    found = []
    for i, (group, texts) in enumerate(zip(groups, firsts, strict=True)):
        stands_for: dict[str, str] = {}
        for text in texts.values():
            equal = (a for a in stands_for.values() if back.get((i, a, text)) == "correct")
            stands_for[text] = next(equal, text)
        found.append([None if answer is None else stands_for[texts[clean(answer)]] for answer in group])
    return found


def first_of_each_form(group: Sequence[str | None]) -> dict[str, str]:
    """Plain form -> the first answer of a group that is written so."""
    texts: dict[str, str] = {}
    for answer in group:
        if answer is not None:
            texts.setdefault(clean(answer), answer)
    return texts


# What a graded response is worth in training. The paper does not say which reward it uses.
REWARDS: dict[str, Callable[[bool], float]] = {
    "correct": lambda correct: 1.0 if correct else 0.0,
    # DAPO's (arXiv 2503.14476, eq. 7). Advantages are normalised in groups: up to the 1e-4 beside the standard
    # deviation they are those of "correct".
    "signed": lambda correct: 1.0 if correct else -1.0,
}


def rewards(name: str, completions: Sequence[str], golds: Sequence[str]) -> list[float]:
    """The reward `name` of each completion, graded against its gold as evaluation grades it."""
    return [REWARDS[name](verdict.correct) for verdict in grade_many(list(zip(completions, golds, strict=True)))]
