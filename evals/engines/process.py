"""Settings of the process that samples: threads, memory, random state, standard error."""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK = 2.0  # seconds between two looks at what other processes do
ENOUGH = 0.6  # share of a core that has to be free for one more thread


class Threads:
    """As many sampling threads as other processes leave cores for, while a job runs.

    The threads of an operation wait for one another. Where a third process holds the core of one of them, all wait for
    the length of a scheduler's turn: on two cores beside one busy process, two threads made 8 tokens a second and one
    thread 168 (SmolLM2-135M, vLLM; docs/evaluation.md has more trials).

    most: threads on an idle machine. usable: cores that this process may use. used: the numbers of threads since the
    last `record`.
    """

    def __init__(self, most: int, usable: int, log: Callable[[str], None] = print, seconds: float = 0.5):
        """Look at the machine for `seconds`, and set torch's number of threads."""
        self.most, self.usable, self.log = most, usable, log
        self.count, self.used, self.rising = most, set(), 0
        self.before = processor_times()
        time.sleep(seconds)
        others = self._others()
        self.count = self._fitting(others)
        if self.count < most:
            self.log(f"other processes use {others:.1f} of {self.before[0]} cores: sampling with {self._text()}")
        self.apply()

    def apply(self) -> None:
        """Set torch's number of threads, which may have been changed elsewhere."""
        import torch

        torch.set_num_threads(self.count)
        self.used.add(self.count)

    def step(self) -> None:
        """Look again if LOOK seconds have passed. Fewer threads at once, more after two looks in a row."""
        if time.monotonic() - self.before[1] < LOOK:
            return
        others = self._others()
        wanted = self._fitting(others)
        self.rising = self.rising + 1 if wanted > self.count else 0
        if wanted < self.count or self.rising > 1:
            self.count, self.rising = wanted, 0
            self.log(f"other processes use {others:.1f} of {self.before[0]} cores: going on with {self._text()}")
            self.apply()

    def record(self) -> dict:
        """The entries `threads` and, where their number has changed since the last call, `repeatable` of guarantees."""
        used, self.used = sorted(self.used), {self.count}
        if len(used) == 1:
            return {"threads": used[0]}
        return {"threads": " or ".join(map(str, used)), "repeatable": False}

    def _others(self) -> float:
        """Cores that other processes have used since the last look."""
        _, then, busy, own = self.before
        self.before = processor_times()
        _, now, busy_now, own_now = self.before
        return max(0.0, ((busy_now - busy) - (own_now - own)) / max(1e-3, now - then))

    def _fitting(self, others: float) -> int:
        free = min(self.usable, self.before[0] - others)
        return max(1, min(self.most, int(free + 1 - ENOUGH)))

    def _text(self) -> str:
        return f"{self.count} thread{'s' * (self.count != 1)}"


def fix_threads(count: int, log: Callable[[str], None] = print) -> None:
    """Set torch's number of threads for a job whose results depend on it, and say so where other processes need cores.

    Such a job does not follow the load: another number of threads adds floats in another order.
    """
    import torch

    torch.set_num_threads(count)
    if count == 1 or torch.cuda.is_available() or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return
    cores, then, busy, own = processor_times()
    time.sleep(0.5)
    _, now, busy_now, own_now = processor_times()
    others = ((busy_now - busy) - (own_now - own)) / max(1e-3, now - then)
    if cores - others < count - 1 + ENOUGH:
        log(
            f"other processes use {others:.1f} of {cores} cores. This job keeps its {count} threads, which decide its "
            "results bit for bit, and can be several times slower than alone"
        )


def processor_times() -> tuple[int, float, float, float]:
    """Cores of the machine, clock, and seconds of a core used by the whole machine and by this process. Cores that a
    virtual machine is denied count as used.
    """
    import psutil

    whole, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = whole.idle + getattr(whole, "iowait", 0.0)
    guests = getattr(whole, "guest", 0.0) + getattr(whole, "guest_nice", 0.0)  # user and nice hold them already
    return psutil.cpu_count() or 1, time.monotonic(), sum(whole) - guests - idle, own.user + own.system


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
