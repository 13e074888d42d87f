"""The loss of every method, composed of its pieces.

Before each rollout batch:  `observe` gives the controller the entropy; its signal is the `state` of the next losses
Once per rollout batch:     `prepare` computes new advantages and token weights from the sampling policy
For each mini-batch:        `loss`: ratio → bounds → surrogate → × weights → + extra → aggregation

Inputs may be float32 or bfloat16 and are computed in float32; float64 stays float64. No tensor here is larger than
(B, T).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from dynclip.methods.measurements import live_ratio, token_metrics
from dynclip.methods.spec import ROLLOUT_NEEDS, MethodSpec, piece_options, separable
from dynclip.methods.surrogate import DUAL_CLIPPED, aggregate, dual_clipped, ppo_min, token_ratio
from dynclip.methods.types import NEEDS, Bound, Clock, TokenBatch, Tokens

GRPO_PIECES = {"ratio": token_ratio, "surrogate": ppo_min}  # of every method that names no other
OTHER_POLICIES = ("old_entropy", "old_baseline", "clamped_entropy")  # inputs from another policy, kept only if needed


@dataclass(frozen=True)
class LossOutput:
    """`loss` scalar over all sequences, to be minimised; `per_token` (B, T), before mask and aggregation.

    Detached: `metrics`, and `live_ratio`, the largest ratio of a token with A ≠ 0 that is not clipped (0 without such
    tokens). They are scalars, or (runs,) for a batch of several runs.
    """

    loss: torch.Tensor
    per_token: torch.Tensor
    metrics: dict[str, torch.Tensor]
    live_ratio: torch.Tensor


def identity(value: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks of a run in one process."""
    return value


def numbered_groups(batch: TokenBatch) -> torch.Tensor | None:
    """The groups (B,) of a batch by numbers from 0. Those of different runs are different groups."""
    if batch.group is None:
        return None
    run = torch.arange(len(batch.group), device=batch.group.device) // max(1, len(batch.group) // batch.runs)
    return torch.unique(torch.stack([run, batch.group], 1), dim=0, return_inverse=True)[1]


