"""Advantages from a group's responses or from entropy feedback: MaxRL, RLOO, GRPODropout, Entrocraft and REPO-R."""

import torch

from dynclip.methods import controllers
from dynclip.methods.bounds import CLIPPED, PPO, PPO_SOURCE, constant, unbounded
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import unclipped
from dynclip.methods.types import Tokens
from dynclip.methods.weights import Total


def by_success_rate(tokens: Tokens, total: Total) -> torch.Tensor:
    """MaxRL (arXiv 2602.02710): (R − m)/m with the group's mean reward m, for rewards of 0 and 1.

    A success has (1 − m)/m and a failure −1. A group without both has 0, as in GRPO.
    """
    rate = tokens.success.clamp(min=1e-6)
    advantages = torch.where(tokens.advantages > 0, (1 - rate) / rate, -torch.ones_like(rate))
    return torch.where(tokens.advantages == 0, 0.0, advantages).expand_as(tokens.logprob)


def group_sum(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over the group of each sequence, both (B,)."""
    return torch.zeros_like(values).index_add(0, group, values)[group]


def leave_one_out(tokens: Tokens, total: Total) -> torch.Tensor:
    """RLOO (arXiv 2402.14740): R minus the mean of the group's other rewards, for rewards of 0 and 1.

    With the mean m of all G rewards of the group it is (R − m) G/(G − 1). A group without both outcomes has 0.
    """
    size = group_sum(torch.ones_like(tokens.success[:, 0]), tokens.group).unsqueeze(1)
    reward = (tokens.advantages > 0).to(tokens.success.dtype)
    apart = (reward - tokens.success) * size / (size - 1).clamp(min=1)
    return torch.where(tokens.advantages == 0, 0.0, apart).expand_as(tokens.logprob)


def without_likely_successes(tokens: Tokens, total: Total) -> torch.Tensor:
    """GRPODropout (arXiv 2610.11854, equations 2, 4, 7 and 9): 0 for some likely successes, A − b for all others.

    s is a response's mean surprisal −ln q over its tokens. h = A (s − mean s)/G is its part of the covariance of A and
    s in its group, the change of entropy to first order. Responses leave from the lowest h on until the rest has
    Σ h ≥ 0, and those with A ≤ 0 come back. b is the mean of A over the rest, with weights e^−s.
    """
    counted = tokens.counted.double()
    length = counted.sum(1).clamp(min=1)
    present = (counted.sum(1) > 0).double()
    surprisal = -(tokens.old_logprob * counted).sum(1) / length
    advantages = (tokens.advantages * counted).sum(1) / length  # constant within a response
    group, size = tokens.group, group_sum(present, tokens.group).clamp(min=1)
    part = advantages * (surprisal - group_sum(surprisal * present, group) / size) / size
    order = part.round(decimals=9).argsort(stable=True)  # equal responses in the order of their rows
    order = order[group[order].argsort(stable=True)]  # group by group, the lowest h first
    ends = torch.zeros_like(part).index_add(0, group, part).cumsum(0)[group]  # Σ h up to the end of the group
    rest = torch.empty_like(part)  # Σ h of the response and of those after it
    rest[order] = ends[order] - part[order].cumsum(0) + part[order]
    dropped = (rest < -1e-9) & (advantages > 0)  # rounding is no fall of entropy
    weight = torch.exp(-surprisal) * present * ~dropped
    centre = group_sum(weight * advantages, group) / group_sum(weight, group).clamp(min=1e-300)
    centred = advantages - centre
    # Where all that is kept has the same advantage, rounding leaves a sign, which metrics would count.
    centred = centred.masked_fill(dropped | (centred.abs() < 1e-9), 0.0)
    return centred.to(tokens.logprob.dtype).unsqueeze(1).expand_as(tokens.logprob)


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
        name="rloo",
        title="RLOO",
        arxiv="2402.14740",
        bounds=unbounded,
        surrogate=unclipped,
        advantages=leave_one_out,
        needs=("success", "group"),
        equation=r"r_tA,\quad A_i=R_i-\tfrac1{G-1}\textstyle\sum_{j\ne i}R_j\ \text{over the group}",
        change="Reward minus the mean of the group's others, no clip. The ratio has no bound.",
        shipped=("TRL", "verl"),
        caveats=(
            "The control that needs no clipping: with one update per rollout batch it is REINFORCE.",
            "With several updates the ratio weighs the advantage without any bound.",
            "It is meant with log-probabilities in full precision, in which the first ratio is 1.",
            "It expects rewards of 0 and 1.",
        ),
    ),
    MethodSpec(
        name="grpo_dropout",
        title="GRPODropout",
        arxiv="2610.11854",
        bounds=constant,
        advantages=without_likely_successes,
        needs=("group",),
        over_batch=True,
        defaults=PPO,
        evidence={"eps_low": "official script", "eps_high": "official script"},
        equation=rf"{CLIPPED.replace('A_t', 'A')},\quad A\to A-b\ \text{{if kept, else}}\ 0,\quad "
        r"b=\tfrac{\sum e^{-s}A}{\sum e^{-s}}\ \text{over the kept},\quad s=-\mathrm{mean}_t\ln q_t,\quad "
        r"\textstyle\sum A(s-\bar s)\ge0\ \text{without the likeliest}\ A>0",
        change="The likeliest successes of a group are left out. That goes on until the rest does not lower entropy to "
        "first order, and the rest is centred with probabilities as weights.",
        caveats=(
            "Read in the paper. Its algorithm also takes out unlikely failures on the way, and puts them back.",
            "A success that is left out has the advantage 0 and still counts in the denominator of the loss. In the "
            "paper it does not.",
            "Groups in which nothing is left out are centred with weights as well.",
            "A group in which every success is likelier than the mean and every failure less likely trains nothing. "
            "The official code then keeps a quarter of the group.",
            "The official code also normalises the kept rewards anew before it centres them.",
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
