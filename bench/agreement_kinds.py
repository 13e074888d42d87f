"""The kinds of difference between dynclip and a harness, and who is right in each.

Rules sort most cases. HAND names responses that were read one by one and that no rule recognises.
"""

import re
from dataclasses import dataclass

# The reading of dynclip that a rule is compared with: strict for rules that ask for a mark, else flexible.
MODES = {
    "lm-eval gsm8k strict-match": "strict",
    "lm-eval minerva_math500": "strict",
    "lm-eval hendrycks_math500": "strict",
    "lm-eval aime24": "strict",
}
# Rules that read one form of answer, that of the examples in their own prompts.
ONE_FORM = ("lm-eval gsm8k strict-match", "lm-eval minerva_math500", "lm-eval hendrycks_math500")
EQUATION = re.compile(r"=|/\d+\.?$")  # x=15. and 2/4.


@dataclass(frozen=True)
class Case:
    """A text that dynclip and a rule of a harness score differently. `ours`: dynclip says correct."""

    rule: str
    source: str
    problem: str
    index: int
    marked: str | None  # the answer that dynclip reads at a mark
    unmarked: str | None  # what it reads at the end of a text without a mark
    ours: bool
    cut: bool  # at the limit on tokens
    copied: bool  # the answer repeats a formula of the problem


@dataclass(frozen=True)
class Kind:
    """Who is right, why, and one case."""

    right: str
    why: str
    example: str


KINDS = {
    "another form than the rule's": Kind(
        "dynclip",
        "The rule reads one form, that of the examples in its own prompt: `#### 24`, `Final Answer: The final answer "
        "is $24$. I hope it is correct.`, or what is between the first and the last dollar sign. The text marks its "
        "answer in another form, which dynclip reads",
        "`The answer is 24.` for 24; `$\\boxed{9}$ divisors of 196` for 9",
    ),
    "cut off": Kind(
        "dynclip",
        "The response was cut off without a marked answer, and what it would have answered is unknown. The harness "
        "takes its last number or formula",
        "`22. 4 bags of` for 4",
    ),
    "a value beside the marked answer": Kind(
        "dynclip",
        "The response marks another answer. The harness takes a part of it or another number",
        "`the final answer is 3 + 2 + \\$3 = \\$7.` for 3; `the final answer is $$… = 4r-3.$$` for 4",
    ),
    "a value inside an unmarked text": Kind(
        "dynclip",
        "The response marks no answer and ends with another value. The harness takes an earlier one",
        "`find the answer within \\boxed{}. We add 1 to 24 hot dogs: 24 + 24 = 48 hot dogs` for 1",
    ),
    "a number after the mark": Kind(
        "dynclip",
        "The harness takes the last number of the text, which follows the marked answer",
        "`The answer is 50 cents. … by multiplying 5 by 10.` for 50: it reads 10",
    ),
    "a choice with its words": Kind(
        "dynclip", "The response names the choice and repeats its words", "`(C) Plane` for `\\text{(C)}`"
    ),
    "a value that is read and not compared": Kind(
        "dynclip",
        "The harness reads the same value, with an equals sign or a full stop, and finds it different",
        "`the minimum value at $x=15.$` for 15; `is 2/4.` for `\\frac{1}{2}`",
    ),
    "the last number by chance": Kind(
        "dynclip, by chance",
        "The text says 6. dynclip reads the last number, the 6 of `modulo 6`, and the harnesses the last formula",
        "`satisfies $N = 6$ modulo 6, … the only nonzero value of $N$` for 6",
    ),
    "`####` is not known": Kind(
        "dynclip",
        "EvalScope has no rule for GSM8K's own mark and takes another number of the solution",
        "`28 days / 7 days/week = <<28/7=4>>4 weeks ⏎ #### 4` for 4: it reads 28",
    ),
    "markup in the box": Kind(
        "dynclip",
        "The harness compares the content of the box as a text, or cannot read it: a style, brackets, a full stop, "
        "or a leading zero of the gold answer",
        "`\\boxed{\\textbf{(113) }}` for 113; `\\boxed{104.}` for 104; `\\boxed{25}` for 025",
    ),
    "a name after the answer": Kind(
        "harness",
        "The solution marks no answer and its author's name ends with a number. dynclip reads the last number. It is "
        "left so: an earlier formula is not the answer in general",
        "`$180 + 24 = 204$. -sepehr2010` for 204: dynclip reads 2010",
    ),
    "the problem's own formula": Kind(
        "dynclip",
        "The response repeats the formula that the problem asks to work out. The harnesses compare values and count "
        "some of them. dynclip reads the problem too and counts none",
        "`19x + 1 - 4x - 81` for `15x - 80`; `|(1-i)^8|` for 16",
    ),
    "a letter for a choice": Kind("dynclip", "The formula is the letter of the choice", "`c,` for `\\text{(C)}`"),
    "a part of a formula": Kind(
        "dynclip",
        "The formula is another statement. The harness takes a number in it",
        "`y \\le 1.` for 1; `0 < p < 15.` for 15",
    ),
}
HAND = {
    ("math500-0411", 1): "the last number by chance",
}


def kind_of(case: Case) -> str:
    """The name of the case's kind; "not decided" if no rule knows it."""
    if case.copied:
        return "the problem's own formula"
    if case.source == "own formula" and not case.ours:
        return HAND.get((case.problem, case.index), "a part of a formula")
    if case.source == "model" and (case.problem, case.index) in HAND:
        return HAND[case.problem, case.index]
    return of_dynclip(case) if case.ours else of_harness(case)


def of_dynclip(case: Case) -> str:
    """Kinds that dynclip alone counts as correct."""
    if case.rule in ONE_FORM:
        return "another form than the rule's"
    if "aime24" in case.rule and case.marked:
        return "markup in the box"
    if case.source == "solution" and case.rule == "evalscope gsm8k":
        return "`####` is not known"
    if case.rule.endswith("flexible-extract") and case.marked:
        return "a number after the mark"
    if re.match(r"\([A-J]\) ", case.unmarked or ""):
        return "a choice with its words"
    if case.source == "own formula" and re.fullmatch("[a-j],", case.marked or ""):
        return "a letter for a choice"
    if case.rule.startswith("evalscope") and EQUATION.search(case.marked or case.unmarked or ""):
        return "a value that is read and not compared"
    return "not decided"


def of_harness(case: Case) -> str:
    """Kinds that the harness alone counts as correct."""
    if case.cut:
        return "cut off"
    if case.source == "solution" and case.problem == "aime24-60":
        return "a name after the answer"
    if case.source == "model":
        return "a value beside the marked answer" if case.marked else "a value inside an unmarked text"
    return "not decided"
