"""The kinds of difference between dynclip and a harness, and who is right in each."""

from dataclasses import dataclass

# The reading of dynclip that a rule is compared with: strict for rules that ask for a mark, else flexible.
MODES = {
    "lm-eval gsm8k strict-match": "strict",
    "lm-eval minerva_math500": "strict",
    "lm-eval hendrycks_math500": "strict",
    "lm-eval aime24": "strict",
}


@dataclass(frozen=True)
class Case:
    """A text scored by a harness's rule and by dynclip in the mode that is comparable with it."""

    rule: str
    mode: str
    source: str
    part: str
    text: str
    gold: str
    marked: bool  # dynclip strict
    ours: bool  # dynclip in `mode`
    status: str
    theirs: bool | None  # None: not scored
    answer: str  # what the harness says it read, "" where it does not say
    cut: bool  # at the limit on tokens


KINDS: dict = {}


def kind_of(case: Case) -> str:
    return "not decided"
