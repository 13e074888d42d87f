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
