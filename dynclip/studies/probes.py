"""Probes: methods of the studies with one part isolated or exchanged. They are no methods under comparison.

A probe is a `MethodSpec` and trains through the same code as a method of the registry.
"""

from dataclasses import replace

import torch

from dynclip.methods.bounds import PPO, PPO_SOURCE, constant, increase_then_decrease
from dynclip.methods.registry import METHODS
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import ppo_min
from dynclip.methods.types import Bound, Clock, Line, Tokens

REGIONS = ("E1", "E2", "E3", "E4")
HIGH, LOW = 0.7, 0.3  # what the paper's controlled experiment calls a high and a low probability


def in_region(tokens: Tokens, region: str, split: str) -> torch.Tensor:
    """The tokens of E1, E2, E3 or E4 under the current policy, boolean (B, T).

    split "surprisal" compares −ln p with the token's entropy (arXiv 2602.09782, derivation of the regions). split
    "probability" is the paper's controlled experiment: tokens with p > 0.7 are expected, tokens with p < 0.3 are
    surprising, and those between are in no region. Raises ValueError for another region or split.
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


def one_region(tokens: Tokens, *, region: str, split: str) -> torch.Tensor:
    """Weights (B, T): 1 for the tokens of one region, 0 for all others."""
    return in_region(tokens, region, split).to(tokens.logprob.dtype)


def wide_in_region(tokens: Tokens, *, region: str, split: str, widening: float) -> torch.Tensor:
    """`ppo_min` with both thresholds `widening` times as large for the tokens of one region, (B, T).

    The paper's controlled experiment has 0.7 < r < 1.3 there and the usual 0.2 elsewhere.
    """
    inside = in_region(tokens, region, split)

    def widened(bound: Bound) -> torch.Tensor:
        bound = bound + torch.zeros_like(tokens.ratio).detach()
        return torch.where(inside, widening * bound, bound)

    return ppo_min(replace(tokens, eps_low=widened(tokens.eps_low), eps_high=widened(tokens.eps_high)))


def at_mean_bounds(tokens: Tokens, *, tilt: float = 0.0) -> torch.Tensor:
    """`ppo_min` with each bound turned about its mean over the mini-batch's tokens, (B, T).

    bound -> mean + tilt (bound - mean), not below 0. The looseness stays the same on average. tilt 0 ignores the
    token's probability (the paper's constants for H and M), 1 is the method itself, 2 doubles the slope, and -1 turns
    it round.
    """

    def turned(bound: Bound) -> Bound:
        if not isinstance(bound, torch.Tensor):
            return bound
        mean = (bound * tokens.counted).sum() / tokens.counted.sum().clamp(min=1)
        return (mean + tilt * (bound - mean)).clamp(min=0)

    return ppo_min(replace(tokens, eps_low=turned(tokens.eps_low), eps_high=turned(tokens.eps_high)))


def reversed_in_time(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, switch: float, phase2: str, reference: str
) -> tuple[Bound, Bound]:
    """ID's bounds from the last step to the first: a loosened lower bound, then an upper bound that opens to H(p)."""
    backwards = Clock(clock.total_steps - clock.step, clock.total_steps, clock.state)
    return increase_then_decrease(
        q, backwards, eps=eps, upper=upper, lower=lower, switch=switch, phase2=phase2, reference=reference
    )


# Both region probes share these options; the study sets the region.
REGION = {"region": "E1", "split": "surprisal"}
REGION_SOURCE = {"region": "ours: the study sets it", "split": "paper: the derivation; its experiment splits by p"}

PROBES: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec(
            name="region_gradient",
            title="Gradient in one region",
            arxiv="2602.09782",
            bounds=constant,
            weights=one_region,
            needs=("entropy",),
            defaults={**PPO, **REGION},
            evidence={**PPO_SOURCE, **REGION_SOURCE},
            change="Only the tokens of one of the regions E1-E4 are trained.",
        ),
        MethodSpec(
            name="region_clip",
            title="Wider clip in one region",
            arxiv="2602.09782",
            bounds=constant,
            surrogate=wide_in_region,
            needs=("entropy",),
            defaults={**PPO, **REGION, "widening": 1.5},
            evidence={**PPO_SOURCE, **REGION_SOURCE, "widening": "paper v1: 0.7 < r < 1.3 for 0.2"},
            change="The interval is widened for the tokens of one of the regions E1-E4.",
            caveats=("Logged clip fractions and thresholds are those of the narrow interval.",),
        ),
        *(
            replace(
                METHODS[name],
                name=f"{name}_mean",
                title=f"{METHODS[name].title}, bounds at their mean",
                surrogate=at_mean_bounds,
                over_batch=True,
                defaults={**METHODS[name].defaults, "tilt": 0.0},
                evidence={**METHODS[name].evidence, "tilt": "ours: 0 takes the mean; other values turn the bound"},
                change="Each bound is its own mean over the mini-batch: as loose, but the same for every probability.",
            )
            for name in ("dynamic_upper", "dynamic_lower", "id", "did", "od")
        ),
        replace(
            METHODS["id"],
            name="id_reversed",
            title="ID in reverse",
            bounds=reversed_in_time,
            change="ID's schedule runs backwards.",
        ),
    )
}
