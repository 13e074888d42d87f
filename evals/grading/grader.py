r"""Verdicts on responses: extract the final answer, normalise it and compare it with the gold answer.

Plain numbers are compared in the calling process. Everything else is compared in worker processes with time and memory
limits. docs/grading.md lists every decision with its reason.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import combinations

from evals.grading.answers import FORMULA, MAX_ANSWER, extract, fall_back, last_boxes, text_of
from evals.grading.cleaning import INTEGER, clean, too_large
from evals.grading.numbers import compare_readings, readings
from evals.grading.workers import POOL

GRADER_VERSION = "4"  # stored with scores; stored texts are graded again when it changes
TIMEOUT_S = 1.9  # processor time of one comparison; a text then takes less than two seconds on an idle core
MAX_CANDIDATES = 16  # different answers of one problem that are compared pairwise for votes
# Between two operands, or a function of one. A sign, a comma and an equals sign leave nothing to work out.
OPERATION = re.compile(
    r"[\w)}\]!|]\s*(?:[-+*/^!]|\\(?:cdot|times|div|pmod|bmod)\b)"
    r"|\\(?:[dt]?frac|sqrt|d?binom|sum|prod|int|lim|log|ln|exp|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|gcd)(?![a-z])"
    r"|[|]|\\[lr]?vert|\\[lr](?:floor|ceil)"
)
LIST_MARKS = (",", ";", "\\pm", " and ", " or ", "\\text{and}", "\\text{or}")  # between the parts of an answer


@dataclass(frozen=True)
class Verdict:
    """`status` is "correct", "wrong", "unparsable", "timed_out" (time or memory limit) or "truncated".

    `correct` is strict: the response marks its answer. `flexible` also accepts an unmarked answer.
    `grade_many` fills it on request.
    """

    correct: bool
    status: str
    flexible: bool = False


@dataclass(frozen=True)
class Question:
    """A comparison: does `answer`, or `together` (the last boxes joined), equal `gold` within `tolerance`?"""

    answer: str
    gold: str
    tolerance: str = ""
    together: str = ""


def grade(prediction, gold, tolerance: str = "") -> bool:
    """Return whether the final answer of `prediction` (a whole response) equals `gold`."""
    return grade_many([(prediction, gold)], tolerances=[tolerance])[0].correct


def grade_many(
    pairs: Sequence[tuple],
    timeout_s: float = TIMEOUT_S,
    truncated: Sequence[bool] | None = None,
    tolerances: Sequence[str] | None = None,
    flexible: bool = False,
    problems: Sequence[str] | None = None,
) -> list[Verdict]:
    """Return one verdict per (prediction, gold answer) pair. The content of the texts never raises an error.

    Predictions and gold answers are texts; None, numbers and lists of chat messages are converted.
    `timeout_s` limits the processor time of each comparison.
    `truncated[i]` says that prediction i was cut off. Its status is "truncated" if it has no answer, and its end is
    not read: it is no answer.
    `tolerances[i]` is the absolute error allowed by gold answer i, as OlympiadBench writes it ("1e-1"; "" for none).
    `flexible` also fills `Verdict.flexible`, which reads the end of responses without a mark.
    `problems[i]` is the text of problem i. An answer that only repeats one of its formulas, with something left to work
    out, is wrong: its value may be right, and nothing was solved.
    Raises ValueError if `truncated`, `tolerances` or `problems` has another length than `pairs`.
    """
    none = [""] * len(pairs)
    keys = [
        (text_of(prediction), text_of(gold), tolerance or "", problem)
        for (prediction, gold), tolerance, problem in zip(pairs, tolerances or none, problems or none, strict=True)
    ]
    strict: dict[tuple, str] = {}
    marked, unmarked = {}, {}
    for key in dict.fromkeys(keys):  # equal pairs are graded once
        text, gold, tolerance, problem = key
        answer = extract(text)
        if answer is None:
            if flexible and (answer := fall_back(text)) is not None and not copied(answer, gold, problem):
                unmarked[key] = Question(answer, gold, tolerance)
        elif copied(answer, gold, problem):
            strict[key] = "wrong"
        elif (status := compare(answer, gold, tolerance)) is not None:
            strict[key] = status
        else:
            boxes = (last_boxes(text) or "") if any(mark in gold for mark in LIST_MARKS) else ""
            marked[key] = Question(answer, gold, tolerance, boxes if len(boxes) <= MAX_ANSWER else "")
    strict |= settle(marked, timeout_s)
    lenient = settle(unmarked, timeout_s)
    return [
        verdict(strict.get(key) or ("truncated" if cut else "unparsable"), lenient.get(key) == "correct" and not cut)
        for key, cut in zip(keys, truncated or [False] * len(pairs), strict=True)
    ]


@cache
def verdict(status: str, unmarked: bool) -> Verdict:
    return Verdict(status == "correct", status, status == "correct" or unmarked)


def copied(answer: str, gold: str, problem: str) -> bool:
    """Return whether `answer`, or its last side, is a formula of `problem` or a side of one, not written as `gold` is.

    A number, a name or another formula without an operation may stand in the problem and be its answer.
    """
    ours, theirs = ((text, text.rpartition("=")[2]) for text in (answer, gold))
    if not any(OPERATION.search(side) and compact(side) in repeated(problem) for side in ours):
        return False
    return set(map(compact, ours)).isdisjoint(map(compact, theirs))


@lru_cache(maxsize=1024)  # a problem has several responses
def repeated(problem: str) -> frozenset[str]:
    formulas = {next(filter(None, found.groups())) for found in FORMULA.finditer(problem)}
    return frozenset(compact(side) for formula in formulas for side in (formula, *formula.split("=")))


def compact(formula: str) -> str:
    return re.sub(r"[\s{}]", "", clean(formula.rstrip(" .,;:?")))


def settle(questions: dict[Hashable, Question], timeout_s: float) -> dict[Hashable, str]:
    """Return the status of each question. Workers compare what needs mathematics, each distinct comparison once."""
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
    """Return the status of an extracted answer, or None where the comparison needs mathematics."""
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
    if plain is None or (not plain and "," in expected):  # 1,234 may also be a list of two
        return None
    return "correct" if plain else "wrong"


def candidates(groups: Sequence[Sequence[str | None]], timeout_s: float = TIMEOUT_S) -> list[list[str | None]]:
    """Map each answer of each group to the candidate that it votes for: the first equal answer of its group.

    Answers are equal if they have the same normalised text, or if the grader finds them equal in both directions.
    None does not vote. Beyond the first MAX_CANDIDATES texts of a group only the normalised text counts.
    """
    firsts: list[dict[str, str]] = []  # for each group: normalised text -> the first answer with it
    for group in groups:
        texts: dict[str, str] = {}
        for answer in group:
            if answer is not None:
                texts.setdefault(clean(answer), answer)
        firsts.append(texts)
    pairs = {
        (i, a, b): Question(b, a)
        for i, texts in enumerate(firsts)
        for a, b in combinations([*texts.values()][:MAX_CANDIDATES], 2)
    }
    forward = settle(pairs, timeout_s)
    back = {key: Question(q.gold, q.answer) for key, q in pairs.items() if forward[key] == "correct"}
    back = settle(back, timeout_s)
    found = []
    for i, (group, texts) in enumerate(zip(groups, firsts, strict=True)):
        stands_for: dict[str, str] = {}
        for text in texts.values():
            equal = (a for a in stands_for.values() if back.get((i, a, text)) == "correct")
            stands_for[text] = next(equal, text)
        found.append([None if answer is None else stands_for[texts[clean(answer)]] for answer in group])
    return found


# Reward of a graded response in training. The paper does not name its reward.
REWARDS: dict[str, Callable[[bool], float]] = {
    "correct": lambda correct: 1.0 if correct else 0.0,
    # DAPO's reward (arXiv 2503.14476, eq. 7). Group normalisation makes its advantages equal to those of "correct", up
    # to the 1e-4 that is added to the standard deviation.
    "signed": lambda correct: 1.0 if correct else -1.0,
}


def rewards(
    name: str, completions: Sequence[str], golds: Sequence[str], problems: Sequence[str] | None = None
) -> list[float]:
    """Return the reward `name` of each completion, graded as in evaluation: `problems` as in `grade_many`."""
    verdicts = grade_many(list(zip(completions, golds, strict=True)), problems=problems)
    return [REWARDS[name](verdict.correct) for verdict in verdicts]
