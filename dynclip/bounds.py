"""Clipping bounds ε⁻, ε⁺ of the importance ratio, as pure functions of the old probability, the step and a state.

Notation (arXiv 2602.09782): p = π_θ(a|s), q = π_old(a|s), r = p/q; the ratio is clipped to [1 − ε⁻, 1 + ε⁺].
The paper writes its dynamic thresholds as lines in the *current* probability, ε⁺ = H(p) = −0.25 p + 0.5 and
ε⁻ = M(p) = −0.13 p + 0.3. With the threshold outside the gradient, r ≤ 1 + αp + β with p = r q is the same set as
r ≤ (1 + β)/(1 − α q): a bound that q alone decides. Every scheduled mixture of such lines is a line again, so every
method here is a function of (q, step, state).

A bounds function returns `(eps_low, eps_high)`; each is a tensor shaped like `q`, or a float where it is constant.
"""

from dataclasses import dataclass

import torch

Bound = torch.Tensor | float


@dataclass(frozen=True)
class Line:
    """A threshold ε(p) = slope · p + intercept in the current probability p."""

    slope: float
    intercept: float

    def mix(self, weight: float, constant: float) -> "Line":
        """weight · self + (1 − weight) · constant, which is a line again."""
        return Line(weight * self.slope, weight * self.intercept + (1 - weight) * constant)


H_UPPER = Line(-0.25, 0.5)  # H(p), arXiv 2602.09782 v1
M_LOWER = Line(-0.13, 0.3)  # M(p), ibid.


@dataclass(frozen=True)
class Clock:
    """Where a run is. `step` and `total_steps` count rollout batches (k and T of the paper), not optimizer steps;
    `state` is the controller's signal (OD: 1 loosened upper bound, 0 loosened lower bound, −1 not yet triggered)."""

    step: int
    total_steps: int
    state: int = -1


def upper_bound(q: torch.Tensor, line: Line) -> Bound:
    """ε⁺ such that r ≤ 1 + ε⁺ is r ≤ 1 + line(p) with p = r q. Shaped like `q`; a float where the line is flat."""
    if line.slope == 0:
        return line.intercept
    return (1 + line.intercept) / (1 - line.slope * q) - 1


def lower_bound(q: torch.Tensor, line: Line) -> Bound:
    """ε⁻ such that r ≥ 1 − ε⁻ is r ≥ 1 − line(p) with p = r q. Shaped like `q`; a float where the line is flat."""
    if line.slope == 0:
        return line.intercept
    return 1 - (1 - line.intercept) / (1 + line.slope * q)


def constant(q: torch.Tensor, clock: Clock, *, eps_low: float, eps_high: float) -> tuple[Bound, Bound]:
    """PPO's interval [1 − eps_low, 1 + eps_high] (arXiv 1707.06347; asymmetric: Clip-Higher, arXiv 2503.14476)."""
    return eps_low, eps_high


def linear(q: torch.Tensor, clock: Clock, *, lower: Line, upper: Line) -> tuple[Bound, Bound]:
    """Lines in the current probability that stay the same over training (arXiv 2602.09782, section on thresholds)."""
    return lower_bound(q, lower), upper_bound(q, upper)


def increase_then_decrease(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, switch: float, phase2: str
) -> tuple[Bound, Bound]:
    """ID: up to the switch the upper bound goes from H(p) to ε, after it the lower bound is loosened.

    Up to k ≤ φT, with λ = 1 − k/(φT): (E⁺, E⁻) = (λ H + (1 − λ) ε, ε). After it: (ε, `second_phase`).
    """
    if clock.step <= switch * clock.total_steps:
        progress = clock.step / (switch * clock.total_steps)
        return eps, upper_bound(q, upper.mix(1 - progress, eps))
    return lower_bound(q, second_phase(clock, eps, lower, switch, phase2)), eps


def decrease_increase_decrease(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, switch: float, phase2: str
) -> tuple[Bound, Bound]:
    """DID: up to the switch the upper bound goes from ε to H(p) and stays there; then the lower bound is loosened."""
    if clock.step <= switch * clock.total_steps:
        progress = clock.step / (switch * clock.total_steps)
        return eps, upper_bound(q, upper.mix(progress, eps))
    return lower_bound(q, second_phase(clock, eps, lower, switch, phase2)), upper_bound(q, upper)


def second_phase(clock: Clock, eps: float, lower: Line, switch: float, phase2: str) -> Line:
    """The lower threshold E⁻ of ID and DID after the switch; s = (k − φT)/((1 − φ)T) runs from 0 to 1.

    The paper contradicts itself. Its formula (1 + λ) M − λ ε with λ = −s is M right after the switch and ε at T;
    its text says the threshold moves "from ε_std to M(p)". `phase2="formula"` is the former, `"prose"` the latter.
    """
    start = switch * clock.total_steps
    progress = (clock.step - start) / (clock.total_steps - start)
    if phase2 == "formula":
        return lower.mix(1 - progress, eps)
    if phase2 == "prose":
        return lower.mix(progress, eps)
    raise ValueError(f"phase2: expected 'formula' or 'prose', given {phase2!r}")


def oscillatory_decay(q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line) -> tuple[Bound, Bound]:
    """OD: the controller's state picks the side: 1 → (E⁺, E⁻) = (H, ε), 0 → (ε, M), −1 (no trigger yet) → (ε, ε)."""
    if clock.state == 1:
        return eps, upper_bound(q, upper)
    if clock.state == 0:
        return lower_bound(q, lower), eps
    return eps, eps
