"""The kinds of difference between dynclip and a harness, and who is right in each."""

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
BOX = re.compile(r"\\boxed")


@dataclass(frozen=True)
class Case:
    """A text that dynclip and a rule of a harness score differently. `ours`: dynclip says correct."""

    rule: str
    source: str
    part: str
    problem: str
    text: str
    marked: str | None  # the answer that dynclip reads at a mark
    unmarked: str | None  # what it reads at the end of a text without a mark
    ours: bool
    cut: bool  # at the limit on tokens


@dataclass(frozen=True)
class Kind:
    """Who is right, why, and one case."""

    right: str
    why: str
    example: str


KINDS: dict = {}


def kind_of(case: Case) -> str:
    return "not decided"
