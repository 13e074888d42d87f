"""The numbers behind the claims: each part of a claim with its interval, the expected side, and its finding.

Functions such as `areas(pairs, expected)` return a function from the verified runs to parts. `registry` says which
claim uses which.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dynclip.methods.registry import METHODS
from dynclip.report.comparisons import (
    at_share,
    common_reward,
    detectable_after_holm,
    entropy_at_reward,
    seed_means,
    spread_of_pass,
)
from dynclip.report.evidence import Evidence
from evals.stats import (
    EXPLORATORY_SEEDS,
    Difference,
    Shape,
    area_between,
    detectable_effect,
    difference,
    judge,
    oscillation,
)

AS_CLAIMED, OPPOSITE, MISSING, NEGLIGIBLE = "as claimed", "opposite", "missing", "negligible"
SMALL = 0.1  # of GRPO's own change: an effect that is surely below it is negligible
BINDING = 0.01  # share of clipped tokens below which the bounds hardly act
TRIGGERED = 2 / 3  # share of training within which OD has to reach its lower threshold to be judged
ENTROPY, REWARD = "policy/entropy", "train/reward"
OURS = ("id", "did", "od")


@dataclass(frozen=True)
class Part:
    """A number of a claim: `effect` with its interval [low, high] over n seeds, in `unit`. expected: the side of `null`
    that the claim says (+1 above, −1 below). detectable: as `Difference.detectable`, after Holm's correction over the
    claim's parts. finding: "as claimed", "opposite", "negligible", "missing", or the reason why it is undecided. p: of
    the t test, before any correction; NaN without one.
    """

    what: str
    effect: float
    low: float
    high: float
    n: int
    detectable: float
    unit: str
    null: float
    expected: int
    finding: str
    p: float = math.nan


Parts = Callable[[Evidence], list[Part]]


def as_part(gap: Difference, expected: int, null: float = 0.0, verdict: str | None = None) -> Part:
    """A comparison against `null` as a part. verdict: replaces the comparison's own."""
    verdict = verdict or gap.verdict
    side = {"higher": 1, "lower": -1}.get(verdict)
    finding = verdict if side is None else AS_CLAIMED if side == expected else OPPOSITE
    numbers = (gap.effect + null, gap.low + null, gap.high + null, gap.n, detectable_after_holm(gap), gap.unit)
    what = f"{gap.a} − {gap.b}, {gap.where}" if gap.b else f"{gap.a}, {gap.where}"
    return Part(what, *numbers, null, expected, finding if gap.n else MISSING, gap.p)


def sized(part: Part, margin: float) -> Part:
    """The part, negligible if its effect is equivalent to zero: both one-sided t tests against ±`margin` reject at 5 %,
    so that the 90 % interval lies within. With more than EXPLORATORY_SEEDS seeds only.
    """
    from scipy import special

    if part.n <= EXPLORATORY_SEEDS or math.isnan(part.low) or not margin > 0:
        return part
    half = (part.high - part.low) / 2 * special.stdtrit(part.n - 1, 0.95) / special.stdtrit(part.n - 1, 0.975)
    return replace(part, finding=NEGLIGIBLE) if abs(part.effect - part.null) + half < margin else part


def judged(gaps: Sequence[Difference], expected: int, null: float = 0.0) -> list[Part]:
    """Comparisons as parts, with Holm's correction over all of them."""
    return [as_part(gap, expected, null) for gap in judge(gaps)]


def per_seed(evidence: Evidence, key: str, arm: str, number: Callable[[list[float]], float]) -> dict[int, float]:
    """seed -> a number of the arm's curve of `key`."""
    return {seed: number(curve) for seed, curve in evidence.curves(key, arm).items()}


def against_null(values: Mapping[int, float], arm: str, where: str, unit: str, null: float = 0.0) -> Difference:
    """Comparison of the values' mean over seeds with `null`."""
    shifted = {seed: value - null for seed, value in values.items()}
    return difference(shifted, dict.fromkeys(shifted, 0.0), (arm, ""), where, unit=unit)


def change(curve: Sequence[float]) -> float:
    """Last 5 % of the steps minus the first."""
    return at_share(curve, 100) - at_share(curve, 0)


def log_change(curve: Sequence[float]) -> float:
    """ln of the last 5 % over the first."""
    first, last = at_share(curve, 0), at_share(curve, 100)
    return math.log(last / first) if first > 0 and last > 0 else math.nan


def changes(key: str, arms: Sequence[str], expected: int, unit: str, against: str = "") -> Parts:
    """The change of a curve over training, of each arm; minus that of the arm `against` where one is named."""
    where = f"{key.split('/')[1]} at the end − at the start"

    def parts(evidence: Evidence) -> list[Part]:
        values = {arm: per_seed(evidence, key, arm, change) for arm in (*arms, against) if arm}
        if against:
            gaps = [difference(values[arm], values[against], (arm, against), where, unit=unit) for arm in arms]
        else:
            gaps = [against_null(values[arm], arm, where, unit) for arm in arms]
        return judged(gaps, expected)

    return parts


