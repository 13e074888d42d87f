r"""Variants of a gold: `WRAPPERS` write it otherwise and change nothing, `perturbations` change what it says.

Where a perturbation would not change the value (the digit of a rounded decimal, the order of equal entries), there is none.
"""

import random
import re
from collections.abc import Callable, Iterator

FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")

WRAPPERS: dict[str, Callable[[str], str]] = {  # name -> the whole response
    "a box": lambda g: f"\\boxed{{{g}}}",
    "a sentence": lambda g: f"Therefore the result is $\\boxed{{{g}}}$. I am sure!",
    "a display": lambda g: f"\\[\n\\boxed{{\n  {g}\n}}\n\\]",
    "a line break after the command": lambda g: f"$$\\boxed\n{{{g}}}$$",
    "an exclamation mark": lambda g: f"It is \\boxed{{{g}}}!",
    "a full stop inside": lambda g: f"\\boxed{{{g}.}}",
    "colour inside": lambda g: f"\\boxed{{\\color{{blue}} {g}}}",
    "colour around": lambda g: f"{{\\color{{red}}\\boxed{{{g}}}}}",
    "coloured text": lambda g: f"\\boxed{{\\textcolor{{red}}{{{g}}}}}",
    "a colour by its numbers": lambda g: f"\\boxed{{\\color[rgb]{{0,0,1}}{g}}}",
    "a large size": lambda g: f"\\boxed{{\\large {g}}}",
    "a huge size": lambda g: f"\\boxed{{\\Huge{{{g}}}}}",
    "display style": lambda g: f"\\boxed{{\\displaystyle {g}}}",
    "script style": lambda g: f"\\boxed{{\\scriptstyle {g}}}",
    "old bold": lambda g: f"\\boxed{{\\bf {g}}}",
    "bold": lambda g: f"\\boxed{{\\boldsymbol{{{g}}}}}",
    "mathbf": lambda g: f"\\boxed{{\\mathbf{{{g}}}}}",
    "underlined": lambda g: f"\\boxed{{\\underline{{{g}}}}}",
    "emphasis": lambda g: f"\\boxed{{\\emph{{{g}}}}}",
    "dollars inside": lambda g: f"\\boxed{{${g}$}}",
    "parentheses of LaTeX": lambda g: f"\\boxed{{\\({g}\\)}}",
    "quotes": lambda g: f'\\boxed{{"{g}"}}',
    "braces": lambda g: f"\\boxed{{{{{g}}}}}",
    "spaces": lambda g: f"\\boxed{{~\\ {g} \\,\\;\\quad}}",
    "a label": lambda g: f"\\boxed{{\\text{{Answer: }} {g}}}",
    "a sentence inside": lambda g: f"\\boxed{{\\text{{The answer is }} {g}}}",
    "aligned": lambda g: f"\\boxed{{\\begin{{aligned}} {g} \\end{{aligned}}}}",
    "aligned around": lambda g: f"\\begin{{aligned}}\nx &= y \\\\\n&= \\boxed{{{g}}}\n\\end{{aligned}}",
    "full-width digits": lambda g: f"\\boxed{{{g.translate(FULL_WIDTH)}}}",
    "Arabic digits": lambda g: f"\\boxed{{{g.translate(ARABIC)}}}",
    "left and right": lambda g: f"\\boxed{{{sized(g)}}}",
    "dfrac": lambda g: f"\\boxed{{{re.sub(r'.dfrac|.frac', lambda _: chr(92) + 'dfrac', g)}}}",
    "thinking before": lambda g: f"<think>Maybe \\boxed{{0}}? Or \\boxed{{17}}?</think>\n\\boxed{{{g}}}",
    "thinking opened by the template": lambda g: f"first \\boxed{{3}}, no\n</think>\nSo \\boxed{{{g}}}.",
    "a box in prose before": lambda g: f"I shall use \\boxed as asked, so \\boxed{{}} will hold it.\n\\boxed{{{g}}}",
    "a final answer": lambda g: f"The final answer is ${g}$.",
    "an answer line": lambda g: f"Done.\n\n**Answer:** ${g}$",
    "windows line ends": lambda g: f"So:\r\n\\boxed{{{g}}}\r\n",
}  # fmt: skip


