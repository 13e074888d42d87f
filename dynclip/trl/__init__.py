"""dynclip in TRL: `DynClipTrainer` is a `trl.GRPOTrainer` that trains with a method of the registry."""

from dynclip.trl.trainer import DynClipTrainer

__all__ = ["DynClipTrainer"]
