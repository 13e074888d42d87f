"""Normalisation of answers: spellings with the same meaning become one text.

It needs only the standard library. docs/grading.md gives the reason of each rule.
"""

import re
import unicodedata
from fractions import Fraction
from functools import cache, lru_cache

from evals.grading.answers import MAX_ANSWER

MAX_DIGITS = 100  # digits in a row in an answer that is no integer
MAX_DEPTH = 40  # brackets within brackets
CACHED = 4096  # texts in the cache of each function
MAX_GROUPS = 8  # pairs of braces around a whole answer that are removed

INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # without leading zeros, plus and -0

SIGNS = {
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ",
    "×": r"\times ", "÷": "/", "∕": "/", "⁄": "/", "·": r"\cdot ", "⋅": r"\cdot ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∖": r"\setminus ", "°": r"^\circ ", "º": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "∠": r"\angle ",
    "∅": r"\emptyset ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "⟨": "(", "⟩": ")", "〈": "(", "〉": ")",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∣": "|",
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"',
    "«": '"', "»": '"', "、": ",", "。": ".",
}  # fmt: skip
SUPERSCRIPTS = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
SUBSCRIPTS = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
OVERLINED = re.compile(r"(?:\d[\u0305\u0307])+")  # a combining bar or dot marks repeating digits
ROOT_OF_SIGN = re.compile(r"\\sqrt(\[\d\])? (?:(\d+)|\(([^()]*)\))")

SIZES = (
    "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|displaystyle|textstyle|scriptstyle|"
    "scriptscriptstyle|boldmath|strut|mathstrut|noindent|ensuremath|bfseries|itshape|rmfamily|centering|em|sl|sc|"
    "limits|nolimits|left|right|[bB]igg?[lrm]?|mleft|mright|middle"
)
DROPPED = re.compile(
    rf"\\(?:{SIZES})(?![A-Za-z])\.?|(?<!\\)\\!\s*|\\(?:phantom|hspace|vspace|label|tag)\*?\{{[^{{}}]*\}}"
    r"|\\(?:text)?color\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}|\\colorbox\s*\{[^{}]*\}|\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}"
)
STYLES = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|tt|sf|sc|up)?|math(?:rm|bf|it|sf|tt|normal|ord)|mbox|hbox|bm|boldsymbol|pmb|"
    r"underline|emph|uline|rm|bf|it|sf|tt)\s*(?=\{)"
)
SPACED_DIGITS = re.compile(r"(\\(?:math(?:bf|rm)|boldsymbol|bm)\s*\{)(\d(?: \d)+)(?=\})")  # \mathbf{1 7} prints 17
OLD_STYLES = re.compile(r"\\(?:rm|bf|it|sf|tt)(?![A-Za-z])")
WORDS_ONLY = re.compile(r"[^\\^_=+*/<>|\d]*[A-Za-z][^\\^_=+*/<>|\d]*")  # Evelyn, (C), sq. ft.
CHOICES = re.compile(r"[A-J](?:(?: ?[,;&] ?(?:and )?| and )[A-J])+")  # several choices: A, C
AS_TEXT = re.compile(r"[^\\={}]*")
ENVIRONMENT = re.compile(
    r"\\(begin|end) ?\{(?:aligned?|align|equation|gather(?:ed)?|split|multline|center|flushleft|math|displaymath)\*?\}"
)
LABEL = re.compile(
    r"\\text\{[^{}]*(?::|=|\bis|\bare)\s*\}\s*(?=[^\s,;])"
    r"|(?:the |my )?(?:final )?(?:answer|result|solution)s?(?: is| are| ?:| ?=)\s*(?=[^\s,;])",
    re.IGNORECASE,
)
MATRIX = re.compile(r"matrix|array|cases|align|split|gather")
DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
ARGUMENT = re.compile(r"(?:\\sqrt ?|\^ ?)\(")
SPACES = re.compile(r"(?:(?<!\\)\\[,;:> ]|\\q?quad|\\(?:thin|med|thick)?space(?![A-Za-z])|~|\s|&nbsp;)+")
FRACTIONS = re.compile(r"\\(?:[dtc]frac|[ns]ice?frac|xfrac)(?![A-Za-z])")
INFIX = re.compile(r"\{ ?([^{}]{1,99}?) ?\\(choose|over)(?![A-Za-z]) ?([^{}]{1,99}?) ?\}")
INFIX_ALONE = re.compile(r"([^{}\\,]{1,99}?) ?\\(choose|over)(?![A-Za-z]) ?([^{}\\,]{1,99}?)")

