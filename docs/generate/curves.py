"""What the figures of docs/methods.md show, computed with the methods' own code: bounds, thresholds, gradients."""

import itertools
import math
from dataclasses import dataclass, replace

import torch

from docs.generate.questions import Grouped
from dynclip.methods.objective import GRPO_PIECES, Method
from dynclip.methods.spec import MethodSpec, piece_options
from dynclip.methods.types import TokenBatch

# Options that are drawn with each of these values, for every method that has them.
VARIANTS = {"phase2": ("formula", "prose"), "divergence": ("kl", "chi2", "tv")}
BOUNDED = ("constant", "probability", "schedule", "bound by entropy")  # families whose methods differ in their bounds
STEPS = 120  # T, rollout steps of the run that is drawn
# Dense at small q, which a logarithmic axis stretches, and near 1, where bounds with square roots close.
Q = torch.cat([torch.logspace(-3, -1, 50)[:-1], torch.linspace(0.1, 0.9, 33)[:-1], torch.linspace(0.9, 1, 21)]).double()
# An invented entropy curve, nats at k/T. It falls, recovers and falls again, so that every controller reacts.
ENTROPY = ((0.0, 1.0), (0.3, 0.12), (0.55, 0.8), (0.8, 0.1), (1.0, 0.35))


@dataclass(frozen=True)
class Course:
    """A method's bounds over a whole training on the grid Q of old probabilities: lower and upper ratio, (T + 1, Q)."""

    method: Method
    label: str
    lower: torch.Tensor
    upper: torch.Tensor

    @property
    def envelope(self) -> torch.Tensor:
        """Least and greatest lower bound, least and greatest upper bound over training, (4, Q)."""
        return torch.stack([self.lower.amin(0), self.lower.amax(0), self.upper.amin(0), self.upper.amax(0)])

    @property
    def moves(self) -> bool:
        return not (torch.equal(*self.envelope[:2]) and torch.equal(*self.envelope[2:]))

    @property
    def wide(self) -> bool:
        return bool(self.lower.min() < 0.5 or self.upper.max() > 2)


def courses(specs: Grouped) -> list[Course]:
    """The bounds of every method in `BOUNDED`, and of its variants, in a run with the invented entropy."""
    found = []
    for spec in itertools.chain.from_iterable(specs.get(family, ()) for family in BOUNDED):
        if spec.surrogate or spec.ratio:
            continue  # its bounds alone do not say where the gradient ends
        choices = [[(name, value) for value in VARIANTS[name]] for name in VARIANTS if name in spec.defaults]
        for chosen in itertools.product(*choices):
            method, low, high = Method(spec, STEPS, dict(chosen)), [], []
            for step, entropy in enumerate(entropies()):
                method.observe(step, entropy)
                pair = method.bounds(Q, step)
                low.append(1 - pair[0])
                high.append(1 + pair[1])
            label = ", ".join([spec.name, *(value for _, value in chosen)])
            found.append(Course(method, label, torch.stack(low), torch.stack(high)))
    return found


def thresholds(method: Method) -> list[list[float]]:
    """Entropies (nats) at which the controller's signal jumps: curves over steps 1 … T, NaN where there is none.

    At each step, and from each state of the drawn run, the signal is evaluated on a grid of entropies. Bisection then
    finds each jump. A controller whose signal changes gradually has none.
    """
    run, states = Method(method.spec, STEPS, method.options), {}
    for step, entropy in enumerate(entropies()):
        run.observe(step, entropy)
        states[repr(run.state_dict())] = run.state_dict()

    def signal(state: dict, step: int, entropy: float) -> float:
        run.load_state_dict(state)
        run.observe(step, entropy)
        return run.controller.signal

    grid = [0.0012 + i / 100 for i in range(110)]  # off the round numbers, where a target is met exactly
    levels = []
    for step in range(1, STEPS + 1):
        found = set()
        for state in states.values():
            answers = [signal(state, step, entropy) for entropy in grid]
            jumps = [i for i, (one, other) in enumerate(itertools.pairwise(answers)) if one != other]
            if len(jumps) > 4:
                return []
            for i in jumps:
                low, high = grid[i], grid[i + 1]
                while high - low > 1e-4:
                    middle = (low + high) / 2
                    low, high = (middle, high) if signal(state, step, middle) == answers[i] else (low, middle)
                found.add(round(low, 3))
        levels.append(sorted(found))
    count = max(map(len, levels))
    return [[level[i] if i < len(level) else math.nan for level in levels] for i in range(count)]


def surrogates(specs: Grouped) -> dict[str, MethodSpec]:
    """Label -> spec: every surrogate once, from the first method that uses it, without weights and added terms."""
    found = {}
    for spec in itertools.chain.from_iterable(specs.values()):
        pieces, roles = GRPO_PIECES | spec.pieces, ("ratio", "bounds", "surrogate", "controller")
        taken = set().union(*(piece_options(pieces[role]) for role in roles if role in pieces))
        bare = dict.fromkeys(("weights", "rollout_weights", "advantages", "extra", "reduction"))
        defaults = {name: value for name, value in spec.defaults.items() if name in taken}
        found.setdefault(pieces["surrogate"], replace(spec, defaults=defaults, evidence="", needs=(), **bare))
    names = {spec.name: surrogate.__name__ for surrogate, spec in found.items()}
    labels = [name if name == kind else f"{kind} ({name})" for name, kind in names.items()]
    return dict(zip(labels, found.values(), strict=True))


def gradient_factor(spec: MethodSpec, ratios: torch.Tensor, advantage: float) -> torch.Tensor:
    """−(1/A) ∂loss/∂ln p of single tokens with the given ratios (N,), by autograd through `Method.loss`."""
    old = torch.full((len(ratios), 1), 0.1, dtype=ratios.dtype).log()
    logprob = (old + ratios.log().unsqueeze(1)).requires_grad_()
    advantages = torch.full_like(ratios, advantage)
    batch = TokenBatch(logprob, old, advantages, torch.ones_like(old))
    loss = Method(spec, STEPS, {}).loss(batch, 0).per_token.sum()
    return -torch.autograd.grad(loss, logprob)[0].squeeze(1) / advantage


def shares() -> list[float]:
    """The share of training k/T at every rollout step 0 … T."""
    return [step / STEPS for step in range(STEPS + 1)]


def entropies() -> list[float]:
    """The invented entropy (nats) at every rollout step: half waves between its knots."""
    values = []
    for share in shares():
        (x0, y0), (x1, y1) = next(pair for pair in itertools.pairwise(ENTROPY) if share <= pair[1][0])
        values.append(y0 + (y1 - y0) * (1 - math.cos(math.pi * (share - x0) / (x1 - x0))) / 2)
    return values
