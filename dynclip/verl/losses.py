"""dynclip's methods as policy losses of verl 0.9.1.

verl's loss functions get neither step nor entropies. A wrapper around verl's `ppo_loss`, which sees the whole batch,
puts both into a context variable, and the loss reads them there. A loss without its context raises ValueError.
Aggregation, dual clip (`actor.clip_ratio_c`) and rollout correction weights stay verl's: they are the same for all
arms.
"""

import functools
import inspect
import json
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from dynclip.methods.objective import Method
from dynclip.methods.registry import METHODS, method
from dynclip.methods.types import LOGIT_NEEDS, Line, TokenBatch
from dynclip.runtime.seeds import derive_seed

try:
    import omegaconf  # noqa: F401
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.utils import tensordict_utils
    from verl.workers.config import PolicyLossConfig as VerlPolicyLossConfig
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("verl", "omegaconf"):
        raise
    raise ImportError(
        f"dynclip.verl needs verl 0.9.1, and {error.name!r} is not installed here; `make peers` builds an environment "
        "that has it: .venv-verl"
    ) from error

logger = logging.getLogger(__name__)

PREFIX = "dynclip_"
TRAINER_MODE = "dynclip_sync"
CONTEXT = "dynclip"  # the batch's non-tensor entry that carries step, total_steps and state to the workers
STATE_FILE = "dynclip.json"  # in each of verl's checkpoint folders
PPO_LOSS_PARAMETERS = ("config", "model_output", "data", "dp_group")


@dataclass
class PolicyLossConfig(VerlPolicyLossConfig):
    """verl's policy loss configuration with room for a method's options, by their names in `dynclip.METHODS`."""

    dynclip_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What verl does not pass to a policy loss. Tensors are (B, T) of the micro-batch, `success` (B,)."""

    step: int
    total_steps: int
    state: float | None
    prepared: bool
    draw_seed: int
    entropy: torch.Tensor | None = None
    old_entropy: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    success: torch.Tensor | None = None


_context: ContextVar[Context | None] = ContextVar("dynclip_context")


def method_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options from a configuration file: a line is written [slope, intercept] there."""
    lines = {key for key, default in METHODS[name].defaults.items() if isinstance(default, Line)}
    return {key: Line(*value) if key in lines else value for key, value in given.items()}


@functools.lru_cache(maxsize=8)
def _method(name: str, total_steps: int, options: str) -> Method:
    return method(name, total_steps, **method_options(name, json.loads(options)))


def refuse_logit_needs(name: str) -> None:
    """Raises ValueError for a method that needs full logits: verl's workers return log-probabilities and entropies."""
    for need in METHODS[name].needs:
        if need in LOGIT_NEEDS:
            raise ValueError(
                f"{PREFIX}{name}: needs {need}, from {LOGIT_NEEDS[need]}; verl's workers return no logits, so this "
                "method does not run inside verl (docs/peers.md)"
            )


def policy_loss(name: str) -> Callable:
    """verl's policy loss function of method `name`. It returns (loss, metrics as floats) of a micro-batch."""

    def loss(
        old_log_prob,
        log_prob,
        advantages,
        response_mask,
        loss_agg_mode="token-mean",
        config=None,
        rollout_is_weights=None,
    ):
        refuse_logit_needs(name)
        context = take_context(name)
        options = json.dumps(config.policy_loss.get("dynclip_options", {}), sort_keys=True)
        bound = _method(name, context.total_steps, options)
        if context.entropy is None and {"entropy", "entropy_gradient"} & set(bound.needs):
            raise ValueError(
                f"{PREFIX}{name}: needs the current policy's entropy, which verl's actor did not compute; set "
                "actor_rollout_ref.actor.calculate_entropy=True"
            )
        batch = TokenBatch(
            logprob=log_prob,
            old_logprob=old_log_prob,
            advantages=advantages if context.advantages is None else context.advantages,
            mask=response_mask,
            entropy=context.entropy,
            old_entropy=context.old_entropy,
            success=context.success,
            draw_seed=context.draw_seed,
            weight=context.weight,
            prepared=context.prepared,
        )
        output = bound.loss(batch, context.step, context.state, dual_clip=config.clip_ratio_c)
        per_token = output.per_token
        if rollout_is_weights is not None:
            per_token = per_token * rollout_is_weights
        aggregated = agg_loss(
            loss_mat=per_token, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info
        )
        values = torch.stack([value.detach().float() for value in output.metrics.values()]).tolist()
        return aggregated, {f"actor/{key}": value for key, value in zip(output.metrics, values, strict=True)}

    loss.__doc__ = METHODS[name].change
    return loss


