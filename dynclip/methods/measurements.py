"""What is measured on the tokens of a loss, under the names of docs/metrics.md. No gradient flows through any of it."""

import math

import torch

from dynclip.methods.types import Bound, Tokens
from dynclip.regions import members


def clipped(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens beyond the lower and beyond the upper bound on the side of A's sign, boolean (B, T).

    With PPO's surrogate they have no gradient.
    """
    low = (tokens.ratio < 1 - tokens.eps_low) & (tokens.advantages < 0)
    return low, (tokens.ratio > 1 + tokens.eps_high) & (tokens.advantages > 0)


def of_each_run(values: torch.Tensor, runs: int) -> torch.Tensor:
    """(B, T) as (runs, B T / runs), or flat for one run: a reduction of its last dimension is that of each run."""
    return values.reshape(-1) if runs == 1 else values.reshape(runs, -1)


def live_ratio(tokens: Tokens, dual_clip: float | None = None, runs: int = 1) -> torch.Tensor:
    """`LossOutput.live_ratio`: infinite where such a ratio is not finite. `dual_clip` clips the ratios above it too."""
    low, high = clipped(tokens)
    live = tokens.mask & (tokens.advantages != 0) & ~low & ~high
    if dual_clip is not None:
        live &= (tokens.advantages > 0) | ~(tokens.ratio > dual_clip)
    ratio = tokens.ratio.nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(~live, 0.0)
    return of_each_run(ratio, runs).amax(-1) if ratio.numel() else ratio.new_zeros(())


def token_metrics(
    tokens: Tokens,
    weight: torch.Tensor | None = None,
    extra: torch.Tensor | None = None,
    runs: int = 1,
    neutral: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Means over counted tokens under the names of docs/metrics.md: scalars, or (runs,) for a batch of several runs.

    `neutral` (B, T) adds the clipped shares of the tokens that it marks and of the others.
    """
    ratio, advantages = tokens.ratio, tokens.advantages
    count = of_each_run(tokens.counted, runs).sum(-1).clamp(min=1)

    def number(chosen: torch.Tensor) -> torch.Tensor:
        return of_each_run(chosen & tokens.mask, runs).sum(-1)

    def mean(value: Bound) -> torch.Tensor:
        return of_each_run(value * tokens.counted, runs).sum(-1) / count

    low, high = clipped(tokens)
    outside = (ratio < 1 - tokens.eps_low) | (ratio > 1 + tokens.eps_high)
    least, most = ratio.new_ones(()), ratio.new_ones(())
    if ratio.numel():
        least = of_each_run(ratio.masked_fill(~tokens.mask, math.inf), runs).amin(-1)
        least = torch.where(number(tokens.mask) > 0, least, 1.0)
        most = of_each_run(ratio, runs).amax(-1)
    metrics = {
        "clip/low_fraction": number(low) / count,
        "clip/high_fraction": number(high) / count,
        "clip/outside_fraction": number(outside) / count,
        "policy/ratio_max": most,
        "policy/ratio_min": least,
        "policy/kl_old": mean(ratio - 1 - tokens.log_ratio),  # k3 estimate of KL(old ‖ new), nats per token
    }
    if neutral is not None:
        for name, among in (("neutral", neutral != 0), ("decisive", neutral == 0)):
            metrics[f"clip/low_fraction_{name}"] = number(low & among) / number(among).clamp(min=1)
            metrics[f"clip/high_fraction_{name}"] = number(high & among) / number(among).clamp(min=1)
    # ε⁻ = 1 and ε⁺ = ∞ are no bounds, because ratios are in [0, ∞).
    for name, bound, none in (("low", tokens.eps_low, 1.0), ("high", tokens.eps_high, math.inf)):
        if isinstance(bound, torch.Tensor) or bound != none:
            metrics[f"clip/eps_{name}_mean"] = mean(bound)
    if tokens.entropy is not None:
        regions = members(tokens.logprob, tokens.entropy, advantages)
        metrics |= {f"region/E{n}": number(where) / count for n, where in enumerate(regions, 1)}
    if weight is not None:
        metrics["loss/weight"] = mean(weight)
    if extra is not None:
        metrics["loss/extra"] = mean(extra)
    return metrics
