r"""Comparison of answers that are more than plain numbers: first their form, then their mathematics.

It runs in the processes of `workers.py`, which limit time and memory. docs/grading.md gives the reason of each rule.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import chain as joined

from sympy import And, Basic, Expr, MatrixBase, MatrixExpr
from sympy.core.relational import Relational

from evals.grading.cleaning import CACHED, clean
from evals.grading.constants import equal_constants, evaluated, leading_digits
from evals.grading.forms import (
    as_tuple,
    chain,
    defines,
    entries,
    groups_of,
    has_letters,
    is_group,
    is_label,
    is_wordy,
    names_differ,
    numeral,
    ratio,
    same_words,
    set_elements,
    split,
    split_choice,
    squeeze,
    strip_braces,
    value_of,
    words,
)
from evals.grading.formulas import equal_formulas, same_statement
from evals.grading.numbers import Number, Reading, compare_readings, read, readings, same_number, units_differ
from evals.grading.parsing import parse
from evals.grading.sets import INFINITY, is_point, real_set, same_sets

MEMBER = re.compile(r"([^=<>]{1,20}?)\\in(?![A-Za-z])(.+)", re.DOTALL)
FUNCTION = re.compile(r"([A-Za-z](?:_\{?\w\}?)?) ?\( ?([A-Za-z]) ?\)")
TIME = re.compile(r"\d{1,2}:\d\d")
LETTERS = re.compile(r"[A-Za-z]{1,20}")  # a name or a product of variables
MAX_PARTS = 60  # of a list that is compared without order


def judge(answer: str, gold: str, tolerance: str = "") -> str:
    """Return "correct", "wrong" or "unparsable" for two normalised answers; `tolerance` as in `grade_many`."""
    if attempt(same, answer, gold, Fraction(tolerance) if tolerance else None):
        return "correct"
    return "wrong" if attempt(is_readable, answer) else "unparsable"


def attempt(check: Callable[..., bool], *arguments) -> bool:
    try:
        return check(*arguments)
    except MemoryError:  # the worker reports it as a limit
        raise
    except Exception:  # sympy and the parser raise exceptions of many types
        return False


def same(answer: str, gold: str, tolerance: Fraction | None = None) -> bool:
    """Return whether two normalised answers are equal. The gold answer's form decides, so this is not symmetric."""
    if squeeze(answer) == squeeze(gold):
        return True
    given, expected = readings(answer, gold)
    plain = compare_readings(given, expected, tolerance)
    if plain is not None:
        return plain or bool(same_list(answer, gold, tolerance))
    if units_differ(given, expected):
        return False
    if numeral(given.text) or numeral(expected.text):
        return same_numeral(given.text, expected.text)
    infinities = INFINITY.fullmatch(given.text), INFINITY.fullmatch(expected.text)
    if all(infinities):
        return (infinities[0][1] == "-") == (infinities[1][1] == "-")
    if (region := real_set(gold)) and not is_point(gold) and (ours := real_set(answer)):
        return same_sets(ours, region, same, tolerance)
    letter, chosen = split_choice(answer)
    if letter:
        return words(letter) == words(gold) if re.fullmatch("[a-z]", words(gold)) else same(chosen, gold, tolerance)
    value = read(value_of(chain(given.text))).text  # without the unit of `1 + 1 = 2 days`
    if is_wordy(expected.text) or (is_wordy(value) and not LETTERS.fullmatch(expected.text)):
        return words(given.text) == words(expected.text)
    if same_words(given.text, expected.text):
        return True
    if (proportional := same_ratio(given.text, expected.text)) is not None:
        return proportional
    if decimal_comma(given, expected, tolerance):
        return True
    listed = same_list(given.text, expected.text, tolerance)
    if listed is None:
        listed = same_entries(given.text, expected.text, tolerance)
    if listed is not None:
        return listed
    if given.text != answer or expected.text != gold:
        return same_value(given, expected, tolerance)
    return same_relation(answer, gold, tolerance)


def same_value(given: Reading, expected: Reading, tolerance: Fraction | None) -> bool:
    """Compare without units and percent signs. 28% is 0.28, and 28 where the question asks for a percentage."""
    if same(given.text, expected.text, tolerance):
        return True
    if given.percent == expected.percent:
        return False
    ours, theirs = (f"\\frac{{{r.text}}}{{100}}" if r.percent else r.text for r in (given, expected))
    return same(ours, theirs, tolerance)


