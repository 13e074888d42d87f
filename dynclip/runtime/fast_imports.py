"""A quick start for processes that train or sample with transformers and from local files only."""

import os
import sys

# Packages that TRL and transformers import wherever they find them, and that such a process never calls. Marked absent
# in this process alone, they cost nothing; imported, they take longer than a short run's first ten steps.
UNUSED = ("vllm", "mlflow", "sklearn", "wandb", "trackio")


def prepare(keep: tuple[str, ...] = ()) -> None:
    """Call before importing transformers or trl: no needless imports, no hub look-ups, no progress bars of others.

    `keep`: packages of UNUSED that this process does use. Has no effect on packages that are already imported.
    """
    for package in UNUSED:
        if package not in keep:
            sys.modules.setdefault(package, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
