"""Masks with an interval for each sign of the advantage: MiMo-V2.6."""

import math

import torch

from dynclip.methods import controllers
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Bound, Clock, Tokens


def widening(shift: Bound) -> Bound:
    """The exponent e^shift of an interval's ends: above 1 it widens the interval around a ratio of 1."""
    return torch.exp(shift) if isinstance(shift, torch.Tensor) else math.exp(shift)


def sides_of_ppo(q: torch.Tensor, clock: Clock, *, lower: float, upper: float) -> tuple[Bound, Bound]:
    """The ends of `both_sides` where PPO clips as well: the lower one of A < 0 and the upper one of A > 0."""
    return 1 - lower ** widening(-clock.state), upper ** widening(clock.state) - 1


def both_sides(tokens: Tokens, *, lower: float, upper: float) -> torch.Tensor:
    """MiMo-V2.6 (arXiv 2610.11959): −M r A with M = 1 while l^w ≤ r ≤ u^w, w = e^s where A > 0 and e^−s where A < 0.

    A token outside has no loss, also on the side that PPO leaves open. The controller's signal s widens one interval
    and narrows the other in ln r, so that both always contain r = 1.
    """
    side = torch.where(tokens.advantages > 0, 1.0, -1.0).to(tokens.advantages.dtype)
    width = torch.exp(tokens.clock.state * side)
    kept = (tokens.ratio >= lower**width) & (tokens.ratio <= upper**width)
    # exp of a masked logarithm: a ratio that overflows would give NaN as gradient.
    return -torch.exp(tokens.log_ratio.masked_fill(~kept, 0.0)) * kept * tokens.advantages


METHODS = (
    MethodSpec(
        name="mimo",
        title="MiMo-V2.6",
        arxiv="2610.11959",
        bounds=sides_of_ppo,
        surrogate=both_sides,
        controller=controllers.SteppedTowardsStart,
        defaults={"lower": 0.2, "upper": 5.0, "initial": 0.0, "step": 0.1, "minimum": -1.5, "maximum": 1.5},
        evidence={
            "lower": "second-hand, from the report: all four ends start at [0.2, 5.0]",
            "upper": "second-hand, from the report: all four ends start at [0.2, 5.0]",
            "initial": "both intervals start alike, second-hand, from the report",
            "step": "ours: not published",
            "minimum": "ours: not published",
            "maximum": "ours: not published; the narrow interval is then [0.70, 1.43]",
        },
        equation=r"M_t\,r_tA_t,\quad M_t=1\ \text{if}\ l^{w}\le r_t\le u^{w},\quad "
        r"w=e^{s_k}\ \text{if}\ A_t>0,\ e^{-s_k}\ \text{if}\ A_t<0,\quad "
        r"s_k=\mathrm{clip}(s_{k-1}+\mathtt{step}\,\mathrm{sign}(H_0-H_k))",
        change="A token outside a wide interval has no loss. That holds on both sides, and entropy feedback moves the "
        "intervals of good and bad tokens against each other.",
        keeps="the shift s and the initial entropy",
        caveats=(
            "Second-hand: three public notes on the report have the four ends, their start and the directions. Its "
            "public code has no such loss.",
            "Ours: the target is the entropy at the start, one shift moves all four ends, and its steps are constant.",
            "While entropy is below its target, tokens with A > 0 get the wider interval. The report's reason is that "
            "this raises entropy.",
            "The metrics of clipping count the two sides of PPO alone.",
        ),
        on_policy_grpo=True,
    ),
)
