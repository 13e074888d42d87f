"""Resampling of training seeds and problems, and the sign-flip test.

Intervals of a difference, of the interquartile mean, of the probability of improvement (both after Agarwal et al.,
arXiv 2108.13264) and of ranks. Percentile intervals of few resampled seeds are too narrow: with five seeds they miss
the truth three times too often. The aggregates therefore use expanded percentiles (Hesterberg, arXiv 1411.5279),
which equal Student's t limits for a normal mean. The bootstrap over problems and seeds uses plain percentiles, because
a claim needs the t interval as well. The caller's `seed` fixes all draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NO_CLAIM = "n=1, no claim"
EXPLORATORY_SEEDS = 3  # with so many seeds or fewer no difference is claimed
RESAMPLE = ("benchmark", "run")

Counts = Mapping[int, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval, NaN where these seeds give none. n: training seeds of the smaller side."""

    value: float
    low: float
    high: float
    n: int

    @property
    def label(self) -> str:
        """What n seeds allow: "missing", "n=1, no claim", "exploratory", or "" for enough seeds."""
        if self.n == 0:
            return "missing"
        if self.n == 1:
            return NO_CLAIM
        return "exploratory" if self.n <= EXPLORATORY_SEEDS else ""


@dataclass(frozen=True)
class Rank:
    """A method's rank by its mean over benchmarks, 1 the best. first: share of resamples in which it is first; tied
    methods share a resample.
    """

    method: str
    rank: Estimate
    first: float


def rates(counts: Counts, seeds: Sequence[int], problems: Sequence[str]) -> np.ndarray:
    """Share of correct samples, (seeds, problems)."""
    table = np.array([[counts[s][p] for p in problems] for s in seeds], dtype=float)
    return table[..., 1] / table[..., 0]


def common_problems(*sides: Counts) -> list[str]:
    """The problems that every seed of every side has, sorted."""
    cells = [set(problems) for side in sides for problems in side.values()]
    return sorted(set.intersection(*cells)) if cells else []


