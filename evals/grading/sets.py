r"""Sets of real numbers: intervals, their unions, inequalities and set-builder notation, read as text and compared.

A set is a sorted tuple of pieces that do not touch; `x \ne 2`, `x < 2 or x > 2` and `(-\infty,2) \cup (2,\infty)` are
the same two. An infinite end is open and equal to itself alone.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key, lru_cache

from evals.grading.cleaning import clean
from evals.grading.constants import approximate, equal_constants, evaluated
from evals.grading.forms import balanced_any, has_letters, is_label, split, squeeze
from evals.grading.parsing import parse

INFINITY = re.compile(r"([-+]?) ?\\infty")


@dataclass(frozen=True)
class End:
    """An end of a piece: a constant as written, or an infinity (`sign` ±1); `closed` where it belongs to the set."""

    text: str
    closed: bool
    sign: int = 0


@dataclass(frozen=True)
class Piece:
    low: End
    high: End


@dataclass(frozen=True)
class RealSet:
    """`name` is the variable that a set was written with ("" for none); `pieces` are sorted and do not touch."""

    pieces: tuple[Piece, ...]
    name: str = ""


BELOW, ABOVE = End("-", False, -1), End("+", False, 1)
REALS = (Piece(BELOW, ABOVE),)
ALL_REALS = re.compile(
    r"\\mathbb\{R\}|(?:\\text\{ ?)?(?:the set of )?all real (?:numbers|values)(?: ?\})?|all reals", re.I
)
UNION = re.compile(r" ?\\cup(?![A-Za-z]) ?")
OR = re.compile(r" ?(?:,? ?\bor\b|\\lor(?![A-Za-z])|\\text\{ ?or ?\}) ?")
AND = re.compile(r" ?(?:,|\band\b|\\land(?![A-Za-z])|\\text\{ ?and ?\}) ?")
WITHOUT = re.compile(r"(.+?) ?\\setminus ?\\\{(.+)\\\}", re.DOTALL)
MEMBER = re.compile(r"([^=<>{}]{1,20}?) ?\\in(?![A-Za-z]) ?(.+)", re.DOTALL)
BUILDER = re.compile(r"\\?\{ ?([A-Za-z](?:_\{?\w\}?)?)(?: ?\\in ?\\mathbb\{R\})? ?(?:\||:) ?(.+?) ?\\?\}", re.DOTALL)
SIGNS = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z]))")
ABSOLUTE = re.compile(r"\| ?([A-Za-z](?:_\{?\w\}?)?) ?\|")
OPENED = {"<": False, ">": False, "\\le": True, "\\ge": True}


@lru_cache(maxsize=4096)
def real_set(text: str) -> RealSet | None:
    """The set of real numbers that the whole of a cleaned text is; None for everything else, points among it."""
    if not any(
        mark in text for mark in ("\\infty", "[", "]", "(", "<", ">", "\\le", "\\ge", "\\ne", "\\cup", "eal", "{R}")
    ):
        return None
    return _read(text)


def _read(text: str) -> RealSet | None:
    text = text.strip()
    if ALL_REALS.fullmatch(text):
        return RealSet(REALS)
    if found := BUILDER.fullmatch(text):
        inside = _read(found[2])
        return inside if inside and inside.name in ("", squeeze(found[1])) else None
    if len(parts := _outside(UNION, text)) > 1 or len(parts := _outside(OR, text)) > 1:
        return _union([_read(part) or _points(part) for part in parts])
    if not SIGNS.search(text) and len(parts := _outside(AND, text)) > 1 and not all(map(is_point, parts)):
        return _union([_interval(part.strip()) for part in parts])  # (-\infty,1) and (2,\infty)
    if found := MEMBER.fullmatch(text):
        inside = _read(found[2])
        named = inside and is_label(found[1]) and not inside.name
        return RealSet(inside.pieces, squeeze(found[1])) if named else None
    if found := WITHOUT.fullmatch(text):
        whole, gaps = _read(found[1]), [_end(clean(part)) for part in split(found[2])]
        return _cut(whole, gaps) if whole and all(gaps) else None
    if SIGNS.search(text):
        if len(parts := _outside(AND, text)) > 1:
            return _intersection([_read(part) for part in parts])
        return _inequality(text)
    return _interval(text)


def _outside(separator: re.Pattern, text: str) -> list[str]:
    """The parts of a text between separators that stand outside of brackets."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth <= 0 and (found := separator.match(text, at)) and found.end() > at:
            parts.append(text[start:at])
            start = at = found.end()
        else:
            at += 1
    return [*parts, text[start:]]


