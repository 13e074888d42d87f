"""Whether two formulas with variables are equal, or two equations or inequalities say the same.

Formulas are equal where their values are, at points that no response can know beforehand: they are drawn from the
gold's own text. At each point the two values are constants, compared as `constants.py` compares them. A polynomial of
degree d that is not zero vanishes at one of the points with probability d / 500,000 at most; five points must agree,
three where no more are real.
"""

import random
from functools import lru_cache

from sympy import And, Eq, Expr, I, Pow, Rational, binomial, factorial, factorial2, fraction, log, together
from sympy.core.relational import Relational

from evals.grading.constants import approximate, differs_soon, evaluated, vanishes
from evals.grading.parsing import undefined

POINTS, ENOUGH, TRIES = 5, 3, 48  # points that must agree; that suffice where few are real; that are tried
PRIME = 1_000_003
DISCRETE = (factorial, factorial2, binomial)  # of whole numbers
SCALES = (0.97, 7, 0.5, 60, 0.9, 1000)  # of the points: inside the unit interval, where arcsine is real, and outside
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def equal_formulas(given: Expr, expected: Expr, seed: str) -> bool:
    """Whether two formulas have equal values wherever both are real; `seed` draws the points that are tried."""
    given, expected = carried_out(given), carried_out(expected)
    if undefined(given) or undefined(expected):
        return False
    if given == expected:
        return True
    agreed = 0
    discrete = given.has(*DISCRETE) or expected.has(*DISCRETE)
    for point in points(frozenset(expected.free_symbols | given.free_symbols), seed, discrete):
        a, b = value_at(given, point), value_at(expected, point)
        if a is None or b is None:
            continue
        if differs_soon(a, b) or not vanishes(a - b):
            return False
        agreed += 1
        if agreed == POINTS:
            break
    return agreed >= ENOUGH


@lru_cache(maxsize=4096)
def carried_out(expression: Expr) -> Expr:
    """A formula with its sums, integrals, factorials and powers carried out."""
    return expression.doit()


@lru_cache(maxsize=1024)
def points(symbols: frozenset, seed: str, discrete: bool = False) -> tuple[tuple, ...]:
    """Points in the space of `symbols`, as (symbol, value) pairs: small and large, then natural numbers.

    The first is positive, the second negative, in the next two the signs alternate. `discrete`: natural numbers alone.
    """
    names = sorted(symbols, key=str)
    draw = random.Random(seed)
    found = []
    for i in range(TRIES):
        if i < TRIES // 2 and not discrete:
            bound = int(SCALES[i % len(SCALES)] * PRIME)
            sizes = [draw.randint(1, bound) for _ in names]
            signs = [(1, -1, (-1) ** j, (-1) ** (j + 1), draw.choice((1, -1)))[i % POINTS] for j in range(len(names))]
            values = (Rational(sign * size, PRIME) for sign, size in zip(signs, sizes, strict=True))
            found.append(tuple(zip(names, values, strict=True)))
        else:
            found.append(tuple((name, Rational(draw.randint(2, 40))) for name in names))
    return tuple(found)


@lru_cache(maxsize=2048)
def _conditions(expression: Expr) -> tuple[tuple, tuple]:
    """What must be positive for a formula to be real: bases of powers that are not whole, arguments of logarithms."""
    bases = {power.base for power in expression.atoms(Pow) if not power.exp.is_integer and power.base.free_symbols}
    return tuple(bases), tuple(call.args[0] for call in expression.atoms(log) if call.args[0].free_symbols)


@lru_cache(maxsize=2048)
def value_at(expression: Expr, place: tuple):
    """The real value of a formula at a point, as a constant; None where it or a part of it has none."""
    point = dict(place)
    bases, arguments = _conditions(expression)
    for part in (*bases, *arguments):
        value = approximate(part.xreplace(point))
        if value is None or value.imag or value.real <= 0:
            return None
    value = evaluated(expression.xreplace(point))
    if value is None or value.free_symbols:
        return None
    found = approximate(value)
    if found is not None and abs(found.imag) > 1e-12 * abs(found.real) and not expression.has(I):
        return None
    return value


def same_statement(given, expected, seed: str) -> bool:
    """Whether two equations, inequalities or chains of them are the same up to a factor and to their sides' order."""
    if isinstance(given, And) or isinstance(expected, And):
        ours, theirs = (getattr(each, "_unsorted_args", (each,)) for each in (given, expected))
        return len(ours) == len(theirs) and all(same_statement(a, b, seed) for a, b in zip(ours, theirs, strict=True))
    if not isinstance(given, Relational) or not isinstance(expected, Relational):
        return False
    signs = {given.rel_op, FLIPPED.get(given.rel_op)}
    if expected.rel_op not in signs or given.free_symbols != expected.free_symbols:
        return False
    sides = [_one_side(each) for each in (given, expected)]
    if None in sides:
        return False
    factor = _constant_ratio(*sides, seed)
    if factor is None:
        return False
    return expected.rel_op in ("==", "!=") or (factor > 0) == (given.rel_op == expected.rel_op)


def _one_side(relation: Relational) -> Expr | None:
    """What a relation says is zero, or positive: its sides' difference; of an equation the numerator alone."""
    if not isinstance(relation.lhs, Expr) or not isinstance(relation.rhs, Expr):
        return None
    difference = carried_out(relation.lhs) - carried_out(relation.rhs)
    return fraction(together(difference))[0] if isinstance(relation, Eq) else difference


def _constant_ratio(a: Expr, b: Expr, seed: str) -> float | None:
    """The ratio of two formulas where it is the same at all points and not zero, else None."""
    first, agreed = None, 0
    for point in points(frozenset(a.free_symbols | b.free_symbols), seed):
        x, y = value_at(a, point), value_at(b, point)
        if x is None or y is None or x == 0 or y == 0:
            continue
        if first is None:
            first = x, y
            continue
        if not vanishes(x * first[1] - y * first[0]):
            return None
        agreed += 1
        if agreed == ENOUGH:
            ratio = approximate(x / y)
            return None if ratio is None or abs(ratio.imag) > 1e-12 * abs(ratio.real) else ratio.real
    return None
