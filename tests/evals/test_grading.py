import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evals import grading
from evals.grading import Verdict, compare, compare_symbolic, extract, grade, grade_many, last_box

HUGE = "1234567890" * 50  # more digits than math-verify is given


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"4-7=-3;\boxed{-3}", "-3"),
        (r"\boxed{4} so \boxed{5}", "5"),  # the last
        (r"\boxed{4}\boxed{5}", "5"),  # also side by side, where math-verify would read a set
        (r"\boxed{4} then \boxed{5", "4"),  # an open box is none
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),  # one escaped brace leaves the balance alone
        ("} {\\boxed{ 7\n}", "7"),
        (r"\boxed {6}", "6"),
        (r"\boxed{8} and Answer: 9", "8"),  # a box goes before every other mark
        ("\\boxed{}\nAnswer: 9", "9"),  # an empty box is none
        ("Answer: 12", "12"),
        ("answer: 11\nAnswer: $12$.\nI am sure", "12"),
        ("**Answer:** 12", "12"),
        ("Answer:\n\n  -5\n", "-5"),
        ("Answer: 3\n#### 4", "3"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1\n#### 1,234,567", "1234567"),
        ("#### 1\n####  ", "1"),  # a mark without an answer is none
        ("The final answer is $-3$. I hope it is correct.", "-3"),
        ("the final answer is: 2.50", "2.50"),
        ("#### 4 is not the final answer is 5", "4 is not the final answer is 5"),
        ("5", None),
        ("the sum is 5", None),
        (r"\boxed 5", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_extract(text, answer):
    assert extract(text) == answer


def test_an_answer_is_found_at_the_end_of_a_long_text_only():
    filler = "x" * grading.MAX_TEXT
    assert extract(filler + r"\boxed{5}") == "5"
    assert extract(r"\boxed{5}" + filler) is None


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 200_000,
        "\\boxed{1" * 50_000 + "}" * 3,
        "{" * 200_000,
        "answer" * 50_000,
        "answer:" + " " * 200_000,
        "answer:" + "\n" * 200_000,
        "answer:\n" * 50_000,
        "####\n" * 50_000,
        "final answer is" * 20_000,
        "." * 200_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_are_read_in_linear_time(text):
    started = time.perf_counter()
    extract(text)
    assert time.perf_counter() - started < 20  # quadratic work on this text would take minutes


@given(st.text(alphabet="0123456789+-*%()=; \\{}", max_size=30).filter(lambda t: t.count("{") == t.count("}") == 0))
@example("-4")
def test_the_last_box_gives_back_what_was_boxed(content):
    if not content.endswith("\\"):
        assert last_box(f"\\boxed{{1}} {{}} \\boxed{{{content}}} tail") == content


@pytest.mark.parametrize(
    ("prediction", "gold", "status"),
    [
        # generated arithmetic: plain integers
        (r"4-7=-3;\boxed{-3}", "-3", "correct"),
        (r"\boxed{3}", "-3", "wrong"),
        (r"\boxed{ 3 }", "3", "correct"),
        (r"\boxed{3", "3", "unparsable"),
        ("3", "3", "unparsable"),
        (rf"\boxed{{{HUGE}}}", HUGE, "correct"),
        (rf"\boxed{{{HUGE}1}}", HUGE, "wrong"),
        # the same numbers in other clothes
        (r"\boxed{-0}", "0", "correct"),
        (r"\boxed{025}", "25", "correct"),
        (r"\boxed{25}", "025", "correct"),
        (r"\boxed{+5}", "5", "correct"),
        (r"\boxed{27}", "27.0", "correct"),
        (r"\boxed{1,234}", "1234", "correct"),
        ("#### 1,234", "1234", "correct"),
        (r"\boxed{3+4}", "7", "correct"),
        (r"\boxed{3+4}", "8", "wrong"),
        # mathematics
        (r"\boxed{0.5}", r"\frac{1}{2}", "correct"),
        (r"\boxed{\frac{2}{4}}", r"\frac12", "correct"),
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", "correct"),
        (r"\boxed{x+1}", "1+x", "correct"),
        (r"\boxed{(1,2)}", "(1,2)", "correct"),
        (r"\boxed{(2,1)}", "(1,2)", "wrong"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", "correct"),
        (r"\boxed{(1,2)}", "1<x<2", "correct"),  # not symmetric: the gold's form decides
        (r"\boxed{1<x<2}", "(1,2)", "wrong"),
        ("Answer: $\\frac{1}{2}$.", "0.5", "correct"),
        # unreadable or too large to try
        (r"\boxed{???}", "5", "unparsable"),
        (r"\boxed{7;}", "7", "unparsable"),
        (rf"\boxed{{{HUGE}.5}}", "5", "unparsable"),
        (rf"\boxed{{{'x+' * 600}x}}", "5", "unparsable"),
        (r"\boxed{9^{9^{9^9}}}", "5", "timed_out"),
        (r"\boxed{9999999!}", "5", "timed_out"),
    ],
)
def test_verdicts(prediction, gold, status):
    assert grade_many([(prediction, gold)], timeout_s=2) == [Verdict(status == "correct", status)]


integers = st.one_of(st.integers(-99, 99), st.integers(-(10**30), 10**30)).map(str)


@settings(max_examples=150, deadline=None)
@given(integers, integers, st.booleans())
@example("0", "0", False)
@example("-10", "10", False)
def test_integers_are_compared_as_math_verify_would(answer, gold, same):
    gold = answer if same else gold
    assert compare(answer, gold, 5) == compare_symbolic(answer, gold, 5)


def test_only_canonical_integers_take_the_short_way(monkeypatch):
    monkeypatch.setattr(grading, "compare_symbolic", lambda *_: "asked")
    assert {compare(text, "5", 5) for text in ("05", "+5", "-0", "5.0", "٥", "5 ", "5\n")} == {"asked"}
    assert compare("5", "5.0", 5) == "asked"
    assert [compare(text, "-5", 5) for text in ("-5", "5", "0")] == ["correct", "wrong", "wrong"]


def test_grade_is_the_verdict_of_one_pair():
    assert grade(r"\boxed{5}", "5") is True
    assert grade(r"\boxed{5}", "6") is False


def test_equal_pairs_are_graded_once_and_keep_their_places(monkeypatch):
    asked = []

    def compare_symbolic(answer, gold, timeout_s):
        asked.append((answer, gold, timeout_s))
        return "correct" if answer == gold else "wrong"

    monkeypatch.setattr(grading, "compare_symbolic", compare_symbolic)
    pairs = [(r"\boxed{x}", "x"), (r"\boxed{x}", "y"), (r"\boxed{x}", "x"), (r"\boxed{1}", "1")]
    assert [v.status for v in grade_many(pairs * 3, timeout_s=7)] == [
        "correct",
        "wrong",
        "correct",
        "correct",
    ] * 3
    assert asked == [("x", "x", 7), ("x", "y", 7)]
    assert grade_many([]) == []


def test_a_truncated_text_is_graded_but_one_without_an_answer_is_called_truncated():
    pairs = [
        (r"\boxed{5} now", "5"),
        (r"\boxed{5} now", "6"),
        ("5+5=", "10"),
        ("5+5=", "10"),
        (r"\boxed{??}", "5"),
    ]
    found = grade_many(pairs, truncated=[True, True, True, False, True])
    assert [v.status for v in found] == ["correct", "wrong", "truncated", "unparsable", "unparsable"]
    with pytest.raises(ValueError):
        grade_many(pairs, truncated=[True])


def test_the_time_limit_may_be_a_fraction_of_a_second_and_covers_everything():
    compare_symbolic("x", "y", 5)  # the import is not part of the limit
    started = time.perf_counter()
    assert compare_symbolic("9^{9^{9^9}}", "9^{9^{9^8}}", 0.3) == "timed_out"
    assert 0.25 < time.perf_counter() - started < 10
    assert compare_symbolic("0.5", r"\frac{1}{2}", 0.9) == "correct"


@pytest.mark.parametrize("answer", ["x+1", "9^{9^{9^9}}"])
def test_the_callers_alarm_and_handler_survive(answer):
    rung = []
    handler = lambda *_: rung.append(True)  # noqa: E731
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        compare_symbolic(answer, "5", 0.2)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 25 < left <= 30 and signal.getsignal(signal.SIGALRM) is handler and not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_grade_integers_and_say_why_they_cannot_grade_the_rest():
    outcome = {}

    def work():
        outcome["integer"] = grade(r"\boxed{5}", "5")
        try:
            grade(r"\boxed{x}", "y")
        except RuntimeError as error:
            outcome["symbolic"] = str(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome["integer"] is True and "main thread" in outcome["symbolic"]


def test_grading_integers_imports_no_math_verify():
    code = (
        "import sys; from evals.grading import grade; assert grade(r'\\boxed{5}', '5');"
        "assert 'math_verify' not in sys.modules and 'sympy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_many_integers_are_graded():
    pairs = [(rf"1+{i}=9 so 9-{i} is 3;\boxed{{{i % 10}}}", "5") for i in range(20_000)]
    assert sum(v.correct for v in grade_many(pairs)) == 2000