def not_collapsed(evidence: Evidence) -> str:
    """Why a claim about collapse cannot be tested: GRPO's entropy keeps half of its start or more. "" if it can."""
    left = [math.exp(value) for value in per_seed(evidence, ENTROPY, "grpo", log_change).values() if value == value]
    if not left:
        return ""
    mean = sum(left) / len(left)
    return "" if mean < 0.5 else f"grpo's entropy keeps {mean:.0%} of its start"


def own_change(key: str, scale: float = 1.0) -> Callable[[Evidence], float]:
    """The margin of negligible effects: SMALL of GRPO's mean change of `key`, times `scale`; NaN without such runs."""

    def margin(evidence: Evidence) -> float:
        found = [value for value in per_seed(evidence, key, "grpo", change).values() if value == value]
        return SMALL * scale * abs(sum(found) / len(found)) if found else math.nan

    return margin


def not_in_force(evidence: Evidence) -> str:
    """Why runs cannot contradict a claim about bounds: no collapse, or bounds that hardly act under GRPO."""
    low, high = (evidence.curves(f"clip/{side}_fraction", "grpo") for side in ("low", "high"))
    shares = [sum(low[seed] + high[seed]) / len(low[seed]) for seed in low.keys() & high.keys() if low[seed]]
    if shares and sum(shares) / len(shares) < BINDING:
        return f"grpo's bounds act on {sum(shares) / len(shares):.2%} of the tokens"
    return not_collapsed(evidence)


def od_not_triggered(evidence: Evidence) -> str:
    """Why OD cannot swing: no collapse, or an entropy that falls to its lower threshold in too few seeds or too late.

    OD starts to swing there. At least half of the seeds have to be there after TRIGGERED of the steps, so that time is
    left for the other two switches. "" if it can.
    """
    reason, curves = not_collapsed(evidence), evidence.curves(ENTROPY, "od")
    if reason or not curves:
        return reason

    def reached(share: float) -> int:
        return sum(
            min(curve[: max(1, int(share * len(curve)))]) <= od_fraction(evidence, seed) * curve[0]
            for seed, curve in curves.items()
        )

    if not reached(1):
        return "od's entropy never falls to its lower threshold"
    if 2 * (early := reached(TRIGGERED)) < len(curves):
        return (
            f"od's entropy falls to its lower threshold in {reached(1)} of {len(curves)} seeds, in {early} of them "
            f"within {TRIGGERED:.0%} of the steps"
        )
    return ""


def od_fraction(evidence: Evidence, seed: int) -> float:
    """OD's lower threshold as a share of the first entropy, as the run had it."""
    return float(evidence.runs["od", seed]["options"].get("fraction", METHODS["od"].defaults["fraction"]))


def halves(key: str) -> Parts:
    """ln(end / start) of GRPO's curve against ln ½."""
    null = math.log(0.5)

    def parts(evidence: Evidence) -> list[Part]:
        values = per_seed(evidence, key, "grpo", log_change)
        return judged([against_null(values, "grpo", "ln(end / start)", "", null)], -1, null)

    return parts


def areas(pairs: Sequence[tuple[str, str]], expected: int) -> Parts:
    """Mean entropy over training of one arm minus another's, by t test and sign flips over seeds."""

    def parts(evidence: Evidence) -> list[Part]:
        found = [
            area_between(evidence.curves(ENTROPY, a), evidence.curves(ENTROPY, b), (a, b), "mean entropy over training")
            for a, b in pairs
        ]
        gaps = judge([area.gap for area in found])
        found = [replace(area, gap=gap) for area, gap in zip(found, gaps, strict=True)]
        return [as_part(area.gap, expected, verdict=area.verdict) for area in found]

    return parts


def at_equal_reward(arm: str, expected: int) -> Parts:
    """Entropy where the run first reaches half of the slowest run's gain of reward, against GRPO."""

    def parts(evidence: Evidence) -> list[Part]:
        level = common_reward(evidence)
        found = entropy_at_reward(evidence, level) if not math.isnan(level) else {}
        sides = found.get(arm, {}), found.get("grpo", {})
        return judged([difference(*sides, (arm, "grpo"), f"entropy at reward {level:.2f}", unit="nats")], expected)

    return parts


def reward_gaps(percent: float, width: float, pairs: Sequence[tuple[str, str]], expected: int, where: str) -> Parts:
    """Mean reward over `width` % of training around `percent`, one arm minus another."""

    def mean(curve: Sequence[float]) -> float:
        return 100 * at_share(curve, percent, width)

    def parts(evidence: Evidence) -> list[Part]:
        gaps = []
        for a, b in pairs:
            sides = per_seed(evidence, REWARD, a, mean), per_seed(evidence, REWARD, b, mean)
            gaps.append(difference(*sides, (a, b), where))
        return judged(gaps, expected)

    return parts


