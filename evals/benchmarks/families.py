"""Families of generated arithmetic problems with verifiable answers and worked solutions.

They suit a policy of 0.2-1 M parameters: single-digit operands, answers of at most two digits. Every problem has many
valid solutions (order of steps and operands, phrasing), so that a policy's entropy measures real choices. All texts are
concatenations of the pieces in VOCABULARY.
"""

import ast
import hashlib
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import count as naturals
from types import ModuleType

from dynclip.runtime.errors import UserError
from evals.benchmarks.problem import Problem

VOCABULARY = (*"0123456789+-*%()=;", "\\boxed{", "}", " is ", " so ", " then ", " now ")
RELATIONS = ("=", " is ")
JOINTS = (";", " so ", " then ", " now ")
SLIPS = (-10, -2, -1, 1, 2, 10)  # errors of a corrupted step
LARGEST = 99  # magnitude of any true intermediate value
HELD_OUT_SHARE = 10  # one problem text in 10 is held out
MAX_REPEATS = 10_000  # draws without a new problem after which a level counts as exhausted
ENDLESS = 2**62  # reasoning-gym data sets are virtual: item i exists for every i below the size

Draws = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Family:
    """A kind of problem. `levels` go from the smallest problem space to the largest.

    generate(level, seed) yields (problem text, answer) forever, with repeats.
    trace(problem, rng, error_rate) returns one worked solution; see `chain_sum_trace`.
    """

    name: str
    title: str
    source: str
    levels: tuple[int, ...]
    generate: Callable[[int, int], Draws]
    trace: Callable[[Problem, random.Random, float], str]


def is_held_out(text: str) -> bool:
    """Whether the problem with this text is held out: decided by the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def generate(family: str, count: int, seed: int, held_out: bool) -> list[Problem]:
    """`count` distinct problems of one side of the split, shuffled, with levels balanced where they are large enough.

    Raises UserError for an unknown family, or if the family has fewer problems than `count`.
    """
    if family not in FAMILIES:
        raise UserError(f"unknown family {family!r}; the families are: {', '.join(FAMILIES)}")
    spec = FAMILIES[family]
    chosen: dict[str, tuple[str, int]] = {}
    for i, level in enumerate(spec.levels):
        # The missing problems of an exhausted level come from the larger levels after it.
        target = len(chosen) + (count - len(chosen)) // (len(spec.levels) - i)
        misses = 0
        for text, answer in spec.generate(level, derive_seed(family, level, seed, held_out)):
            if len(chosen) == target or misses == MAX_REPEATS:
                break
            misses += 1
            if text not in chosen and is_held_out(text) == held_out:
                chosen[text] = answer, level
                misses = 0
    if len(chosen) < count:
        raise UserError(f"{family}: {count} problems wanted, only {len(chosen)} with held_out={held_out}")
    rows = list(chosen.items())
    random.Random(derive_seed(family, "order", seed, held_out)).shuffle(rows)
    prefix = family if held_out else f"{family}-train"
    return [
        Problem(f"{prefix}-{i:04d}", text, answer, level, family)
        for i, (text, (answer, level)) in enumerate(rows, start=1)
    ]


def derive_seed(*parts) -> int:
    """A 31-bit seed from any parts.

    reasoning-gym draws item i of seed s from seed s + i, so that neighbouring seeds would share almost all items.
    """
    return int(hashlib.sha256(repr(parts).encode()).hexdigest(), 16) % 2**31


def chain_sum_draws(terms: int, seed: int) -> Draws:
    """`4-1-7=`: sums and differences of `terms` digits, from reasoning-gym's chain_sum."""
    datasets = _reasoning_gym()
    config = datasets.ChainSumConfig(
        min_terms=terms, max_terms=terms, min_digits=1, max_digits=1, seed=seed, size=ENDLESS
    )
    for row in map(datasets.ChainSumDataset(config).__getitem__, naturals()):
        yield row["metadata"]["expression"].replace(" ", "") + "=", row["answer"]


def basic_arithmetic_draws(terms: int, seed: int) -> Draws:
    """`(3+4)*2-5=`: `terms` digits, + - * and necessary parentheses, from reasoning-gym's basic_arithmetic.

    Expressions have no negative literals, and every subexpression lies within ±LARGEST. With three terms or more they
    have a product or parentheses, unlike those of chain_sum.
    """
    datasets = _reasoning_gym()
    config = datasets.BasicArithmeticDatasetConfig(
        min_terms=terms,
        max_terms=terms,
        min_digits=1,
        max_digits=1,
        operators=["+", "-", "*"],
        allow_parentheses=True,
        allow_negation=False,
        seed=seed,
        size=ENDLESS,
    )
    for row in map(datasets.BasicArithmeticDataset(config).__getitem__, naturals()):
        expression = row["metadata"]["expression"]
        if re.search(r"(^|[-+*(]) *-", expression):
            continue
        # Parsing and printing drops parentheses that change nothing, and with them disguised duplicates.
        text = ast.unparse(ast.parse(expression, mode="eval")).replace(" ", "")
        plain_chain = terms >= 3 and not re.search(r"[*(]", text)
        if not plain_chain and max(map(abs, _values(_tree(text)))) <= LARGEST:
            yield text + "=", row["answer"]


def chain_mod_draws(terms: int, seed: int) -> Draws:
    """`(4+7+9)%6=`: the remainder of a sum of `terms` digits, modulus 3 to 9."""
    rng = random.Random(seed)
    while True:
        digits, modulus = [rng.randrange(10) for _ in range(terms)], rng.randint(3, 9)
        yield f"({'+'.join(map(str, digits))})%{modulus}=", str(sum(digits) % modulus)


