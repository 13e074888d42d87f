"""The types that all pieces share: the input of a loss, thresholds, and the position in a run."""

from dataclasses import dataclass

import torch

Bound = torch.Tensor | float


@dataclass(frozen=True)
class Line:
    """A threshold ε(p) = slope · p + intercept in the current probability p."""

    slope: float
    intercept: float

    def at(self, p: torch.Tensor) -> Bound:
        """ε(p), shaped like `p`; a float where the line is flat."""
        return self.slope * p + self.intercept if self.slope else self.intercept

    def mix(self, weight: float, constant: float) -> "Line":
        """weight · self + (1 − weight) · constant, which is a line again."""
        return Line(weight * self.slope, weight * self.intercept + (1 - weight) * constant)


@dataclass(frozen=True)
class Clock:
    """The position in a run.

    `step` and `total_steps` count rollout batches (k and T of the paper), not optimizer steps. `state` is the
    controller's signal: a number, or (B, 1) with one for each sequence where several runs share a batch. For OD 1
    loosens the upper bound, 0 the lower one, and −1 means that nothing was triggered yet.
    """

    step: int
    total_steps: int
    state: float | torch.Tensor = -1


# Inputs that a method may need beyond log-probabilities, advantages and mask.
NEEDS = {
    "entropy": "token entropy of the current policy, nats, shape (B, T)",
    "entropy_gradient": "token entropy of the current policy with its gradient, nats, shape (B, T)",
    "old_entropy": "token entropy of the policy that sampled, nats, shape (B, T)",
    "old_baseline": "Σ_x p_x² (ln p_x + H) of the policy that sampled, shape (B, T), from its full logits",
    "clamped_entropy": "entropy of the clamped current policy with its gradient, nats, shape (B, T), from full logits",
    "success": "mean reward of the sequence's group, shape (B,)",
    "group": "whole number that names the sequence's group, shape (B,)",
}
# The needs that only full logits decide, and whose logits: a trainer without logits cannot run methods with them.
LOGIT_NEEDS = {
    "old_baseline": "full logits of the policy that sampled",
    "clamped_entropy": "full logits of the current policy, with gradient",
}


# Fields of a `TokenBatch` that have the shape of its log-probabilities.
TOKEN_SHAPED = (
    "old_logprob", "mask", "entropy", "old_entropy", "old_baseline", "clamped_entropy", "weight", "neutral",
)  # fmt: skip


@dataclass(frozen=True)
class TokenBatch:
    """The input of a loss: B sequences of T completion tokens.

    `logprob` (B, T): current log-probabilities, with gradient. `old_logprob` (B, T): those of the policy that sampled.
    `advantages` (B,) or (B, T). `mask` (B, T): nonzero where a token counts; masked positions may hold any value.
    The next six are inputs that some methods need (`NEEDS`). `draw_seed` seeds the random draws of a method, one
    number per mini-batch. `Method.prepare` sets `weight` (B, T) and `prepared`. `runs`: the rows are that many equal
    blocks, each the batch of one training run, and every metric is measured for each run. `neutral` (B, T): nonzero
    where a token decides nothing about the reward. It adds metrics and changes no loss.

    Raises ValueError for shapes that do not agree and for advantages that are NaN or infinite where a token counts.
    """

    logprob: torch.Tensor
    old_logprob: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    entropy: torch.Tensor | None = None
    old_entropy: torch.Tensor | None = None
    old_baseline: torch.Tensor | None = None
    clamped_entropy: torch.Tensor | None = None
    success: torch.Tensor | None = None
    group: torch.Tensor | None = None
    draw_seed: int = 0
    weight: torch.Tensor | None = None
    prepared: bool = False
    runs: int = 1
    neutral: torch.Tensor | None = None

    def __post_init__(self):
        shape = self.logprob.shape
        if len(shape) != 2:
            raise ValueError(f"logprob: expected shape (B, T), given {tuple(shape)}")
        if self.runs < 1 or shape[0] % self.runs:
            raise ValueError(f"runs: expected a number that divides the {shape[0]} sequences, given {self.runs}")
        for name in TOKEN_SHAPED:
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name}: expected shape {tuple(shape)} as logprob, given {tuple(value.shape)}")
        for name in ("success", "group"):
            value = getattr(self, name)
            if value is not None and value.shape != shape[:1]:
                raise ValueError(f"{name}: expected shape {tuple(shape[:1])}, given {tuple(value.shape)}")
        if self.group is not None and self.group.is_floating_point():
            raise ValueError(f"group: expected whole numbers, given {self.group.dtype}")
        given = self.advantages
        if given.shape not in (shape, shape[:1], (shape[0], 1)):
            expected = f"{tuple(shape[:1])} or {tuple(shape)}"
            raise ValueError(f"advantages: expected shape {expected}, given {tuple(given.shape)}")
        bad = ~torch.isfinite(given if given.dim() == 2 else given.unsqueeze(1)) & (self.mask != 0)
        if bad.any():
            count = int(bad.sum())
            raise ValueError(f"advantages: expected finite numbers, given NaN or infinity at {count} counted tokens")


@dataclass(frozen=True)
class Tokens:
    """The input of a piece: a `TokenBatch` in float32 or float64, with zeros (ratio 1) where it is masked.

    (B, T): `mask` (bool), `counted` (the mask as numbers), `logprob`, `old_logprob`, `log_ratio`, `ratio`, and the
    entropies that were given and are needed. `advantages` is (B, 1) or (B, T), `success` (B, 1). `group`
    (B,) numbers the groups from 0. `eps_low` and `eps_high` are (B, T), (B, 1) or floats.
    """

    mask: torch.Tensor
    counted: torch.Tensor
    advantages: torch.Tensor
    logprob: torch.Tensor
    old_logprob: torch.Tensor
    log_ratio: torch.Tensor
    ratio: torch.Tensor
    clock: Clock
    eps_low: Bound = 0.0
    eps_high: Bound = 0.0
    entropy: torch.Tensor | None = None
    old_entropy: torch.Tensor | None = None
    old_baseline: torch.Tensor | None = None
    clamped_entropy: torch.Tensor | None = None
    success: torch.Tensor | None = None
    group: torch.Tensor | None = None
    draw_seed: int = 0
