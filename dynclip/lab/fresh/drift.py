"""Predicts what a bound does to the entropy of neutral tokens, from quantities that a run logs. Nothing is fitted.

A neutral token's advantage A is independent of the token. It is sampled with probability q, and in each epoch its own
update moves its log-ratio by a step of size κ |A| (1 − 2 q + Σ p²), up for A > 0 and down for A < 0, until the ratio is
beyond the bound on that side. So its push on the shared logits over the E epochs is

    D(q) = mean over A of  Σ_u A r_u 1[r_u is not beyond the bound]

With D the same for all tokens the expected gradient Σ_v q_v D_v (e_v − p) is zero: tokens are sampled in proportion
to their probability. What moves entropy is how D depends on q. Rare tokens make larger steps in ln r, so they reach a
bound first. Three cases for them, with the bounds ln(1 + ε⁺) < −ln(1 − ε⁻) of GRPO:

    E κ |A| below both bounds       nothing is clipped, r grows for A > 0 and shrinks for A < 0: D > 0, entropy rises
    creeping to a bound             A > 0 stops at ln 1.2, earlier than A < 0 at −ln 0.8: D < 0, entropy falls
    one step overshoots the bound   both stop after one update wherever the bound is; a looser bound only lets more
                                    frequent tokens, with smaller steps, go on: the effect of the bound turns round

`push` computes the expected gradient and its variance exactly for a softmax; `predict` integrates it over a run, with
the optimizer's step for that gradient.
"""

import math
from collections.abc import Callable, Sequence

import torch

from dynclip.lab.fresh.world import FreshRegime, start
from dynclip.lab.tabular import entropy_of
from dynclip.methods import registry

Bounds = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def advantage_law(group: int, success: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, probabilities) of the advantage in groups whose completions are right with probability `success`.

    With k of G right, A is (r − k/G)/(SD + 10⁻⁴), SD = √(k (G − k)/(G (G − 1))). Groups without a gradient have A = 0.
    """
    values, weights = [0.0], [success**group + (1 - success) ** group]
    for k in range(1, group):
        chance = math.comb(group, k) * success**k * (1 - success) ** (group - k)
        deviation = math.sqrt(k * (group - k) / (group * (group - 1))) + 1e-4
        values += [(1 - k / group) / deviation, -k / group / deviation]
        weights += [chance * k / group, chance * (1 - k / group)]
    return torch.tensor(values, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


def push(
    logprob: torch.Tensor, own: float, law: tuple[torch.Tensor, torch.Tensor], bounds: Bounds, epochs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (V,) of a sampled token's gradient on the shared logits, averaged over its `epochs` updates.

    `logprob` (V,) is the policy that samples, `own` is κ, `bounds` maps q to (eps_low, eps_high).
    """
    values, weights = law
    size, prob = len(logprob), logprob.exp()
    eps_low, eps_high = bounds(prob)
    low, high = (1 - eps_low).clamp(min=1e-30).log(), (1 + eps_high).log()
    local = logprob.new_zeros(len(values), size, size)  # of advantage × sampled token
    chosen, rise = torch.eye(size, dtype=logprob.dtype), values.view(-1, 1)
    total, square = torch.zeros_like(logprob), torch.zeros_like(logprob)
    share = (weights.view(-1, 1) * prob).unsqueeze(-1)
    for _ in range(epochs):
        now = torch.log_softmax(logprob + local, -1)
        moved = now.diagonal(dim1=1, dim2=2) - logprob  # ln r
        live = torch.where(rise > 0, moved <= high, moved >= low)
        force = (rise * moved.exp() * live).unsqueeze(-1) * (chosen - now.exp())
        local += own * force
        total += (share * force).sum((0, 1)) / epochs
        square += (share * force**2).sum((0, 1)) / epochs
    return total, square - total**2


def predict(
    regime: FreshRegime,
    method: str,
    options: dict | None = None,
    success: Sequence[float] | None = None,
    begin: torch.Tensor | None = None,
) -> torch.Tensor:
    """The entropy (steps + 1,) of a neutral position under `method`, a method with bounds alone.

    `success`: the reward of each rollout step, by default a fair coin's. `begin` (V,): logits at the start, by default
    the regime's. Momentum delays Adam's step by a few updates and is left out.
    """
    chosen = registry.method(method, regime.steps, **(options or {}))
    logits = (start(regime)[-1] if begin is None else begin).clone()
    tokens = regime.problems * regime.group // regime.minibatches  # of a position in a mini-batch
    curve = [entropy_of(torch.log_softmax(logits, -1))]
    for step in range(regime.steps):
        law = advantage_law(regime.group, 0.5 if success is None else float(success[step]))
        logprob = torch.log_softmax(logits, -1)
        chosen.observe(step, float(curve[-1]))
        mean, variance = push(logprob, regime.own, law, lambda q, k=step: chosen.bounds(q, k), regime.epochs)
        if regime.optimizer == "adam":
            mean = mean / (mean**2 + variance / tokens).sqrt().clamp(min=1e-12)
        logits = logits + regime.updates * regime.learning_rate * mean
        curve.append(entropy_of(torch.log_softmax(logits, -1)))
    return torch.stack(curve)
