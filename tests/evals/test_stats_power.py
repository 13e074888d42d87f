"""Variance components, minimum detectable effect and the interval of a published cell."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evals.stats import (
    Components,
    Design,
    difference,
    minimum_detectable_effect,
    problem_interval,
    variance_components,
)

SDS = {"seed": 4.0, "interaction": 8.0, "problem": 20.0}  # points


def chances(rng, seeds, problems, mean=50.0):
    """θ of the additive model, (seeds, problems), in points."""
    return (
        mean
        + rng.normal(0, SDS["seed"], (seeds, 1))
        + rng.normal(0, SDS["problem"], problems)
        + rng.normal(0, SDS["interaction"], (seeds, problems))
    )


def counts(rng, theta, samples):
    right = rng.binomial(samples, np.clip(theta, 0, 100) / 100)
    return {s: {f"p{i}": (samples, int(c)) for i, c in enumerate(row)} for s, row in enumerate(right)}


def shares(side):
    return np.array([[100 * c / n for n, c in row.values()] for row in side.values()])


def rated(side):
    return {s: float(np.mean([100 * c / n for n, c in row.values()])) for s, row in side.items()}


def variances(side):
    """The components of one method's runs: of its gaps to a method that solves nothing."""
    nothing = {s: {p: (n, 0) for p, (n, _) in row.items()} for s, row in side.items()}
    return variance_components(side, nothing)


def off_diagonal(matrix):
    return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))


def test_components_are_covariances_between_problems_and_between_seeds():
    rng = np.random.default_rng(0)
    side = counts(rng, chances(rng, 5, 30), 8)
    found, table = variances(side), shares(side)
    assert found.seed == pytest.approx(off_diagonal(np.cov(table, rowvar=False)))
    assert found.problem == pytest.approx(off_diagonal(np.cov(table)))
    within = np.array([[np.var([100] * c + [0] * (n - c), ddof=1) for n, c in row.values()] for row in side.values()])
    assert found.sampling == pytest.approx(within.mean())
    whole = np.trace(np.cov(table, rowvar=False)) / 30  # of one problem over seeds: seed + interaction + sampling / 8
    assert found.seed + found.interaction + found.sampling / 8 == pytest.approx(whole)


def test_components_find_the_model_again():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(120):
        parts = variances(counts(rng, chances(rng, 5, 40), 8))
        found.append([parts.seed, parts.interaction, parts.problem])
    found = np.array(found)
    error = found.std(0, ddof=1) / math.sqrt(len(found))
    truth = np.array([SDS["seed"], SDS["interaction"], SDS["problem"]]) ** 2
    # Chances are cut at 0 and 100 in one problem of eighty, which takes a little off every variance.
    assert (np.abs(found.mean(0) - truth) < 3.5 * error + 0.03 * truth).all()


def test_gaps_have_the_sampling_of_both():
    rng = np.random.default_rng(2)
    a, b = (counts(rng, chances(rng, 4, 25), k) for k in (4, 16))
    gap, one, other = variance_components(a, b), variances(a), variances(b)
    assert gap.sampling / gap.samples == pytest.approx(one.sampling / 4 + other.sampling / 16)
    assert gap.mean == pytest.approx(one.mean - other.mean)
    assert gap.seed == pytest.approx(off_diagonal(np.cov(shares(a) - shares(b), rowvar=False)))


def test_planning_agrees_with_reporting():
    rng = np.random.default_rng(3)
    a, b = (counts(rng, chances(rng, 6, 30), 4) for _ in range(2))
    parts = variance_components(a, b)
    paired = difference(rated(a), rated(b), ("a", "b"), "x")
    assert minimum_detectable_effect(parts, Design(6, 30, 4)) == pytest.approx(paired.detectable)
    assert minimum_detectable_effect(parts, Design(12, 30, 4)) < paired.detectable
    more = minimum_detectable_effect(parts, Design(6, 30, 32)), minimum_detectable_effect(parts, Design(6, 300, 4))
    assert max(more) < paired.detectable
    assert minimum_detectable_effect(parts, Design(6, 30, 4), problems_drawn=True) > paired.detectable


