"""Removes training problems that also occur in a benchmark, by equal text and by shared word sequences.

A token is a run of letters (a LaTeX command is its name), a run of digits, or one Chinese character, after Unicode NFKC
and case folding; everything else separates. A training problem overlaps a benchmark problem when

- "exact": their tokens, concatenated, are the same. In texts below `WORDS` tokens signs matter (3+4= and 3-4=), so all
  characters but whitespace must be the same instead;
- "13-gram": they share `WORDS` consecutive tokens that are not a common phrase ("where m and n are relatively prime
  positive integers, find m + n"). A phrase is common if more than `COMMON` different training problems contain it.
  Both numbers are those of GPT-3's decontamination (arXiv 2005.14165, appendix C).
"""

import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass

from evals.benchmarks.problem import Problem

WORDS = 13
COMMON = 10
TOKEN = re.compile(r"\d+|[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+")


@dataclass(frozen=True)
class Overlap:
    """A training problem (`id`) and the benchmark problem that it shares most with.

    `why` is "exact" or "13-gram". `share` is the fraction of the benchmark problem's 13-grams, common phrases included,
    that the training problem contains (1 for exact): near 1 is the same problem, near 0 a shared formula.
    """

    id: str
    why: str
    benchmark: str
    problem: str
    share: float


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order; see the module's docstring."""
    return TOKEN.findall(_fold(text))


def normalise(text: str) -> str:
    """The form in which equal problems are equal texts; see the module's docstring."""
    words = tokens(text)
    return "".join(words) if len(words) >= WORDS else "".join(_fold(text).split())


def word_runs(text: str) -> set[tuple[str, ...]]:
    """The distinct runs of `WORDS` tokens of a text."""
    words = tokens(text)
    return set(zip(*(words[start:] for start in range(WORDS)), strict=False))


def decontaminate(training: list[Problem], benchmarks: dict[str, list[Problem]]) -> tuple[list[Problem], list[Overlap]]:
    """(training problems that occur in no benchmark, one Overlap for each of the others), both in order."""
    held_out = [(name, problem) for name, problems in benchmarks.items() for problem in problems]
    by_text: dict[str, int] = {}
    by_run = defaultdict(list)
    runs_of = []
    for number, (_, problem) in enumerate(held_out):
        by_text.setdefault(normalise(problem.problem), number)
        runs = word_runs(problem.problem)
        runs_of.append(len(runs))
        for run in runs:
            by_run[run].append(number)

    texts = [normalise(problem.problem) for problem in training]
    shared = [[run for run in word_runs(problem.problem) if run in by_run] for problem in training]
    holders = defaultdict(set)  # different texts: a repeated problem does not make its text a common phrase
    for text, runs in zip(texts, shared, strict=True):
        for run in runs:
            holders[run].add(text)

    kept, overlaps = [], []
    for problem, text, runs in zip(training, texts, shared, strict=True):
        if text in by_text:
            name, other = held_out[by_text[text]]
            overlaps.append(Overlap(problem.id, "exact", name, other.id, 1.0))
            continue
        telling = {number for run in runs if len(holders[run]) <= COMMON for number in by_run[run]}
        if not telling:
            kept.append(problem)
            continue
        shares = Counter(number for run in runs for number in by_run[run] if number in telling)
        number = min(shares, key=lambda number: (-shares[number] / runs_of[number], number))
        name, other = held_out[number]
        overlaps.append(Overlap(problem.id, "13-gram", name, other.id, round(shares[number] / runs_of[number], 3)))
    return kept, overlaps


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