def same_list(answer: str, gold: str, tolerance: Fraction | None) -> bool | None:
    """Return whether two lists have the same parts in any order; None if neither side is a list."""
    expected, given = split(set_elements(gold)), split(set_elements(answer))
    if len(expected) == len(given) == 1 and set_elements(gold) == gold and set_elements(answer) == answer:
        return None
    if defines(gold) and is_group(value := value_of(chain(gold))) and len(given) > 1 and all(map(defines, given)):
        return same(as_tuple(given), value, tolerance)  # x = 3, y = 2 for (x, y) = (3, 2)
    if is_group(gold) and len(given) > 1:  # a tuple or an interval: order counts
        bare = is_point(gold) and not any(map(defines, given))
        return (bare or all(map(defines, given))) and same(as_tuple(given), gold, tolerance)
    if max(len(expected), len(given)) > MAX_PARTS:
        return False
    if names_differ(expected) and not any(map(defines, given)):
        if len(given) == 1 and is_group(answer):
            return same(answer, as_tuple(expected), tolerance)
        return len(expected) == len(given) and all(map(same, given, expected, [tolerance] * len(given)))
    if groups := groups_of(gold):
        return matched(groups_of(answer) or given, groups, tolerance)
    return matched(given, expected, tolerance)


def matched(given: tuple[str, ...], expected: tuple[str, ...], tolerance: Fraction | None) -> bool:
    """Return whether the parts can be paired so that each pair is equal."""
    # Repetitions are removed unless both sides have some.
    once = [list({squeeze(part): part for part in parts}.values()) for parts in (given, expected)]
    if len(once[0]) == len(given) or len(once[1]) == len(expected):
        given, expected = once
    if len(given) != len(expected):
        return False
    left = list(given)
    for gold in expected:
        for i, answer in enumerate(left):
            if same(answer, gold, tolerance):
                del left[i]
                break
        else:
            return False
    return True


def same_entries(answer: str, gold: str, tolerance: Fraction | None) -> bool | None:
    """Compare tuples, intervals and matrices by entry; None if the two are not of one kind."""
    if is_group(answer) and is_group(gold):
        if answer[0] + answer[-1] != gold[0] + gold[-1]:
            return False
        given, expected = split(answer[1:-1]), split(gold[1:-1])
    elif (a := entries(answer)) and (b := entries(gold)):
        if [len(row) for row in a] != [len(row) for row in b]:
            return False
        given, expected = list(joined(*a)), list(joined(*b))
    elif is_group(answer) and (b := entries(gold)) and 1 in (len(b), max(map(len, b))):
        given, expected = split(answer[1:-1]), list(joined(*b))  # a vector written as a point
    elif is_point(gold) and is_group(gold) and (a := entries(answer)) and 1 in (len(a), max(map(len, a))):
        given, expected = list(joined(*a)), split(gold[1:-1])  # a point written as a vector
    else:
        return None
    return len(given) == len(expected) and all(map(same, given, expected, [tolerance] * len(given)))


def same_numeral(answer: str, gold: str) -> bool:
    """Compare digits and base. A numeral without a base is decimal."""
    given, expected = numeral(answer) or (answer, 10), numeral(gold) or (gold, 10)
    if given[1] != expected[1]:
        return False
    return given == expected if given[1] != 10 else same(given[0], expected[0])


def same_ratio(answer: str, gold: str) -> bool | None:
    """Compare two ratios such as 1:2:3 up to a factor. None if neither is one; 1:2 against a number is a quotient."""
    given, expected = ratio(answer), ratio(gold)
    if max(len(given), len(expected)) < 2 or (1 in (len(given), len(expected)) and len(given) + len(expected) == 3):
        return None
    if TIME.fullmatch(answer) and TIME.fullmatch(gold):  # 1:00 and 12:00 are two times
        return answer == gold
    if len(given) != len(expected):
        return False
    pairs = zip(given, expected, strict=True)
    return all([same(f"({a}) \\cdot ({expected[0]})", f"({b}) \\cdot ({given[0]})") for a, b in pairs])


def decimal_comma(given: Reading, expected: Reading, tolerance: Fraction | None) -> bool:
    """Return whether a decimal comma (`3,14`) gives a gold answer that is one decimal."""
    if expected.number is None or expected.number.places is None or not re.fullmatch(r"[-+]?\d+,\d+", given.text):
        return False
    return bool(compare_readings(read(given.text.replace(",", ".")), expected, tolerance))


