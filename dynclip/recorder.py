"""What a training writes while it runs: a metrics row per rollout step, the policies to publish, a progress line."""

import json
import os
import resource
import time
from pathlib import Path

from transformers import TrainerCallback

from dynclip import checkpoints
from dynclip.progress import Progress

# TRL's log names -> the metric vocabulary. Means over a rollout step's updates.
NAMES = {
    "reward": "train/reward",
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/lr",
    "num_tokens": "train/tokens",
    "completions/mean_length": "train/completion_length",
    "completions/clipped_ratio": "train/truncated",
}


class Recorder(TrainerCallback):
    """Rows go to <state>/metrics.jsonl, one per rollout step, on disk before the step's checkpoint is made.

    `exports` maps a number of finished rollout steps to the folder that the policy of that moment is sealed in.
    """

    def __init__(self, trainer, state: Path, exports: dict[int, Path], progress: Progress):
        self.trainer, self.state, self.exports, self.progress = trainer, state, exports, progress
        self.logs: dict[str, list[float]] = {}
        self.step_started = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self.step_started = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        # With logging_steps=1 this follows every optimizer step; the closing summary of a run is no step.
        if "train_runtime" in logs:
            return
        for name in NAMES.keys() & logs.keys():
            if logs[name] is not None:
                self.logs.setdefault(name, []).append(logs[name])
        if state.global_step % self.trainer.updates_per_rollout == 0:
            self.finish_step(self.trainer.rollout_step)

    def on_save(self, args, state, control, **kwargs):
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
        with (self.state / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if done in self.exports:
            aside = self.exports[done].with_name(f".{self.exports[done].name}.writing")
            self.trainer.model.save_pretrained(aside)
            self.trainer.processing_class.save_pretrained(aside)
            checkpoints.seal(aside, self.exports[done])
        clipped = row["clip/low_fraction"] + row["clip/high_fraction"]
        self.progress.step(
            done,
            f"reward {row['train/reward']:.2f}  entropy {row['policy/entropy']:.3f} nats  clipped {clipped:.2%}",
        )
        self.logs, self.step_started = {}, time.perf_counter()
