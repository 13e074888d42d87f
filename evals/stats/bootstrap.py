"""Resampling training seeds and problems: intervals of a difference, of the interquartile mean, of the probability
of improvement and of ranks, and the sign-flip test.

Interquartile mean and probability of improvement after Agarwal et al. (arXiv 2108.13264). A percentile interval of
a few resampled seeds is too narrow: with five it misses the truth about three times as often as it says. The
aggregates therefore take their limits further out, where they equal Student's t interval for a normal mean
(Hesterberg, arXiv 1411.5279, "expanded percentile"); the problems-and-seeds interval is the plain one, because it
never stands without a t interval beside it. All draws come from a generator of their own, seeded by the caller.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NO_CLAIM = "n=1, no claim"
EXPLORATORY_SEEDS = 3  # up to here an interval excluding 0 is a lead to follow, not a finding
RESAMPLE = ("benchmark", "run")

Counts = Mapping[int, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval; n: training seeds behind it (of the smaller arm). NaN where the seeds
    at hand cannot give it.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def label(self) -> str:
        """What n seeds allow: "missing", "n=1, no claim", "exploratory", or "" where nothing is to be said."""
        if self.n == 0:
            return "missing"
        if self.n == 1:
            return NO_CLAIM
        return "exploratory" if self.n <= EXPLORATORY_SEEDS else ""

    def excludes(self, value: float) -> bool:
        """True if the interval exists, lies on one side of `value`, and the seeds are enough for a claim."""
        return self.n > EXPLORATORY_SEEDS and (self.low > value or self.high < value)


@dataclass(frozen=True)
class Rank:
    """A method's place, 1 the best, by its mean over benchmarks; `first`: share of the resamples that it leads, ties
    shared out.
    """

    method: str
    rank: Estimate
    first: float


def rates(counts: Counts, seeds: Sequence[int], problems: Sequence[str]) -> np.ndarray:
    """Share of correct samples, (seeds, problems)."""
    table = np.array([[counts[s][p] for p in problems] for s in seeds], dtype=float)
    return table[..., 1] / table[..., 0]


def common_problems(*sides: Counts) -> list[str]:
    """The problems that every seed of every side has."""
    cells = [set(problems) for side in sides for problems in side.values()]
    return sorted(set.intersection(*cells)) if cells else []


def bootstrap_difference(
    a: Counts, b: Counts, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0, paired: bool = True
) -> tuple[float, float]:
    """Percentile interval of mean(a) − mean(b) when seeds and problems are both drawn again, with
    replacement.

    `a`, `b`: seed -> problem id -> (samples, correct). Problems are kept in pairs, and so are seeds unless `paired`
    is False. NaN, NaN with fewer than two common seeds (unpaired: two in each arm) or no common problem: problems
    alone cannot speak for a method.
    """
    if paired:
        seeds = sorted(set(a) & set(b))
        a, b = ({s: side[s] for s in seeds} for side in (a, b))
    problems = common_problems(a, b)
    if min(len(a), len(b)) < 2 or not problems:
        return math.nan, math.nan
    upper, lower = rates(a, sorted(a), problems), rates(b, sorted(b), problems)
    return resampled_gap(upper, lower, confidence, resamples, np.random.default_rng(seed), paired)


def resampled_gap(
    a: np.ndarray, b: np.ndarray, confidence: float, resamples: int, rng: np.random.Generator, paired: bool
) -> tuple[float, float]:
    """`bootstrap_difference` on rates of shape (seeds, problems)."""
    problems = a.shape[1]
    # How often each seed and each problem is drawn: the same as indexing with drawn indices, in matrix products.
    a_share = _shares(rng, len(a), resamples)
    b_share = a_share if paired else _shares(rng, len(b), resamples)
    means = []
    for part in np.array_split(np.arange(resamples), max(1, resamples * problems // 5_000_000)):
        gaps = a_share[part] @ a - b_share[part] @ b
        means.append((gaps * _shares(rng, problems, len(part))).sum(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def sign_flip_p(values: Sequence[float], draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences when every sign could as well be the other: all 2ⁿ patterns for
    n ≤ 12, else `draws` random ones, the observed one counted among them. Never below 2 / 2ⁿ: 0.0625 for 5 seeds.
    NaN values are left out; NaN for n < 2.
    """
    kept = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    n = len(kept)
    if n < 2:
        return math.nan
    if n <= 12:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.vstack([np.ones(n), np.random.default_rng(seed).choice([-1, 1], (draws, n))])
    sums = np.abs(signs @ kept)
    return float((sums >= abs(kept.sum()) - 1e-9 * np.abs(kept).sum()).mean())


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all `scores`: a quarter of their number, rounded down, is cut off at either end. NaN
    entries are left out; NaN if nothing else is there.
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

    resample: "benchmark" draws the seeds anew within each benchmark, as if another run had been trained for each;
    "run" draws whole rows, right where one training run gave all scores of its row and they rise and fall together.
    Raises ValueError for another word or another shape.
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
    """Chance that a run of `a` scores above a run of `b`, ties counting half, averaged over benchmarks.

    a, b: (seeds, benchmarks), the same benchmarks, NaN where a run is missing; benchmarks that one side lacks are left
    out. `resample` as in `iqm`. 0.5 means that neither is better. Raises ValueError for shapes that do not match.
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
    whole = _shares(rng, len(a), resamples), _shares(rng, len(b), resamples)
    total, counted = np.zeros(resamples), np.zeros(resamples)
    for m in range(a.shape[1]):
        if resample == "run":
            wa, wb = whole
        else:
            wa, wb = (_shares(rng, len(side), resamples, ~np.isnan(side[:, m])) for side in (a, b))
        won = ((wa @ wins[..., m]) * wb).sum(1)
        weight = ((wa @ there[..., m]) * wb).sum(1)
        drawn = weight > 0  # a resample of whole runs may hold none that has this benchmark
        total[drawn] += won[drawn] / weight[drawn]
        counted += drawn
    values = total[counted > 0] / counted[counted > 0]
    return Estimate(value, *expanded_percentiles(values, n, confidence), n)


def rankings(
    scores: Mapping[str, np.ndarray],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    paired: bool = True,
) -> list[Rank]:
    """Methods by their mean over benchmarks, best first, with intervals of the rank over resampled seeds.

    scores: method -> (seeds, benchmarks); with `paired`, row k of every method is the same seed, and seeds that a
    method lacks (a NaN in the row) are left out for all. A method without one complete row comes last, without a rank.
    Equal means share the mean of their ranks. Raises ValueError where paired methods differ in shape.
    """
    names, tables = list(scores), [_matrix(table, "run") for table in scores.values()]
    if paired and len({table.shape for table in tables}) > 1:
        raise ValueError("rankings: paired methods need the same seeds and benchmarks")
    complete = {name: ~np.isnan(table).any(1) for name, table in zip(names, tables, strict=True)}
    absent = [name for name in names if not complete[name].any()]
    names = [name for name in names if name not in absent]
    if paired and names:
        complete = dict.fromkeys(names, np.all([complete[name] for name in names], axis=0))
    means = [np.asarray(scores[name], dtype=float)[complete[name]].mean(1) for name in names]
    n = min(map(len, means), default=0)
    if n == 0:
        names, absent = [], [*names, *absent]
    none = [Rank(name, Estimate(math.nan, math.nan, math.nan, 0), math.nan) for name in absent]
    if not names:
        return none
    value = _ranks(np.array([side.mean() for side in means])[None])[0]
    rng = np.random.default_rng(seed)
    shared = _shares(rng, n, resamples)
    drawn = np.stack([(shared if paired else _shares(rng, len(m), resamples)) @ m for m in means], axis=1)
    drawn = _ranks(np.round(drawn, 9))  # weighted sums of equal scores differ in their last digit
    leads = drawn == drawn.min(1, keepdims=True)
    first = (leads / leads.sum(1, keepdims=True)).mean(0)
    limits = [expanded_percentiles(column, n, confidence) if n > 1 else (math.nan, math.nan) for column in drawn.T]
    found = [
        Rank(name, Estimate(float(v), *limit, n), float(f) if n > 1 else math.nan)
        for name, v, limit, f in zip(names, value, limits, first, strict=True)
    ]
    return sorted(found, key=lambda entry: entry.rank.value) + none


def expanded_percentiles(values: np.ndarray, n: int, confidence: float) -> tuple[float, float]:
    """Limits of resampled `values` that stand for n seeds: the quantiles at Φ(±t √(n/(n−1))), t with n − 1 degrees of
    freedom. For the mean of normal values they are Student's t limits. With n ≤ 3 they are simply the extremes.
    """
    from scipy import stats

    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _shares(rng: np.random.Generator, n: int, resamples: int, present: np.ndarray | None = None) -> np.ndarray:
    """Weights of n resampled units, (resamples, n): how often each is drawn, over the number drawn."""
    present = np.ones(n, dtype=bool) if present is None else present
    size = int(present.sum())
    return rng.multinomial(size, present / size, resamples) / size


def _trimmed(values: np.ndarray) -> np.ndarray:
    """25 % trimmed mean of each row, (rows, entries) -> (rows,), NaN entries left out."""
    sums = np.concatenate([np.zeros((len(values), 1)), np.nancumsum(np.sort(values, axis=1), axis=1)], axis=1)
    size = (~np.isnan(values)).sum(1)  # NaN sorts to the end
    cut, row = (0.25 * size).astype(int), np.arange(len(values))
    with np.errstate(invalid="ignore"):
        return (sums[row, size - cut] - sums[row, cut]) / (size - 2 * cut)


def _ranks(means: np.ndarray) -> np.ndarray:
    """Rank of each column within its row, 1 for the largest, ties at their mean rank."""
    above = (means[:, None, :] > means[:, :, None]).sum(2)
    level = (means[:, None, :] == means[:, :, None]).sum(2)
    return 1 + above + (level - 1) / 2


def _matrix(scores: np.ndarray, resample: str) -> np.ndarray:
    if resample not in RESAMPLE:
        raise ValueError(f"resample={resample!r}: choose one of {', '.join(RESAMPLE)}")
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"scores of shape {table.shape}: (seeds, benchmarks) is needed")
    return table