def same_relation(answer: str, gold: str, tolerance: Fraction | None) -> bool:
    r"""Split answers with `=`, `\approx` or `\in` into their sides; compare all others as mathematics."""
    given, expected = chain(answer), chain(gold)
    if len(expected) > 1 and len(given) > 1:
        verdict = same_definition(given, expected, tolerance)
        return equal(answer, gold, tolerance) if verdict is None else verdict
    if len(given) > 1:
        value = value_of(given)
        zero = value == "0" and not all(map(is_label, given[:-1]))  # a + 3z = 0 is an equation, not 0
        return not zero and plausible(given) and same(value, gold, tolerance)
    if len(expected) > 1:
        return any(map(is_label, expected)) and same(answer, value_of(expected), tolerance)
    ours, theirs = MEMBER.fullmatch(answer), MEMBER.fullmatch(gold)
    if bool(ours) != bool(theirs) and is_label((ours or theirs)[1]):
        return same(clean(ours[2]) if ours else answer, clean(theirs[2]) if theirs else gold, tolerance)
    return equal(answer, gold, tolerance)


def plausible(sides: tuple[str, ...]) -> bool:
    """Return whether a chain of numbers is true: `2 + 2 = 4 cm`, not `4 = 5`. Names and other units pass unchecked."""
    units = any(read(side).unit for side in sides[:-1])
    return units or any(has_letters(read(side).text) for side in sides) or all(map(same, sides, sides[1:]))


def same_definition(given: tuple[str, ...], expected: tuple[str, ...], tolerance: Fraction | None) -> bool | None:
    """Compare the values of two chains with the same name, or of functions whose variable may be renamed.

    None if they have different names or none. They are then compared as equations.
    """
    if not (is_label(expected[0]) or is_label(expected[-1])):
        return None
    values = value_of(given), value_of(expected)
    names = [squeeze(sides[0] if sides[-1] is value_of(sides) else sides[-1]) for sides in (given, expected)]
    if names[0] == names[1]:
        return same(*values, tolerance)
    functions = [FUNCTION.fullmatch(name) for name in names]
    if all(functions) and functions[0][1] == functions[1][1]:
        ours, theirs = functions[0][2], functions[1][2]
        clash = re.search(rf"(?<![A-Za-z\\]){theirs}(?![A-Za-z])", values[0])
        renamed = re.sub(rf"(?<![A-Za-z\\]){ours}(?![A-Za-z])", theirs, values[0])
        return not clash and same(renamed, values[1], tolerance)
    return None


# --- mathematics ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=CACHED)
def is_readable(answer: str) -> bool:
    """Return whether an answer or a part of it can be read."""
    return any(
        is_wordy(text)
        or numeral(text) is not None
        or "\\infty" in text
        or real_set(text) is not None
        or bool(entries(text))
        or any(parse(side) is not None for side in chain(text))
        for text in (read(part).text for part in split(strip_braces(answer)))
    )


def equal(answer: str, gold: str, tolerance: Fraction | None) -> bool:
    """Parse two texts and compare them as constants, formulas, equations or matrices."""
    given, expected = parse(answer), parse(gold)
    if given is None or expected is None:
        return False
    if is_number(given) and is_number(expected):
        return same_constant(given, expected, read(answer).number, read(gold).number, tolerance)
    if isinstance(given, Relational | And) or isinstance(expected, Relational | And):
        return same_statement(given, expected, gold)
    given, expected = (each.doit() if isinstance(each, MatrixExpr) else each for each in (given, expected))
    if isinstance(given, MatrixBase) and isinstance(expected, MatrixBase):
        return given.shape == expected.shape and all(map(equal_entries, given, expected, [gold] * len(given)))
    return equal_entries(given, expected, gold)


def equal_entries(given, expected, gold: str) -> bool:
    """Compare two formulas. A variable that is not in the gold answer (n + 5 - n for 5) is an error."""
    if not isinstance(given, Expr) or not isinstance(expected, Expr):
        return given == expected
    if is_number(given) and is_number(expected):
        return equal_constants(given, expected)
    return given.free_symbols <= expected.free_symbols and equal_formulas(given, expected, gold)


def is_number(expression) -> bool:
    return isinstance(expression, Basic) and bool(getattr(expression, "is_number", False))


def same_constant(given, expected, answer: Number | None, gold: Number | None, tolerance: Fraction | None) -> bool:
    """Return whether two constants are equal, exactly or within the tolerance or the decimals of the gold answer."""
    if equal_constants(given, expected):
        return True
    if tolerance is None and (gold is None or gold.places is None):
        return False
    a, b = evaluated(given), evaluated(expected)
    if a is None or b is None or None in (values := (leading_digits(a), leading_digits(b))):
        return False
    return same_number(answer or Number(values[0]), gold or Number(values[1]), tolerance)
