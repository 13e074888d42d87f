r"""Whether two answers that are more than plain numbers are equal: rules for their form, then mathematics.

Runs in the worker processes of `workers.py`: nothing here bounds its time or memory. The rules and the reason of
each are in docs/grading.md.
"""

import re
from fractions import Fraction
from functools import lru_cache
from itertools import chain as joined

from sympy import And, Basic, Expr, MatrixBase, MatrixExpr
from sympy.core.relational import Relational

from evals.grading.cleaning import CACHED, clean
from evals.grading.constants import equal_constants, evaluated, leading_digits
from evals.grading.forms import (
    FUNCTION,
    MEMBER,
    TIME,
    as_tuple,
    chain,
    defines,
    entries,
    groups_of,
    has_letters,
    is_choice,
    is_group,
    is_label,
    is_name,
    is_numeral,
    is_wordy,
    names_differ,
    numeral,
    ratio,
    same_words,
    split,
    split_choice,
    squeeze,
    strip_braces,
    unset,
    value_of,
    words,
)
from evals.grading.formulas import equal_formulas, same_statement
from evals.grading.numbers import Number, Reading, compare_readings, read, readings, same_number, units_differ
from evals.grading.parsing import parse
from evals.grading.sets import INFINITY, is_point, real_set, same_sets

MAX_PARTS = 60  # of a list that is compared without order


def judge(answer: str, gold: str, tolerance: str = "") -> str:
    """ "correct", "wrong" or "unparsable" for two cleaned answers; `tolerance` as in `grading.grade_many`."""
    try:
        if same(answer, gold, Fraction(tolerance) if tolerance else None):
            return "correct"
    except MemoryError:
        raise
    except Exception:  # sympy and the parser raise whatever they stumble over: it is not equal
        pass
    try:
        return "wrong" if is_readable(answer) else "unparsable"
    except MemoryError:
        raise
    except Exception:
        return "unparsable"


def same(answer: str, gold: str, tolerance: Fraction | None = None) -> bool:
    """Whether two cleaned answers are equal. The gold's form decides what is asked for: the rule is not symmetric."""
    if squeeze(answer) == squeeze(gold):
        return True
    given, expected = readings(answer, gold)
    plain = compare_readings(given, expected, tolerance)
    if plain is not None:
        return plain or bool(same_list(answer, gold, tolerance))
    if units_differ(given, expected):
        return False
    if is_numeral(given.text) or is_numeral(expected.text):
        return same_numeral(given.text, expected.text)
    infinities = INFINITY.fullmatch(given.text), INFINITY.fullmatch(expected.text)
    if all(infinities):
        return (infinities[0][1] == "-") == (infinities[1][1] == "-")
    if (region := real_set(gold)) and not is_point(gold) and (ours := real_set(answer)):
        return same_sets(ours, region, same, tolerance)
    letter, value = split_choice(answer)
    if letter:
        return words(letter) == words(gold) if re.fullmatch("[a-z]", words(gold)) else same(value, gold, tolerance)
    if is_wordy(expected.text) or (is_wordy(value_of(chain(given.text))) and not is_name(expected.text)):
        return words(given.text) == words(expected.text)
    if is_choice(expected.text) and same_words(given.text, expected.text):
        return True
    if proportions := same_ratio(given.text, expected.text):
        return proportions == "equal"
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
    """`same` without units and percent signs: 28% is 0.28, and 28 where the question asks for the percentage."""
    if same(given.text, expected.text, tolerance):
        return True
    if given.percent and not expected.percent:
        return same(f"\\frac{{{given.text}}}{{100}}", expected.text, tolerance)
    if expected.percent and not given.percent:
        return same(given.text, f"\\frac{{{expected.text}}}{{100}}", tolerance)
    return False


def same_list(answer: str, gold: str, tolerance: Fraction | None) -> bool | None:
    """Whether two lists hold the same parts in any order; None where neither side is a list or order counts."""
    expected, given = split(unset(gold)), split(unset(answer))
    if len(expected) == len(given) == 1 and unset(gold) == gold and unset(answer) == answer:
        return None
    if defines(gold) and is_group(value := value_of(chain(gold))) and len(given) > 1 and all(map(defines, given)):
        return same(as_tuple(given), value, tolerance)  # x = 3, y = 2 for (x, y) = (3, 2)
    if is_group(gold) and len(given) > 1:  # (1, 2) is a tuple or an interval, whose order counts
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
    """Whether every part on one side has an equal one on the other, each used once.

    Repeated parts count once, but where both sides repeat some: then each counts.
    """
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
    """Tuples, intervals and matrices entry by entry; None where the two are not of one such kind."""
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
        given, expected = list(joined(*a)), split(gold[1:-1])  # and a point written as a vector
    else:
        return None
    return len(given) == len(expected) and all(map(same, given, expected, [tolerance] * len(given)))


def same_numeral(answer: str, gold: str) -> bool:
    """Numerals are equal in the base the gold is written in; without a base a numeral is decimal."""
    given, expected = numeral(answer) or (answer, 10), numeral(gold) or (gold, 10)
    if given[1] != expected[1]:
        return False
    return given == expected if given[1] != 10 else same(given[0], expected[0])