def take_context(name: str) -> Context:
    """The context of the micro-batch whose loss is computed. Raises ValueError without one, and says what to set."""
    try:
        context = _context.get()
    except LookupError:
        raise ValueError(
            f"{PREFIX}{name}: called outside the wrapped ppo_loss, so neither step nor entropy reaches it; set "
            "actor_rollout_ref.model.external_lib=dynclip.verl, and leave distillation off"
        ) from None
    if context is None:
        raise ValueError(
            f"{PREFIX}{name}: the batch carries no step, total steps and controller state; set "
            f"trainer.v1.trainer_mode={TRAINER_MODE} (and leave trainer.use_v1=True)"
        )
    return context


class DrawCounter:
    """Counts the micro-batches of a rollout step, in the order in which this process sees them."""

    def __init__(self):
        self.step, self.count = -1, 0

    def seed(self, base: int, step: int) -> int:
        """The seed of this micro-batch's random draws. It depends on (base, step, count) alone."""
        self.step, self.count = step, self.count + 1 if step == self.step else 0
        return derive_seed(base, step, self.count)


_draws = DrawCounter()


def read_context(config, model_output: Mapping, data) -> Context | None:
    """What the losses need from the batch that `ppo_loss` sees; None if the trainer put no step into it.

    `data` is the micro-batch, a TensorDict whose response fields are nested or padded. `model_output["entropy"]` is
    there, with gradient, if the actor computes it.
    """
    from verl.workers.utils.padding import no_padding_2_padding

    entry = tensordict_utils.get_non_tensor_data(data, CONTEXT, None)
    if entry is None:
        return None
    entropy = model_output.get("entropy")
    names = {"old_entropy": "entropy"} | {name: f"{PREFIX}{name}" for name in ("advantages", "weight", "success")}
    present = {name: key for name, key in names.items() if key in data}
    padded = data.select(*present.values()).to_padded_tensor()
    return Context(
        **entry,
        draw_seed=_draws.seed(config.data_loader_seed, entry["step"]),
        entropy=None if entropy is None else no_padding_2_padding(entropy, data),
        **{name: padded[key] for name, key in present.items()},
    )


def wrap_ppo_loss(engine_workers: ModuleType) -> None:
    """Let the workers' `ppo_loss` set the context. Raises RuntimeError if verl's function has other parameters."""
    original = getattr(engine_workers, "ppo_loss", None)
    found = tuple(inspect.signature(original).parameters) if callable(original) else None
    if found != PPO_LOSS_PARAMETERS:
        raise RuntimeError(
            f"verl.workers.engine_workers.ppo_loss: expected a function of {PPO_LOSS_PARAMETERS} as in verl 0.9.1, "
            f"found {found}; install verl==0.9.1"
        )

    @functools.wraps(original)
    def ppo_loss(config, model_output, data, dp_group=None):
        if not config.policy_loss.get("loss_mode", "vanilla").startswith(PREFIX):
            return original(config, model_output, data, dp_group)
        token = _context.set(read_context(config, model_output, data))
        try:
            return original(config, model_output, data, dp_group)
        finally:
            _context.reset(token)

    engine_workers.ppo_loss = ppo_loss
