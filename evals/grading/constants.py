r"""Whether two constants are equal: proven, or, where no proof is known, to a number of digits that is documented.

1. Rational numbers are compared exactly.
2. The difference of all others is evaluated with a precision that rises until it is shown not to be zero.
3. Where it does not show: algebraic numbers (integers, roots, the imaginary unit, cosines of rational multiples of π)
   that are not equal differ by more than a bound known from their formula. Evaluated beyond it, a difference of zero
   is proven. The bound is BFMSS (Burnikel, Funke, Mehlhorn, Schirra, Schmitt: A Separation Bound for Real Algebraic
   Expressions, ESA 2001, theorem 1): |E| ≥ 2^-((D-1)·u + l) for E not zero, where D is the product of the degrees of
   the roots and u, l are logarithms of bounds that follow the formula.
4. For what no bound is known of (π, e, logarithms with one another), or where it is beyond PROOF_DIGITS: equal to
   FALLBACK_DIGITS digits and twice the digits of the numbers in the formula more.
"""

import math
from fractions import Fraction
from functools import lru_cache

from sympy import Add, I, Integral, Limit, Mul, Pow, Product, Rational, Sum, cos, cot, pi, sin, tan
from sympy.core.evalf import PrecisionExhausted

from evals.grading.parsing import undefined

PROOF_DIGITS = 20_000
FALLBACK_DIGITS = 1_000
UNFINISHED_DIGITS = 25  # of sums, integrals and limits for which no closed form was found
DIGIT = math.log2(10)


@lru_cache(maxsize=4096)
def evaluated(expression):
    """A constant with its sums, integrals, factorials and powers carried out; None where it is no number."""
    value = expression.doit()
    return None if undefined(value) else value


def equal_constants(a, b) -> bool:
    """Whether two constants, as parsed, have the same finite value."""
    a, b = evaluated(a), evaluated(b)
    if a is None or b is None:
        return False
    if a.is_Rational and b.is_Rational:
        return a == b
    if differs_soon(a, b):
        return False
    return vanishes(a - b)


def differs_soon(a, b) -> bool:
    """Whether doubles show that two constants differ: what nearly all different ones show."""
    x, y = approximate(a), approximate(b)
    return x is not None and y is not None and abs(x - y) > 1e-9 * max(abs(x), abs(y), 1e-300)


@lru_cache(maxsize=4096)
def approximate(value) -> complex | None:
    """A constant as a complex double, right to nearly all its digits; None beyond the range of doubles, or at zero."""
    try:
        found = complex(value.evalf(15, maxn=60, strict=True))
    except (PrecisionExhausted, TypeError, ValueError, OverflowError, ArithmeticError, AttributeError):
        return None
    return found if 1e-280 < abs(found) < 1e280 else None


def vanishes(difference) -> bool:
    """Whether a constant is zero, in the sense of this module."""
    if difference.is_Rational:
        return difference == 0
    if difference.has(Sum, Integral, Limit, Product):
        digits = UNFINISHED_DIGITS
    else:
        digits = proof_digits(difference) or FALLBACK_DIGITS + 2 * size_in_digits(difference)
    try:
        return difference.evalf(2, maxn=digits, strict=True) == 0
    except PrecisionExhausted:
        remainder = difference.evalf(5, maxn=digits)  # too small to be told from zero, unless a part of it failed
        return bool(abs(remainder) < Rational(1, 10 ** (digits // 3)))


def size_in_digits(expression) -> int:
    """The digits of the integers in a formula, all together."""
    sizes = (abs(number.p).bit_length() + number.q.bit_length() for number in expression.atoms(Rational))
    return int(sum(sizes) / DIGIT) + 1


def proof_digits(expression) -> int | None:
    """Digits to which a zero must be computed to be proven; None if that is not known, or beyond PROOF_DIGITS."""
    degrees: dict = {}
    bounds = bfmss(expression, degrees)
    if bounds is None:
        return None
    upper, lower = bounds
    bits = (math.prod(degrees.values()) - 1) * upper + lower
    digits = (bits + upper + 64) / DIGIT
    return int(digits) + 20 if digits < PROOF_DIGITS else None


def bfmss(expression, degrees: dict) -> tuple[float, float] | None:
    """log2 of the bounds u and l of an algebraic formula; `degrees` collects each root once, with its degree."""
    if expression.is_Rational:
        return math.log2(max(abs(expression.p), 1)), math.log2(expression.q)
    if expression is I:
        degrees[expression] = 2
        return 0.0, 0.0
    if isinstance(expression, Add | Mul):
        parts = [bfmss(part, degrees) for part in expression.args]
        if None in parts:
            return None
        upper, lower = parts[0]
        for u, low in parts[1:]:
            upper = max(upper + low, u + lower) + 1 if isinstance(expression, Add) else upper + u
            lower += low
        return upper, lower
    if isinstance(expression, Pow) and expression.exp.is_Rational:
        return bfmss_power(expression, degrees)
    if isinstance(expression, sin | cos | tan | cot) and (turns := expression.args[0] / pi).is_Rational:
        degrees[expression] = 4 * turns.q
        return (1.0, 1.0) if isinstance(expression, sin | cos) else (2.0, 2.0)
    return None


def bfmss_power(power, degrees: dict) -> tuple[float, float] | None:
    bounds = bfmss(power.base, degrees)
    if bounds is None or abs(power.exp.p) > 10**6:
        return None
    upper, lower = (part * abs(power.exp.p) for part in (bounds if power.exp.p > 0 else bounds[::-1]))
    order = power.exp.q
    if order == 1:
        return upper, lower
    degrees[power] = order
    if upper >= lower:
        return (upper + (order - 1) * lower) / order, lower
    return upper, ((order - 1) * upper + lower) / order


def leading_digits(value) -> Fraction | None:
    """A real constant as the fraction of its leading 30 digits; None for any other."""
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    number = value.evalf(30)
    return Fraction(str(number)) if number.is_Float else None
