"""What training curves of several seeds show: bands, areas between two methods, entropy at equal success, and shapes
(rise and fall, oscillation), each with the seed as the unit of replication.

Steps of one run are autocorrelated, so that a test over steps finds shapes in noise. Here every seed's curve gives a
few numbers (an area, a slope per segment, a count of switches), and the numbers are tested over seeds. Curves are
sequences by rollout step, several of them seed -> curve. NaN is a missing value: it is left out and never filled in;
a curve that stops early is missing at the steps it lacks. docs/statistics.md has the error rates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evals.stats.comparison import (
    EXPLORATORY_SEEDS,
    NO_CLAIM,
    Difference,
    Interval,
    difference,
    holm,
    mean_test,
    sign_flip_p,
)

Curve = Sequence[float]
Curves = Mapping[int, Curve]
Knots = Sequence[float]


@dataclass(frozen=True)
class Band:
    """By step, arrays (steps,): mean over the seeds present, its t interval (NaN below two seeds; for each step by
    itself, not for the whole curve), lowest and highest seed, number of seeds.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    n: np.ndarray


def matrix(curves: Curves) -> np.ndarray:
    """(seeds in order, steps of the longest curve), NaN where a curve has no value."""
    rows = [np.asarray(curves[seed], dtype=float) for seed in sorted(curves)]
    table = np.full((len(rows), max(map(len, rows), default=0)), math.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table


def bands(curves: Curves, confidence: float = 0.95) -> Band:
    """The band of several seeds' curves, for a figure."""
    from scipy import stats

    table = matrix(curves)
    there = ~np.isnan(table)
    n = there.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, table, 0).sum(0) / n
        sd = np.sqrt(np.where(there, (table - mean) ** 2, 0).sum(0) / (n - 1.0))
        half = np.where(n > 1, stats.t.ppf((1 + confidence) / 2, np.maximum(n - 1, 1)) * sd / np.sqrt(n), math.nan)
    lowest = np.where(n > 0, np.where(there, table, math.inf).min(0, initial=math.inf), math.nan)
    highest = np.where(n > 0, np.where(there, table, -math.inf).max(0, initial=-math.inf), math.nan)
    return Band(mean, mean - half, mean + half, lowest, highest, n)


@dataclass(frozen=True)
class Area:
    """Mean of a − b over training (the area between the curves per unit of training), compared over seeds.

    gap: the paired t route. p_flip: exact or drawn sign-flip p. steps: how many of the `length` steps all pairs have;
    the area is over these.
    """

    gap: Difference
    p_flip: float
    steps: int
    length: int

    @property
    def p_flip_least(self) -> float:
        """The smallest p that sign flips can reach with these seeds."""
        return 2 / 2**self.gap.n if self.gap.n else math.nan

    @property
    def claim(self) -> bool:
        """True if the t route allows it and, where they can, the sign flips agree."""
        return self.verdict in ("higher", "lower")

    @property
    def verdict(self) -> str:
        """As `Difference.verdict`. Sign flips decide with it where they can reach alpha: from 6 seeds on at 5 %."""
        if self.gap.claim and self.p_flip_least <= self.gap.alpha and self.p_flip > self.gap.alpha:
            return "not distinguishable (the sign-flip test does not agree)"
        return self.gap.verdict

    @property
    def sentence(self) -> str:
        """In one line, with both routes and, where it matters, what the sign flips cannot show."""
        if self.gap.n < 2:
            return self.gap.sentence
        flips = f"sign-flip p {self.p_flip:.3f}"
        if self.p_flip_least > self.gap.alpha:
            flips += f" (at best {self.p_flip_least:.4g} with {self.gap.n} seeds: the t interval decides)"
        missing = "" if self.steps == self.length else f", over the {self.steps} of {self.length} steps that all have"
        where = f"{self.gap.a} vs {self.gap.b} on {self.gap.where}"
        return f"{where}: {self.gap.text}{missing}, {self.gap.n} seeds, {flips}: {self.verdict}"


