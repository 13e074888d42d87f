"""Clipping bounds ε⁻, ε⁺ of the importance ratio, as pure functions of the old probability, the step and a state.

Notation (arXiv 2602.09782): p = π_θ(a|s), q = π_old(a|s), r = p/q; the ratio is clipped to [1 − ε⁻, 1 + ε⁺].
The paper writes its dynamic thresholds as lines in the *current* probability, ε⁺ = H(p) = −0.25 p + 0.5 and
ε⁻ = M(p) = −0.13 p + 0.3. With the threshold outside the gradient, r ≤ 1 + αp + β with p = r q is the same set as
r ≤ (1 + β)/(1 − α q): a bound that q alone decides. Every scheduled mixture of such lines is a line again, so every
method here is a function of (q, step, state).

A bounds function returns `(eps_low, eps_high)`; each is a tensor shaped like `q`, or a float where it is constant
(infinity: no upper bound). The functions of the paper's family take `reference`: "old" gives that bound on q, "current"
the paper's literal line, evaluated at p: the same tokens are clipped (tests/test_bounds.py).
"""

import math

import torch

from dynclip.methods.types import Bound, Clock, Line

H_UPPER = Line(-0.25, 0.5)  # H(p), arXiv 2602.09782 v1
M_LOWER = Line(-0.13, 0.3)  # M(p), ibid.


def upper_bound(q: torch.Tensor, line: Line, reference: str = "old") -> Bound:
    """ε⁺ such that r ≤ 1 + ε⁺ is r ≤ 1 + line(p) with p = r q. Shaped like `q`; a float where the line is flat.

    With `reference="current"` the argument is p itself and the line is read off at it.
    """
    if line.slope == 0:
        return line.intercept
    if reference == "current":
        return line.slope * q + line.intercept
    return (1 + line.intercept) / (1 - line.slope * q) - 1


def lower_bound(q: torch.Tensor, line: Line, reference: str = "old") -> Bound:
    """ε⁻ such that r ≥ 1 − ε⁻ is r ≥ 1 − line(p) with p = r q. Shaped like `q`; a float where the line is flat.

    With `reference="current"` the argument is p itself and the line is read off at it.
    """
    if line.slope == 0:
        return line.intercept
    if reference == "current":
        return line.slope * q + line.intercept
    return 1 - (1 - line.intercept) / (1 + line.slope * q)


def constant(q: torch.Tensor, clock: Clock, *, eps_low: float, eps_high: float) -> tuple[Bound, Bound]:
    """PPO's interval [1 − eps_low, 1 + eps_high] (arXiv 1707.06347; asymmetric: Clip-Higher, arXiv 2503.14476)."""
    return eps_low, eps_high


def unbounded(q: torch.Tensor, clock: Clock) -> tuple[Bound, Bound]:
    """[0, ∞): for surrogates that bound the ratio by themselves, or not at all."""
    return 1.0, math.inf


def linear(q: torch.Tensor, clock: Clock, *, lower: Line, upper: Line, reference: str = "old") -> tuple[Bound, Bound]:
    """Lines in the current probability that stay the same over training (arXiv 2602.09782, section on thresholds)."""
    return lower_bound(q, lower, reference), upper_bound(q, upper, reference)