def bootstrap_difference(
    a: Counts, b: Counts, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of mean(a) − mean(b) when seeds and problems are both resampled, in pairs.

    a, b: seed -> problem id -> (samples, correct). (NaN, NaN) with fewer than two common seeds or no common problem.
    """
    seeds = sorted(set(a) & set(b))
    a, b = ({s: side[s] for s in seeds} for side in (a, b))
    problems = common_problems(a, b)
    if len(seeds) < 2 or not problems:
        return math.nan, math.nan
    upper, lower = rates(a, seeds, problems), rates(b, seeds, problems)
    return resampled_gap(upper, lower, confidence, resamples, np.random.default_rng(seed))


def resampled_gap(
    a: np.ndarray, b: np.ndarray, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """`bootstrap_difference` on rates of shape (seeds, problems)."""
    problems = a.shape[1]
    # Multinomial weights and matrix products: the same draws as indexing with random indices, and faster.
    shares = _shares(rng, len(a), resamples)
    means = []
    for part in np.array_split(np.arange(resamples), max(1, resamples * problems // 5_000_000)):
        gaps = shares[part] @ a - shares[part] @ b
        means.append((gaps * _shares(rng, problems, len(part))).sum(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def sign_flip_p(values: Sequence[float], draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences under random signs: all 2ⁿ patterns for n ≤ 12, else `draws` random
    ones and the observed one. The smallest p is 2 / 2ⁿ, 0.0625 for 5 seeds. NaN values are left out; NaN for n < 2.
    """
    kept = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    n = len(kept)
    if n < 2:
        return math.nan
    if n <= 12:
        # scipy.stats.permutation_test gives the same p and is slower: 5 times at n = 5, 150 times at n = 10.
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.vstack([np.ones(n), np.random.default_rng(seed).choice([-1, 1], (draws, n))])
    sums = np.abs(signs @ kept)
    return float((sums >= abs(kept.sum()) - 1e-9 * np.abs(kept).sum()).mean())


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of `scores` without the lowest and the highest quarter (rounded down). NaN entries are left out; NaN if no
    entry remains.
    """
    return float(_trimmed(np.ravel(np.asarray(scores, dtype=float))[None])[0])


def iqm(
    scores: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    resample: str = "benchmark",
) -> Estimate:
    """Interquartile mean over seeds and benchmarks, `scores` (seeds, benchmarks), NaN where a run is missing.

    resample: "benchmark" resamples seeds within each benchmark, as if each score came from a run of its own; "run"
    resamples whole rows, which is right where one training run gave all scores of its row. Raises ValueError for
    another value or another shape.
    """
    scores = _matrix(scores, resample)
    rng = np.random.default_rng(seed)
    seeds = int((~np.isnan(scores)).any(1).sum())
    value = interquartile_mean(scores)
    if seeds < 2:
        return Estimate(value, math.nan, math.nan, seeds)
    if resample == "run":
        kept = scores[(~np.isnan(scores)).any(1)]
        drawn = kept[rng.integers(0, seeds, (resamples, seeds))].reshape(resamples, -1)
    else:
        columns = [column[~np.isnan(column)] for column in scores.T]
        drawn = np.concatenate([c[rng.integers(0, len(c), (resamples, len(c)))] for c in columns if len(c)], axis=1)
    return Estimate(value, *expanded_percentiles(_trimmed(drawn), seeds, confidence), seeds)


def probability_of_improvement(
    a: np.ndarray,
    b: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    resample: str = "benchmark",
) -> Estimate:
    """Probability that a run of `a` scores above a run of `b`, averaged over benchmarks. A tie counts half.

    a, b: (seeds, benchmarks), the same benchmarks, NaN where a run is missing. Benchmarks that one side lacks are left
    out. `resample` as in `iqm`. 0.5: neither is better. Raises ValueError for shapes that do not match.
    """
    a, b = _matrix(a, resample), _matrix(b, resample)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"probability_of_improvement: {a.shape[1]} benchmarks against {b.shape[1]}")
    shared = (~np.isnan(a)).any(0) & (~np.isnan(b)).any(0)
    a, b = a[:, shared], b[:, shared]
    n = min(int((~np.isnan(side)).any(1).sum()) for side in (a, b)) if shared.any() else 0
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    there = (~np.isnan(a))[:, None] & (~np.isnan(b))[None]  # (seeds of a, seeds of b, benchmarks)
    wins = np.where(there, (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None]), 0.0)
    value = float((wins.sum((0, 1)) / there.sum((0, 1))).mean())
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)
    run_shares = _shares(rng, len(a), resamples), _shares(rng, len(b), resamples)
    total, counted = np.zeros(resamples), np.zeros(resamples)
    for m in range(a.shape[1]):
        if resample == "run":
            wa, wb = run_shares
        else:
            wa, wb = (_shares(rng, len(side), resamples, ~np.isnan(side[:, m])) for side in (a, b))
        won = ((wa @ wins[..., m]) * wb).sum(1)
        weight = ((wa @ there[..., m]) * wb).sum(1)
        drawn = weight > 0  # a resample of whole runs can hold no run with this benchmark
        total[drawn] += won[drawn] / weight[drawn]
        counted += drawn
    values = total[counted > 0] / counted[counted > 0]
    return Estimate(value, *expanded_percentiles(values, n, confidence), n)


def rankings(
    scores: Mapping[str, np.ndarray],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Rank]:
    """Methods by their mean over benchmarks, best first, with intervals of the rank over resampled seeds.

    scores: method -> (seeds, benchmarks); row k of every method is the same seed. A seed that one method lacks (a NaN
    in its row) is left out for all. A method without a complete row comes last and has no rank. Equal means get the
    mean of their ranks. Raises ValueError where methods differ in shape.
    """
    from scipy import stats

    names, tables = list(scores), [_matrix(table, "run") for table in scores.values()]
    if len({table.shape for table in tables}) > 1:
        raise ValueError("rankings: all methods need the same seeds and benchmarks")
    complete = {name: ~np.isnan(table).any(1) for name, table in zip(names, tables, strict=True)}
    absent = [name for name in names if not complete[name].any()]
    names = [name for name in names if name not in absent]
    shared = np.all([complete[name] for name in names], axis=0)
    means = [np.asarray(scores[name], dtype=float)[shared].mean(1) for name in names]
    n = min(map(len, means), default=0)
    if n == 0:
        names, absent = [], [*names, *absent]
    unranked = [Rank(name, Estimate(math.nan, math.nan, math.nan, 0), math.nan) for name in absent]
    if not names:
        return unranked
    value = stats.rankdata([-side.mean() for side in means])
    shares = _shares(np.random.default_rng(seed), n, resamples)
    drawn = np.stack([shares @ m for m in means], axis=1)
    drawn = stats.rankdata(-np.round(drawn, 9), axis=1)  # weighted sums of equal scores differ in their last digit
    leads = drawn == drawn.min(1, keepdims=True)
    first = (leads / leads.sum(1, keepdims=True)).mean(0)
    limits = [expanded_percentiles(column, n, confidence) if n > 1 else (math.nan, math.nan) for column in drawn.T]
    found = [
        Rank(name, Estimate(float(v), *limit, n), float(f) if n > 1 else math.nan)
        for name, v, limit, f in zip(names, value, limits, first, strict=True)
    ]
    return sorted(found, key=lambda entry: entry.rank.value) + unranked


def expanded_percentiles(values: np.ndarray, n: int, confidence: float) -> tuple[float, float]:
    """Limits of resampled `values` from n seeds: the quantiles at Φ(±t √(n/(n−1))), t with n − 1 degrees of freedom.
    For the mean of normal values they are Student's t limits. With n ≤ 3 they are close to the extremes.
    """
    from scipy import stats

    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _shares(rng: np.random.Generator, n: int, resamples: int, present: np.ndarray | None = None) -> np.ndarray:
    """Weights of n resampled units, (resamples, n): times drawn over the number of draws. `present` (n,) bool."""
    present = np.ones(n, dtype=bool) if present is None else present
    size = int(present.sum())
    return rng.multinomial(size, present / size, resamples) / size


def _trimmed(values: np.ndarray) -> np.ndarray:
    """25 % trimmed mean of each row, (rows, entries) -> (rows,). NaN entries are left out."""
    # scipy.stats.trim_mean gives the same to 4e-14 and is 1.8 times slower, with NaN entries 135 times.
    sums = np.concatenate([np.zeros((len(values), 1)), np.nancumsum(np.sort(values, axis=1), axis=1)], axis=1)
    size = (~np.isnan(values)).sum(1)  # NaN sorts to the end
    cut, row = (0.25 * size).astype(int), np.arange(len(values))
    with np.errstate(invalid="ignore"):
        return (sums[row, size - cut] - sums[row, cut]) / (size - 2 * cut)


def _matrix(scores: np.ndarray, resample: str) -> np.ndarray:
    if resample not in RESAMPLE:
        raise ValueError(f"resample={resample!r}: choose one of {', '.join(RESAMPLE)}")
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"scores of shape {table.shape}: (seeds, benchmarks) is needed")
    return table
