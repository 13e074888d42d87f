"""Training curves of several seeds: area between two methods, entropy at equal success, and shapes (rise and fall,
oscillation).

Steps of one run are autocorrelated, so a test over steps finds shapes in noise. Here every seed's curve gives a few
numbers (an area, a slope per segment, a count of switches), and the tests are over seeds. A curve is a sequence by
rollout step; several are a mapping seed -> curve. NaN values, and the steps after the end of a short curve, are left
out. docs/statistics.md reports the error rates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evals.stats.bootstrap import EXPLORATORY_SEEDS, NO_CLAIM, sign_flip_p
from evals.stats.comparison import Difference, Interval, difference, holm, mean_test

Curve = Sequence[float]
Curves = Mapping[int, Curve]
Knots = Sequence[float]


def matrix(curves: Curves) -> np.ndarray:
    """(seeds in order, steps of the longest curve), NaN where a curve has no value."""
    rows = [np.asarray(curves[seed], dtype=float) for seed in sorted(curves)]
    table = np.full((len(rows), max(map(len, rows), default=0)), math.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table


@dataclass(frozen=True)
class Area:
    """Mean of a − b over training (the area between the curves), compared over seeds: `gap` by the paired t test,
    `p_flip` by sign flips.
    """

    gap: Difference
    p_flip: float

    @property
    def p_flip_least(self) -> float:
        """The smallest p that sign flips can give with so many seeds."""
        return 2 / 2**self.gap.n if self.gap.n else math.nan

    @property
    def claim(self) -> bool:
        """True if both tests agree, or the t test alone where sign flips cannot reach alpha."""
        return self.verdict in ("higher", "lower")

    @property
    def verdict(self) -> str:
        """As `Difference.verdict`. Sign flips must agree where they can reach alpha: at 5 % from 6 seeds on."""
        if self.gap.claim and self.p_flip_least <= self.gap.alpha and self.p_flip > self.gap.alpha:
            return "not distinguishable (the sign-flip test does not agree)"
        return self.gap.verdict


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

    The mean is over the steps where all pairs have both values; a pair without any value is left out. Two tests: the
    paired t test, and a sign-flip permutation test over seeds, which assumes that without an effect a difference is as
    likely as its opposite. With 5 seeds the smallest p of the sign flips is 2/32 = 0.0625, so the t test decides alone.
    """
    seeds = [s for s in sorted(set(a) & set(b)) if not np.isnan(a[s]).all() and not np.isnan(b[s]).all()]
    table = matrix({(s, side): curve[s] for s in seeds for side, curve in enumerate((a, b))})
    gaps = table[::2] - table[1::2]
    shared = ~np.isnan(gaps).any(0)
    values = {s: float(row[shared].mean()) if shared.any() else math.nan for s, row in zip(seeds, gaps, strict=True)}
    gap = difference(values, dict.fromkeys(values, 0.0), names, where, unit=unit, confidence=confidence)
    return Area(gap, sign_flip_p(list(values.values()), seed=seed))


LEAST_WINDOW = 3  # steps: a mean over fewer would be a single, noisy step


def window_steps(steps: int, width: float = 5) -> int:
    """Steps of a window over `width` % of a curve of `steps`: an odd number, LEAST_WINDOW or more where the curve has
    so many. 1 for a width of 0.
    """
    return 1 if width == 0 else min(steps, max(LEAST_WINDOW, 2 * int(steps * width / 200) + 1))


def window(steps: int, centre: "int | np.ndarray", width: float = 5) -> "tuple[np.ndarray, np.ndarray]":
    """First and last + 1 step of the window around each step of `centre`. It is cut at the ends of the curve, but not
    below LEAST_WINDOW steps.
    """
    half, least = (0, 1) if width == 0 else (max(1, int(steps * width / 200)), LEAST_WINDOW)
    first = np.maximum(0, np.minimum(centre - np.int64(half), steps - least))
    return first, np.minimum(steps, np.maximum(centre + half + 1, least))


