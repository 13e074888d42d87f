"""Sequences as units, and penalties in place of bounds: VESPO, GMPO and DRO."""

import math

import torch

from dynclip.methods.bounds import unbounded
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Bound, Clock, Tokens

LEAST_LOG_WEIGHT, MOST_LOG_WEIGHT = math.log(1e-8), 20.0  # limits of ln w in VESPO's code


def vespo(
    tokens: Tokens, *, power_positive: float, decay_positive: float, power_negative: float, decay_negative: float
) -> torch.Tensor:
    """VESPO (arXiv 2602.10693): −φ(w) A ln p, φ(w) = e^λ w^k e^(−λ w) without gradient, w = Π r_t of the sequence.

    (k, λ) is (power, decay) by the sign of A; φ(1) = 1, and φ is greatest at w = k/λ. Not the mean of ln r_t: the sum.
    """
    log_weight = tokens.log_ratio.detach().clamp(-20, 20).sum(-1, keepdim=True)
    log_weight = log_weight.clamp(LEAST_LOG_WEIGHT, MOST_LOG_WEIGHT)
    positive = tokens.advantages >= 0
    power = torch.where(positive, log_weight.new_tensor(power_positive), log_weight.new_tensor(power_negative))
    decay = torch.where(positive, log_weight.new_tensor(decay_positive), log_weight.new_tensor(decay_negative))
    gate = torch.exp(decay + power * log_weight - decay * log_weight.exp())
    return -gate * tokens.advantages * tokens.logprob


def log_interval(q: torch.Tensor, clock: Clock, *, log_low: float, log_high: float) -> tuple[Bound, Bound]:
    """[e^(−log_low), e^(log_high)], an interval of ln r."""
    return 1 - math.exp(-log_low), math.exp(log_high) - 1


def geometric_mean(tokens: Tokens, *, log_low: float, log_high: float) -> torch.Tensor:
    """GMPO (arXiv 2507.20673): −A s with s = exp(mean_t c_t), c_t = ln r_t clipped on PPO's side of A alone.

    c_t is min(ln r_t, log_high) where A > 0, and max(ln r_t, −log_low) where A < 0. As in GSPO-token, the value at each
    token is the sequence's and the gradient its own. The mean over a sequence has the gradient of −A s.
    """
    log_ratio = tokens.log_ratio
    clipped = torch.where(tokens.advantages > 0, log_ratio.clamp(max=log_high), log_ratio.clamp(min=-log_low))
    mean = (clipped.detach() * tokens.counted).sum(-1, keepdim=True)
    mean = mean / tokens.counted.sum(-1, keepdim=True).clamp(min=1)
    return -torch.exp(clipped - clipped.detach() + mean) * tokens.advantages


def squared_log_ratio(tokens: Tokens, *, beta: float) -> torch.Tensor:
    """DRO (arXiv 2405.19107): −A ln p + (β/2)(ln r)², without ratio and without bound."""
    return -tokens.advantages * tokens.logprob + beta / 2 * tokens.log_ratio**2


METHODS = (
    MethodSpec(
        name="vespo",
        title="VESPO",
        arxiv="2602.10693",
        bounds=unbounded,
        surrogate=vespo,
        defaults={"power_positive": 2.0, "decay_positive": 3.0, "power_negative": 3.0, "decay_negative": 2.0},
        evidence="TRL 1.16, after the official code",
        equation=r"\mathrm{sg}\big(e^{\lambda}w^{k}e^{-\lambda w}\big)A_t\ln p_t,\quad w=\textstyle\prod_t r_t",
        change="One smooth weight a sequence replaces the bound. It is a function of the product of its ratios.",
        shipped=("TRL",),
        caveats=(
            "The product of ratios leaves 1 fast in long responses, where the weight goes to 0.",
            "On policy the gradient is GRPO's. The value of the loss differs.",
        ),
    ),
    MethodSpec(
        name="gmpo",
        title="GMPO",
        arxiv="2507.20673",
        bounds=log_interval,
        surrogate=geometric_mean,
        defaults={"log_low": 0.4, "log_high": 0.4},
        evidence="TRL 1.16, after the paper: (e^−0.4, e^0.4)",
        equation=r"s\,A,\quad s=\exp\big(\tfrac1{|y|}\textstyle\sum_t c_t\big),\ "
        r"c_t=\min(\ln r_t,\varepsilon)\ \text{if}\ A>0,\ \max(\ln r_t,-\varepsilon)\ \text{if}\ A<0",
        change="One ratio a sequence, from its tokens' clipped ratios. It is their geometric mean.",
        shipped=("TRL", "verl"),
        caveats=(
            "Paper, TRL and verl average over responses: aggregation `sequence`. Here the run sets the aggregation.",
            "The bounds are in ln r. verl reads them from `clip_ratio_low` and `clip_ratio_high`, 0.2 unless set.",
        ),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="dro",
        title="DRO",
        arxiv="2405.19107",
        bounds=unbounded,
        surrogate=squared_log_ratio,
        defaults={"beta": 1.0},
        evidence="ours: verl has no default",
        equation=r"A_t\ln p_t-\tfrac{\beta}{2}(\ln r_t)^2",
        change="A quadratic penalty on ln r replaces clipping. It holds the policy near the one that sampled.",
        shipped=("verl",),
        caveats=(
            "verl's loss of this name. DRO's paper learns a value function, which GRPO's advantages replace.",
            "On policy the gradient is GRPO's. The value of the loss differs.",
        ),
    ),
)
