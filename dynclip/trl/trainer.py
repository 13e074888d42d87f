"""GRPO with a dynclip method inside TRL 1.16: the only file that knows TRL's names.

`DynClipTrainer` is TRL's `GRPOTrainer` with

1) `_compute_loss` replaced: the same forward pass, the method's per-token loss, then TRL's own aggregation. With
   method "grpo" the loss and its gradients equal TRL's bit for bit (tests/peers/test_trl.py);
2) state around it: the sampling policy's entropy is recorded for the whole rollout batch (one extra output of a
   forward pass TRL makes anyway) and given to the method's controller; what the method decides once per rollout batch
   is decided there; rollouts are seeded by (seed, step), so that runs of different methods share their random numbers;
   the controller's state is saved in every checkpoint;
3) checkpoints written aside, checksummed and renamed;
4) updates whose gradient is not finite, or whose ratios explode, are skipped and counted.

Methods that need full logits get them from the hidden states that TRL's fused output head starts from, a chunk of
tokens at a time.

A *step* here is a rollout batch: k = optimizer steps // updates per rollout, which is what the schedules count.
"""

import json
import logging
import math
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer

from dynclip.methods.controllers import Hysteresis
from dynclip.methods.objective import Method
from dynclip.methods.registry import method
from dynclip.methods.types import TokenBatch
from dynclip.methods.vocabulary import reduce_logits
from dynclip.runtime.checkpoints import seal
from dynclip.runtime.errors import UserError
from dynclip.trl.vllm_cpu import engine_options, sync_by_reloading

SUPPORTED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
STATE_FILE = "dynclip.json"
FAILED_BATCH = "failed_batch.safetensors"  # in the output folder: the mini-batch of a run that had to stop
RATIO_LIMIT = 1e4  # beyond it importance sampling says nothing any more, and one token outweighs its batch
SKIPS_IN_A_ROW = 3
# Of `policy/entropy`, and of what controllers observe.
logger = logging.getLogger(__name__)
# Where a model's config says that its logits are more than hidden states times the output head.
LOGIT_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


# transformers loads the optimizer's state of a training in several processes to "cpu:0", "cpu:1", … where there is no
# GPU; torch knows how to restore to "cpu" alone.
torch.serialization.register_package(
    11, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
)