def area_between(
    a: Curves,
    b: Curves,
    names: tuple[str, str] = ("a", "b"),
    where: str = "curve",
    unit: str = "nats",
    confidence: float = 0.95,
    seed: int = 0,
) -> Area:
    """Compare two methods' curves over the whole of training, paired by seed.

    Every pair is measured over the same steps, those where all pairs have both values; a pair without any value is
    absent. Two routes: the paired t interval, and a sign-flip permutation test over seeds, which assumes only that
    under the null a difference is as likely as its opposite. With 5 seeds its smallest two-sided p is 2/32 = 0.0625, so
    that the t interval has to decide there.
    """
    seeds = [s for s in sorted(set(a) & set(b)) if not np.isnan(a[s]).all() and not np.isnan(b[s]).all()]
    table = matrix({(s, side): curve[s] for s in seeds for side, curve in enumerate((a, b))})
    gaps = table[::2] - table[1::2]
    shared = ~np.isnan(gaps).any(0)
    values = {s: float(row[shared].mean()) if shared.any() else math.nan for s, row in zip(seeds, gaps, strict=True)}
    gap = difference(values, dict.fromkeys(values, 0.0), names, where, unit=unit, confidence=confidence)
    return Area(gap, sign_flip_p(list(values.values()), seed=seed), int(shared.sum()) if seeds else 0, gaps.shape[1])


