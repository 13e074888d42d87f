"""Intervals and comparisons between training seeds: what a difference between two methods does and does not
show.

The unit of replication is the training run. Resampling problems alone finds a "winner" between two
identical methods once in three or four comparisons, so every interval here spreads over seeds, and a claim
needs two routes to agree: a t interval over the seeds and, where per-problem counts exist, a bootstrap over
problems and seeds (Miller, arXiv 2411.00640; Hochlehnert et al., arXiv 2504.07086). Seeds are paired: run
k of every method shares its start, its prompts and its random numbers. Arms that share nothing (another
trainer's runs, seeds numbered by chance) are compared with Welch's interval. docs/statistics.md has the
error rates of every route.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from evals.stats.bootstrap import (
    EXPLORATORY_SEEDS,
    NO_CLAIM,
    Counts,
    Estimate,
    Rank,
    bootstrap_difference,
    interquartile_mean,
    iqm,
    probability_of_improvement,
    rankings,
    sign_flip_p,
)

__all__ = [
    "EXPLORATORY_SEEDS", "NO_CLAIM", "Counts", "Difference", "Estimate", "Interval", "Rank", "Welch",
    "bootstrap_difference", "detectable_effect", "difference", "holm", "interquartile_mean", "iqm", "judge",
    "mean_interval", "mean_test", "noncentrality", "paired_values", "probability_of_improvement", "rankings",
    "sign_flip_p", "welch",
]  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its confidence interval and the values' SD; low, high and sd are NaN for
    n < 2.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """a minus b. All effects are in `unit`; NaN stands for what the seeds at hand cannot give.

    low, high, p: paired t over the n common seeds, or Welch's where `arms` says how many seeds each unpaired arm has
    (n is then the smaller number). boot_low, boot_high: bootstrap interval over problems and seeds; None where no
    per-problem counts exist. p_holm: p after Holm's correction over the family the comparison was judged in.
    detectable: the smallest true effect that the t interval of this design would have found with 80 % power.
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
    arms: tuple[int, int] | None = None

    @property
    def claim(self) -> bool:
        """True if every route excludes 0 and the seeds are more than an exploratory handful."""
        return self.verdict in ("higher", "lower")

    @property
    def verdict(self) -> str:
        """What may be said: "higher", "lower", or why nothing may."""
        if self.n == 0:
            return "no common seed, no claim" if self.arms is None else "an arm without seeds, no claim"
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
        """The comparison in one line, e.g. `id vs grpo on chain_sum: +2.1 pt [-1.8, +6.0], 5 seeds: not
        distinguishable`.
        """
        where = f"{self.a} vs {self.b} on {self.where}"
        if self.n == 0:
            return f"{where}: {self.verdict}"
        seeds = f"{self.n} seed{'s' if self.n > 1 else ''}"
        if self.arms is not None:
            seeds = f"{self.arms[0]} and {self.arms[1]} unpaired seeds"
        # "n=1, no claim" already says how many seeds there are.
        rest = self.verdict if self.n == 1 else f"{seeds}: {self.verdict}"
        return f"{where}: {self.text}, {rest}"

    @property
    def text(self) -> str:
        """Effect, unit and t interval, e.g. `+2.1 pt [-1.8, +6.0]`; without an interval where
        there is none.
        """
        digits = 1 if self.unit == "pt" else 3
        if math.isnan(self.effect):
            return "missing"
        effect = f"{self.effect:+.{digits}f} {self.unit}"
        return effect if math.isnan(self.low) else f"{effect} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of `values` (one per seed) with Student's t interval. NaN values are left out, never filled in."""
    from scipy import stats

    kept = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    n = len(kept)
    if n < 2:
        return Interval(float(kept[0]) if n else math.nan, math.nan, math.nan, math.nan, n)
    mean, sd = float(kept.mean()), float(kept.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def paired_values(a: Mapping[int, float], b: Mapping[int, float]) -> np.ndarray:
    """a − b for the seeds that both have (NaN counts as absent), in the order of the seeds."""
    shared = [s for s in sorted(set(a) & set(b)) if not (math.isnan(a[s]) or math.isnan(b[s]))]
    return np.array([a[s] - b[s] for s in shared], dtype=float)


def mean_test(values: Sequence[float], confidence: float = 0.95) -> tuple[Interval, float]:
    """Is the mean of `values` (one per seed) zero? Its interval and the p of Student's t test.

    Values without any spread are no ground for certainty, since coarse scores can agree by chance: interval and p
    are NaN then, or p is 1 where all of them are 0.
    """
    from scipy import stats

    spread = mean_interval(values, confidence)
    if spread.n < 2:
        return spread, math.nan
    if spread.sd > 1e-12:
        t = spread.mean / (spread.sd / math.sqrt(spread.n))
        return spread, float(2 * stats.t.sf(abs(t), spread.n - 1))
    if abs(spread.mean) < 1e-12:
        return spread, 1.0
    return replace(spread, low=math.nan, high=math.nan), math.nan


@dataclass(frozen=True)
class Welch:
    """Mean difference of two unpaired arms with its interval, p, degrees of freedom, standard error and the number
    of seeds; NaN where an arm has fewer than two, or neither has any spread.
    """

    effect: float
    low: float
    high: float
    p: float
    df: float
    se: float
    arms: tuple[int, int]


def welch(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Welch:
    """Welch's t test on seed means, for arms whose seeds are not paired and may differ in spread and number. NaN
    values are left out.
    """
    from scipy import stats

    x, y = mean_interval(a, confidence), mean_interval(b, confidence)
    arms, effect = (x.n, y.n), x.mean - y.mean
    none = Welch(effect, math.nan, math.nan, math.nan, math.nan, math.nan, arms)
    if min(arms) < 2:
        return none
    va, vb = x.sd**2 / x.n, y.sd**2 / y.n
    se = math.sqrt(va + vb)
    if se < 1e-12:
        return none if abs(effect) > 1e-12 else replace(none, low=0.0, high=0.0, p=1.0, se=0.0)
    df = (va + vb) ** 2 / (va**2 / (x.n - 1) + vb**2 / (y.n - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * se
    p = float(2 * stats.t.sf(abs(effect) / se, df))
    return Welch(effect, effect - half, effect + half, p, df, se, arms)


@lru_cache(maxsize=256)
def noncentrality(df: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """True effect over its standard error that a two-sided t test with `df` finds with `power`."""
    from scipy import optimize, stats

    critical = stats.t.ppf(1 - alpha / 2, df)

    def shortfall(distance: float) -> float:
        # The far tail's share is below 1e-4 wherever the power is near 0.8, and scipy's nct is unreliable
        # there.
        return float(stats.nct.sf(critical, df, distance)) - power

    top = 2.0
    while shortfall(top) < 0:
        top *= 2
    return float(optimize.brentq(shortfall, 0.0, top))


def detectable_effect(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true mean of n paired differences of spread `sd` that a two-sided t test finds with
    `power`: what a finished comparison reports. A design is planned with `evals.stats.power`, which agrees.

    From the noncentral t distribution; NaN for n < 2 or no spread.
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
    paired: bool = True,
) -> Difference:
    """Compare two methods by their values per training seed, given in `unit` ("pt" for percentage points).

    With `counts` (per-problem counts of a and of b, unit "pt") the problems-and-seeds bootstrap joins the
    verdict. `paired=False`: seed k of one arm has nothing to do with seed k of the other; Welch's interval, and a
    bootstrap that draws each arm's seeds on its own.
    """
    alpha, boot = 1 - confidence, (None, None)
    if counts is not None:
        limits = bootstrap_difference(*counts, confidence=confidence, seed=seed, paired=paired)
        boot = tuple(100 * limit for limit in limits)
    if not paired:
        t = welch(list(a.values()), list(b.values()), confidence)
        detectable = noncentrality(t.df, alpha=alpha) * t.se if t.se > 0 else math.nan
        numbers = (t.effect, t.low, t.high, min(t.arms), t.p, detectable)
        return Difference(*names, where, *numbers, unit, *boot, alpha=alpha, arms=t.arms)
    spread, p = mean_test(paired_values(a, b), confidence)
    detectable = detectable_effect(spread.sd, spread.n, alpha=alpha)
    numbers = (spread.mean, spread.low, spread.high, spread.n, p, detectable)
    return Difference(*names, where, *numbers, unit, *boot, alpha=alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the given order. NaN (no test was possible) stays NaN and
    is not counted.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, running = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = running
    return adjusted


def judge(family: Sequence[Difference]) -> list[Difference]:
    """The comparisons of one question, with Holm's correction over all of them in their verdicts."""
    adjusted = holm([d.p for d in family])
    size = sum(not math.isnan(p) for p in adjusted)
    return [d if math.isnan(p) else replace(d, p_holm=p, family=size) for d, p in zip(family, adjusted, strict=True)]
