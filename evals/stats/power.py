"""How large a difference a design can see: variance components from the runs' own counts, the minimum detectable
effect of seeds × problems × samples, and the interval of a published one-run cell.

Model of a score, in percentage points: run s on problem p is right with chance

    θ_sp = mean + problem_p + seed_s + interaction_sp,        each sample right or wrong with that chance,

so that one run's score over P problems with K samples each has, the problems being given, the variance
seed + interaction / P + sampling / (P K). The four variances are moment estimates (two-way analysis of variance, and
K y (1 − y) / (K − 1) for the sampling of one answer), unbiased and therefore sometimes negative; they are shown as 0
and calculated with as they are. With them, `minimum_detectable_effect` at a study's own design is exactly the
`detectable` of a paired `evals.stats.comparison.difference`: that one reports a finished comparison, this one plans the
next. (Unpaired, the report takes Welch's observed degrees of freedom, the plan all those that may come.)
"""

import math
from dataclasses import dataclass

import numpy as np

from evals.stats.bootstrap import Counts, common_problems, rates
from evals.stats.comparison import detectable_effect, noncentrality


@dataclass(frozen=True)
class Design:
    """Training seeds per method, problems of the benchmark, samples of each problem."""

    seeds: int
    problems: int
    samples: int


@dataclass(frozen=True)
class Components:
    """Variances in pt²: `seed` and `problem` of their effects, `interaction` of seed × problem, `sampling` of a single
    answer, `residual` = interaction + sampling / samples; `mean` in pt.

    paired: the components of the gaps between two methods' paired runs (`problem`: how differently the methods treat
    problems), else of one method's runs. samples: per problem, the harmonic mean. With one sample per problem sampling
    and interaction cannot be told apart and are NaN.
    """

    mean: float
    seed: float
    interaction: float
    problem: float
    sampling: float
    residual: float
    seeds: int
    problems: int
    samples: float
    paired: bool

    def sd(self, name: str) -> float:
        """A component as an SD in points, 0 where its estimate is negative."""
        variance = getattr(self, name)
        return variance if math.isnan(variance) else math.sqrt(max(0.0, variance))

    def run_variance(self, problems: int, samples: float) -> float:
        """Variance (pt²) of one run's score, or of one pair's gap, on given problems. NaN where `sampling` is unknown
        and the number of samples is another.
        """
        if math.isclose(samples, self.samples):
            return self.seed + self.residual / problems
        return self.seed + self.interaction / problems + self.sampling / (problems * samples)

    @property
    def sentence(self) -> str:
        """The components as SDs of one run's score, e.g. `seed sd 2.0 pt, seed × problem sd 0.6 pt, sampling sd
        0.9 pt (30 problems × 16 samples, 5 seeds)`.
        """
        parts = {
            "seed": self.sd("seed"),
            "seed × problem": self.sd("interaction") / math.sqrt(self.problems),
            "sampling": self.sd("sampling") / math.sqrt(self.problems * self.samples),
        }
        shown = ", ".join(f"{name} sd {'unknown' if math.isnan(v) else f'{v:.1f} pt'}" for name, v in parts.items())
        return f"{shown} ({self.problems} problems × {self.samples:g} samples, {self.seeds} seeds)"


def variance_components(a: Counts, b: Counts | None = None) -> Components:
    """Moment estimates from per-problem counts, seed -> problem id -> (samples, correct), of several seeds.

    With `b` the components of a − b, paired by seed and problem. Only problems that every seed has are used. Raises
    ValueError for fewer than two (common) seeds or problems.
    """
    sides = [a] if b is None else [a, b]
    seeds = sorted(set.intersection(*(set(side) for side in sides)))
    sides = [{s: side[s] for s in seeds} for side in sides]
    problems = common_problems(*sides)
    if len(seeds) < 2 or len(problems) < 2:
        raise ValueError(f"variance_components: {len(seeds)} seeds, {len(problems)} problems; two of each are needed")
    shares = [100 * rates(side, seeds, problems) for side in sides]  # (seeds, problems), points
    sizes = [np.array([[side[s][p][0] for p in problems] for s in seeds], dtype=float) for side in sides]
    table = shares[0] - shares[1] if b is not None else shares[0]
    n, m = table.shape
    by_seed, by_problem, mean = table.mean(1), table.mean(0), table.mean()
    rest = table - by_seed[:, None] - by_problem + mean
    residual = float((rest**2).sum() / ((n - 1) * (m - 1)))
    samples = float(1 / np.mean([1 / size for size in sizes]))
    sampling = math.nan
    if min(size.min() for size in sizes) > 1:
        # Of one answer; the gap of two runs has the sum of both.
        single = [size / (size - 1) * share * (100 - share) for share, size in zip(shares, sizes, strict=True)]
        sampling = float(sum((one / size).mean() for one, size in zip(single, sizes, strict=True))) * samples
    return Components(
        mean=float(mean),
        seed=float(by_seed.var(ddof=1)) - residual / m,
        interaction=residual - sampling / samples,
        problem=float(by_problem.var(ddof=1)) - residual / n,
        sampling=sampling,
        residual=residual,
        seeds=n,
        problems=m,
        samples=samples,
        paired=b is not None,
    )


