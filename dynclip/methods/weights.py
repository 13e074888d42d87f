"""Factors of the per-token loss: which tokens of an update count, and how much. No gradient flows through them.

Functions of `tokens` alone are evaluated on every mini-batch; those that also take `total` once per rollout batch, from
the policy that sampled, with `total` summing a tensor over all ranks. All return (B, T).
"""

import math
from collections.abc import Callable

import torch

Total = Callable[[torch.Tensor], torch.Tensor]


def covariance(tokens) -> torch.Tensor:
    """(A − mean A)(ln p − mean ln p) of each counted token, means over the mini-batch (arXiv 2505.22617)."""
    counted, logprob = tokens.counted, tokens.logprob.detach()
    count = counted.sum().clamp(min=1)
    centred = tokens.advantages - (tokens.advantages * counted).sum() / count
    return centred * (logprob - logprob.sum() / count) * counted


def clip_covariance(tokens, *, share: float, cov_low: float, cov_high: float, at_least: int) -> torch.Tensor:
    """Clip-Cov (arXiv 2505.22617): 0 for a random few of the tokens whose covariance is in (cov_low, cov_high).

    Of the tokens that PPO's bounds have not silenced, max(int(share · N), at_least) are drawn per mini-batch of N
    counted tokens, with a generator seeded by `draw_seed`.
    """
    covariances = covariance(tokens)
    with torch.no_grad():
        silenced = ((tokens.ratio > 1 + tokens.eps_high) & (tokens.advantages > 0)) | (
            (tokens.ratio < 1 - tokens.eps_low) & (tokens.advantages < 0)
        )
        eligible = (covariances > cov_low) & (covariances < cov_high) & tokens.mask & ~silenced
        places = eligible.flatten().nonzero().squeeze(-1)
        quota = min(max(int(share * int(tokens.mask.sum())), at_least), len(places))
        # Drawn on the CPU: the same seed gives the same tokens on every device.
        generator = torch.Generator().manual_seed(tokens.draw_seed)
        drawn = places[torch.randperm(len(places), generator=generator)[:quota].to(places.device)]
        weight = torch.ones_like(covariances).flatten()
        weight[drawn] = 0.0
        return weight.view_as(covariances)


def entropy_sensitivity(tokens, *, mapping: str, w_min: float, w_max: float, floor: float, power: int) -> torch.Tensor:
    """STEER (arXiv 2510.10150): the more a token's update would change entropy, the smaller its weight.

    Ω = (A/q) p (1 − p)^power (ln p + H). mapping "exp": w = exp(−k |Ω|) with k = −ln(w_min)/max(max |Ω|, floor), at
    least w_min; "linear": from w_max at the least |Ω| of the mini-batch to w_min at the greatest.
    """
    if mapping not in ("exp", "linear"):
        raise ValueError(f"mapping: expected 'exp' or 'linear', given {mapping!r}")
    with torch.no_grad():
        logprob = tokens.logprob
        prob = logprob.exp()
        # (A/q) p is A r, which stays finite where q underflows.
        change = tokens.advantages * tokens.ratio * (1 - prob) ** power * (logprob + tokens.entropy)
        size = change.abs().masked_fill(~tokens.mask, 0.0)
        largest = size.max() if size.numel() else size.new_zeros(())
        if mapping == "exp":
            rate = -math.log(w_min) / largest.clamp(min=floor)
            return torch.exp(-rate * size).clamp(min=w_min, max=1.0)
        counted = size[tokens.mask]
        smallest = counted.min() if counted.numel() else largest
        return w_max - (size - smallest) / (largest - smallest).clamp(min=1e-12) * (w_max - w_min)


def positive_advantage(tokens, *, schedule: str) -> torch.Tensor:
    """Positive-advantage reweighting (arXiv 2511.05993): λ for tokens with A > 0, 1 for the others.

    schedule "entropy": λ is the controller's signal; "stage": 0 in the first half of training, then linearly to 1;
    "linear": k/T.
    """
    clock = tokens.clock
    progress = clock.step / clock.total_steps
    schedules = {"entropy": clock.state, "stage": max(0.0, 2 * progress - 1), "linear": progress}
    if schedule not in schedules:
        raise ValueError(f"schedule: expected one of {', '.join(map(repr, schedules))}, given {schedule!r}")
    ones = torch.ones_like(tokens.logprob, requires_grad=False)
    return torch.where(tokens.advantages > 0, schedules[schedule] * ones, ones)


