"""Bounds against the paper's own numbers and against its lines in the current probability."""

import pytest
import torch

from dynclip import TokenBatch
from dynclip.methods.bounds import H_UPPER, M_LOWER, lower_bound, upper_bound
from dynclip.methods.registry import METHODS, method
from dynclip.methods.surrogate.divergence import kl_roots
from dynclip.methods.types import Line

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


STATES = {"od": (-1, 0, 1), "thermostat": (0.0, 0.25, 2.5), "adapo": (0.0, 0.28, 1.0)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_bounds_are_never_negative_and_never_allow_negative_ratios(name, total):
    m = method(name, total)
    for step in range(total + 1):
        for state in STATES.get(name, (None,)):
            low, high = m.bounds(Q, step, state)
            assert low.shape == high.shape == Q.shape
            assert (low >= 0).all() and (low <= 1).all() and (high >= 0).all()


@pytest.mark.parametrize("name", ["dynamic_upper", "dynamic_lower", "id", "did", "od"])
@pytest.mark.parametrize("step", [0, 3, 5, 6, 10])
def test_old_and_detached_current_probability_clip_the_same_tokens(name, step):
    """Reading the line at the detached current probability or solving it for r gives the same gradient, always.

    Per-token losses differ where a token is clipped (the line at p against the bound), which no gradient sees.
    """
    generator = torch.Generator().manual_seed(step)
    for state in STATES.get(name, (None,)):
        old = torch.log(torch.rand(50, 40, generator=generator, dtype=torch.float64))
        log_prob = torch.log(torch.rand(50, 40, generator=generator, dtype=torch.float64))
        advantages = torch.randn(50, generator=generator, dtype=torch.float64)
        gradients = []
        for options in ({}, {"reference": "current"}):
            leaf = log_prob.clone().requires_grad_()
            batch = TokenBatch(leaf, old, advantages, torch.ones_like(old))
            loss = method(name, 10, **options).loss(batch, step, state).loss
            gradients.append(torch.autograd.grad(loss, leaf)[0])
        assert (gradients[0] == 0).double().mean() > 0.1  # a good part was clipped
        assert torch.equal(*gradients)


def test_a_threshold_that_is_not_detached_leaks_a_gradient_against_good_tokens():
    """A > 0, r beyond the bound: the clipped value 1 + αp + β still falls with p, so the loss pushes p down."""
    q, p = 0.3, 0.6
    for detach, leak in ((True, 0.0), (False, 0.25 * p)):
        leaf = torch.tensor([[p]], dtype=torch.float64).log().requires_grad_()
        batch = TokenBatch(leaf, torch.tensor([[q]], dtype=torch.float64).log(), torch.ones(1), torch.ones(1, 1))
        chosen = method("dynamic_upper", 10, reference="current", detach=detach)
        assert torch.autograd.grad(chosen.loss(batch, 0).loss, leaf)[0].item() == pytest.approx(leak)


@pytest.mark.parametrize("name", ["id", "did"])
@pytest.mark.parametrize("phase2", ["formula", "prose"])
@pytest.mark.parametrize("switch", [0.3, 0.4, 0.5, 0.6])
@pytest.mark.parametrize("total", [1, 7, 20, 101])
def test_every_scheduled_threshold_is_a_line_in_the_current_probability(name, phase2, switch, total):
    """At each step the thresholds read at p are linear in p, so the bounds on q are of the paper's form throughout."""
    p = torch.linspace(0, 1, 11, dtype=torch.float64)
    m = method(name, total, phase2=phase2, switch=switch, reference="current")
    for step in range(total + 1):
        for bound in m.bounds(p, step):
            assert torch.allclose(bound.diff().diff(), torch.zeros(9, dtype=torch.float64), atol=1e-12)
            assert (bound >= 0.17 - 1e-12).all() and (bound <= 0.5 + 1e-12).all()


@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_short_and_odd_runs_start_and_end_where_the_schedule_says(total):
    for name, (low_start, high_start), (low_end, high_end) in (
        ("id", (const(0.2), expected_upper(1)), (const(0.2), const(0.2))),
        ("did", (const(0.2), const(0.2)), (const(0.2), expected_upper(1))),
    ):
        m = method(name, total)
        for got, wanted in zip(m.bounds(Q, 0), (low_start, high_start), strict=True):
            assert torch.allclose(got, wanted)
        for got, wanted in zip(m.bounds(Q, total), (low_end, high_end), strict=True):
            assert torch.allclose(got, wanted)
    switched = [method("id", total).bounds(Q, k)[0][0] > 0.2 + 1e-9 for k in range(total)]
    assert switched == [k > total / 2 for k in range(total)]  # the switch itself belongs to the first phase


def test_dcpo_solves_its_own_equation():
    """(r − 1) r q = ε⁺ at the upper bound and (1 − r) r q = ε⁻ at the lower, where neither is cut off."""
    low, high = method("dcpo", 10, cap=1e9).bounds(Q[1:], 0)
    assert torch.allclose((high) * (1 + high) * Q[1:], const(0.2)[1:])
    solvable = Q[1:] > 4 * 0.16
    assert torch.allclose((low * (1 - low) * Q[1:])[solvable], const(0.16)[1:][solvable])
    assert (low[~solvable] == 0.5).all()
    low, high = method("dcpo", 10).bounds(torch.tensor([0.9, 0.01, 1e-9, 0.0], dtype=torch.float64), 0)
    assert (1 - low).tolist() == pytest.approx([0.769, 0.5, 0.5, 0.5], abs=1e-3)
    assert (1 + high).tolist() == pytest.approx([1.187, 5.0, 10.0, 10.0], abs=1e-3)


def divergence(kind, q, r):
    other = (1 - r * q) / (1 - q)
    f = {"tv": lambda x: (x - 1).abs() / 2, "chi2": lambda x: (x - 1) ** 2, "kl": lambda x: x - 1 - x.log()}[kind]
    return q * f(r) + (1 - q) * f(other)


@pytest.mark.parametrize("kind", ["tv", "chi2", "kl"])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.3])
def test_bandpo_bounds_lie_on_the_divergence_ball(kind, delta):
    """Where a bound is not cut at the simplex its divergence is δ; inside the interval it is less."""
    q = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    low, high = method("bandpo", 10, divergence=kind, delta=delta, cap=1e9).bounds(q, 0)
    for r in (1 - low, 1 + high):
        free = (r > 1e-9) & (r < 1 / q - 1e-9)
        assert free.any() and torch.allclose(divergence(kind, q, r)[free], torch.full_like(q, delta)[free], atol=1e-9)
        inner = 1 + 0.9 * (r - 1)
        assert (divergence(kind, q, inner) < delta)[free].all()
    assert (1 + high <= 1 / q + 1e-12).all()


