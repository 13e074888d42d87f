"""Restart a training after memory ran out or a worker died; how it ends on SIGTERM.

Every attempt goes on from the last checkpoint. Its result is that of an undisturbed run; with a smaller micro-batch it
is so up to the rounding of sums.
"""

import gc
import sys
from collections.abc import Callable

from dynclip.runtime.errors import UserError

REQUEUE = 75  # exit status of a training that was stopped and can be resumed (EX_TEMPFAIL of sysexits.h)
STOP_FILE = "stop"  # in a training's state: finish the rollout step, write a checkpoint, end
FAILURE = "failure.json"  # in a training's state: kind and message of a worker's failure


class Preempted(Exception):
    """Stopped by SIGTERM after writing a checkpoint. A batch system should queue the same command again."""


class OutOfMemory(Exception):
    """A worker process ran out of memory."""


class WorkerDied(Exception):
    """A worker process or its sampling engine died without an error message of its own."""


def with_recovery(
    attempt: Callable[[int | None], None], micro_batch: int, log: Callable[[str], None]
) -> dict[str, int | None]:
    """Call `attempt(micro_batch)` until it returns: after out of memory with half the micro-batch (the effective batch
    stays), after a worker's death once again.

    The first attempt gets None, which stands for the execution's own micro-batch; `micro_batch` is its size. Returns
    the micro-batch that fitted (None: the execution's own) and the number of restarts. Raises UserError when no smaller
    micro-batch and no restart is left.
    """
    size, deaths, restarts = None, 0, 0
    while True:
        try:
            attempt(size)
            return {"micro_batch": size, "restarts": restarts}
        except Exception as error:
            if ran_out_of_memory(error):
                failed_size = size or micro_batch
                if failed_size == 1:
                    raise UserError(
                        "out of memory with one completion at a time; use a larger GPU, more GPUs with sharding=fsdp2, "
                        f"or a smaller scale ({first_line(error)})"
                    ) from error
                size = failed_size // 2
                cause = first_line(error)
                log(f"out of memory: micro-batch {failed_size} -> {size}; the effective batch stays ({cause})")
            elif isinstance(error, WorkerDied):
                deaths += 1
                if deaths > 1:
                    raise UserError(f"a worker died twice; see the log above ({first_line(error)})") from error
                log(f"{first_line(error)}: restarting once from the last checkpoint")
            else:
                raise
            restarts += 1
        release_memory()


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or the host, in this process or a worker."""
    if isinstance(error, OutOfMemory | MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_memory() -> None:
    """Free the memory of a failed attempt."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