def _interval(text: str) -> RealSet | None:
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]") or not balanced_any(text[1:-1]):
        return None
    parts = split(text[1:-1])
    if len(parts) != 2:
        return None
    return _between(_end(parts[0], text[0] == "["), _end(parts[1], text[-1] == "]"))


def _between(low: End | None, high: End | None) -> RealSet | None:
    """The set between two ends; None where one is no end, is infinite on the wrong side, or a closed infinity."""
    if (
        low is None
        or high is None
        or low.sign > 0
        or high.sign < 0
        or any(end.sign and end.closed for end in (low, high))
    ):
        return None
    return _ordered(low, high)


def _inequality(text: str) -> RealSet | None:
    r"""An inequality for a name or, `|x| < 3`, for its absolute value."""
    if found := ABSOLUTE.search(text):
        inside = _inequality(text.replace(found[0], found[1]))
        return inside and _within(inside.name, inside)
    return _bounds(text)


def _bounds(text: str) -> RealSet | None:
    r"""`x < 4`, `4 > x`, `1 < x \le 2`, `x \ne 2`: a name, and constants on its other sides."""
    sides = [side.strip() for side in SIGNS.split(text)]
    if len(sides) == 3 and not is_label(sides[0]):
        sides = [sides[2], {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}.get(sides[1], sides[1]), sides[0]]
    if len(sides) == 3:
        name, sign, bound = sides
        end = _end(bound, OPENED.get(sign, False))
        if not is_label(name) or end is None:
            return None
        if sign == "\\ne":
            return _cut(RealSet(REALS, squeeze(name)), [end]) if not end.sign else None
        if end.sign and (end.closed or (end.sign > 0) != (sign == "<")):
            return None
        return RealSet((Piece(BELOW, end) if sign in ("<", "\\le") else Piece(end, ABOVE),), squeeze(name))
    if len(sides) != 5 or not is_label(sides[2]):
        return None
    upward = {sides[1], sides[3]} <= {"<", "\\le"}
    if not upward and not {sides[1], sides[3]} <= {">", "\\ge"}:
        return None
    if not upward:
        sides = sides[::-1]
    found = _between(_end(sides[0], OPENED[sides[1]]), _end(sides[4], OPENED[sides[3]]))
    return found and RealSet(found.pieces, squeeze(sides[2]))


def _within(name: str, found: RealSet) -> RealSet | None:
    """What `|x|` in a set says of x."""
    zero = End("0", True)
    distances = _intersection([RealSet(found.pieces), RealSet((Piece(zero, ABOVE),))])
    if distances is None:
        return None
    mirrored = [Piece(_minus(piece.high), _minus(piece.low)) for piece in distances.pieces]
    return _union([RealSet((piece,), name) for piece in (*mirrored, *distances.pieces)])


def _minus(end: End) -> End:
    return End(f"-({end.text})", end.closed, -end.sign)


def _ordered(low: End, high: End) -> RealSet | None:
    """The piece between two ends; None where they are not in order, as those of a point need not be."""
    order = _compare(low, high)
    if order is None or order > 0 or (order == 0 and not (low.closed and high.closed)):
        return None
    return RealSet((Piece(low, high),))


def _points(text: str) -> RealSet | None:
    r"""`\{1, 2\}` or `x = 1` as pieces of one point each, within a union."""
    text = text.strip()
    name = ""
    if found := re.fullmatch(r"([^=]{1,12})=([^=]+)", text):
        name, text = squeeze(found[1].strip()), found[2].strip()
    elif found := re.fullmatch(r"\\\{(.+)\\\}", text, re.DOTALL):
        text = found[1]
    else:
        return None
    ends = [_end(clean(part), True) for part in split(text)]
    if not all(ends) or any(end.sign for end in ends):
        return None
    return _union([RealSet((Piece(end, end),), name) for end in ends])


def _end(text: str, closed: bool = False) -> End | None:
    """An end of an interval: a constant, or an infinity; None for everything else."""
    text = text.strip()
    if found := INFINITY.fullmatch(text):
        return End(text, closed, -1 if found[1] == "-" else 1)
    if not text or has_letters(text) or "\\infty" in text or "," in text:
        return None
    return End(text, closed) if _value(text) is not None else None


