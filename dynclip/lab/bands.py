"""Predicts from GRPO's run alone how a looser bound changes entropy.

GRPO's clip removes from the gradient the tokens beyond 1 ± 0.2 on the side of their advantage. A looser bound gives
back the tokens of the *band* between the two bounds, and changes nothing else. To first order, one update changes
entropy through them by the sum over the band of r · alignment (dynclip.regions), and the expected reward J by the inner
product of the same gradient with ∇J. Both are numbers of GRPO's run; no run with the looser bound is needed.

`follow` accumulates both along GRPO's run in four readings:

    rule       the paper's term −A p (ln p + H), without the global baseline; step along the gradient of the logits
    exact      −A [p (ln p + H) − B], the same step
    optimizer  the exact inner products with the optimizer's own step (Adam divides by √v̂; SGD: as "exact")
    batch      no expansion: every few steps one whole rollout batch is trained twice from GRPO's state, once per bound

D_H and D_J are the sums over GRPO's steps before K. For equal steps `predict` gives D_H(K). For equal success it gives
D_H − (dH/dJ) D_J, where GRPO has made half of its gain: a policy that is D_J ahead reaches the same reward earlier, so
the entropy change of GRPO's own way there, dH/dJ per reward, is subtracted. Nothing is fitted.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dynclip.lab.tabular import Trace, View, entropy_of, learn, run, step_scale
from dynclip.lab.world import Regime, success_of
from dynclip.methods import registry
from dynclip.methods.objective import Method
from dynclip.methods.spec import ROLES, MethodSpec
from dynclip.regions import baseline

READINGS = ("rule", "exact", "optimizer", "batch")
WHERE = ("half", "end", "success")
# Name of an arm → (method, options). The first one is the baseline.
ARMS = {
    "grpo": ("grpo", {}),
    "clip_higher": ("clip_higher", {}),
    "upper 0.4": ("clip_higher", {"eps_high": 0.4}),
    "dynamic_upper": ("dynamic_upper", {}),
    "clip_lower": ("clip_lower", {}),
    "dynamic_lower": ("dynamic_lower", {}),
}
LOOSER = tuple(ARMS)[1:]
UPPER = LOOSER[:3]


@dataclass(frozen=True)
class Bands:
    """Effects of the band along GRPO's run, arrays (arms, seeds, steps).

    `entropy` and `success`, by reading: what a step's band adds to the entropy (nats, mean over states) and to the
    expected reward. "rule" and "exact" are per unit of a step on the logits. `share`: tokens in the band, mean over
    updates.
    """

    entropy: dict[str, np.ndarray]
    success: dict[str, np.ndarray]
    share: np.ndarray


def follow(regime: Regime, seeds, every: int = 5, arms: dict = ARMS) -> tuple[Trace, Bands]:
    """GRPO's run in `regime`, with the bands of the looser `arms`. Every `every`-th step has a trial batch.

    Raises ValueError for arms that differ from GRPO in more than their bounds.
    """
    looser = [registry.method(name, regime.steps, **options) for name, options in list(arms.values())[1:]]
    if any(bounds_aside(method.spec) != bounds_aside(registry.METHODS["grpo"]) for method in looser):
        raise ValueError(f"arms: expected methods that differ from GRPO in their bounds alone, given {', '.join(arms)}")
    seeds = tuple(seeds)
    names = [(reading, kind) for reading in READINGS for kind in ("entropy", "success")]
    sums = {name: np.zeros((len(looser), len(seeds), regime.steps)) for name in [*names, ("share", "")]}

    def watch(view: View) -> None:
        if view.update == 0 and view.step % every == 0:
            for number, (entropy, success) in enumerate(trials(view, looser)):
                sums["batch", "entropy"][number, :, view.step : view.step + every] = entropy[:, None]
                sums["batch", "success"][number, :, view.step : view.step + every] = success[:, None]
        if view.update >= regime.minibatches:  # before that every ratio of the mini-batch is 1
            for key, values in band_effects(view, looser).items():
                sums[key][:, :, view.step] += values

    trace = run(regime, *arms["grpo"][:1], seeds, arms["grpo"][1], watch=watch)
    entropy = {reading: sums[reading, "entropy"] for reading in READINGS}
    success = {reading: sums[reading, "success"] for reading in READINGS}
    return trace, Bands(entropy, success, sums["share", ""] / regime.updates)


def bounds_aside(spec: MethodSpec) -> list:
    """The pieces of a method other than its bounds."""
    return [getattr(spec, role) for role in ROLES if role != "bounds"]


def band_effects(view: View, looser: list[Method]) -> dict[tuple[str, str], np.ndarray]:
    """First-order effects of this update's band, by (reading, kind): arrays (arms, seeds).

    A token's objective r A has the gradient r A (e_a − p) in the logits of its state. Tokens count negatively where a
    bound is tighter than GRPO's.
    """
    regime, part = view.world.regime, view.part
    replicas, shape = len(view.world.seeds), part.rows.shape
    places, rows = part.places.reshape(-1), part.rows.reshape(-1)
    advantages = part.advantages.unsqueeze(-1).expand(shape).reshape(-1)
    old = part.old_logprob.reshape(-1)
    ratio = (view.logprob.view(-1)[places] - old).exp()
    # One column per arm: +1 where it keeps a token that GRPO clips, −1 the other way round.
    kept = torch.stack([keeps(method, ratio, old, advantages, view.step) for method in (view.method, *looser)])
    band = kept[1:].to(ratio.dtype) - kept[0].to(ratio.dtype)
    pull = band * (ratio * advantages) / (shape[1] * shape[2])

    prob = view.logprob.exp()
    term = prob * (view.logprob + entropy_of(view.logprob).unsqueeze(-1))
    chosen = term.view(-1)[places]
    level = baseline(view.logprob)[rows]

    def per_seed(values: torch.Tensor) -> np.ndarray:
        return values.view(len(looser), replicas, -1).sum(-1).numpy()

    flat = torch.zeros(len(looser), prob.numel(), dtype=prob.dtype).index_add_(1, places, pull)
    gradient = flat.view(-1, *prob.shape)
    gradient = gradient - prob * gradient.sum(-1, keepdim=True)
    good = view.world.good.to(prob.dtype)
    mass = (prob * good).sum(-1, keepdim=True)
    price = regime.length * mass.view(replicas, -1).mean(1) ** (regime.length - 1) / regime.states
    uphill = prob * (good - mass) * price.repeat_interleave(regime.states).unsqueeze(-1)
    scaled = gradient * regime.learning_rate
    if regime.optimizer == "adam":
        scaled = scaled / step_scale(view.slots)
    by_step = per_seed(gradient * uphill)
    return {
        ("rule", "entropy"): per_seed(-pull * chosen) / regime.states,
        ("rule", "success"): by_step,
        ("exact", "entropy"): per_seed(-pull * (chosen - level)) / regime.states,
        ("exact", "success"): by_step,
        ("optimizer", "entropy"): per_seed(-scaled * term) / regime.states,
        ("optimizer", "success"): per_seed(scaled * uphill),
        ("share", ""): per_seed(band.abs()) / (shape[1] * shape[2]),
    }


def keeps(method: Method, ratio: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, step: int) -> torch.Tensor:
    """Which tokens keep their gradient under PPO's surrogate with the method's bounds; all arguments (N,), bool out."""
    low, high = method.bounds(old.exp(), step)
    return ~(((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0)))


def trials(view: View, looser: list[Method]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each looser method: (entropy, expected reward) after one rollout batch from here, minus GRPO's."""
    ends = []
    for method in (view.method, *looser):
        table, slots = view.table.clone(), view.slots.copy()
        learn(view.world, method, table, slots, view.rollout, view.step, shares=False)
        logprob = torch.log_softmax(table, -1)
        entropy = entropy_of(logprob).view(len(view.world.seeds), -1).mean(1)
        ends.append((entropy.numpy(), success_of(view.world.regime, logprob.exp(), view.world.good).numpy()))
    return [(entropy - ends[0][0], success - ends[0][1]) for entropy, success in ends[1:]]


