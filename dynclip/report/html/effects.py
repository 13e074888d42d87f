"""Differences as bars: effect and interval on one axis for each measure, and what could have been seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dynclip.report.comparisons import average_name, benchmark_differences, training_differences
from dynclip.report.evidence import Evidence
from dynclip.report.html.answers import entropy_areas, missed
from evals.stats import Difference

TONES = {"higher": "up", "lower": "down"}


@dataclass(frozen=True)
class Bar:
    """A bar's places in per cent of its axis. dot: the effect; left, width: the interval; None where there is none."""

    tone: str
    zero: float
    dot: float | None
    left: float | None
    width: float | None


@dataclass(frozen=True)
class Row:
    """A difference: name, bar, `+2.1 pt [-1.8, +6.0]`, verdict."""

    name: str
    bar: Bar
    text: str
    verdict: str


@dataclass(frozen=True)
class Group:
    """The differences of one measure: those that are decided, and those that are not with what was missed."""

    title: str
    decided: list[Row]
    undecided: list[Row]
    note: str


def groups(evidence: Evidence) -> list[Group]:
    """Every method against the baseline: mean entropy, entropy and reward at fixed points, every benchmark."""
    judged = [(area.gap, area.verdict) for area in entropy_areas(evidence)]
    scored = benchmark_differences(evidence)
    judged += [(gap, gap.verdict) for gap in (*training_differences(evidence), *scored)]
    names = {gap.where: f"{gap.where} {average_name(evidence, gap.where)}" for gap in scored}
    by_measure = groupby(judged, key=lambda pair: pair[0].where)
    return [_group(names.get(where, where), list(found)) for where, found in by_measure]


def bars(intervals: Sequence[tuple[float, float, float]], tones: Sequence[str], zero: float = 0.0) -> list[Bar]:
    """Bars of (effect, low, high) on a common axis that holds `zero`. NaN: not there."""
    known = [value for each in intervals for value in each if math.isfinite(value)]
    low, high = min([zero, *known]), max([zero, *known])
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float | None:
        return round(100 * (value - low) / (high - low), 2) if math.isfinite(value) else None

    made = []
    for (effect, start, end), tone in zip(intervals, tones, strict=True):
        left, right = place(start), place(end)
        width = None if left is None or right is None else round(right - left, 2)
        made.append(Bar(tone, place(zero), place(effect), left, width))
    return made


def _group(where: str, judged: Sequence[tuple[Difference, str]]) -> Group:
    most = max(gap.n for gap, _ in judged)
    drawn = bars([(gap.effect, gap.low, gap.high) for gap, _ in judged], [TONES.get(v, "") for _, v in judged])
    rows = [
        Row(gap.a, bar, gap.text + ("" if gap.n in (0, most) else f" (n = {gap.n})"), verdict)
        for (gap, verdict), bar in zip(judged, drawn, strict=True)
    ]
    decided = [row for row in rows if row.verdict in TONES]
    undecided = [row for row in rows if row.verdict not in TONES]
    gaps = [gap for gap, verdict in judged if gap.n and verdict not in TONES]
    title = f"{where[0].upper()}{where[1:]}, {most} seed{'s' * (most != 1)}"
    return Group(title, decided, undecided, missed(gaps))