def slopes(arm: str, test: Callable[[Mapping[int, Sequence[float]]], Shape]) -> Parts:
    """The slopes of a shape's segments, each with its own expected side."""

    def parts(evidence: Evidence) -> list[Part]:
        found = test(evidence.curves(ENTROPY, arm))
        made = []
        for slope, sign in zip(found.slopes, found.signs, strict=True):
            spread, decided = slope.interval, slope.p_holm <= found.alpha
            finding = (AS_CLAIMED if spread.mean * sign > 0 else OPPOSITE) if decided else "not distinguishable"
            if decided and found.n <= EXPLORATORY_SEEDS:
                finding = f"exploratory: {finding}, too few seeds for a claim"
            what = f"{arm}, slope of entropy at {slope.first:.0%}-{slope.last:.0%}"
            numbers = (spread.mean, spread.low, spread.high, found.n, detectable_effect(spread.sd, found.n))
            made.append(Part(what, *numbers, "nats per training", 0.0, sign, finding if found.n else MISSING))
        return made

    return parts


def swings(evidence: Evidence) -> list[Part]:
    """Crossings of OD's entropy through OD's own two thresholds, and the growth of the amplitudes."""
    curves = evidence.curves(ENTROPY, "od")
    low, high = {}, {}
    for seed, curve in curves.items():
        low[seed] = od_fraction(evidence, seed) * curve[0]
        high[seed] = [low[seed] + (curve[0] - low[seed]) * (1 - k / len(curve)) for k in range(len(curve))]
    found = oscillation(curves, low, high)
    n, growth = len(found.seeds), found.growth
    decided = (AS_CLAIMED if found.claim else OPPOSITE) if found.claim or _mostly_not(found.times, n) else found.verdict
    share = found.times / n if n else math.nan
    what = f"od, seeds whose entropy switches sides {found.switches} times or more"
    damping = {"shrink": AS_CLAIMED, "grow": OPPOSITE}.get(found.damping, found.damping)
    numbers = (growth.mean, growth.low, growth.high, growth.n, detectable_effect(growth.sd, growth.n))
    return [
        Part(what, share, math.nan, math.nan, n, math.nan, "of the seeds", 0.5, 1, decided if n else MISSING),
        Part("od, growth of the log amplitude", *numbers, "per half-cycle", 0.0, -1, damping if n else MISSING),
    ]


def _mostly_not(times: int, n: int, alpha: float = 0.05) -> bool:
    """Whether `times` of n seeds is significantly less than half (one-sided binomial test)."""
    from scipy import stats

    return n > EXPLORATORY_SEEDS and stats.binom.cdf(times, n, 0.5) <= alpha


def accuracy(evidence: Evidence) -> list[Part]:
    """avg@k of the last checkpoint, mean over benchmarks, against the first arm of the evidence.

    The mean is tested, not each benchmark: it has more power, and one benchmark of several decides nothing alone.
    """
    base, *others = evidence.methods
    means = {}
    for arm in evidence.methods:
        found = [seed_means(evidence, benchmark, arm) for benchmark in evidence.benchmarks]
        shared = set.intersection(*map(set, found)) if found else set()
        means[arm] = {seed: sum(scores[seed] for scores in found) / len(found) for seed in sorted(shared)}
    return judged([difference(means[arm], means[base], (arm, base), "mean over benchmarks") for arm in others], 1)


def pass_gap(evidence: Evidence) -> list[Part]:
    """(pass@K − pass@1) minus GRPO's, mean over benchmarks, for every method and checkpoint."""
    gaps = []
    for checkpoint in evidence.checkpoints:
        spread = {arm: spread_of_pass(evidence, arm, checkpoint) for arm in ("grpo", *OURS)}
        gaps += [
            difference(spread[arm], spread["grpo"], (arm, "grpo"), f"pass@K − pass@1, {checkpoint}") for arm in OURS
        ]
    return judged(gaps, 1)


def clipped_late(evidence: Evidence) -> list[Part]:
    """Clipped share of tokens, second half minus first half of training: ID's minus GRPO's."""
    late = {}
    for arm in ("id", "grpo"):
        low, high = (evidence.curves(f"clip/{side}_fraction", arm) for side in ("low", "high"))
        totals = {s: [100 * (a + b) for a, b in zip(low[s], high[s], strict=True)] for s in low.keys() & high.keys()}
        late[arm] = {s: at_share(curve, 75, 50) - at_share(curve, 25, 50) for s, curve in totals.items()}
    where = "clipped tokens, second half − first half"
    return judged([difference(late["id"], late["grpo"], ("id", "grpo"), where)], 1)


def same_run(evidence: Evidence) -> list[Part]:
    """The largest difference to GRPO in any step's entropy or reward: 0, bit for bit, in every seed."""
    base, *others = evidence.methods
    parts = []
    for arm in others:
        seeds = [s for s in evidence.seeds if (arm, s) in evidence.rows and (base, s) in evidence.rows]
        largest = max(
            (
                abs(a - b)
                for key in (ENTROPY, REWARD)
                for s in seeds
                for a, b in zip(evidence.curves(key, arm)[s], evidence.curves(key, base)[s], strict=True)
            ),
            default=math.nan,
        )
        finding = (AS_CLAIMED if largest == 0 else OPPOSITE) if seeds else MISSING
        none = (math.nan, math.nan, len(seeds), math.nan)
        parts.append(Part(f"{arm} − {base}, largest difference of any step", largest, *none, "", 0.0, 0, finding))
    return parts