def increase_then_decrease(
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
    """ID: up to the switch the upper bound goes from H(p) to ε, after it the lower bound is loosened.

    Up to k ≤ φT, with λ = 1 − k/(φT): (E⁺, E⁻) = (λ H + (1 − λ) ε, ε). After it: (ε, `second_phase`).
    """
    if clock.step <= switch * clock.total_steps:
        progress = clock.step / (switch * clock.total_steps)
        return eps, upper_bound(q, upper.mix(1 - progress, eps), reference)
    return lower_bound(q, second_phase(clock, eps, lower, switch, phase2), reference), eps


def decrease_increase_decrease(
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
    """DID: up to the switch the upper bound goes from ε to H(p) and stays there; then the lower bound is loosened."""
    if clock.step <= switch * clock.total_steps:
        progress = clock.step / (switch * clock.total_steps)
        return eps, upper_bound(q, upper.mix(progress, eps), reference)
    return (
        lower_bound(q, second_phase(clock, eps, lower, switch, phase2), reference),
        upper_bound(q, upper, reference),
    )


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


def oscillatory_decay(
    q: torch.Tensor, clock: Clock, *, eps: float, upper: Line, lower: Line, reference: str = "old"
) -> tuple[Bound, Bound]:
    """OD: the controller's state picks the side: 1 → (E⁺, E⁻) = (H, ε), 0 → (ε, M), −1 (no trigger yet) → (ε, ε)."""
    if clock.state == 1:
        return eps, upper_bound(q, upper, reference)
    if clock.state == 0:
        return lower_bound(q, lower, reference), eps
    return eps, eps


def thermostat(q: torch.Tensor, clock: Clock, *, eps: float) -> tuple[Bound, Bound]:
    """[1 − ε, 1/(1 − ε) + k] with the controller's relaxation k ≥ 0 as state (entropy thermostat, MAI-Thinking-1)."""
    return eps, 1 / (1 - eps) + clock.state - 1


def dynamic_adaptive(
    q: torch.Tensor, clock: Clock, *, eps_low: float, eps_high: float, cap: float
) -> tuple[Bound, Bound]:
    """DCPO's bounds (arXiv 2509.02333): ½ + ½√max(1 − 4ε⁻/q, 0) ≤ r ≤ ½ + ½√(1 + 4ε⁺/q), at most `cap`.

    They solve |r − 1| r q = ε: the rarer a token, the wider its interval.
    """
    low = 0.5 + 0.5 * torch.sqrt(torch.clamp(1 - 4 * eps_low / q, min=0))
    high = torch.clamp(0.5 + 0.5 * torch.sqrt(1 + 4 * eps_high / q), max=cap)
    return 1 - low, high - 1


def divergence_ball(q: torch.Tensor, clock: Clock, *, divergence: str, delta: float, cap: float) -> tuple[Bound, Bound]:
    """BandPO's bounds (arXiv 2603.04918): the r for which a token's own two-point divergence stays within `delta`.

    The policy is reduced to {the token, everything else}, old (q, 1 − q) and new (r q, 1 − r q), and the ball
    q f(r) + (1 − q) f((1 − r q)/(1 − q)) ≤ δ is solved for r. With u = r − 1 the second argument is 1 − u q/(1 − q), so
      TV   f(x) = |x − 1|/2:      q |u| ≤ δ            → r = 1 ± δ/q
      χ²   f(x) = (x − 1)²:       u² q/(1 − q) ≤ δ      → r = 1 ± √(δ (1 − q)/q)
      KL   f(x) = x − 1 − ln x:   KL(old ‖ new) ≤ δ     → two roots, found by Newton's method (`kl_roots`).
    Bounds are cut at the simplex (0 ≤ r ≤ 1/q) and at `cap`. Raises ValueError for an unknown divergence.
    """
    if divergence == "tv":
        low, high = 1 - delta / q, 1 + delta / q
    elif divergence == "chi2":
        width = torch.sqrt(delta * (1 - q).clamp(min=0) / q)
        low, high = 1 - width, 1 + width
    elif divergence == "kl":
        low, high = kl_roots(q, delta)
    else:
        raise ValueError(f"divergence: expected 'tv', 'chi2' or 'kl', given {divergence!r}")
    high = torch.minimum(high, 1 / q).clamp(max=cap)
    return 1 - low.clamp(min=0), high - 1


def kl_roots(q: torch.Tensor, delta: float, iterations: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """The two r with KL((q, 1 − q) ‖ (r q, 1 − r q)) = `delta`, shaped like `q`.

    In z = logit(r q) the divergence is softplus(z) − q z − h(q), h the binary entropy: convex on the whole line.
    Newton's method from the outer side of a root therefore converges to it without safeguards, and
    softplus(z) ≥ max(z, 0) gives such starting points: z ≥ (h + δ)/(1 − q) above, z ≤ −(h + δ)/q below.
    """
    # Beyond these ends r is at its limits (0 or the cap below, the simplex above), and 1 − q would lose its digits.
    prob = q.clamp(min=1e-7, max=1 - 1e-6)
    level = delta - prob * torch.log(prob) - (1 - prob) * torch.log1p(-prob)
    roots = []
    for z in (-level / prob, level / (1 - prob)):
        for _ in range(iterations):
            value = torch.nn.functional.softplus(z) - prob * z - level
            z = z - value / (torch.sigmoid(z) - prob)
        roots.append(torch.sigmoid(z) / prob)
    return roots[0], roots[1]
