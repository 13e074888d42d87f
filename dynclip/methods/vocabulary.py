"""Per-token reductions over the whole vocabulary, with the logits of one chunk of tokens in memory at a time.

A few methods need more than the sampled token's probability and the entropy. `reduce_logits` computes it from the last
hidden states and the output head. The backward pass recomputes a chunk's logits.
"""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

Reduction = Callable[[torch.Tensor], torch.Tensor]


def reduce_logits(
    hidden: torch.Tensor,
    head: torch.Tensor,
    reduction: Reduction,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int = 512,
) -> torch.Tensor:
    """`reduction` of the logits (hidden · headᵀ + bias)/temperature at each position, shape `hidden.shape[:-1]`.

    `hidden` (..., D), `head` (V, D), `bias` (V,). At most `chunk` × V logits exist at a time, in float32 or float64.
    """

    def reduced(part: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(part, head, bias)
        return reduction(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature)

    flat = hidden.reshape(-1, hidden.size(-1))
    differentiated = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    parts = [
        checkpoint(reduced, part, use_reentrant=False) if differentiated else reduced(part)
        for part in flat.split(chunk)
    ]
    return torch.cat(parts).view(hidden.shape[:-1]) if parts else flat.new_zeros(hidden.shape[:-1])


def clamped_entropy(logits: torch.Tensor, *, clamp: float) -> torch.Tensor:
    """Entropy (nats) of softmax(logits) after the int(V · clamp) least likely entries are removed (arXiv 2509.03493).

    `logits` (..., V), result (...). The rest is renormalised. The removed entries get no gradient.
    """
    removed = int(logits.size(-1) * clamp)
    kept = logits
    if removed:
        lowest = logits.detach().topk(removed, dim=-1, largest=False).indices
        kept = logits.scatter(-1, lowest, -torch.inf)
    logprob = torch.log_softmax(kept, dim=-1)
    return -(logprob.exp() * logprob.masked_fill(logprob == -torch.inf, 0.0)).sum(-1)