def same_ratio(answer: str, gold: str) -> str:
    """ "equal" or "other" for two ratios such as 1:2:3, compared up to a factor; "" where neither side is one.

    A ratio of two numbers is their quotient as well.
    """
    given, expected = ratio(answer), ratio(gold)
    if max(len(given), len(expected)) < 2 or (1 in (len(given), len(expected)) and len(given) + len(expected) == 3):
        return ""
    if TIME.fullmatch(answer) and TIME.fullmatch(gold):  # 1:00 and 12:00 are two times
        return "equal" if answer == gold else "other"
    if len(given) != len(expected):
        return "other"
    crossed = [
        same(f"({a}) \\cdot ({expected[0]})", f"({b}) \\cdot ({given[0]})")
        for a, b in zip(given, expected, strict=True)
    ]
    return "equal" if all(crossed) else "other"


def decimal_comma(given: Reading, expected: Reading, tolerance: Fraction | None) -> bool:
    """`3,14` for a gold that is one decimal: there is nothing else it can mean."""
    if expected.number is None or expected.number.places is None or not re.fullmatch(r"[-+]?\d+,\d+", given.text):
        return False
    return bool(compare_readings(read(given.text.replace(",", ".")), expected, tolerance))


def same_relation(answer: str, gold: str, tolerance: Fraction | None) -> bool:
    """Answers with `=`, `\\approx` or `\\in` on either side, taken apart; all others go to `equal`."""
    given, expected = chain(answer), chain(gold)
    if len(expected) > 1 and len(given) > 1:
        verdict = same_definition(given, expected, tolerance)
        return equal(answer, gold, tolerance) if verdict is None else verdict
    if len(given) > 1:
        value = value_of(given)
        zero = value == "0" and not all(map(is_label, given[:-1]))  # a + 3z = 0 is an equation, not its side
        return not zero and stated(given) and same(value, gold, tolerance)
    if len(expected) > 1:
        return any(map(is_label, expected)) and same(answer, value_of(expected), tolerance)
    if (found := MEMBER.fullmatch(gold)) and not MEMBER.fullmatch(answer) and is_label(found[1]):
        return same(answer, clean(found[2]), tolerance)
    if (found := MEMBER.fullmatch(answer)) and not MEMBER.fullmatch(gold) and is_label(found[1]):
        return same(clean(found[2]), gold, tolerance)
    return equal(answer, gold, tolerance)


def stated(sides: tuple[str, ...]) -> bool:
    """Whether a chain that names nothing is true: `2 + 2 = 4` is, `4 = 5` is not and answers nothing.

    Sides with a unit may convert one into another, as `0.5 \\text{ h} = 30 \\text{ min}` does: they are not checked.
    """
    return any(has_letters(side) or read(side).unit for side in sides) or all(map(same, sides, sides[1:]))


def same_definition(given: tuple[str, ...], expected: tuple[str, ...], tolerance: Fraction | None) -> bool | None:
    """Two chains that name something: the same thing, or a function of a variable called otherwise, with one value.

    None where they name different things, or nothing: two equations, to be compared as such.
    """
    if not (is_label(expected[0]) or is_label(expected[-1])):
        return None
    values = value_of(given), value_of(expected)
    names = [
        squeeze(sides[0] if sides[-1] is value else sides[-1])
        for sides, value in zip((given, expected), values, strict=True)
    ]
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
    """Whether an answer, or a part of it, can be read at all, rightly or wrongly."""
    return any(
        is_wordy(text)
        or is_numeral(text)
        or "\\infty" in text
        or real_set(text) is not None
        or bool(entries(text))
        or any(parse(side) is not None for side in chain(text))
        for text in (read(part).text for part in split(strip_braces(answer)))
    )


def equal(answer: str, gold: str, tolerance: Fraction | None) -> bool:
    """Equality of what two texts are as mathematics: constants, formulas, equations, matrices."""
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
    """Equality of two formulas. An answer holds no variable that the gold does not: n + 5 - n was not worked out."""
    if not isinstance(given, Expr) or not isinstance(expected, Expr):
        return given == expected
    if is_number(given) and is_number(expected):
        return equal_constants(given, expected)
    return given.free_symbols <= expected.free_symbols and equal_formulas(given, expected, gold)


def is_number(expression) -> bool:
    return isinstance(expression, Basic) and bool(getattr(expression, "is_number", False))


def same_constant(given, expected, answer: Number | None, gold: Number | None, tolerance: Fraction | None) -> bool:
    """Whether two constants are equal, or as near as the gold's tolerance or its decimals ask for."""
    if equal_constants(given, expected):
        return True
    if tolerance is None and (gold is None or gold.places is None):
        return False
    a, b = evaluated(given), evaluated(expected)
    if a is None or b is None:
        return False
    values = leading_digits(a), leading_digits(b)
    if None in values:
        return False
    return same_number(answer or Number(values[0]), gold or Number(values[1]), tolerance)
