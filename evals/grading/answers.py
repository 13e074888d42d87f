r"""Extraction of the final answer of a response: by its mark (strict) or from its end (flexible).

Every function is linear in the text and needs only the standard library. docs/grading.md gives the reason of each rule.
"""

import re
from collections.abc import Mapping, Sequence

MAX_TEXT = 100_000  # characters at the end of a text that are read
MAX_ANSWER = 1_000  # characters of an answer that is compared
MAX_END = 10_000  # characters at the end of a text in which an unmarked answer is searched
GAP = 40  # characters between two boxes that may form one answer with several parts

BOXES = re.compile(r"\\{1,2}(?:(?:begin)?boxed|fbox)\s{0,20}\{|\\.|[{}]", re.DOTALL)  # `\\.` skips escaped braces
BARE_BOX = re.compile(r"\\boxed[ \t]+([-+]?[\d.][^\s{}$\\]*)")  # `\boxed 7`, but not "use \boxed for it"
PLACEHOLDER = re.compile(r"(?:(?:your|the|my|final) ){0,3}answer(?: here)?|\.\.\.|\\[lc]?dots", re.IGNORECASE)
PLACE = re.compile(  # "the answer is within the specified box" says where the answer stands
    r"(?:(?:given|shown|written|stated|enclosed) )?"
    r"(?:(?:with)?in(?:side)? (?:(?:the|this|a)\b[^\d$\\]*|\$?\\boxed\b(?:\{\})?[^\d]*)|as follows[^\d$\\]*)"
    r"|(?:given|shown|written|stated) (?:above|below)",
    re.IGNORECASE,
)
IS = r"(?:is|are)\b[ \t]*(?:(?:then|thus|therefore|hence|simply|just)\b[ \t,]*)?(?::\s{0,20})?"
PHRASE = re.compile(rf"final answers?[ \t*]{{0,8}}{IS}([^\n]*)", re.IGNORECASE)
ANSWER_LINE = re.compile(r"answer[ \t*]{0,8}:\s*([^\n]+)", re.IGNORECASE)
GSM8K_LINE = re.compile(r"####([^\n]*)")
WEAK_PHRASE = re.compile(rf"\bthe answers?[ \t*]{{0,8}}{IS}([^\n]*)", re.IGNORECASE)
SENTENCE_END = re.compile(r"\.(?:\s|$)|(?<!\\)!(?:\s+(?=[A-Z])|$)")
EXPLANATION = re.compile(r"(?<=\S), (?:not|because|since|which)\b")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
BETWEEN_BOXES = re.compile(rf"(?:[^.!?\n\\]|\\(?!boxed)|\n(?!\n)){{0,{GAP}}}")
JOINS = re.compile(r"[,;&]|\b(?:and|or)\b")
SEPARATES = re.compile(r"\b(?:then|so|thus|hence|therefore|wait|actually|no|not|instead|but)\b", re.IGNORECASE)
THINKING = re.compile(r"<(/?)(?:seed:)?think(?:ing)?>|\[(/?)THINK\]", re.IGNORECASE)

MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
VERB = re.compile(r"(?:\bis|\bare|:)\s+(?=[^\s]*[\d$\\])")
NUMBER_ALONE = re.compile(r"(?<![\w.,/^_{\\-])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?![\w/^{])")
NUMBER_FIRST = re.compile(r"\s*\*{0,2}(\\?\$?\s*-?(?:\d+ \d+/\d+|\d[\d,]*(?:\.\d+)?(?:/\d+)?)\s*\\?%?)(?=[\s.!*]|$)")
# The bound of 999 keeps the cost linear where marks never close.
FORMULA = re.compile(MATH.pattern.replace(".+?", ".{1,999}?"), re.DOTALL)
NUMBER = re.compile(
    r"(?:(?<![\w)}\].])-)?(?:\\?\$ ?)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?: ?\\?%)?|(?<![\d.])\.\d+"
)
VARIABLE_ALONE = re.compile(r"[\s\\A-Za-z_{}']*")
LABEL = re.compile(r"[A-Za-z ]{1,30}:\s*")


