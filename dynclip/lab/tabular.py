"""GRPO training of a tabular softmax policy: every method's real code path, in seconds.

    from dynclip.lab import Regime, run
    run(Regime(peak=2.0), "id", seeds=range(8)).entropy

A run has no network. It calls `Method.prepare`, `loss` and `observe` as a trainer does, on a `TokenBatch` made from the
table, and takes the gradient by autograd through log-softmax. This file contains no loss of its own.

All seeds of a run share one table if that changes nothing (`stackable`): the method takes no statistic over a batch and
its controller keeps no state. Other methods run one seed after another. In expectation mode (`exact=True`, problems of
one state) every action of a drawn state counts with its probability, so that only the choice of states is random.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from dynclip.lab.world import Regime, Rollout, World, build, enumerate_actions, sample, success_of
from dynclip.methods import registry
from dynclip.methods.objective import Method
from dynclip.methods.spec import MethodSpec, separable
from dynclip.methods.types import TokenBatch
from dynclip.regions import baseline, members
from dynclip.runtime.seeds import derive_seed

__all__ = ["Regime", "Trace", "run", "stackable"]

BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Trace:
    """What a run measured.

    Arrays (seeds, steps + 1), of the policy before rollout step k and, in the last column, after the last update:
    `entropy`, nats, mean over all states; `success`, the exact expected reward.

    Arrays (seeds, steps): `token_entropy`, nats, mean over the step's tokens, which controllers observe; `clip_low` and
    `clip_high`, the share of tokens beyond a bound on the side of A, mean over updates; `eps_low` and `eps_high`, mean
    over tokens; `signal` of a controller, else −1; `agreement`, the share of tokens with an advantage whose token-only
    rule has the exact sign, NaN without such tokens.

    `regions` (4, seeds, steps): shares of tokens in E1-E4, under the policy that sampled.
    """

    entropy: np.ndarray
    success: np.ndarray
    token_entropy: np.ndarray
    clip_low: np.ndarray
    clip_high: np.ndarray
    eps_low: np.ndarray
    eps_high: np.ndarray
    signal: np.ndarray
    agreement: np.ndarray
    regions: np.ndarray


@dataclass
class Slots:
    """The optimizer's state: Adam's two moments (R·S, V) and the number of updates."""

    first: torch.Tensor
    second: torch.Tensor
    count: int = 0

    def copy(self) -> "Slots":
        return Slots(self.first.clone(), self.second.clone(), self.count)


@dataclass(frozen=True)
class View:
    """What `watch` gets before every update; it must not change any of it.

    `table` (R·S, V) holds logits, `logprob` their log-softmax. `part` is the mini-batch, `rollout` the whole batch.
    """

    world: World
    method: Method
    step: int
    update: int
    table: torch.Tensor
    logprob: torch.Tensor
    slots: Slots
    part: Rollout
    rollout: Rollout


def stackable(spec: MethodSpec) -> bool:
    """Whether seeds may share one table: the loss is `separable` and no controller keeps a state for each seed."""
    return separable(spec) and spec.controller is None


def run(
    regime: Regime,
    method: str,
    seeds: Iterable[int] = (0,),
    options: dict | None = None,
    exact: bool = False,
    watch: Callable[[View], None] | None = None,
) -> Trace:
    """Train `method` with `options` in `regime`, once for each seed.

    Raises ValueError for an unknown method or option and without seeds. It also raises for `exact` with problems of
    several states, or with a method that takes statistics over a sampled batch.
    """
    seeds = tuple(seeds)
    if not seeds:
        raise ValueError("seeds: expected at least one, given none")
    spec = registry.method(method, regime.steps, **(options or {})).spec
    if exact and regime.length > 1:
        raise ValueError(f"exact: expected problems of one state (length 1), given length {regime.length}")
    if exact and not (separable(spec) and "success" not in spec.needs):
        raise ValueError(f"exact: method {method!r} takes statistics over a sampled batch; it runs with exact=False")
    together = [seeds] if stackable(spec) else [(seed,) for seed in seeds]
    traces = [_run(build(regime, some), method, options or {}, exact, watch) for some in together]
    return Trace(*(np.concatenate(parts, axis=-2) for parts in zip(*(vars(t).values() for t in traces), strict=True)))


def _run(world: World, name: str, options: dict, exact: bool, watch) -> Trace:
    regime, replicas = world.regime, len(world.seeds)
    method = registry.method(name, regime.steps, **options)
    table, slots = world.start.clone(), Slots(torch.zeros_like(world.start), torch.zeros_like(world.start))
    policy, batches = [], []
    for step in range(regime.steps):
        logprob = torch.log_softmax(table, -1)
        entropy = entropy_of(logprob)
        policy.append((entropy.view(replicas, -1).mean(1), success_of(regime, logprob.exp(), world.good)))
        rollout = (enumerate_actions if exact else sample)(world, logprob, step)
        row = measure(rollout, logprob, entropy)
        method.observe(step, _observed(method, table, rollout, row))
        row["signal"] = torch.full((replicas,), float(method.clock(step).state), dtype=table.dtype)
        row |= learn(world, method, table, slots, rollout, step, watch)
        batches.append(row)
    logprob = torch.log_softmax(table, -1)
    policy.append((entropy_of(logprob).view(replicas, -1).mean(1), success_of(regime, logprob.exp(), world.good)))
    entropy, success = (torch.stack(column, 1).numpy() for column in zip(*policy, strict=True))
    columns = {key: torch.stack([row[key] for row in batches], -1).numpy() for key in batches[0]}
    return Trace(entropy=entropy, success=success, **columns)


def learn(
    world: World,
    method: Method,
    table: torch.Tensor,
    slots: Slots,
    rollout: Rollout,
    step: int,
    watch: Callable[[View], None] | None = None,
    shares: bool = True,
) -> dict[str, torch.Tensor]:
    """Do all updates of one rollout batch; changes `table` and `slots` in place.

    Returns the clipped shares and mean bounds of each replica, (R,), as in `objective.token_metrics`, or an empty
    dictionary with `shares=False`.
    """
    regime = world.regime
    whole = method.prepare(_sampled(method, table, rollout, regime.group), step)
    totals: dict[str, torch.Tensor] = {}
    for update in range(regime.updates):
        number = update % regime.minibatches
        part = rollout.part(number, regime.minibatches)
        leaf = table.detach().requires_grad_()
        logprob = torch.log_softmax(leaf, -1)
        seed = derive_seed(world.seeds[0], step, update)
        batch = _minibatch(method, leaf, logprob, part, _decided(whole, rollout, number, regime.minibatches), seed)
        if watch:
            watch(View(world, method, step, update, table, logprob.detach(), slots, part, rollout))
        per_token = method.loss(batch, step).per_token
        if part.share is not None:
            per_token = per_token * part.share.reshape(per_token.shape)
        # The loss is summed over replicas, so that each gets the gradient of its own mean over tokens.
        loss = per_token.sum() / (part.unit * (regime.problems // regime.minibatches))
        if shares:
            for key, value in _clipping(method, batch, part, step).items():
                totals[key] = totals.get(key, 0) + value / regime.updates
        (gradient,) = torch.autograd.grad(loss, leaf)
        descend(regime, table, slots, gradient)
    return totals


def descend(regime: Regime, table: torch.Tensor, slots: Slots, gradient: torch.Tensor) -> None:
    """One optimizer step on `table` (R·S, V), in place: torch.optim.Adam's arithmetic, or plain gradient descent."""
    if regime.optimizer == "sgd":
        table.sub_(gradient, alpha=regime.learning_rate)
        return
    slots.count += 1
    slots.first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
    slots.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    table.addcdiv_(slots.first, step_scale(slots), value=-regime.learning_rate / (1 - BETAS[0] ** slots.count))