def test_bandpo_kl_roots_agree_with_bisection_in_both_precisions():
    from scipy.optimize import brentq

    q = torch.tensor([1e-6, 1e-3, 0.05, 0.2, 0.5, 0.8, 0.95, 0.999], dtype=torch.float64)
    low, high = kl_roots(q, 0.05)
    for index, value in enumerate(q.tolist()):

        def excess(r, value=value):
            r = torch.tensor(r, dtype=torch.float64)
            return divergence("kl", torch.tensor(value, dtype=torch.float64), r).item() - 0.05

        if excess(1e-12) > 0:
            assert low[index].item() == pytest.approx(brentq(excess, 1e-12, 1.0), rel=1e-6)
        edge = (1 - 1e-12) / value
        root = brentq(excess, 1.0, edge) if excess(edge) > 0 else 1 / value  # for q near 1 the root is at the simplex
        assert high[index].item() == pytest.approx(root, rel=1e-6)
    single = kl_roots(q.float(), 0.05)
    for ours, exact in zip(single, (low, high), strict=True):
        assert torch.allclose(ours.double(), exact, rtol=2e-3)


@pytest.mark.parametrize("kind", ["tv", "chi2", "kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bandpo_is_finite_and_ordered_at_the_ends_of_the_simplex(kind, dtype):
    q = torch.tensor([0.0, 1e-30, 1e-8, 1e-4, 1 - 1e-7, 1.0], dtype=dtype)
    low, high = method("bandpo", 10, divergence=kind).bounds(q, 0)
    assert torch.isfinite(low).all() and torch.isfinite(high).all()
    assert (low >= 0).all() and (low <= 1).all() and (high >= 0).all() and (1 + high <= 10).all()
    assert high[0] == 9.0  # a token that was impossible is held by the cap alone


def test_the_thermostat_opens_its_upper_bound_by_its_state():
    low, high = method("thermostat", 10).bounds(Q, 0, state=0.5)
    assert torch.allclose(1 - low, const(0.4)) and torch.allclose(1 + high, const(3.0))


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
