"""Checkpoints of `DynClipTrainer`: a folder gets its final name only when it is complete."""

import json
from functools import cache
from pathlib import Path

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from dynclip.runtime.checkpoints import publish_folder

STATE_FILE = "dynclip.json"  # in each checkpoint: the rollout step and the state of the method's controller
WRITING = ".writing"  # the folder, in the output folder, that checkpoints are written in


class AtomicCheckpoints:
    """Mixin before `GRPOTrainer`: checkpoints are written in another folder, get checksums, and are then renamed.

    The trainer has `rollout_step`, `updates_per_rollout`, `method` and `restore(state)`.
    """

    _writing = False

    def _get_output_dir(self, trial):
        base = super()._get_output_dir(trial)
        return str(Path(base) / WRITING) if self._writing else base

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
            self._publish(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        self.accelerator.wait_for_everyone()

    def _publish(self, target: Path) -> None:
        aside = target.parent / WRITING / target.name
        state = {"rollout_step": self.rollout_step, "method": self.method.state_dict()}
        (aside / STATE_FILE).write_text(json.dumps(state))
        if self.state.best_model_checkpoint == str(aside):  # TRL took down the name before the renaming
            self.state.best_model_checkpoint = str(target)
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
        publish_folder(aside, target)
        # TRL looked for older checkpoints where this one was written, and found none.
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        rotate_checkpoints(self.args.output_dir, limit, best, use_mtime=True)

    def _load_optimizer_and_scheduler(self, checkpoint):
        restore_numbered_cpus()
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self.state.global_step % self.updates_per_rollout:
            raise ValueError(
                f"{checkpoint}: {self.state.global_step} updates lie inside a rollout batch of "
                f"{self.updates_per_rollout}; resume from a multiple, and set save_steps to one"
            )
        path = Path(checkpoint) / STATE_FILE
        if not path.exists():
            raise ValueError(f"{checkpoint}: no {STATE_FILE} in it; expected a checkpoint of DynClipTrainer")
        try:
            method = json.loads(path.read_text())["method"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: damaged; resume from another checkpoint, or train from the start") from None
        self.restore(method)


@cache
def restore_numbered_cpus() -> None:
    """Let torch load tensors to "cpu:0", "cpu:1" and so on.

    Without a GPU, transformers asks each of several processes to load the optimizer's state to such a device, and
    torch knows "cpu" alone.
    """
    torch.serialization.register_package(
        11, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )
