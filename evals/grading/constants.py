r"""Equality of constants. It is proven where a proof is known, and else checked to many digits.

1. Rational numbers are compared exactly.
2. Other differences are evaluated with rising precision until they are shown not to be zero.
3. Different algebraic numbers (integers, roots, the imaginary unit, cosines of rational multiples of π) differ by more
   than a bound that follows from their formula. A difference that is zero beyond this bound is proven to be zero. The
   bound is BFMSS (Burnikel, Funke, Mehlhorn, Schirra, Schmitt: A Separation Bound for Real Algebraic Expressions, ESA
   2001, theorem 1): |E| ≥ 2^-((D-1)·u + l) for E ≠ 0. D is the product of the degrees of the roots, u and l are
   logarithms of bounds that are computed along the formula.
4. Other constants (with π, e or logarithms), and those whose bound exceeds PROOF_DIGITS, are equal if they agree to
   FALLBACK_DIGITS digits plus twice the digits of the numbers in the formula.
"""

import math
from fractions import Fraction
from functools import lru_cache

from sympy import Add, I, Integral, Limit, Mul, Pow, Product, Rational, Sum, cos, cot, nan, oo, pi, sin, tan, zoo
from sympy.core.evalf import PrecisionExhausted
from sympy.core.numbers import NegativeInfinity

PROOF_DIGITS = 20_000
FALLBACK_DIGITS = 1_000
UNFINISHED_DIGITS = 25  # of sums, integrals and limits without a closed form
DIGIT = math.log2(10)


@lru_cache(maxsize=4096)
def evaluated(expression):
    """Evaluate the sums, integrals, factorials and powers of an expression; None if the result is undefined."""
    value = expression.doit()
    return None if value.has(oo, NegativeInfinity, zoo, nan) else value


def equal_constants(a, b) -> bool:
    """Return whether two parsed constants have the same finite value."""
    a, b = evaluated(a), evaluated(b)
    if a is None or b is None:
        return False
    if a.is_Rational and b.is_Rational:
        return a == b
    if differs_soon(a, b):
        return False
    return vanishes(a - b)


def differs_soon(a, b) -> bool:
    """Return whether two constants already differ as doubles, as most different ones do."""
    x, y = approximate(a), approximate(b)
    return x is not None and y is not None and abs(x - y) > 1e-9 * max(abs(x), abs(y), 1e-300)


@lru_cache(maxsize=4096)
def approximate(value) -> complex | None:
    """Return a constant as an accurate complex double; None if it is zero or outside the range of doubles."""
    try:
        found = complex(value.evalf(15, maxn=60, strict=True))
    except (PrecisionExhausted, TypeError, ValueError, OverflowError, ArithmeticError, AttributeError):
        return None
    return found if 1e-280 < abs(found) < 1e280 else None


def vanishes(difference) -> bool:
    """Return whether a constant is zero, by rules 1 to 4 of this module."""
    if difference.is_Rational:
        return difference == 0
    if difference.has(Sum, Integral, Limit, Product):
        digits = UNFINISHED_DIGITS
    else:
        digits = proof_digits(difference) or FALLBACK_DIGITS + 2 * size_in_digits(difference)
    try:
        return difference.evalf(2, maxn=digits, strict=True) == 0
    except PrecisionExhausted:
        remainder = difference.evalf(5, maxn=digits)  # too small to distinguish from zero, unless a part failed
        return bool(abs(remainder) < Rational(1, 10 ** (digits // 3)))


def size_in_digits(expression) -> int:
    """Return the total number of digits of the integers in a formula."""
    sizes = (abs(number.p).bit_length() + number.q.bit_length() for number in expression.atoms(Rational))
    return int(sum(sizes) / DIGIT) + 1


def proof_digits(expression) -> int | None:
    """Return the digits that prove a zero; None if they are unknown or more than PROOF_DIGITS."""
    degrees: dict = {}
    bounds = bfmss(expression, degrees)
    if bounds is None:
        return None
    upper, lower = bounds
    bits = (math.prod(degrees.values()) - 1) * upper + lower
    digits = (bits + upper + 64) / DIGIT
    return int(digits) + 20 if digits < PROOF_DIGITS else None


def bfmss(expression, degrees: dict) -> tuple[float, float] | None:
    """Return log2 of the bounds u and l of an algebraic formula; `degrees` collects each root with its degree."""
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
    """Return a real constant as the fraction of its leading 30 digits; None if it is not real."""
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    number = value.evalf(30)
    return Fraction(str(number)) if number.is_Float else None
