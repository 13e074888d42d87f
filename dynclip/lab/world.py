"""Regimes, worlds and rollouts of the tabular policy.

The policy is a table of free logits, S states × V actions. States share nothing. A problem is a sequence of L states,
drawn independently and evenly. Its reward is 1 if every action is in its state's good set. The seed decides everything
random: good sets, start, the problems of every step, and the uniform numbers that draw actions. Methods that are
compared therefore see the same problems and the same uniform numbers (common random numbers).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

PEAKS = ("good", "bad", "any")
OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class Regime:
    """The settings of a run. All completions have `length` tokens, so every aggregation is the same mean.

    World: `states` S, `actions` V, `length` L (states of a problem), `good` (right actions of a state).

    Start: logits are `noise` · N(0, 1), plus `peak` at one action of each state. `peak_at` says which: a right one
    ("good"), a wrong one ("bad") or any ("any").

    Run: a rollout step samples `problems` × `group` completions. `epochs` passes over them are cut into `minibatches`
    parts of whole groups, always the same parts. `optimizer` is "adam" (β 0.9, 0.999; states that are not visited keep
    moving with their momentum) or "sgd". There are `steps` rollout steps.

    Raises ValueError, naming the field, for sizes and choices that do not make a run.
    """

    states: int = 64
    actions: int = 16
    length: int = 2
    good: int = 4
    noise: float = 0.5
    peak: float = 0.0
    peak_at: str = "any"
    group: int = 8
    problems: int = 32
    minibatches: int = 2
    epochs: int = 4
    learning_rate: float = 0.1
    optimizer: str = "adam"
    steps: int = 100

    def __post_init__(self):
        least = {"states": 1, "actions": 2, "length": 1, "good": 1, "group": 2, "problems": 1, "minibatches": 1}
        for name, low in {**least, "epochs": 1, "steps": 1}.items():
            if getattr(self, name) != int(getattr(self, name)) or getattr(self, name) < low:
                raise ValueError(f"{name}: expected a whole number of at least {low}, given {getattr(self, name)!r}")
        for name in ("noise", "peak", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: expected a finite number of at least 0, given {getattr(self, name)!r}")
        if self.good > self.actions:
            raise ValueError(f"good: expected at most the {self.actions} actions, given {self.good}")
        if self.problems % self.minibatches:
            raise ValueError(
                f"minibatches: expected a divisor of the {self.problems} problems, given {self.minibatches}"
            )
        for name, valid in (("peak_at", PEAKS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name}: expected one of {', '.join(valid)}, given {getattr(self, name)!r}")

    @property
    def updates(self) -> int:
        """Optimizer steps per rollout step."""
        return self.minibatches * self.epochs


@dataclass(frozen=True)
class World:
    """R replicas of a regime side by side, one per seed.

    `good` (R·S, V) bool, `start` (R·S, V) logits; `problems` (steps, R, P, L) rows of the table, `uniforms`
    (steps, R, P, G, L) in [0, 1).
    """

    regime: Regime
    seeds: tuple[int, ...]
    good: torch.Tensor
    start: torch.Tensor
    problems: torch.Tensor
    uniforms: torch.Tensor


@dataclass(frozen=True)
class Rollout:
    """One rollout batch of R replicas, each of B sequences of T tokens, ordered by problem.

    (R, B, T): `rows`, the states as rows of the table; `places`, the sampled actions in the flattened table;
    `old_logprob`; `share`, the actions' probabilities in exact mode, else None. (R, B): `advantages` and `success`, the
    group's mean reward. `unit` × the number of problems divides a replica's summed losses to make a mean over tokens.
    """

    rows: torch.Tensor
    places: torch.Tensor
    old_logprob: torch.Tensor
    advantages: torch.Tensor
    success: torch.Tensor
    share: torch.Tensor | None
    unit: int

    def part(self, number: int, of: int) -> "Rollout":
        """Mini-batch `number` of `of`: consecutive problems of every replica."""
        size = self.rows.shape[1] // of
        cut = slice(number * size, (number + 1) * size)
        share = None if self.share is None else self.share[:, cut]
        fields = (self.rows, self.places, self.old_logprob, self.advantages, self.success)
        return Rollout(*(field[:, cut] for field in fields), share, self.unit)


def build(regime: Regime, seeds: tuple[int, ...]) -> World:
    """The worlds of `seeds`. A seed's world is independent of the other seeds, and its start of `steps`."""
    size, per_step = (regime.states, regime.actions), (regime.steps, regime.problems)
    good, start, problems, uniforms = [], [], [], []
    for replica, seed in enumerate(seeds):
        streams = [np.random.default_rng([seed, stream]) for stream in range(4)]
        order = streams[0].random(size).argsort(1)
        right = np.zeros(size, dtype=bool)
        np.put_along_axis(right, order[:, : regime.good], True, 1)
        logits = regime.noise * streams[1].standard_normal(size)
        anywhere = streams[1].integers(regime.actions, size=regime.states)
        at = {"good": order[:, 0], "bad": order[:, -1], "any": anywhere}[regime.peak_at]
        logits[np.arange(regime.states), at] += regime.peak
        good.append(right)
        start.append(logits)
        problems.append(replica * regime.states + streams[2].integers(regime.states, size=(*per_step, regime.length)))
        uniforms.append(streams[3].random((*per_step, regime.group, regime.length)))
    return World(
        regime,
        tuple(seeds),
        torch.from_numpy(np.concatenate(good)),
        torch.from_numpy(np.concatenate(start)),
        torch.from_numpy(np.stack(problems, 1)),
        torch.from_numpy(np.stack(uniforms, 1)),
    )


