"""GRPO on a policy whose contexts do not recur, through every method's real code path.

    from dynclip.lab.fresh.world import FreshRegime, run
    run(FreshRegime(own=0.3), "dynamic_upper", seeds=range(8)).entropy

The logits of a token are shared[position] + local[context]. A language model never sees the context of a sampled token
again, except for a few recurring ones. So `local` is zero when a rollout batch begins and is thrown away after it; what
stays is `shared`. Within the batch the token's own updates move `local`, and with it the importance ratio.

A completion has C positions. At the decisive ones some actions are right, and the reward is 1 if all are. At the
neutral ones the reward does not depend on the action. Without decisive positions the reward is a fair coin.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from dynclip.lab.tabular import Slots, descend, entropy_of, stackable
from dynclip.methods import registry
from dynclip.methods.objective import Method
from dynclip.methods.types import TokenBatch
from dynclip.runtime.seeds import derive_seed

OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class FreshRegime:
    """The settings of a run.

    Policy: `positions` C of a completion, `neutral` of them; `actions` V. At a neutral position the start is a Zipf
    distribution with exponent `zipf`; at a decisive one it is even, and `right` actions are right.

    Batch: `problems` × `group` completions. `epochs` passes over them are cut into `minibatches` parts of whole groups.
    `recurring` of the problems are the same in every batch. Their contexts, one per problem and position, keep their
    local logits.

    Steps: `own` is κ, the plain gradient step on the local logits for the sum of a context's losses: a token's ln r
    moves by about κ A (1 − q) with each of its updates. `learning_rate` is that of `optimizer` ("adam" or "sgd") on the
    shared logits, for the mean over completions. There are `steps` rollout steps.

    Raises ValueError, naming the field, for sizes and choices that do not make a run.
    """

    positions: int = 12
    neutral: int = 12
    actions: int = 32
    zipf: float = 1.0
    right: int = 8
    problems: int = 32
    group: int = 8
    minibatches: int = 4
    epochs: int = 2
    recurring: int = 0
    own: float = 0.3
    learning_rate: float = 0.01
    optimizer: str = "adam"
    steps: int = 60

    def __post_init__(self):
        least = {"positions": 1, "neutral": 0, "actions": 2, "right": 1, "problems": 1, "group": 2, "minibatches": 1}
        for name, low in {**least, "epochs": 1, "recurring": 0, "steps": 1}.items():
            if getattr(self, name) != int(getattr(self, name)) or getattr(self, name) < low:
                raise ValueError(f"{name}: expected a whole number of at least {low}, given {getattr(self, name)!r}")
        for name in ("zipf", "own", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: expected a finite number of at least 0, given {getattr(self, name)!r}")
        for name, most in (("neutral", self.positions), ("right", self.actions), ("recurring", self.problems)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}: expected at most {most}, given {getattr(self, name)}")
        if self.problems % self.minibatches:
            raise ValueError(
                f"minibatches: expected a divisor of the {self.problems} problems, given {self.minibatches}"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, given {self.optimizer!r}")

    @property
    def updates(self) -> int:
        """Optimizer steps per rollout step."""
        return self.minibatches * self.epochs


@dataclass(frozen=True)
class FreshTrace:
    """What a run measured.

    Arrays (seeds, steps + 1), of the policy before rollout step k and, in the last column, after the last update:
    `entropy`, `entropy_neutral` and `entropy_decisive`, nats, means over positions and problems (NaN without such
    positions); `success`, the exact expected reward of a problem.

    Arrays (seeds, steps): `clip_low` and `clip_high`, the shares of clipped tokens, means over updates; `own_step`, the
    mean over neutral tokens with an advantage of |ln r| after their first update.
    """

    entropy: np.ndarray
    entropy_neutral: np.ndarray
    entropy_decisive: np.ndarray
    success: np.ndarray
    clip_low: np.ndarray
    clip_high: np.ndarray
    own_step: np.ndarray


@dataclass
class State:
    """`shared` (R, C, V) with its optimizer's state, and the `local` logits (R, recurring, C, V) that are kept."""

    shared: torch.Tensor
    local: torch.Tensor
    slots: Slots

    def copy(self) -> "State":
        return State(self.shared.clone(), self.local.clone(), self.slots.copy())


Watch = Callable[[int, State, torch.Tensor, list], None]


