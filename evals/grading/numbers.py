"""Plain numbers: integers, decimals, fractions, with their units and percent signs, read and compared exactly.

Works on texts that `answers.clean` has written in one form. What is granted, and why, is in docs/grading.md.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache

from evals.grading.cleaning import CACHED

MAX_EXPONENT = 300  # of a number in scientific notation that is read as a fraction

DECIMAL = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+"
TIMES_POWER = r" ?(?:\\times|\\cdot|\*) ?10 ?\^ ?(?:\{ ?([-+]?\d+) ?\}|(\d))|[eE]([-+]?\d{1,3})"
PLAIN = re.compile(rf"([-+]?) ?({DECIMAL})(?:{TIMES_POWER})?")
MIXED = re.compile(r"(\d+)(?: | and | ?\\ )(\d+) ?/ ?(\d+)")  # 7 2/9, where the fraction is a proper one
RATIO = re.compile(
    rf"([-+]?) ?({DECIMAL}) ?/ ?({DECIMAL})|"
    rf"([-+]?) ?(\d+)? ?\\frac ?(?:\{{ ?([-+]?)({DECIMAL}) ?\}}|(\d)) ?(?:\{{ ?({DECIMAL}) ?\}}|(\d))"
)
ZERO_COMMA = re.compile(r"-?0,\d{3,}")  # no thousands: a decimal comma
NUMBER_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {name: value for value, name in enumerate(NUMBER_NAMES.split())}
for tens, name in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2):
    NUMBER_WORDS |= {name: 10 * tens} | {
        f"{name}-{one}": 10 * tens + NUMBER_WORDS[one] for one in NUMBER_NAMES.split()[1:10]
    }


@dataclass(frozen=True)
class Number:
    """A number as it was written. `places` counts its decimals where it was written as a decimal, else None."""

    value: Fraction
    places: int | None = None
    digits: int = 0  # significant digits of a decimal


@lru_cache(maxsize=CACHED)
def read_number(text: str) -> Number | None:
    r"""The integer, decimal, fraction, mixed number, word or `a \times 10^n` that the whole of a cleaned text is."""
    if text[:1].isalpha() or text.startswith("\\text"):
        word = NUMBER_WORDS.get(re.sub(r"\\text|[{}]", "", text).strip().lower().replace(" ", "-"))
        return None if word is None else Number(Fraction(word))
    if ZERO_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    while text.startswith(("(", "{")) and text.endswith((")", "}")) and len(text) > 2 and text[1:-1].find(text[0]) < 0:
        text = text[1:-1].strip()
    if found := PLAIN.fullmatch(text):
        sign, decimal, *exponents = found.groups()
        value, places = _decimal(decimal), decimal.replace(" ", "").partition(".")[2]
        digits = len(decimal.replace(".", "").replace(",", "").replace(" ", "").lstrip("0"))
        if exponent := int(next(filter(None, exponents), 0)):
            if abs(exponent) > MAX_EXPONENT:
                return None
            value *= Fraction(10) ** exponent
        return Number(-value if sign == "-" else value, len(places) - exponent if places else None, digits)
    if mixed := MIXED.fullmatch(text.lstrip("+-")):
        whole, above, below = map(int, mixed.groups())
        if 0 < above < below and text.count("-") < 2:
            return Number((whole + Fraction(above, below)) * (-1 if text.startswith("-") else 1))
    if found := RATIO.fullmatch(text):
        sign, a, b, outer, whole, inner, top, top_digit, bottom, bottom_digit = found.groups()
        denominator = _decimal(b or bottom or bottom_digit)
        if not denominator:
            return None
        value = _decimal(a or top or top_digit) / denominator
        if whole:
            if inner:
                return None
            value += int(whole)
        return Number(value * (-1) ** ((sign or outer or "") + (inner or "")).count("-"))
    return None


def _decimal(text: str) -> Fraction:
    return Fraction((text.replace(",", "").replace(" ", "").rstrip(".")) or "0")


def same_number(answer: Number, gold: Number, tolerance: Fraction | None = None) -> bool:
    """Whether two numbers are equal: exactly, within the gold's `tolerance`, or within what a decimal gold leaves open.

    A decimal gold with four places and five digits stands for everything that rounds to it. An exact gold stands for
    itself: no number of digits is equal to it.
    """
    difference = abs(answer.value - gold.value)
    if not difference or (tolerance is not None and difference <= tolerance):
        return True
    if gold.places is not None and gold.places >= 4 and gold.digits >= 5 and (answer.places or 99) > gold.places:
        return difference <= Fraction(1, 2 * 10**gold.places)
    return False


@dataclass(frozen=True)
class Reading:
    """A cleaned answer: its text without unit and percent sign, those two, and its number if it is a plain one.

    `letter`: the unit is one bare letter, as in `6 m`, and could be a variable. `whole`: the text with the unit.
    """

    text: str
    unit: str = ""
    percent: bool = False
    number: Number | None = None
    letter: bool = False
    whole: str = ""


UNIT = re.compile(r"(.*?[^\s\\,;(\[{/*]) ?((?:(?:/|\\cdot|\*)? ?\\text\{[^{}]*\} ?(?:\^ ?\{?-?\d\}?)? ?)+)", re.DOTALL)
UNIT_FRACTION = re.compile(r"\\frac ?\{ ?\\text\{([^{}]*)\} ?\} ?\{ ?\\text\{([^{}]*)\} ?((?:\^ ?\{?\d\}?)?) ?\}")
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
BARE_UNIT = re.compile(
    rf"([-+]?(?:{DECIMAL}|\\frac ?\{{\d+\}}\{{\d+\}}|\d+ ?/ ?\d+)) ?"
    r"([A-Za-z][A-Za-z]*(?:[ /][A-Za-z]+)*\.?(?: ?\^ ?\{?\d\}?)?)"
)
NO_UNIT = re.compile(
    r"\b(?:or|and|not|no|nor|but|if|when|unless|except|anything|something|everything|maybe|either|is|isn|are|wrong|"
    r"less|more|least|most|than|base|mod|times|over|plus|minus|square root)\b|\d",
    re.IGNORECASE,
)


@cache
def _unit_names() -> dict[str, str]:
    """Spelling -> symbol, for the units whose difference matters."""
    table = {
        "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
        "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile",
        "mg": "milligram", "g": "gram", "kg": "kilogram", "lb": "pound", "oz": "ounce",
        "s": "second sec", "min": "minute", "h": "hour hr", "d": "day", "wk": "week", "yr": "year", "month": "month",
        "ml": "milliliter millilitre", "l": "liter litre", "cent": "cent", "dollar": "usd", "euro": "eur", "gbp": "",
        "yen": "jpy", "rupee": "rs inr", "degree": "deg", "celsius": "c",
        "fahrenheit": "f",
        "km/h": "kmh kmph kph", "mi/h": "mph", "m/s": "mps", "a.m.": "am", "p.m.": "pm",
    }  # fmt: skip
    return {name: symbol for symbol, names in table.items() for name in (symbol, *names.split())}


@lru_cache(maxsize=CACHED)
def unit_symbol(unit: str) -> str | None:
    """The one spelling of a unit of measure, with its power; None for a word that measures nothing known."""
    words = (
        re.sub(r"\\text|[{}().]", " ", unit).lower().replace("per", "/").replace("square", "sq").replace("cubic", "cu")
    )
    power = "^2" if "sq" in words.split() or "^ 2" in words or "^2" in words else ""
    power = "^3" if "cu" in words.split() or "^ 3" in words or "^3" in words else power
    name = re.sub(r"\b(?:sq|cu)\b|\^ ?\d|\s", "", words)
    names = _unit_names()
    parts = [names.get(part) or names.get(part.removesuffix("s")) for part in name.split("/")]
    whole = names.get(name) or ("/".join(parts) if all(parts) else None)
    return whole and whole + power


@lru_cache(maxsize=CACHED)
def read(text: str) -> Reading:
    """A cleaned text taken apart: what it says, its unit, whether it is a percentage, and its plain number."""
    unit, whole, letter = "", text, False
    text = UNIT_FRACTION.sub(r"\\text{\1/\2}\3", text) if "\\frac" in text else text
    if found := UNIT.fullmatch(text):
        words = re.sub(r"\\text|\\cdot|[/*]|\^ ?\{?-?\d\}?", " ", found[2])
        if not NO_UNIT.search(words) and len(words.split()) <= 4 and "," not in words:
            text, unit = found[1], found[2].strip()
    elif (found := BARE_UNIT.fullmatch(text)) and not NO_UNIT.search(re.sub(r"\^ ?\{?\d\}?", "", found[2])):
        words, apart = found[2].split(), " " in text[len(found[1]) :]
        letter = len(found[2]) == 1
        if len(words) <= 4 and (apart or not letter) and (unit_symbol(found[2]) or (apart and len(words[0]) > 1)):
            text, unit = found[1], found[2]
    text, unit = _scaled(text.strip(), unit)
    percent = text.endswith("%") and not text[:-1].rstrip().endswith("%")
    text = text[:-1].strip() if percent else text
    return Reading(text, unit, percent, read_number(text), letter and bool(unit), whole)


def readings(answer: str, gold: str) -> tuple[Reading, Reading]:
    """Two cleaned texts taken apart together: a bare letter is a unit in an answer to a gold without letters alone.

    `6 m` answers 6, but 6 does not answer the formula `6m`.
    """
    given, expected = read(answer), read(gold)
    if given.letter and re.search(r"[A-Za-z]", gold):
        given = Reading(given.whole)
    if expected.letter:
        expected = Reading(expected.whole)
    return given, expected


def _scaled(text: str, unit: str) -> tuple[str, str]:
    """A text multiplied by the number word that leads its unit: `5 million dollars` is 5000000 dollars."""
    words = re.sub(r"\\text|[{}]", " ", unit).split()
    factor = SCALES.get(words[0].lower().removesuffix("s")) if words else None
    if factor is None:
        return text, unit
    number = read_number(text)
    if number is None:
        return f"({text})\\cdot {factor}", " ".join(words[1:])
    value = number.value * factor
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}", " ".join(
        words[1:]
    )


def compare_readings(answer: Reading, gold: Reading, tolerance: Fraction | None) -> bool | None:
    """The verdict on two plain numbers with their units and percent signs; None where it takes mathematics."""
    if answer.number is None or gold.number is None:
        return None
    if units_differ(answer, gold):
        return False
    if same_number(answer.number, gold.number, tolerance):
        return True
    if answer.percent != gold.percent:  # 28% is 0.28; and it is 28 where the question asks for the percentage
        share = Fraction(1, 100) if answer.percent else Fraction(100)
        return answer.number.value * share == gold.number.value
    return False


def units_differ(answer: Reading, gold: Reading) -> bool:
    """Whether both name a unit of measure and not the same one. A unit that one side leaves out is granted."""
    given, expected = answer.unit and unit_symbol(answer.unit), gold.unit and unit_symbol(gold.unit)
    return bool(given and expected and given != expected)
