"""Areas, entropy at equal success, shapes and oscillation: by hand, by numpy and by a plain loop."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from dynclip.report import comparisons
from evals.stats import NO_CLAIM, difference
from evals.stats.curves import (
    area_between,
    at_equal_success,
    crossings,
    falls_rises_falls,
    matrix,
    oscillation,
    rises_then_falls,
    segment_slopes,
    shape,
    smooth,
)

NAN = math.nan


def test_matrix_shows_missing_as_missing():
    table = matrix({3: [1.0, 2.0, 3.0], 1: [4.0]})
    assert table.shape == (2, 3) and table[0, 0] == 4 and np.isnan(table[0, 1:]).all()
    assert matrix({}).shape == (0, 0)


def test_a_value_at_a_share_of_training_is_the_smoothed_curve_there():
    rng = np.random.default_rng(1)
    for steps in (7, 41, 160):
        curve = rng.normal(0, 1, steps)
        curve[rng.random(steps) < 0.2] = NAN
        for percent, step in ((0, 0), (100, steps - 1)):
            value = comparisons.at_share(list(curve), percent)
            assert value == pytest.approx(smooth(curve)[step], nan_ok=True)


def pairs(n, steps=20, shift=0.1):
    rng = np.random.default_rng(2)
    base = {s: rng.normal(0, 0.01, steps) for s in range(n)}
    return {s: curve + shift + rng.normal(0, 0.01) for s, curve in base.items()}, base


def test_area_is_the_paired_test_on_seeds_means():
    a, b = pairs(6)
    found = area_between(a, b, ("id", "grpo"), "entropy")
    expected = difference(
        {s: a[s].mean() for s in a}, {s: b[s].mean() for s in b}, ("id", "grpo"), "entropy", unit="nats"
    )
    assert (found.gap.effect, found.gap.low, found.gap.p) == pytest.approx((expected.effect, expected.low, expected.p))
    gaps = np.array([(a[s] - b[s]).mean() for s in a])
    flips = scipy_stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p_flip == pytest.approx(flips.pvalue) and found.p_flip == 2 / 64
    assert found.verdict == "higher" and found.claim


def test_five_seeds_leave_the_decision_to_the_t_interval_and_say_so():
    found = area_between(*pairs(5))
    assert found.p_flip == found.p_flip_least == 0.0625 and found.claim
    assert found.verdict == "higher"
    three = area_between(*pairs(3))
    assert three.verdict == "exploratory: higher, too few seeds for a claim" and not three.claim
    assert area_between(*pairs(1)).verdict == NO_CLAIM
    assert area_between({0: [1.0]}, {1: [1.0]}).verdict == "no common seed, no claim"


def test_sign_flips_can_take_a_claim_back():
    gaps = [0.01, 0.2, 0.22, 0.25, 0.3, 0.33, 0.35, -0.1]
    found = area_between({s: [gap] * 4 for s, gap in enumerate(gaps)}, {s: [0.0] * 4 for s in range(8)})
    assert found.gap.claim and found.p_flip <= 0.05
    lopsided = [0.14, 0.15, 0.15, 0.16, 0.17, -0.075]  # t: p < 0.05; 4 of 64 sign patterns are as far out
    found = area_between({s: [gap] * 4 for s, gap in enumerate(lopsided)}, {s: [0.0] * 4 for s in range(6)})
    assert found.gap.p <= 0.05 < found.p_flip
    assert found.verdict == "not distinguishable (the sign-flip test does not agree)" and not found.claim


def test_area_takes_the_steps_that_all_pairs_have():
    a, b = pairs(4, steps=10)
    a[1][2] = b[2][5] = NAN
    a[3] = a[3][:8]
    a[9], b[9] = np.full(10, NAN), np.zeros(10)  # nothing measured: absent
    found = area_between(a, b)
    kept = [0, 1, 3, 4, 6, 7]
    assert found.gap.n == 4
    assert found.gap.effect == pytest.approx(np.mean([(a[s][kept] - b[s][kept]).mean() for s in range(4)]))


def test_entropy_at_equal_success_by_hand():
    success, entropy = [0.0, 0.2, 0.4, 0.8], [1.0, 0.9, 0.7, 0.3]
    assert at_equal_success(entropy, success, 0.3, width=0) == pytest.approx(0.8)
    assert at_equal_success(entropy, success, 0.6, width=0) == pytest.approx(0.5)
    assert at_equal_success(entropy, success, 0.2, width=0) == pytest.approx(0.9)
    assert math.isnan(at_equal_success(entropy, success, 0.9, width=0))  # never reached
    assert math.isnan(at_equal_success(entropy, success, 0.0, width=0))  # there from the start
    # The regression's levels are 0, 0.3 (steps 1 and 2) and 0.9, so 0.2 is reached at step 1, not at step 0.4.
    assert at_equal_success([1.0, 0.8, 0.5, 0.2], [0.0, 0.5, 0.1, 0.9], 0.2, width=0) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="3 steps of entropy"):
        at_equal_success([1.0] * 3, [0.0] * 4, 0.1)


def test_what_was_passed_in_a_hole_is_missing():
    success, entropy = [0.0, 0.1, NAN, NAN, 0.8, 0.9], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert math.isnan(at_equal_success(entropy, success, 0.5, width=0))
    assert at_equal_success(entropy, success, 0.85, width=0) == pytest.approx(0.55)
    entropy[5] = NAN
    assert math.isnan(at_equal_success(entropy, success, 0.85, width=0))
    assert math.isnan(at_equal_success([NAN] * 6, [NAN] * 6, 0.5))


def test_entropy_at_equal_success_of_a_known_price():
    x = np.linspace(0, 1, 401)
    noise = np.random.default_rng(3).normal(0, 0.01, (2, 401))
    success, entropy = 0.2 + 0.6 * x + noise[0], 1.0 - 0.5 * x + noise[1]
    for level in (0.3, 0.4, 0.5):
        expected = 1.0 - 0.5 * (level - 0.2) / 0.6
        assert at_equal_success(entropy, success, level) == pytest.approx(expected, abs=0.03)


def test_entropy_at_equal_success_has_no_bias_from_the_noise_of_rewards():
    rng, x = np.random.default_rng(7), np.linspace(0, 1, 100)
    success = 0.4 + 0.15 * x + rng.normal(0, 0.035, (400, 100))
    entropy = np.broadcast_to(0.55 - 0.08 * x, success.shape)
    found = np.array([at_equal_success(*each, 0.475) for each in zip(entropy, success, strict=True)])
    early = np.array(
        [h[np.argmax(np.maximum.accumulate(smooth(r)) >= 0.475)] for h, r in zip(entropy, success, strict=True)]
    )
    assert abs(found.mean() - 0.51) < 0.001 and early.mean() - 0.51 > 0.005  # a running maximum is too early


def test_segment_slopes_are_polyfits():
    rng = np.random.default_rng(4)
    table = rng.normal(0, 1, (3, 31))
    table[1, 4:7] = NAN
    found = segment_slopes(table, (0, 1 / 3, 1))
    position = np.linspace(0, 1, 31)
    for row, slopes in zip(table, found, strict=True):
        for part, slope in zip((position < 1 / 3, position >= 1 / 3), slopes, strict=True):
            kept = part & ~np.isnan(row)
            assert slope == pytest.approx(np.polyfit(position[kept], row[kept], 1)[0])
    table[2, 2:9] = NAN
    assert np.isnan(segment_slopes(table, (0, 1 / 3, 1))[2]).tolist() == [True, False]


def test_lines_of_their_own_do_not_ring_where_joined_lines_would():
    x = np.linspace(0, 1, 200)
    saturating = 1 - np.exp(-12 * x)
    joined = np.linalg.lstsq(np.stack([np.ones(200), x, np.maximum(0, x - 0.5)], 1), saturating, rcond=None)[0]
    assert joined[1] > 0 and joined[1] + joined[2] < -0.1  # "rises, then falls" of a curve that never falls
    assert (segment_slopes(saturating[None], (0, 0.5, 1)) >= 0).all()
    rng = np.random.default_rng(5)
    monotone = np.cumsum(rng.exponential(1, (50, 60)) ** 3, axis=1)
    assert (segment_slopes(monotone, (0, 0.2, 0.5, 1)) > 0).all()


def bent(n, points, sd=0.02):
    rng = np.random.default_rng(6)
    x = np.linspace(0, 1, 60)
    trend = np.interp(x, np.linspace(0, 1, len(points)), points)
    return {s: trend + rng.normal(0, sd, 60) + rng.normal(0, 0.05) for s in range(n)}


def test_shapes_are_found_and_told_apart():
    tent, zigzag = bent(5, [0.4, 0.6, 0.3]), bent(5, [0.6, 0.4, 0.6, 0.3])
    assert rises_then_falls(tent).verdict == "rises, then falls" and rises_then_falls(tent).claim
    assert falls_rises_falls(zigzag).verdict == "falls, rises, falls" and falls_rises_falls(zigzag).claim
    assert not falls_rises_falls(tent).claim and not rises_then_falls(zigzag).claim
    assert rises_then_falls(tent).slopes[0].interval.mean == pytest.approx(0.4, abs=0.05)
    falling = rises_then_falls(bent(5, [0.6, 0.4, 0.3]))
    assert falling.verdict.startswith("not shown that it rises, then falls: slope at 0%-50% -0.4")
    assert "50%-100%" not in falling.verdict  # that segment does fall
    assert rises_then_falls(bent(5, [0.4, 0.6, 0.6, 0.6, 0.6]), knots=(0.25,)).slopes[0].last == 0.25


def test_shapes_of_few_or_broken_seeds():
    tent = bent(4, [0.4, 0.6, 0.3])
    assert rises_then_falls({0: tent[0]}).verdict == NO_CLAIM
    assert rises_then_falls({}).verdict == "missing"
    three = rises_then_falls({s: tent[s] for s in range(3)})
    assert three.verdict == "exploratory: rises, then falls, too few seeds for a claim" and not three.claim
    tent[3] = tent[3][:20]  # stopped early: left out, not extended
    assert (rises_then_falls(tent).n, rises_then_falls(tent).missing) == (3, 1)
    same = rises_then_falls(dict.fromkeys(range(5), tent[0]))
    assert same.verdict == "no spread between seeds to judge by, no claim"
    for knots, signs in (((0.5, 0.5), (1, 1, 1)), ((0.0,), (1, 1)), ((0.5,), (1,))):
        with pytest.raises(ValueError, match="must increase"):
            shape(tent, knots, signs, "odd")


def plain_switches(values, low, high):
    side, steps = 0, []
    for step, value in enumerate(values):
        now = 1 if value >= high else -1 if value <= low else side
        if side and now != side:
            steps.append(step)
        side = now
    return steps


def test_crossings_are_the_plain_loop():
    rng = np.random.default_rng(7)
    for _ in range(50):
        curve = np.cumsum(rng.normal(0, 1, 80))
        curve[rng.random(80) < 0.1] = NAN
        found = crossings(curve, -1.0, 1.0, width=0)
        assert list(found.steps) == plain_switches(curve, -1.0, 1.0)
        assert all(a != b for a, b in zip(found.sides, found.sides[1:], strict=False))


def test_amplitudes_by_hand():
    curve = [0.5, 0.9, 0.1, 0.0, 0.8, 1.0, 0.2, 0.1, 0.7, 0.5]
    found = crossings(curve, 0.2, 0.7, width=0)
    assert (found.steps, found.sides) == ((2, 4, 6, 8), (-1, 1, -1, 1))
    assert found.amplitudes == pytest.approx((1.0, 0.9))  # 0.0 up to 1.0, down to 0.1; the rest is not complete
    assert found.growth == pytest.approx(math.log(0.9))
    # A band that closes: by step, as OD's upper threshold does.
    assert crossings(curve, 0.2, np.linspace(0.95, 0.65, 10), width=0).steps == (5, 6, 8)
    with pytest.raises(ValueError, match="low is above high"):
        crossings(curve, 0.5, 0.4)
    assert crossings([NAN] * 5, 0.1, 0.2).steps == ()


def test_a_band_within_the_noise_is_not_looked_at():
    rng = np.random.default_rng(8)
    curve = 0.5 + rng.normal(0, 0.05, 200)
    assert len(crossings(curve, 0.49, 0.51, width=0).steps) > 20  # unsmoothed there is no noise to compare with
    narrow = crossings(curve, 0.49, 0.51)
    assert narrow.steps == () and narrow.noise == pytest.approx(0.05, rel=0.15)


def waves(n, damping=0.0, sd=0.01):
    rng = np.random.default_rng(9)
    x = np.linspace(0, 1, 160)
    return {
        s: 0.4 + 0.25 * np.exp(-damping * x) * np.cos(2 * np.pi * 5.5 * x + rng.normal(0, 0.3)) + rng.normal(0, sd, 160)
        for s in range(n)
    }


def test_oscillation_and_its_damping():
    even, damped = oscillation(waves(6), 0.35, 0.45), oscillation(waves(6, 1.5), 0.36, 0.44)
    assert even.verdict == "oscillates" and even.claim and even.damping == "no trend shown"
    assert damped.verdict == "oscillates" and damped.damping == "shrink"
    # exp(-1.5 x), half a cycle is 1/11 of training.
    assert damped.growth.mean == pytest.approx(-1.5 / 11, abs=0.03)
    assert all(7 <= len(entry.steps) <= 11 for entry in damped.seeds.values())
    by_seed = oscillation(waves(6), dict.fromkeys(range(6), 0.35), {s: [0.45] * 160 for s in range(6)})
    assert by_seed == even


def test_oscillation_is_a_claim_about_most_runs():
    still = {s: np.full(160, 0.6) for s in range(10, 13)}
    some = oscillation(waves(3) | still, 0.35, 0.45)
    assert some.verdict == "not shown that it oscillates: 3 of 6 seeds switch 3 times or more" and not some.claim
    assert some.p == pytest.approx(scipy_stats.binomtest(3, 6, alternative="greater").pvalue)
    four = oscillation(waves(4), 0.35, 0.45)
    assert four.verdict == "exploratory: 4 of 4 seeds switch 3 times or more, too few seeds for a claim"
    assert oscillation(waves(1), 0.35, 0.45).verdict == NO_CLAIM
    assert oscillation({0: [NAN, NAN]}, 0.35, 0.45).verdict == "missing"
    assert oscillation(waves(3), 0.35, 0.45).damping.startswith("too few seeds")
    assert oscillation(waves(5), 0.35, 0.45).claim