def run(
    regime: FreshRegime,
    method: str,
    seeds: Iterable[int] = (0,),
    options: dict | None = None,
    watch: Watch | None = None,
) -> FreshTrace:
    """Train `method` with `options` in `regime`, once for each seed.

    A seed fixes the right actions and all random numbers for every method, so differences of methods are paired.
    `watch` gets the step, the state, the right actions and the random generators before each rollout step, for copies.
    Raises ValueError for an unknown method or option, without seeds, and for a method that differentiates an entropy.
    """
    seeds = tuple(seeds)
    if not seeds:
        raise ValueError("seeds: expected at least one, given none")
    spec = registry.method(method, regime.steps, **(options or {})).spec
    if "entropy_gradient" in spec.needs or "clamped_entropy" in spec.needs:
        raise ValueError(f"method {method!r} differentiates the entropy, which this policy does not offer")
    together = [seeds] if stackable(spec) else [(seed,) for seed in seeds]
    traces = [_run(regime, registry.method(method, regime.steps, **(options or {})), some, watch) for some in together]
    return FreshTrace(*(np.concatenate(parts) for parts in zip(*(vars(t).values() for t in traces), strict=True)))


def start(regime: FreshRegime) -> torch.Tensor:
    """The shared logits (C, V) at the start, decisive positions first."""
    ranks = torch.arange(1, regime.actions + 1, dtype=torch.float64)
    table = torch.zeros(regime.positions, regime.actions, dtype=torch.float64)
    table[regime.positions - regime.neutral :] = torch.log_softmax(-regime.zipf * ranks.log(), -1)
    return table


def _run(regime: FreshRegime, method: Method, seeds: tuple[int, ...], watch: Watch | None) -> FreshTrace:
    replicas, decisive = len(seeds), regime.positions - regime.neutral
    shared = start(regime).float().expand(replicas, -1, -1).clone()
    local = shared.new_zeros(replicas, regime.recurring, regime.positions, regime.actions)
    state = State(shared, local, Slots(torch.zeros_like(shared), torch.zeros_like(shared)))
    good = torch.stack([right_actions(regime, seed) for seed in seeds])
    streams = [np.random.default_rng([seed, 1]) for seed in seeds]
    policy, batches = [], []
    for step in range(regime.steps):
        if watch:
            watch(step, state, good, streams)
        policy.append(describe(regime, state, good))
        batches.append(learn(regime, method, state, good, streams, seeds, step))
    policy.append(describe(regime, state, good))
    columns = {key: torch.stack([row[key] for row in policy], 1).numpy() for key in policy[0]}
    columns |= {key: torch.stack([row[key] for row in batches], 1).numpy() for key in batches[0]}
    if not decisive:
        columns["entropy_decisive"] = np.full_like(columns["entropy"], np.nan)
    return FreshTrace(**columns)


def right_actions(regime: FreshRegime, seed: int) -> torch.Tensor:
    """(decisive, V) bool: the right actions of each decisive position."""
    shape = (regime.positions - regime.neutral, regime.actions)
    order = np.random.default_rng([seed, 0]).random(shape).argsort(1)
    return torch.from_numpy(order < regime.right)


def describe(regime: FreshRegime, state: State, good: torch.Tensor) -> dict[str, torch.Tensor]:
    """Entropies and success (R,) of the policy: a fresh problem has no local logits, a recurring one has its own."""
    decisive = regime.positions - regime.neutral
    logprob = torch.log_softmax(torch.cat([state.shared.unsqueeze(1), state.shared.unsqueeze(1) + state.local], 1), -1)
    weights = logprob.new_ones(1 + regime.recurring)
    weights[0] = regime.problems - regime.recurring
    weights /= weights.sum()
    entropy = torch.einsum("n,rnc->rc", weights, entropy_of(logprob))
    chance = (logprob[:, :, :decisive].exp() * good.unsqueeze(1)).sum(-1).prod(-1)  # (R, 1 + recurring)
    success = chance @ weights if decisive else torch.full_like(entropy[:, 0], 0.5)
    return {
        "entropy": entropy.mean(1),
        "entropy_neutral": entropy[:, decisive:].mean(1),
        "entropy_decisive": entropy[:, :decisive].mean(1),
        "success": success,
    }


