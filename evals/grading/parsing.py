r"""Parsing of normalised answers to sympy with latex2sympy2-extended's parser, whose errors are corrected here.

The parser converts letters to lower case, reads `I` as the imaginary unit, adds adjacent numbers (`2(3)` becomes 5) and
takes complex roots of negative numbers. Here letters keep their case, adjacent factors are multiplied, mixed numbers
are sums, and roots of odd order are real.
"""

import logging
import re
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from sympy import Basic, Float, I, MatrixBase, Pow, Rational, Symbol
from sympy.core.function import AppliedUndef

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
LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z]+'*")  # a command or letters
RENAMED = {"I": "J_{I}", "E": "K_{E}"}  # letters that the parser reads as constants
BOUND_INFINITY = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")
FUNCTIONS_OF_GREEK = re.compile(r"\\(Gamma|gamma)(?![A-Za-z])(?! ?\()")

logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)


class Converter(_Latex2Sympy):
    """The parser with one change: adjacent factors are always multiplied."""

    def convert_postfix_list(self, arr, i=0):
        factor = self.convert_postfix(arr[i])
        if i == len(arr) - 1 or not isinstance(factor, sympy.Expr | sympy.MatrixBase):
            return super().convert_postfix_list(arr, i) if isinstance(factor, list) else factor
        rest = self.convert_postfix_list(arr, i + 1)
        matrices = getattr(factor, "is_Matrix", False) or getattr(rest, "is_Matrix", False)
        return self.mat_mul_flat(factor, rest) if matrices else self.mul_flat(factor, rest)


@lru_cache(maxsize=2048)
def parse(text: str) -> Basic | MatrixBase | None:
    """Parse a normalised answer without evaluation; None if it cannot be read or contains an infinity or NaN."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text) if not is_wordy(text) else text
    if re.search(r"\\infty|(?<![A-Za-z\\])nan(?![A-Za-z])", text) and not BOUND_INFINITY.search(text):
        return None
    try:
        converter = Converter(None, not COMPLEX.search(text), True, config=CASE_KEPT)
        parsed = converter.parse(prepared(text))
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the parser raises exceptions of many types
        return None
    if not isinstance(parsed, Basic | MatrixBase):
        return None
    try:
        return settled(parsed, bool(IMAGINARY.search(text)))
    except (AttributeError, TypeError, ValueError):
        return None


def prepared(text: str) -> str:
    """Rewrite a normalised text so that the parser reads it correctly."""
    text = SPACED.sub(lambda found: found[0].replace(" ", ""), text)
    text = normalize_latex(MIXED.sub(_mixed, text.replace("'", "\\prime")), AS_WRITTEN)
    text = FUNCTIONS_OF_GREEK.sub(r"{G_{\1}}", text)
    if "\\int" not in text:
        text = re.sub(r"(?<![A-Za-z\\])d(?=[A-Za-z])", "D_{d}", text)  # dx is a differential in an integral only
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
    return "".join(f"{{{RENAMED[letter]}}}" if letter in RENAMED else letter for letter in found[0])


def settled(parsed, imaginary: bool):
    """Make i the imaginary unit, decimals exact fractions and roots of odd order real in the parser's tree."""
    if isinstance(parsed, MatrixBase):
        return parsed.applyfunc(lambda entry: settled(entry, imaginary))
    replaced = {symbol: I for symbol in parsed.free_symbols if symbol.name == "i"}
    replaced |= {number: Rational(str(number)) for number in parsed.atoms(Float)}
    parsed = parsed.xreplace(replaced) if replaced else parsed
    if calls := {call: Symbol(str(call), real=True) for call in parsed.atoms(AppliedUndef)}:
        parsed = parsed.xreplace(calls)
    return parsed if imaginary else parsed.replace(_is_odd_root, _real_root)


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