class DynClipTrainer(GRPOTrainer):
    """A `trl.GRPOTrainer` whose clipping is a dynclip method.

    Arguments beside GRPOTrainer's own: `dynclip_method`, a name of `dynclip.METHODS` or a `MethodSpec`;
    `dynclip_options`, its options;
    `allow_on_policy`, to train with one update per rollout batch, where every ratio is 1 and clipping cannot act.
    TRL's `delta` is the run's dual clip c, for every method that has one.

    Raises ValueError at construction for settings under which a comparison of methods would not mean what it says.
    """

    def __init__(self, *args, dynclip_method="grpo", dynclip_options=None, allow_on_policy=False, **kwargs):
        given = kwargs.get("args")
        on_cpu = not torch.cuda.is_available() or getattr(given, "use_cpu", False)
        with engine_options(on_cpu, getattr(given, "bf16", False)):
            super().__init__(*args, **kwargs)
        if self.use_vllm and self.vllm_mode == "colocate" and on_cpu:
            self.vllm_generation.sync_weights = partial(sync_by_reloading, self.vllm_generation)
        # TRL counts every sampled batch once per `steps_per_generation` slice and reuses it `num_iterations` times.
        slices, accumulation = (
            self.args.steps_per_generation * self.num_iterations,
            self.args.gradient_accumulation_steps,
        )
        if slices % accumulation:
            raise ValueError(
                f"steps_per_generation x num_iterations = {slices} must be a multiple of "
                f"gradient_accumulation_steps = {accumulation}: else an update would straddle two rollout batches"
            )
        self._slices, self.updates_per_rollout = slices, slices // accumulation
        if self.updates_per_rollout == 1 and not allow_on_policy:
            raise ValueError(
                "one update per rollout batch: every importance ratio is 1 and no clipping method can act. "
                "Set steps_per_generation > gradient_accumulation_steps, or allow_on_policy=True to do it anyway"
            )
        refuse_overlapping_options(self)
        if self.args.save_strategy == "steps" and self.args.save_steps % self.updates_per_rollout:
            logger.warning(
                "save_steps=%s is no multiple of the %s updates per rollout batch: such checkpoints lie inside a batch "
                "and cannot be resumed",
                self.args.save_steps,
                self.updates_per_rollout,
            )
        # A wrong name or option must fail before training starts.
        refuse_rescaled_logits(method(dynclip_method, 1, **(dynclip_options or {})), self.model.config)
        self._chosen, self._method_options = dynclip_method, dynclip_options or {}
        self._method: Method | None = None
        self._sampling_pass: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None
        self._reduced: list[torch.Tensor] = []
        self._success: torch.Tensor | None = None
        self._row: dict[str, list] = {}
        self._parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._last_inputs: dict[str, torch.Tensor] = {}
        self._update_ratio, self._skipped_in_a_row = 0.0, 0
        self._restored_state: dict | None = None

    @property
    def method(self) -> Method:
        """The run's method, for the number of steps that is known; before training starts (evaluation) that is 1."""
        total = max(1, math.ceil(self.state.max_steps / self.updates_per_rollout))
        if self._method is None or self._method.total_steps != total:
            self._method = method(self._chosen, total, **self._method_options)
            if self._restored_state is not None:
                self._method.load_state_dict(self._restored_state)
        return self._method

    @property
    def rollout_step(self) -> int:
        """k: the number of rollout batches whose updates are complete."""
        return self.state.global_step // self.updates_per_rollout

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, compute_entropy=False, **kwargs
    ):
        # The pass over the whole rollout batch that yields old log-probabilities runs without gradient: its entropies
        # are those of the sampling policy (`ENTROPY` of dynclip.training.trl_config).
        sampling = not torch.is_grad_enabled()
        with self._collect_reductions(logits_to_keep):
            output = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                *args,
                compute_entropy=compute_entropy or sampling,
                **kwargs,
            )
        if sampling:
            self._sampling_pass = (*output[:2], torch.cat(self._reduced) if self._reduced else None)
        return output

    @contextmanager
    def _collect_reductions(self, logits_to_keep):
        """While a pass runs, keep the method's reduction of the full logits at the completion tokens, if it has one."""
        self._reduced = []
        if self.method.spec.reduction is None:
            yield
            return
        model = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # below PEFT's adapters
        head = model.get_output_embeddings()

        def reduce_hidden(module, arguments, output):
            hidden = output.last_hidden_state[:, -logits_to_keep - 1 : -1]
            self._reduced.append(reduce_logits(hidden, head.weight, self.method.reduction, head.bias, self.temperature))

        hook = model.base_model.register_forward_hook(reduce_hidden)
        try:
            yield
        finally:
            hook.remove()

    def _calculate_rewards(self, *args, **kwargs):
        rewards = super()._calculate_rewards(*args, **kwargs)  # (completions of all processes, reward functions)
        group = self.num_generations if self.model.training else self.num_generations_eval
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        self._success = total.view(-1, group).mean(1).repeat_interleave(group)
        return rewards

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            output = super()._generate_and_score_completions(inputs)
            return output | {"success": self._own_success(output["completion_mask"])}
        step, start = self.rollout_step, time.perf_counter()
        # Common random numbers: what is drawn at step k depends on (seed, k, rank), not on the method's history.
        torch.manual_seed(self._draw_seed(step))
        self._sampling_pass = None
        output = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"]
        if self._sampling_pass is None:  # on-policy runs skip the pass over the rollout batch; the controller needs it
            self._score_sampling_policy(output)
        old_logprob, old_entropy, reduced = self._sampling_pass
        output["success"] = self._own_success(mask)
        mask = mask * output["tool_mask"] if "tool_mask" in output else mask
        output["old_entropy"] = old_entropy * mask
        entropy = self._mean(output["old_entropy"], mask)
        self.method.observe(step, entropy if self.method.spec.observes == "entropy" else self._mean(reduced, mask))
        rollout = TokenBatch(
            logprob=old_logprob,
            old_logprob=old_logprob,
            advantages=output["advantages"],
            mask=mask,
            old_entropy=output["old_entropy"],
            old_baseline=reduced if "old_baseline" in self.method.needs else None,
            success=output["success"],
        )
        prepared = self.method.prepare(rollout, step, total=lambda value: self.accelerator.reduce(value, "sum"))
        output["advantages"] = prepared.advantages
        if prepared.weight is not None:
            output["weight"] = prepared.weight
        self._row = {"policy/entropy": [entropy], "time/rollout": [time.perf_counter() - start]}
        if self.method.controller:  # a switch between sides, or a quantity
            name = "clip/state" if isinstance(self.method.controller, Hysteresis) else "control/signal"
            self._row[name] = [float(self.method.controller.signal)]
        for name, values in self._row.items():
            self._metrics["train"][name] += values
        return output

    def _own_success(self, mask: torch.Tensor) -> torch.Tensor:
        """This process's part of the groups' mean rewards."""
        rank = self.accelerator.process_index
        return self._success[rank * len(mask) : (rank + 1) * len(mask)].to(mask.device)

    def _draw_seed(self, step: int) -> int:
        return (self.args.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index

    def _mean(self, value: torch.Tensor, mask: torch.Tensor) -> float:
        """The mean over counted tokens of all ranks."""
        totals = self.accelerator.reduce(torch.stack([(value * mask).sum(), mask.sum().float()]), "sum")
        return (totals[0] / totals[1].clamp(min=1)).item()

    def _score_sampling_policy(self, batch) -> None:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(
                self.model, ids, attention, batch["completion_ids"].size(1), self.args.per_device_train_batch_size
            )

    def _compute_loss(self, model, inputs):
        self._last_inputs = inputs
        completion_ids, mask = inputs["completion_ids"], inputs["completion_mask"]
        input_ids = torch.cat([inputs["prompt_ids"], completion_ids], dim=1)
        attention_mask = torch.cat([inputs["prompt_mask"], mask], dim=1)
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        logprob, entropy, _ = self._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, completion_ids.size(1), compute_entropy=True
        )
        old_logprob = inputs.get("old_per_token_logps")
        needs = self.method.needs
        batch = TokenBatch(
            logprob=logprob,
            old_logprob=logprob.detach() if old_logprob is None else old_logprob,
            advantages=inputs["advantages"],
            mask=mask,
            entropy=entropy if "entropy_gradient" in needs else entropy.detach(),
            old_entropy=inputs.get("old_entropy"),
            clamped_entropy=torch.cat(self._reduced) if "clamped_entropy" in needs else None,
            success=inputs.get("success"),
            # A generator's seed has 64 bits, the run's own has up to 32 of them.
            draw_seed=(self._draw_seed(self.rollout_step) * 10_007 + self._step % self._slices) % 2**63,
        )
        weight = inputs.get("weight")
        if self.use_vllm and self.vllm_importance_sampling_correction:
            # As in TRL the correction is a factor of the policy's loss, not of an added entropy term.
            correction = inputs["importance_sampling_ratio"].expand_as(logprob)
            weight = correction if weight is None else weight * correction
        output = self.method.loss(
            replace(batch, weight=weight, prepared=True), self.rollout_step, dual_clip=self.args.delta
        )
        if self.model.training:
            self._note(output.metrics, mask)
        self._metrics["train" if self.model.training else "eval"]["entropy"].append(
            ((entropy.detach() * mask).sum() / mask.sum().clamp(min=1)).item()
        )
        return self._aggregate(output.per_token, mask, inputs)

    def _note(self, metrics: dict[str, torch.Tensor], mask: torch.Tensor) -> None:
        """Keep a micro-batch's measurements, over all processes, for the end of its update: means weighted by tokens,
        so that they do not depend on how a mini-batch is cut."""
        row = torch.stack([*(value.detach().float() for value in metrics.values()), (mask != 0).sum().float()])
        everywhere = self.accelerator.gather(row.unsqueeze(0)).double().cpu()
        for name, column in zip(metrics, everywhere[:, :-1].T, strict=True):
            self._parts.setdefault(name, []).append((column, everywhere[:, -1]))

    def _finish_update(self) -> None:
        for name, parts in self._parts.items():
            values, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
            number = (values * tokens).sum() / tokens.sum().clamp(min=1)
            if name == "policy/ratio_max":
                number = values.max()
                self._update_ratio = number.item() if number.isfinite() else math.inf
            self._row.setdefault(name, []).append(number.item())
            self._metrics["train"][name].append(number.item())
        self._parts = {}

    def _aggregate(self, per_token, mask, inputs):
        """TRL's own normalisation of the run's `loss_type`, in TRL's order of operations."""
        training = self.model.training
        normalizer = self.current_gradient_accumulation_steps if training else 1.0
        if self.loss_type == "grpo":
            return ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean() / normalizer
        if self.loss_type == "bnpo":
            return (per_token * mask).sum() / mask.sum().clamp(min=1.0) / normalizer
        if self.loss_type == "dr_grpo":
            return (per_token * mask).sum() / (per_token.size(0) * self.max_completion_length) / normalizer
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if training:
            tokens = tokens * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return (per_token * mask).sum() / tokens

    def _clip_grad_norm(self, model):
        """TRL's gradient clipping; then, where the update would do harm, no gradients: the optimizer leaves weights and
        moments as they are. The norm and the largest ratio are those of all processes, so all decide alike."""
        norm = super()._clip_grad_norm(model)
        self._finish_update()
        ratio, self._update_ratio = self._update_ratio, 0.0
        if norm is None:  # DeepSpeed keeps gradients and their norm to itself: nothing can be skipped
            return norm
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if math.isfinite(size) and ratio <= RATIO_LIMIT:
            self._skipped_in_a_row = 0
            self._row.setdefault("train/skipped", []).append(0.0)
            return norm
        self._skipped_in_a_row += 1
        self._row.setdefault("train/skipped", []).append(1.0)
        what = f"gradient norm {size:.3g}, largest ratio {ratio:.3g}"
        if self.accelerator.is_main_process:
            logger.warning("rollout step %s: update skipped (%s)", self.rollout_step, what)
        if self._skipped_in_a_row >= SKIPS_IN_A_ROW:
            path = self._save_last_inputs()
            raise UserError(
                f"rollout step {self.rollout_step}: {SKIPS_IN_A_ROW} updates in a row had to be skipped (the last: "
                f"{what}); its mini-batch is in {path}; lower the learning rate or tighten the method's bounds"
            )
        model.zero_grad(set_to_none=True)
        return norm

    def _save_last_inputs(self) -> Path:
        from safetensors.torch import save_file

        path = Path(self.args.output_dir) / FAILED_BATCH
        tensors = {name: v.detach().cpu().contiguous() for name, v in self._last_inputs.items() if torch.is_tensor(v)}
        if self.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path)
        return path

    def take_row(self) -> dict[str, float]:
        """The finished rollout step's measurements: means over its updates (ratio_max: the maximum). Empties them.

        `train/skipped` is the share of its updates that were skipped; their values, where not finite, count nowhere.
        Losses that no optimizer step has followed count as one more update.
        """
        self._finish_update()
        finite = {name: [v for v in values if math.isfinite(v)] for name, values in self._row.items()}
        row = {name: max(v) if name == "policy/ratio_max" else sum(v) / len(v) for name, v in finite.items() if v}
        self._row = {}
        return row

    # Checkpoints: a folder that is being written never has a checkpoint's name.

    def _get_output_dir(self, trial):
        base = super()._get_output_dir(trial)
        return str(Path(base) / ".writing") if getattr(self, "_writing", False) else base

    def create_model_card(self, *args, **kwargs):
        """No README inside training state."""

    def _save_checkpoint(self, model, trial):
        self._writing = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing = False
        self.accelerator.wait_for_everyone()  # every process may have written a part
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            aside = Path(self.args.output_dir) / ".writing" / name
            state = {"rollout_step": self.rollout_step, "method": self.method.state_dict()}
            (aside / STATE_FILE).write_text(json.dumps(state))
            if self.state.best_model_checkpoint == str(aside):  # the place it is about to be renamed from
                self.state.best_model_checkpoint = str(Path(self.args.output_dir) / name)
                self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
            seal(aside, Path(self.args.output_dir) / name)
            # TRL has looked for older checkpoints where this one was written; they are here.
            rotate_checkpoints(
                self.args.output_dir, self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
            )
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            if self.state.global_step % self.updates_per_rollout:
                raise ValueError(
                    f"{checkpoint}: {self.state.global_step} updates lie inside a rollout batch of "
                    f"{self.updates_per_rollout}; resume from a multiple, and set save_steps to one"
                )
            path = Path(checkpoint) / STATE_FILE
            if not path.exists():
                raise ValueError(f"{checkpoint}: no {STATE_FILE} in it; expected a checkpoint of DynClipTrainer")
            self._restored_state = json.loads(path.read_text())["method"]
            self._method = None


