"""The surrogate: where a ratio, an advantage and a bound turn into a gradient, or into none; and its aggregation.

A surrogate takes `dynclip.methods.objective.Tokens` and returns the per-token loss, (B, T), to be minimised.
"""

import torch

from dynclip.methods.types import Bound

AGGREGATIONS = ("token", "sequence", "fixed")


def token_ratio(log_ratio: torch.Tensor, logprob: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ln r_t = ln p − ln q of every token."""
    return log_ratio


def sequence_ratio(log_ratio: torch.Tensor, logprob: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ln s of GSPO, the mean of ln r_t over a sequence, at each of its tokens (arXiv 2507.18071, GSPO-token).

    Its value is the sequence's, its gradient the token's own: averaged over a sequence that is the gradient of s.
    """
    counted = mask.to(log_ratio.dtype)
    mean = (log_ratio.detach() * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp(min=1)
    return (logprob - logprob.detach() + mean) * counted


def clamp(ratio: torch.Tensor, eps_low: Bound, eps_high: Bound) -> torch.Tensor:
    """`ratio` clipped to [1 − eps_low, 1 + eps_high], all (B, T) or constants."""
    low, high = 1 - eps_low, 1 + eps_high
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        low = low if isinstance(low, torch.Tensor) else ratio.new_tensor(low)
        high = high if isinstance(high, torch.Tensor) else ratio.new_tensor(high)
    return torch.clamp(ratio, low, high)


def ppo_min(tokens) -> torch.Tensor:
    """−min(r A, clip(r, 1 − ε⁻, 1 + ε⁺) A), the per-token loss of PPO and GRPO (arXiv 1707.06347).

    Arithmetic order follows the common implementations, so that constant bounds give their losses bit for bit.
    """
    clipped = clamp(tokens.ratio, tokens.eps_low, tokens.eps_high)
    return -torch.min(tokens.ratio * tokens.advantages, clipped * tokens.advantages)


def unclipped(tokens) -> torch.Tensor:
    """−r A, without any bound."""
    return -tokens.ratio * tokens.advantages


def gradient_preserving(tokens, *, beta_low: float, beta_high: float) -> torch.Tensor:
    """CE-GPPO (arXiv 2509.20712): a clipped token keeps a gradient of bounded size instead of none.

    A < 0 and r < 1 − ε⁻: −β_low (1 − ε⁻) A r/sg(r); A > 0 and r > 1 + ε⁺: −β_high (1 + ε⁺) A r/sg(r); else −r A.
    """
    ratio, advantages = tokens.ratio, tokens.advantages
    low, high = 1 - tokens.eps_low, 1 + tokens.eps_high
    # r/sg(r) as exp(ln r − sg(ln r)): exactly 1 with the gradient of ln p, also where r underflows to 0.
    unit = torch.exp(tokens.log_ratio - tokens.log_ratio.detach())
    kept_low = torch.where((advantages < 0) & (ratio < low), beta_low * low * unit, ratio)
    return -torch.where((advantages > 0) & (ratio > high), beta_high * high * unit, kept_low) * advantages


def cispo(tokens) -> torch.Tensor:
    """−sg(clip(r, 1 − ε⁻, 1 + ε⁺)) A ln p (CISPO, arXiv 2506.13585): the ratio is a weight, no token is silenced."""
    weight = clamp(tokens.ratio, tokens.eps_low, tokens.eps_high).detach()
    return -weight * tokens.advantages * tokens.logprob


def sapo(tokens, *, tau_positive: float, tau_negative: float) -> torch.Tensor:
    """−(4/τ) σ(τ (r − 1)) A (SAPO, arXiv 2511.20347), with τ by the sign of A: a gate that closes smoothly."""
    ratio = tokens.ratio
    tau = torch.where(tokens.advantages > 0, ratio.new_tensor(tau_positive), ratio.new_tensor(tau_negative))
    return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * tokens.advantages


# The surrogates that a run's dual clip applies to; the others weigh or shape the ratio by a rule of their own.
DUAL_CLIPPED = (ppo_min, gradient_preserving)


def dual_clipped(per_token: torch.Tensor, advantages: torch.Tensor, c: float) -> torch.Tensor:
    """min(loss, −c A) where A < 0 (dual clip, arXiv 1912.09729): past c a ratio magnifies no push against its token."""
    return torch.where(advantages < 0, torch.min(per_token, -c * advantages), per_token)


def aggregate(
    per_token: torch.Tensor, mask: torch.Tensor, how: str = "token", length: int | None = None
) -> torch.Tensor:
    """Scalar loss of a (B, T) per-token loss.

    "token": the mean over all counted tokens (DAPO); "sequence": the mean over rows of each row's token mean (GRPO);
    "fixed": the sum over B · `length`, T by default (Dr. GRPO). Rows or batches without any token give 0, not NaN.
    Raises ValueError for an unknown `how` and for a `length` without "fixed".
    """
    if length is not None and how != "fixed":
        raise ValueError(f"length: only aggregation 'fixed' takes one, given {length} with {how!r}")
    if how == "token":
        return (per_token * mask).sum() / mask.sum().clamp(min=1)
    if how == "sequence":
        return ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    if how == "fixed":
        return (per_token * mask).sum() / (per_token.size(0) * (length or per_token.size(1)))
    raise ValueError(f"aggregation: expected one of {AGGREGATIONS}, given {how!r}")