class Method:
    """A method with its options in a run of `total_steps` rollout steps, with the controller's state between steps.

    Raises ValueError for an unknown option and for options under which a bound is negative or admits r < 0.
    """

    def __init__(self, spec: MethodSpec, total_steps: int, options: dict):
        if total_steps < 1:
            raise ValueError(f"total_steps: expected at least 1 rollout step, given {total_steps}")
        unknown = sorted(set(options) - set(spec.defaults))
        if unknown:
            valid = ", ".join(sorted(spec.defaults)) or "none"
            raise ValueError(f"method {spec.name!r}: unknown option {unknown[0]!r}; it has: {valid}")
        self.spec, self.total_steps = spec, total_steps
        self.options = {**spec.defaults, **options}
        self.pieces = {}  # role -> piece with its options bound
        for role, piece in (GRPO_PIECES | spec.pieces).items():
            names = [name for name in piece_options(piece) if name in self.options]
            self.pieces[role] = partial(piece, **{name: self.options[name] for name in names})
        self.controller = self.pieces["controller"](total_steps=total_steps) if spec.controller else None
        self._check_bounds()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def needs(self) -> tuple[str, ...]:
        return self.spec.needs

    def clock(self, step: int, state: Bound | None = None) -> Clock:
        """Where rollout step `step` is in the run. `state`: a controller's signal, (B, 1) for those of several runs, or
        None for the method's own. Raises ValueError for a step outside 0 … total_steps."""
        if not 0 <= step <= self.total_steps:
            raise ValueError(f"step: expected 0 to {self.total_steps} (total_steps), given {step}")
        if state is None:
            state = self.controller.signal if self.controller else -1
        return Clock(step, self.total_steps, state)

    def bounds(
        self, old_prob: torch.Tensor, step: int, state: Bound | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps_low, eps_high), tensors like `old_prob`: the ratio is clipped to [1 − eps_low, 1 + eps_high].

        `step` counts rollout batches from 0. `state` is that of `clock`. Infinity means no upper bound. With the option
        `reference="current"` the argument is the current probability.
        """
        pair = self.pieces["bounds"](old_prob, self.clock(step, state))
        low, high = (
            e.expand_as(old_prob) if isinstance(e, torch.Tensor) else torch.full_like(old_prob, e) for e in pair
        )
        return low, high

    def reduction(self, logits: torch.Tensor) -> torch.Tensor:
        """The input that is computed from full logits (..., V), "old_baseline" or "clamped_entropy", shape (...)."""
        return self.pieces["reduction"](logits)

    def prepare(
        self,
        batch: TokenBatch,
        step: int,
        state: Bound | None = None,
        total: Callable[[torch.Tensor], torch.Tensor] = identity,
    ) -> TokenBatch:
        """`batch` with the advantages and token weights that the method computes once per rollout batch.

        `batch` is this rank's whole rollout batch; its `logprob` is not used. `total` sums a tensor over ranks.
        Without this call `loss` does the same on each mini-batch, with the mini-batch's statistics.
        """
        spec = self.spec
        if not (spec.advantages or spec.rollout_weights):
            return replace(batch, prepared=True)
        self._check_needs(batch, (*ROLLOUT_NEEDS, "success"))
        with torch.no_grad():
            tokens = self._tokens(replace(batch, logprob=batch.old_logprob), self.clock(step, state))
            if spec.advantages:
                batch = replace(batch, advantages=self.pieces["advantages"](tokens, total))
            if spec.rollout_weights:
                batch = replace(batch, weight=self.pieces["rollout_weights"](tokens, total))
        return replace(batch, prepared=True)

    def loss(
        self,
        batch: TokenBatch,
        step: int,
        state: Bound | None = None,
        aggregation: str = "token",
        length: int | None = None,
        dual_clip: float | None = None,
    ) -> LossOutput:
        """The loss of mini-batch `batch` at rollout step `step`, to be minimised.

        The run sets the other arguments, the same for all methods of a comparison. `aggregation` is "token",
        "sequence" or "fixed" (sum divided by B · `length`, T by default). `dual_clip` c > 1 bounds the loss of tokens
        with A < 0 at −c A (arXiv 1912.09729) for the surrogates in `surrogate.DUAL_CLIPPED`.
        Raises ValueError, naming the argument, for a missing input that the method needs, and for a batch of several
        runs where the method mixes sequences (`spec.separable`).
        """
        if dual_clip is not None and not dual_clip > 1:
            raise ValueError(f"dual_clip: expected a number above 1, or None for none, given {dual_clip!r}")
        if not batch.prepared:
            batch = self.prepare(batch, step, state)
        self._check_needs(batch, tuple(need for need in NEEDS if need not in ROLLOUT_NEEDS))
        tokens = self._tokens(batch, self.clock(step, state))
        per_token = self.pieces["surrogate"](tokens)
        if self.pieces["surrogate"].func not in DUAL_CLIPPED:
            dual_clip = None
        if dual_clip is not None:
            per_token = dual_clipped(per_token, tokens.advantages, dual_clip)
        weight = self.pieces["weights"](tokens) if self.spec.weights else None
        if batch.weight is not None:
            weight = batch.weight if weight is None else weight * batch.weight
        if weight is not None:
            per_token = per_token * weight
        extra = self.pieces["extra"](tokens) if self.spec.extra else None
        if extra is not None:
            per_token = per_token + extra
        with torch.no_grad():
            metrics = token_metrics(tokens, weight, extra, batch.runs, batch.neutral)
            live = live_ratio(tokens, dual_clip, batch.runs)
        return LossOutput(aggregate(per_token, tokens.counted, aggregation, length), per_token, metrics, live)

    def observe(self, step: int, entropy: float | None) -> None:
        """Give the controller the mean token entropy (nats) of the policy that sampled rollout batch `step`.

        None: no token of the batch counts, so there is no mean, and the controller stays as it is.
        """
        if entropy is None:
            return
        if not math.isfinite(entropy):
            raise ValueError(f"entropy: expected a finite number of nats, given {entropy} at step {step}")
        if self.controller:
            self.controller.observe(step, entropy)

    def state_dict(self) -> dict:
        """The state that a checkpoint must hold so that `load_state_dict` continues exactly."""
        return self.controller.state_dict() if self.controller else {}

    def load_state_dict(self, state: dict) -> None:
        if self.controller:
            self.controller.load_state_dict(state)

    def _tokens(self, batch: TokenBatch, clock: Clock) -> Tokens:
        if batch.runs > 1 and not separable(self.spec):
            raise ValueError(
                f"runs: method {self.name!r} takes statistics over its batch, which must be that of 1 run; "
                f"given {batch.runs}"
            )
        mask, masked = batch.mask != 0, batch.mask == 0
        dtype = torch.promote_types(batch.logprob.dtype, torch.float32)

        def neutral(value: torch.Tensor | None) -> torch.Tensor | None:
            # Padding may hold NaN. Zero it before any arithmetic spreads it.
            return None if value is None else value.to(dtype).masked_fill(masked, 0.0)

        advantages = batch.advantages if batch.advantages.dim() == 2 else batch.advantages.unsqueeze(1)
        advantages = neutral(advantages) if advantages.shape == mask.shape else advantages.to(dtype)
        logprob, old_logprob = neutral(batch.logprob), neutral(batch.old_logprob)
        log_ratio = self.pieces["ratio"](logprob - old_logprob, logprob, mask)
        read_at = old_logprob
        if self.options.get("reference", "old") == "current":
            read_at = logprob.detach() if self.options.get("detach", True) else logprob
        eps_low, eps_high = self.pieces["bounds"](read_at.exp(), clock)
        return Tokens(
            mask=mask,
            counted=mask.to(dtype),
            advantages=advantages,
            logprob=logprob,
            old_logprob=old_logprob,
            log_ratio=log_ratio,
            ratio=torch.exp(log_ratio),
            clock=clock,
            eps_low=eps_low,
            eps_high=eps_high,
            success=None if batch.success is None else batch.success.to(dtype).unsqueeze(1),
            group=numbered_groups(batch) if "group" in self.needs else None,
            draw_seed=batch.draw_seed,
            entropy=neutral(batch.entropy),
            **{name: neutral(getattr(batch, name)) for name in OTHER_POLICIES if name in self.needs},
        )

    def _check_needs(self, batch: TokenBatch, among: tuple[str, ...]) -> None:
        for need in self.spec.needs:
            name = need.removesuffix("_gradient")
            value = getattr(batch, name)
            if need in among and value is None:
                raise ValueError(f"{name}: method {self.name!r} needs it ({NEEDS[need]}); given None")
            differentiated = need in ("entropy_gradient", "clamped_entropy")
            if need in among and differentiated and batch.logprob.requires_grad and not value.requires_grad:
                raise ValueError(f"{name}: method {self.name!r} differentiates it; given a tensor without gradient")

    def _check_bounds(self) -> None:
        if self.options.get("reference", "old") not in ("old", "current"):
            raise ValueError(f"reference: expected 'old' or 'current', given {self.options['reference']!r}")
        if not self.options.get("detach", True) and self.options["reference"] == "old":
            raise ValueError("detach=False needs reference='current': the old probability has no gradient to keep")
        grid, half = torch.tensor([1e-6, 0.5, 1.0], dtype=torch.float64), self.total_steps // 2
        # The first and the last step of each half, where a schedule's formulas change.
        for step in sorted({0, half, min(half + 1, self.total_steps), self.total_steps}):
            low, high = self.bounds(grid, step)
            if not (((low >= 0) & (low <= 1)).all() and (high >= 0).all()):
                raise ValueError(
                    f"method {self.name!r}, step {step}: expected bounds 0 <= eps_low <= 1 and eps_high >= 0 for every "
                    f"probability, its options give eps_low {low.tolist()} and eps_high {high.tolist()}"
                )