@lru_cache(maxsize=4096)
def _value(text: str):
    """An end as a real constant; None where it is none."""
    parsed = parse(text)
    if parsed is None or not getattr(parsed, "is_number", False):
        return None
    value = evaluated(parsed)
    return value if value is not None and value.is_extended_real is not False else None


def _compare(a: End, b: End) -> int | None:
    """-1, 0 or 1 as a lies below, at or above b; None where the two cannot be compared."""
    if a.sign or b.sign:
        return (a.sign > b.sign) - (a.sign < b.sign)
    x, y = _value(a.text), _value(b.text)
    if x is None or y is None:
        return None
    if x.is_Rational and y.is_Rational:
        return bool(x > y) - bool(x < y)
    if equal_constants(x, y):
        return 0
    difference = approximate(x - y)
    return None if difference is None else 1 if difference.real > 0 else -1


def _union(sets: list[RealSet | None]) -> RealSet | None:
    """All pieces together, those that touch or overlap as one; None where a part is no set or the names differ."""
    if None in sets or len({each.name for each in sets if each.name}) > 1:
        return None
    pieces = [piece for each in sets for piece in each.pieces]
    if any(_compare(a.low, b.low) is None or _compare(a.high, b.low) is None for a in pieces for b in pieces):
        return None
    pieces.sort(key=cmp_to_key(lambda a, b: _compare(a.low, b.low) or b.low.closed - a.low.closed))
    merged: list[Piece] = []
    for piece in pieces:
        if merged and _touch(merged[-1].high, piece.low):
            last = merged.pop()
            order = _compare(last.high, piece.high)
            further = piece.high if order < 0 or (order == 0 and piece.high.closed) else last.high
            piece = Piece(last.low, further)
        merged.append(piece)
    return RealSet(tuple(merged), next((each.name for each in sets if each.name), ""))


def _touch(high: End, low: End) -> bool:
    order = _compare(low, high)
    return order < 0 or (order == 0 and not low.sign and (high.closed or low.closed))


def _intersection(sets: list[RealSet | None]) -> RealSet | None:
    """What all sets share, for sets that name the same variable, or none."""
    if None in sets or len({each.name for each in sets if each.name}) > 1:
        return None
    pieces = sets[0].pieces
    for other in sets[1:]:
        shared = []
        for a in pieces:
            for b in other.pieces:
                orders = _compare(a.low, b.low), _compare(a.high, b.high)
                if None in orders:
                    return None
                low = (
                    max((a.low, b.low), key=lambda end: not end.closed)
                    if orders[0] == 0
                    else (b if orders[0] < 0 else a).low
                )
                high = (
                    max((a.high, b.high), key=lambda end: not end.closed)
                    if orders[1] == 0
                    else (a if orders[1] < 0 else b).high
                )
                if kept := _ordered(low, high):
                    shared += kept.pieces
        pieces = tuple(shared)
    return RealSet(pieces, next((each.name for each in sets if each.name), "")) if pieces else None


def _cut(whole: RealSet, gaps: list[End]) -> RealSet | None:
    """A set without some of its points."""
    for gap in gaps:
        outside = RealSet((Piece(BELOW, End(gap.text, False)), Piece(End(gap.text, False), ABOVE)), whole.name)
        whole = _intersection([whole, outside])
        if whole is None:
            return None
    return whole


def is_point(text: str) -> bool:
    """Whether a cleaned text that reads as an interval could be a point as well: `(1,2)` with two finite ends."""
    text = text.strip()
    return text.startswith("(") and text.endswith(")") and "\\infty" not in text and "\\cup" not in text


def same_sets(answer: RealSet, gold: RealSet, same_end, tolerance: Fraction | None) -> bool:
    """Whether two sets have equal pieces; `same_end(answer, gold, tolerance)` compares finite ends as answers."""
    if answer.name and gold.name and answer.name != gold.name:
        return False
    if len(answer.pieces) != len(gold.pieces):
        return False
    for given, expected in zip(answer.pieces, gold.pieces, strict=True):
        for a, b in ((given.low, expected.low), (given.high, expected.high)):
            if a.sign != b.sign or a.closed != b.closed:
                return False
            if not a.sign and not same_end(a.text, b.text, tolerance):
                return False
    return True
