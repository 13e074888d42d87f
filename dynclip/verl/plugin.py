"""Registration in verl: the losses at once, the wrappers when verl imports its workers and trainer."""

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from types import ModuleType

from verl.trainer.ppo.core_algos import register_policy_loss

from dynclip.methods.registry import METHODS
from dynclip.verl.losses import PREFIX, policy_loss, wrap_ppo_loss
from dynclip.verl.trainer import register_sync_trainer


class AfterImport(MetaPathFinder):
    """Runs an action right after a module is imported for the first time, or at once if it is imported already.

    verl loads plugins in every process, while verl itself is half imported. Workers and trainer take seconds to import
    and only some processes use them, so their wrappers wait.
    """

    def __init__(self):
        self.actions: dict[str, Callable[[ModuleType], None]] = {}

    def add(self, name: str, action: Callable[[ModuleType], None]) -> None:
        if name in sys.modules:
            action(sys.modules[name])
        else:
            self.actions[name] = action

    def find_spec(self, fullname, path=None, target=None):
        action = self.actions.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if action else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            action(module)

        spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Register the losses now; wrap verl's workers and add the trainer mode when verl imports them."""
    for name in METHODS:
        register_policy_loss(PREFIX + name)(policy_loss(name))
    after = AfterImport()
    sys.meta_path.insert(0, after)
    after.add("verl.workers.engine_workers", wrap_ppo_loss)
    after.add("verl.trainer.ppo.v1.trainer_sync", register_sync_trainer)
