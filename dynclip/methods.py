"""Every method under comparison: one registry entry each, composed of bounds, a surrogate and an optional controller.

To add a method: write its bounds function in `bounds.py` (or reuse one), add one `MethodSpec` below. Training, the
workflow, the tables and the figures read this registry; there is no second list.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dynclip import bounds as shapes
from dynclip.bounds import Bound, Clock
from dynclip.controllers import Hysteresis
from dynclip.regions import classify
from dynclip.surrogate import aggregate, ppo_min


@dataclass(frozen=True)
class TokenBatch:
    """What a loss sees. B sequences of T completion tokens.

    `logprob` (B, T) current log-probabilities, with gradient; `old_logprob` (B, T) those of the policy that sampled;
    `advantages` (B,) or (B, T); `mask` (B, T), 1 where a token counts; `entropy` (B, T) nats, of the current policy;
    `old_entropy` (B, T) nats, of the policy that sampled.
    """

    logprob: torch.Tensor
    old_logprob: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    entropy: torch.Tensor | None = None
    old_entropy: torch.Tensor | None = None

    def __post_init__(self):
        shape = self.logprob.shape
        if len(shape) != 2:
            raise ValueError(f"logprob: expected shape (B, T), given {tuple(shape)}")
        for name in ("old_logprob", "mask", "entropy", "old_entropy"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name}: expected shape {tuple(shape)} as logprob, given {tuple(value.shape)}")
        if self.advantages.shape not in (shape, shape[:1], (shape[0], 1)):
            raise ValueError(
                f"advantages: expected shape {tuple(shape[:1])} or {tuple(shape)}, given {tuple(self.advantages.shape)}"
            )


@dataclass(frozen=True)
class LossOutput:
    """`loss` scalar, to be minimised; `per_token` (B, T), before mask and aggregation; `metrics` detached scalars."""

    loss: torch.Tensor
    per_token: torch.Tensor
    metrics: dict[str, torch.Tensor]


@dataclass(frozen=True)
class MethodSpec:
    """A registry entry: `bounds(q, clock, **options) -> (eps_low, eps_high)`, `controller(total_steps, **options)`.

    `defaults` are the options a user may change, each with its evidence in `evidence`; those named in
    `controller_options` go to the controller, the rest to the bounds function.
    """

    name: str
    title: str
    arxiv: str
    bounds: Callable[..., tuple[Bound, Bound]]
    defaults: dict = field(default_factory=dict)
    evidence: str = ""
    controller: Callable | None = None
    controller_options: tuple[str, ...] = ()


class Method:
    """A method with its options, bound to a run of `total_steps` rollout steps, with its state between steps."""

    def __init__(self, spec: MethodSpec, total_steps: int, options: dict):
        if total_steps < 1:
            raise ValueError(f"total_steps: expected at least 1 rollout step, given {total_steps}")
        unknown = sorted(set(options) - set(spec.defaults))
        if unknown:
            valid = ", ".join(sorted(spec.defaults)) or "none"
            raise ValueError(f"method {spec.name!r}: unknown option {unknown[0]!r}; it has: {valid}")
        self.spec, self.total_steps = spec, total_steps
        self.options = {**spec.defaults, **options}
        split = {name: self.options[name] for name in spec.controller_options}
        self._bound_options = {name: v for name, v in self.options.items() if name not in split}
        self.controller = spec.controller(total_steps=total_steps, **split) if spec.controller else None

    @property
    def name(self) -> str:
        return self.spec.name

    def _bounds(self, old_prob: torch.Tensor, step: int, state: int | None) -> tuple[Bound, Bound]:
        if not 0 <= step <= self.total_steps:
            raise ValueError(f"step: expected 0 to {self.total_steps} (total_steps), given {step}")
        if state is None:
            state = self.controller.signal if self.controller else -1
        return self.spec.bounds(old_prob, Clock(step, self.total_steps, state), **self._bound_options)

    def bounds(self, old_prob: torch.Tensor, step: int, state: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps_low, eps_high), tensors like `old_prob`: the ratio is clipped to [1 − eps_low, 1 + eps_high].

        `step` counts rollout batches from 0; `state` is a controller's signal, None for the method's own.
        """
        pair = self._bounds(old_prob, step, state)
        low, high = (e if isinstance(e, torch.Tensor) else torch.full_like(old_prob, e) for e in pair)
        return low, high

    def loss(self, batch: TokenBatch, step: int, state: int | None = None, aggregation: str = "token") -> LossOutput:
        """The clipped-surrogate loss of `batch` at rollout step `step` (minimise it).

        How tokens are averaged is a property of the run: `aggregation` is "token" or "sequence".
        """
        mask = batch.mask
        advantages = batch.advantages if batch.advantages.dim() == 2 else batch.advantages.unsqueeze(1)
        # Padding may hold anything: a masked token gets ratio 1 before exp, so that it can be neither inf nor NaN.
        log_ratio = (batch.logprob - batch.old_logprob).masked_fill(mask == 0, 0.0)
        ratio = torch.exp(log_ratio)
        eps_low, eps_high = self._bounds(batch.old_logprob.exp(), step, state)
        per_token = ppo_min(ratio, advantages, eps_low, eps_high)
        with torch.no_grad():
            metrics = token_metrics(batch, log_ratio, ratio, advantages, eps_low, eps_high)
        return LossOutput(aggregate(per_token, mask, aggregation), per_token, metrics)

    def observe(self, step: int, entropy: float) -> None:
        """Tell the controller the mean token entropy (nats) of the policy that sampled rollout batch `step`."""
        if self.controller:
            self.controller.observe(step, entropy)

    def state_dict(self) -> dict:
        """What must be in a checkpoint for `load_state_dict` to continue exactly."""
        return self.controller.state_dict() if self.controller else {}

    def load_state_dict(self, state: dict) -> None:
        if self.controller:
            self.controller.load_state_dict(state)