def smooth(curve: Curve, width: float = 5) -> np.ndarray:
    """Centred running mean over `width` % of the steps, shorter at the ends; NaN steps are left out of it."""
    values = np.asarray(curve, dtype=float)
    half = int(len(values) * width / 200)
    if half == 0:
        return values  # sums would only add rounding
    sums = np.concatenate([[0.0], np.nancumsum(values)])
    counts = np.concatenate([[0], np.cumsum(~np.isnan(values))])
    first = np.maximum(0, np.arange(len(values)) - half)
    last = np.minimum(len(values), np.arange(len(values)) + half + 1)
    with np.errstate(invalid="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def at_equal_success(entropy: Curve, success: Curve, level: float, width: float = 5) -> float:
    """Entropy when a run first reaches `level` of success: both smoothed over `width` % of the steps, success made
    monotone by its running maximum, the crossing interpolated between steps.

    NaN if the run never gets there, has the level from its first step on (then it never was at it), or lacks entropy
    at the crossing. Raises ValueError for curves of different length.
    """
    return float(frontier(entropy, success, [level], width)[0])


def frontier(entropy: Curve, success: Curve, levels: Sequence[float], width: float = 5) -> np.ndarray:
    """Entropy at each of `levels` of success, (levels,): `at_equal_success` of each, the price in entropy that one run
    paid for its success.
    """
    if len(entropy) != len(success):
        raise ValueError(f"frontier: {len(entropy)} steps of entropy, {len(success)} of success")
    raw, nats = smooth(success, width), smooth(entropy, width)
    reached = np.fmax.accumulate(raw)  # passes over NaN
    found = np.full(len(levels), math.nan)
    for i, level in enumerate(levels):
        steps = np.flatnonzero(reached >= level)
        step = int(steps[0]) if len(steps) else 0
        # A level that was passed within a hole, or before the first step, was passed nobody knows where.
        if step > 0 and not math.isnan(raw[step - 1]):
            share = (level - reached[step - 1]) / (reached[step] - reached[step - 1])
            found[i] = nats[step] if share == 1 else nats[step - 1] + share * (nats[step] - nats[step - 1])
    return found


def common_levels(successes: Sequence[Curve], points: int = 11, width: float = 5) -> np.ndarray:
    """Levels of success that every run passes, evenly spaced between the highest start and the lowest peak, both
    excluded, (points,); empty where there are none.
    """
    curves = [row[~np.isnan(row)] for row in (smooth(curve, width) for curve in successes)]
    curves = [row for row in curves if len(row)]
    if not curves:
        return np.empty(0)
    bottom, top = max(row[0] for row in curves), min(row.max() for row in curves)
    return np.linspace(bottom, top, points + 2)[1:-1] if top > bottom else np.empty(0)


@dataclass(frozen=True)
class Slope:
    """Change per whole training within a share of it, over seeds; p after Holm over the shape's segments."""

    first: float
    last: float
    interval: Interval
    p_holm: float


@dataclass(frozen=True)
class Shape:
    """Whether curves do what `name` says: every segment's slope has its sign (`signs`) in the mean over seeds, and its
    t test survives Holm's correction. missing: seeds that lack values in a segment and are left out.
    """

    name: str
    signs: tuple[int, ...]
    slopes: tuple[Slope, ...]
    n: int
    missing: int
    alpha: float

    @property
    def claim(self) -> bool:
        """True if the shape is there and the seeds are more than an exploratory handful."""
        return self.verdict == self.name

    @property
    def verdict(self) -> str:
        """The shape's name, or why it may not be said."""
        if self.n == 0:
            return "missing"
        if self.n == 1:
            return NO_CLAIM
        if any(math.isnan(slope.p_holm) for slope in self.slopes):
            return "no spread between seeds to judge by, no claim"
        odd = [
            f"{slope.first:.0%}-{slope.last:.0%} {slope.interval.mean:+.3f} "
            f"[{slope.interval.low:+.3f}, {slope.interval.high:+.3f}]"
            for slope, sign in zip(self.slopes, self.signs, strict=True)
            if not (slope.p_holm <= self.alpha and slope.interval.mean * sign > 0)
        ]
        if odd:
            return f"not shown that it {self.name}: slope at {', '.join(odd)}"
        return f"exploratory: {self.name}, too few seeds for a claim" if self.n <= EXPLORATORY_SEEDS else self.name


def rises_then_falls(curves: Curves, knots: Knots = (0.5,), alpha: float = 0.05) -> Shape:
    """ID's curve: up before the knot, down after it. `knots` are shares of training, declared before looking."""
    return shape(curves, knots, (1, -1), "rises, then falls", alpha)


def falls_rises_falls(curves: Curves, knots: Knots = (1 / 3, 2 / 3), alpha: float = 0.05) -> Shape:
    """DID's curve: down, up between the two knots, down again."""
    return shape(curves, knots, (-1, 1, -1), "falls, rises, falls", alpha)


def shape(curves: Curves, knots: Knots, signs: Sequence[int], name: str, alpha: float = 0.05) -> Shape:
    """Is the sign of the slope in each segment between `knots` the one in `signs`, over seeds?

    Piecewise-linear least squares, each segment with its own line. Lines joined at the knots would ring: the best
    continuous fit to a curve that rises and levels off overshoots and then falls. A segment's own slope never has
    the wrong sign for a monotone curve. Raises ValueError for knots that do not increase within (0, 1) or do not match
    the signs.
    """
    edges = (0.0, *knots, 1.0)
    if any(a >= b for a, b in pairwise(edges)) or len(signs) != len(edges) - 1:
        raise ValueError(f"shape: knots {tuple(knots)} must increase within (0, 1), one sign for each segment")
    slopes = segment_slopes(matrix(curves), edges)
    kept = slopes[~np.isnan(slopes).any(1)]
    tests = [mean_test(column, 1 - alpha) for column in kept.T]
    adjusted = holm([p for _, p in tests])
    found = [Slope(a, b, spread, p) for a, b, (spread, _), p in zip(edges, edges[1:], tests, adjusted, strict=False)]
    return Shape(name, tuple(signs), tuple(found), len(kept), len(slopes) - len(kept), alpha)


def segment_slopes(table: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Least-squares slope of each curve in each segment, per whole training: (curves, steps) -> (curves, segments).
    NaN where a segment has fewer than half of its steps, or fewer than 3.
    """
    position = np.linspace(0, 1, table.shape[1])
    columns = []
    for first, last in pairwise(edges):
        part = (position >= first) & ((position < last) | (last == 1))
        there = ~np.isnan(table[:, part])
        n = there.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = np.where(there, position[part], 0)
            x = np.where(there, x - (x.sum(1) / n)[:, None], 0)
            slope = (x * np.where(there, table[:, part], 0)).sum(1) / (x**2).sum(1)
        columns.append(np.where(n >= max(3, part.sum() / 2), slope, math.nan))
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Crossings:
    """Switches of one curve between the two sides of a band.

    steps: where the smoothed curve arrives at a side, having been at the other one. sides: +1 arrived above, −1 below.
    amplitudes: of each half-cycle, from the extreme on one side to the next extreme on the other, in the curve's unit;
    only between extremes that have a switch before and after them. noise: SD of the curve around the smoothed one.
    """

    steps: tuple[int, ...]
    sides: tuple[int, ...]
    amplitudes: tuple[float, ...]
    noise: float

    @property
    def growth(self) -> float:
        """Slope of the log amplitude per half-cycle, negative where they shrink; NaN for fewer than two."""
        if len(self.amplitudes) < 2:
            return math.nan
        return float(np.polyfit(np.arange(len(self.amplitudes)), np.log(self.amplitudes), 1)[0])


def crossings(curve: Curve, low: float | Curve, high: float | Curve, width: float = 5) -> Crossings:
    """Crossings with hysteresis: below `low` and above `high` are the sides, in between a curve stays where it came
    from. `low` and `high` are numbers or by step. The curve is smoothed over `width` % of the steps, so that swings
    faster than that are lost. Where the band is narrower than 4 SDs of the noise no step is counted: noise alone would
    cross it. Raises ValueError where `low` is above `high`.
    """
    low, high = (np.broadcast_to(np.asarray(limit, dtype=float), (len(curve),)) for limit in (low, high))
    if (low > high).any():
        raise ValueError("crossings: low is above high")
    values = smooth(curve, width)
    rest = np.asarray(curve, dtype=float) - values
    rest = rest - smooth(rest, width)  # smoothed twice, or fast swings would count as noise
    noise = float(np.sqrt(np.nanmean(rest**2))) if not np.isnan(rest).all() else math.nan
    sides = np.where(values >= high, 1, np.where(values <= low, -1, 0)) * (high - low >= 4 * noise)
    marked = np.flatnonzero(sides)
    steps = marked[1:][sides[marked[1:]] != sides[marked[:-1]]]
    spans = [(values[i:j], sides[i]) for i, j in pairwise(steps)]
    extremes = [float(np.nanmax(span) if side > 0 else np.nanmin(span)) for span, side in spans]
    amplitudes = tuple(abs(b - a) for a, b in pairwise(extremes))
    return Crossings(tuple(map(int, steps)), tuple(map(int, sides[steps])), amplitudes, noise)


@dataclass(frozen=True)
class Oscillation:
    """Whether a method's curves oscillate, and whether less and less.

    seeds: seed -> its crossings. times: seeds with at least `switches` of them. p: chance of that many or more if only
    every second run oscillated (binomial, one-sided): a claim is about most runs. growth: of the log amplitude per
    half-cycle, over the seeds with two amplitudes or more; p_growth its t test.
    """

    seeds: Mapping[int, Crossings]
    switches: int
    times: int
    p: float
    growth: Interval
    p_growth: float
    alpha: float

    @property
    def claim(self) -> bool:
        """True if most runs oscillate, beyond chance: at 5 % all of 5 seeds, or 9 of 10."""
        return self.verdict == "oscillates"

    @property
    def verdict(self) -> str:
        """The word "oscillates", or why it may not be said."""
        n = len(self.seeds)
        if n == 0:
            return "missing"
        if n == 1:
            return NO_CLAIM
        share = f"{self.times} of {n} seeds switch {self.switches} times or more"
        if self.times == n and self.p > self.alpha:
            return f"exploratory: {share}, too few seeds for a claim"
        return "oscillates" if self.p <= self.alpha else f"not shown that it oscillates: {share}"

    @property
    def damping(self) -> str:
        """What the amplitudes do: "shrink", "grow", or why that may not be said."""
        if self.growth.n <= EXPLORATORY_SEEDS:
            return f"too few seeds with two amplitudes or more ({self.growth.n})"
        if math.isnan(self.p_growth) or self.p_growth > self.alpha:
            return "no trend shown"
        return "shrink" if self.growth.mean < 0 else "grow"


def oscillation(
    curves: Curves,
    low: float | Curve | Mapping[int, float | Curve],
    high: float | Curve | Mapping[int, float | Curve],
    switches: int = 3,
    width: float = 5,
    alpha: float = 0.05,
) -> Oscillation:
    """Do most runs cross the band [low, high] back and forth? Three switches are down, up and down again: a curve that
    falls through the band once has one. The band is declared beforehand, one for all seeds or seed -> band (OD's own
    thresholds, say). Seeds without any value are left out.
    """
    from scipy import stats

    def of(limit: float | Curve | Mapping[int, float | Curve], seed: int) -> float | Curve:
        return limit[seed] if isinstance(limit, Mapping) else limit

    kept = [seed for seed in sorted(curves) if not np.isnan(curves[seed]).all()]
    found = {seed: crossings(curves[seed], of(low, seed), of(high, seed), width) for seed in kept}
    times = sum(len(entry.steps) >= switches for entry in found.values())
    p = float(stats.binom.sf(times - 1, len(found), 0.5)) if found else math.nan
    growth, p_growth = mean_test([entry.growth for entry in found.values()], 1 - alpha)
    return Oscillation(found, switches, times, p, growth, p_growth, alpha)