def sample(world: World, logprob: torch.Tensor, step: int) -> Rollout:
    """The rollout batch of `step` from the policy with log-probabilities `logprob` (R·S, V).

    Actions are drawn by the inverse of the distribution function, so that similar policies draw the same action from
    the same uniform number. Advantages are TRL's: (r − mean)/(SD + 10⁻⁴) over a group, SD with n − 1.
    """
    regime, problems = world.regime, world.problems[step]
    cumulative = logprob.exp().cumsum(-1)[problems]
    drawn = torch.searchsorted(cumulative, world.uniforms[step].transpose(2, 3).contiguous(), right=True)
    # The last cumulative sum may round to less than 1.
    actions = drawn.clamp(max=regime.actions - 1).transpose(2, 3)
    rows = problems.unsqueeze(2).expand(actions.shape)
    places = rows * regime.actions + actions
    rewards = world.good.view(-1)[places].all(-1).to(logprob.dtype)
    mean = rewards.mean(2, keepdim=True)
    advantages = (rewards - mean) / (rewards.std(2, keepdim=True) + 1e-4)
    shape = (len(world.seeds), regime.problems * regime.group, regime.length)
    return Rollout(
        rows.reshape(shape),
        places.reshape(shape),
        logprob.view(-1)[places].view(shape),
        advantages.reshape(shape[:2]),
        mean.expand_as(rewards).reshape(shape[:2]),
        None,
        regime.group * regime.length,
    )


def enumerate_actions(world: World, logprob: torch.Tensor, step: int) -> Rollout:
    """Like `sample`, but every action of a drawn state replaces the group of samples (problems of one state).

    `share` holds the actions' probabilities. An action's advantage is its expectation over the rest of its group
    (`expected_advantages`), so that the gradient of a per-token loss is the expectation of the sampled gradient.
    """
    regime, problems = world.regime, world.problems[step]
    rows = problems.expand(*problems.shape[:2], regime.actions)
    places = rows * regime.actions + torch.arange(regime.actions)
    right = world.good.view(-1)[places]
    share = logprob.view(-1)[places].exp()
    success = (share * right).sum(-1, keepdim=True).expand_as(share)
    up, down = expected_advantages(success, regime.group)
    flat = (len(world.seeds), -1)
    return Rollout(
        rows.reshape(*flat, 1),
        places.reshape(*flat, 1),
        logprob.view(-1)[places].view(*flat, 1),
        torch.where(right, up, down).view(flat),
        success.reshape(flat),
        share.view(*flat, 1),
        1,
    )


def expected_advantages(success: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """E[A | r = 1] and E[A | r = 0], shaped like `success`: each of the other `group` − 1 samples is right with that
    probability.

    If k of G samples are right, the group's mean is k/G and its SD is √(k (G − k)/(G (G − 1))).
    """
    up, down = torch.zeros_like(success), torch.zeros_like(success)
    for others in range(group):
        chance = math.comb(group - 1, others) * success**others * (1 - success) ** (group - 1 - others)
        for right, total in ((1, up), (0, down)):
            k = others + right
            deviation = math.sqrt(k * (group - k) / (group * (group - 1)))
            total += chance * ((right - k / group) / (deviation + 1e-4))
    return up, down


def success_of(regime: Regime, prob: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """The exact expected reward of a new problem, of each replica: `prob` and `good` are (R·S, V), the result (R,).

    States are drawn independently and evenly, so it is the mean probability of good actions, to the power `length`.
    """
    return (prob * good).sum(-1).view(-1, regime.states).mean(1) ** regime.length