def smooth(curve: Curve, width: float = 5) -> np.ndarray:
    """Running mean over the `window` around each step, (steps,), without NaN."""
    values = np.asarray(curve, dtype=float)
    if width == 0 or len(values) < 2:
        return values  # a cumulative sum would add rounding errors
    sums = np.concatenate([[0.0], np.nancumsum(values)])
    counts = np.concatenate([[0], np.cumsum(~np.isnan(values))])
    first, last = window(len(values), np.arange(len(values)), width)
    with np.errstate(invalid="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def at_equal_success(entropy: Curve, success: Curve, level: float, width: float = 5) -> float:
    """Entropy when a run first reaches `level` of success, interpolated between steps.

    Success is read from its isotonic regression (least squares among curves that never fall). The running maximum of a
    noisy curve would reach every level too early. Entropy is smoothed over `width` % of the steps. NaN if the run never
    reaches the level, starts at or above it, or has no values there. Raises ValueError for curves of different length.
    """
    if len(entropy) != len(success):
        raise ValueError(f"at_equal_success: {len(entropy)} steps of entropy, {len(success)} of success")
    nats, known = smooth(entropy, width), np.flatnonzero(~np.isnan(np.asarray(success, dtype=float)))
    centres, levels = monotone_blocks(np.asarray(success, dtype=float)[known])
    above = np.flatnonzero(levels >= level)
    if not len(above) or above[0] == 0:
        return math.nan
    last = above[0]
    share = (level - levels[last - 1]) / (levels[last] - levels[last - 1])
    place = centres[last - 1] + share * (centres[last] - centres[last - 1])
    before, after = known[math.floor(place)], known[math.ceil(place)]
    if after - before > 1:  # the level was passed during missing steps
        return math.nan
    share = place - math.floor(place)
    return float(nats[after] if share == 0 else (1 - share) * nats[before] + share * nats[after])


def monotone_blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of the isotonic regression of `values` (n,): their centres, as positions in `values`, and levels."""
    from scipy.optimize import isotonic_regression

    if not len(values):
        return np.zeros(0), np.zeros(0)
    edges = isotonic_regression(values).blocks
    first, after = edges[:-1], edges[1:]
    return (first + after - 1) / 2, np.array([values[i:j].mean() for i, j in zip(first, after, strict=True)])


@dataclass(frozen=True)
class Slope:
    """Slope between the shares `first` and `last` of training, in change per whole training, over seeds. p_holm: after
    Holm's correction over the shape's segments.
    """

    first: float
    last: float
    interval: Interval
    p_holm: float


@dataclass(frozen=True)
class Shape:
    """Whether curves have the shape `name`: every segment's mean slope over n seeds has its sign in `signs`, and its t
    test survives Holm's correction. missing: seeds that are left out because a segment lacks values.
    """

    name: str
    signs: tuple[int, ...]
    slopes: tuple[Slope, ...]
    n: int
    missing: int
    alpha: float

    @property
    def claim(self) -> bool:
        """True if the shape is shown with more than EXPLORATORY_SEEDS seeds."""
        return self.verdict == self.name

    @property
    def verdict(self) -> str:
        """The shape's name, or the reason why there is no claim."""
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
    """ID's curve: up before the knot, down after it. `knots` are shares of training, chosen before the runs."""
    return shape(curves, knots, (1, -1), "rises, then falls", alpha)


def falls_rises_falls(curves: Curves, knots: Knots = (1 / 3, 2 / 3), alpha: float = 0.05) -> Shape:
    """DID's curve: down, up between the two knots, down again."""
    return shape(curves, knots, (-1, 1, -1), "falls, rises, falls", alpha)


def shape(curves: Curves, knots: Knots, signs: Sequence[int], name: str, alpha: float = 0.05) -> Shape:
    """Test over seeds whether the slopes in the segments between `knots` have the signs `signs`.

    Each segment has its own least-squares line. A continuous fit is wrong here: for a curve that rises and levels off
    it overshoots at the knot and then falls. Raises ValueError for knots that do not increase within (0, 1) or do not
    match the signs.
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

    steps: where the smoothed curve arrives at the other side. sides: +1 above, −1 below. amplitudes: of each
    half-cycle, from the extreme on one side to the next extreme on the other, in the curve's unit; only extremes with a
    switch before and after them count. noise: SD of the curve around the smoothed one.
    """

    steps: tuple[int, ...]
    sides: tuple[int, ...]
    amplitudes: tuple[float, ...]
    noise: float

    @property
    def growth(self) -> float:
        """Slope of the log amplitude per half-cycle, negative if amplitudes shrink. NaN for fewer than two."""
        if len(self.amplitudes) < 2:
            return math.nan
        return float(np.polyfit(np.arange(len(self.amplitudes)), np.log(self.amplitudes), 1)[0])


def crossings(curve: Curve, low: float | Curve, high: float | Curve, width: float = 5) -> Crossings:
    """Crossings with hysteresis: the sides are below `low` and above `high`; between them a curve stays on its side.

    low, high: numbers, or sequences by step. The curve is first smoothed over `width` % of the steps, so faster swings
    are lost. Steps where the band is narrower than 4 SDs of the noise do not count, because noise alone would cross it.
    Raises ValueError where `low` is above `high`.
    """
    low, high = (np.broadcast_to(np.asarray(limit, dtype=float), (len(curve),)) for limit in (low, high))
    if (low > high).any():
        raise ValueError("crossings: low is above high")
    values = smooth(curve, width)
    rest = np.asarray(curve, dtype=float) - values
    rest = rest - smooth(rest, width)  # smoothed twice, so that fast swings do not count as noise
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
    """Whether a method's curves oscillate, and whether the amplitudes change.

    seeds: seed -> its crossings. times: number of seeds with at least `switches` switches. p: one-sided binomial test
    of `times` against half of the runs, because a claim is about most runs. growth: of the log amplitude per
    half-cycle, over the seeds with two amplitudes or more; p_growth: its t test.
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
        """True if significantly more than half of the runs oscillate: at 5 % all of 5 seeds, or 9 of 10."""
        return self.verdict == "oscillates"

    @property
    def verdict(self) -> str:
        """ "oscillates", or the reason why there is no claim."""
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
        """What the amplitudes do: "shrink", "grow", or the reason why there is no claim."""
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
    """Test whether most runs cross the band [low, high] at least `switches` times.

    Three switches are down, up and down again; a curve that falls through the band once has one. The band is chosen
    before the runs: one for all seeds, or a mapping seed -> band (OD's own thresholds). Seeds without any value are
    left out.
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
