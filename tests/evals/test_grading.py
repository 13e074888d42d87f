import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
import sympy
from grading_decisions import DECISIONS, DOCUMENT, document
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evals.grading import GRADER_VERSION, Verdict, answers, candidates, grade, grade_many, grader, rewards
from evals.grading.answers import extract, find_boxes, last_boxes
from evals.grading.cleaning import clean
from evals.grading.constants import bfmss, proof_digits, vanishes
from evals.grading.equivalence import same
from evals.grading.grader import compare
from evals.grading.numbers import read_number, same_number
from evals.grading.parsing import parse

HERE = Path(__file__).parent
HUGE = "1234567890" * 50  # more digits than other numbers than integers may have
LABELLED = json.loads((HERE / "grading_cases.json").read_text())


def statuses(pairs, **options):
    return [verdict.status for verdict in grade_many(pairs, **options)]


# --- decisions --------------------------------------------------------------------------------------------------


def test_every_decision_is_what_the_table_says():
    verdicts = grade_many([(d.response, d.gold) for d in DECISIONS], tolerances=[d.tolerance for d in DECISIONS])
    wrong = [
        (d.text[:60], d.gold[:60], v.status, d.status)
        for d, v in zip(DECISIONS, verdicts, strict=True)
        if v.status != d.status or v.correct != (d.status == "correct")
    ]
    assert not wrong


def test_the_document_shows_the_current_table():
    text = DOCUMENT.read_text()
    assert document(text) == text, "update it: python tests/evals/grading_decisions.py"


def test_every_gold_answer_of_a_decision_equals_itself():
    golds = list(dict.fromkeys(d.gold for d in DECISIONS))
    assert [
        g for g, s in zip(golds, statuses([(f"\\boxed{{{g}}}", g) for g in golds]), strict=True) if s != "correct"
    ] == []


# --- agreement with public graders --------------------------------------------------------------------------------

DISAGREEMENTS = {  # (gold answer, text): docs/grading.md gives the reasons
    ("1,22", r"\boxed{1.22}"),
    ("10455", r"\boxed{255} Final Answer: The final answer is $10,455$. I hope it is correct."),
    (r"1 - \frac{1}{\mathrm{e}}", r"\boxed{1 + \frac{1}{\mathrm{e}}}"),
    ("0", r"\boxed{x^2 - x^2}"),
    ("4, 10, -2", r"\boxed{10, 4, -2}"),
    ("4, .1, 2", r"\boxed{0.1, 4, 2}"),
    ("2.0001", r"\boxed{2}"),
    ("0.75", r"\boxed{75}"),
    (r"\frac{1}{12}", r"\boxed{0.0833333333333333}"),
    (r"\sqrt{2}", r"\boxed{1.4142135623730951}"),
    ("C", r"\boxed{c}"),
}


def test_public_graders_agree_except_for_the_documented_cases():
    cases = LABELLED["cases"]
    verdicts = grade_many([(c["text"], c["gold"]) for c in cases], tolerances=[c.get("tolerance", "") for c in cases])
    found = {(c["gold"], c["text"]) for c, v in zip(cases, verdicts, strict=True) if v.correct != c["correct"]}
    assert found == DISAGREEMENTS
    assert 1 - len(found) / len(cases) > 0.98
    page = " ".join(DOCUMENT.read_text().split())
    assert f"{len(cases)} cases" in page and f"{1 - len(found) / len(cases):.2%}".rstrip("%") in page
    for source, repository in LABELLED["sources"].items():
        count = sum(source in case["sources"] for case in cases)
        assert f"{repository} ({count})" in page
    for gold, text in DISAGREEMENTS:
        assert f"`{gold}`" in page and f"`{answers.extract(text)}`" in page


CASES = HERE.parents[2] / "shared" / "cases" / "grader.jsonl"


