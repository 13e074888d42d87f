"""Deletes verl's checkpoints, except those that are evaluated and the newest two, from which a run resumes.

A checkpoint of a 7B model, float32 weights with both moments of AdamW, takes about 90 GB, and verl itself keeps all
or the newest. verl loads this as `trainer.checkpoint_callback_class`. Nothing of verl is imported.
"""

import shutil
from pathlib import Path
from typing import Any

RESUMABLE = 2  # the newest one may be incomplete


class KeepEvaluated:
    """verl 0.9.1's checkpoint callback, on the driver; `trainer.dynclip_keep` of `config` lists the evaluated steps."""

    def __init__(self, config: Any = None):
        self.steps = set(config.trainer.dynclip_keep)

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **_: Any) -> None:
        """Delete the checkpoints beside `checkpoint_dir` that no evaluation and no resumption needs."""
        folder = Path(checkpoint_dir).parent
        saved = sorted(int(path.name.rpartition("_")[2]) for path in folder.glob("global_step_*"))
        for step in saved[:-RESUMABLE]:
            if step not in self.steps:
                shutil.rmtree(folder / f"global_step_{step}")
