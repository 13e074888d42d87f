"""The aggregates over benchmarks, against scipy and against plain loops."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evals.stats import (
    NO_CLAIM,
    Estimate,
    interquartile_mean,
    iqm,
    mean_test,
    probability_of_improvement,
    rankings,
    sign_flip_p,
)
from evals.stats.bootstrap import expanded_percentiles

NAN = math.nan


def test_mean_test_is_scipys():
    spread, p = mean_test([1.0, NAN, 2.5, 0.5, -0.2])
    assert p == pytest.approx(scipy_stats.ttest_1samp([1.0, 2.5, 0.5, -0.2], 0).pvalue) and spread.n == 4
    assert mean_test([0.0, 0.0])[1] == 1.0
    assert math.isnan(mean_test([1.0, 1.0])[1]) and math.isnan(mean_test([1.0, 1.0])[0].low)
    assert math.isnan(mean_test([1.0])[1])


def test_sign_flips_are_scipys_permutation_test():
    values = np.array([0.3, -0.1, 0.5, 0.2, 0.4, 0.1, 0.25])
    exact = scipy_stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p([*values, NAN]) == pytest.approx(exact.pvalue)
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 32
    many = np.random.default_rng(2).normal(0.3, 1, 14)
    exact = scipy_stats.permutation_test((many,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(many) == pytest.approx(exact.pvalue, abs=0.01) and sign_flip_p(many) == sign_flip_p(many)
    assert math.isnan(sign_flip_p([1.0])) and sign_flip_p([0.0, 0.0]) == 1.0


def test_expanded_percentiles_are_students_interval_for_a_normal_mean():
    n, sd = 5, 2.0
    # The bootstrap distribution of a mean has the variance sd² (n − 1) / n².
    grid = scipy_stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000, 10, sd * math.sqrt(n - 1) / n)
    expected = scipy_stats.t.interval(0.95, n - 1, 10, sd / math.sqrt(n))
    assert expanded_percentiles(grid, n, 0.95) == pytest.approx(expected, abs=1e-3)


def test_interquartile_mean_is_scipys_trimmed_mean():
    rng = np.random.default_rng(3)
    for shape in ((5, 6), (3, 1), (4, 3), (1, 1)):
        scores = rng.normal(50, 10, shape)
        assert interquartile_mean(scores) == pytest.approx(scipy_stats.trim_mean(scores, 0.25, axis=None))
        assert iqm(scores).value == pytest.approx(interquartile_mean(scores))
    scores = rng.normal(50, 10, (5, 6))
    scores[1, 2] = scores[4] = NAN
    assert interquartile_mean(scores) == pytest.approx(scipy_stats.trim_mean(scores[~np.isnan(scores)], 0.25))
    assert iqm(scores).n == 4
    assert math.isnan(interquartile_mean(np.full((2, 2), NAN)))


@pytest.mark.parametrize("resample", ["benchmark", "run"])
def test_iqm_interval_is_the_plain_loop(resample):
    scores = np.random.default_rng(4).normal(50, 10, (6, 3)) + np.array([0, 5, 10])
    scores[2, 1] = NAN
    rng = np.random.default_rng(5)
    values = []
    for _ in range(4000):
        if resample == "run":
            drawn = scores[rng.integers(0, 6, 6)].ravel()
        else:
            columns = [column[~np.isnan(column)] for column in scores.T]
            drawn = np.concatenate([rng.choice(column, len(column)) for column in columns])
        values.append(scipy_stats.trim_mean(drawn[~np.isnan(drawn)], 0.25))
    found = iqm(scores, 0.8, resamples=20_000, resample=resample)
    assert (found.low, found.high) == pytest.approx(expanded_percentiles(np.array(values), 6, 0.8), abs=0.3)
    assert iqm(scores, resample=resample) == iqm(scores, resample=resample)


def test_one_benchmarks_iqm_is_scipys_bootstrap_at_the_expanded_level():
    scores = np.random.default_rng(6).normal(50, 10, 12)
    tail = scipy_stats.norm.cdf(math.sqrt(12 / 11) * scipy_stats.t.ppf(0.025, 11))
    expected = scipy_stats.bootstrap(
        (scores,),
        lambda x, axis: scipy_stats.trim_mean(x, 0.25, axis=axis),
        confidence_level=1 - 2 * tail,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    found = iqm(scores[:, None], resamples=20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.4)


def test_probability_of_improvement_is_mann_whitneys():
    rng = np.random.default_rng(8)
    a, b = rng.integers(0, 8, (5, 3)).astype(float), rng.integers(0, 7, (6, 3)).astype(float)
    u = [scipy_stats.mannwhitneyu(a[:, m], b[:, m]).statistic / 30 for m in range(3)]
    assert probability_of_improvement(a, b).value == pytest.approx(np.mean(u))
    assert probability_of_improvement(b, a).value == pytest.approx(1 - np.mean(u))
    a[0, 1] = b[2] = NAN
    u = [
        scipy_stats.mannwhitneyu(x[~np.isnan(x)], y[~np.isnan(y)]).statistic / (~np.isnan(x)).sum() / 5
        for x, y in zip(a.T, b.T, strict=True)
    ]
    found = probability_of_improvement(a, b)
    assert found.value == pytest.approx(np.mean(u)) and found.n == 5
    b[:, 0] = NAN  # a benchmark that one side lacks is left out
    assert probability_of_improvement(a, b).value == pytest.approx(np.mean(u[1:]))


@pytest.mark.parametrize("resample", ["benchmark", "run"])
def test_improvement_interval_is_the_plain_loop(resample):
    rng = np.random.default_rng(9)
    a, b = rng.normal(0.5, 1, (6, 2)), rng.normal(0, 1, (7, 2))
    values = []
    for _ in range(10_000):
        rows = rng.integers(0, 6, 6), rng.integers(0, 7, 7)
        won = []
        for m in range(2):
            if resample == "benchmark":
                rows = rng.integers(0, 6, 6), rng.integers(0, 7, 7)
            won.append((a[rows[0], m][:, None] > b[rows[1], m][None]).mean())
        values.append(np.mean(won))
    found = probability_of_improvement(a, b, 0.8, resamples=20_000, resample=resample)
    assert (found.low, found.high) == pytest.approx(expanded_percentiles(np.array(values), 6, 0.8), abs=0.02)


def test_ranks_of_clear_and_of_equal_methods():
    rng = np.random.default_rng(10)
    noise = rng.normal(0, 1, (5, 2))
    scores = {"low": noise, "high": noise + 10 + rng.normal(0, 1, (5, 2)), "gone": np.full((5, 2), NAN)}
    found = rankings(scores)
    assert [entry.method for entry in found] == ["high", "low", "gone"]
    assert (found[0].rank.low, found[0].rank.high, found[0].first) == (1, 1, 1)
    assert found[2].rank.label == "missing" and math.isnan(found[2].rank.value)
    equal = rankings({"a": noise, "b": noise.copy(), "c": noise - 5})
    assert [entry.rank.value for entry in equal] == [1.5, 1.5, 3] and equal[0].first == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same seeds"):
        rankings({"a": noise, "b": noise[:4]})
    assert rankings({}) == []


def test_rank_interval_is_the_plain_loop():
    rng = np.random.default_rng(11)
    scores = {name: rng.normal(mean, 2, (6, 3)) for name, mean in (("a", 1.0), ("b", 0.5), ("c", 0.0))}
    values = []
    for _ in range(5000):
        rows = rng.integers(0, 6, 6)
        values.append(scipy_stats.rankdata([-table[rows].mean() for table in scores.values()]))
    leads = (np.array(values) == 1).mean(0)
    found = {entry.method: entry for entry in rankings(scores, 0.8)}
    assert [found[name].first for name in "abc"] == pytest.approx(leads, abs=0.03)
    for i, name in enumerate("abc"):
        limits = found[name].rank.low, found[name].rank.high
        assert limits == pytest.approx(expanded_percentiles(np.array(values)[:, i], 6, 0.8), abs=0.5)


def test_paired_ranks_leave_a_seed_out_for_all():
    scores = {"a": np.array([[1.0], [2.0], [9.0]]), "b": np.array([[1.5], [2.5], [NAN]])}
    assert [entry.method for entry in rankings(scores)] == ["b", "a"]
    assert rankings(scores)[0].rank.n == 2


def test_labels_say_what_the_seeds_allow():
    assert [Estimate(1, 0, 2, n).label for n in (0, 1, 2, 3, 4)] == [
        "missing",
        NO_CLAIM,
        "exploratory",
        "exploratory",
        "",
    ]
    alone = iqm(np.array([[50.0, 60.0]]))
    assert alone.label == NO_CLAIM and math.isnan(alone.low) and alone.value == 55
    assert probability_of_improvement(np.ones((1, 2)), np.zeros((4, 2))).label == NO_CLAIM
    three = probability_of_improvement(np.ones((3, 2)), np.zeros((3, 2)))
    assert (three.low, three.high, three.label) == (1, 1, "exploratory")
    assert rankings({"a": np.ones((1, 1)), "b": np.zeros((1, 1))})[0].rank.label == NO_CLAIM


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="resample='seed'"):
        iqm(np.ones((2, 2)), resample="seed")
    with pytest.raises(ValueError, match=r"\(seeds, benchmarks\)"):
        iqm(np.ones(3))
    with pytest.raises(ValueError, match="2 benchmarks against 3"):
        probability_of_improvement(np.ones((2, 2)), np.ones((2, 3)))