@pytest.mark.skipif(not CASES.is_file(), reason=f"no cases beside the checkout: {CASES}")
def test_every_case_kept_beside_the_checkout_agrees():
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    verdicts = grade_many([(row["pred"], row["gold"]) for row in rows])
    differ = [
        (row["pred"], row["gold"], v.status)
        for row, v in zip(rows, verdicts, strict=True)
        if v.correct != row["expected"]
    ]
    assert differ == [] and len(rows) > 200


# --- finding the answer -------------------------------------------------------------------------------------------


MARKED = [
    (r"4-7=-3;\boxed{-3}", "-3"), (r"\boxed{4} so \boxed{5}", "5"), (r"\boxed{4}\boxed{5}", "5"),
    (r"\boxed{4} then \boxed{5", "4"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."), ("} {\\boxed{ 7\n}", "7"),
    (r"\boxed {6}", "6"), (r"\fbox{6}", "6"), (r"\boxed 6", "6"), (r"\boxed{8} and Answer: 9", "8"),
    ("\\boxed{}\nAnswer: 9", "9"), ("Answer: 12", "12"), ("answer: 11\nAnswer: $12$.\nI am sure", "12"),
    ("**Answer:** 12", "12"), ("Answer:\n\n  -5\n", "-5"), ("Answer: 3\n#### 4", "3"), ("3 + 4 = 7\n#### 7", "7"),
    ("#### 1\n#### 1,234,567", "1234567"), ("#### 1\n####  ", "1"),
    ("The final answer is $-3$. I hope it is correct.", "-3"), ("the final answer is: 2.50", "2.50"),
    ("Answer: 4\nThe final answer is 5", "5"), ("The answer is **4/7**.", "4/7"),
    ("The answer is 42 because geometry proves it", "42"), ("The final answers are 12 and 13", "12 and 13"),
    ("So, the final answer is:\n\nS = 284", "S = 284"), ("The final answer is\n284", None),
    ("Answer: $x = 5$ where $x$ is the side", "x = 5"), ("5", None), ("the sum is 5", None), (r"\boxed{", None),
    (r"\boxed{1234", None), (r"\boxed{12} then \boxed {34}", "34"), (r"\boxed{12} then \fbox{34}", "34"),
    (r"\boxed{12} then \boxed{\boxed{56", "12"), ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), MARKED)
def test_extract(text, answer):
    assert extract(text) == answer


def test_an_answer_is_found_at_the_end_of_a_long_text_only():
    filler = "x" * answers.MAX_TEXT
    assert extract(filler + r"\boxed{5}") == "5"
    assert extract(r"\boxed{5}" + filler) is None


@given(st.text(alphabet="0123456789+-*%()=; \\{}", max_size=30).filter(lambda t: t.count("{") == t.count("}") == 0))
@example("-4")
def test_the_last_box_gives_back_what_was_boxed(content):
    if not content.endswith("\\"):
        text = f"\\boxed{{1}} {{}} \\boxed{{{content}}} tail"
        assert text[slice(*find_boxes(text)[-1])] == content


def test_boxes_belong_together_where_little_stands_between_them():
    assert last_boxes(r"\boxed{0} is wrong. \boxed{1}, \boxed{2} and \boxed{3}") == "1, 2, 3"
    assert last_boxes(r"\boxed{1} and \boxed{1}") == "1"
    assert last_boxes(r"\boxed{1}") is None
    assert last_boxes(r"\boxed{1} and therefore \boxed{2}") is None
    assert last_boxes(r"\boxed{\boxed{1}}") is None
    assert [r"a\boxed{b}c"[slice(*box)] for box in find_boxes(r"a\boxed{b}c")] == ["b"]


# --- one form, plain numbers --------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
@example("\x00\\boxed{\u202e")
@example("\ud800")
def test_cleaning_never_raises_and_settles(text):
    once = clean(text)
    assert clean(once) == clean(clean(once))
    read_number(once)


