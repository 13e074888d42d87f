"""Probes: instruments of the studies, each a method with one thing isolated or exchanged. None is a rival method.

They are `MethodSpec`s like the registry's and train through the same code: `dynclip.method` takes their names, too.
"""

from dataclasses import replace

import torch

from dynclip.methods import bounds
from dynclip.methods.registry import CONSTANT, CONSTANT_EVIDENCE, METHODS, PAPER
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import ppo_min
from dynclip.methods.types import Bound, Clock, Line

REGIONS = ("E1", "E2", "E3", "E4")
HIGH, LOW = 0.7, 0.3  # the probabilities that the paper's controlled experiment calls high and low


def in_region(tokens, region: str, split: str) -> torch.Tensor:
    """The tokens of E1, E2, E3 or E4, boolean (B, T), by the current policy.

    split "surprisal": −ln p against the token's entropy (arXiv 2602.09782, derivation of the regions); "probability":
    p > 0.7 stands for the expected tokens, p < 0.3 for the surprising ones, and those between are in no region (its
    controlled experiment). Raises ValueError for another region or split.
    """
    if region not in REGIONS or split not in ("surprisal", "probability"):
        raise ValueError(
            f"expected a region among {', '.join(REGIONS)} and split 'surprisal' or 'probability', "
            f"given {region!r}, {split!r}"
        )
    logprob = tokens.logprob.detach()
    if split == "surprisal":
        entropy = tokens.entropy.detach()
        expected, surprising = -logprob < entropy, -logprob > entropy
    else:
        expected, surprising = logprob.exp() > HIGH, logprob.exp() < LOW
    signed = tokens.advantages > 0 if region in ("E1", "E2") else tokens.advantages < 0
    return signed & (expected if region in ("E1", "E3") else surprising) & tokens.mask


def one_region(tokens, *, region: str, split: str) -> torch.Tensor:
    """Weights: 1 for the tokens of one region, 0 for all others, (B, T)."""
    return in_region(tokens, region, split).to(tokens.logprob.dtype)


def wide_in_region(tokens, *, region: str, split: str, widening: float) -> torch.Tensor:
    """`ppo_min` with both thresholds `widening` times as far from 1 for the tokens of one region: the paper's
    controlled experiment has 0.7 < r < 1.3 there and the usual 0.2 elsewhere.
    """
    inside = in_region(tokens, region, split)

    def widened(bound: Bound) -> torch.Tensor:
        bound = bound + torch.zeros_like(tokens.ratio).detach()
        return torch.where(inside, widening * bound, bound)

    return ppo_min(replace(tokens, eps_low=widened(tokens.eps_low), eps_high=widened(tokens.eps_high)))


def at_mean_bounds(tokens) -> torch.Tensor:
    """`ppo_min` with each bound replaced by its mean over the mini-batch's tokens: as loose on average, and blind to
    the token's probability (the paper's constants in place of H and M)."""

    def mean(bound: Bound) -> Bound:
        if not isinstance(bound, torch.Tensor):
            return bound
        return (bound * tokens.counted).sum() / tokens.counted.sum().clamp(min=1) + torch.zeros_like(bound)

    return ppo_min(replace(tokens, eps_low=mean(tokens.eps_low), eps_high=mean(tokens.eps_high)))


def reversed_in_time(
    q: torch.Tensor,
    clock: Clock,
    *,
    eps: float,
    upper: Line,
    lower: Line,
    switch: float,
    phase2: str,
    reference: str = "old",
) -> tuple[Bound, Bound]:
    """ID's bounds, the last step first: loosened lower bound, then an upper bound that opens to H(p)."""
    backwards = Clock(clock.total_steps - clock.step, clock.total_steps, clock.state)
    return bounds.increase_then_decrease(
        q, backwards, eps=eps, upper=upper, lower=lower, switch=switch, phase2=phase2, reference=reference
    )


REGION = {"region": "E1", "split": "surprisal"}
REGION_EVIDENCE = {"region": "ours: the study sets it", "split": "paper: the derivation; its experiment splits by p"}
SAME_LOOSENESS = "Each bound is its own mean over the mini-batch's tokens: as loose, and blind to the probability."

_ENTRIES = (
    MethodSpec(
        "region_gradient", "Gradient in one region", PAPER, bounds.constant, {**CONSTANT, **REGION},
        {**CONSTANT_EVIDENCE, **REGION_EVIDENCE}, weights=one_region, needs=("entropy",),
        change="Only the tokens of one of the regions E1-E4 are trained.",
    ),
    MethodSpec(
        "region_clip", "Wider clip in one region", PAPER, bounds.constant, {**CONSTANT, **REGION, "widening": 1.5},
        {**CONSTANT_EVIDENCE, **REGION_EVIDENCE, "widening": "paper v1: 0.7 < r < 1.3 for 0.2"},
        surrogate=wide_in_region, needs=("entropy",),
        change="The interval is widened for the tokens of one of the regions E1-E4.",
        caveats=("Logged clip fractions and thresholds are those of the narrow interval.",),
    ),
    *(
        replace(
            METHODS[name], name=f"{name}_mean", title=f"{METHODS[name].title}, bounds at their mean",
            surrogate=at_mean_bounds, change=SAME_LOOSENESS,
        )
        for name in ("dynamic_upper", "dynamic_lower", "id", "did", "od")
    ),
    replace(
        METHODS["id"], name="id_reversed", title="ID in reverse", bounds=reversed_in_time,
        change="ID's schedule, the last step first.",
    ),
)  # fmt: skip

PROBES: dict[str, MethodSpec] = {spec.name: spec for spec in _ENTRIES}
