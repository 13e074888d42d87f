"""Intervals and comparisons between training seeds: what a difference between two methods does and does not
show.

The unit of replication is the training run. Resampling problems alone finds a "winner" between two
identical methods once in three or four comparisons, so every interval here spreads over seeds, and a claim
needs two routes to agree: a paired t interval on the seeds' differences and a bootstrap over problems and
seeds (Miller, arXiv 2411.00640; Hochlehnert et al., arXiv 2504.07086). Seeds are paired: run k of every
method shares its start, its prompts and its random numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

NO_CLAIM = "n=1, no claim"
EXPLORATORY_SEEDS = 3  # up to here an interval excluding 0 is a lead to follow, not a finding


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
    """a minus b, paired by seed. All effects are in `unit`; NaN stands for what the seeds at hand cannot
    give.

    boot_low, boot_high: bootstrap interval over problems and seeds; None where no per-problem counts exist.
    p: paired t test; p_holm: the same after Holm's correction over the family the comparison was judged in.
    detectable: the smallest true effect that this design would have found with 80 % power.
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
        """True if every route excludes 0 and the seeds are more than an exploratory handful."""
        return self.verdict in ("higher", "lower")

    @property
    def verdict(self) -> str:
        """What may be said: "higher", "lower", or why nothing may."""
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
        if self.boot_low is not None and not (self.boot_low > 0 or self.boot_high < 0):
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
        # "n=1, no claim" already says how many seeds there are.
        rest = self.verdict if self.n == 1 else f"{seeds}: {self.verdict}"
        return f"{where}: {self.text}, {rest}"

    @property
    def text(self) -> str:
        """Effect, unit and paired-t interval, e.g. `+2.1 pt [-1.8, +6.0]`; without an interval where
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


def detectable_effect(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true mean of n paired differences of spread `sd` that a two-sided t test finds with
    `power`.

    From the noncentral t distribution; NaN for n < 2 or no spread.
    """
    from scipy import optimize, stats

    if n < 2 or math.isnan(sd) or sd < 1e-12:
        return math.nan
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def shortfall(noncentrality: float) -> float:
        # The far tail's share is below 1e-4 wherever the power is near 0.8, and scipy's nct is unreliable
        # there.
        return float(stats.nct.sf(critical, n - 1, noncentrality)) - power

    top = 2.0
    while shortfall(top) < 0:
        top *= 2
    return float(optimize.brentq(shortfall, 0.0, top)) * sd / math.sqrt(n)


Counts = Mapping[int, Mapping[str, tuple[int, int]]]


def bootstrap_difference(
    a: Counts, b: Counts, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of mean(a) − mean(b) when seeds and problems are both drawn again, with
    replacement.

    `a`, `b`: seed -> problem id -> (samples, correct). Seeds are kept in pairs, and so are problems. NaN,
    NaN with fewer than two common seeds or no common problem: problems alone cannot speak for a method.
    """
    seeds = sorted(set(a) & set(b))
    if len(seeds) < 2:
        return math.nan, math.nan
    problems = sorted(set.intersection(*(set(side[s]) for side in (a, b) for s in seeds)))
    if not problems:
        return math.nan, math.nan

    def rates(side: Counts) -> np.ndarray:  # (seeds, problems)
        counts = np.array([[side[s][p] for p in problems] for s in seeds], dtype=float)
        return counts[..., 1] / counts[..., 0]

    gap = rates(a) - rates(b)
    rng = np.random.default_rng(seed)
    # How often each seed and each problem is drawn: the same as indexing with drawn indices, in two matrix
    # products.
    seed_share = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), resamples) / len(seeds)
    means = []
    for part in np.array_split(seed_share, max(1, resamples * len(problems) // 5_000_000)):
        drawn = rng.multinomial(len(problems), np.full(len(problems), 1 / len(problems)), len(part))
        means.append(((part @ gap) * drawn).sum(1) / len(problems))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


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
    """Compare two methods by their values per training seed, given in `unit` ("pt" for percentage points).

    With `counts` (per-problem counts of a and of b, unit "pt") the problems-and-seeds bootstrap joins the
    verdict.
    """
    from scipy import stats

    gaps = paired_values(a, b)
    spread = mean_interval(gaps, confidence)
    low, high, p = spread.low, spread.high, math.nan
    if spread.n >= 2:
        if spread.sd > 1e-12:
            p = float(stats.ttest_1samp(gaps, 0.0).pvalue)
        elif abs(spread.mean) < 1e-12:  # the same in every seed: identical runs
            p = 1.0
        else:  # coarse scores can agree by chance; a t interval of width 0 would claim certainty
            low = high = math.nan
    boot = (None, None)
    if counts is not None:
        boot = tuple(100 * limit for limit in bootstrap_difference(*counts, confidence=confidence, seed=seed))
    detectable = detectable_effect(spread.sd, spread.n, alpha=1 - confidence)
    return Difference(*names, where, spread.mean, low, high, spread.n, p, detectable, unit, *boot, alpha=1 - confidence)


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
