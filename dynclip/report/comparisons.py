"""The numbers that tables, figures and report share: values per seed, curves at a share of training, differences.

Methods are compared at equal steps and at equal reward, because a looser bound also learns faster, and learning lowers
entropy.
"""

import math

from dynclip.report.evidence import Evidence, counts
from evals.stats import Difference, at_equal_success, difference, judge, smooth


def seed_means(evidence: Evidence, benchmark: str, method: str, checkpoint: str = "final") -> dict[int, float]:
    """seed -> avg@k in per cent, from the per-problem counts."""
    return {
        seed: 100 * sum(c / n for n, c in counts(score).values()) / score["n_problems"]
        for seed, score in evidence.select(benchmark, method, checkpoint).items()
    }


def flexible_means(evidence: Evidence, benchmark: str, method: str, checkpoint: str = "final") -> dict[int, float]:
    """seed -> avg@k in per cent with unmarked answers counted as well."""
    return {
        seed: 100 * score["flexible"]["avg_at_k"]["value"]
        for seed, score in evidence.select(benchmark, method, checkpoint).items()
    }


def at_share(values: list[float], percent: float, width: float = 5) -> float:
    """A curve's value at a share of training: the mean over `width` % of the steps around it, fewer at the ends."""
    centre, half = round(percent / 100 * (len(values) - 1)), int(len(values) * width / 200)
    window = [v for v in values[max(0, centre - half) : centre + half + 1] if not math.isnan(v)]
    return sum(window) / len(window) if window else math.nan


def entropy_at_reward(evidence: Evidence, level: float) -> dict[str, dict[int, float]]:
    """method -> seed -> entropy (nats) when the smoothed reward first reaches `level`. NaN for runs that never reach it
    or start there.
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
    """The reward at which entropies are compared: half of the gain of the slowest run. NaN without a gain."""
    curves = [smooth(c) for method in evidence.methods for c in evidence.curves("train/reward", method).values()]
    if not curves:
        return math.nan
    start, slowest = sum(c[0] for c in curves) / len(curves), min(max(c) for c in curves)
    return start + (slowest - start) / 2 if slowest > start else math.nan


def benchmark_differences(evidence: Evidence, checkpoint: str = "final") -> list[Difference]:
    """Every method against the baseline on every benchmark, with Holm's correction over all of them."""
    baseline = evidence.baseline
    family = []
    for benchmark in evidence.benchmarks:
        base_counts = {s: counts(score) for s, score in evidence.select(benchmark, baseline, checkpoint).items()}
        for method in evidence.methods:
            if method == baseline:
                continue
            these = {s: counts(score) for s, score in evidence.select(benchmark, method, checkpoint).items()}
            family.append(
                difference(
                    seed_means(evidence, benchmark, method, checkpoint),
                    seed_means(evidence, benchmark, baseline, checkpoint),
                    (method, baseline),
                    benchmark,
                    (these, base_counts),
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
