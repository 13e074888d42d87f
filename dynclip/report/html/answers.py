"""The answers that the pages begin with: sentences and a table, computed from the evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynclip.report.comparisons import (
    at_share,
    average_name,
    benchmark_differences,
    detectable_after_holm,
    seed_means,
)
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


def summary(evidence: Evidence) -> list[str]:
    """The answer in three sentences: collapse, mean entropy and held-out success against the baseline."""
    return [*_collapse(evidence), *_against([evidence])]


def summary_of_suite(worlds: Sequence[Evidence]) -> list[str]:
    """The answer over several scales, in three sentences."""
    left = [f"{w.scale} {interval(fall(w.curves(ENTROPY, w.baseline)).left, 0)} %" for w in worlds]
    steps = sorted({world.steps for world in worlds})
    after = f"after {' or '.join(map(str, steps))} rollout steps"
    return [
        f"Of the entropy at the start, {worlds[0].baseline} leaves {after}: {', '.join(left)}.",
        *_against(worlds, brief=True),
    ]


def details(evidence: Evidence) -> list[str]:
    """What the baseline does beside the collapse: kinds of tokens, scores before and after."""
    return [*_kinds(evidence), *_scores(evidence)]


def _against(worlds: Sequence[Evidence], brief: bool = False) -> list[str]:
    """Mean entropy, then held-out success, against the baseline: a sentence each, with a part for every scale.
    brief: without what the undecided comparisons would have missed.
    """
    families = {
        "Mean entropy over training": {
            world.scale: [(area.gap, area.verdict) for area in entropy_areas(world)] for world in worlds
        },
        "Held-out pass@1 at the end": {
            world.scale: [(gap, gap.verdict) for gap in end_scores(world)] for world in worlds if world.benchmarks
        },
    }
    found = []
    for what, judged in families.items():
        parts = {scale: compared(pairs, brief) for scale, pairs in judged.items() if pairs}
        texts = [f"{scale}: {text}" for scale, text in parts.items()] if len(worlds) > 1 else list(parts.values())
        found += [f"{what}, against {worlds[0].baseline}'s: {'. '.join(texts)}."] if texts else []
    return found


def compared(judged: Sequence[tuple[Difference, str]], brief: bool = False) -> str:
    """Which methods differ from the baseline, and what would have been missed. judged: differences with verdicts."""
    tested = [(gap, verdict) for gap, verdict in judged if gap.n]
    parts = []
    for word in ("higher", "lower"):
        named = [f"{gap.a} ({gap.text})" for gap, verdict in tested if verdict == word]
        parts += [f"{word} under {_listed(named)}"] if named else []
    open_ones = [gap for gap, verdict in tested if verdict not in ("higher", "lower")]
    if open_ones and brief:
        parts.append("the others not distinguishable" if parts else "none is distinguishable")
    elif open_ones:
        reason = missed(open_ones)
        names = _listed([gap.a for gap in open_ones])
        parts.append(f"not distinguishable under {names}{f' ({reason})' if reason else ''}")
    missing = [gap.a for gap, _ in judged if not gap.n]
    parts += [f"missing for {_listed(missing)}"] if missing else []
    return "; ".join(parts)


def missed(gaps: Sequence[Difference]) -> str:
    """Which differences the undecided comparisons `gaps` could not have seen; "" without gaps."""
    if not gaps:
        return ""
    fewest = min(gap.n for gap in gaps)
    if fewest <= EXPLORATORY_SEEDS:
        return f"{fewest} seed{'s are' if fewest > 1 else ' is'} too few for a claim"
    sizes = [size for size in map(detectable_after_holm, gaps) if not math.isnan(size)]
    if not sizes:
        return ""
    unit = gaps[0].unit
    return f"differences below {max(sizes):.{1 if unit == 'pt' else 3}f} {unit} would have been missed"


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


@dataclass(frozen=True)
class Cell:
    """A cell of the main table. decided: it is a difference that is shown."""

    text: str
    decided: bool = False


TABLE_NOTE = (
    "Mean over training seeds [95 % t interval]. Entropy left: mean over the last 5 % of the rollout steps (at least "
    "3), in per cent of the first step's. Scores: last checkpoint. Difference: minus the baseline's, in points, paired "
    "by seed; bold where it is decided after Holm's correction over the comparisons of a scale."
)


def main_table(worlds: Sequence[Evidence], every_benchmark: bool = False) -> dict:
    """`worlds`: name and columns of each scale; `rows`: method -> its `Cell`s. The first row is the policy before
    training. Each scale has its first benchmark, or every one.
    """
    methods = dict.fromkeys(method for world in worlds for method in world.methods)
    rows: dict[str, list[Cell]] = {"before training": [], **{method: [] for method in methods}}
    heads = []
    for world in worlds:
        benchmarks = world.benchmarks if every_benchmark else world.benchmarks[:1]
        gaps = {(gap.where, gap.a): gap for gap in benchmark_differences(world)}
        columns = ["entropy left, %"]
        for benchmark in benchmarks:
            average = average_name(world, benchmark)
            columns += [f"{benchmark} {average}, %" if every_benchmark else f"{average}, %", "difference"]
        n = len(world.seeds)
        heads.append({"name": f"{world.scale}, {n} seed{'s' * (n != 1)}", "columns": columns})
        for method in (BASE, *methods):
            left = fall(world.curves(ENTROPY, method)).left
            cells = [Cell("100" if method == BASE else _with_n(left, n))]
            for benchmark in benchmarks:
                score = mean_interval(list(seed_means(world, benchmark, method).values()))
                gap = gaps.get((benchmark, method))
                cells.append(Cell(_with_n(score, min(n, score.n) if method == BASE else n)))
                cells.append(Cell("–") if gap is None else Cell(gap.text.replace(" pt", ""), gap.claim))
            rows["before training" if method == BASE else method] += cells
    return {"worlds": heads, "rows": rows}


def _with_n(spread: Interval, expected: int) -> str:
    """Mean and interval; the number of seeds where it is not the expected one."""
    return interval(spread, 1) + (f" (n = {spread.n})" if 0 < spread.n != expected else "")


def interval(spread: Interval, digits: int) -> str:
    """Mean and interval, such as `2.15 [2.10, 2.20]`."""
    if spread.n == 0:
        return "missing"
    text = f"{spread.mean:.{digits}f}"
    return text if spread.n < 2 else f"{text} [{spread.low:.{digits}f}, {spread.high:.{digits}f}]"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
