"""Faster imports for processes that train or sample with transformers from local files."""

import os
import sys

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
