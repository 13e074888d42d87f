r"""Writing answers in one form: what can be written in several ways without a change of meaning is written in one.

Linear in the text up to the number of its wrappers; needs no library. The rules with the reason of each are in
docs/grading.md.
"""

import re
import unicodedata
from fractions import Fraction
from functools import cache, lru_cache

from evals.grading.answers import MAX_ANSWER

MAX_DIGITS = 100  # digits in a row in an answer that is more than an integer: what they cost explodes far beyond
MAX_DEPTH = 40  # brackets within brackets, likewise
CACHED = 4096  # texts that are remembered in each reading of them
MAX_GROUPS = 8  # braces around the whole of an answer that are taken off

INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # canonical: no sign on zero, no leading zero, no plus, ASCII digits

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
OVERLINED = re.compile(r"(?:\d[\u0305\u0307])+")  # digits under a combining bar or dot repeat
ROOT_OF_SIGN = re.compile(r"\\sqrt(\[\d\])? (?:(\d+)|\(([^()]*)\))")

SIZES = (
    "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|displaystyle|textstyle|scriptstyle|"
    "scriptscriptstyle|boldmath|strut|mathstrut|noindent|ensuremath|bfseries|itshape|rmfamily|centering|em|sl|sc|limits|nolimits|left|right|"
    "[bB]igg?[lrm]?|mleft|mright|middle"
)
DROPPED = re.compile(
    rf"\\(?:{SIZES})(?![A-Za-z])\.?|(?<!\\)\\!\s*|\\(?:phantom|hspace|vspace|label|tag)\*?\{{[^{{}}]*\}}"
    r"|\\(?:text)?color\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}|\\colorbox\s*\{[^{}]*\}|\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}"
)
STYLES = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|tt|sf|sc|up)?|math(?:rm|bf|it|sf|tt|normal|ord)|mbox|hbox|bm|boldsymbol|pmb|"
    r"underline|emph|uline|rm|bf|it|sf|tt)\s*(?=\{)"
)
OLD_STYLES = re.compile(r"\\(?:rm|bf|it|sf|tt)(?![A-Za-z])")
WORDS_ONLY = re.compile(r"[^\\^_=+*/<>|\d]*[A-Za-z][^\\^_=+*/<>|\d]*")  # of a text that stays one: Evelyn, (C), sq. ft.
CHOICES = re.compile(r"[A-J](?:(?: ?[,;&] ?(?:and )?| and )[A-J])+")  # several letters of a multiple choice
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
WORDY = (
    (
        re.compile(
            r"\\%|(?<![A-Za-z\\])\\?(?:text\{\s*)?\b(?:percent(?:age)?|pct)\b\.?(?:\s*\})?|(?<=\d)(?:percent|pct)\b"
        ),
        "%",
    ),
    (re.compile(r"\\text\{\s*,?\s*or\s*\}"), " or "),
    (re.compile(r"\\text\{\s*,?\s*and\s*\}"), " , "),
    (re.compile(r"<=|\\leq(?:slant)?(?![A-Za-z])|\\le(?=\s*\d)"), r"\\le "),
    (re.compile(r">=|\\geq(?:slant)?(?![A-Za-z])|\\ge(?=\s*\d)"), r"\\ge "),
    (re.compile(r"!=|\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\{ ?([-+]) ?\}"), r"\1"),
    (re.compile(r"\^ ?-(\d+)"), r"^{-\1}"),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10}"),
    (re.compile(r"\\log ?_ ?(\d|\{[^{}]*\})(?=[\d\\A-Za-z])"), r"\\log_\1 "),
    (
        re.compile(r"(?<![A-Za-z\\])((?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|gcd)(?=\s*[({^\\])"),
        r"\\\1",
    ),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:mathbb|Bbb|mathbf) ?(?:\{([RZNQC])\}|([RZNQC])(?![A-Za-z]))"), r"\\mathbb{\1\2}"),
    (re.compile(r"\\(?:backslash|smallsetminus)(?![A-Za-z])"), r"\\setminus "),
    (re.compile(r"\\(?:[lr]?vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\{\s*,\s*\}"), ","),
    (re.compile(r"(?:US ?)?\\\$ ?(-?[\d.,]*\d)|(?<![A-Za-z])USD ?(-?[\d.,]*\d)"), r"\1\2\\text{ dollars}"),
    (re.compile(r"(?<=[\d}]) ?\\\$"), r"\\text{ dollars}"),
    (
        re.compile(r"(?:\\text\{ ?)?(?<![A-Za-z])(?:negative |minus |-)[Ii]nf(?:inity)?(?![A-Za-z])(?: ?\})?"),
        r"-\\infty ",
    ),
    (re.compile(r"(?:\\text\{ ?)?(?<![A-Za-z])positive [Ii]nfinity(?![A-Za-z])(?: ?\})?"), r"\\infty "),
    (re.compile(r"(?:\\text\{ ?)?(?<![A-Za-z])(?:the )?empty set(?![A-Za-z])(?: ?\})?", re.IGNORECASE), r"\\emptyset "),
    (re.compile(r"\\begin ?\{array\} ?\{[lcr| ]*\}((?:(?!&|\\\\).)*?)\\end ?\{array\}"), r"\1"),
    (re.compile(r"\\text\{ ?[Ii]nf(?:inity)? ?\}|(?<![A-Za-z\\])(?:[Ii]nfinity|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![A-Za-z\\])sqrt(?=\s*[({])"), r"\\sqrt"),
    (re.compile(r"\\(?:dots[a-z]?|ldots|cdots)(?![A-Za-z])"), "..."),
    (re.compile(r"^<([^<>]*,[^<>]*)>$"), r"(\1)"),
)


