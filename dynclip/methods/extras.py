"""Terms added to the per-token loss: entropy bonuses, penalties on chosen tokens. All return (B, T).

They are aggregated as the policy loss is: a coefficient means the same per token under every method of a run, and
changes its meaning with the run's aggregation (docs/peers.md).
"""

import torch

from dynclip.methods.weights import covariance


def entropy_bonus(tokens, *, coefficient: float) -> torch.Tensor:
    """−c H_t (A3C, arXiv 1602.01783; "Ent-Reg" of arXiv 2602.09782)."""
    return -coefficient * tokens.entropy


def steered_entropy_bonus(tokens) -> torch.Tensor:
    """−c H_t with the controller's coefficient c."""
    return -tokens.clock.state * tokens.entropy


def hard_prompt_entropy_bonus(tokens, *, solved: float) -> torch.Tensor:
    """−c H_t with the controller's c, on sequences of prompts whose group is correct less often than `solved`."""
    return -tokens.clock.state * (tokens.success < solved) * tokens.entropy


def clamped_entropy_bonus(tokens) -> torch.Tensor:
    """−c H̃_t with the controller's c; H̃: entropy without the least likely part of the vocabulary (arXiv 2509.03493)."""
    return -tokens.clock.state * tokens.clamped_entropy


def covariance_penalty(tokens, *, share: float, coefficient: float) -> torch.Tensor:
    """KL-Cov (arXiv 2505.22617): c |ln p − ln q| on the max(1, int(share · N)) tokens of greatest covariance."""
    penalty = coefficient * tokens.log_ratio.abs()
    with torch.no_grad():
        count = int(tokens.mask.sum())
        quota = min(max(1, int(share * count)), count)
        ranked = covariance(tokens).masked_fill(~tokens.mask, -torch.inf).flatten()
        chosen = torch.zeros_like(ranked)
        chosen[ranked.topk(quota).indices] = 1.0
    return penalty * chosen.view_as(penalty)


def confident_token_control(tokens, *, threshold: float) -> torch.Tensor:
    """EntroPIC (arXiv 2511.15248): −α r |A| on tokens with p > `threshold`, α the controller's signal.

    α > 0 (entropy above its target) pushes confident tokens up, whatever their advantage; α < 0 pushes them down. As in
    the official code the term is a mean over the confident tokens: they are scaled by N over their number.
    """
    with torch.no_grad():
        confident = (tokens.logprob.exp() > threshold) & tokens.mask
        scale = tokens.mask.sum() / confident.sum().clamp(min=1)
    return -tokens.clock.state * scale * tokens.ratio * tokens.advantages.abs() * confident
