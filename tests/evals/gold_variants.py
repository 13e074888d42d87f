r"""Variants of a gold answer: `WRAPPERS` keep its value, `perturbations` change it."""

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
    r"""Add `\left` and `\right` to a gold answer in one pair of parentheses."""
    if "\\left" in gold or gold[:1] != "(" or gold[-1:] != ")" or ")" in gold[1:-1] or "(" in gold[1:-1]:
        return gold
    return f"\\left{gold[:-1]}\\right)"


COMMAND = re.compile(r"\\[A-Za-z]+|\\.")
TEXT = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{[^{}]*\}")
LISTED = re.compile(r"\\pm|,|\\in|\\ge|where")  # in a gold answer with more than one value
BRACKETED = re.compile(r"[(\[{]|\\\{|\\text|\\begin|\\left")
GROUP = re.compile(r"(?:\\left)?([(\[])([^()\[\]]*?)(?:\\right)?([)\]])")


def perturbations(gold: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (kind, another answer) for every kind that changes the value, at a random place."""
    taken = [m.span() for m in (*TEXT.finditer(gold), *COMMAND.finditer(gold))]
    free = [not any(start <= i < end for start, end in taken) for i in range(len(gold))]
    if digits := [i for i, c in enumerate(gold) if c.isdigit() and free[i]]:
        i = draw.choice(digits)
        yield "a digit", gold[:i] + draw.choice([d for d in "123456789" if d != gold[i]]) + gold[i + 1 :]
    *name, value = gold.split("=")
    value = value.strip()
    if not LISTED.search(gold) and not BRACKETED.match(gold) and len(name) < 2 and value.strip("-0."):
        alone = value.startswith("-") and not re.search(r"[+\-]", value[1:])
        negative = value[1:] if alone else f"-{value}" if "%" in value else f"-({value})"
        for kind, other in (("a sign", negative), ("plus one", f"{value}+1"), ("minus one", f"{value}-1")):
            yield kind, "=".join([*name, other])
    if not TEXT.search(gold) and not re.search(r"\b(?:where|and|or|degrees)\b|\\begin", gold):
        letters = [i for i, c in enumerate(gold) if c.isascii() and c.isalpha() and free[i]]
        letters = [i for i in letters if not re.search(r"[A-Za-z]{4}", gold[max(0, i - 3) : i + 4])]  # part of a word
        if letters:
            i = draw.choice(letters)
            yield "a letter's case", gold[:i] + gold[i].swapcase() + gold[i + 1 :]
    if not TEXT.search(gold) and (exponents := list(re.finditer(r"\^(?:\{(\d+)\}|(\d))", gold))):
        found = draw.choice(exponents)
        yield "an exponent", f"{gold[: found.start()]}^{{{int(found[1] or found[2]) + 1}}}{gold[found.end() :]}"
    if group := GROUP.fullmatch(gold):
        yield from _of_a_group(*group.groups())


def _of_a_group(left: str, inside: str, right: str) -> Iterator[tuple[str, str]]:
    """Yield changes of a point, a vector or an interval."""
    parts = inside.split(",")
    infinite = ["\\infty" in part for part in parts]
    if len(parts) == 2:
        if not infinite[0]:
            yield "a left end", f"{'[' if left == '(' else '('}{inside}{right}"
        if not infinite[1]:
            yield "a right end", f"{left}{inside}{']' if right == ')' else ')'}"
        yield "an infinite end", f"{left}{parts[0]},{'7' if infinite[1] else chr(92) + 'infty'}{right}"
    if left + right == "()" and len({part.strip() for part in parts}) > 1 and not any(infinite):
        yield "an order", f"({','.join(sorted(parts) if parts == parts[::-1] else parts[::-1])})"