def high_entropy(tokens, *, quantile: float) -> torch.Tensor:
    """80/20 (arXiv 2506.01939): 1 for the top `quantile` of the mini-batch's tokens by entropy, 0 for the others."""
    with torch.no_grad():
        counted = tokens.entropy[tokens.mask]
        if not counted.numel():
            return torch.zeros_like(tokens.entropy)
        # The values at or above the (1 − quantile)-quantile; torch.quantile sorts, and refuses more than 2²⁴ of them.
        above = len(counted) - math.ceil((1 - quantile) * (len(counted) - 1))
        threshold = counted.topk(above, sorted=False).values.min()
        return ((tokens.entropy >= threshold) & tokens.mask).to(tokens.entropy.dtype)


def moments(values: torch.Tensor, mask: torch.Tensor, total: Total) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and (population) standard deviation of the counted values on all ranks."""
    count = total(mask.sum().to(values.dtype)).clamp(min=1)
    mean = total((values * mask).sum()) / count
    return mean, (total(((values - mean) ** 2 * mask).sum()) / count).sqrt()


def discriminator(tokens) -> torch.Tensor:
    """S = q (ln q + H) of the sampling policy: negative for tokens that are more surprising than its entropy."""
    return tokens.old_logprob.exp() * (tokens.old_logprob + tokens.old_entropy)


def clip_batch(tokens, total: Total, *, mu: float) -> torch.Tensor:
    """Clip_B (arXiv 2602.03392): 0 for tokens with A < 0 whose S is more than μ deviations below the batch's mean."""
    score = discriminator(tokens)
    mean, deviation = moments(score, tokens.mask, total)
    return ((tokens.advantages >= 0) | (score - mean >= -mu * deviation)).to(score.dtype)


def clip_vocabulary(tokens, total: Total, *, mu: float, share: float, at_least: int) -> torch.Tensor:
    """Clip_V (arXiv 2602.03392): 0 for tokens with A < 0 whose S is far below its own expectation E_x[S].

    D = E_x[S] − S with E_x[S] = Σ_x p_x² (ln p_x + H), the token's `old_baseline`; those with D > μ std(D), at most
    max(int(share · N), at_least) of the rank's N tokens, the greatest D first.
    """
    gap = (tokens.old_baseline - discriminator(tokens)).masked_fill(~tokens.mask, 0.0)
    _, deviation = moments(gap, tokens.mask, total)
    dropped = (tokens.advantages < 0) & (gap > mu * deviation) & tokens.mask
    quota = min(max(int(share * int(tokens.mask.sum())), at_least), int(dropped.sum()))
    weight = torch.ones_like(gap).flatten()
    weight[gap.masked_fill(~dropped, -math.inf).flatten().topk(quota).indices] = 0.0
    return weight.view_as(gap)


def exchange(tokens, total: Total, *, shaping: str, alpha: float, gamma: float, slope: float) -> torch.Tensor:
    """Entropy-performance exchange (arXiv 2508.02260): more advantage for fluent responses or for late tokens.

    shaping "perplexity": A (1 − α z), z the response's mean surprisal, standardised over the rollout batch;
    "position": A + sign(A) γ σ(slope · u), u ∈ (0, 1] the token's relative position.
    """
    mask, advantages = tokens.mask, tokens.advantages
    length = mask.sum(-1, keepdim=True).clamp(min=1)
    if shaping == "perplexity":
        surprisal = -(tokens.old_logprob * mask).sum(-1, keepdim=True) / length
        mean, deviation = moments(surprisal, mask.any(-1, keepdim=True), total)
        return (advantages * (1 - alpha * (surprisal - mean) / deviation.clamp(min=1e-6))).expand_as(mask)
    if shaping == "position":
        position = mask.cumsum(-1).to(tokens.logprob.dtype) / length
        return advantages + advantages.sign() * gamma * torch.sigmoid(slope * position)
    raise ValueError(f"shaping: expected 'perplexity' or 'position', given {shaping!r}")
