"""Ratios, surrogates and the aggregation of the loss, and the methods that change one of them.

A surrogate takes `Tokens` and returns the per-token loss (B, T), to be minimised.
"""

import torch

from dynclip.methods.bounds import CLIPPED, PPO, PPO_SOURCE, constant, unbounded
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Bound, Tokens

AGGREGATIONS = ("token", "sequence", "fixed")


def token_ratio(log_ratio: torch.Tensor, logprob: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ln r_t = ln p − ln q of every token."""
    return log_ratio


def sequence_ratio(log_ratio: torch.Tensor, logprob: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ln s of GSPO, the mean of ln r_t over a sequence, at each of its tokens (arXiv 2507.18071, GSPO-token).

    The value is the sequence's and the gradient is the token's own. Its mean over a sequence is the gradient of s.
    """
    counted = mask.to(log_ratio.dtype)
    mean = (log_ratio.detach() * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp(min=1)
    return (logprob - logprob.detach() + mean) * counted


def clamp(ratio: torch.Tensor, eps_low: Bound, eps_high: Bound) -> torch.Tensor:
    """`ratio` clipped to [1 − eps_low, 1 + eps_high], each (B, T) or a constant."""
    low, high = 1 - eps_low, 1 + eps_high
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        low = low if isinstance(low, torch.Tensor) else ratio.new_tensor(low)
        high = high if isinstance(high, torch.Tensor) else ratio.new_tensor(high)
    return torch.clamp(ratio, low, high)


def ppo_min(tokens: Tokens) -> torch.Tensor:
    """−min(r A, clip(r, 1 − ε⁻, 1 + ε⁺) A), the per-token loss of PPO and GRPO (arXiv 1707.06347).

    The order of operations is that of the common implementations: constant bounds give their losses bit for bit.
    """
    clipped = clamp(tokens.ratio, tokens.eps_low, tokens.eps_high)
    return -torch.min(tokens.ratio * tokens.advantages, clipped * tokens.advantages)


def unclipped(tokens: Tokens) -> torch.Tensor:
    """−r A, without any bound."""
    return -tokens.ratio * tokens.advantages


def gradient_preserving(tokens: Tokens, *, beta_low: float, beta_high: float) -> torch.Tensor:
    """CE-GPPO (arXiv 2509.20712): a clipped token keeps a gradient of bounded size.

    A < 0 and r < 1 − ε⁻: −β_low (1 − ε⁻) A r/sg(r); A > 0 and r > 1 + ε⁺: −β_high (1 + ε⁺) A r/sg(r); else −r A.
    """
    ratio, advantages = tokens.ratio, tokens.advantages
    low, high = 1 - tokens.eps_low, 1 + tokens.eps_high
    # r/sg(r) as exp(ln r − sg(ln r)): exactly 1 with the gradient of ln p, also where r underflows to 0.
    unit = torch.exp(tokens.log_ratio - tokens.log_ratio.detach())
    kept_low = torch.where((advantages < 0) & (ratio < low), beta_low * low * unit, ratio)
    return -torch.where((advantages > 0) & (ratio > high), beta_high * high * unit, kept_low) * advantages


def cispo(tokens: Tokens) -> torch.Tensor:
    """−sg(clip(r, 1 − ε⁻, 1 + ε⁺)) A ln p (CISPO, arXiv 2506.13585): the ratio is a weight without gradient."""
    weight = clamp(tokens.ratio, tokens.eps_low, tokens.eps_high).detach()
    return -weight * tokens.advantages * tokens.logprob


def sapo(tokens: Tokens, *, tau_positive: float, tau_negative: float) -> torch.Tensor:
    """−(4/τ) σ(τ (r − 1)) A (SAPO, arXiv 2511.20347), with τ by the sign of A. A smooth gate replaces the bound."""
    ratio = tokens.ratio
    tau = torch.where(tokens.advantages > 0, ratio.new_tensor(tau_positive), ratio.new_tensor(tau_negative))
    return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * tokens.advantages


# The surrogates that a run's dual clip applies to. The others bound the weight of a ratio by their own rule.
DUAL_CLIPPED = (ppo_min, gradient_preserving)


def dual_clipped(per_token: torch.Tensor, advantages: torch.Tensor, c: float) -> torch.Tensor:
    """min(loss, −c A) where A < 0 (dual clip, arXiv 1912.09729): a ratio above c does not increase the loss further."""
    return torch.where(advantages < 0, torch.min(per_token, -c * advantages), per_token)


def aggregate(
    per_token: torch.Tensor, mask: torch.Tensor, how: str = "token", length: int | None = None
) -> torch.Tensor:
    """Scalar loss of a (B, T) per-token loss.

    "token": mean over all counted tokens given. "sequence": mean over rows of each row's token mean (GRPO).
    "fixed": sum divided by B · `length`, T by default (Dr. GRPO). Rows and batches without a token give 0, not NaN.
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


METHODS = (
    MethodSpec(
        name="gspo",
        title="GSPO",
        arxiv="2507.18071",
        bounds=constant,
        ratio=sequence_ratio,
        defaults={"eps_low": 3e-4, "eps_high": 4e-4},
        evidence="paper",
        equation=rf"{CLIPPED.replace('r_t', 's')},\quad s=\exp\big(\tfrac1{{|y|}}\sum_t\ln r_t\big)",
        change="One ratio a sequence, the geometric mean of its tokens'. Its interval is far narrower.",
        shipped=("TRL", "verl", "SkyRL", "ms-swift", "Trinity"),
        caveats=("It clips far more tokens than token ratios do, because it clips a sequence as a whole.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="sapo",
        title="SAPO",
        arxiv="2511.20347",
        bounds=unbounded,
        surrogate=sapo,
        defaults={"tau_positive": 1.0, "tau_negative": 1.05},
        evidence="paper, TRL, verl",
        equation=r"\tfrac4\tau\,\sigma\big(\tau(r_t-1)\big)A_t",
        change="A sigmoid gate replaces the bound. The gradient fades smoothly as the ratio leaves 1.",
        shipped=("TRL", "verl", "SkyRL", "ms-swift", "Trinity"),
        caveats=("On policy the gradient is GRPO's. The loss differs by a constant factor 2/τ.",),
    ),
    MethodSpec(
        name="cispo",
        title="CISPO",
        arxiv="2506.13585",
        bounds=constant,
        surrogate=cispo,
        defaults={"eps_low": 1.0, "eps_high": 4.0},
        evidence={
            "eps_low": "paper: no lower bound",
            "eps_high": "ScaleRL's raw bound 5 = 1 + 4, TRL's advice; the paper's own value is not public",
        },
        equation=r"\mathrm{sg}\big(\mathrm{clip}(r_t,1-\varepsilon^-,1+\varepsilon^+)\big)A_t\ln p_t",
        change="The clipped ratio only weighs the gradient of ln p. No token loses its gradient.",
        shipped=("TRL", "verl", "SkyRL", "ms-swift", "Trinity"),
        caveats=("TRL's epsilon_high is the raw bound 5. In verl and here it is the 4 of 1 + 4.",),
    ),
    MethodSpec(
        name="ce_gppo",
        title="CE-GPPO",
        arxiv="2509.20712",
        bounds=constant,
        surrogate=gradient_preserving,
        defaults={**PPO, "beta_low": 0.75, "beta_high": 1.0},
        evidence={
            **PPO_SOURCE,
            "beta_low": "official 7B script; 1.5B: 0.5, code: 0.25",
            "beta_high": "official scripts",
        },
        equation=r"\beta^\pm(1\pm\varepsilon^\pm)\tfrac{r_t}{\mathrm{sg}(r_t)}A_t"
        r"\ \text{where PPO clips, else}\ r_tA_t",
        change="A clipped token keeps a gradient of bounded size.",
        caveats=("β⁻ drives entropy and must be tuned.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="gppo",
        title="GPPO",
        arxiv="2508.07629",
        bounds=constant,
        surrogate=gradient_preserving,
        defaults={"eps_low": 0.2, "eps_high": 0.28, "beta_low": 1.0, "beta_high": 1.0},
        evidence="official code",
        equation=r"(1\pm\varepsilon^\pm)\tfrac{r_t}{\mathrm{sg}(r_t)}A_t\ \text{where PPO clips, else}\ r_tA_t",
        change="A clipped token keeps the gradient of its bound.",
        on_policy_grpo=True,
    ),
)
