"""Methods against the formulas of their papers, written out token by token in plain numbers."""

import math

import pytest
import torch

from dynclip import TokenBatch, method


def batch(seed=0, rows=6, length=9, spread=0.7, **changes):
    """A batch of random probabilities below 1, both signs of A, and padding; its log-probabilities are leaves."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.rand(rows, length, generator=draw, dtype=torch.float64) * 0.98 + 0.01
    p = torch.sigmoid(torch.logit(q) + spread * torch.randn(rows, length, generator=draw, dtype=torch.float64))
    advantages = torch.randn(rows, generator=draw, dtype=torch.float64)
    mask = torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=draw)
    fields = {"advantages": advantages, "mask": mask, **changes}
    return TokenBatch(p.log().requires_grad_(), q.log(), **fields)


def slopes(chosen, tokens, step=0, **arguments):
    """∂(sum of token losses)/∂ln p, shape (B, T)."""
    output = chosen.loss(tokens, step, aggregation="fixed", length=1, **arguments)
    return torch.autograd.grad(output.loss * len(tokens.mask), tokens.logprob)[0]


def each_token(tokens):
    """(row, column, p, q, A) of every counted token."""
    p, q = tokens.logprob.detach().exp().tolist(), tokens.old_logprob.exp().tolist()
    advantages = tokens.advantages.tolist()
    for row, column in tokens.mask.nonzero().tolist():
        yield row, column, p[row][column], q[row][column], advantages[row]


@pytest.mark.parametrize("divergence", ["tv", "kl"])
@pytest.mark.parametrize(("cap", "square"), [(20.0, 0.0), (1.2, 0.0), (1e9, 1e-3)])
def test_dppo_masks_where_the_divergence_exceeds_delta_on_the_sides_of_ppo(divergence, cap, square):
    """arXiv 2602.04879: A r ∇ln p where A (r − 1) ≤ 0 or D ≤ δ, else nothing; the weight r at most `cap`."""
    delta, masked, capped = 0.05, 0, 0
    options = {"divergence": divergence, "delta": delta, "weight_cap": cap, "square": square}
    for seed in range(10):
        tokens = batch(seed)
        found = slopes(method("dppo", 10, **options), tokens)
        for row, column, p, q, a in each_token(tokens):
            kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
            inside = (abs(p - q) if divergence == "tv" else kl) <= delta
            kept = a * (p - q) <= 0 or inside
            wanted = -a * min(p / q, cap) * kept + 2 * square * math.log(p / q)
            assert found[row, column].item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
            masked, capped = masked + (not kept), capped + (p / q > cap)
        assert (found[~tokens.mask] == 0).all()
    assert masked > 20 and (capped > 20 or cap > 2)


def test_vespo_weighs_a_sequence_by_the_gamma_density_of_its_product_of_ratios():
    """arXiv 2602.10693: the slope is −φ A, φ = e^λ w^k e^(−λ w), (k, λ) = (2, 3) for A ≥ 0, else (3, 2)."""
    for seed in range(5):
        tokens = batch(seed, spread=0.3)
        found, products = slopes(method("vespo", 10), tokens), [1.0] * len(tokens.mask)
        for row, _, p, q, _ in each_token(tokens):
            products[row] *= p / q
        for row, column, _, _, a in each_token(tokens):
            k, rate = (2, 3) if a >= 0 else (3, 2)
            weight = math.exp(rate) * products[row] ** k * math.exp(-rate * products[row])
            assert found[row, column].item() == pytest.approx(-a * weight)


@pytest.mark.parametrize("bound", [0.4, 0.1])
def test_gmpo_has_the_gradient_of_the_geometric_mean(bound):
    """arXiv 2507.20673: over a response, −A exp(mean of ln r clipped on the side of A)."""
    for seed in range(5):
        tokens = batch(seed)
        output = method("gmpo", 10, log_low=bound, log_high=bound).loss(tokens, 0, aggregation="sequence")
        found = torch.autograd.grad(output.loss, tokens.logprob)[0]
        loss = 0.0
        for row, mask in enumerate(tokens.mask):
            ratio = (tokens.logprob[row] - tokens.old_logprob[row])[mask]
            a = tokens.advantages[row]
            kept = (
                torch.minimum(ratio, ratio.new_tensor(bound))
                if a > 0
                else torch.maximum(ratio, -ratio.new_tensor(bound))
            )
            loss = loss - a * kept.mean().exp() / len(tokens.mask)
        assert output.loss.item() == pytest.approx(loss.item())
        assert torch.allclose(found, torch.autograd.grad(loss, tokens.logprob)[0])


def test_dro_is_reinforce_with_a_quadratic_penalty():
    """∂/∂ln p of −A ln p + (β/2)(ln r)² is −A + β ln r."""
    tokens = batch(1)
    found = slopes(method("dro", 10, beta=0.7), tokens)
    for row, column, p, q, a in each_token(tokens):
        assert found[row, column].item() == pytest.approx(-a + 0.7 * math.log(p / q))
