r"""Finding the final answer of a response: by its marks alone (strict), or by what stands last (flexible).

Everything here is linear in the text and needs no library. The rules with the reason of each are in docs/grading.md.
"""

import re
from collections.abc import Mapping, Sequence

MAX_TEXT = 100_000  # characters of a text that are read, from its end
MAX_ANSWER = 1_000  # characters of an answer that are compared
GAP = 40  # characters between two boxes that are read as one answer with several parts

BOXES = re.compile(
    r"\\{1,2}(?:(?:begin)?boxed|fbox)\s{0,20}\{|\\.|[{}]", re.DOTALL
)  # an escaped brace is text, not structure
BARE_BOX = re.compile(r"\\boxed[ \t]+([-+]?[\d.][^\s{}$\\]*)")  # `\boxed 7`; in "use \boxed for it" nothing is boxed
PLACEHOLDER = re.compile(r"(?:(?:your|the|my|final) ){0,3}answer(?: here)?|\.\.\.|\\[lc]?dots", re.IGNORECASE)
PHRASE = re.compile(r"final answers?[ \t*]{0,8}(?:is|are)\b[ \t]*(?::\s{0,20})?([^\n]*)", re.IGNORECASE)
ANSWER_LINE = re.compile(r"answer[ \t*]{0,8}:\s*([^\n]+)", re.IGNORECASE)
GSM8K_LINE = re.compile(r"####([^\n]*)")
WEAK_PHRASE = re.compile(r"\bthe answers?[ \t*]{0,8}(?:is|are)\b[ \t]*(?::\s{0,20})?([^\n]*)", re.IGNORECASE)
SENTENCE_END = re.compile(r"\.(?:\s|$)|(?<!\\)!(?:\s+(?=[A-Z])|$)")
EXPLAINED = re.compile(r"(?<=\S), (?:not|because|since|which)\b")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
CLUSTER = re.compile(rf"(?:[^.!?\n\\]|\\(?!boxed)|\n(?!\n)){{0,{GAP}}}")
JOINS = re.compile(r"[,;&]|\b(?:and|or)\b")
MOVES_ON = re.compile(r"\b(?:then|so|thus|hence|therefore|wait|actually|no|not|instead|but)\b", re.IGNORECASE)
THINKING = re.compile(r"<(/?)(?:seed:)?think(?:ing)?>|\[(/?)THINK\]", re.IGNORECASE)


def text_of(value) -> str:
    """The text of a prediction or gold, whatever its type: of chat messages that of the last one; "" for None."""
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
    except Exception:  # a foreign object's own fault: it has no text
        return ""


def spoken(text: str) -> str:
    """What a response says outside of its thinking, at most MAX_TEXT characters from its end.

    That is what follows the last `</think>`, also where the prompt's template held `<think>`. A response that was cut
    off inside its thinking says nothing. Where nothing follows the thinking, the thinking is all there is.
    """
    tags = list(THINKING.finditer(text)) if "hink>" in text or "HINK" in text else []
    if tags:
        if not (tags[-1][1] or tags[-1][2]):
            return ""
        after = text[tags[-1].end() :]
        text = after if after.strip() else text
    return text[-MAX_TEXT:]


def extract(text: str) -> str | None:
    r"""The final answer that `text` marks, without its markup; None where it marks none.

    In this order: the last `\boxed{…}` that closes; the last "final answer is …"; the last `Answer: …` line (the
    DAPO prompt's); the last `#### …` (GSM8K's); the last "the answer is …".
    """
    text = spoken(text if isinstance(text, str) else text_of(text))
    opens = text.rfind("\\boxed{")
    if opens >= 0:  # nearly every answer in training: a box of digits, and no box after it
        closes = text.find("}", opens)
        boxed = text[opens + 7 : closes]
        if closes > 0 and boxed.isdigit() and text.find("box", closes) < 0:
            return boxed
    for start, end in reversed(find_boxes(text)):
        boxed = text[start:end].strip()
        if boxed and (boxed[0].isdigit() or not PLACEHOLDER.fullmatch(boxed)):
            return boxed
    for found in reversed(BARE_BOX.findall(text)):
        if answer := _plain(found):
            return answer
    for pattern, read in (
        (PHRASE, _said),
        (ANSWER_LINE, _said),
        (GSM8K_LINE, _without_commas),
        (WEAK_PHRASE, _said),
    ):
        for found in reversed(pattern.findall(text)):
            answer = _plain(read(found))
            if answer and not PLACEHOLDER.fullmatch(answer):
                return answer
    return None


def last_box(text: str) -> str | None:
    r"""The contents of the last-opened `\boxed{…}` among those that close, else None."""
    boxes = find_boxes(text)
    return text[slice(*boxes[-1])] if boxes else None


