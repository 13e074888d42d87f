"""Losses against hand numbers and against the mathematics of clipping."""

import pytest
import torch

from dynclip import METHODS, TokenBatch, method


def batch_at(ratios, advantages, q=0.5, mask=None, **kwargs):
    """One row of tokens with the given ratios p/q and advantages."""
    ratios, advantages = torch.tensor([ratios], dtype=torch.float64), torch.tensor([advantages], dtype=torch.float64)
    old = torch.full_like(ratios, q).log()
    logprob = (old + ratios.log()).requires_grad_()
    mask = torch.ones_like(ratios) if mask is None else torch.tensor([mask], dtype=torch.float64)
    return logprob, TokenBatch(logprob, old, advantages, mask, **kwargs)


def gradient(name, ratios, advantages, step=0, state=None, **kwargs):
    logprob, batch = batch_at(ratios, advantages, **kwargs)
    output = method(name, 10).loss(batch, step, state)
    return torch.autograd.grad(output.loss, logprob)[0][0], output


def test_grpo_by_hand():
    """A = 1: ratio 1.5 is clipped to 1.2; A = −1: ratio 0.5 is clipped to 0.8; the others pass."""
    grad, output = gradient("grpo", [1.5, 1.1, 0.5, 0.9], [1.0, 1.0, -1.0, -1.0])
    assert output.per_token[0].tolist() == pytest.approx([-1.2, -1.1, 0.8, 0.9])
    assert output.loss.item() == pytest.approx((-1.2 - 1.1 + 0.8 + 0.9) / 4)
    assert grad.tolist() == pytest.approx([0.0, -1.1 / 4, 0.0, 0.9 / 4])
    assert output.metrics["clip/high_fraction"] == 0.25 and output.metrics["clip/low_fraction"] == 0.25
    assert output.metrics["policy/ratio_max"].item() == pytest.approx(1.5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", [0, 4, 6, 10])
@pytest.mark.parametrize("state", [-1, 0, 1])
def test_exactly_the_tokens_beyond_their_own_bound_lose_their_gradient(name, step, state):
    """A token is silent iff A > 0 and r > 1 + ε⁺(q), or A < 0 and r < 1 − ε⁻(q)."""
    ratios = [0.3, 0.6, 0.69, 0.74, 0.79, 0.81, 1.0, 1.19, 1.21, 1.27, 1.3, 1.35, 1.6, 3.0]
    for advantage in (1.0, -1.0, 0.0):
        grad, _ = gradient(name, ratios, [advantage] * len(ratios), step, state)
        low, high = method(name, 10).bounds(torch.tensor([0.5], dtype=torch.float64), step, state)
        for ratio, g in zip(ratios, grad.tolist(), strict=True):
            silent = advantage == 0 or (ratio > 1 + high if advantage > 0 else ratio < 1 - low)
            assert (g == 0) == bool(silent), (advantage, ratio)


@pytest.mark.parametrize("name", METHODS)
def test_one_update_per_rollout_makes_every_clipping_method_grpo(name):
    """At r = 1 nothing is clipped: loss and gradient are GRPO's exactly."""
    generator = torch.Generator().manual_seed(3)
    old = torch.log_softmax(torch.randn(4, 9, generator=generator), -1)
    advantages = torch.randn(4, generator=generator)
    results = []
    for which in ("grpo", name):
        logprob = old.clone().requires_grad_()
        loss = method(which, 10).loss(TokenBatch(logprob, old, advantages, torch.ones(4, 9)), 3).loss
        results.append((loss, torch.autograd.grad(loss, logprob)[0]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", METHODS)
def test_masked_tokens_never_contribute_whatever_they_hold(name):
    clean_grad, clean = gradient(name, [1.5, 1.1, 0.5], [1.0, 1.0, -1.0])
    for junk in (0.0, 1e9, float("nan")):
        logprob, _ = batch_at([1.5, 1.1, 0.5, 1.0], [1.0, 1.0, -1.0, 1.0])
        filled = torch.cat([logprob[:, :3], torch.full((1, 1), junk, dtype=torch.float64)], 1)
        leaf = filled.detach().requires_grad_()
        old = torch.full((1, 4), 0.5, dtype=torch.float64).log()
        advantages = torch.tensor([[1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
        mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
        output = method(name, 10).loss(TokenBatch(leaf, old, advantages, mask), 0)
        grad = torch.autograd.grad(output.loss, leaf)[0][0]
        assert output.loss.item() == pytest.approx(clean.loss.item())
        assert grad.tolist() == pytest.approx([*clean_grad.tolist(), 0.0])
        assert output.metrics["clip/high_fraction"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_extreme_ratios_and_empty_masks_stay_finite(name, aggregation):
    logprob = torch.tensor([[-20.0, 0.0, -1.0], [-1.0, -2.0, -3.0]], requires_grad=True)
    old = torch.tensor([[0.0, -20.0, -1.0], [-1.0, -2.0, -3.0]])
    for mask in (torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])):
        for advantages in (torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 0.0])):
            output = method(name, 10).loss(TokenBatch(logprob, old, advantages, mask), 5, aggregation=aggregation)
            grad = torch.autograd.grad(output.loss, logprob)[0]
            assert torch.isfinite(output.loss) and torch.isfinite(grad).all()
            assert all(torch.isfinite(value) for value in output.metrics.values())


def test_sequence_aggregation_is_the_mean_of_row_means():
    logprob, old = torch.zeros(2, 3), torch.zeros(2, 3)
    batch = TokenBatch(logprob, old, torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 0, 0], [1.0, 1, 1]]))
    grpo = method("grpo", 10)
    assert grpo.loss(batch, 0, aggregation="sequence").loss.item() == -2.0
    assert grpo.loss(batch, 0, aggregation="token").loss.item() == -10 / 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"old_logprob": torch.zeros(2, 4)}, r"old_logprob: expected shape \(2, 3\)"),
        ({"mask": torch.zeros(3)}, r"mask: expected shape \(2, 3\)"),
        ({"advantages": torch.zeros(3)}, r"advantages: expected shape \(2,\) or \(2, 3\)"),
        ({"logprob": torch.zeros(3)}, r"logprob: expected shape \(B, T\)"),
        ({"entropy": torch.zeros(2, 1)}, r"entropy: expected shape"),
    ],
)
def test_shapes_that_disagree_are_named(change, words):
    good = {"logprob": torch.zeros(2, 3), "old_logprob": torch.zeros(2, 3), "advantages": torch.zeros(2)}
    with pytest.raises(ValueError, match=words):
        TokenBatch(**{**good, "mask": torch.ones(2, 3), **change})
