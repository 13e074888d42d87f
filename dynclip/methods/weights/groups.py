"""Advantages from a group's success rate or from entropy feedback: MaxRL, Entrocraft and REPO-R."""

import torch

from dynclip.methods import controllers
from dynclip.methods.bounds import CLIPPED, PPO, PPO_SOURCE, constant
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Tokens
from dynclip.methods.weights import Total


def by_success_rate(tokens: Tokens, total: Total) -> torch.Tensor:
    """MaxRL (arXiv 2602.02710): (R − m)/m with the group's mean reward m, for rewards of 0 and 1.

    A success has (1 − m)/m and a failure −1. A group without both has 0, as in GRPO.
    """
    rate = tokens.success.clamp(min=1e-6)
    advantages = torch.where(tokens.advantages > 0, (1 - rate) / rate, -torch.ones_like(rate))
    return torch.where(tokens.advantages == 0, 0.0, advantages).expand_as(tokens.logprob)


def within_band(tokens: Tokens, total: Total) -> torch.Tensor:
    """Entrocraft (arXiv 2604.26326): 1 for successes alone, −1 for failures alone, or GRPO's, by the controller's side.

    The signal is 1 above the band (successes), −1 below it (failures) and 0 inside. Rewards are 0 and 1.
    """
    advantages, state = tokens.advantages, tokens.clock.state
    side = state if isinstance(state, torch.Tensor) else advantages.new_tensor(state)
    success = (advantages > 0) | ((advantages == 0) & (tokens.success > 0.5))
    one_sided = torch.where(side > 0, success.to(advantages.dtype), success.to(advantages.dtype) - 1)
    return torch.where(side == 0, advantages, one_sided).expand_as(tokens.logprob)


def rescaled(tokens: Tokens, total: Total) -> torch.Tensor:
    """REPO-R (arXiv 2603.11682): A (1 − ζ ln q) where A > 0 and min(0, A (1 + ζ ln q)) where A < 0.

    ζ ≥ 0 is the controller's signal. A rare success counts more and a rare failure less.
    """
    surprise = tokens.clock.state * tokens.old_logprob
    factor = torch.where(tokens.advantages > 0, 1 - surprise, (1 + surprise).clamp(min=0))
    return tokens.advantages * factor


METHODS = (
    MethodSpec(
        name="maxrl",
        title="MaxRL",
        arxiv="2602.02710",
        bounds=constant,
        advantages=by_success_rate,
        needs=("success",),
        defaults=PPO,
        evidence=PPO_SOURCE,
        equation=rf"{CLIPPED.replace('A_t', 'A')},\quad A=\tfrac{{R-m}}{{m}},\quad m=\mathrm{{mean}}(R)\ "
        r"\text{of the group}",
        change="Advantages are divided by the group's mean reward. GRPO divides them by its standard deviation.",
        shipped=("SkyRL", "prime-rl"),
        caveats=(
            "It expects rewards of 0 and 1.",
            "The step grows as success gets rare: at m = 1/8 a success has the advantage 7.",
        ),
    ),
    MethodSpec(
        name="entrocraft",
        title="Entrocraft",
        arxiv="2604.26326",
        bounds=constant,
        advantages=within_band,
        controller=controllers.EntropyBand,
        needs=("success",),
        defaults={**PPO, "lower": (0.6, 0.4), "upper": (0.7, 0.5)},
        evidence={**PPO_SOURCE, "lower": "official script", "upper": "official script"},
        equation=rf"{CLIPPED},\quad A_t=R\ \text{{if}}\ H_k>hi(k),\ R-1\ \text{{if}}\ H_k<lo(k)",
        change="Entropy decides if only successes or failures train. "
        "Above a band that falls over training only successes do, below it only failures.",
        keeps="the side of the band",
        caveats=(
            "It expects rewards of 0 and 1. The official code keeps rewards below 0, so it takes −1 for a failure.",
            "The band is that of Qwen3-4B-Base. Another policy starts at another entropy.",
            "The official run also has a KL term of 0.001, which the run sets here.",
        ),
    ),
    MethodSpec(
        name="repo_r",
        title="REPO-R",
        arxiv="2603.11682",
        bounds=constant,
        advantages=rescaled,
        controller=controllers.DoublingStrength,
        defaults={**PPO, "initial": 0.01, "minimum": 1e-3, "maximum": 1.0},
        evidence={
            **PPO_SOURCE,
            "initial": "ours: not found in public text",
            "minimum": "ours: not found in public text",
            "maximum": "ours: not found in public text",
        },
        equation=rf"{CLIPPED},\quad A\to A(1-\zeta\ln q_t)\ \text{{if}}\ A>0,\ "
        r"\min(0,A(1+\zeta\ln q_t))\ \text{if}\ A<0;\quad \zeta\leftarrow2\zeta\ \text{if}\ H<H_0,\ "
        r"\text{else}\ \zeta/2",
        change="Rare successes get more advantage, rare failures less. Entropy feedback doubles or halves how much.",
        keeps="the strength ζ and the initial entropy",
        caveats=(
            "Second-hand: the rule is known from two public notes on the paper, its constants are ours.",
            "The notes do not say which policy the logarithm is of. Here it is the one that sampled.",
        ),
    ),
)
