"""What a scale's runs say on the front page: sentences and table cells that are computed from the evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynclip.report.comparisons import at_share, benchmark_differences, detectable_after_holm, seed_means
from dynclip.report.evidence import BASE, Evidence
from dynclip.report.html.front_figure import pass_curves, split_curves
from evals.stats import (
    EXPLORATORY_SEEDS,
    Area,
    Difference,
    Interval,
    area_between,
    difference,
    judge,
    mean_interval,
)

ENTROPY = "policy/entropy"
COLLAPSED = 50  # % of the start: entropy that falls below this share has collapsed


@dataclass(frozen=True)
class Fall:
    """Entropy over seeds: at the first rollout step, before any update; at the end, in nats; and `left`, the end in per
    cent of the start.
    """

    start: Interval
    end: Interval
    left: Interval


def fall(curves: dict[int, Sequence[float]]) -> Fall:
    """The fall of entropy curves, seed -> nats by rollout step."""
    ends = [(values[0], at_share(values, 100)) for values in curves.values()]
    left = [100 * last / first for first, last in ends if first > 0]
    first, last = ([pair[side] for pair in ends] for side in (0, 1))
    return Fall(mean_interval(first), mean_interval(last), mean_interval(left))


def entropy_areas(evidence: Evidence) -> list[Area]:
    """Mean entropy over training of every method against the baseline, Holm-corrected over the methods."""
    base = evidence.curves(ENTROPY, evidence.baseline)
    others = [method for method in evidence.methods if method != evidence.baseline]
    areas = [
        area_between(evidence.curves(ENTROPY, method), base, (method, evidence.baseline), "mean entropy")
        for method in others
    ]
    gaps = judge([area.gap for area in areas])
    return [replace(area, gap=gap) for area, gap in zip(areas, gaps, strict=True)]


def end_scores(evidence: Evidence) -> list[Difference]:
    """pass@1 of the last checkpoint of every method against the baseline, Holm-corrected over the methods."""
    return [gap for gap in benchmark_differences(evidence) if gap.where == evidence.benchmarks[0]]


def answers(evidence: Evidence) -> list[str]:
    """The sentences of one scale: collapse, kinds of tokens, scores, then what differs from the baseline."""
    areas = entropy_areas(evidence)
    base = f"{evidence.baseline}'s"
    found = [
        *_collapse(evidence),
        *_kinds(evidence),
        *_scores(evidence),
        *against(f"Mean entropy over training, against {base}", [(a.gap, a.verdict) for a in areas]),
    ]
    if evidence.benchmarks:
        gaps = [(gap, gap.verdict) for gap in end_scores(evidence)]
        found += against(f"Held-out pass@1 at the end, against {base}", gaps)
    return found


def against(title: str, judged: Sequence[tuple[Difference, str]]) -> list[str]:
    """A sentence on which methods differ from the baseline. judged: differences with their verdicts."""
    tested = [(gap, verdict) for gap, verdict in judged if gap.n]
    parts = []
    for word in ("higher", "lower"):
        named = [f"{gap.a} ({gap.text})" for gap, verdict in tested if verdict == word]
        parts += [f"{word} under {_listed(named)}"] if named else []
    open_ones = [gap for gap, verdict in tested if verdict not in ("higher", "lower")]
    if open_ones:
        text = f"not distinguishable under {_listed([gap.a for gap in open_ones])}"
        sizes = [size for size in map(detectable_after_holm, open_ones) if not math.isnan(size)]
        fewest = min(gap.n for gap in open_ones)
        if fewest <= EXPLORATORY_SEEDS:
            text += f", because {fewest} seed{'s are' if fewest > 1 else ' is'} too few for a claim"
        elif sizes:
            unit = open_ones[0].unit
            text += f"; differences below {max(sizes):.{1 if unit == 'pt' else 3}f} {unit} would have been missed"
        parts.append(text)
    missing = [gap.a for gap, _ in judged if not gap.n]
    parts += [f"missing for {_listed(missing)}"] if missing else []
    return [f"{title}: {'; '.join(parts)}."] if parts else []


def _collapse(evidence: Evidence) -> list[str]:
    method, curves = evidence.baseline, evidence.curves(ENTROPY, evidence.baseline)
    if not curves:
        return [f"No run of {method} is there yet."]
    seen = fall(curves)
    seeds = f"{seen.left.n} seed{'s' * (seen.left.n != 1)}"
    low, high = (seen.left.low, seen.left.high) if seen.left.n > 1 else (seen.left.mean, seen.left.mean)
    if high < COLLAPSED:
        verdict = f"Entropy collapses under {method}"
    elif low > 100:
        verdict = f"Entropy rises under {method}"
    elif high >= 100:
        verdict = f"Entropy does not change decidedly under {method}"
    elif low > COLLAPSED:
        verdict = f"Entropy falls under {method}, but not to half of its start"
    else:
        verdict = f"Entropy falls under {method} to about half of its start"
    return [
        f"{verdict}: from {interval(seen.start, 2)} to {interval(seen.end, 2)} nats a token in "
        f"{evidence.steps} rollout steps; {interval(seen.left, 0)} % of the start is left ({seeds})."
    ]


def _kinds(evidence: Evidence) -> list[str]:
    method = evidence.baseline
    kinds = {kind: split_curves(evidence, kind).get(method) for kind in ("decisive", "neutral")}
    if not all(kinds.values()):
        return []
    left = {kind: interval(fall(curves).left, 0) for kind, curves in kinds.items()}
    return [
        f"Of the entropy of the decisive tokens {left['decisive']} % is left under {method}, of the neutral tokens' "
        f"{left['neutral']} %."
    ]


def _scores(evidence: Evidence) -> list[str]:
    if not evidence.benchmarks:
        return ["No checkpoint is scored yet."]
    method, benchmark = evidence.baseline, evidence.benchmarks[0]
    before, after = (seed_means(evidence, benchmark, name) for name in (BASE, method))
    found = _moved(f"Held-out pass@1 under {method}", before, after)
    curves = [pass_curves(evidence, benchmark, name) for name in (BASE, method)]
    ks = [set(curve) for side in curves for curve in side.values()]
    if all(curves) and (k := max(set.intersection(*ks), default=1)) > 1:
        sides = [{seed: curve[k] for seed, curve in side.items()} for side in curves]
        found += _moved(f"pass@{k}", *sides)
    return found


def _moved(what: str, before: dict[int, float], after: dict[int, float]) -> list[str]:
    if len(before) == 1:  # one base policy for all seeds
        before = dict.fromkeys(after, next(iter(before.values())))
    gap = difference(after, before, ("end", "base"), what)
    if not gap.n:
        return []
    word = {"higher": "rises", "lower": "falls"}.get(gap.verdict, "goes, not decidedly,")
    sides = [interval(mean_interval(list(side.values())), 1) for side in (before, after)]
    return [f"{what} {word} from {sides[0]} % before training to {sides[1]} % at the end, by {gap.text}."]


def interval(spread: Interval, digits: int) -> str:
    """Mean and interval, such as `2.15 [2.10, 2.20]`."""
    if spread.n == 0:
        return "missing"
    text = f"{spread.mean:.{digits}f}"
    return text if spread.n < 2 else f"{text} [{spread.low:.{digits}f}, {spread.high:.{digits}f}]"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