def minimum_detectable_effect(
    components: Components,
    design: Design,
    power: float = 0.8,
    alpha: float = 0.05,
    problems_drawn: bool = False,
) -> float:
    """Smallest true difference (pt) between two methods that `design` finds with `power`, two-sided.

    Components of paired gaps: the paired t test over seeds; components of one method: Welch's test of two such
    methods, unpaired. problems_drawn: the difference is to hold for other problems of the kind as well, as the
    bootstrap over problems and seeds demands; needs paired components, and takes the t distribution of the seeds, a
    little on the safe side. A claim needs both, so the larger of the two numbers is the one to plan with. NaN where
    the components leave no variance or cannot say. Raises ValueError for fewer than 2 seeds, or for `problems_drawn`
    with one method's components (what the methods have in common cancels; only gaps show what does not).
    """
    if design.seeds < 2:
        raise ValueError("minimum_detectable_effect: a design needs at least 2 seeds")
    variance = components.run_variance(design.problems, design.samples)
    if problems_drawn:
        if not components.paired:
            raise ValueError("minimum_detectable_effect: problems_drawn needs components of paired gaps")
        variance += max(0.0, components.problem) * design.seeds / design.problems
    if not variance > 0:
        return math.nan
    if components.paired:
        return detectable_effect(math.sqrt(variance), design.seeds, power, alpha)
    return _welch_noncentrality(design.seeds, power, alpha) * math.sqrt(2 * variance / design.seeds)


def _welch_noncentrality(n: int, power: float, alpha: float) -> float:
    """`noncentrality` for Welch's test of two arms of n seeds and equal spread.

    Its degrees of freedom depend on the ratio of the two observed variances, which is independent of their sum; given
    the ratio the statistic is a noncentral t with 2n − 2. Taking 2n − 2 for the critical value as well would promise
    80 % and give 76 % with 4 seeds.
    """
    from scipy import optimize, stats

    ratio = stats.f.ppf((np.arange(200) + 0.5) / 200, n - 1, n - 1)
    critical = stats.t.ppf(1 - alpha / 2, (n - 1) * (1 + ratio) ** 2 / (1 + ratio**2))
    start = noncentrality(2 * n - 2, power, alpha)
    return float(optimize.brentq(lambda d: stats.nct.sf(critical, 2 * n - 2, d).mean() - power, start / 2, start * 4))


def problem_interval(
    score: float, n_problems: int, samples: int = 1, confidence: float = 0.95, correlation: float = 1.0
) -> tuple[float, float]:
    """Interval (per cent) that a published score of one run would have had from its choice of problems alone.

    Wilson's interval with the effective number of answers P K / (1 + (K − 1) ρ), ρ the correlation of two answers to
    one problem. A published cell does not tell ρ. The default 1, every problem either always or never solved, is the
    widest: it depends on the number of problems only, whatever `samples`. Training seeds are not in it at all, so two
    methods whose intervals do not touch may still differ by their seeds alone. Raises ValueError for a score outside
    0..100, a correlation outside 0..1, or no problems.
    """
    if not 0 <= score <= 100 or not 0 <= correlation <= 1:
        raise ValueError(f"problem_interval: score {score} (0..100), correlation {correlation} (0..1)")
    if n_problems < 1 or samples < 1:
        raise ValueError(f"problem_interval: {n_problems} problems with {samples} samples")
    from scipy import stats

    p, n = score / 100, n_problems * samples / (1 + (samples - 1) * correlation)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return 100 * max(0.0, low), 100 * min(1.0, high)