def learn(
    regime: FreshRegime, method: Method, state: State, good: torch.Tensor, streams, seeds: tuple[int, ...], step: int
) -> dict[str, torch.Tensor]:
    """Sample a rollout batch and do all its updates; changes `state`. Returns measurements (R,)."""
    replicas, positions, actions = state.shared.shape
    decisive, shape = positions - regime.neutral, (regime.problems, regime.group, positions)
    uniforms = torch.from_numpy(np.stack([stream.random(shape, dtype=np.float32) for stream in streams]))
    coins = torch.from_numpy(np.stack([stream.random(shape[:2]) for stream in streams])) < 0.5
    # A recurring problem's local logits (R, problem, 1, C, V) serve its whole group, a fresh one's one completion.
    kept = state.local.unsqueeze(2)
    fresh = kept.new_zeros(replicas, regime.problems - regime.recurring, regime.group, positions, actions)
    old = torch.log_softmax(state.shared[:, None, None] + kept, -1).expand(-1, -1, regime.group, -1, -1)
    first = torch.log_softmax(state.shared, -1)[:, None, None].expand_as(fresh)
    old = torch.cat([old, first], 1)  # (R, P, G, C, V)
    total = old.exp().cumsum(-1)
    tokens = (total < (uniforms * total[..., -1]).unsqueeze(-1)).sum(-1)
    right = good[:, None, None].expand(*tokens.shape[:3], -1, -1).gather(-1, tokens[..., :decisive, None]).all(-2)
    rewards = (right.squeeze(-1) if decisive else coins).to(old.dtype)
    mean = rewards.mean(2, keepdim=True)
    advantages = (rewards - mean) / (rewards.std(2, keepdim=True) + 1e-4)
    logprob = old.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    rows = {
        "old_logprob": logprob,
        "old_entropy": entropy_of(old),
        "advantages": advantages,
        "success": mean.expand_as(rewards),
        "group": torch.arange(mean.numel()).view(mean.shape).expand_as(rewards),
    }
    if method.spec.reduction:
        rows["old_baseline"] = method.reduction(old)
    for r in range(replicas):  # a controller has one seed; methods without one ignore this
        method.observe(step, float(rows["old_entropy"][r].mean()))
    whole = method.prepare(_batch(rows, logprob, method, replicas), step)
    rows |= {"advantages": whole.advantages.view(*advantages.shape, -1)}
    if whole.weight is not None:
        rows["weight"] = whole.weight.view(logprob.shape)
    size, found = regime.problems // regime.minibatches, []
    own = torch.zeros(2, replicas, dtype=old.dtype)
    for update in range(regime.updates):
        number = update % regime.minibatches
        cut = slice(number * size, (number + 1) * size)
        parts = kept[:, cut], fresh[:, max(0, cut.start - regime.recurring) : max(0, cut.stop - regime.recurring)]
        logits = state.shared[:, None, None] + torch.cat([parts[0].expand(-1, -1, regime.group, -1, -1), parts[1]], 1)
        leaf = torch.log_softmax(logits, -1)
        now = leaf.gather(-1, tokens[:, cut].unsqueeze(-1)).squeeze(-1).requires_grad_()
        some = {name: value[:, cut] for name, value in rows.items()}
        seed = derive_seed(seeds[0], step, update)
        if "entropy" in method.needs:
            some["entropy"] = entropy_of(leaf)
        output = method.loss(_batch(some, now, method, replicas, seed, prepared=True), step)
        (force,) = torch.autograd.grad(output.per_token.sum(), now)  # of each token's loss on its log-probability
        gradient = -force.unsqueeze(-1) * leaf.exp()
        gradient.scatter_add_(-1, tokens[:, cut].unsqueeze(-1), force.unsqueeze(-1))
        count = parts[0].shape[1]
        parts[0].sub_(gradient[:, :count].sum(2, keepdim=True), alpha=regime.own)
        parts[1].sub_(gradient[:, count:], alpha=regime.own)
        shared = gradient.sum((1, 2)) / (size * regime.group)
        descend(regime, state.shared, state.slots, shared)
        found.append(torch.stack([output.metrics[f"clip/{side}_fraction"].view(-1) for side in ("low", "high")]))
        if update < regime.minibatches:
            moved = regime.own * own_slope(leaf, tokens[:, cut]) * force.abs()
            counted = (some["advantages"] != 0).expand_as(moved)[..., decisive:]
            own += torch.stack([(moved[..., decisive:] * counted).sum((1, 2, 3)), counted.sum((1, 2, 3))])
    clip_low, clip_high = torch.stack(found).mean(0)
    return {"clip_low": clip_low, "clip_high": clip_high, "own_step": own[0] / own[1].clamp(min=1)}


def own_slope(logprob: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """d ln p(token) for a unit gradient step on its own logits: (1 − q)² + Σ over other actions of p², (...).

    `logprob` (..., V), `tokens` (...).
    """
    prob = logprob.exp()
    q = prob.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return 1 - 2 * q + prob.pow(2).sum(-1)


def _batch(rows: dict, logprob: torch.Tensor, method: Method, replicas: int, seed: int = 0, prepared: bool = False):
    """`rows` (R, P, G, ...) as a batch of losses, a row for each completion."""
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in rows.items() if value.dim() == 4}
    given = {name: value.reshape(-1) for name, value in rows.items() if value.dim() == 3}
    now = logprob.reshape(-1, logprob.shape[-1])
    return TokenBatch(
        logprob=now,
        old_logprob=flat["old_logprob"],
        advantages=flat.get("advantages", given.get("advantages")),
        mask=torch.ones_like(flat["old_logprob"]),
        entropy=flat.get("entropy"),
        old_entropy=flat["old_entropy"],
        old_baseline=flat.get("old_baseline"),
        success=given["success"],
        group=given["group"],
        weight=flat.get("weight"),
        draw_seed=seed,
        prepared=prepared,
        runs=replicas,
    )
