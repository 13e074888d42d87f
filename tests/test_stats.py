"""evals.stats against scipy, against brute force and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evals.stats import (
    NO_CLAIM,
    bootstrap_difference,
    detectable_effect,
    difference,
    holm,
    judge,
    mean_interval,
)
from evals.stats.comparison import paired_values

A = {0: 52.0, 1: 55.5, 2: 51.0, 3: 58.0, 4: 54.0}
B = {0: 50.0, 1: 52.5, 2: 51.5, 3: 53.0, 4: 50.5}


def test_mean_interval_is_scipys_and_leaves_nan_out():
    values = [1.0, 2.5, 3.0, math.nan, 4.5]
    kept = [v for v in values if v == v]
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(kept), scipy_stats.sem(kept))
    found = mean_interval(values)
    assert (found.n, found.mean) == (4, pytest.approx(2.75))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_has_no_interval_and_no_claim():
    alone = mean_interval([3.0])
    assert alone.mean == 3.0 and all(map(math.isnan, (alone.low, alone.high, alone.sd)))
    gap = difference({0: 60.0}, {0: 50.0}, ("id", "grpo"), "facts")
    assert gap.verdict == NO_CLAIM and not gap.claim
    assert gap.sentence == "id vs grpo on facts: +10.0 pt, n=1, no claim"
    assert difference({0: 1.0}, {1: 1.0}, ("a", "b"), "x").sentence == "a vs b on x: no common seed, no claim"
    assert math.isnan(mean_interval([]).mean)


def test_paired_difference_is_scipys_and_pairs_by_seed():
    gap = difference(A | {7: 99.0}, dict(reversed(B.items())), ("id", "grpo"), "facts")
    test = scipy_stats.ttest_rel(list(A.values()), list(B.values()))
    interval = test.confidence_interval(0.95)
    assert gap.n == 5 and gap.p == pytest.approx(test.pvalue)
    assert (gap.low, gap.high) == pytest.approx((interval.low, interval.high))
    assert list(paired_values(A, B | {2: math.nan})) == [2.0, 3.0, 5.0, 3.5]


def test_sentence():
    gap = difference(A, {s: v + 2 - 3 * (s % 2) for s, v in A.items()}, ("id", "grpo"), "facts")
    assert gap.sentence == "id vs grpo on facts: -0.8 pt [-2.8, +1.2], 5 seeds: not distinguishable"
    nats = difference({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.49}, ("a", "b"), "entropy", unit="nats")
    assert nats.text.startswith("+0.105 nats [+0.0")


def test_detectable_effect_by_simulation():
    n, sd = 5, 2.0
    effect = detectable_effect(sd, n)
    draws = np.random.default_rng(0).normal(effect, sd, (40_000, n))
    power = (scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.01)
    assert math.isnan(detectable_effect(sd, 1)) and math.isnan(detectable_effect(0.0, 5))


def counts(rng, rates, n=16):
    return {f"p{i}": (n, int(rng.binomial(n, rate))) for i, rate in enumerate(rates)}


def study(rng, seeds, problems, shift=0.0, seed_sd=0.1):
    """Per-problem counts of a pair of methods: a's logit is `shift` above b's in the mean over training
    seeds.
    """
    hard = rng.normal(0, 1.5, problems)

    def side(by):
        logits = {s: hard + by + rng.normal(0, seed_sd) + rng.normal(0, 0.3, problems) for s in range(seeds)}
        return {s: counts(rng, 1 / (1 + np.exp(-x))) for s, x in logits.items()}

    return side(shift), side(0.0)


def test_bootstrap_is_the_plain_loop():
    a, b = study(np.random.default_rng(1), seeds=4, problems=12)
    gap = np.array([[(a[s][p][1] - b[s][p][1]) / 16 for p in a[0]] for s in range(4)])
    rng = np.random.default_rng(5)
    means = [gap[rng.integers(0, 4, 4)][:, rng.integers(0, 12, 12)].mean() for _ in range(20_000)]
    expected = np.quantile(means, [0.025, 0.975])
    found = bootstrap_difference(a, b, resamples=20_000)
    assert found == pytest.approx(tuple(expected), abs=0.004)
    assert bootstrap_difference(a, b) == bootstrap_difference(a, b)
    assert bootstrap_difference(a, b) != bootstrap_difference(a, b, seed=1)


def test_bootstrap_over_problems_alone_is_scipys():
    rng = np.random.default_rng(2)
    one, other = counts(rng, rng.random(30)), counts(rng, rng.random(30))
    found = bootstrap_difference({0: one, 1: one}, {0: other, 1: other}, resamples=20_000)
    gaps = np.array([(one[p][1] - other[p][1]) / 16 for p in one])
    expected = scipy_stats.bootstrap((gaps,), np.mean, method="percentile", rng=rng).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.01)


def test_bootstrap_needs_two_seeds_and_common_problems():
    rng = np.random.default_rng(3)
    one = counts(rng, [0.5] * 5)
    assert all(map(math.isnan, bootstrap_difference({0: one}, {0: one})))
    assert all(map(math.isnan, bootstrap_difference({0: one, 1: one}, {0: {"z": (4, 2)}, 1: {"z": (4, 2)}})))


def rated(side):
    return {s: 100 * np.mean([c / n for n, c in problems.values()]) for s, problems in side.items()}


def test_claims_between_identical_methods_are_rare_and_real_differences_are_found():
    rng = np.random.default_rng(4)

    def claims(shift, repeats=120):
        found = 0
        for _ in range(repeats):
            a, b = study(rng, seeds=5, problems=40, shift=shift)
            found += difference(rated(a), rated(b), ("a", "b"), "x", (a, b)).claim
        return found / repeats

    assert claims(0.0) <= 0.05
    assert claims(1.0) >= 0.9


def test_a_claim_needs_both_intervals_and_holm():
    base = {"where": "x", "names": ("a", "b")}
    sure = difference(A, B, **base)
    assert sure.verdict == "higher" and sure.claim
    # The same seeds' gaps, all of them made by one problem of five: problems do not agree.
    b = {s: {f"p{i}": (100, 50) for i in range(5)} for s in A}
    a = {s: side | {"p0": (100, 50 + round(5 * (A[s] - B[s])))} for s, side in b.items()}
    unsure = difference(rated(a), rated(b), counts=(a, b), **base)
    assert unsure.low > 0 and unsure.boot_low <= 0
    assert unsure.verdict == "not distinguishable (the bootstrap interval does not exclude 0)"
    flat = difference(A, {s: v + (-1) ** s for s, v in A.items()}, **base)
    judged = judge([sure, *[flat] * 3])
    assert sure.p < 0.05 < judged[0].p_holm
    assert judged[0].verdict == "not distinguishable after Holm over 4 comparisons"
    few = difference({s: A[s] for s in (0, 1, 4)}, {s: B[s] for s in (0, 1, 4)}, **base)
    assert few.verdict == "exploratory: higher, too few seeds for a claim" and not few.claim


def test_differences_without_spread_claim_nothing():
    same = difference(A, A, ("a", "b"), "x")
    assert same.verdict == "identical in every seed" and same.p == 1.0
    shifted = difference({s: v + 1 for s, v in A.items()}, A, ("a", "b"), "x")
    assert "no spread" in shifted.verdict and not shifted.claim


def test_holm_by_definition():
    p = [0.01, 0.04, 0.03, 0.005, math.nan]
    assert holm(p)[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(holm(p)[4]) and holm([]) == []
    rng = np.random.default_rng(6)
    for _ in range(50):  # rejecting by adjusted p is the step-down procedure itself
        values = rng.random(6) ** 3
        rejected = set()
        for rank, i in enumerate(np.argsort(values)):
            if values[i] > 0.05 / (6 - rank):
                break
            rejected.add(int(i))
        assert {i for i, q in enumerate(holm(values)) if q <= 0.05} == rejected
