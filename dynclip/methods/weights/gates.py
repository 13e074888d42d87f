"""Token weights by surprisal and by the drift of a prefix: STARE and CPPO. No gradient flows through either."""

import math

import torch

from dynclip.methods import controllers
from dynclip.methods.bounds import CLIPPED, PPO, PPO_SOURCE, constant, unbounded
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import unclipped
from dynclip.methods.types import Tokens


def surprising_successes(tokens: Tokens, *, share: float) -> torch.Tensor:
    """STARE (arXiv 2606.19236): the controller's W on the least likely tokens with A > 0, 1 on all others.

    They are the ⌈share · n⌉ tokens with the smallest p among the mini-batch's n tokens with A > 0.
    """
    with torch.no_grad():
        eligible = (tokens.advantages > 0) & tokens.mask
        chosen = torch.zeros_like(eligible).flatten()
        quota = math.ceil(share * int(eligible.sum()))
        chosen[tokens.logprob.masked_fill(~eligible, math.inf).flatten().topk(quota, largest=False).indices] = True
        ones = torch.ones_like(tokens.logprob)
        return torch.where(chosen.view_as(eligible), tokens.clock.state * ones, ones)


def prefix_budget(tokens: Tokens, *, delta: float, least: float, budget: float, quantile: float) -> torch.Tensor:
    """CPPO's mask (arXiv 2606.10968, algorithm 1): 0 where a token moves away from q beyond what its prefix leaves.

    With D_t = |p − q| and w_t falling linearly from 1 to `least` over a response, a token is kept if A (r − 1) ≤ 0 or
    w_t D_t ≤ min(δ, δ + δ_b Σ_{j<t} w_j − Σ_{j<t} w_j D_j). δ_b is the response's `quantile` of D, within
    [budget, 2 budget].
    """
    with torch.no_grad():
        counted, mask = tokens.counted, tokens.mask
        length = counted.sum(-1, keepdim=True)
        place = (counted.cumsum(-1) - 1) / (length - 1).clamp(min=1)
        weight = (1 - (1 - least) * place) * counted
        moved = (tokens.logprob.exp() - tokens.old_logprob.exp()).abs() * counted
        rank = (quantile * (length - 1)).round().clamp(min=0).long()
        allowed = moved.masked_fill(~mask, math.inf).sort(-1).values.gather(-1, rank).clamp(budget, 2 * budget)
        drift = weight * moved
        left = delta + allowed * (weight.cumsum(-1) - weight) - (drift.cumsum(-1) - drift)
        kept = (tokens.advantages * (tokens.ratio - 1) <= 0) | (drift <= left.clamp(max=delta))
        return kept.to(tokens.logprob.dtype)


METHODS = (
    MethodSpec(
        name="stare",
        title="STARE",
        arxiv="2606.19236",
        bounds=constant,
        over_batch=True,
        weights=surprising_successes,
        controller=controllers.GatedWeight,
        defaults={**PPO, "share": 0.1, "weight": 1.1, "target": 0.3, "step": 0.0, "maximum": 1.5},
        evidence={
            **PPO_SOURCE,
            "share": "official script",
            "weight": "official script",
            "target": "official script",
            "step": "official script: fixed weights; its adaptive schedule takes 0.01",
            "maximum": "official script",
        },
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=W\ \text{{on the least likely tokens with }}A_t>0\ "
        r"\text{while}\ H<H^*",
        change="At low entropy unlikely good tokens count more. "
        "Entropy is low below a target, and good tokens have A > 0.",
        keeps="the weight W and what acts of it",
        caveats=(
            "The official variant O1. C2 also weighs the least likely tokens with A < 0 by 0.9.",
            "The tokens are ranked in the mini-batch, as in the official code.",
        ),
    ),
    MethodSpec(
        name="cppo",
        title="CPPO",
        arxiv="2606.10968",
        bounds=unbounded,
        surrogate=unclipped,
        weights=prefix_budget,
        defaults={"delta": 0.15, "least": 0.8, "budget": 0.02, "quantile": 0.9},
        evidence={
            "delta": "paper: 0.15 for dense models, 0.2 for mixtures of experts",
            "least": "paper",
            "budget": "second-hand, from the paper's table 3; 0.015 without quantile for a post-trained model",
            "quantile": "paper, for base models",
        },
        equation=r"M_t\,r_tA_t,\quad M_t=1\ \text{if}\ A_t(r_t-1)\le0\ \text{or}\ w_tD_t\le\min\big(\delta,\ "
        r"\delta+\delta_b\textstyle\sum_{j<t}w_j-\sum_{j<t}w_jD_j\big),\quad D_t=|p_t-q_t|",
        change="A token is masked if it and its prefix drift too far. How much is allowed depends on its position.",
        caveats=(
            "The paper takes D from the 20 likeliest tokens. Here it is the sampled token's, the binary TV of DPPO.",
            "The paper does not say how its quantile interpolates. Here it is the nearest rank.",
        ),
        on_policy_grpo=True,
    ),
)
