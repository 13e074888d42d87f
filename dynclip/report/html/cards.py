"""The claims that a study's runs can decide, as cards with effect bars; the undecided ones apart."""

import math
from dataclasses import dataclass
from itertools import groupby

from dynclip.report.claims.page import decide_all, number, part_of
from dynclip.report.claims.parts import AS_CLAIMED, OPPOSITE, Part
from dynclip.report.claims.registry import CONTRADICTED, INCONCLUSIVE, NOT_RUN, NOT_TESTABLE, REPRODUCED, Decision
from dynclip.report.evidence import Evidence
from dynclip.report.html.effects import Bar, bars

ORDER = (CONTRADICTED, REPRODUCED)  # first what a reader did not expect


@dataclass(frozen=True)
class Card:
    """A decided claim. rows: (part, bar, number) of each part. source: "the paper" or "this project"."""

    verdict: str
    sentence: str
    rows: list[tuple[str, Bar, str]]
    paper: str
    source: str


@dataclass(frozen=True)
class Undecided:
    """A claim without a decision: why, its effects, and the smallest effect that could have been seen."""

    verdict: str
    sentence: str
    why: str
    effects: str
    detectable: str


@dataclass(frozen=True)
class Claims:
    """The section of the claims. counts: such as `3 reproduced`. others: number of claims that need other runs."""

    cards: list[Card]
    undecided: list[Undecided]
    counts: str
    others: int


def claims_of(evidence: Evidence) -> Claims:
    """Every claim whose runs are among those of `evidence`, decided."""
    made = decide_all(lambda claim: part_of(evidence, claim))
    run = [decision for decision in made if decision.verdict != NOT_RUN]
    known = [decision for decision in run if decision.verdict not in (INCONCLUSIVE, NOT_TESTABLE)]
    known.sort(key=lambda decision: ORDER.index(decision.verdict) if decision.verdict in ORDER else len(ORDER))
    verdicts = [decision.verdict for decision in run]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(sorted(verdicts)))
    open_ones = [_undecided(decision) for decision in run if decision not in known]
    return Claims([_card(decision) for decision in known], open_ones, counts, len(made) - len(run))


def _card(decision: Decision) -> Card:
    shown = [part for part in decision.parts if part.n]
    rows = []
    for (_, null), found in groupby(shown, key=lambda part: (part.unit, part.null)):  # each unit has its own axis
        parts = list(found)
        drawn = bars([(part.effect, part.low, part.high) for part in parts], list(map(_tone, parts)), null)
        rows += [(part.what, bar, number(part)) for part, bar in zip(parts, drawn, strict=True)]
    source = "this project" if decision.claim.ours else "the paper"
    return Card(decision.verdict, decision.claim.sentence, rows, decision.claim.paper, source)


def _tone(part: Part) -> str:
    side = {AS_CLAIMED: part.expected, OPPOSITE: -part.expected}.get(part.finding, 0)
    return {1: "up", -1: "down"}.get(side, "")


def _undecided(decision: Decision) -> Undecided:
    shown = [part for part in decision.parts if part.n]
    sizes = [part.detectable for part in shown if not math.isnan(part.detectable)]
    least = f"{max(sizes):.2g} {shown[0].unit}".rstrip() if sizes else "–"
    effects = "; ".join(f"{part.what}: {number(part)}" for part in shown)
    return Undecided(decision.verdict, decision.claim.sentence, decision.reason, effects, least)
