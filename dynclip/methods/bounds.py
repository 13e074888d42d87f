"""Clipping bounds ε⁻, ε⁺ of the importance ratio, and the methods that change them.

Notation (arXiv 2602.09782): p = π_θ(a|s), q = π_old(a|s), r = p/q. The ratio is clipped to [1 − ε⁻, 1 + ε⁺].
The paper writes its thresholds as lines in the *current* probability, ε⁺ = H(p) = −0.25 p + 0.5 and
ε⁻ = M(p) = −0.13 p + 0.3. Put p = r q into r ≤ 1 + αp + β and solve for r: r ≤ (1 + β)/(1 − αq), a bound in q alone.

A bounds function takes q (B, T) and the clock and returns `(eps_low, eps_high)`: tensors shaped like `q`, or floats.
ε⁺ = infinity means no upper bound. `reference="old"` gives the bound in q; `reference="current"` gives the paper's line
at p. Both clip the same tokens (tests/test_bounds.py).
"""

import math

import torch

from dynclip.methods import controllers
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Bound, Clock, Line

H_UPPER = Line(-0.25, 0.5)  # H(p), arXiv 2602.09782 v1
M_LOWER = Line(-0.13, 0.3)  # M(p), ibid.


def constant(q: torch.Tensor, clock: Clock, *, eps_low: float, eps_high: float) -> tuple[Bound, Bound]:
    """PPO's interval [1 − eps_low, 1 + eps_high] (arXiv 1707.06347; asymmetric in Clip-Higher, arXiv 2503.14476)."""
    return eps_low, eps_high


def unbounded(q: torch.Tensor, clock: Clock) -> tuple[Bound, Bound]:
    """[0, ∞): for surrogates that bound the ratio themselves, or not at all."""
    return 1.0, math.inf


def upper_bound(q: torch.Tensor, line: Line, reference: str = "old") -> Bound:
    """ε⁺ such that r ≤ 1 + ε⁺ is r ≤ 1 + line(p) with p = r q. Shaped like `q`; a float where the line is flat.

    With `reference="current"` the argument is p and the result is line(p).
    """
    if line.slope == 0 or reference == "current":
        return line.at(q)
    return (1 + line.intercept) / (1 - line.slope * q) - 1


def lower_bound(q: torch.Tensor, line: Line, reference: str = "old") -> Bound:
    """ε⁻ such that r ≥ 1 − ε⁻ is r ≥ 1 − line(p) with p = r q; the rest as in `upper_bound`."""
    if line.slope == 0 or reference == "current":
        return line.at(q)
    return 1 - (1 - line.intercept) / (1 + line.slope * q)


def linear(q: torch.Tensor, clock: Clock, *, lower: Line, upper: Line, reference: str) -> tuple[Bound, Bound]:
    """Lines in the current probability that stay the same over training (arXiv 2602.09782, section on thresholds)."""
    return lower_bound(q, lower, reference), upper_bound(q, upper, reference)


def increase_then_decrease(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, switch: float, phase2: str, reference: str
) -> tuple[Bound, Bound]:
    """ID (arXiv 2602.09782): the upper bound goes from H(p) to ε until the switch, then the lower bound is loosened.

    Up to k ≤ φT, with λ = 1 − k/(φT): (E⁺, E⁻) = (λ H + (1 − λ) ε, ε). After it: (ε, `second_phase`).
    """
    start = switch * clock.total_steps
    if clock.step <= start:
        return eps, upper_bound(q, upper.mix(1 - clock.step / start, eps), reference)
    return lower_bound(q, second_phase(clock, eps, lower, switch, phase2), reference), eps


def decrease_increase_decrease(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, switch: float, phase2: str, reference: str
) -> tuple[Bound, Bound]:
    """DID (arXiv 2602.09782): the upper bound goes from ε to H(p) and stays; then the lower bound is loosened too."""
    start = switch * clock.total_steps
    if clock.step <= start:
        return eps, upper_bound(q, upper.mix(clock.step / start, eps), reference)
    low = lower_bound(q, second_phase(clock, eps, lower, switch, phase2), reference)
    return low, upper_bound(q, upper, reference)


