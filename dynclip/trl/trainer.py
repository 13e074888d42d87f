"""GRPO with a dynclip method inside TRL 1.16, as a diff from TRL's `GRPOTrainer`.

1) `_compute_loss` is replaced: the same forward pass, the method's per-token loss, then TRL's own aggregation. With
   method "grpo" the loss and its gradients equal TRL's bit for bit (tests/peers/test_trl.py).
2) The sampling policy's entropy is recorded for the whole rollout batch, in a forward pass that TRL makes anyway. The
   method's controller observes it, and the method decides once per rollout batch what it decides there.
3) A rollout is seeded by (seed, step, rank), so that runs of different methods share their random numbers.
4) Full logits, for methods that need them, are computed from hidden states and the output head, in chunks of tokens.
5) Checkpoints are atomic (`checkpoints`), harmful updates are skipped (`skipping`), measurements are kept (`metrics`).

A *step* is a rollout batch: k = optimizer steps // updates per rollout. The schedules count these steps.
"""

import math
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from trl import GRPOTrainer

from dynclip.methods.controllers import Hysteresis
from dynclip.methods.objective import Method
from dynclip.methods.registry import method
from dynclip.methods.types import TokenBatch
from dynclip.methods.vocabulary import reduce_logits
from dynclip.runtime.seeds import derive_seed
from dynclip.trl.checkpoints import AtomicCheckpoints
from dynclip.trl.metrics import MetricRow
from dynclip.trl.settings import (
    drop_generation_defaults,
    refuse_overlapping_options,
    refuse_rescaled_logits,
    refuse_split_groups,
    slices_and_updates,
)
from dynclip.trl.skipping import SkippedUpdates
from dynclip.trl.vllm_cpu import engine_options, sync_by_reloading


