"""How large a difference a design can detect: variance components from per-problem counts, the minimum detectable
effect of seeds × problems × samples, and the interval of a published score of one run.

Model of a score, in percentage points: run s solves problem p with probability

    θ_sp = mean + problem_p + seed_s + interaction_sp.

Over P given problems with K samples each, one run's score has the variance

    seed + interaction / P + sampling / (P K).

The four variances are unbiased moment estimates (two-way analysis of variance, and K y (1 − y) / (K − 1) for the
sampling of one answer). They can be negative; texts show such a value as 0, calculations use it as it is. At a study's
own design `minimum_detectable_effect` equals `Difference.detectable` of `evals.stats.comparison`.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evals.stats.bootstrap import Counts, common_problems, rates
from evals.stats.comparison import detectable_effect


@dataclass(frozen=True)
class Design:
    """Training seeds per method, problems of the benchmark, samples of each problem."""

    seeds: int
    problems: int
    samples: int


@dataclass(frozen=True)
class Components:
    """Variances (pt²) of the gaps between two methods' paired runs: of the seeds, of seed × problem (`interaction`), of
    the problems (how differently the methods treat them), of a single answer (`sampling`), and `residual` =
    interaction + sampling / samples. mean: in pt. samples: per problem, the harmonic mean.

    With one sample per problem sampling and interaction cannot be separated and are NaN.
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

    def sd(self, name: str) -> float:
        """A component as an SD in points; 0 if its estimate is negative."""
        variance = getattr(self, name)
        return variance if math.isnan(variance) else math.sqrt(max(0.0, variance))

    def run_variance(self, problems: int, samples: float) -> float:
        """Variance (pt²) of one pair's gap on given problems. NaN if `sampling` is unknown and `samples` differs."""
        if math.isclose(samples, self.samples):
            return self.seed + self.residual / problems
        return self.seed + self.interaction / problems + self.sampling / (problems * samples)

    @property
    def sentence(self) -> str:
        """The components as SDs of one pair's gap, e.g. `seed sd 2.0 pt, seed × problem sd 0.6 pt, sampling sd
        0.9 pt (30 problems × 16 samples, 5 seeds)`.
        """
        parts = {
            "seed": self.sd("seed"),
            "seed × problem": self.sd("interaction") / math.sqrt(self.problems),
            "sampling": self.sd("sampling") / math.sqrt(self.problems * self.samples),
        }
        shown = ", ".join(f"{name} sd {'unknown' if math.isnan(v) else f'{v:.1f} pt'}" for name, v in parts.items())
        return f"{shown} ({self.problems} problems × {self.samples:g} samples, {self.seeds} seeds)"


def variance_components(a: Counts, b: Counts) -> Components:
    """Moment estimates of a − b, paired by seed and problem, from counts: seed -> problem id -> (samples, correct).

    Only problems that every seed has are used. Raises ValueError for fewer than two common seeds or problems.
    """
    seeds = sorted(set(a) & set(b))
    sides = [{s: side[s] for s in seeds} for side in (a, b)]
    problems = common_problems(*sides)
    if len(seeds) < 2 or len(problems) < 2:
        raise ValueError(f"variance_components: {len(seeds)} seeds, {len(problems)} problems; two of each are needed")
    shares = [100 * rates(side, seeds, problems) for side in sides]  # (seeds, problems), points
    sizes = [np.array([[side[s][p][0] for p in problems] for s in seeds], dtype=float) for side in sides]
    table = shares[0] - shares[1]
    n, m = table.shape
    by_seed, by_problem, mean = table.mean(1), table.mean(0), table.mean()
    rest = table - by_seed[:, None] - by_problem + mean
    residual = float((rest**2).sum() / ((n - 1) * (m - 1)))
    samples = float(1 / np.mean([1 / size for size in sizes]))
    sampling = math.nan
    if min(size.min() for size in sizes) > 1:
        # The variance of one answer on each side; the gap of two runs has the sum.
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
    )


def minimum_detectable_effect(
    components: Components,
    design: Design,
    power: float = 0.8,
    alpha: float = 0.05,
    problems_drawn: bool = False,
) -> float:
    """Smallest true difference (pt) between two methods that a two-sided paired t test over `design`'s seeds finds with
    `power`.

    problems_drawn: the difference must also hold for other problems of the same kind, as the bootstrap over problems
    and seeds demands. This uses the t distribution of the seeds, so the number is slightly too large. A claim needs
    both tests, so plan with the larger of the two numbers. NaN where the components give no variance. Raises ValueError
    for fewer than 2 seeds.
    """
    if design.seeds < 2:
        raise ValueError("minimum_detectable_effect: a design needs at least 2 seeds")
    variance = components.run_variance(design.problems, design.samples)
    if problems_drawn:
        variance += max(0.0, components.problem) * design.seeds / design.problems
    return detectable_effect(math.sqrt(variance), design.seeds, power, alpha) if variance > 0 else math.nan


def problem_interval(
    score: float, n_problems: int, samples: int = 1, confidence: float = 0.95, correlation: float = 1.0
) -> tuple[float, float]:
    """Interval (per cent) of a published score of one run, from the choice of its problems alone.

    Wilson's interval with the effective number of answers P K / (1 + (K − 1) ρ), where ρ is the correlation of two
    answers to one problem. Papers do not report ρ. The default 1, every problem either always or never solved, gives
    the widest interval, which does not depend on `samples`. The spread between training seeds is not included. Raises
    ValueError for a score outside 0..100, a correlation outside 0..1, or no problems.
    """
    if not 0 <= score <= 100 or not 0 <= correlation <= 1:
        raise ValueError(f"problem_interval: score {score} (0..100), correlation {correlation} (0..1)")
    if n_problems < 1 or samples < 1:
        raise ValueError(f"problem_interval: {n_problems} problems with {samples} samples")
    # scipy's binomtest takes whole numbers only; the effective number of answers is a fraction.
    p, n = score / 100, n_problems * samples / (1 + (samples - 1) * correlation)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return 100 * max(0.0, low), 100 * min(1.0, high)