def sized(gold: str) -> str:
    """Outer parentheses with `\\left` and `\\right`, where the gold is one pair."""
    if "\\left" in gold or gold[:1] != "(" or gold[-1:] != ")" or ")" in gold[1:-1] or "(" in gold[1:-1]:
        return gold
    return f"\\left{gold[:-1]}\\right)"


COMMAND = re.compile(r"\\[A-Za-z]+|\\.")
TEXT = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{[^{}]*\}")


def perturbations(gold: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, another answer) for every kind that this gold allows, at a place that `draw` chooses."""
    free = [not any(m.start() <= i < m.end() for m in (*TEXT.finditer(gold), *COMMAND.finditer(gold))) for i in range(len(gold))]
    digits = [i for i, c in enumerate(gold) if c.isdigit() and free[i]]
    if digits:
        i = draw.choice(digits)
        yield "a digit", gold[:i] + draw.choice([d for d in "123456789" if d != gold[i]]) + gold[i + 1 :]
    if re.fullmatch(r"[^,\\pm]*|(?:(?!\\pm)[^,])*", gold) and not re.match(r"[(\[{]|\\\{|\\text|\\begin|\\left", gold) and not re.fullmatch(r"[-0.]*", gold):
        sides = gold.split("=")
        value = sides[-1].strip()
        if len(sides) <= 2 and value not in ("0",) and "\\in" not in gold and "where" not in gold and "\\ge" not in gold:
            other = value[1:] if value.startswith("-") and not re.search(r"[+\-]", value[1:]) else f"-({value})" if "%" not in value else f"-{value}"
            yield "a sign", "=".join([*sides[:-1], other])
            yield "plus one", "=".join([*sides[:-1], f"{value}+1"])
            yield "minus one", "=".join([*sides[:-1], f"{value}-1"])
    letters = [
        i for i, c in enumerate(gold)
        if c.isascii() and c.isalpha() and free[i] and not re.search(r"[A-Za-z]{4}", gold[max(0, i - 3) : i + 4])
    ]  # fmt: skip
    if letters and not TEXT.search(gold) and not re.search(r"\b(?:where|and|or|degrees)\b|\\begin", gold):
        i = draw.choice(letters)
        yield "a letter's case", gold[:i] + gold[i].swapcase() + gold[i + 1 :]
    exponents = list(re.finditer(r"\^\{?(\d+)\}?", gold))
    if exponents and not TEXT.search(gold):
        found = draw.choice(exponents)
        yield "an exponent", f"{gold[: found.start()]}^{{{int(found[1]) + 1}}}{gold[found.end() :]}"
    group = re.fullmatch(r"(?:\\left)?([(\[])(.*?)(?:\\right)?([)\]])", gold)
    if group and not re.search(r"[()\[\]]", group[2]):
        parts = group[2].split(",")
        left, right = group[1], group[3]
        if len(parts) == 2:
            infinite = ["\\infty" in part for part in parts]
            if not infinite[0]:
                yield "a left end", f"{'[' if left == '(' else '('}{group[2]}{right}"
            if not infinite[1]:
                yield "a right end", f"{left}{group[2]}{']' if right == ')' else ')'}"
            yield "an infinite end", f"{left}{parts[0]},\\infty{right}" if not infinite[1] else f"{left}{parts[0]},7{right}"
        if left == "(" and right == ")" and len({part.strip() for part in parts}) > 1 and "\\infty" not in gold:
            yield "an order", f"({','.join(reversed(parts))})" if parts != parts[::-1] else f"({','.join(sorted(parts))})"
