r"""The forms of an answer: lists, tuples, matrices, words, numerals with a base, equations. Taken apart as text.

Works on texts that `answers.clean` has written in one form; `equivalence.py` decides what the parts mean together.
"""

import re
from functools import lru_cache

from evals.grading.cleaning import CACHED, clean


@lru_cache(maxsize=CACHED)
def squeeze(text: str) -> str:
    """Without what spaces and braces around single characters can change."""
    text = re.sub(r"(?<=\\[A-Za-z]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[A-Za-z])", "\0", text)
    text = re.sub(r"\s", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


OPENING, CLOSING = "([{", ")]}"
SEPARATOR = re.compile(
    r"\s*(?:[,;]\s*(?:(?:and|or)\b)?|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|(?<=[\d)\]}])(?:and|or)(?=[A-Z(\d]))\s*"
)


@lru_cache(maxsize=CACHED)
def split(text: str) -> tuple[str, ...]:
    r"""The parts of a list: what stands between commas, semicolons, "and" and "or" outside of brackets.

    A part with one `\pm` is two parts. A text without a separator has one part.
    """
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        if character == "\\" and text[at + 1 : at + 2] not in ("{", "}"):
            at += 2 if not text[at + 1 : at + 2].isalpha() else 1
            while at < len(text) and text[at].isalpha() and text[at - 1] != " ":
                at += 1
            continue
        depth += (character in OPENING) - (character in CLOSING)
        if depth <= 0 and (found := SEPARATOR.match(text, at)) and found.end() > at and found[0].strip():
            parts.append(text[start:at])
            start = at = found.end()
        else:
            at += 1
    parts.append(text[start:])
    spread = []
    for part in (clean(part) for part in parts):
        signs = re.split(r"\\pm(?![A-Za-z])", part)
        spread += [part] if len(signs) != 2 else [signs[0] + "+" + signs[1], signs[0] + "-" + signs[1]]
    return tuple(part for part in spread if part)


def strip_braces(text: str) -> str:
    r"""`\{1, 2\}` and `{1, 2}` without the braces of the set."""
    for left, right in ((r"\{", r"\}"), (r"\lbrace", r"\rbrace"), ("{", "}")):
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and balanced(inner) and inner.strip() != "\\emptyset":
            return inner.strip()
    return text


def balanced(text: str) -> bool:
    """Whether the brackets of a text close one another, so that those around it belong together."""
    depth = 0
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            return False
    return depth == 0


def as_tuple(parts: tuple[str, ...]) -> str:
    """`x = 1, y = 2` as `(1,2)`."""
    return f"({','.join(value_of(chain(part)) for part in parts)})"


@lru_cache(maxsize=CACHED)
def groups_of(text: str) -> tuple[str, ...]:
    """The tuples in `p = 5, q = 2; p = 7, q = 2`: several assignments that name the same things; else nothing."""
    parts = split(text)
    names = [squeeze(chain(part)[0]) for part in parts if defines(part)]
    size = len(set(names))
    if len(names) < len(parts) or size < 2 or size == len(parts) or names != names[:size] * (len(parts) // size):
        return ()
    return tuple(as_tuple(parts[i : i + size]) for i in range(0, len(parts), size))


@lru_cache(maxsize=CACHED)
def unset(text: str) -> str:
    r"""The elements of a set: without the braces, and without the `x \in` or `x =` before them."""
    found = re.fullmatch(r"[^{}=]{1,12}?(?:=|\\in(?![A-Za-z])) ?(\\\{.*\\\})", text, re.DOTALL)
    return strip_braces(found[1] if found else text)


@lru_cache(maxsize=CACHED)
def is_group(text: str) -> bool:
    """Whether a text is one pair of brackets with several parts: a tuple, a point or an interval."""
    return (
        text[:1] in ("(", "[") and text[-1:] in (")", "]") and balanced_any(text[1:-1]) and len(split(text[1:-1])) > 1
    )


def balanced_any(text: str) -> bool:
    return balanced(text.replace("[", "(").replace("]", ")"))


MATRIX = re.compile(
    r"\(? ?\\begin ?\{([pbvBV]?)(?:matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{[pbvBV]?(?:matrix|array)\} ?\)?",
    re.DOTALL,
)


@lru_cache(maxsize=CACHED)
def entries(text: str) -> list[list[str]]:
    """The rows of a matrix, whatever its brackets; no rows for anything else, determinants among it."""
    found = MATRIX.fullmatch(re.sub(r"^\[ ?(\\begin.*) ?\]$", r"\1", text, flags=re.DOTALL))
    if not found or found[1] in ("v", "V") or "\\begin" in found[2]:
        return []
    return [[clean(entry) for entry in row.split("&")] for row in re.split(r"\\\\|\\cr", found[2]) if row.strip()]


WORD = re.compile(r"(?<![\\A-Za-z])[A-Z]?[a-z]{2,}(?![A-Za-z])")
FUNCTION_NAMES = (
    "sin cos tan cot sec csc sinh cosh tanh log ln exp lim max min gcd lcm mod det arcsin arccos arctan sqrt pi "
    "frac text left right begin end matrix pmatrix bmatrix vmatrix array cases aligned align and or"
)
FUNCTIONS = frozenset(FUNCTION_NAMES.split())
NUMERAL = re.compile(
    r"[({]?(-?[0-9A-F]+(?:\.[0-9A-F]+)?)[)}]? ?"
    r"(?:_ ?(?:\{ ?(?:\\text\{ ?)?(?:base ?)?(\w+)[ }]*|(\d+))|(?:\\text\{)?[( ]*base[ -]?(\w+)[ )}]*)"
)
BASE_NAMES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
BASES = {name: base for base, name in enumerate(BASE_NAMES.split(), start=2)}


@lru_cache(maxsize=CACHED)
def words(text: str) -> str:
    r"""What a text says, whatever its case, punctuation and markup: `\text{(C)}` is `c`."""
    text = re.sub(r"\\(?:text|mathrm|operatorname)(?![A-Za-z])|[\s{}$~\"'`]|\\(?=[ ,;:%])", "", text)
    text = text.strip(".,:;!")
    text = (
        text[1:-1]
        if re.fullmatch(r"\(\w\)|\(\w\w+\)", text)
        else text.removesuffix(")")
        if re.fullmatch(r"\w\)", text)
        else text
    )
    return text.lower()


@lru_cache(maxsize=CACHED)
def is_wordy(text: str) -> bool:
    """Whether an answer is words rather than mathematics: compared as text, never computed with."""
    if found := re.findall(r"\\text\{([^{}]*)\}", text):
        return any(re.search(r"[A-Za-z]{2,}|\([A-Za-z]\)", each) for each in found)
    return any(
        len(word) > 3 and word.lower() not in FUNCTIONS for word in WORD.findall(re.sub(r"\\[A-Za-z]+", " ", text))
    )


SHORT_WORDS = frozenset(
    [
        "no",
        "yes",
        "odd",
        "red",
        "up",
        "sat",
        "sun",
        "mon",
        "tue",
        "wed",
        "thu",
        "fri",
        "may",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "oct",
        "nov",
        "dec",
    ]
)


def same_words(answer: str, gold: str) -> bool:
    r"""Whether an answer is the gold's word or choice, whatever its case. That of variables counts: AB is not ab."""
    given, expected = words(answer), words(gold)
    if given != expected:
        return False
    marked = re.search(r"\\text|[()]", gold) or len(expected) > 3 or expected in SHORT_WORDS
    return bool(marked) or re.sub(r"\\text|[(){} ]", "", answer) == gold.strip()


CHOICE_AND_VALUE = re.compile(
    r"(?:\\text\{ ?(\(?[A-J]\)?)[.:]? ?\}|(\([A-J]\))(?= |\\text))[.:,]? ?(?!\^|_)(\S.*)", re.DOTALL
)


@lru_cache(maxsize=CACHED)
def split_choice(text: str) -> tuple[str, str]:
    r"""The letter and the value of `\text{(B)} 12`; two empty texts for everything else."""
    found = CHOICE_AND_VALUE.fullmatch(text)
    return (found[1] or found[2], clean(found[3])) if found else ("", "")


TIME = re.compile(r"\d{1,2}:\d\d")


@lru_cache(maxsize=CACHED)
def ratio(text: str) -> list[str]:
    """The terms of a ratio such as `1:2:3`; the text alone for everything else."""
    terms = [term.strip() for term in text.split(":")]
    plain = len(terms) <= 20 and all(terms) and all(map(balanced_any, terms))
    return terms if plain and not re.search(r"[={|<>]|\\in(?![A-Za-z])", text.replace("\\frac{", "")) else [text]


def is_name(text: str) -> bool:
    """Whether a text is letters alone, perhaps the product of variables."""
    return bool(re.fullmatch(r"[A-Za-z]{1,20}", text))


def is_choice(text: str) -> bool:
    return bool(re.fullmatch(r"\(?[A-Za-z]\)?|[A-Za-z]{2,20}", text.strip()))


def is_numeral(text: str) -> bool:
    r"""Whether a text is a numeral with its base: `52_8`, `BEEF_{16}`, `101_{\text{two}}`, `52 (base 8)`."""
    return numeral(text) is not None


@lru_cache(maxsize=CACHED)
def numeral(text: str) -> tuple[str, int] | None:
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


EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\equiv(?![A-Za-z])")
APPROXIMATELY = re.compile(r"\\approx(?:eq)?(?![A-Za-z])|\\sim(?:eq)?(?![A-Za-z])")
MEMBER = re.compile(r"([^=<>]{1,20}?)\\in(?![A-Za-z])(.+)", re.DOTALL)
FUNCTION = re.compile(r"([A-Za-z](?:_\{?\w\}?)?) ?\( ?([A-Za-z]) ?\)")


@lru_cache(maxsize=CACHED)
def chain(text: str) -> tuple[str, ...]:
    r"""The sides of `a = b = c`; of `a = b \approx c` the exact ones. One side for anything else."""
    if "\\begin" in text and not re.match(r"[^\\]*=", text):
        return (text,)
    exact, *rounded = APPROXIMATELY.split(text)
    sides = [clean(side) for side in EQUALS.split(exact)]
    if rounded and len(sides) == 1 and is_label(sides[0]):
        sides.append(clean(rounded[0]))
    return tuple(sides) if all(sides) and all(map(balanced, sides)) else (text,)


@lru_cache(maxsize=CACHED)
def defines(text: str) -> bool:
    """Whether a text names what it gives: `x = 5`."""
    sides = chain(text)
    return len(sides) > 1 and is_label(sides[0])


@lru_cache(maxsize=CACHED)
def names_differ(parts: tuple[str, ...]) -> bool:
    """Whether every part defines something else, so that bare values must come in this order."""
    names = [squeeze(chain(part)[0]) for part in parts if defines(part)]
    return len(names) == len(parts) and len(set(names)) == len(names) > 1


GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda mu phi varphi omega sigma tau rho angle triangle"
GREEK = frozenset(GREEK_NAMES.split())


@lru_cache(maxsize=CACHED)
def has_letters(text: str) -> bool:
    """Whether a text has a letter that stands for something: pi and the names of functions do not."""
    return bool(re.search(r"[A-Za-z]", re.sub(r"\\([A-Za-z]+)", lambda name: "x" if name[1] in GREEK else " ", text)))


def is_label(side: str) -> bool:
    r"""Whether one side of an equation is but a name: `x`, `f(x)`, `|AB|`, `\angle BAC`, `V_1 : V_2`."""
    return has_letters(side) and not re.search(r"[-+*/^]|^\d", side)


def value_of(sides: tuple[str, ...]) -> str:
    """What a chain says in the end: its last side, or the first where the name stands last (`5 = x`)."""
    if not has_letters(sides[0]) and is_label(sides[-1]):
        return sides[0]
    return sides[-1]
