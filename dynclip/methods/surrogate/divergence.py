"""Trust regions in a divergence: bounds at which a token's own two-point divergence reaches a radius."""

import torch

from dynclip.methods.measurements import clipped
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Bound, Clock, Tokens


def divergence_ball(q: torch.Tensor, clock: Clock, *, divergence: str, delta: float, cap: float) -> tuple[Bound, Bound]:
    """BandPO's bounds (arXiv 2603.04918): the r for which a token's own two-point divergence stays within `delta`.

    The policy is reduced to {the token, everything else}: old (q, 1 − q), new (r q, 1 − r q). The bounds solve
    q f(r) + (1 − q) f((1 − r q)/(1 − q)) ≤ δ for r. With u = r − 1 the second argument is 1 − u q/(1 − q), so
      TV   f(x) = |x − 1|/2:      q |u| ≤ δ            → r = 1 ± δ/q
      χ²   f(x) = (x − 1)²:       u² q/(1 − q) ≤ δ      → r = 1 ± √(δ (1 − q)/q)
      KL   f(x) = x − 1 − ln x:   KL(old ‖ new) ≤ δ     → two roots (`kl_roots`).
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

    In z = logit(r q) the divergence is softplus(z) − q z − h(q), with the binary entropy h. It is convex in z, so
    Newton's method converges from the outer side of each root. softplus(z) ≥ max(z, 0) gives such starting points:
    z ≥ (h + δ)/(1 − q) above and z ≤ −(h + δ)/q below.
    """
    # Outside this range r is at its limits (0, the cap or the simplex), and 1 − q would lose its digits.
    prob = q.clamp(min=1e-7, max=1 - 1e-6)
    level = delta - prob * torch.log(prob) - (1 - prob) * torch.log1p(-prob)
    roots = []
    for z in (-level / prob, level / (1 - prob)):
        for _ in range(iterations):
            value = torch.nn.functional.softplus(z) - prob * z - level
            z = z - value / (torch.sigmoid(z) - prob)
        roots.append(torch.sigmoid(z) / prob)
    return roots[0], roots[1]


def binary_divergence(q: torch.Tensor, clock: Clock, *, divergence: str, delta: float) -> tuple[Bound, Bound]:
    """DPPO's bounds (arXiv 2602.04879): the r up to which the two-point divergence D of p = r q from q is at most δ.

    TV: D = |p − q| gives r = 1 ± δ/q. KL: D = q ln(q/p) + (1 − q) ln((1 − q)/(1 − p)) gives the roots of `kl_roots`.
    Raises ValueError for another divergence.
    """
    if divergence == "tv":
        width = delta / q.clamp(min=1e-30)
        return width.clamp(max=1), width
    if divergence == "kl":
        low, high = kl_roots(q, delta)
        return 1 - low, high - 1
    raise ValueError(f"divergence: expected 'tv' or 'kl', given {divergence!r}")


def masked_reinforce(tokens: Tokens, *, weight_cap: float, square: float) -> torch.Tensor:
    """DPPO (arXiv 2602.04879): −M sg(min(r, cap)) A ln p + λ (ln r)², with M = 0 for the tokens that PPO would clip.

    M is 0 where A > 0 and r > 1 + ε⁺, or A < 0 and r < 1 − ε⁻. The gradient of a kept token is PPO's up to r = cap.
    """
    low, high = clipped(tokens)
    weight = tokens.ratio.detach().clamp(max=weight_cap) * ~(low | high)
    loss = -weight * tokens.advantages * tokens.logprob
    return loss + square * tokens.log_ratio**2 if square else loss


METHODS = (
    MethodSpec(
        name="bandpo",
        title="BandPO",
        arxiv="2603.04918",
        bounds=divergence_ball,
        defaults={"divergence": "kl", "delta": 0.05, "cap": 10.0},
        evidence={
            "divergence": "paper's main setting",
            "delta": "second-hand, from the official code",
            "cap": "second-hand, from the official code",
        },
        equation=r"q f(r_t)+(1-q)f\big(\tfrac{1-r_tq}{1-q}\big)\le\delta",
        change="A token's interval is a ball of its divergence. "
        "Its bounds are where its two-point divergence reaches a radius.",
        caveats=("Derived here from the definition. The KL roots take 20 Newton steps per token.",),
        on_policy_grpo=True,
    ),
    MethodSpec(
        name="dppo",
        title="DPPO",
        arxiv="2602.04879",
        bounds=binary_divergence,
        surrogate=masked_reinforce,
        defaults={"divergence": "tv", "delta": 0.15, "weight_cap": 20.0, "square": 0.0},
        evidence={
            "divergence": "official code: binary TV, and binary KL; prime-rl's default is TV",
            "delta": "second-hand, from the paper: 0.15 for dense models, 0.2 for mixtures of experts",
            "weight_cap": "verl's comment on the paper's section 5.4; SkyRL has none (1e9)",
            "square": "paper: none; second-hand, prime-rl: 1e-3",
        },
        equation=r"M_t\,\mathrm{sg}\big(\min(r_t,c)\big)A_t\ln p_t-\lambda(\ln r_t)^2,\quad "
        r"M_t=0\ \text{if}\ A_t(r_t-1)>0,\ D_t>\delta,\quad D_t=|p_t-q_t|\ \text{or}\ "
        r"q_t\ln\tfrac{q_t}{p_t}+(1-q_t)\ln\tfrac{1-q_t}{1-p_t}",
        change="A token is masked where its divergence exceeds δ. It is the two-point one, on PPO's sides.",
        shipped=("verl", "SkyRL", "prime-rl"),
        caveats=(
            "Its clip set is a bound in q: ε⁺ = ε⁻ = δ/q for TV, that of `bandpo` with the same divergence.",
            "The paper takes q from the sampler. Here it is what the trainer gives as old log-probabilities.",
            "verl has one δ for each side and a cap of `clip_ratio_c`, which is 3 unless set.",
            "On policy the gradient is GRPO's. The value of the loss differs.",
        ),
    ),
)
