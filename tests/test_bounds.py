"""Bounds against the paper's own numbers and against its lines in the current probability."""

import pytest
import torch

from dynclip.bounds import H_UPPER, M_LOWER, Line, lower_bound, upper_bound
from dynclip.methods import METHODS, method

Q = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0], dtype=torch.float64)


def test_dynamic_bounds_are_those_of_the_paper():
    """q = 0 … 1 → the ratio bounds that follow from H and M."""
    upper = torch.tensor([1.500, 1.463, 1.395, 1.333, 1.277, 1.225, 1.200], dtype=torch.float64)
    lower = torch.tensor([0.700, 0.709, 0.728, 0.749, 0.770, 0.793, 0.805], dtype=torch.float64)
    assert torch.allclose(1 + upper_bound(Q, H_UPPER), upper, atol=6e-4)
    assert torch.allclose(1 - lower_bound(Q, M_LOWER), lower, atol=6e-4)


def test_a_bound_on_q_clips_exactly_the_tokens_of_the_line_in_p():
    """r <= 1 + line(p) with p = r q, and r <= 1 + ε(q), are the same set (and likewise below)."""
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.rand(200_000, generator=generator, dtype=torch.float64) for _ in range(2))
    ratio = p / q
    upper, lower = H_UPPER.slope * p + H_UPPER.intercept, M_LOWER.slope * p + M_LOWER.intercept
    assert torch.equal(ratio > 1 + upper, ratio > 1 + upper_bound(q, H_UPPER))
    assert torch.equal(ratio < 1 - lower, ratio < 1 - lower_bound(q, M_LOWER))


def test_above_four_fifths_the_dynamic_upper_bound_cannot_bind():
    q = torch.linspace(0.801, 1.0, 100, dtype=torch.float64)
    assert (1 + upper_bound(q, H_UPPER) >= 1 / q).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_bounds_are_never_negative_and_never_allow_negative_ratios(name, total):
    m = method(name, total)
    for step in range(total + 1):
        for state in (-1, 0, 1):
            low, high = m.bounds(Q, step, state)
            assert low.shape == high.shape == Q.shape
            assert (low >= 0).all() and (low <= 1).all() and (high >= 0).all()


def const(value):
    return torch.full_like(Q, value)


def expected_upper(weight):
    return upper_bound(Q, Line(weight * -0.25, weight * 0.5 + (1 - weight) * 0.2))


def expected_lower(weight):
    return lower_bound(Q, Line(weight * -0.13, weight * 0.3 + (1 - weight) * 0.2))


@pytest.mark.parametrize(
    ("name", "step", "low", "high"),
    [
        ("id", 0, const(0.2), expected_upper(1)),
        ("id", 25, const(0.2), expected_upper(0.5)),
        ("id", 50, const(0.2), const(0.2)),
        ("id", 51, expected_lower(0.98), const(0.2)),
        ("id", 75, expected_lower(0.5), const(0.2)),
        ("id", 100, const(0.2), const(0.2)),
        ("did", 0, const(0.2), const(0.2)),
        ("did", 25, const(0.2), expected_upper(0.5)),
        ("did", 50, const(0.2), expected_upper(1)),
        ("did", 51, expected_lower(0.98), expected_upper(1)),
        ("did", 100, const(0.2), expected_upper(1)),
    ],
)
def test_schedules_at_the_points_that_matter(name, step, low, high):
    got_low, got_high = method(name, 100).bounds(Q, step)
    assert torch.allclose(got_low, low) and torch.allclose(got_high, high)


@pytest.mark.parametrize("name", ["id", "did"])
def test_the_two_readings_of_phase_two_mirror_each_other(name):
    formula, prose = method(name, 100, phase2="formula"), method(name, 100, phase2="prose")
    for step in (60, 75, 90):
        assert torch.allclose(formula.bounds(Q, step)[0], prose.bounds(Q, 150 - step)[0])
    assert torch.allclose(prose.bounds(Q, 100)[0], expected_lower(1))


@pytest.mark.parametrize("switch", [0.3, 0.4, 0.5, 0.6])
def test_the_phase_proportion_moves_the_switch(switch):
    m = method("id", 200, switch=switch)
    at, after = int(switch * 200), int(switch * 200) + 1
    assert torch.allclose(m.bounds(Q, at)[1], const(0.2))
    assert m.bounds(Q, after)[0][0] > 0.29
    assert torch.allclose(m.bounds(Q, 200)[0], const(0.2))


def test_od_opens_one_side_at_a_time():
    m = method("od", 100)
    assert torch.allclose(m.bounds(Q, 10, state=1)[1], expected_upper(1))
    assert torch.allclose(m.bounds(Q, 10, state=1)[0], const(0.2))
    assert torch.allclose(m.bounds(Q, 10, state=0)[0], expected_lower(1))
    assert torch.allclose(m.bounds(Q, 10, state=0)[1], const(0.2))


def test_od_hysteresis_by_hand():
    """H_init 1, fraction 0.2, T 10: τ_low 0.2, τ_high(k) = 0.2 + 0.8 (1 − k/10)."""
    m = method("od", 10)
    seen = []
    for step, entropy in enumerate([1.0, 0.95, 0.5, 0.19, 0.3, 0.59, 0.61, 0.2]):
        m.observe(step, entropy)
        seen.append(m.controller.signal)
    # step 1: 0.95 > τ_high(1) = 0.92; step 5: 0.59 < τ_high(5) = 0.6; step 6: 0.61 > τ_high(6) = 0.52
    assert seen == [-1, 0, 0, 1, 1, 1, 0, 1]
    other = method("od", 10)
    other.load_state_dict(m.state_dict())
    assert other.state_dict() == {"initial_entropy": 1.0, "signal": 1}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: method("idd", 10), "unknown method 'idd'; the methods are: grpo"),
        (lambda: method("id", 10, slope=1), "unknown option 'slope'; it has: eps, lower"),
        (lambda: method("grpo", 10, slope=1), "it has: eps_high, eps_low"),
        (lambda: method("id", 10, phase2="maybe").bounds(Q, 9), "phase2: expected 'formula' or 'prose'"),
        (lambda: method("id", 10).bounds(Q, 11), "step: expected 0 to 10"),
        (lambda: method("id", 0), "total_steps: expected at least 1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
