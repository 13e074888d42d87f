"""The clipped surrogate and its aggregation: where a bound turns into a gradient, or into none."""

import torch

from dynclip.bounds import Bound

AGGREGATIONS = ("token", "sequence")


def clamp(ratio: torch.Tensor, eps_low: Bound, eps_high: Bound) -> torch.Tensor:
    """`ratio` clipped to [1 − eps_low, 1 + eps_high], all (B, T) or constants."""
    low, high = 1 - eps_low, 1 + eps_high
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        low = low if isinstance(low, torch.Tensor) else torch.full_like(ratio, low)
        high = high if isinstance(high, torch.Tensor) else torch.full_like(ratio, high)
    return torch.clamp(ratio, low, high)


def ppo_min(ratio: torch.Tensor, advantages: torch.Tensor, eps_low: Bound, eps_high: Bound) -> torch.Tensor:
    """−min(r A, clip(r, 1 − ε⁻, 1 + ε⁺) A), the per-token loss of PPO and GRPO, shape (B, T).

    Arithmetic order follows the common implementations, so that constant bounds give their losses bit for bit.
    """
    return -torch.min(ratio * advantages, clamp(ratio, eps_low, eps_high) * advantages)


def aggregate(per_token: torch.Tensor, mask: torch.Tensor, how: str = "token") -> torch.Tensor:
    """Scalar loss of a (B, T) per-token loss: the mean over all tokens, or over sequences of each one's token mean.

    Rows or batches without any token give 0, not NaN. Raises ValueError for an unknown `how`.
    """
    if how == "token":
        return (per_token * mask).sum() / mask.sum().clamp(min=1)
    if how == "sequence":
        return ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    raise ValueError(f"aggregation: expected one of {AGGREGATIONS}, given {how!r}")
