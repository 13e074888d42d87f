"""Trainer callbacks: metrics row, exported policy and progress line per rollout step, and the early end on SIGTERM."""

import json
import math
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback

from dynclip.runtime import checkpoints
from dynclip.runtime.progress import Progress

# TRL's log name -> our metric name. The row holds the mean over a rollout step's updates.
NAMES = {
    "reward": "train/reward",
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/lr",
    "num_tokens": "train/tokens",
    "completions/mean_length": "train/completion_length",
    "completions/clipped_ratio": "train/truncated",
    # How far the sampling engine's log-probabilities are from the trainer's, |Δ| in nats: mean and maximum over tokens.
    "sampling/sampling_logp_difference/mean": "sampler/logprob_difference_mean",
    "sampling/sampling_logp_difference/max": "sampler/logprob_difference_max",
}


class Recorder(TrainerCallback):
    """Writes one row per rollout step to <state>/metrics.jsonl, before the step's checkpoint is written.

    `exports`: number of finished rollout steps -> folder for the policy of that moment. Only the main process writes.
    Means leave out values that are not finite; they belong to skipped updates.
    """

    def __init__(self, trainer, state: Path, exports: dict[int, Path], progress: Progress):
        self.trainer, self.state, self.exports, self.progress = trainer, state, exports, progress
        self.logs: dict[str, list[float]] = {}
        self.step_started = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self.step_started = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        # logging_steps=1: called after every optimizer step, and once more with the summary of the whole run.
        if "train_runtime" in logs:
            return
        for name in NAMES.keys() & logs.keys():
            if logs[name] is not None and math.isfinite(logs[name]):
                self.logs.setdefault(name, []).append(logs[name])
        if state.global_step % self.trainer.updates_per_rollout == 0:
            self.finish_step(self.trainer.rollout_step)

    def on_save(self, args, state, control, **kwargs):
        if self.trainer.accelerator.is_main_process:
            checkpoints.prune(self.state)

    def finish_step(self, done: int) -> None:
        """Write the row of step `done` − 1 and export the policy if `done` is a published checkpoint."""
        now = time.perf_counter()
        row = {"step": done - 1}
        row |= {NAMES[name]: sum(values) / len(values) for name, values in self.logs.items()}
        row |= self.trainer.take_row()
        row["time/step"] = now - self.step_started
        row["time/update"] = row["time/step"] - row["time/rollout"]
        row["sys/memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if torch.cuda.is_available():
            row["sys/gpu_memory"] = torch.cuda.max_memory_reserved() / 2**30
        if done in self.exports:
            self.export(self.exports[done])
        if not self.trainer.accelerator.is_main_process:
            self.logs, self.step_started = {}, time.perf_counter()
            return
        with (self.state / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        clipped = row["clip/low_fraction"] + row["clip/high_fraction"]
        entropy = row.get("policy/entropy", math.nan)
        self.progress.step(done, f"reward {row['train/reward']:.2f}  entropy {entropy:.3f} nats  clipped {clipped:.2%}")
        self.logs, self.step_started = {}, time.perf_counter()

    def export(self, target: Path) -> None:
        """Write the current policy to folder `target`. Every process must call this: each may hold a shard of it."""
        trainer, aside = self.trainer, target.with_name(f".{target.name}.writing")
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
        if trainer.accelerator.is_main_process:
            model = trainer.accelerator.unwrap_model(trainer.model)
            if weights is not None:  # gathering turns a tied head into a second copy of the embeddings
                weights = {name: value for name, value in weights.items() if name not in model.all_tied_weights_keys}
            model.save_pretrained(aside, state_dict=weights)
            trainer.processing_class.save_pretrained(aside)
            checkpoints.publish_folder(aside, target)
        trainer.accelerator.wait_for_everyone()


class Preemption(TrainerCallback):
    """Ends the training after the rollout step in which `stop_requested` became true, with a checkpoint."""

    def __init__(self, trainer, stop_requested: Callable[[], bool]):
        self.trainer, self.stop_requested = trainer, stop_requested

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.trainer.updates_per_rollout:
            return
        accelerator = self.trainer.accelerator
        requested = torch.tensor(float(self.stop_requested()), device=accelerator.device)
        if accelerator.reduce(requested, "sum").item():  # one request is enough: all processes end at the same step
            control.should_save = control.should_training_stop = True
