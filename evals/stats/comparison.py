"""Confidence intervals over training seeds, and the comparison of two methods.

The training run is the unit of replication: every interval here is over seeds. A claim needs two intervals that exclude
0: a t interval over the seeds and, where per-problem counts exist, a bootstrap over problems and seeds (Miller, arXiv
2411.00640; Hochlehnert et al., arXiv 2504.07086). Resampling problems alone would find a difference between two
identical methods in 10 to 30 % of comparisons. Seeds are paired: run k of every method has the same initial policy,
prompts and random numbers. docs/statistics.md reports the error rates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from evals.stats.bootstrap import EXPLORATORY_SEEDS, NO_CLAIM, Counts, bootstrap_difference


@dataclass(frozen=True)
class Interval:
    """A mean over n values, its confidence interval, and the values' SD. low, high and sd are NaN for n < 2."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """a minus b, all effects in `unit`. A number that these seeds cannot give is NaN.

    low, high, p: paired t over the n common seeds. boot_low, boot_high: bootstrap interval over problems and seeds,
    None without per-problem counts. p_holm: p after Holm's correction over the `family` of comparisons that were judged
    together. detectable: the smallest true effect that the t test finds with 80 % power at this n and SD.
    """

    a: str
    b: str
    where: str
    effect: float
    low: float
    high: float
    n: int
    p: float
    detectable: float
    unit: str = "pt"
    boot_low: float | None = None
    boot_high: float | None = None
    p_holm: float | None = None
    family: int = 1
    alpha: float = 0.05

    @property
    def claim(self) -> bool:
        """True if every interval excludes 0 and there are more than EXPLORATORY_SEEDS seeds."""
        return self.verdict in ("higher", "lower")

    @property
    def verdict(self) -> str:
        """ "higher", "lower", or the reason why there is no claim."""
        if self.n == 0:
            return "no common seed, no claim"
        if self.n == 1:
            return NO_CLAIM
        if math.isnan(self.low):
            return "no spread between seeds to judge by, no claim"
        if self.low == self.high == 0:
            return "identical in every seed"
        if self.low <= 0 <= self.high:
            return "not distinguishable"
        if self.boot_low is not None and math.isnan(self.boot_low):
            return "no common problems to resample, no claim"
        if self.boot_low is not None and not (self.boot_low > 0 if self.effect > 0 else self.boot_high < 0):
            return "not distinguishable (the bootstrap interval does not exclude 0)"
        if self.p_holm is not None and self.p_holm > self.alpha:
            return f"not distinguishable after Holm over {self.family} comparisons"
        word = "higher" if self.effect > 0 else "lower"
        return f"exploratory: {word}, too few seeds for a claim" if self.n <= EXPLORATORY_SEEDS else word

    @property
    def sentence(self) -> str:
        """One line, e.g. `id vs grpo on facts: +2.1 pt [-1.8, +6.0], 5 seeds: not distinguishable`."""
        where = f"{self.a} vs {self.b} on {self.where}"
        if self.n == 0:
            return f"{where}: {self.verdict}"
        seeds = f"{self.n} seed{'s' if self.n > 1 else ''}"
        # The verdict "n=1, no claim" already gives the number of seeds.
        rest = self.verdict if self.n == 1 else f"{seeds}: {self.verdict}"
        return f"{where}: {self.text}, {rest}"

    @property
    def text(self) -> str:
        """Effect, unit and t interval, e.g. `+2.1 pt [-1.8, +6.0]`. The interval is left out where there is none."""
        digits = 1 if self.unit == "pt" else 3
        if math.isnan(self.effect):
            return "missing"
        effect = f"{self.effect:+.{digits}f} {self.unit}"
        return effect if math.isnan(self.low) else f"{effect} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of `values` (one per seed) with Student's t interval. NaN values are left out."""
    from scipy import special  # scipy.stats takes a second to import, as long as the scoring of a small policy

    kept = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    n = len(kept)
    if n < 2:
        return Interval(float(kept[0]) if n else math.nan, math.nan, math.nan, math.nan, n)
    mean, sd = float(kept.mean()), float(kept.std(ddof=1))
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def paired_values(a: Mapping[int, float], b: Mapping[int, float]) -> np.ndarray:
    """a − b for the common seeds in increasing order, (seeds,). A seed with a NaN value is left out."""
    shared = [s for s in sorted(set(a) & set(b)) if not (math.isnan(a[s]) or math.isnan(b[s]))]
    return np.array([a[s] - b[s] for s in shared], dtype=float)


def mean_test(values: Sequence[float], confidence: float = 0.95) -> tuple[Interval, float]:
    """Mean of `values` (one per seed) with its interval, and the p of Student's t test against 0.

    Coarse scores can agree by chance, so equal values do not show an effect: interval and p are NaN. p is 1 if all
    values are 0.
    """
    from scipy import special

    spread = mean_interval(values, confidence)
    if spread.n < 2:
        return spread, math.nan
    if spread.sd > 1e-12:
        t = spread.mean / (spread.sd / math.sqrt(spread.n))
        return spread, float(2 * special.stdtr(spread.n - 1, -abs(t)))
    if abs(spread.mean) < 1e-12:
        return spread, 1.0
    return replace(spread, low=math.nan, high=math.nan), math.nan


@lru_cache(maxsize=256)
def noncentrality(df: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The true effect, in standard errors, that a two-sided t test with `df` degrees of freedom finds with `power`."""
    from scipy import optimize, stats

    critical = stats.t.ppf(1 - alpha / 2, df)

    def shortfall(distance: float) -> float:
        # The other tail adds less than 1e-4 at a power near 0.8, and scipy's nct is unreliable there.
        return float(stats.nct.sf(critical, df, distance)) - power

    top = 2.0
    while shortfall(top) < 0:
        top *= 2
    return float(optimize.brentq(shortfall, 0.0, top))


def detectable_effect(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true mean of n paired differences with SD `sd` that a two-sided t test finds with `power`.

    From the noncentral t distribution. NaN for n < 2 or no spread. A finished comparison reports this number;
    `evals.stats.power` plans a design and agrees with it.
    """
    if n < 2 or math.isnan(sd) or sd < 1e-12:
        return math.nan
    return noncentrality(n - 1, power, alpha) * sd / math.sqrt(n)


def difference(
    a: Mapping[int, float],
    b: Mapping[int, float],
    names: tuple[str, str],
    where: str,
    counts: tuple[Counts, Counts] | None = None,
    unit: str = "pt",
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two methods by their values per training seed, paired by seed and given in `unit` ("pt": percentage
    points). With `counts`, the per-problem counts of a and of b, the verdict also needs the bootstrap interval.
    """
    alpha, boot = 1 - confidence, (None, None)
    if counts is not None:
        boot = tuple(100 * limit for limit in bootstrap_difference(*counts, confidence=confidence, seed=seed))
    spread, p = mean_test(paired_values(a, b), confidence)
    detectable = detectable_effect(spread.sd, spread.n, alpha=alpha)
    numbers = (spread.mean, spread.low, spread.high, spread.n, p, detectable)
    return Difference(*names, where, *numbers, unit, *boot, alpha=alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the given order. NaN (no test was possible) stays NaN and is left out."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, running = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = running
    return adjusted


def judge(family: Sequence[Difference]) -> list[Difference]:
    """The comparisons of one question, with Holm's correction over all of them."""
    adjusted = holm([d.p for d in family])
    size = sum(not math.isnan(p) for p in adjusted)
    return [d if math.isnan(p) else replace(d, p_holm=p, family=size) for d, p in zip(family, adjusted, strict=True)]
