"""The numbers that tables, figures and report share: values per seed, curves at a share of training, differences.

Methods are compared at equal steps and at equal reward, because a looser bound also learns faster, and learning lowers
entropy.
"""

import math
from collections.abc import Sequence

from dynclip.report.evidence import BASE, Evidence, counts
from evals.metrics import pass_at_k
from evals.stats import Counts, Difference, at_equal_success, difference, judge, window
from evals.stats.comparison import noncentrality

EXACT_K = 32  # K of pass@K − pass@1 for exact scores: the largest K of the paper's figure


def scores_of(evidence: Evidence, benchmark: str, method: str, checkpoint: str = "final") -> dict[int, dict]:
    """seed -> score. The base policy has one for all seeds, or one for each seed of the evidence."""
    found = evidence.select(benchmark, method, checkpoint)
    if method != BASE:
        return found
    return {seed: found[seed] for seed in evidence.seeds if seed in found} or found


def is_exact(score: dict) -> bool:
    """Whether a score holds success probabilities, calculated and not sampled: n = 1 and c a probability."""
    return any(isinstance(problem["c"], float) for problem in score["per_problem"])


def seed_means(evidence: Evidence, benchmark: str, method: str, checkpoint: str = "final") -> dict[int, float]:
    """seed -> avg@k in per cent, from the per-problem counts. For exact scores this is pass@1."""
    return {
        seed: 100 * sum(c / n for n, c in counts(score).values()) / score["n_problems"]
        for seed, score in scores_of(evidence, benchmark, method, checkpoint).items()
    }


def flexible_means(evidence: Evidence, benchmark: str, method: str, checkpoint: str = "final") -> dict[int, float]:
    """seed -> avg@k in per cent with unmarked answers counted as well."""
    return {
        seed: 100 * score["flexible"]["avg_at_k"]["value"]
        for seed, score in scores_of(evidence, benchmark, method, checkpoint).items()
    }


def average_name(evidence: Evidence, benchmark: str) -> str:
    """Name of the average score: `avg@k`, or `pass@1` where the scores are exact."""
    score = next(s for s in evidence.scores if s["benchmark"] == benchmark)
    return "pass@1" if is_exact(score) else f"avg@{score['k']}"


def shared_counts(
    evidence: Evidence, benchmark: str, pair: tuple[str, str], checkpoint: str = "final"
) -> tuple[Counts, Counts] | None:
    """Per-problem counts of two methods. None where seeds have other problems, or the scores are exact: then only the
    seeds can be resampled.
    """
    sides = [evidence.select(benchmark, method, checkpoint) for method in pair]
    scores = [score for side in sides for score in side.values()]
    problems = {frozenset(counts(score)) for score in scores}
    if len(problems) > 1 or any(map(is_exact, scores)):
        return None
    a, b = ({seed: counts(score) for seed, score in side.items()} for side in sides)
    return a, b


def spread_of_pass(evidence: Evidence, method: str, checkpoint: str) -> dict[int, float]:
    """seed -> pass@K − pass@1 in points, mean over the benchmarks that all seeds have. K: the number of samples, and
    EXACT_K for exact scores.
    """
    by_benchmark = []
    for benchmark in evidence.benchmarks:
        found = {}
        for seed, score in evidence.select(benchmark, method, checkpoint).items():
            cells = counts(score).values()
            if is_exact(score):
                gains = [1 - (1 - c) ** EXACT_K - c for _, c in cells]
            else:
                k = min(n for n, _ in cells)
                gains = [pass_at_k(n, c, k) - c / n for n, c in cells]
            found[seed] = 100 * sum(gains) / len(gains)
        by_benchmark.append(found)
    shared = set.intersection(*map(set, by_benchmark)) if by_benchmark else set()
    return {seed: sum(found[seed] for found in by_benchmark) / len(by_benchmark) for seed in sorted(shared)}


def at_share(values: Sequence[float], percent: float, width: float = 5) -> float:
    """A curve's value at a share of training: the mean over the `window` of `width` % of the steps around it."""
    first, last = window(len(values), round(percent / 100 * (len(values) - 1)), width)
    kept = [v for v in values[int(first) : int(last)] if not math.isnan(v)]
    return sum(kept) / len(kept) if kept else math.nan


def detectable_after_holm(gap: Difference) -> float:
    """`Difference.detectable` at the level alpha / family that Holm's correction asks of the first comparison."""
    if gap.n < 2 or math.isnan(gap.detectable):
        return math.nan
    levels = (noncentrality(gap.n - 1, alpha=gap.alpha / gap.family), noncentrality(gap.n - 1, alpha=gap.alpha))
    return gap.detectable * levels[0] / levels[1]


def entropy_at_reward(evidence: Evidence, level: float) -> dict[str, dict[int, float]]:
    """method -> seed -> entropy (nats) when the reward first reaches `level` (`at_equal_success`). NaN for runs that
    never reach it or start there.
    """
    found = {}
    for method in evidence.methods:
        rewards, entropies = (
            evidence.curves("train/reward", method),
            evidence.curves("policy/entropy", method),
        )
        seeds = sorted(set(rewards) & set(entropies))
        found[method] = {seed: at_equal_success(entropies[seed], rewards[seed], level) for seed in seeds}
    return found


def common_reward(evidence: Evidence) -> float:
    """The reward at which entropies are compared: half of the gain of the slowest run, from the first 5 % of the steps
    to the last 10 %. NaN without a gain.
    """
    curves = [c for method in evidence.methods for c in evidence.curves("train/reward", method).values()]
    if not curves:
        return math.nan
    start = sum(at_share(c, 0) for c in curves) / len(curves)
    slowest = min(at_share(c, 100, 10) for c in curves)
    return start + (slowest - start) / 2 if slowest > start else math.nan


def benchmark_differences(evidence: Evidence, checkpoint: str = "final") -> list[Difference]:
    """Every method against the baseline on every benchmark, paired by seed, with Holm's correction over all of them."""
    baseline = evidence.baseline
    family = []
    for benchmark in evidence.benchmarks:
        for method in evidence.methods:
            if method == baseline:
                continue
            family.append(
                difference(
                    seed_means(evidence, benchmark, method, checkpoint),
                    seed_means(evidence, benchmark, baseline, checkpoint),
                    (method, baseline),
                    benchmark,
                    shared_counts(evidence, benchmark, (method, baseline), checkpoint),
                )
            )
    return judge(family)


def training_differences(evidence: Evidence) -> list[Difference]:
    """Entropy and reward against the baseline at half time and at the end, and entropy at equal reward. Holm's
    correction is over each of these three.
    """
    baseline = evidence.baseline
    others = [method for method in evidence.methods if method != baseline]
    families = []
    for key, name, unit, factor in (
        ("policy/entropy", "entropy", "nats", 1),
        ("train/reward", "reward", "pt", 100),
    ):
        family = []
        for percent, when in ((50, "at half time"), (100, "at the end")):
            values = {
                method: {seed: factor * at_share(c, percent) for seed, c in evidence.curves(key, method).items()}
                for method in evidence.methods
            }
            family += [
                difference(values[m], values[baseline], (m, baseline), f"{name} {when}", unit=unit) for m in others
            ]
        families.append(judge(family))
    level = common_reward(evidence)
    if not math.isnan(level):
        values = entropy_at_reward(evidence, level)
        where = f"entropy at reward {level:.2f}"
        families.append(
            judge([difference(values[m], values[baseline], (m, baseline), where, unit="nats") for m in others])
        )
    return [comparison for family in families for comparison in family]
