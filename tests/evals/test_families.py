import ast
import itertools
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from dynclip.runtime.errors import UserError
from evals.benchmarks.families import FAMILIES, LARGEST, VOCABULARY, derive_seed, generate, is_held_out
from evals.benchmarks.problem import Problem

PIECES = re.compile("|".join(re.escape(piece) for piece in sorted(VOCABULARY, key=len, reverse=True)))
STEP = re.compile(r"(.+?)(?:=| is )(-?\d+)$")
MAX_TRACE = 44
COUNT = 200
names = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def problems() -> dict[str, list[Problem]]:
    return {name: generate(name, COUNT, 5, held_out=False) for name in FAMILIES}


def value(expression: str) -> int:
    return eval(compile(ast.parse(expression, mode="eval"), "problem", "eval"), {"__builtins__": {}})


def split(trace: str) -> tuple[list[tuple[str, int]], int]:
    """([(expression, stated result) of each step], boxed answer)."""
    *steps, boxed = re.split(r";| so | then | now ", trace)
    return [(m[1], int(m[2])) for m in map(STEP.match, steps)], int(boxed.removeprefix("\\boxed{")[:-1])


@names
def test_answers_are_the_value_of_the_problem(problems, name):
    for problem in problems[name]:
        assert int(problem.answer) == value(problem.problem.removesuffix("="))


@names
def test_problems_are_distinct_labelled_and_balanced_over_levels(problems, name):
    rows = problems[name]
    assert len({p.problem for p in rows}) == len({p.id for p in rows}) == COUNT
    assert {p.subject for p in rows} == {name}
    counts = Counter(p.level for p in rows)
    assert set(counts) == set(FAMILIES[name].levels)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(len(re.findall(r"\d", p.problem.split("%")[0])) == p.level for p in rows)
    assert [p.level for p in rows] != sorted(p.level for p in rows)


@names
def test_generation_depends_on_the_seed_and_on_nothing_else(problems, name):
    random.seed(99)
    assert generate(name, COUNT, 5, held_out=False) == problems[name]
    other = {p.problem for p in generate(name, COUNT, 6, held_out=False)}
    assert len(other & {p.problem for p in problems[name]}) < COUNT / 2


@names
def test_the_text_alone_puts_a_problem_on_one_side(name):
    sides = [{p.problem for p in generate(name, 60, seed, held_out)} for seed, held_out in ((1, True), (1, False))]
    assert all(map(is_held_out, sides[0])) and not any(map(is_held_out, sides[1]))
    assert not sides[0] & sides[1]
    texts = [f"{name}{i}" for i in range(5000)]
    assert 0.08 < sum(map(is_held_out, texts)) / len(texts) < 0.12


def test_families_share_no_problem(problems):
    texts = [p.problem for rows in problems.values() for p in rows]
    assert len(set(texts)) == len(texts)


def test_an_exhausted_level_leaves_its_share_to_the_others():
    rows = generate("basic_arithmetic", 1200, 1, held_out=False)
    counts = Counter(p.level for p in rows)
    two_terms = {f"{a}{op}{b}=" for a in range(10) for b in range(10) for op in "+-*"}
    assert {p.problem for p in rows if p.level == 2} == {text for text in two_terms if not is_held_out(text)}
    assert sum(counts.values()) == 1200 and counts[3] > 400 and counts[4] > 400


def test_too_many_problems_and_unknown_families_are_refused(monkeypatch):
    monkeypatch.setattr("evals.benchmarks.families.MAX_REPEATS", 50)
    monkeypatch.setitem(FAMILIES, "three", _three_problems())
    with pytest.raises(UserError, match="three: 10 problems wanted"):
        generate("three", 10, 1, held_out=False)
    with pytest.raises(UserError, match=r"unknown family 'sudoku'.*chain_sum"):
        generate("sudoku", 1, 1, held_out=False)


def _three_problems():
    def draws(level, seed):
        rng = random.Random(seed)
        while True:
            yield f"{rng.randrange(3)}+1=", "1"

    return type(FAMILIES["chain_mod"])("three", "", "", (1,), draws, FAMILIES["chain_mod"].trace)


def test_seeds_derived_from_neighbours_are_far_apart():
    seeds = sorted(derive_seed("chain_sum", level, seed, False) for level in range(9) for seed in range(9))
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 1000


