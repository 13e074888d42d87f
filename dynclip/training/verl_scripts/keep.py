"""Which of verl's checkpoints stay on disk: those that are evaluated, and the newest two to go on from.

One of a 7B model, float32 weights with both moments of AdamW, takes about 90 GB, and verl keeps either all or the
newest. verl loads this as `trainer.checkpoint_callback_class`; nothing of verl is imported.
"""

import shutil
from pathlib import Path
from typing import Any

RESUMABLE = 2  # the newest may be cut short: what dynclip.verl adds to it is written last


class KeepEvaluated:
    """verl 0.9.1's checkpoint callback, on the driver; `trainer.dynclip_keep` of `config` lists the evaluated steps."""

    def __init__(self, config: Any = None):
        self.steps = set(config.trainer.dynclip_keep)

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **_: Any) -> None:
        """Delete the checkpoints beside `checkpoint_dir` that nobody needs any more."""
        place = Path(checkpoint_dir).parent
        saved = sorted(int(path.name.rpartition("_")[2]) for path in place.glob("global_step_*"))
        for step in saved[:-RESUMABLE]:
            if step not in self.steps:
                shutil.rmtree(place / f"global_step_{step}")
