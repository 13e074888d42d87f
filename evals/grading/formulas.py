"""Equality of formulas with variables, and equivalence of equations and inequalities.

Two formulas are equal if their values are equal at random points. The text of the gold answer seeds the points, so no
response can know them. `constants.py` compares the values. A polynomial of degree d that is not zero vanishes at one
point with probability d / 500,000 at most.
"""

import random
from functools import lru_cache

from sympy import And, Eq, Expr, I, Pow, Rational, binomial, factorial, factorial2, fraction, log, together
from sympy.core.relational import Relational

from evals.grading.constants import approximate, differs_soon, evaluated, vanishes

POINTS, ENOUGH, TRIES = 5, 3, 48  # points that must agree; enough if few values are real; points that are tried
PRIME = 1_000_003
DISCRETE = (factorial, factorial2, binomial)  # functions of whole numbers
SCALES = (0.97, 7, 0.5, 60, 0.9, 1000)  # of the points; some lie in the unit interval, where arcsine is real
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def equal_formulas(given: Expr, expected: Expr, seed: str) -> bool:
    """Return whether two formulas have equal values at points where both are real. `seed` draws the points."""
    given, expected = evaluated(given), evaluated(expected)
    if given is None or expected is None:
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


@lru_cache(maxsize=1024)
def points(symbols: frozenset, seed: str, discrete: bool = False) -> tuple[tuple, ...]:
    """Draw points as (symbol, value) pairs, first of real and then of natural numbers; `discrete` draws only natural.

    The values are positive at the first point, negative at the second, and alternate in sign at the next two.
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
    """Return what must be positive for a real value: bases of powers that are not whole, arguments of logarithms."""
    bases = {power.base for power in expression.atoms(Pow) if not power.exp.is_integer and power.base.free_symbols}
    return tuple(bases), tuple(call.args[0] for call in expression.atoms(log) if call.args[0].free_symbols)


@lru_cache(maxsize=2048)
def value_at(expression: Expr, place: tuple):
    """Return the value of a formula at a point as a constant; None if it or a part of it is not real."""
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
    """Return whether two equations, inequalities or chains of them are equivalent up to a factor and swapped sides."""
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
    """Return the difference of the sides of a relation, for an equation only its numerator."""
    if not isinstance(relation.lhs, Expr) or not isinstance(relation.rhs, Expr):
        return None
    difference = relation.lhs.doit() - relation.rhs.doit()
    return fraction(together(difference))[0] if isinstance(relation, Eq) else difference


def _constant_ratio(a: Expr, b: Expr, seed: str) -> float | None:
    """Return the ratio of two formulas if it is the same at all points, else None."""
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