class DynClipTrainer(AtomicCheckpoints, SkippedUpdates, GRPOTrainer):
    """A `trl.GRPOTrainer` that trains with a dynclip method.

    It takes GRPOTrainer's arguments, and three more. `dynclip_method` is a name of `dynclip.METHODS` or a `MethodSpec`.
    `dynclip_options` are the method's options. `allow_on_policy` permits one update per rollout batch, where every
    importance ratio is 1 and clipping cannot act. TRL's `delta` is the dual clip c, for every method that has one.

    Raises ValueError for an unknown method or option, and for settings that would change the loss beside the method.
    """

    def __init__(self, *args, dynclip_method="grpo", dynclip_options=None, allow_on_policy=False, **kwargs):
        given = kwargs.get("args")
        on_cpu = not torch.cuda.is_available() or getattr(given, "use_cpu", False)
        with engine_options(on_cpu, getattr(given, "bf16", False)):
            super().__init__(*args, **kwargs)
        if self.use_vllm and self.vllm_mode == "colocate" and on_cpu:
            self.vllm_generation.sync_weights = partial(sync_by_reloading, self.vllm_generation)
        self._slices, self.updates_per_rollout = slices_and_updates(self, allow_on_policy)
        refuse_overlapping_options(self)
        drop_generation_defaults(self)
        self._build_method = partial(method, dynclip_method, **(dynclip_options or {}))
        # A wrong name or option must fail before training starts.
        chosen = self._build_method(1)
        refuse_rescaled_logits(chosen, self.model.config)
        completions = self.args.per_device_train_batch_size * self.args.steps_per_generation
        refuse_split_groups(chosen, completions, self.num_generations)
        self._method: Method | None = None
        self._restored_state: dict | None = None
        # Of the last pass without gradient: log-probabilities, entropies and reductions, each (B, T).
        self._sampling_pass: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None
        self._reduced: list[torch.Tensor] = []  # of the pass that runs: the method's reduction of full logits
        self._success: torch.Tensor | None = None  # (completions of all processes,) mean reward of the group
        self.row = MetricRow(self._metrics["train"])
        self.last_inputs: dict[str, torch.Tensor] = {}

    @property
    def method(self) -> Method:
        """The run's method, for the number of steps that is known; before training starts (evaluation) that is 1."""
        total = max(1, math.ceil(self.state.max_steps / self.updates_per_rollout))
        if self._method is None or self._method.total_steps != total:
            self._method = self._build_method(total)
            if self._restored_state is not None:
                self._method.load_state_dict(self._restored_state)
        return self._method

    def restore(self, state: dict) -> None:
        """Go on with the controller's state of a checkpoint."""
        self._restored_state, self._method = state, None

    @property
    def rollout_step(self) -> int:
        """k: the number of rollout batches whose updates are complete."""
        return self.state.global_step // self.updates_per_rollout

    def take_row(self) -> dict[str, float]:
        """The finished rollout step's measurements, see `MetricRow.take`; `train/skipped` is the share of its updates
        that were skipped."""
        return self.row.take()

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, compute_entropy=False, **kwargs
    ):
        # TRL's pass for old log-probabilities runs without gradient, over the whole rollout batch: its entropies are
        # those of the policy that sampled.
        sampling = not torch.is_grad_enabled()
        with self._collect_reductions(logits_to_keep):
            output = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args,
                compute_entropy=compute_entropy or sampling, **kwargs,
            )  # fmt: skip
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
        torch.manual_seed((self.args.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index)
        self._sampling_pass = None
        output = super()._generate_and_score_completions(inputs)
        if self._sampling_pass is None:  # TRL skips that pass in on-policy runs; the controller needs its entropies
            self._score_sampling_policy(output)
        old_logprob, old_entropy, reduced = self._sampling_pass
        mask = output["completion_mask"]
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
            group=torch.arange(len(mask), device=mask.device) // self.num_generations,
        )
        prepared = self.method.prepare(rollout, step, total=lambda value: self.accelerator.reduce(value, "sum"))
        output["advantages"] = prepared.advantages
        if prepared.weight is not None:
            output["weight"] = prepared.weight
        self.row = MetricRow(self._metrics["train"])
        if entropy is not None:
            self.row.put("policy/entropy", entropy)
        self.row.put("time/rollout", time.perf_counter() - start)
        if self.method.controller:  # its signal is a switch between two sides, or a quantity
            name = "clip/state" if isinstance(self.method.controller, Hysteresis) else "control/signal"
            self.row.put(name, float(self.method.controller.signal))
        return output

    def _own_success(self, mask: torch.Tensor) -> torch.Tensor:
        """This process's part of the groups' mean rewards."""
        rank = self.accelerator.process_index
        return self._success[rank * len(mask) : (rank + 1) * len(mask)].to(mask.device)

    def _mean(self, value: torch.Tensor, mask: torch.Tensor) -> float | None:
        """The mean over counted tokens of all ranks; None if there are none, as where TRL masks what is cut off."""
        totals = self.accelerator.reduce(torch.stack([(value * mask).sum(), mask.sum().float()]), "sum")
        return (totals[0] / totals[1]).item() if totals[1] else None

    def _score_sampling_policy(self, batch) -> None:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(
                self.model, ids, attention, batch["completion_ids"].size(1), self.args.per_device_train_batch_size
            )

    def _compute_loss(self, model, inputs):
        self.last_inputs = inputs
        completion_ids, mask = inputs["completion_ids"], inputs["completion_mask"]
        input_ids = torch.cat([inputs["prompt_ids"], completion_ids], dim=1)
        attention_mask = torch.cat([inputs["prompt_mask"], mask], dim=1)
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        logprob, entropy, _ = self._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, completion_ids.size(1), compute_entropy=True
        )
        old_logprob = inputs.get("old_per_token_logps")
        needs, rank = self.method.needs, self.accelerator.process_index
        batch = TokenBatch(
            logprob=logprob,
            old_logprob=logprob.detach() if old_logprob is None else old_logprob,
            advantages=inputs["advantages"],
            mask=mask,
            entropy=entropy if "entropy_gradient" in needs else entropy.detach(),
            old_entropy=inputs.get("old_entropy"),
            clamped_entropy=torch.cat(self._reduced) if "clamped_entropy" in needs else None,
            success=inputs.get("success"),
            draw_seed=derive_seed(self.args.seed, self.rollout_step, rank, self._step % self._slices),
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
            self.row.add_micro_batch(output, mask, self.accelerator.gather)
        self._metrics["train" if self.model.training else "eval"]["entropy"].append(
            ((entropy.detach() * mask).sum() / mask.sum().clamp(min=1)).item()
        )
        return self._aggregate(output.per_token, mask, inputs)

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