def find_boxes(text: str) -> list[tuple[int, int]]:
    r"""(start, end) of the contents of every `\boxed{…}` that closes, in the order they open. Linear in the text."""
    opened: list[int | None] = []  # for each open brace: where its box's contents start, None if it is no box
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
    r"""The contents of the boxes that end `text` together, joined by commas; None where the last box stands alone.

    Boxes belong together when little more than a comma, "and" or "or" stands between them: `\boxed{1} and \boxed{2}`.
    """
    text = spoken(text)
    group: list[tuple[int, int]] = []
    for start, end in reversed(find_boxes(text)):
        if group:
            between = text[end + 1 : text.rfind("\\", 0, group[0][0])]
            close = CLUSTER.fullmatch(between) and (JOINS.search(between) or not re.search("[A-Za-z]", between))
            if end > group[0][0] or not close or MOVES_ON.search(between):
                break
        group.insert(0, (start, end))
        if len(group) > MAX_ANSWER:
            return None
    if len(group) < 2:
        return None
    return ", ".join(dict.fromkeys(text[start:end].strip() for start, end in group))


def _without_commas(text: str) -> str:
    return THOUSANDS.sub("", text)


MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
SAYS = re.compile(r"(?:\bis|\bare|:)\s+(?=[^\s]*[\d$\\])")
NUMBER_ALONE = re.compile(r"(?<![\w.,/^_{\\-])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?![\w/^{])")
NUMBER_FIRST = re.compile(r"\s*\*{0,2}(\\?\$?\s*-?(?:\d+ \d+/\d+|\d[\d,]*(?:\.\d+)?(?:/\d+)?)\s*\\?%?)(?=[\s.!*]|$)")


def _said(text: str) -> str:
    """The answer in a sentence: its first sentence, from the last "is" before a number on, without what explains it."""
    text = SENTENCE_END.split(text[:MAX_ANSWER].strip().removesuffix(".") + ". ", maxsplit=1)[0]
    text = EXPLAINED.split(text, maxsplit=1)[0]
    words = re.sub(r"\\[A-Za-z]+", " ", text)
    if len(re.findall(r"[A-Za-z]{2,}", words)) < 2:
        return text
    rest = text if MATH.match(text) else SAYS.split(text)[-1]
    if formulas := [next(filter(None, found)) for found in MATH.findall(rest)]:
        return ", ".join(formulas) if JOINS.search(MATH.sub("", rest)) else formulas[0 if rest[:1] in "$\\" else -1]
    if JOINS.search(rest):
        return rest
    if number := NUMBER_FIRST.match(rest):
        return number[1]
    numbers = NUMBER_ALONE.findall(rest)
    return numbers[0] if len(numbers) == 1 else rest


def _plain(text: str) -> str:
    """A line's answer without emphasis, dollar signs and what ends the sentence: a "!" in prose is no factorial."""
    text = text.strip().strip("`").rstrip("!").strip("*").strip().removesuffix(".").rstrip("!")
    return text.strip("$").removesuffix(".").strip()


# --- without a mark ---------------------------------------------------------------------------------------------

MAX_END = 10_000  # characters of a text's end in which an unmarked answer is looked for
FORMULA = re.compile(
    r"\$\$(.{1,999}?)\$\$|\$(.{1,999}?)\$|\\\((.{1,999}?)\\\)|\\\[(.{1,999}?)\\\]", re.DOTALL
)  # bounded, so that marks that never close cost no more than their number
LAST_NUMBER = re.compile(
    r"(?:(?<![\w)}\].])-)?(?:\\?\$ ?)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?: ?\\?%)?|(?<![\d.])\.\d+"
)
SAYS_NOTHING = re.compile(r"[\s\\A-Za-z_{}']*")  # the name of a variable alone
LABEL = re.compile(r"[A-Za-z ]{1,30}:\s*")


def fall_back(text: str) -> str | None:
    r"""The answer of a text that marks none: the whole of a line without prose, else its last number or formula.

    A formula stands between `$…$`, `$$…$$`, `\(…\)` or `\[…\]`; one that only names a variable is passed over.
    """
    text = spoken(text_of(text)).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= MAX_ANSWER:
        line = LABEL.sub("", _plain(lines[0]), count=1)
        if len(re.findall(r"(?<!\\)\b[A-Za-z]{2,}", line)) < 2:
            return line or None
    text = text[-MAX_END:]
    numbers = list(LAST_NUMBER.finditer(text))
    end = numbers[-1].end() if numbers else -1
    for found in reversed(list(FORMULA.finditer(text))):
        if found.end() < end:
            break
        formula = next(filter(None, found.groups())).strip()
        if formula and (not SAYS_NOTHING.fullmatch(formula) or re.search(r"\\[A-Za-z]{2}", formula)):
            return formula
    return numbers[-1][0].strip() if numbers else None