CIRCLE = r"(?: ?\^ ?\{ ?\\(?:circ|degree) ?\}| ?\^? ?\\(?:circ|degree)(?![A-Za-z]))"
MINUTES = re.compile(
    rf"(\d+(?:\.\d+)?){CIRCLE} ?(\d+(?:\.\d+)?) ?(?:'(?!')|\^ ?\{{? ?\\prime ?\}}?)"
    r"(?: ?(\d+(?:\.\d+)?) ?(?:''|\"|\^ ?\{ ?\\prime ?\\prime ?\}))?"
)
TEMPERATURE = re.compile(rf"{CIRCLE} ?(?:\\text\{{ ?)?([CF])(?: ?\}})?$")
DEGREES = re.compile(rf"{CIRCLE}|\s*\\?(?:text\{{\s*)?\b(?:degrees?|deg)\b(?:\s*\}})?")
LAST_DEGREES = re.compile(r"([\d})])(?:" + DEGREES.pattern + r") ?$")
TRIGONOMETRIC = re.compile(r"(?<![A-Za-z])\\?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ('"', '"'), ("``", "''"),
         ("''", "''"), ("'", "'"))  # fmt: skip
REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*?)(?:\\(?:overline|bar|dot) ?\{ ?(\d+) ?\}|\\(?:overline|bar|dot) ?(\d)|\((\d+)\))"
    r"(?:(\d*)\\dot ?(?:\{ ?(\d) ?\}|(\d)))?(?!\d)"
)
ELLIPSIS = re.compile(r"(?<![\d.])(\d*)\.(\d{3,40}) ?\.\.\.$")
REPLACEMENTS = tuple((re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\%|(?<![A-Za-z\\])\\?(?:text\{\s*)?\b(?:percent(?:age)?|pct)\b\.?(?:\s*\})?|(?<=\d)(?:percent|pct)\b", "%"),
    (r"\\text\{\s*,?\s*or\s*\}", " or "),
    (r"\\text\{\s*,?\s*and\s*\}", " , "),
    (r"<=|\\leq(?:slant)?(?![A-Za-z])|\\le(?=\s*\d)", r"\\le "),
    (r">=|\\geq(?:slant)?(?![A-Za-z])|\\ge(?=\s*\d)", r"\\ge "),
    (r"!=|\\neq(?![A-Za-z])", r"\\ne "),
    (r"\*\*", "^"),
    (r"\{ ?([-+]) ?\}", r"\1"),
    (r"\^ ?-(\d+)", r"^{-\1}"),
    (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
    (r"\\log ?_ ?(\d|\{[^{}]*\})(?=[\d\\A-Za-z])", r"\\log_\1 "),
    (r"(?<![A-Za-z\\])((?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|gcd)(?=\s*[({^\\])", r"\\\1"),
    (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\\(?:mathbb|Bbb|mathbf) ?(?:\{([RZNQC])\}|([RZNQC])(?![A-Za-z]))", r"\\mathbb{\1\2}"),
    (r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus "),
    (r"\\(?:[lr]?vert|mid)(?![A-Za-z])", "|"),
    (r"\\langle(?![A-Za-z])", "("),
    (r"\\rangle(?![A-Za-z])", ")"),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\{\s*,\s*\}", ","),
    (r"(?:US ?)?\\\$ ?(-?[\d.,]*\d)|(?<![A-Za-z])USD ?(-?[\d.,]*\d)", r"\1\2\\text{ dollars}"),
    (r"(?<=[\d}]) ?\\\$", r"\\text{ dollars}"),
    (r"(?:\\text\{ ?)?(?<![A-Za-z])(?:negative |minus |-)[Ii]nf(?:inity)?(?![A-Za-z])(?: ?\})?", r"-\\infty "),
    (r"(?:\\text\{ ?)?(?<![A-Za-z])positive [Ii]nfinity(?![A-Za-z])(?: ?\})?", r"\\infty "),
    (r"(?i)(?:\\text\{ ?)?(?<![A-Za-z])(?:the )?empty set(?![A-Za-z])(?: ?\})?", r"\\emptyset "),
    (r"\\begin ?\{array\} ?\{[lcr| ]*\}((?:(?!&|\\\\).)*?)\\end ?\{array\}", r"\1"),
    (r"\\text\{ ?[Ii]nf(?:inity)? ?\}|(?<![A-Za-z\\])(?:[Ii]nfinity|inf|oo)(?![A-Za-z])", r"\\infty "),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z\\])sqrt(?=\s*[({])", r"\\sqrt"),
    (r"\\(?:dots[a-z]?|ldots|cdots)(?![A-Za-z])", "..."),
    (r"^<([^<>]*,[^<>]*)>$", r"(\1)"),
))  # fmt: skip
UNIT_LETTERS = frozenset("msghdlLNJWVAKCFT")
BEFORE_UNIT = re.compile(r"(?:\d\}?|\\text\{[^{}]*\}(?: ?(?:/|\\cdot|\*))?(?:\}\{)?)(?:\\[,;: ]|~|\s)*$")
CONTROLS = {code: " " if chr(code) in "\t\n\r\v\f" else None for code in [*range(32), 127]}
CURRENCIES = {"€": "euros", "£": "gbp", "¥": "yen", "₹": "rupees"}
MONEY = re.compile(r"([€£¥₹]) ?(-?[\d.,]*\d)|(-?[\d.,]*\d) ?([€£¥₹])")
LONG_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")


@lru_cache(maxsize=CACHED)
def clean(text: str) -> str:
    r"""Normalise a text: ASCII and LaTeX signs, no styles, no delimiters around it, no full stop after it.

    `５．` and `$5.$` become `5`, `½` becomes `\frac{1}{2}`, and `0.\overline{3}` becomes `\frac{3}{9}`.
    """
    text = text.translate(CONTROLS) if text.isascii() else _ascii(text)
    if "\\\\" in text and not MATRIX.search(text):
        text = DOUBLED.sub(r"\\", text)
    text = _bare(text)
    if "\\" in text:
        text = SPACED_DIGITS.sub(lambda found: found[1] + found[2].replace(" ", ""), text)
        text = DROPPED.sub("", STYLES.sub(r"\\text", text))
        text = OLD_STYLES.sub("", FRACTIONS.sub(r"\\frac", text))
        if ENVIRONMENT.search(text):
            text = _lines(text)
        text = _plain_texts(text)
    if "\\circ" in text or "\\degree" in text or "deg" in text:
        text = TEMPERATURE.sub(r"\\text{ \1}", MINUTES.sub(_degrees_minutes, text))
        if TRIGONOMETRIC.search(text):  # degrees count, as the argument may be in radians
            text = DEGREES.sub(r"^{\\circ}", text)
        else:
            last = LAST_DEGREES.search(text)
            text = DEGREES.sub("", text[: last.end(1)]) + "\\text{ degrees}" if last else DEGREES.sub("", text)
    for pattern, replacement in REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = _bare(_braced(SPACES.sub(" ", text)))
    if "$" in text:
        text = text.replace("\\$", "").replace("$", "").strip()
    if "\\choose" in text or "\\over" in text:
        text = INFIX.sub(_infix, text)
        if alone := INFIX_ALONE.fullmatch(text):
            text = _infix(alone)
    if "." in text:
        text = ELLIPSIS.sub(_ellipsis, REPEATING.sub(_repeating, text))
    if LABEL.match(text):
        text = _bare(LABEL.sub("", text, count=1))
    for _ in range(MAX_GROUPS):
        if not (text.startswith("{") and len(text) > 2 and _closing(text, 1) == len(text) - 1):
            break
        text = _bare(text[1:-1])
    return text


def _plain_texts(text: str) -> str:
    r"""Keep `\text{…}` around words only. It is removed around mathematics and around a whole answer with a digit."""
    found = text.rfind("\\text{")
    while found >= 0:
        start = found + len("\\text{")
        end = _closing(text, start)
        if end is not None:
            inside = text[start:end].strip()
            whole = not text[:found].strip() and not text[end + 1 :].strip(" .")
            if whole and (not WORDS_ONLY.fullmatch(inside) or CHOICES.fullmatch(inside)):
                text = inside
            elif inside in UNIT_LETTERS and BEFORE_UNIT.search(text[:found]):
                pass  # a unit after a number or another unit, as in `\text{kg}/\text{m}`
            elif re.fullmatch(r"[A-Za-z]|[-+]?\$?[\d.,/%]+", inside):
                text = text[:found] + inside + text[end + 1 :]
            elif not AS_TEXT.fullmatch(inside):
                text = f"{text[:found]}{{{inside}}}{text[end + 1 :]}"
        found = text.rfind("\\text{", 0, found)
    return text


def _closing(text: str, start: int, pair: str = "{}") -> int | None:
    """Return where the bracket that opens before `start` closes, or None. Escaped braces do not count."""
    depth = 1
    for at in range(start, len(text)):
        if text[at] in pair and (text[at - 1] != "\\" or pair == "()"):
            depth += 1 if text[at] == pair[0] else -1
            if not depth:
                return at
    return None


def _lines(text: str) -> str:
    """Convert the lines of an `aligned` environment to a list."""
    text = ENVIRONMENT.sub(" ", text)
    return text if MATRIX.search(text) else _bare(re.sub(r"\\\\(?:\[[^\[\]]*\])?", " , ", text.replace("&", " ")))


def _degrees_minutes(found: re.Match) -> str:
    value = sum(Fraction(part or 0) / 60**i for i, part in enumerate(found.groups()))  # minutes and seconds
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}^{{\circ}}"


def _infix(found: re.Match) -> str:
    command = "\\binom" if found[2] == "choose" else "\\frac"
    return f"{command}{{{found[1].strip()}}}{{{found[3].strip()}}}"


def _repeating(found: re.Match) -> str:
    r"""Convert a repeating decimal to a fraction: `0.1\overline{6}`, `0.\dot{1}4\dot{2}`, `0.(3)`."""
    whole, fixed, bar, bar_digit, parentheses, between, dot, dot_digit = found.groups()
    last = dot or dot_digit or ""
    if between and not last:
        return found[0]
    period = (bar or bar_digit or parentheses) + (between or "") + last
    if len(period) + len(fixed) > MAX_DIGITS // 2:
        return found[0]
    return _fraction(whole, fixed, period)


def _ellipsis(found: re.Match) -> str:
    """Convert a decimal that goes on, `0.1666...`, to a fraction if its last digits show a period: 666 or 1212."""
    whole, digits = found.groups()
    for size in range(1, len(digits) // 2 + 1):
        period = digits[-size:]
        if digits.endswith(period * (3 if size == 1 else 2)):
            while digits.endswith(period):
                digits = digits[:-size]
            return _fraction(whole, digits, period)
    return found[0]


def _fraction(whole: str, fixed: str, period: str) -> str:
    above = int((whole or "0") + fixed + period) - int((whole or "0") + fixed)
    return rf"\frac{{{above}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"


def _braced(text: str) -> str:
    """Replace the parentheses of `sqrt(…)` and `^(…)` by braces."""
    for found in reversed(list(ARGUMENT.finditer(text))):
        if (end := _closing(text, found.end(), "()")) is not None:
            text = f"{text[: found.end() - 1]}{{{text[found.end() : end]}}}{text[end + 1 :]}"
    return text


def _ascii(text: str) -> str:
    """Convert letters and digits to ASCII and signs to LaTeX. Characters without a width are removed."""
    text = MONEY.sub(lambda sum: f"{sum[2] or sum[3]}\\text{{ {CURRENCIES[sum[1] or sum[4]]}}}", text)
    text = OVERLINED.sub(lambda run: "\\overline{" + re.sub(r"\D", "", run[0]) + "}", text)
    text = SUPERSCRIPTS.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run[0]).replace("−", "-") + "}", text)
    text = SUBSCRIPTS.sub(lambda run: "_{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = "".join(map(_sign, text))
    return ROOT_OF_SIGN.sub(lambda found: f"\\sqrt{found[1] or ''}{{{found[2] or found[3]}}}", text)


@cache
def _sign(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    if character.isascii():
        return CONTROLS.get(ord(character), character) or ""
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me"):
        return ""
    if kind == "Nd":
        return str(unicodedata.digit(character))
    plain = unicodedata.normalize("NFKC", character)
    if unicodedata.decomposition(character).startswith("<fraction>"):
        above, below = plain.split("⁄")
        return f"\\frac{{{above}}}{{{below}}}"
    if len(plain) > 1 or plain == character:
        name = unicodedata.name(character, "").split()
        if name[:1] == ["GREEK"] and name[2:3] == ["LETTER"] and len(name) == 4:
            letter = name[3].lower().replace("lamda", "lambda")
            return "\\" + (letter if name[1] == "SMALL" else letter.capitalize()) + " "
        return " " if kind == "Zs" else character
    return _sign(plain)


def _bare(text: str) -> str:
    """Remove delimiters, spaces and punctuation around a text."""
    before = None
    while before != text:
        before = text
        text = text.strip().removesuffix("\\\\").removesuffix("\\").rstrip(" ,;:").lstrip(" ,;:")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        for left, right in PAIRS:
            inner = text[len(left) : -len(right)]
            if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner
    return text


@lru_cache(maxsize=CACHED)
def too_large(text: str) -> bool:
    """Return whether an answer is too long, has too many digits in a row or too deep brackets."""
    if len(text) > MAX_ANSWER or LONG_DIGITS.search(text):
        return True
    depth = 0
    for character in text:
        if character in "{([":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "})]":
            depth = max(depth - 1, 0)
    return False