def predict(trace: Trace, bands: Bands, arm: int, reading: str, where: str) -> tuple[int, float]:
    """(sign, score) of the looser arm's entropy minus GRPO's, from GRPO's run alone; `arm` counts `LOOSER`.

    `where` is "half" or "end" of the run, at equal steps, or "success", at equal expected reward. The score is the mean
    over seeds, in nats for "optimizer" and "batch" and in an arbitrary unit for the others. It is (0, NaN) if GRPO's
    reward does not grow. Raises ValueError for an unknown reading or place.
    """
    if reading not in READINGS or where not in WHERE:
        raise ValueError(f"expected a reading of {READINGS} and a place of {WHERE}, given {reading!r}, {where!r}")
    steps = bands.share.shape[-1]
    entropy, success = bands.entropy[reading][arm].mean(0), bands.success[reading][arm].mean(0)
    if where != "success":
        score = float(entropy[: steps // 2 if where == "half" else steps].sum())
        return int(np.sign(score)), score
    half = half_gain(trace)
    if half is None:
        return 0, float("nan")
    score = float(entropy[:half].sum() - price_at(trace, half) * success[:half].sum())
    return int(np.sign(score)), score


def half_gain(trace: Trace) -> int | None:
    """The first step, from 1 on, before which the mean reward has made half of its gain; None without a gain."""
    success = trace.success.mean(0)
    gain = success[-1] - success[0]
    return None if gain <= 0 else max(1, int(np.argmax(success >= success[0] + gain / 2)))


def price_at(trace: Trace, step: int) -> float:
    """dH/dJ of the mean run around `step`, over a tenth of the run; 0 where the reward does not grow there."""
    entropy, success = trace.entropy.mean(0), trace.success.mean(0)
    width = max(1, (len(success) - 1) // 20)
    low, high = max(0, step - width), min(len(success) - 1, step + width)
    gained = success[high] - success[low]
    return float((entropy[high] - entropy[low]) / gained) if gained > 0 else 0.0
