"""What a training survives by itself: memory that runs out, and a process that dies. And how it ends when told to.

A failed attempt is followed by another one from the last checkpoint, so what is computed stays what it would have been;
with a smaller micro-batch up to the rounding of sums.
"""

import gc
import sys
from collections.abc import Callable

from dynclip.runtime.errors import UserError

REQUEUE = 75  # exit status of a training that was told to stop and can go on (EX_TEMPFAIL of sysexits.h)


class Preempted(Exception):
    """Told to stop, with a checkpoint to go on from: a batch system should queue the same command again."""


class OutOfMemory(Exception):
    """A worker process ran out of memory."""


class WorkerDied(Exception):
    """A worker process was killed or its sampling engine died."""


def with_recovery(
    attempt: Callable[[int | None], None], micro_batch: int, say: Callable[[str], None]
) -> dict[str, int | None]:
    """Call `attempt(micro_batch)` until it returns. Out of memory: again with half the micro-batch (the effective batch
    stays). A dead worker: once again.

    The first attempt gets None, the execution's own micro-batch, which is `micro_batch`. Returns the micro-batch that
    sufficed (None: its own) and the number of restarts. Raises UserError when nothing is left to try.
    """
    size, deaths, restarts = None, 0, 0
    while True:
        try:
            attempt(size)
            return {"micro_batch": size, "restarts": restarts}
        except Exception as error:
            if ran_out_of_memory(error):
                now = size or micro_batch
                if now == 1:
                    raise UserError(
                        "out of memory with one completion at a time; use a larger GPU, more GPUs with sharding=fsdp2, "
                        f"or a smaller scale ({first_line(error)})"
                    ) from error
                size = now // 2
                say(f"out of memory: micro-batch {now} -> {size}; the effective batch stays ({first_line(error)})")
            elif isinstance(error, WorkerDied):
                deaths += 1
                if deaths > 1:
                    raise UserError(f"a worker died twice; the log has its last words ({first_line(error)})") from error
                say(f"{first_line(error)}: starting once again from the last checkpoint")
            else:
                raise
            restarts += 1
        release_memory()


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: of a GPU, of the host, or of a worker process."""
    if isinstance(error, OutOfMemory | MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
