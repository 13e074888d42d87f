"""Controllers against hand-made sequences."""

import pytest
import torch

from dynclip import METHODS, method


def signals(name, entropies, total=10, **options):
    chosen, seen = method(name, total, **options), []
    for step, entropy in enumerate(entropies):
        chosen.observe(step, entropy)
        seen.append(chosen.controller.signal)
    return seen


def test_od_hysteresis():
    """H_init 1, fraction 0.2, T 10: τ_low 0.2, τ_high(k) = 0.2 + 0.8 (1 − k/10)."""
    # step 1: 0.95 > τ_high(1) = 0.92; step 5: 0.59 < τ_high(5) = 0.6; step 6: 0.61 > τ_high(6) = 0.52
    entropies = [1.0, 0.95, 0.5, 0.19, 0.3, 0.59, 0.61, 0.2]
    assert signals("od", entropies) == [-1, 0, 0, 1, 1, 1, 0, 1]
    assert signals("od", [1.0, 0.5], initial_state=1) == [1, 1]
    # H_init = 0.5 whatever was observed: τ_low 0.1, τ_high(1) = 0.46
    assert signals("od", [0.3, 0.6, 0.1], initial_entropy=0.5) == [-1, 0, 1]


def test_adapo_moves_its_upper_bound_around_the_initial_entropy():
    """From 0.28 by 0.02: still at the start, up below it, down above it, never below 0 or above 1."""
    assert signals("adapo", [0.5, 0.4, 0.4, 0.6, 0.5]) == pytest.approx([0.28, 0.30, 0.32, 0.30, 0.30])
    assert signals("adapo", [0.5] + [0.1] * 60, total=70)[-1] == 1.0
    assert signals("adapo", [0.5] + [0.9] * 60, total=70)[-1] == 0.0
    low, high = method("adapo", 10).bounds(torch.tensor([0.5]), 0)
    assert (low.item(), high.item()) == pytest.approx((0.2, 0.28))


def test_stare_s_weight_acts_below_the_target_alone():
    """H* = 0.3: fixed at 1.1, or moved by 0.01 between 1 and 1.5 at every step and silent above the target."""
    assert signals("stare", [0.2, 0.3, 0.4, 0.1]) == [1.1, 1.0, 1.0, 1.1]
    assert signals("stare", [0.2, 0.4, 0.4, 0.1], step=0.01) == pytest.approx([1.11, 1.0, 1.0, 1.10])
    assert signals("stare", [0.1] * 60, total=70, step=0.01)[-1] == 1.5


def test_thermostat_steps_by_sign_within_its_range():
    """H* = 0.3, δ = 0.25: up below, down above, still at the target, never below 0 or above k_max."""
    assert signals("thermostat", [0.2, 0.1, 0.3, 0.4, 0.5, 0.6]) == [0.25, 0.5, 0.5, 0.25, 0.0, 0.0]
    assert signals("thermostat", [0.1] * 20, total=30)[-1] == 2.5


def test_adaptive_coefficient_acts_one_observation_later():
    """Δ = 1e-4, H* = 0.2: low, low, high, low: the coefficient moves at once, the bonus follows one step behind."""
    got = signals("adaptive_entropy", [0.1, 0.1, 0.5, 0.1, 0.1])
    assert got == pytest.approx([0.0, 1e-4, 2e-4, 0.0, 2e-4])
    assert max(signals("adaptive_entropy", [0.1] * 100, total=100)) == pytest.approx(0.005)


def test_aer_tracks_a_share_of_the_initial_entropy():
    """H_init = 1, target 0.5, η = 0.005: c rises by η (0.5 − H) and never below 0."""
    assert signals("aer", [1.0, 0.5, 0.3, 0.1]) == pytest.approx([0.0, 0.0, 0.001, 0.003])
    assert max(signals("aer", [1.0, *[0.0] * 99], total=100)) == 0.05


def test_aent_keeps_entropy_in_its_band():
    """Band (0.05, 0.23), η = 1e-3: c falls above it, rises below it, rests inside; box [1e-5, 3e-3]."""
    assert signals("aent", [0.1, 0.33, 0.01]) == pytest.approx([2e-4, 1e-4, 1.4e-4])
    assert signals("aent", [9.0]) == [1e-5] and signals("aent", [0.0] * 90, total=90)[-1] == 3e-3


def test_positive_weight_falls_below_the_target_and_rises_else():
    assert signals("par", [0.5, 0.2, 0.1, 0.1, 0.1]) == pytest.approx([0.05, 0.1, 0.05, 0.0, 0.0])
    assert signals("par", [0.5] * 30, total=30)[-1] == 1.0


def test_entropic_is_proportional_to_the_error_and_to_the_sum_of_earlier_ones():
    """H* = 0.1, K_p = 1, K_i = 0.01: errors 0.4, 0.2, −0.05."""
    got = signals("entropic", [0.5, 0.3, 0.05])
    assert got == pytest.approx([0.4, 0.2 + 0.01 * 0.4, -0.05 + 0.01 * 0.6])
    assert signals("entropic", [5.0]) == [1.0]


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if spec.controller])
def test_without_a_mean_every_controller_stays_as_it_is(name):
    chosen = method(name, total_steps=10)
    chosen.observe(0, 1.0)
    before = chosen.state_dict()
    chosen.observe(1, None)
    assert chosen.state_dict() == before
