"""Updates that would do harm are skipped and counted; after three in a row the run stops."""

import logging
import math
from pathlib import Path

import torch
from safetensors.torch import save

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic

FAILED_BATCH = "failed_batch.safetensors"  # in the output folder: the mini-batch of a run that had to stop
RATIO_LIMIT = 1e4  # of a token with A ≠ 0 that is not clipped: beyond it, it outweighs its whole batch
SKIPS_IN_A_ROW = 3
logger = logging.getLogger(__name__)


class SkippedUpdates:
    """Mixin before `GRPOTrainer`: no update where the gradient is not finite, or a live ratio exceeds RATIO_LIMIT.

    A ratio is live where its token has an advantage and is not clipped (`LossOutput.live_ratio`).

    The trainer has `rollout_step`, `row` (a `MetricRow`) and `last_inputs`, the mini-batch of the last loss.
    """

    _skipped_in_a_row = 0

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        # Norm and ratio are those of all processes, so that all processes decide alike.
        ratio = self.row.finish_update()
        if norm is None:  # DeepSpeed keeps gradients and their norm to itself: nothing can be skipped
            return norm
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        skipped = not math.isfinite(size) or ratio > RATIO_LIMIT
        self.row.put_skipped(skipped)
        if not skipped:
            self._skipped_in_a_row = 0
            return norm
        self._skipped_in_a_row += 1
        what = f"gradient norm {size:.3g}, largest live ratio {ratio:.3g}"
        if self.accelerator.is_main_process:
            logger.warning("rollout step %s: update skipped (%s)", self.rollout_step, what)
        if self._skipped_in_a_row >= SKIPS_IN_A_ROW:
            path = self._save_last_inputs()
            raise UserError(
                f"rollout step {self.rollout_step}: {SKIPS_IN_A_ROW} updates in a row had to be skipped (the last: "
                f"{what}); its mini-batch is in {path}; lower the learning rate or tighten the method's bounds"
            )
        model.zero_grad(set_to_none=True)  # without gradients the optimizer leaves weights and moments alone
        return norm

    def _save_last_inputs(self) -> Path:
        path = Path(self.args.output_dir) / FAILED_BATCH
        tensors = {name: v.detach().cpu().contiguous() for name, v in self.last_inputs.items() if torch.is_tensor(v)}
        if self.accelerator.is_main_process:
            write_atomic(path, save(tensors))
        return path