def second_phase(clock: Clock, eps: float, lower: Line, switch: float, phase2: str) -> Line:
    """The lower threshold E⁻ of ID and DID after the switch, where s = (k − φT)/((1 − φ)T) runs from 0 to 1.

    The paper contradicts itself. Its formula (1 + λ) M − λ ε with λ = −s is M right after the switch and ε at T. Its
    text says that the threshold moves "from ε_std to M(p)". `phase2` is "formula" or "prose".
    Raises ValueError for another `phase2`.
    """
    start = switch * clock.total_steps
    progress = (clock.step - start) / (clock.total_steps - start)
    if phase2 == "formula":
        return lower.mix(1 - progress, eps)
    if phase2 == "prose":
        return lower.mix(progress, eps)
    raise ValueError(f"phase2: expected 'formula' or 'prose', given {phase2!r}")


def oscillatory_decay(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, reference: str
) -> tuple[Bound, Bound]:
    """OD (arXiv 2602.09782): the state picks the side. 1: (E⁺, E⁻) = (H, ε); 0: (ε, M); −1, no trigger yet: (ε, ε).

    The state is a number, or (B, 1) with that of each sequence's run.
    """
    if isinstance(clock.state, torch.Tensor):
        constant = torch.full_like(q, eps)
        low = torch.where(clock.state == 0, lower_bound(q, lower, reference), constant)
        return low, torch.where(clock.state == 1, upper_bound(q, upper, reference), constant)
    if clock.state == 1:
        return eps, upper_bound(q, upper, reference)
    if clock.state == 0:
        return lower_bound(q, lower, reference), eps
    return eps, eps


def thermostat(q: torch.Tensor, clock: Clock, *, eps: float) -> tuple[Bound, Bound]:
    """[1 − ε, 1/(1 − ε) + k], with the controller's k ≥ 0 as state (entropy thermostat, MAI-Thinking-1)."""
    return eps, 1 / (1 - eps) + clock.state - 1


def moving_upper(q: torch.Tensor, clock: Clock, *, eps_low: float) -> tuple[Bound, Bound]:
    """[1 − ε⁻, 1 + ε⁺], with the controller's ε⁺ as state (ADAPO, arXiv 2603.11682)."""
    return eps_low, clock.state


def dynamic_adaptive(
    q: torch.Tensor, clock: Clock, *, eps_low: float, eps_high: float, cap: float
) -> tuple[Bound, Bound]:
    """DCPO's bounds (arXiv 2509.02333): ½ + ½√max(1 − 4ε⁻/q, 0) ≤ r ≤ ½ + ½√(1 + 4ε⁺/q), at most `cap`.

    They solve |r − 1| r q = ε, so a rarer token has a wider interval.
    """
    low = 0.5 + 0.5 * torch.sqrt(torch.clamp(1 - 4 * eps_low / q, min=0))
    high = torch.clamp(0.5 + 0.5 * torch.sqrt(1 + 4 * eps_high / q), max=cap)
    return 1 - low, high - 1


# PPO's interval, for all methods that leave the bounds as they are, and the objective that is clipped to it.
PPO = {"eps_low": 0.2, "eps_high": 0.2}
PPO_SOURCE = {"eps_low": "PPO and GRPO", "eps_high": "PPO and GRPO"}
CLIPPED = r"\min\big(r_t A_t,\ \mathrm{clip}(r_t, 1-\varepsilon^-, 1+\varepsilon^+)\,A_t\big)"

# The five entries of arXiv 2602.09782 share how a line is read, and its lines.
READING = {"reference": "old", "detach": True}
READING_SOURCE = {
    "reference": "open in the paper; with detach=True 'old' and 'current' clip the same tokens",
    "detach": "open in the paper; without it a clipped token keeps a gradient that pushes a good token down",
}
UPPER_SOURCE, LOWER_SOURCE = "paper v1: H(p) = −0.25 p + 0.5", "paper v1: M(p) = −0.13 p + 0.3"
# ID and DID have the same options; φ is `switch`.
SCHEDULE = {"eps": 0.2, "upper": H_UPPER, "lower": M_LOWER, "switch": 0.5, "phase2": "formula", **READING}
SCHEDULE_SOURCE = {
    "eps": "paper v1",
    "upper": UPPER_SOURCE,
    "lower": LOWER_SOURCE,
    "switch": "paper v1: half of training; φ in 0.3 … 0.6 in its ablation",
    "phase2": "the paper's formula and text contradict each other; its formula is taken",
    **READING_SOURCE,
}
SCHEDULE_CAVEAT = (
    "In the paper's formula the lower bound jumps to M(p) at the switch and closes to ε. Its text says the opposite "
    '(`phase2="prose"`).'
)