@given(st.fractions(), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}", r"\dfrac {{ {} }}{{ {} }}"]))
def test_fractions_are_read_back(value, form):
    text = form.format(abs(value.numerator), value.denominator)
    assert read_number(clean("-" + text if value < 0 else text)).value == value


@given(st.integers(), st.integers())
def test_integers_are_equal_to_themselves_only(a, b):
    assert same_number(read_number(f"{a:,}"), read_number(str(a)))
    assert same_number(read_number(str(a)), read_number(str(b))) == (a == b)


def test_integers_take_the_fast_path(monkeypatch):
    monkeypatch.setattr(grader, "clean", None)
    assert [compare(text, "-5") for text in ("-5", "5", "0")] == ["correct", "wrong", "wrong"]
    assert compare(HUGE, HUGE) == "correct"
    for text in ("05", "+5", "-0", "5.0", "٥", "5 "):
        with pytest.raises(TypeError):
            compare(text, "5")


def test_numbers_are_graded_without_a_worker_and_without_sympy():
    code = (
        "import sys; from evals.grading import grade; from evals.grading.workers import POOL\n"
        "assert grade(r'\\boxed{5}', '5') and grade(r'\\boxed{0.5}', '1/2') and grade(r'\\boxed{1,234}', '1234')\n"
        "assert POOL.process is None and not {'math_verify', 'sympy', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_many_integers_are_graded():
    pairs = [(rf"1+{i}=9 so 9-{i} is 3;\boxed{{{i % 10}}}", "5") for i in range(20_000)]
    assert sum(v.correct for v in grade_many(pairs)) == 2000


# --- grade_many ---------------------------------------------------------------------------------------------------


def test_grade_is_the_verdict_of_one_pair():
    assert grade(r"\boxed{5}", "5") is True
    assert grade(r"\boxed{5}", "6") is False
    assert grade(r"\boxed{5.05}", "5", "0.1") is True
    assert grade_many([]) == []
    assert GRADER_VERSION


def test_equal_pairs_are_graded_once_and_keep_their_places(monkeypatch):
    asked = []

    def judge(pairs, timeout_s):
        if pairs:
            asked.append((pairs, timeout_s))
        return ["correct" if answer == gold else "wrong" for answer, gold, _ in pairs]

    monkeypatch.setattr(grader.POOL, "map", judge)
    pairs = [(r"\boxed{x}", "y"), (r"\boxed{z}", "y"), (r"so \boxed{x}", "y"), (r"\boxed{1}", "1")]
    assert statuses(pairs * 3, timeout_s=7) == ["wrong", "wrong", "wrong", "correct"] * 3
    assert asked == [([("x", "y", ""), ("z", "y", "")], 7)]


def test_a_truncated_text_is_graded_but_one_without_an_answer_is_called_truncated():
    pairs = [(r"\boxed{5} now", "5"), (r"\boxed{5} now", "6"), ("5+5=", "10"), ("5+5=", "10"), (r"\boxed{??}", "5")]
    found = grade_many(pairs, truncated=[True, True, True, False, True])
    assert [v.status for v in found] == ["correct", "wrong", "truncated", "unparsable", "unparsable"]
    assert found[0] == Verdict(True, "correct", True)
    with pytest.raises(ValueError):
        grade_many(pairs, truncated=[True])
    with pytest.raises(ValueError):
        grade_many(pairs, tolerances=["1"])


def test_tolerances_go_with_their_pairs():
    pair = (r"\boxed{4.25}", "4.2")
    assert statuses([pair] * 3, tolerances=["1e-1", "", "0.01"]) == ["correct", "wrong", "wrong"]


@pytest.mark.parametrize(
    ("problem", "answer", "gold", "status"),
    [
        ("What is $513^2 - 487^2$?", "513^2-487^2", "26000", "wrong"),
        ("What is $513^2 - 487^2$?", "x = 513^2 - 487^2", "26000", "wrong"),
        ("What is $513^2 - 487^2$?", "26 \\cdot 1000", "26000", "correct"),
        ("Compute \\[\\left|(1-i)^8\\right|.\\]", "|(1-i)^8|", "16", "wrong"),
        ("Write $\\dfrac{9}{2}$ as a decimal.", "\\frac92", "4.5", "wrong"),
        ("Write $\\dfrac{9}{2}$ as a decimal.", "\\frac{9}{2}", "4.5", "wrong"),
        ("Simplify $$4x + 3x - 2.$$", "4x+3x-2", "7x-2", "wrong"),
        ("Is $7x - 2$ equal to $4x + 3x - 2$? Write the shorter one.", "7x - 2", "7x-2", "correct"),
        ("Is $7x - 2$ equal to $4x + 3x - 2$? Write the shorter one.", "f(x) = 7x - 2", "7x-2", "correct"),
        ("The odd numbers are $n = 2k + 1$. Name the first of them.", "n = 2k + 1", "1", "wrong"),
        ("Which of $-5$ and $5$ is negative?", "-5", "-5.0", "correct"),
        ("The point is $(1,-2)$. Which numbers are its coordinates?", "1,-2", "-2, 1", "correct"),
        ("What is 2 + 3?", "2 + 3", "5", "correct"),  # no formula marks: not known to be one
    ],
)  # fmt: skip
def test_an_answer_that_repeats_a_formula_of_its_problem_solves_nothing(problem, answer, gold, status):
    for text, strict in ((f"\\boxed{{{answer}}}", True), (f"It is ${answer}$", False)):
        (verdict,) = grade_many([(text, gold)], flexible=True, problems=[problem])
        assert (verdict.status == status) if strict else (verdict.flexible == (status == "correct"))
    assert rewards("correct", [f"\\boxed{{{answer}}}"], [gold], [problem]) == [float(status == "correct")]


def test_every_part_of_the_grader_is_in_its_digest():
    code = (
        "from dynclip.runtime import provenance; covered = []; provenance.digest = covered.append\n"
        "provenance.code_digest('evals.grading:grade_many')\n"
        "print(*(f'{module}:{name}' for module, name, _ in covered[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[1], check=True)
    assert {
        "evals.grading.cleaning:clean",
        "evals.grading.cleaning:MAX_DIGITS",
        "evals.grading.numbers:same_number",
        "evals.grading.forms:split",
        "evals.grading.equivalence:judge",
        "evals.grading.equivalence:equal",
        "evals.grading.constants:bfmss",
        "evals.grading.sets:same_sets",
        "evals.grading.parsing:Converter",
        "evals.grading.workers:serve",
        "evals.grading.workers:MEMORY_BYTES",
    } <= set(done.stdout.split())


# --- any type -----------------------------------------------------------------------------------------------------


TYPES = [
    (r"\boxed{5}", 5, "correct"), (r"\boxed{5}", 5.0, "correct"), (r"\boxed{27}", "27.0", "correct"),
    (r"\boxed{5}", True, "wrong"), (r"\boxed{0.5}", Fraction(1, 2), "correct"),
    (r"\boxed{2, 1}", ["1", "2"], "correct"), (r"\boxed{5}", None, "wrong"), (r"\boxed{5}", "", "wrong"),
    (r"\boxed{0}", float("nan"), "wrong"), (None, "5", "unparsable"), ("", "5", "unparsable"), (5, "5", "unparsable"),
    (float("inf"), "5", "unparsable"), ([], "5", "unparsable"), ({}, "5", "unparsable"), (object(), "5", "unparsable"),
    (b"\\boxed{5}", "5", "correct"),
    ([{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": r"\boxed{5}"}], "5", "correct"),
    ([{"role": "assistant", "content": [{"type": "text", "text": r"so \boxed{5}"}]}], "5", "correct"),
    ([{"role": "assistant", "content": None}], "5", "unparsable"),
    ({"role": "assistant", "content": r"\boxed{5}"}, "5", "correct"),
    (r"\boxed{5}", [{"role": "assistant", "content": "5"}], "correct"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "gold", "status"), TYPES)
def test_every_type_gets_a_verdict(prediction, gold, status):
    assert statuses([(prediction, gold)]) == [status]


# --- strict and flexible ------------------------------------------------------------------------------------------


UNMARKED = [
    ("A: 29", "29"), ("29", "29"), ("28 %", "28 %"), (r"x \geq 5", r"x \geq 5"), ("(B)", "(B)"), ("Paris", "Paris"),
    (r"\frac{3}{4}", r"\frac{3}{4}"), (r"Therefore $x \geq 5$ is the solution.", r"x \geq 5"),
    ("First 3 apples, then 4 more.\nSo there are 7 in all.", "7"), ("It costs $18.90 in the end.", "$18.90"),
    ("We get 1,234,567 of them, at last.", "1,234,567"),
    ("The value is\n$$\n\\frac{1}{2}\n$$\nas was asked.", r"\frac{1}{2}"), ("So 5 is the value of $x$ here.", "5"),
    (r"Then \(a = 3\) and \[b = 4\] follow.", "b = 4"), ("The temperature drops to -7 degrees.", "-7"),
    ("That is 5-3 of course.", "3"), ("About .5 or so, I think.", ".5"),
    ("<think>It is 4.</think>\nI say that it is 6.", "6"), ("<think>It is 4, or", None), ("I do not know this.", None),
    ("", None), (None, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), UNMARKED)
def test_an_unmarked_answer_is_read_from_the_end(text, answer):
    assert answers.fall_back(text) == answer


def test_flexible_counts_unmarked_answers_and_strict_does_not():
    pairs = [("A: 29", "29"), (r"\boxed{28} A: 29", "29"), (r"\boxed{29}", "29"), ("It is 30.", "29")]
    pairs += [(r"Therefore $x \geq 5$ is the solution.", r"[5,\infty)"), ("28 %", "0.28")]
    found = grade_many(pairs, flexible=True)
    assert [v.correct for v in found] == [False, False, True, False, False, False]
    assert [v.flexible for v in found] == [True, False, True, False, True, True]
    assert [v.status for v in found] == ["unparsable", "wrong", "correct", "unparsable", "unparsable", "unparsable"]
    assert [v.flexible for v in grade_many(pairs)] == [False, False, True, False, False, False]


def test_the_end_of_a_text_that_was_cut_off_is_no_answer():
    found = grade_many([("1 + 1 + 1", "1"), ("\\boxed{1} + 1", "1")], truncated=[True, True], flexible=True)
    assert [(v.status, v.flexible) for v in found] == [("truncated", False), ("correct", True)]


# --- votes --------------------------------------------------------------------------------------------------------


def test_equal_answers_are_one_candidate_named_by_the_first():
    groups = [
        ["0.5", r"\frac12", "1/2", None, "2", "0.50", "x+1", "1+x", "3"],
        ["5", None, "5"],
        [r"\{1,2\}", "2,1", "(1,2)", "1,2"],
        [],
    ]
    assert candidates(groups) == [
        ["0.5", "0.5", "0.5", None, "2", "0.5", "x+1", "x+1", "3"],
        ["5", None, "5"],
        [r"\{1,2\}", r"\{1,2\}", "(1,2)", r"\{1,2\}"],
        [],
    ]


def test_an_answer_equal_in_one_direction_only_is_its_own_candidate():
    assert candidates([["3.1416", r"\pi"]]) == [["3.1416", r"\pi"]]  # only a rounded gold answer allows it


# --- rules and bounds ---------------------------------------------------------------------------------------------


def test_no_rule_raises_on_a_decision():
    """Workers count an exception as "not equal", which would hide an error in a rule."""
    for row in DECISIONS:
        answer = extract(row.response)
        if row.status in ("correct", "wrong") and answer and len(answer) < 100:
            found = same(clean(answer), clean(row.gold), Fraction(row.tolerance) if row.tolerance else None)
            assert found == (row.status == "correct") or "boxed" in row.text, row


def test_a_difference_is_proven_to_be_zero_or_not():
    zero = parse(clean(r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}"))
    tiny = parse(clean(r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}+10^{-300}"))
    assert 10 < proof_digits(zero.doit()) < 1000 and vanishes(zero.doit())
    assert proof_digits(tiny.doit()) > 300 and not vanishes(tiny.doit())
    assert proof_digits(parse(r"\pi-e")) is None  # no bound is known, so FALLBACK_DIGITS apply


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=3), st.integers(-30, 30), st.integers(1, 12))
def test_no_algebraic_number_lies_below_its_bound(radicands, whole, below):
    value = sum(sympy.sqrt(n) for n in radicands) + sympy.Rational(whole, below)
    degrees = {}
    upper, lower = bfmss(value, degrees)
    bits = (math.prod(degrees.values()) - 1) * upper + lower
    assert value == 0 or abs(value.evalf(60)) >= sympy.Float(2) ** -bits


@settings(max_examples=60, deadline=None)
@given(st.integers(-50, 50), st.integers(-50, 50), st.sampled_from("<>"), st.booleans())
def test_an_inequality_is_its_interval_and_no_other(a, b, sign, closed):
    relation = {("<", False): "<", ("<", True): r"\le ", (">", False): ">", (">", True): r"\ge "}[sign, closed]
    end = f"{a}{']' if closed else ')'}" if sign == "<" else f"{'[' if closed else '('}{a}"
    interval = rf"(-\infty,{end}" if sign == "<" else rf"{end},\infty)"
    other = interval.replace(str(a), str(b))
    assert same(clean(f"x{relation}{a}"), clean(interval)) and same(clean(interval), clean(f"x{relation}{a}"))
    assert same(clean(f"x{relation}{a}"), clean(other)) == (a == b)


# --- any thread, any process --------------------------------------------------------------------------------------

ASKED = [(r"\boxed{x+1}", "1+x"), (r"\boxed{x}", "y"), (r"\boxed{0.5x}", r"\frac{x}{2}"), (r"\boxed{5}", "5")]
EXPECTED = ["correct", "wrong", "correct", "correct"]


def test_threads_grade_at_the_same_time():
    found = []
    threads = [threading.Thread(target=lambda: found.append(statuses(ASKED))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [EXPECTED] * 6


def _grade_in_child(queue):
    queue.put(statuses(ASKED))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_has_workers_of_its_own(method):
    assert statuses(ASKED) == EXPECTED  # the parent's pool is running
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_grade_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=600) == EXPECTED
    child.join(timeout=600)
    assert statuses(ASKED) == EXPECTED


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('once')\nfrom evals.grading import grade\nprint(grade(r'\\boxed{x+1}', '1+x'))\n")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=600)
    assert done.stdout.split() == ["once", "True"] and not done.stderr


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_the_process_however_it_ends(hostile):
    last = "time.sleep(600)" if not hostile else "grade_many([(r'\\boxed{9^{9^{9^9}}}', '5')] , timeout_s=50)"
    code = (
        "import time; from evals.grading import grade_many; from evals.grading.workers import POOL\n"
        "grade_many([(r'\\boxed{x+1}', '1+x'), (r'\\boxed{x}', 'y')])\n"
        f"print(POOL.process.pid, *(w.pid for w in POOL.idle), flush=True); {last}"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in caller.stdout.readline().split()]
    assert len(pids) >= 2 and all(map(_lives, pids))
    time.sleep(0.5)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    deadline = time.monotonic() + 300
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, pids))


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
