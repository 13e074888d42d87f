r"""The forms of an answer: lists, tuples, matrices, words, numerals with a base, equations.

The functions split texts that `cleaning.clean` has normalised. `equivalence.py` compares the parts.
"""

import re
from functools import lru_cache

from evals.grading.cleaning import CACHED, clean

OPENING, CLOSING = "([{", ")]}"
SEPARATOR = re.compile(
    r"\s*(?:[,;]\s*(?:(?:and|or)\b)?|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|(?<=[\d)\]}])(?:and|or)(?=[A-Z(\d]))\s*"
)
MATRIX = re.compile(
    r"\(? ?\\begin ?\{([pbvBV]?)(?:matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{[pbvBV]?(?:matrix|array)\} ?\)?",
    re.DOTALL,
)
WORD = re.compile(r"(?<![\\A-Za-z])[A-Z]?[a-z]{2,}(?![A-Za-z])")
FUNCTION_NAMES = (
    "sin cos tan cot sec csc sinh cosh tanh log ln exp lim max min gcd lcm mod det arcsin arccos arctan sqrt pi "
    "frac text left right begin end matrix pmatrix bmatrix vmatrix array cases aligned align and or"
)
FUNCTIONS = frozenset(FUNCTION_NAMES.split())
GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda mu phi varphi omega sigma tau rho angle triangle"
GREEK = frozenset(GREEK_NAMES.split())
SHORT_NAMES = "no yes odd red up sat sun mon tue wed thu fri may jan feb mar apr jun jul aug sep oct nov dec"
SHORT_WORDS = frozenset(SHORT_NAMES.split())  # words, not products of variables
NUMERAL = re.compile(
    r"[({]?(-?[0-9A-F]+(?:\.[0-9A-F]+)?)[)}]? ?"
    r"(?:_ ?(?:\{ ?(?:\\text\{ ?)?(?:base ?)?(\w+)[ }]*|(\d+))|(?:\\text\{)?[( ]*base[ -]?(\w+)[ )}]*)"
)
BASE_NAMES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
BASES = {name: base for base, name in enumerate(BASE_NAMES.split(), start=2)}
WORD_OR_CHOICE = re.compile(r"\(?[A-Za-z]\)?|[A-Za-z]{2,20}")
CHOICE_AND_VALUE = re.compile(
    r"(?:\\text\{ ?(\(?[A-J]\)?)[.:]? ?\}|(\([A-J]\))(?= |\\text))[.:,]? ?(?!\^|_)(\S.*)", re.DOTALL
)
EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\equiv(?![A-Za-z])")
APPROXIMATELY = re.compile(r"\\approx(?:eq)?(?![A-Za-z])|\\sim(?:eq)?(?![A-Za-z])")