METHODS = (
    MethodSpec(
        name="grpo",
        title="GRPO",
        arxiv="2402.03300",
        bounds=constant,
        defaults=PPO,
        evidence=PPO_SOURCE,
        equation=CLIPPED,
        change="The reference: PPO's clip, advantages by group. They are normalised by the group's mean and deviation.",
        shipped=("TRL", "verl", "SkyRL", "ms-swift", "Trinity"),
        caveats=("The original averages over tokens, then over responses. Here the run sets the aggregation.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="clip_higher",
        title="Clip-Higher",
        arxiv="2503.14476",
        bounds=constant,
        defaults={"eps_low": 0.2, "eps_high": 0.28},
        evidence="DAPO paper",
        equation=CLIPPED,
        change="The upper bound is wider, 1 + ε⁺ = 1.28.",
        shipped=("TRL", "verl", "SkyRL", "ms-swift", "Trinity"),
        caveats=("DAPO's dynamic sampling and overlong shaping are not part of this entry.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="clip_lower",
        title="Clip-Lower",
        arxiv="2602.09782",
        bounds=constant,
        defaults={"eps_low": 0.28, "eps_high": 0.2},
        evidence={
            "eps_low": "ours: the paper does not disclose it, 0.28 mirrors Clip-Higher",
            "eps_high": "PPO and GRPO",
        },
        equation=CLIPPED,
        change="The lower bound is wider, 1 − ε⁻ = 0.72.",
        shipped=("TRL", "verl", "SkyRL", "ms-swift", "Trinity"),
        caveats=("arXiv 2509.26114 calls the opposite, a narrower lower bound, clip-low.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="dynamic_upper",
        title="Dynamic upper",
        arxiv="2602.09782",
        bounds=linear,
        defaults={"upper": H_UPPER, "lower": Line(0.0, 0.2), **READING},
        evidence={"upper": UPPER_SOURCE, "lower": "paper v1: ε", **READING_SOURCE},
        equation=r"r_t \le 1 + H(p_t) \iff r_t \le \frac{1+\beta}{1-\alpha q_t},\quad H(p)=\alpha p+\beta",
        change="The upper bound falls with the token's probability. It does not change over training.",
        caveats=("For q > 0.8 the upper bound exceeds 1/q and cannot bind.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="dynamic_lower",
        title="Dynamic lower",
        arxiv="2602.09782",
        bounds=linear,
        defaults={"upper": Line(0.0, 0.2), "lower": M_LOWER, **READING},
        evidence={"upper": "paper v1: ε", "lower": LOWER_SOURCE, **READING_SOURCE},
        equation=r"r_t \ge 1 - M(p_t) \iff r_t \ge \frac{1-\beta'}{1+\alpha' q_t},\quad M(p)=\alpha' p+\beta'",
        change="The lower bound rises with the token's probability. It does not change over training.",
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="id",
        title="ID",
        arxiv="2602.09782",
        bounds=increase_then_decrease,
        defaults=SCHEDULE,
        evidence=SCHEDULE_SOURCE,
        equation=r"(E^+,E^-)=(\lambda H(p)+(1-\lambda)\varepsilon,\ \varepsilon)\ \text{up to}\ \varphi T;\quad "
        r"(\varepsilon,\ (1+\lambda)M(p)-\lambda\varepsilon)\ \text{after};\quad "
        r"\lambda=1-\tfrac{k}{\varphi T},\ \text{then}\ -\tfrac{k-\varphi T}{(1-\varphi)T}",
        change="The upper bound closes, then the lower one opens. "
        "Increase-then-decrease: the upper one goes from H(p) to ε.",
        caveats=(SCHEDULE_CAVEAT,),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="did",
        title="DID",
        arxiv="2602.09782",
        bounds=decrease_increase_decrease,
        defaults=SCHEDULE,
        evidence=SCHEDULE_SOURCE,
        equation=r"(E^+,E^-)=(\lambda\varepsilon+(1-\lambda)H(p),\ \varepsilon)\ \text{up to}\ \varphi T;\quad "
        r"(H(p),\ (1+\lambda)M(p)-\lambda\varepsilon)\ \text{after};\quad "
        r"\lambda=1-\tfrac{k}{\varphi T},\ \text{then}\ -\tfrac{k-\varphi T}{(1-\varphi)T}",
        change="The upper bound opens, then the lower one does too. "
        "Decrease-increase-decrease: the upper one ends at H(p).",
        caveats=(SCHEDULE_CAVEAT,),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="od",
        title="OD",
        arxiv="2602.09782",
        bounds=oscillatory_decay,
        controller=controllers.Hysteresis,
        defaults={
            **{"eps": 0.2, "upper": H_UPPER, "lower": M_LOWER, "fraction": 0.2, "initial_state": -1},
            **{"initial_entropy": 0.0, **READING},
        },
        evidence={
            "eps": "paper v1",
            "upper": UPPER_SOURCE,
            "lower": LOWER_SOURCE,
            "fraction": "paper v1: H_min = 0.2 H_init",
            "initial_state": "open in the paper: ε on both sides before the first trigger",
            "initial_entropy": "open in the paper: 0 takes H_init from the first rollout batch",
            **READING_SOURCE,
        },
        equation=r"s=1:\ (H(p),\varepsilon);\quad s=0:\ (\varepsilon,M(p));\quad "
        r"s\leftarrow 1\ \text{if}\ H_k\le\tau_{low},\ 0\ \text{if}\ H_k>\tau_{high}(k)",
        change="Entropy feedback loosens one bound at a time. Oscillatory decay: its band closes over training.",
        keeps="the side s and the initial entropy",
        caveats=("It never loosens the upper bound where entropy stays above 0.2 H_init.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="dcpo",
        title="DCPO (clipping)",
        arxiv="2509.02333",
        bounds=dynamic_adaptive,
        defaults={"eps_low": 0.16, "eps_high": 0.2, "cap": 10.0},
        evidence={
            "eps_low": "official README; run script: 0.2",
            "eps_high": "official README; run script: 0.28",
            "cap": "official code",
        },
        equation=r"\tfrac12+\tfrac12\sqrt{\max(1-4\varepsilon^-/q,0)}\le r_t\le"
        r"\tfrac12+\tfrac12\sqrt{1+4\varepsilon^+/q}",
        change="The bounds widen as the old probability falls. There is no schedule.",
        caveats=("Only DCPO's clipping: its smoothed advantages and its loss averaging are left out.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="thermostat",
        title="Entropy thermostat",
        arxiv="",
        bounds=thermostat,
        controller=controllers.Relaxation,
        defaults={"eps": 0.6, "target": 0.3, "delta": 0.25, "maximum": 2.5},
        evidence="second-hand: four public notes on the report agree",
        equation=r"1-\varepsilon\le r_t\le\tfrac1{1-\varepsilon}+k,\quad "
        r"k\leftarrow\mathrm{clip}(k+\delta\,\mathrm{sign}(H^*-H),0,k_{max})",
        change="Entropy feedback moves the upper bound in steps. Its aim is entropy at a target.",
        keeps="the relaxation k",
        caveats=("From notes on the MAI-Thinking-1 report (2026). Its outer clip r ≤ 50 is `dual_clip=50` here.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="adapo",
        title="ADAPO",
        arxiv="2603.11682",
        bounds=moving_upper,
        controller=controllers.SteppedTowardsStart,
        defaults={"eps_low": 0.2, "initial": 0.28, "step": 0.02, "minimum": 0.0, "maximum": 1.0},
        evidence={
            "eps_low": "PPO and GRPO",
            "initial": "ours: DAPO's; not found in public text",
            "step": "ours: not found in public text",
            "minimum": "ours: not found in public text",
            "maximum": "ours: not found in public text",
        },
        equation=r"1-\varepsilon^-\le r_t\le1+\varepsilon^+_k,\quad "
        r"\varepsilon^+_k=\mathrm{clip}(\varepsilon^+_{k-1}+\mathtt{step}\,\mathrm{sign}(H_0-H_k))",
        change="The upper bound rises at entropy below its start. Above it the bound falls.",
        keeps="the upper bound and the initial entropy",
        caveats=(
            "Second-hand: the direction is known from two public notes on the paper. The rule of a step is ours.",
        ),
        on_policy_grpo=True,
    ),
)
