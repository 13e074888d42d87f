r"""Sets of real numbers: intervals, unions, inequalities and set-builder notation, read from text and compared.

A set is a sorted tuple of pieces that do not touch, so `x \ne 2`, `x < 2 or x > 2` and `(-\infty,2) \cup (2,\infty)`
have the same two pieces. Readers return None for a text that is no such set.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key, lru_cache

from evals.grading.cleaning import clean
from evals.grading.constants import approximate, equal_constants, evaluated
from evals.grading.forms import has_letters, is_group, is_label, split, split_outside, squeeze
from evals.grading.parsing import parse

INFINITY = re.compile(r"([-+]?) ?\\infty")
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
CLOSED = {"<": False, ">": False, "\\le": True, "\\ge": True}  # whether the bound belongs to the set
SWAPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}
MARKS = ("\\infty", "[", "]", "(", "<", ">", "\\le", "\\ge", "\\ne", "\\cup", "eal", "{R}")  # every set has one


@dataclass(frozen=True)
class End:
    """An end of a piece: a constant as written, or an infinity with `sign` ±1. A closed end belongs to the set."""

    text: str
    closed: bool
    sign: int = 0


@dataclass(frozen=True)
class Piece:
    low: End
    high: End


@dataclass(frozen=True)
class RealSet:
    pieces: tuple[Piece, ...]
    name: str = ""  # the variable of an inequality or of set-builder notation


BELOW, ABOVE = End("-", False, -1), End("+", False, 1)
REALS = (Piece(BELOW, ABOVE),)


@lru_cache(maxsize=4096)
def real_set(text: str) -> RealSet | None:
    """Return the set of real numbers that a whole normalised text describes; None for anything else, also a point."""
    return _read(text) if any(mark in text for mark in MARKS) else None


def _read(text: str) -> RealSet | None:
    text = text.strip()
    if ALL_REALS.fullmatch(text):
        return RealSet(REALS)
    if found := BUILDER.fullmatch(text):
        inside = _read(found[2])
        return inside if inside and inside.name in ("", squeeze(found[1])) else None
    if len(parts := split_outside(UNION, text)) > 1 or len(parts := split_outside(OR, text)) > 1:
        return _union([_read(part) or _points(part) for part in parts])
    if not SIGNS.search(text) and len(parts := split_outside(AND, text)) > 1 and not all(map(is_point, parts)):
        return _union([_interval(part.strip()) for part in parts])  # (-\infty,1) and (2,\infty)
    if found := MEMBER.fullmatch(text):
        inside = _read(found[2])
        named = inside and is_label(found[1]) and not inside.name
        return RealSet(inside.pieces, squeeze(found[1])) if named else None
    if found := WITHOUT.fullmatch(text):
        whole, gaps = _read(found[1]), [_end(clean(part)) for part in split(found[2])]
        return _cut(whole, gaps) if whole and all(gaps) else None
    if SIGNS.search(text):
        if len(parts := split_outside(AND, text)) > 1:
            return _intersection([_read(part) for part in parts])
        return _inequality(text)
    return _interval(text)


def _interval(text: str) -> RealSet | None:
    if not is_group(text) or len(parts := split(text[1:-1])) != 2:
        return None
    return _between(_end(parts[0], text[0] == "["), _end(parts[1], text[-1] == "]"))


def _between(low: End | None, high: End | None) -> RealSet | None:
    if low is None or high is None or low.sign > 0 or high.sign < 0:
        return None
    return None if any(end.sign and end.closed for end in (low, high)) else _ordered(low, high)


def _ordered(low: End, high: End) -> RealSet | None:
    """Return the piece between two ends; None if they are not in order, as in the point (2,1)."""
    order = _compare(low, high)
    if order is None or order > 0 or (order == 0 and not (low.closed and high.closed)):
        return None
    return RealSet((Piece(low, high),))


def _inequality(text: str) -> RealSet | None:
    r"""Read `x < 4`, `4 > x`, `1 < x \le 2`, `x \ne 2` or `|x| < 3`: one name, and constants on the other sides."""
    if found := ABSOLUTE.search(text):
        inside = _inequality(text.replace(found[0], found[1]))
        return inside and _from_absolute(inside)
    sides = [side.strip() for side in SIGNS.split(text)]
    if len(sides) == 3:
        name, sign, bound = sides if is_label(sides[0]) else (sides[2], SWAPPED[sides[1]], sides[0])
        end = _end(bound, CLOSED.get(sign, False))
        if not is_label(name) or end is None:
            return None
        if sign == "\\ne":
            return _cut(RealSet(REALS, squeeze(name)), [end]) if not end.sign else None
        if end.sign and (end.closed or (end.sign > 0) != (sign == "<")):
            return None
        return RealSet((Piece(BELOW, end) if sign in ("<", "\\le") else Piece(end, ABOVE),), squeeze(name))
    if len(sides) != 5 or not is_label(sides[2]):
        return None
    if {sides[1], sides[3]} <= {">", "\\ge"}:
        sides = sides[::-1]
    elif not {sides[1], sides[3]} <= {"<", "\\le"}:
        return None
    found = _between(_end(sides[0], CLOSED[sides[1]]), _end(sides[4], CLOSED[sides[3]]))
    return found and RealSet(found.pieces, squeeze(sides[2]))


def _from_absolute(absolute: RealSet) -> RealSet | None:
    """Return the x whose |x| is in a set."""
    distances = _intersection([RealSet(absolute.pieces), RealSet((Piece(End("0", True), ABOVE),))])
    if distances is None:
        return None
    mirrored = [Piece(_minus(piece.high), _minus(piece.low)) for piece in distances.pieces]
    return _union([RealSet((piece,), absolute.name) for piece in (*mirrored, *distances.pieces)])


def _minus(end: End) -> End:
    return End(f"-({end.text})", end.closed, -end.sign)


def _points(text: str) -> RealSet | None:
    r"""Read `\{1, 2\}` or `x = 1` in a union as pieces of one point each."""
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
    """Read an end of an interval: a real constant or an infinity."""
    text = text.strip()
    if found := INFINITY.fullmatch(text):
        return End(text, closed, -1 if found[1] == "-" else 1)
    if not text or has_letters(text) or "\\infty" in text or "," in text:
        return None
    return End(text, closed) if _value(text) is not None else None


@lru_cache(maxsize=4096)
def _value(text: str):
    """Return the real constant in a text, or None."""
    parsed = parse(text)
    if parsed is None or not getattr(parsed, "is_number", False):
        return None
    value = evaluated(parsed)
    return value if value is not None and value.is_extended_real is not False else None


def _compare(a: End, b: End) -> int | None:
    """Return -1, 0 or 1 for a < b, a = b or a > b; None if the order cannot be computed."""
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


def _common_name(sets: list[RealSet | None]) -> str | None:
    """Return the name that the sets share ("" if none has one); None if one is None or two names differ."""
    if None in sets:
        return None
    names = {each.name for each in sets if each.name}
    return None if len(names) > 1 else "".join(names)


def _union(sets: list[RealSet | None]) -> RealSet | None:
    """Return the union, in which pieces that touch or overlap are merged."""
    name = _common_name(sets)
    if name is None:
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
    return RealSet(tuple(merged), name)


def _touch(high: End, low: End) -> bool:
    order = _compare(low, high)
    return order < 0 or (order == 0 and not low.sign and (high.closed or low.closed))


def _intersection(sets: list[RealSet | None]) -> RealSet | None:
    name = _common_name(sets)
    if name is None:
        return None
    pieces = sets[0].pieces
    for other in sets[1:]:
        shared = []
        for a in pieces:
            for b in other.pieces:
                below, above = _compare(a.low, b.low), _compare(a.high, b.high)
                if below is None or above is None:
                    return None
                if kept := _ordered(_inner(a.low, b.low, -below), _inner(a.high, b.high, above)):
                    shared += kept.pieces
        pieces = tuple(shared)
    return RealSet(pieces, name) if pieces else None


def _inner(a: End, b: End, order: int) -> End:
    """Return the end that is further inside: b if `order` > 0, a if `order` < 0, an open one if they are equal."""
    return b if order > 0 or (order == 0 and a.closed and not b.closed) else a


def _cut(whole: RealSet, gaps: list[End]) -> RealSet | None:
    """Remove single points from a set."""
    for gap in gaps:
        outside = RealSet((Piece(BELOW, End(gap.text, False)), Piece(End(gap.text, False), ABOVE)), whole.name)
        whole = _intersection([whole, outside])
        if whole is None:
            return None
    return whole


def is_point(text: str) -> bool:
    """Return whether a text that reads as an interval may also be a point, as `(1,2)` may."""
    text = text.strip()
    return text.startswith("(") and text.endswith(")") and "\\infty" not in text and "\\cup" not in text


def same_sets(answer: RealSet, gold: RealSet, same_end, tolerance: Fraction | None) -> bool:
    """Return whether two sets have equal pieces; `same_end(answer, gold, tolerance)` compares finite ends."""
    if (answer.name and gold.name and answer.name != gold.name) or len(answer.pieces) != len(gold.pieces):
        return False
    pairs = zip(answer.pieces, gold.pieces, strict=True)
    ends = [pair for a, b in pairs for pair in ((a.low, b.low), (a.high, b.high))]
    return all(
        a.sign == b.sign and a.closed == b.closed and (a.sign or same_end(a.text, b.text, tolerance)) for a, b in ends
    )