def test_problems_drawn_covers_other_problems_by_simulation():
    parts = Components(2.0, 1.0, 0.0, 300.0, 0.0, 0.0, 5, 40, 1.0)
    effect = minimum_detectable_effect(parts, Design(8, 40, 1), problems_drawn=True)
    rng = np.random.default_rng(5)
    se = math.sqrt(1 / 8 + 300 / 40)
    found = rng.normal(effect, se, 20_000) > 1.96 * se  # what a long bootstrap over both would find
    assert 0.8 <= found.mean() < 0.93


def test_one_sample_per_problem_cannot_split_sampling_from_interaction():
    rng = np.random.default_rng(6)
    parts = variances(counts(rng, chances(rng, 5, 30), 1))
    assert math.isnan(parts.sampling) and math.isnan(parts.interaction) and parts.residual > 0
    assert "sampling sd unknown" in parts.sentence and "seed × problem sd unknown" in parts.sentence
    assert minimum_detectable_effect(parts, Design(5, 30, 1)) > 0
    assert math.isnan(minimum_detectable_effect(parts, Design(5, 30, 8)))


def test_negative_estimates_are_shown_as_zero_and_calculated_as_they_are():
    # Every seed has the same mean: less spread than the residual explains.
    side = {s: {f"p{i}": (4, 4 if (i + s) % 2 else 0) for i in range(6)} for s in range(4)}
    parts = variances(side)
    assert parts.seed < 0 and parts.sd("seed") == 0
    assert parts.sentence.startswith("seed sd 0.0 pt, seed × problem sd 25.8 pt, sampling sd 0.0 pt (6 problems × 4 sa")
    assert parts.run_variance(6, 4) == pytest.approx(0, abs=1e-9)
    assert math.isnan(minimum_detectable_effect(parts, Design(4, 6, 4)))


def test_bad_input_is_named():
    rng = np.random.default_rng(7)
    side = counts(rng, chances(rng, 2, 3), 2)
    with pytest.raises(ValueError, match="1 seeds, 3 problems"):
        variances({0: side[0]})
    with pytest.raises(ValueError, match="0 problems"):
        variance_components(side, {s: {"z": (2, 1)} for s in side})
    parts = variances(side)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        minimum_detectable_effect(parts, Design(1, 3, 2))
    for bad in ((101, 30, 1), (50, 0, 1), (50, 30, 0)):
        with pytest.raises(ValueError, match="problem_interval"):
            problem_interval(*bad)


def test_problem_interval_is_wilsons():
    for right, n in ((9, 30), (0, 30), (83, 83), (405, 500)):
        expected = scipy_stats.binomtest(right, n).proportion_ci(method="wilson")
        assert problem_interval(100 * right / n, n) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert problem_interval(30, 30, samples=32) == problem_interval(30, 30)
    low, high = problem_interval(30, 30, samples=32, correlation=0.0)
    expected = scipy_stats.binomtest(288, 960).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_problem_interval_covers_the_score_of_all_problems():
    rng = np.random.default_rng(8)
    a, b, samples, n = 0.5, 1.0, 8, 30  # chances from Beta(½, 1): correlation of two answers 1 / (1 + a + b)
    theta = rng.beta(a, b, (1500, n))
    scores = 100 * rng.binomial(samples, theta).mean(1) / samples
    for correlation, least, most in ((1 / (1 + a + b), 0.93, 0.975), (1.0, 0.98, 1.0)):
        limits = [problem_interval(score, n, samples, correlation=correlation) for score in scores]
        covered = np.mean([low <= 100 * a / (a + b) <= high for low, high in limits])
        assert least <= covered <= most
