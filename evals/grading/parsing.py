r"""The mathematics that a cleaned answer is, by latex2sympy2-extended's parser, with what it gets wrong put right.

The parser lowers every letter, takes `I` for the imaginary unit, adds factors that stand side by side where both are
numbers (`2(3)` becomes 5) and takes complex roots of negative numbers. Here letters keep their case, factors are
multiplied, mixed numbers are read as such, and roots of odd order are real.
"""

import logging
import re
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from sympy import Basic, Float, I, MatrixBase, Pow, Rational, Symbol, nan, oo, zoo
from sympy.core.function import AppliedUndef
from sympy.core.numbers import NegativeInfinity

from evals.grading.forms import is_wordy

AS_WRITTEN = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
CASE_KEPT = ConversionConfig(lowercase_symbols=False)
COMPLEX = re.compile(r"\\(?:imath|Re|Im|arg|det|mathbb\{C\}|operatorname\{(?:Re|Im|tr)\})")
IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])|\\imath")
MIXED = re.compile(
    r"(?<![\d.^_}\w])(\d+) ?(?:\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}|\\frac ?(\d) ?(\d)|(?<= )(\d+)/(\d+))(?!\d)"
)
SPACED = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d.])")
LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z]+'*")  # a command, or letters with the primes of the last
UNLIKE = {"I": "J_{I}", "E": "K_{E}"}  # letters that the parser takes for something else
FUNCTIONS_OF_GREEK = re.compile(r"\\(Gamma|gamma)(?![A-Za-z])(?! ?\()")

logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)


class Converter(_Latex2Sympy):
    """The parser, but for one of its readings: factors side by side are multiplied, whatever they are."""

    def convert_postfix_list(self, arr, i=0):
        factor = self.convert_postfix(arr[i])
        if i == len(arr) - 1 or not isinstance(factor, sympy.Expr | sympy.MatrixBase):
            return super().convert_postfix_list(arr, i) if isinstance(factor, list) else factor
        rest = self.convert_postfix_list(arr, i + 1)
        matrices = getattr(factor, "is_Matrix", False) or getattr(rest, "is_Matrix", False)
        return self.mat_mul_flat(factor, rest) if matrices else self.mul_flat(factor, rest)


@lru_cache(maxsize=2048)
def parse(text: str) -> Basic | MatrixBase | None:
    """The mathematics a cleaned answer is, unevaluated; None where it cannot be read, or holds an infinity or NaN."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text) if not is_wordy(text) else text
    if re.search(r"\\infty|(?<![A-Za-z\\])nan(?![A-Za-z])", text) and not BOUND_INFINITY.search(text):
        return None
    try:
        converter = Converter(None, not COMPLEX.search(text), True, config=CASE_KEPT)
        parsed = converter.parse(prepared(text))
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the parser raises bare Exceptions, and its visitors whatever the tree made them stumble over
        return None
    if not isinstance(parsed, Basic | MatrixBase):
        return None
    try:
        return settled(parsed, bool(IMAGINARY.search(text)))
    except (AttributeError, TypeError, ValueError):
        return None


BOUND_INFINITY = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")


def prepared(text: str) -> str:
    r"""A cleaned text as the parser reads it rightly: mixed numbers as sums, letters with their case."""
    text = SPACED.sub(lambda found: found[0].replace(" ", ""), text)
    text = normalize_latex(MIXED.sub(_mixed, text.replace("'", "\\prime")), AS_WRITTEN)
    text = FUNCTIONS_OF_GREEK.sub(r"{G_{\1}}", text)
    if "\\int" not in text:
        text = re.sub(r"(?<![A-Za-z\\])d(?=[A-Za-z])", "D_{d}", text)  # dx is a differential under an integral only
    return LETTER.sub(_renamed, re.sub(r"([A-Za-z])((?:\\prime ?)+)", _primed, text))


def _mixed(found: re.Match) -> str:
    whole, *rest = found.groups()
    above, below = (part for part in rest if part)
    if not 0 < int(above) < int(below):
        return f"{whole} \\cdot \\frac{{{above}}}{{{below}}}"
    return f"({whole}+\\frac{{{above}}}{{{below}}})"


def _primed(found: re.Match) -> str:
    return f"{{{found[1]}_{{{'p' * found[2].count('prime')}}}}}"


def _renamed(found: re.Match) -> str:
    if found[0].startswith("\\"):
        return found[0]
    return "".join(f"{{{UNLIKE[letter]}}}" if letter in UNLIKE else letter for letter in found[0])


def settled(parsed, imaginary: bool):
    """The parser's tree with i as the imaginary unit, decimals as exact fractions and real roots of odd order."""
    if isinstance(parsed, MatrixBase):
        return parsed.applyfunc(lambda entry: settled(entry, imaginary))
    replaced = {symbol: I for symbol in parsed.free_symbols if symbol.name == "i"}
    replaced |= {number: Rational(str(number)) for number in parsed.atoms(Float)}
    if replaced:
        parsed = parsed.xreplace(replaced)
    calls = {call: Symbol(str(call), real=True) for call in parsed.atoms(AppliedUndef)}
    if calls:
        parsed = parsed.xreplace(calls)
    if not imaginary:
        parsed = parsed.replace(_is_odd_root, _real_root)
    return parsed


def _is_odd_root(node) -> bool:
    if not (
        isinstance(node, Pow) and node.exp.is_Rational and node.exp.q > 1 and node.exp.q % 2 and node.base.is_number
    ):
        return False
    return node.base.is_extended_negative is True or (
        node.base.is_extended_real is not False and node.base.is_extended_negative is None and node.base.evalf(15) < 0
    )


def _real_root(node):
    return (-1) ** node.exp.p * Pow(-node.base, node.exp)


def undefined(expression) -> bool:
    """Whether a value is no number: an infinity, a division by zero, or not a number."""
    return bool(expression.has(oo, NegativeInfinity, zoo, nan))
