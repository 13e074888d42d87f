"""Random mini-batches of a real softmax policy: every input a loss may need, made from logits by their definitions."""

import torch

from dynclip import TokenBatch
from dynclip.methods.vocabulary import clamped_entropy
from dynclip.regions import baseline


def entropy_of(logits):
    logprob = torch.log_softmax(logits, -1)
    return -(logprob.exp() * logprob).sum(-1)


def random_batch(seed=0, rows=4, length=9, vocabulary=7, drift=0.4, dtype=torch.float64, **changes):
    """(logits, batch): the current policy's logits (B, T, V), a leaf, and a `TokenBatch` made from them.

    The sampling policy differs from the current one by `drift` per logit; row lengths and advantages are random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = 1.5 * normal(rows, length, vocabulary)
    logits = (old + drift * normal(rows, length, vocabulary)).to(dtype).requires_grad_()
    old = old.to(dtype)
    actions = torch.distributions.Categorical(logits=old.float()).sample
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        actions = actions().unsqueeze(-1)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    fields = {
        "logprob": torch.log_softmax(logits, -1).gather(-1, actions).squeeze(-1),
        "old_logprob": torch.log_softmax(old, -1).gather(-1, actions).squeeze(-1),
        "advantages": normal(rows).to(dtype),
        "mask": (torch.arange(length) < lengths[:, None]).to(dtype),
        "entropy": entropy_of(logits),
        "old_entropy": entropy_of(old),
        "old_baseline": baseline(old),
        "clamped_entropy": clamped_entropy(logits, clamp=0.3),
        "success": torch.rand(rows, generator=generator).to(dtype),
        "group": torch.arange(rows) // 4,
        "draw_seed": seed,
    }
    return logits, TokenBatch(**{**fields, **changes})
