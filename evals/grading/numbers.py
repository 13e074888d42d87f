"""Plain numbers: integers, decimals and fractions with their units and percent signs, read and compared exactly.

The functions take texts that `cleaning.clean` has normalised. docs/grading.md gives the reason of each rule.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from evals.grading.cleaning import CACHED

MAX_EXPONENT = 300  # of scientific notation that is read as a fraction

DECIMAL = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+"
TIMES_POWER = r" ?(?:\\times|\\cdot|\*) ?10 ?\^ ?(?:\{ ?([-+]?\d+) ?\}|(\d))|[eE]([-+]?\d{1,3})"
PLAIN = re.compile(rf"([-+]?) ?({DECIMAL})(?:{TIMES_POWER})?")
MIXED = re.compile(r"(\d+)(?: | and | ?\\ )(\d+) ?/ ?(\d+)")  # 7 2/9
RATIO = re.compile(
    rf"([-+]?) ?({DECIMAL}) ?/ ?({DECIMAL})|"
    rf"([-+]?) ?(\d+)? ?\\frac ?(?:\{{ ?([-+]?)({DECIMAL}) ?\}}|(\d)) ?(?:\{{ ?({DECIMAL}) ?\}}|(\d))"
)
ZERO_COMMA = re.compile(r"-?0,\d{3,}")  # a decimal comma, as no group of thousands starts with 0
ONES_NAMES = "one two three four five six seven eight nine"
TEENS_NAMES = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
ONES, TEENS, TENS = (names.split() for names in (ONES_NAMES, TEENS_NAMES, TENS_NAMES))
NUMBER_WORDS = {name: value for value, name in enumerate(["zero", *ONES, *TEENS])}
for ten, name in enumerate(TENS, start=2):
    NUMBER_WORDS |= {name: 10 * ten} | {f"{name}-{one}": 10 * ten + value for value, one in enumerate(ONES, start=1)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

UNIT = re.compile(r"(.*?[^\s\\,;(\[{/*]) ?((?:(?:/|\\cdot|\*)? ?\\text\{[^{}]*\} ?(?:\^ ?\{?-?\d\}?)? ?)+)", re.DOTALL)
UNIT_FRACTION = re.compile(r"\\frac ?\{ ?\\text\{([^{}]*)\} ?\} ?\{ ?\\text\{([^{}]*)\} ?((?:\^ ?\{?\d\}?)?) ?\}")
BARE_UNIT = re.compile(
    rf"([-+]?(?:{DECIMAL}|\\frac ?\{{\d+\}}\{{\d+\}}|\d+ ?/ ?\d+)) ?"
    r"([A-Za-z][A-Za-z]*(?:[ /][A-Za-z]+)*\.?(?: ?\^ ?\{?\d\}?)?)"
)
NO_UNIT = re.compile(
    r"\b(?:or|and|not|no|nor|but|if|when|unless|except|anything|something|everything|maybe|either|is|isn|are|wrong|"
    r"less|more|least|most|than|base|mod|times|over|plus|minus|square root)\b|\d",
    re.IGNORECASE,
)
SPELLINGS = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram", "kg": "kilogram",
    "lb": "pound", "oz": "ounce", "s": "second sec", "min": "minute", "h": "hour hr", "d": "day", "wk": "week",
    "yr": "year", "month": "month", "ml": "milliliter millilitre", "l": "liter litre", "cent": "cent", "dollar": "usd",
    "euro": "eur", "gbp": "", "yen": "jpy", "rupee": "rs inr", "degree": "deg", "celsius": "c", "fahrenheit": "f",
    "km/h": "kmh kmph kph", "mi/h": "mph", "m/s": "mps", "a.m.": "am", "p.m.": "pm",
}  # fmt: skip
SYMBOLS = {name: symbol for symbol, names in SPELLINGS.items() for name in (symbol, *names.split())}


@dataclass(frozen=True)
class Number:
    """The value of a number, and how it is written."""

    value: Fraction
    places: int | None = None  # digits after the decimal point; None if it is not written as a decimal
    digits: int = 0  # significant digits of a decimal


@dataclass(frozen=True)
class Reading:
    """The parts of a normalised answer."""

    text: str  # without unit and percent sign
    unit: str = ""
    percent: bool = False
    number: Number | None = None  # None if `text` is no plain number
    letter: bool = False  # the unit is one bare letter, which may be a variable: `6 m`
    whole: str = ""  # the text with its unit


@lru_cache(maxsize=CACHED)
def read_number(text: str) -> Number | None:
    r"""Read an integer, decimal, fraction, mixed number, number word or `a \times 10^n`; None for anything else."""
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
        if not denominator or (whole and inner):
            return None
        value = _decimal(a or top or top_digit) / denominator + int(whole or 0)
        return Number(value * (-1) ** ((sign or outer or "") + (inner or "")).count("-"))
    return None


def _decimal(text: str) -> Fraction:
    return Fraction((text.replace(",", "").replace(" ", "").rstrip(".")) or "0")


def same_number(answer: Number, gold: Number, tolerance: Fraction | None = None) -> bool:
    """Return whether two numbers are equal, exactly or within `tolerance`."""
    difference = abs(answer.value - gold.value)
    if not difference or (tolerance is not None and difference <= tolerance):
        return True
    # A gold answer with four places and five digits counts as rounded. Every longer decimal that rounds to it is equal.
    if gold.places is not None and gold.places >= 4 and gold.digits >= 5 and (answer.places or 99) > gold.places:
        return difference <= Fraction(1, 2 * 10**gold.places)
    return False


@lru_cache(maxsize=CACHED)
def unit_symbol(unit: str) -> str | None:
    """Return the symbol of a unit with its power; None for an unknown unit."""
    unit = re.sub(r"\\text|[{}().]", " ", unit).lower()
    unit = unit.replace("per", "/").replace("square", "sq").replace("cubic", "cu")
    words = unit.split()
    cubic, square = ("cu" in words or "^ 3" in unit or "^3" in unit), ("sq" in words or "^ 2" in unit or "^2" in unit)
    name = re.sub(r"\b(?:sq|cu)\b|\^ ?\d|\s", "", unit)
    parts = [SYMBOLS.get(part) or SYMBOLS.get(part.removesuffix("s")) for part in name.split("/")]
    symbol = SYMBOLS.get(name) or ("/".join(parts) if all(parts) else None)
    return symbol and symbol + ("^3" if cubic else "^2" if square else "")


@lru_cache(maxsize=CACHED)
def read(text: str) -> Reading:
    """Split a normalised text into its value, unit and percent sign, and read its number."""
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
    """Read an answer and its gold answer. The gold answer decides whether a bare letter is a unit or a variable.

    `6 m` answers 6, but 6 does not answer the formula `6m`.
    """
    given, expected = read(answer), read(gold)
    if given.letter and re.search(r"[A-Za-z]", gold):
        given = Reading(given.whole)
    return given, Reading(expected.whole) if expected.letter else expected


def _scaled(text: str, unit: str) -> tuple[str, str]:
    """Multiply a text by the number word before its unit: `5 million dollars` is 5000000 dollars."""
    words = re.sub(r"\\text|[{}]", " ", unit).split()
    factor = SCALES.get(words[0].lower().removesuffix("s")) if words else None
    if factor is None:
        return text, unit
    number = read_number(text)
    return f"({text})\\cdot {factor}" if number is None else str(number.value * factor), " ".join(words[1:])


def compare_readings(answer: Reading, gold: Reading, tolerance: Fraction | None) -> bool | None:
    """Return whether two plain numbers with units and percent signs are equal; None if one is no plain number."""
    if answer.number is None or gold.number is None:
        return None
    if units_differ(answer, gold):
        return False
    if same_number(answer.number, gold.number, tolerance):
        return True
    if answer.percent != gold.percent:  # 28% is 0.28, and 28 where the question asks for a percentage
        share = Fraction(1, 100) if answer.percent else Fraction(100)
        return answer.number.value * share == gold.number.value
    return False


def units_differ(answer: Reading, gold: Reading) -> bool:
    """Return whether both sides have known units that differ. One side may leave its unit out."""
    given, expected = answer.unit and unit_symbol(answer.unit), gold.unit and unit_symbol(gold.unit)
    return bool(given and expected and given != expected)