def token_metrics(batch, log_ratio, ratio, advantages, eps_low: Bound, eps_high: Bound) -> dict[str, torch.Tensor]:
    """Means over counted tokens, named by the metric vocabulary (all scalars; docs/metrics.md)."""
    mask = batch.mask.to(ratio.dtype)
    count = mask.sum().clamp(min=1)

    def mean(value) -> torch.Tensor:
        value = value if isinstance(value, torch.Tensor) else torch.full_like(ratio, value)
        return (value * mask).sum() / count

    metrics = {
        # A token loses its gradient where the clipped branch is the smaller one: r beyond the bound on A's side.
        "clip/low_fraction": mean((ratio < 1 - eps_low) & (advantages < 0)),
        "clip/high_fraction": mean((ratio > 1 + eps_high) & (advantages > 0)),
        "clip/eps_low_mean": mean(eps_low),
        "clip/eps_high_mean": mean(eps_high),
        "policy/ratio_max": ratio.max() if ratio.numel() else ratio.new_ones(()),
        "policy/kl_old": mean(ratio - 1 - log_ratio),  # k3 estimate of KL(old ‖ new), nats per token
    }
    if batch.entropy is not None:
        region = classify(batch.logprob, batch.entropy, advantages)
        metrics |= {f"region/E{n}": mean(region == n) for n in (1, 2, 3, 4)}
    return metrics


PAPER = "2602.09782"
EPS = 0.2  # ε_std of the paper
SCHEDULE = {"eps": EPS, "upper": shapes.H_UPPER, "lower": shapes.M_LOWER, "switch": 0.5, "phase2": "formula"}
SCHEDULE_EVIDENCE = (
    "H, M, eps and switch: paper v1; phase2: the paper's formula and text disagree, its formula is taken"
)

_ENTRIES = (
    MethodSpec(
        "grpo", "GRPO", "2402.03300", shapes.constant, {"eps_low": EPS, "eps_high": EPS},
        evidence="symmetric interval of PPO and GRPO",
    ),
    MethodSpec(
        "clip_higher", "Clip-Higher", "2503.14476", shapes.constant, {"eps_low": EPS, "eps_high": 0.28},
        evidence="DAPO's 0.2/0.28",
    ),
    MethodSpec(
        "clip_lower", "Clip-Lower", PAPER, shapes.constant, {"eps_low": 0.28, "eps_high": EPS},
        evidence="wider below, as the paper's baseline; its value is not disclosed, 0.28 mirrors Clip-Higher",
    ),
    MethodSpec(
        "dynamic_upper", "Dynamic upper", PAPER, shapes.linear,
        {"lower": shapes.Line(0.0, EPS), "upper": shapes.H_UPPER},
        evidence="H(p) = −0.25 p + 0.5, paper v1",
    ),
    MethodSpec(
        "dynamic_lower", "Dynamic lower", PAPER, shapes.linear,
        {"lower": shapes.M_LOWER, "upper": shapes.Line(0.0, EPS)},
        evidence="M(p) = −0.13 p + 0.3, paper v1",
    ),
    MethodSpec(
        "id", "ID", PAPER, shapes.increase_then_decrease, SCHEDULE, evidence=SCHEDULE_EVIDENCE
    ),
    MethodSpec(
        "did", "DID", PAPER, shapes.decrease_increase_decrease, SCHEDULE, evidence=SCHEDULE_EVIDENCE
    ),
    MethodSpec(
        "od", "OD", PAPER, shapes.oscillatory_decay,
        {"eps": EPS, "upper": shapes.H_UPPER, "lower": shapes.M_LOWER, "fraction": 0.2},
        evidence="H, M, eps and fraction (H_min = 0.2 H_init): paper v1; ε on both sides before the first trigger",
        controller=Hysteresis, controller_options=("fraction",),
    ),
)  # fmt: skip

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in _ENTRIES}


def method(name: str, total_steps: int, **options) -> Method:
    """The method `name` for a run of `total_steps` rollout batches, with its defaults overridden by `options`.

    Raises ValueError for an unknown name or option, naming the valid ones.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; the methods are: {', '.join(METHODS)}")
    return Method(METHODS[name], total_steps, options)