def test_expressions_have_small_values_and_no_negative_literals(problems):
    for problem in problems["basic_arithmetic"]:
        nodes = list(ast.walk(ast.parse(problem.problem[:-1], mode="eval")))
        assert not any(isinstance(node, ast.UnaryOp) for node in nodes)
        operations = [node for node in nodes if isinstance(node, ast.BinOp)]
        assert len(operations) == problem.level - 1
        assert all(abs(value(ast.unparse(node))) <= LARGEST for node in operations)


@names
def test_texts_are_concatenations_of_vocabulary_pieces_and_short(problems, name):
    rng, lengths = random.Random(1), []
    for problem in problems[name]:
        assert "".join(PIECES.findall(problem.problem)) == problem.problem
        for rate in (0.0, 0.2, 1.0):
            trace = FAMILIES[name].trace(problem, rng, rate)
            pieces = PIECES.findall(trace)
            assert "".join(pieces) == trace
            lengths.append(len(pieces))
    assert max(lengths) <= MAX_TRACE
    assert 15 < sum(lengths) / len(lengths) < 30


def test_the_longest_trace_fits():
    rng = random.Random(0)
    extremes = [
        ("chain_sum", "0-9-9-9-9=", 5),
        ("chain_sum", "9+9+9+9+9=", 5),
        ("chain_sum", "9-9-9-9-9=", 5),
    ]
    extremes += [("chain_mod", f"(9+9+9+9)%{m}=", 4) for m in range(3, 10)]
    extremes += [("basic_arithmetic", "(0-9-2)*9=", 4), ("basic_arithmetic", "9*(9+1)*1=", 4)]
    for name, text, level in extremes:
        problem = Problem("x", text, "0", level, name)
        for _ in range(2000):
            trace = FAMILIES[name].trace(problem, rng, rng.choice((0.0, 0.3, 1.0)))
            assert len(PIECES.findall(trace)) <= MAX_TRACE


@names
def test_traces_without_errors_are_right_in_every_step(problems, name):
    rng = random.Random(2)
    for problem in problems[name]:
        steps, answer = split(FAMILIES[name].trace(problem, rng, 0.0))
        assert answer == int(problem.answer) == steps[-1][1]
        assert all(value(expression) == result for expression, result in steps)


@names
def test_corrupted_steps_carry_on_from_their_wrong_value(problems, name):
    rng, right, steps_seen, wrong_steps = random.Random(3), 0, 0, 0
    for problem in problems[name] * 5:
        steps, answer = split(FAMILIES[name].trace(problem, rng, 0.2))
        assert answer == steps[-1][1]
        right += answer == int(problem.answer)
        for expression, result in steps:
            steps_seen += 1
            if value(expression) != result:
                wrong_steps += 1
                slips = {1, 2, 10} | (
                    {int(expression.split("%")[1]) - d for d in (1, 2)} if "%" in expression else set()
                )
                assert abs(value(expression) - result) in slips
    assert wrong_steps / steps_seen == pytest.approx(0.2, abs=0.03)
    assert 0.3 < right / (5 * COUNT) < 0.8


@names
def test_a_problem_has_many_solutions(problems, name):
    rng = random.Random(4)
    hardest = [p for p in problems[name] if p.level == max(FAMILIES[name].levels)][:20]
    for problem in hardest:
        traces = {FAMILIES[name].trace(problem, rng, 0.0) for _ in range(100)}
        orders = {tuple(expression for expression, _ in split(trace)[0]) for trace in traces}
        assert len(traces) > 50 and len(orders) > 1


def test_a_remainder_may_be_taken_early():
    rng = random.Random(5)
    problem = Problem("x", "(8+7+6)%5=", "1", 3, "chain_mod")
    counts = Counter(FAMILIES["chain_mod"].trace(problem, rng, 0.0).count("%") for _ in range(400))
    assert set(counts) == {1, 2} and min(counts.values()) > 50


def test_importing_is_cheap_and_generating_is_silent():
    code = (
        "import sys, evals.benchmarks.families as f; assert 'reasoning_gym' not in sys.modules;"
        "f.generate('chain_sum', 3, 1, False)"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert "SyntaxWarning" not in done.stderr and done.stdout == ""