def step_scale(slots: Slots) -> torch.Tensor:
    """Adam's denominator √v̂ + ε, (R·S, V)."""
    return (slots.second / (1 - BETAS[1] ** slots.count)).sqrt_().add_(ADAM_EPS)


def entropy_of(logprob: torch.Tensor) -> torch.Tensor:
    """Entropy, nats, of each row of log-probabilities (..., V)."""
    return -(logprob.exp() * logprob).sum(-1)


def measure(rollout: Rollout, logprob: torch.Tensor, entropy: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean token entropy, region shares and agreement of the rule's sign, under the policy that sampled.

    `logprob` is (R·S, V), `entropy` (R·S,). The results are (R,), and `regions` (4, R).
    """
    at = entropy[rollout.rows]
    term = rollout.old_logprob.exp() * (rollout.old_logprob + at)
    level = baseline(logprob)[rollout.rows]
    advantages = rollout.advantages.unsqueeze(-1)
    counted = torch.ones_like(at) if rollout.share is None else rollout.share

    def total(values: torch.Tensor) -> torch.Tensor:
        return (values * counted).sum((1, 2))

    tokens = total(torch.ones_like(at))
    moved = (advantages != 0).expand_as(at)
    # The rule is wrong exactly where 0 < p (ln p + H) < B (docs/regions.md).
    right = moved & ~((term > 0) & (term < level))
    return {
        "token_entropy": total(at) / tokens,
        "regions": torch.stack([total(where) for where in members(rollout.old_logprob, at, advantages)]) / tokens,
        "agreement": total(right) / total(moved),
    }


def _sampled(method: Method, table: torch.Tensor, rollout: Rollout, size: int) -> TokenBatch:
    """The rollout batch, in groups of `size`, for `prepare`: all inputs come from the policy that sampled."""
    shape = (-1, rollout.rows.shape[-1])
    flat = rollout.old_logprob.reshape(shape)
    needed = {}
    if "old_entropy" in method.needs:
        needed["old_entropy"] = entropy_of(torch.log_softmax(table, -1))[rollout.rows].view(shape)
    if "old_baseline" in method.needs:
        needed["old_baseline"] = method.reduction(table)[rollout.rows].view(shape)
    return TokenBatch(
        logprob=flat,
        old_logprob=flat,
        advantages=rollout.advantages.reshape(-1),
        mask=torch.ones_like(flat),
        success=rollout.success.reshape(-1),
        group=torch.arange(len(flat)) // size,
        **needed,
    )


def _decided(whole: TokenBatch, rollout: Rollout, number: int, of: int) -> dict[str, torch.Tensor | None]:
    """Advantages and weights that `prepare` decided, of mini-batch `number` of `of`."""
    replicas, size = len(rollout.rows), rollout.rows.shape[1] // of

    def cut(values: torch.Tensor | None) -> torch.Tensor | None:
        if values is None:
            return None
        rest = values.shape[1:]
        return values.view(replicas, -1, *rest)[:, number * size : (number + 1) * size].reshape(-1, *rest)

    return {"advantages": cut(whole.advantages), "weight": cut(whole.weight)}


def _minibatch(
    method: Method, table: torch.Tensor, logprob: torch.Tensor, part: Rollout, decided: dict, seed: int
) -> TokenBatch:
    """The mini-batch for `loss`. `logprob` (R·S, V) is the log-softmax of `table`; both have a gradient.

    The log-softmax of the whole table is computed once, because there are more tokens than states.
    """
    shape, rows = (-1, part.rows.shape[-1]), part.rows.reshape(-1)
    needed = {}
    if "entropy_gradient" in method.needs or "entropy" in method.needs:
        entropy = entropy_of(logprob).index_select(0, rows).view(shape)
        needed["entropy"] = entropy if "entropy_gradient" in method.needs else entropy.detach()
    if "clamped_entropy" in method.needs:
        needed["clamped_entropy"] = method.reduction(table).index_select(0, rows).view(shape)
    old = part.old_logprob.reshape(shape)
    return TokenBatch(
        logprob=logprob.view(-1).index_select(0, part.places.reshape(-1)).view(shape),
        old_logprob=old,
        mask=torch.ones_like(old),
        success=part.success.reshape(-1),
        draw_seed=seed,
        prepared=True,
        **decided,
        **needed,
    )


def _clipping(method: Method, batch: TokenBatch, part: Rollout, step: int) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        logprob = batch.logprob.detach()
        advantages = batch.advantages if batch.advantages.dim() == 2 else batch.advantages.unsqueeze(-1)
        ratio = method.pieces["ratio"](logprob - batch.old_logprob, logprob, batch.mask != 0).exp()
        current = method.options.get("reference", "old") == "current"
        low, high = method.bounds((logprob if current else batch.old_logprob).exp(), step)
        shape, counted = part.rows.shape, part.share
        total = shape[1] * shape[2] if counted is None else counted.sum((1, 2))

        def mean(values: torch.Tensor) -> torch.Tensor:
            values = values.view(shape).to(logprob.dtype)
            return (values if counted is None else values * counted).sum((1, 2)) / total

        return {
            "clip_low": mean((ratio < 1 - low) & (advantages < 0)),
            "clip_high": mean((ratio > 1 + high) & (advantages > 0)),
            "eps_low": mean(low),
            "eps_high": mean(high),
        }


def _observed(method: Method, table: torch.Tensor, rollout: Rollout, row: dict) -> float:
    """The controller's input: the mean over the batch's tokens of the entropy that it observes."""
    if method.spec.observes == "entropy":
        return float(row["token_entropy"].mean())
    values = method.reduction(table)[rollout.rows]
    return float(values.mean() if rollout.share is None else (values * rollout.share).sum() / rollout.share.sum())
