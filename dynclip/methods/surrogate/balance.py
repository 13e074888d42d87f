"""Bounds that a mini-batch moves by itself: BAPO."""

import torch

from dynclip.methods.bounds import unbounded
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import clamp
from dynclip.methods.types import Tokens


def balanced(
    tokens: Tokens, *, lower: tuple[float, float], upper: tuple[float, float], steps: tuple[float, float], target: float
) -> torch.Tensor:
    """BAPO (arXiv 2510.18927): −min(r A, clip(r, l, u) A) with bounds moved until good tokens carry their share.

    The share of A > 0 is P/(P + N), P = Σ min(r, u) A over A > 0, N = Σ max(r, l) |A| over A < 0, over the mini-batch.
    First l rises from `lower[0]` to `lower[1]`, then u from `upper[0]` to `upper[1]`, by `steps`, while the share is
    below `target`.
    """
    ratio, advantages = tokens.ratio, tokens.advantages
    low, high = lower[0], upper[0]

    def short() -> bool:
        with torch.no_grad():
            good = (ratio.clamp(max=high) * advantages.clamp(min=0) * tokens.counted).sum()
            bad = (ratio.clamp(min=low) * (-advantages).clamp(min=0) * tokens.counted).sum()
            return bool(good < target * (good + bad))

    while low < lower[1] and short():
        low = min(low + steps[0], lower[1])
    while high < upper[1] and short():
        high = min(high + steps[1], upper[1])
    return -torch.min(ratio * advantages, clamp(ratio, 1 - low, high - 1) * advantages)


METHODS = (
    MethodSpec(
        name="bapo",
        title="BAPO",
        arxiv="2510.18927",
        bounds=unbounded,
        over_batch=True,
        surrogate=balanced,
        defaults={"lower": (0.6, 0.9), "upper": (1.2, 3.0), "steps": (0.05, 0.1), "target": 0.5},
        evidence={
            "lower": "official README; configuration: up to 0.8",
            "upper": "official README; configuration: up to 2.0",
            "steps": "official script; configuration: 0.05 for both",
            "target": "official README",
        },
        equation=r"\min\big(r_tA_t,\ \mathrm{clip}(r_t,l,u)A_t\big),\quad l,u\ \text{raised until}\ "
        r"\tfrac{P}{P+N}\ge\rho_0,\ P=\textstyle\sum_{A_t>0}\min(r_t,u)A_t,\ N=\sum_{A_t<0}\max(r_t,l)|A_t|",
        change="Each mini-batch raises both bounds to balance A. "
        "It stops where tokens with A > 0 carry a share of its loss.",
        caveats=(
            "The official code compares P/N with its option, so that a share of 0.5 is its 1.",
            "N counts max(r, l), as in the official code, so a higher l never helps. It ends before u moves.",
            "Bounds are the mini-batch's. Each rank moves its own, where the official code sums over ranks.",
            "Clip metrics do not see these bounds, and the run's dual clip does not apply.",
        ),
        on_policy_grpo=True,
    ),
)
