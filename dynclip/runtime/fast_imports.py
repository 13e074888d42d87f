"""Faster imports for processes that train or sample with transformers from local files, and for those that plan."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType

# Packages that TRL and transformers import if they are installed, and that such a process does not use. Their import
# takes longer than the first ten steps of a short run, so this process treats them as absent.
UNUSED = ("vllm", "mlflow", "sklearn", "wandb", "trackio")


def skip_unused(except_for: tuple[str, ...] = ()) -> None:
    """Skip unused imports, hub requests and progress bars. Call it before importing transformers or trl.

    `except_for`: packages of UNUSED that this process uses. Packages that are already imported stay.
    """
    for package in UNUSED:
        if package not in except_for:
            sys.modules.setdefault(package, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@contextmanager
def torch_later() -> Iterator[None]:
    """Modules that are imported under it import torch when they first use it; as an annotation it is not used.

    The registry names its functions, and planning calls none of them; torch takes a second to import.
    """
    if "torch" in sys.modules:
        yield
        return
    later = {name: _Later(name) for name in ("torch", "torch.utils", "torch.utils.checkpoint")}
    sys.modules.update(later)
    try:
        yield
    finally:
        for name, module in later.items():
            module.__dict__["_waits"] = False
            del sys.modules[name]


class _Tensor:
    """What annotations hold instead of torch.Tensor."""


class _Later(ModuleType):
    """A module whose attributes are placeholders under `torch_later`, and after it those of the module itself."""

    __path__ = ()
    _waits = True

    def __getattr__(self, name: str):
        if not self._waits:
            return getattr(import_module(self.__name__), name)
        if name.startswith("__"):
            raise AttributeError(name)
        return _Tensor if name == "Tensor" else partial(_call, self.__name__, name)


def _call(module: str, name: str, *given, **named):
    return getattr(import_module(module), name)(*given, **named)