def text_of(value) -> str:
    """Convert a prediction or gold answer of any type to text. Of chat messages the last one counts; None is ""."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode(errors="replace")
    if isinstance(value, Mapping):
        return text_of(value.get("content", value.get("text")))
    if isinstance(value, Sequence):
        if any(isinstance(part, Mapping) and "role" in part for part in value):
            return text_of(value[-1])
        parts = [text_of(part) for part in value]
        return ("" if any(isinstance(part, Mapping) for part in value) else ", ").join(parts)
    try:
        return str(value)
    except Exception:  # `__str__` of an unknown type may raise anything
        return ""


def without_thinking(text: str) -> str:
    """Return the part of a response that may hold its answer, at most MAX_TEXT characters from its end."""
    tags = list(THINKING.finditer(text)) if "hink>" in text or "HINK" in text else []
    if tags:
        if not (tags[-1][1] or tags[-1][2]):  # the response was cut off inside its thinking
            return ""
        after = text[tags[-1].end() :]  # the opening tag may be in the prompt's template
        text = after if after.strip() else text
    return text[-MAX_TEXT:]


def extract(text: str) -> str | None:
    r"""Return the final answer that `text` marks, without markup, or None.

    The first of these that exists: the last closed `\boxed{…}`, the last "final answer is …", the last `Answer: …`
    line (DAPO's prompt), the last `#### …` (GSM8K), the last "the answer is …".
    """
    text = without_thinking(text_of(text))
    opens = text.rfind("\\boxed{")
    if opens >= 0:  # fast path for most answers in training: the last box holds digits alone
        closes = text.find("}", opens)
        boxed = text[opens + 7 : closes]
        if closes > 0 and boxed.isdigit() and text.find("box", closes) < 0:
            return boxed
    for start, end in reversed(find_boxes(text)):
        boxed = text[start:end].strip()
        if boxed and (boxed[0].isdigit() or not PLACEHOLDER.fullmatch(boxed)):
            return boxed
    for found in reversed(BARE_BOX.findall(text)):
        if answer := _strip_markup(found):
            return answer
    for pattern in (PHRASE, ANSWER_LINE, GSM8K_LINE, WEAK_PHRASE):
        for found in reversed(pattern.findall(text)):
            answer = _strip_markup(THOUSANDS.sub("", found) if pattern is GSM8K_LINE else _from_sentence(found))
            if answer and not (PLACEHOLDER.fullmatch(answer) or PLACE.fullmatch(answer)):
                return answer
    return None


def find_boxes(text: str) -> list[tuple[int, int]]:
    r"""Return (start, end) of the contents of every closed `\boxed{…}`, in the order of their starts."""
    opened: list[int | None] = []  # for each open brace the start of its box's contents; None if it opens no box
    found = []
    for token in BOXES.finditer(text):
        mark = token[0]
        if mark == "}":
            start = opened.pop() if opened else None
            if start is not None:
                found.append((start, token.start()))
        elif mark == "{":
            opened.append(None)
        elif len(mark) > 2:
            opened.append(token.end())
    return sorted(found) if len(found) > 1 else found


def last_boxes(text: str) -> str | None:
    r"""Join the boxes at the end of `text` by commas; None if the last box stands alone.

    Boxes belong together if little more than a comma, "and" or "or" is between them: `\boxed{1} and \boxed{2}`.
    """
    text = without_thinking(text)
    group: list[tuple[int, int]] = []
    for start, end in reversed(find_boxes(text)):
        if group:
            between = text[end + 1 : text.rfind("\\", 0, group[0][0])]
            close = BETWEEN_BOXES.fullmatch(between) and (JOINS.search(between) or not re.search("[A-Za-z]", between))
            if end > group[0][0] or not close or SEPARATES.search(between):
                break
        group.insert(0, (start, end))
        if len(group) > MAX_ANSWER:
            return None
    if len(group) < 2:
        return None
    return ", ".join(dict.fromkeys(text[start:end].strip() for start, end in group))


def _from_sentence(text: str) -> str:
    """Return the answer in a sentence: what follows the last "is" before a number, without an explanation."""
    text = SENTENCE_END.split(text[:MAX_ANSWER].strip().removesuffix(".") + ". ", maxsplit=1)[0]
    text = EXPLANATION.split(text, maxsplit=1)[0]
    if len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))) < 2:
        return text
    rest = text if MATH.match(text) else VERB.split(text)[-1]
    if formulas := [next(filter(None, found)) for found in MATH.findall(rest)]:
        return ", ".join(formulas) if JOINS.search(MATH.sub("", rest)) else formulas[0 if rest[:1] in "$\\" else -1]
    if JOINS.search(rest):
        return rest
    if number := NUMBER_FIRST.match(rest):
        return number[1]
    numbers = NUMBER_ALONE.findall(rest)
    return numbers[0] if len(numbers) == 1 else rest


def _strip_markup(text: str) -> str:
    """Remove emphasis, dollar signs and the end of the sentence. A "!" in prose is no factorial."""
    text = text.strip().strip("`").rstrip("!").strip("*").strip().removesuffix(".").rstrip("!")
    return text.strip("$").removesuffix(".").strip()


def fall_back(text: str) -> str | None:
    r"""Return the answer of a text without a mark: a whole line without prose, else the last number or formula.

    A formula stands between `$…$`, `$$…$$`, `\(…\)` or `\[…\]`. Formulas that only name a variable are skipped.
    """
    text = without_thinking(text_of(text)).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= MAX_ANSWER:
        line = LABEL.sub("", _strip_markup(lines[0]), count=1)
        if len(re.findall(r"(?<!\\)\b[A-Za-z]{2,}", line)) < 2:
            return line or None
    text = text[-MAX_END:]
    numbers = list(NUMBER.finditer(text))
    end = numbers[-1].end() if numbers else -1
    for found in reversed(list(FORMULA.finditer(text))):
        if found.end() < end:
            break
        formula = next(filter(None, found.groups())).strip()
        if formula and (not VARIABLE_ALONE.fullmatch(formula) or re.search(r"\\[A-Za-z]{2}", formula)):
            return formula
    return numbers[-1][0].strip() if numbers else None