def refuse_overlapping_options(trainer: GRPOTrainer) -> None:
    """TRL options that would change the loss behind a method's back are errors, each with what to use instead."""
    conflicts = {
        f"loss_type={trainer.loss_type!r}: expected one of {SUPPORTED_LOSS_TYPES}": trainer.loss_type
        not in SUPPORTED_LOSS_TYPES,
        "importance_sampling_level='sequence' is a method of its own": trainer.importance_sampling_level != "token",
        "beta (KL penalty)": trainer.beta != 0.0,
        "top_entropy_quantile < 1": trainer.top_entropy_quantile < 1.0,
        "entropy_coef or use_adaptive_entropy": trainer._entropy_bonus_enabled,
        "off_policy_mask_threshold": trainer.off_policy_mask_threshold is not None,
        "router auxiliary loss": trainer.aux_loss_enabled,
        "epsilon or epsilon_high (dynclip_options has the bounds)": (trainer.epsilon_low, trainer.epsilon_high)
        != (0.2, 0.2),
        "delta <= 1 (a dual clip of r beyond 1)": trainer.args.delta is not None and trainer.args.delta <= 1,
        "a vision-language model (only token ids reach the loss)": trainer._is_vlm,
    }
    for name, conflict in conflicts.items():
        if conflict:
            raise ValueError(f"DynClipTrainer does not take {name}: the loss is the dynclip method's alone")


def refuse_rescaled_logits(chosen: Method, config) -> None:
    """Methods that need full logits get them from hidden states and output head: nothing may rescale them after it."""
    for name in LOGIT_SCALES if chosen.spec.reduction else ():
        if getattr(config.get_text_config(), name, None) not in (None, 1.0):
            raise ValueError(
                f"method {chosen.name!r} needs full logits, which this model changes after its output head "
                f"(config.{name}): expected a model without it"
            )
