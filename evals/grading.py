r"""Grading: is the final answer of a text equal to the gold? One function for rewards and benchmarks.

A text's answer is, in this order: its last balanced `\boxed{…}`; the last `Answer: …` line (DAPO's prompt);
the last `#### …` (GSM8K); the last "final answer is …" phrase. Two canonical integers are compared as they
stand: what math-verify would decide (a test holds it to that) at a thousandth of the cost, in any thread.
Everything else goes to math-verify through `compare_symbolic`, the only function that knows it.
"""

import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

MAX_TEXT = 100_000  # characters of a text that are read, from its end
MAX_ANSWER = 1_000  # characters of an answer that is given to math-verify
MAX_DIGITS = 100  # digits in a row, likewise: its cost in time and memory explodes far beyond

INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # canonical: no sign on zero, no leading zero, no plus, ASCII digits
BOXES = re.compile(r"\\boxed[ \t]*\{|\\.|[{}]", re.DOTALL)  # an escaped brace is text, not structure
ANSWER_LINE = re.compile(r"answer[ \t*]{0,8}:\s*([^\n]+)", re.IGNORECASE)
GSM8K_LINE = re.compile(r"####([^\n]*)")
PHRASE = re.compile(r"final answer is[ \t]*:?([^\n]*)", re.IGNORECASE)
SENTENCE_END = re.compile(r"\.(?:\s|$)")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Verdict:
    """`status`: "correct", "wrong", "unparsable" (or no answer), "timed_out" or "truncated"."""

    correct: bool
    status: str


def grade(prediction: str, gold: str) -> bool:
    """Whether the final answer of `prediction`, a whole response, equals `gold`."""
    return grade_many([(prediction, gold)])[0].correct


def grade_many(
    pairs: Sequence[tuple[str, str]], timeout_s: float = 5, truncated: Sequence[bool] | None = None
) -> list[Verdict]:
    """A verdict for each (prediction, gold); equal pairs are graded once.

    `truncated[i]` says that prediction i was cut off: where it then has no answer, its status is "truncated".
    `timeout_s` bounds each comparison by math-verify, which needs the main thread: RuntimeError elsewhere.
    """
    judged: dict[tuple[str, str], tuple[str | None, str]] = {}
    for prediction, gold in pairs:
        if (prediction, gold) not in judged:
            answer = extract(prediction)
            status = "unparsable" if answer is None else compare(answer, gold, timeout_s)
            judged[prediction, gold] = answer, status
    verdicts = []
    for pair, cut in zip(pairs, truncated or [False] * len(pairs), strict=True):
        answer, status = judged[pair]
        status = "truncated" if cut and answer is None else status
        verdicts.append(Verdict(status == "correct", status))
    return verdicts


def extract(text: str) -> str | None:
    """The final answer in `text`, by the order above, without its markup; None where there is none."""
    text = text[-MAX_TEXT:]
    if boxed := (last_box(text) or "").strip():
        return boxed
    for pattern, read in ((ANSWER_LINE, str), (GSM8K_LINE, _without_commas), (PHRASE, _first_sentence)):
        for found in reversed(pattern.findall(text)):
            if answer := _plain(read(found)):
                return answer
    return None


def last_box(text: str) -> str | None:
    r"""The contents of the last-opened `\boxed{…}` among those that close, else None. Linear in the text."""
    opened: list[int | None] = []  # for each open brace: where its box's contents start, None if it is no box
    last = None
    for token in BOXES.finditer(text):
        if token[0] == "}":
            start = opened.pop() if opened else None
            if start is not None and (last is None or start > last[0]):
                last = start, token.start()
        elif token[0] == "{":
            opened.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            opened.append(token.end())
    return None if last is None else text[slice(*last)]


def compare(answer: str, gold: str, timeout_s: float) -> str:
    """The status of an extracted answer: "correct", "wrong", "unparsable" or "timed_out"."""
    gold = gold.strip()
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold):
        return "correct" if answer == gold else "wrong"
    if len(answer) > MAX_ANSWER or re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer):
        return "unparsable"
    return compare_symbolic(answer, gold, timeout_s)


def compare_symbolic(answer: str, gold: str, timeout_s: float) -> str:
    """math-verify's status for an answer, within `timeout_s` in all.

    Both sides are boxed, since math-verify misreads bare LaTeX; the gold comes first, as it is not symmetric.
    Its own time-outs stay off: they take whole seconds, start anew for every part of the work, replace an
    alarm that the caller may have set, and report a comparison that ran out of time as a wrong answer.
    """
    parse, verify = _math_verify()
    try:
        with _deadline(timeout_s):
            expected = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
            given = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
            if verify(expected, given, timeout_seconds=None):
                return "correct"
            return "unparsable" if all(isinstance(value, str) for value in given) else "wrong"
    except _OutOfTime:
        return "timed_out"
    except (RecursionError, MemoryError):
        return "unparsable"


class _OutOfTime(BaseException):
    """Not an Exception: the libraries between the alarm and us catch those."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the body after `seconds`; the caller's own alarm, if any, goes on counting."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("answers that are not plain integers are graded in the main thread: time-outs need signals")

    def ring(*_):
        raise _OutOfTime

    started, handler = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), interval)


@cache
def _math_verify():
    """(parse, verify). The silenced warnings are about the missing time-outs, which `_deadline` replaces."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return parse, verify


def _without_commas(text: str) -> str:
    return THOUSANDS.sub("", text)


def _first_sentence(text: str) -> str:
    return SENTENCE_END.split(text, maxsplit=1)[0]


def _plain(text: str) -> str:
    """A line's answer without emphasis, dollar signs and the full stop that ends the sentence."""
    return text.strip().strip("*").strip().removesuffix(".").strip("$").removesuffix(".").strip()