@lru_cache(maxsize=CACHED)
def squeeze(text: str) -> str:
    """Remove spaces, except between letters, and braces around single characters."""
    text = re.sub(r"(?<=\\[A-Za-z]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[A-Za-z])", "\0", text)
    text = re.sub(r"\s", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


def balanced(text: str) -> bool:
    """Return whether every bracket closes an earlier one. The kinds of brackets may differ: `[1,2)`."""
    depth = 0
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            return False
    return depth == 0


def split_outside(separator: re.Pattern, text: str, skip_commands: bool = False) -> list[str]:
    """Split a text at separators outside of brackets. `skip_commands` finds none inside or right after a command."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        if skip_commands and character == "\\" and text[at + 1 : at + 2] not in ("{", "}"):
            at += 1 if text[at + 1 : at + 2].isalpha() else 2
            while at < len(text) and text[at].isalpha() and text[at - 1] != " ":
                at += 1
            continue
        depth += (character in OPENING) - (character in CLOSING)
        if depth <= 0 and (found := separator.match(text, at)) and found[0].strip():
            parts.append(text[start:at])
            start = at = found.end()
        else:
            at += 1
    return [*parts, text[start:]]


@lru_cache(maxsize=CACHED)
def split(text: str) -> tuple[str, ...]:
    r"""Split a list at commas, semicolons, "and" and "or" outside of brackets. A part with one `\pm` becomes two."""
    spread = []
    for part in map(clean, split_outside(SEPARATOR, text, skip_commands=True)):
        signs = re.split(r"\\pm(?![A-Za-z])", part)
        spread += [part] if len(signs) != 2 else [signs[0] + "+" + signs[1], signs[0] + "-" + signs[1]]
    return tuple(filter(None, spread))


def strip_braces(text: str) -> str:
    r"""Remove the braces of a set: `\{1, 2\}` and `{1, 2}` become `1, 2`."""
    for left, right in ((r"\{", r"\}"), (r"\lbrace", r"\rbrace"), ("{", "}")):
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and balanced(inner) and inner.strip() != "\\emptyset":
            return inner.strip()
    return text


@lru_cache(maxsize=CACHED)
def set_elements(text: str) -> str:
    r"""Remove the braces of a set, and `x \in` or `x =` before them."""
    found = re.fullmatch(r"[^{}=]{1,12}?(?:=|\\in(?![A-Za-z])) ?(\\\{.*\\\})", text, re.DOTALL)
    return strip_braces(found[1] if found else text)


@lru_cache(maxsize=CACHED)
def is_group(text: str) -> bool:
    """Return whether a text is one pair of brackets with several parts: a tuple, a point or an interval."""
    return text[:1] in ("(", "[") and text[-1:] in (")", "]") and balanced(text[1:-1]) and len(split(text[1:-1])) > 1


@lru_cache(maxsize=CACHED)
def entries(text: str) -> list[list[str]]:
    """Return the rows of a matrix with any brackets; [] for anything else, also for a determinant."""
    found = MATRIX.fullmatch(re.sub(r"^\[ ?(\\begin.*) ?\]$", r"\1", text, flags=re.DOTALL))
    if not found or found[1] in ("v", "V") or "\\begin" in found[2]:
        return []
    return [[clean(entry) for entry in row.split("&")] for row in re.split(r"\\\\|\\cr", found[2]) if row.strip()]


# --- words --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=CACHED)
def words(text: str) -> str:
    r"""Return the words of a text in lower case, without punctuation and markup: `\text{(C)}` is `c`."""
    text = re.sub(r"\\(?:text|mathrm|operatorname)(?![A-Za-z])|[\s{}$~\"'`]|\\(?=[ ,;:%])", "", text)
    text = text.strip(".,:;!")
    if found := re.fullmatch(r"\((\w+)\)|(\w)\)", text):
        text = found[1] or found[2]
    return text.lower()


@lru_cache(maxsize=CACHED)
def is_wordy(text: str) -> bool:
    """Return whether an answer is words. Words are compared as text, never computed."""
    if found := re.findall(r"\\text\{([^{}]*)\}", text):
        return any(re.search(r"[A-Za-z]{2,}|\([A-Za-z]\)", part) for part in found)
    plain = WORD.findall(re.sub(r"\\[A-Za-z]+", " ", text))
    return any(len(word) > 3 and word.lower() not in FUNCTIONS for word in plain)


def same_words(answer: str, gold: str) -> bool:
    """Return whether a gold answer is one word or choice, and equal. Case counts for variables: AB is not ab."""
    expected = words(gold)
    if not WORD_OR_CHOICE.fullmatch(gold.strip()) or words(answer) != expected:
        return False
    marked = re.search(r"\\text|[()]", gold) or len(expected) > 3 or expected in SHORT_WORDS
    return bool(marked) or re.sub(r"\\text|[(){} ]", "", answer) == gold.strip()


@lru_cache(maxsize=CACHED)
def split_choice(text: str) -> tuple[str, str]:
    r"""Split a choice and its value, `\text{(B)} 12`, into letter and value; ("", "") for anything else."""
    found = CHOICE_AND_VALUE.fullmatch(text)
    return (found[1] or found[2], clean(found[3])) if found else ("", "")


# --- ratios and numerals ------------------------------------------------------------------------------------------


@lru_cache(maxsize=CACHED)
def ratio(text: str) -> list[str]:
    """Return the terms of a ratio such as `1:2:3`, or [text] for anything else."""
    terms = [term.strip() for term in text.split(":")]
    plain = len(terms) <= 20 and all(terms) and all(map(balanced, terms))
    return terms if plain and not re.search(r"[={|<>]|\\in(?![A-Za-z])", text.replace("\\frac{", "")) else [text]


@lru_cache(maxsize=CACHED)
def numeral(text: str) -> tuple[str, int] | None:
    r"""Return digits and base of a numeral: `52_8`, `BEEF_{16}`, `101_{\text{two}}`, `52 (base 8)`."""
    if not (found := NUMERAL.fullmatch(text)):
        return None
    digits, *names = found.groups()
    name = next(filter(None, names)).lower()
    base = int(name) if name.isdecimal() and len(name) < 3 else BASES.get(name, 0)
    if not 2 <= base <= 36 or not re.search(r"\d", digits):
        return None
    if any(int(digit, 36) >= base for digit in re.sub(r"[-.]", "", digits)):
        return None
    return digits.lstrip("0") or "0", base


# --- equations ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=CACHED)
def chain(text: str) -> tuple[str, ...]:
    r"""Return the sides of `a = b = c`, of `a = b \approx c` the exact ones; (text,) for anything else."""
    if "\\begin" in text and not re.match(r"[^\\]*=", text):
        return (text,)
    exact, *rounded = APPROXIMATELY.split(text)
    sides = [clean(side) for side in EQUALS.split(exact)]
    if rounded and len(sides) == 1 and is_label(sides[0]):
        sides.append(clean(rounded[0]))
    return tuple(sides) if all(sides) and all(map(balanced, sides)) else (text,)


@lru_cache(maxsize=CACHED)
def defines(text: str) -> bool:
    """Return whether a text names its value: `x = 5`."""
    sides = chain(text)
    return len(sides) > 1 and is_label(sides[0])


def names_of(parts: tuple[str, ...]) -> list[str]:
    return [squeeze(chain(part)[0]) for part in parts if defines(part)]


@lru_cache(maxsize=CACHED)
def names_differ(parts: tuple[str, ...]) -> bool:
    """Return whether every part defines another name. Bare values must then come in the same order."""
    names = names_of(parts)
    return len(names) == len(parts) and len(set(names)) == len(names) > 1


def as_tuple(parts: tuple[str, ...]) -> str:
    """Write `x = 1, y = 2` as `(1,2)`."""
    return f"({','.join(value_of(chain(part)) for part in parts)})"


@lru_cache(maxsize=CACHED)
def groups_of(text: str) -> tuple[str, ...]:
    """Return the tuples in `p = 5, q = 2; p = 7, q = 2`, which assigns the same names several times; else ()."""
    parts = split(text)
    names = names_of(parts)
    size = len(set(names))
    if len(names) < len(parts) or size < 2 or size == len(parts) or names != names[:size] * (len(parts) // size):
        return ()
    return tuple(as_tuple(parts[i : i + size]) for i in range(0, len(parts), size))


@lru_cache(maxsize=CACHED)
def has_letters(text: str) -> bool:
    """Return whether a text has a letter other than pi and the names of functions."""
    return bool(re.search(r"[A-Za-z]", re.sub(r"\\([A-Za-z]+)", lambda name: "x" if name[1] in GREEK else " ", text)))


def is_label(side: str) -> bool:
    r"""Return whether one side of an equation is only a name: `x`, `f(x)`, `|AB|`, `\angle BAC`, `V_1 : V_2`."""
    return has_letters(side) and not re.search(r"[-+*/^]|^\d", side)


def value_of(sides: tuple[str, ...]) -> str:
    """Return the value of a chain: its last side, or the first if the name is last (`5 = x`)."""
    return sides[0] if not has_letters(sides[0]) and is_label(sides[-1]) else sides[-1]