def chain_sum_trace(problem: Problem, rng: random.Random, error_rate: float) -> str:
    r"""A worked solution such as `4-7=-3 so -3-1=-4;\boxed{-4}`: the signed terms summed in random order.

    In all families each step is wrong with probability `error_rate` (off by one, two or ten), and the later steps use
    the wrong value: the form stays valid, and the answer is mostly wrong.
    """
    total, *terms = rng.sample([int(term) for term in re.findall(r"-?\d+", problem.problem)], k=problem.level)
    steps = []
    for term in terms:
        text = _sum(total, term, rng)
        total = _slip(total + term, [total + term + slip for slip in SLIPS], rng, error_rate)
        steps.append(_write(text, total, rng))
    return _join(steps, total, rng)


def basic_arithmetic_trace(problem: Problem, rng: random.Random, error_rate: float) -> str:
    r"""A worked solution such as `3+4=7 then 2*7=14;14-5 is 9 so \boxed{9}`.

    Each step replaces one operator, chosen at random among those whose operands are numbers, by its value.
    """
    root = [_tree(problem.problem.removesuffix("="))]
    steps = []
    while ready := _reducible(root, 0):
        parent, index = rng.choice(ready)
        operator, left, right = parent[index]
        if operator == "*":
            text = "*".join(map(str, rng.sample([left, right], k=2)))
        elif operator == "+":
            text = _sum(left, right, rng)
        else:
            text = f"{left}{-right:+d}"  # 3-(-4) is written 3+4: no step needs parentheses
        value = _apply(operator, left, right)
        parent[index] = _slip(value, [value + slip for slip in SLIPS], rng, error_rate)
        steps.append(_write(text, parent[index], rng))
    return _join(steps, root[0], rng)


def chain_mod_trace(problem: Problem, rng: random.Random, error_rate: float) -> str:
    r"""A worked solution such as `9+4=13;13%6=1 now 7+1=8;8%6 is 2;\boxed{2}`.

    The terms are summed in random order. About every second trace also reduces once before the end.
    """
    *terms, modulus = map(int, re.findall(r"\d+", problem.problem))
    total, *rest = rng.sample(terms, k=len(terms))
    reductions = {len(rest) - 1}
    if rng.random() < 0.5:
        reductions.add(rng.randrange(len(rest)))
    steps = []
    for i, term in enumerate(rest):
        text = _sum(total, term, rng)
        total = _slip(total + term, [total + term + s for s in SLIPS if total + term + s >= 0], rng, error_rate)
        steps.append(_write(text, total, rng))
        if i == len(rest) - 1 or (i in reductions and total >= modulus):
            text, remainder = f"{total}%{modulus}", total % modulus
            total = _slip(remainder, [(remainder + slip) % modulus for slip in (-2, -1, 1, 2)], rng, error_rate)
            steps.append(_write(text, total, rng))
    return _join(steps, total, rng)


def _sum(left: int, right: int, rng: random.Random) -> str:
    """`left` + `right` in either order; a negative second operand becomes a subtraction."""
    first, second = rng.sample([left, right], k=2)
    return f"{first}{second:+d}"


def _slip(right: int, wrong: list[int], rng: random.Random, error_rate: float) -> int:
    return rng.choice(wrong) if rng.random() < error_rate else right


def _write(expression: str, value: int, rng: random.Random) -> str:
    return f"{expression}{rng.choice(RELATIONS)}{value}"


def _join(steps: list[str], answer: int, rng: random.Random) -> str:
    return "".join(step + rng.choice(JOINTS) for step in steps) + f"\\boxed{{{answer}}}"


def _tree(expression: str) -> int | list:
    """A number, or [operator, left tree, right tree]."""

    def convert(node: ast.expr) -> int | list:
        if isinstance(node, ast.Constant):
            return node.value
        operator = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}[type(node.op)]
        return [operator, convert(node.left), convert(node.right)]

    return convert(ast.parse(expression, mode="eval").body)


def _apply(operator: str, left: int, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _values(tree: int | list) -> list[int]:
    """The values of a tree's subexpressions, its own first: the same in every order of evaluation."""
    if isinstance(tree, int):
        return [tree]
    left, right = _values(tree[1]), _values(tree[2])
    return [_apply(tree[0], left[0], right[0]), *left, *right]


def _reducible(parent: list, index: int) -> list[tuple[list, int]]:
    """Places (parent, index) at or below parent[index] of operators whose operands are both numbers."""
    node = parent[index]
    if isinstance(node, int):
        return []
    return _reducible(node, 1) + _reducible(node, 2) or [(parent, index)]


def _reasoning_gym():
    """reasoning-gym's arithmetic data sets. The import takes seconds and may print a dependency's warnings.

    Its logic puzzles import pycosat, which has no wheel. The locks leave it out, so that no machine needs a C compiler,
    and an empty module replaces it.
    """
    try:
        import_module("pycosat")
    except ImportError:
        sys.modules["pycosat"] = ModuleType("pycosat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from reasoning_gym import arithmetic
    return arithmetic


FAMILIES = {
    family.name: family
    for family in (
        Family("chain_sum", "Chains of + and -", "reasoning-gym", (3, 4, 5), chain_sum_draws, chain_sum_trace),
        Family(
            "basic_arithmetic",
            "Expressions with + - * and parentheses",
            "reasoning-gym",
            (2, 3, 4),
            basic_arithmetic_draws,
            basic_arithmetic_trace,
        ),
        Family("chain_mod", "Remainders of sums", "own generator", (3, 4), chain_mod_draws, chain_mod_trace),
    )
}