@lru_cache(maxsize=CACHED)
def clean(text: str) -> str:
    r"""`text` in one form: ASCII where it has a LaTeX name, no styles, no delimiters around it, no full stop after it.

    `５．` and `$5.$` become `5`, `½` becomes `\frac{1}{2}`, `\mathrm{cm}` is `\text{cm}`, `1\,234` is `1 234`,
    `0.\overline{3}` is `\frac{3}{9}`. Degree signs go, but for those of a text with trigonometric functions.
    """
    text = text.translate(_CONTROLS) if text.isascii() else _ascii(text)
    if "\\\\" in text and not MATRIX.search(text):
        text = DOUBLED.sub(r"\\", text)
    text = _bare(text)
    if "\\" in text:
        text = DROPPED.sub("", STYLES.sub(r"\\text", text))
        text = OLD_STYLES.sub("", FRACTIONS.sub(r"\\frac", text))
        if ENVIRONMENT.search(text):
            text = _lines(text)
        text = _plain_texts(text)
    if "\\circ" in text or "\\degree" in text or "deg" in text:
        text = TEMPERATURE.sub(r"\\text{ \1}", MINUTES.sub(_degrees_minutes, text))
        if TRIGONOMETRIC.search(text):
            text = DEGREES.sub(r"^{\\circ}", text)
        else:
            last = LAST_DEGREES.search(text)
            text = DEGREES.sub("", text[: last.end(1)]) + "\\text{ degrees}" if last else DEGREES.sub("", text)
    for pattern, replacement in WORDY:
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
    r"""`\text{…}` around words alone: it goes around mathematics, and around the whole of an answer with a digit."""
    found = text.rfind("\\text{")
    while found >= 0:
        start = found + len("\\text{")
        end = _closing(text, start)
        if end is not None:
            inside = text[start:end].strip()
            whole = not text[:found].strip() and not text[end + 1 :].strip(" .")
            if whole and (not WORDS_ONLY.fullmatch(inside) or CHOICES.fullmatch(inside)):
                text = inside
            elif _measures(text[:found], inside):
                pass
            elif re.fullmatch(r"[A-Za-z]|[-+]?\$?[\d.,/%]+", inside):
                text = text[:found] + inside + text[end + 1 :]
            elif not AS_TEXT.fullmatch(inside):
                text = f"{text[:found]}{{{inside}}}{text[end + 1 :]}"
        found = text.rfind("\\text{", 0, found)
    return text


def _measures(before: str, letter: str) -> bool:
    r"""Whether one letter is a unit by where it stands: behind a number or another unit, as in `\text{kg}/\text{m}`."""
    if letter not in UNIT_LETTERS:
        return False
    return bool(re.search(r"(?:\d\}?|\\text\{[^{}]*\}(?: ?(?:/|\\cdot|\*))?(?:\}\{)?)(?:\\[,;: ]|~|\s)*$", before))


UNIT_LETTERS = frozenset(["m", "s", "g", "h", "d", "l", "L", "N", "J", "W", "V", "A", "K", "C", "F", "T"])


def _closing(text: str, start: int) -> int | None:
    """Where the brace that opened before `start` closes."""
    depth = 1
    for at in range(start, len(text)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if not depth:
                return at
    return None


def _lines(text: str) -> str:
    """The lines of an `aligned` environment as a list, without its marks."""
    text = ENVIRONMENT.sub(" ", text)
    return text if MATRIX.search(text) else _bare(re.sub(r"\\\\(?:\[[^\[\]]*\])?", " , ", text.replace("&", " ")))


def _degrees_minutes(found: re.Match) -> str:
    degrees, minutes, seconds = (Fraction(part or 0) for part in found.groups())
    value = degrees + minutes / 60 + seconds / 3600
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}^{{\circ}}"


def _infix(found: re.Match) -> str:
    command = "\\binom" if found[2] == "choose" else "\\frac"
    return f"{command}{{{found[1].strip()}}}{{{found[3].strip()}}}"


def _repeating(found: re.Match) -> str:
    r"""A decimal whose last digits repeat, as a fraction: `0.1\overline{6}`, `0.\dot{1}4\dot{2}`, `0.(3)`."""
    whole, fixed, *rest = found.groups()
    bar, bar_digit, parentheses, between, dot, dot_digit = rest
    last = dot or dot_digit or ""
    if between and not last:
        return found[0]
    period = (bar or bar_digit or parentheses) + (between or "") + last
    if len(period) + len(fixed) > MAX_DIGITS // 2:
        return found[0]
    return _fraction(whole, fixed, period)


def _ellipsis(found: re.Match) -> str:
    """A decimal that goes on, `0.1666...`, as a fraction, where its last digits show a period: 666, or 1212."""
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
    r"""`sqrt(…)` and `^(…)` with braces for their parentheses."""
    for found in reversed(list(ARGUMENT.finditer(text))):
        depth, end = 0, found.end() - 1
        while end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            if not depth:
                text = f"{text[: found.end() - 1]}{{{text[found.end() : end]}}}{text[end + 1 :]}"
                break
            end += 1
    return text


_CONTROLS = {code: " " if chr(code) in "\t\n\r\v\f" else None for code in [*range(32), 127]}


CURRENCIES = {"€": "euros", "£": "gbp", "¥": "yen", "₹": "rupees"}
MONEY = re.compile(r"([€£¥₹]) ?(-?[\d.,]*\d)|(-?[\d.,]*\d) ?([€£¥₹])")


def _ascii(text: str) -> str:
    """Letters and digits of every width as ASCII, mathematical signs as LaTeX; marks without a width disappear."""
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
        return _CONTROLS.get(ord(character), character) or ""
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
    """Without the delimiters, spaces and punctuation around it."""
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
    """Whether an answer is beyond the caps: too long, too many digits in a row, or brackets too deep."""
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


LONG_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
