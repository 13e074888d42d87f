"""Settings of the process that samples: memory, random state, standard error."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees.

    By default glibc returns each large block to the system. The growing cache of keys and values is then paged in again
    at every token, which takes half of the time of long responses.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library without this setting
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def random_state(device) -> bytes:
    """torch's random state on `device`."""
    import torch

    state = torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)
    return state.numpy().tobytes()


def set_random_state(state: bytes, device) -> None:
    """Set the random state to one that `random_state` returned."""
    import torch

    tensor = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    if device.type == "cpu":
        torch.set_rng_state(tensor)
    else:
        torch.cuda.set_rng_state(tensor, device)


@contextmanager
def quiet() -> Iterator[None]:
    """Discard standard error, also of compiled code, while vLLM starts. Errors are still raised as exceptions.

    Has no effect where VLLM_LOGGING_LEVEL is set.
    """
    if "VLLM_LOGGING_LEVEL" in os.environ:
        yield
        return
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        del os.environ["VLLM_LOGGING_LEVEL"]
