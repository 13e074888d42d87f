"""File locks on GPUs, so that two jobs of a user on one machine do not share a GPU.

Snakemake counts GPUs but does not assign them. Each GPU has a lock file, named by its UUID, in a folder of this user in
the temporary directory, which all checkouts and workflows of the user share. The kernel releases a lock when its
process ends. Jobs of other users are not seen.
"""

import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError

REMEDY = "remove that folder or set TMPDIR to another place, the same one for all jobs"
REMINDER_S = 300.0  # between two messages of a waiting job


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def take(
    count: int,
    gpus: Sequence[hardware.Gpu] | None = None,
    folder: Path | None = None,
    log: Callable[[str], None] = _to_standard_error,
    poll_s: float = 2.0,
) -> Iterator[str | None]:
    """Lock `count` free GPUs and yield their UUIDs as a value for CUDA_VISIBLE_DEVICES; None for a count of 0.

    `gpus` are the candidates, by default those that CUDA_VISIBLE_DEVICES leaves visible (a batch system sets it). While
    too few are free it waits, holds none, and reports through `say`. Raises UserError if there are fewer candidates
    than `count`, or if the lock files cannot be written.
    """
    if count == 0:
        yield None
        return
    candidates = hardware.gpus() if gpus is None else gpus
    if len(candidates) < count:
        selection = os.environ.get("CUDA_VISIBLE_DEVICES")
        limit = "" if selection is None else f" (CUDA_VISIBLE_DEVICES={selection})"
        raise UserError(
            f"{count} GPU{'s' if count > 1 else ''} needed, {len(candidates)} visible here{limit}; run on a machine "
            "that has them, or take a scale that needs fewer: dynclip plan"
        )
    with _hold(count, [gpu.uuid for gpu in candidates], folder or lock_folder(), log, poll_s) as held:
        yield ",".join(held)


@contextmanager
def use(most: int, gpus: Sequence[hardware.Gpu] | None = None, **options) -> Iterator[None]:
    """Lock up to `most` GPUs for this process and set CUDA_VISIBLE_DEVICES to them; none on a machine without GPUs.

    Enter it before CUDA is initialised, which reads the variable once. `options`: those of `take`.
    """
    candidates = () if most == 0 else hardware.gpus() if gpus is None else gpus
    with take(min(most, len(candidates)), candidates, **options) as taken:
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        if taken is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = taken
        try:
            yield
        finally:
            if taken is not None and before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            elif taken is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def lock_folder() -> Path:
    """The folder of this user's GPU locks on this machine."""
    return Path(tempfile.gettempdir()) / f"dynclip-{os.getuid()}"


@contextmanager
def _hold(count: int, candidates: list[str], folder: Path, log, poll_s: float) -> Iterator[list[str]]:
    with ExitStack() as locks:
        held, said = _lock_free(count, candidates, folder, locks), 0.0
        while len(held) < count:
            if not said or time.monotonic() - said >= REMINDER_S:
                said = time.monotonic()
                log(
                    f"waiting for {count} of {len(candidates)} GPUs: {len(held)} free now, the others are held by jobs "
                    f"of this user (locks: {folder})"
                )
            time.sleep(poll_s)
            held = _lock_free(count, candidates, folder, locks)
        yield held


def _lock_free(count: int, candidates: list[str], folder: Path, locks: ExitStack) -> list[str]:
    """Lock the first `count` free candidates until `locks` closes, and return the candidates that were free.

    If fewer are free, none stays locked: two jobs that each hold a part of what both need would wait forever.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(folder)
        with ExitStack() as attempt, FileLock(folder / "choosing.lock"):
            held = []
            for name in candidates:
                with suppress(Timeout):
                    attempt.enter_context(FileLock(folder / f"gpu{name}.lock").acquire(timeout=0))
                    held.append(name)
                if len(held) == count:
                    locks.push(attempt.pop_all())
                    break
            return held
    except OSError as error:
        raise UserError(
            f"{folder}: the locks of this machine's GPUs cannot be kept there ({error.strerror}); {REMEDY}"
        ) from error


def _require_own(folder: Path) -> None:
    """Raise UserError unless `folder` is this user's own: in the temporary directory anybody can make it first."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        problem = "it is a link"
    elif found.st_uid != os.getuid():
        problem = f"it belongs to user {found.st_uid}, not to {os.getuid()}"
    elif found.st_mode & 0o022:
        problem = f"other users may write to it: mode {stat.S_IMODE(found.st_mode):o}, expected 700"
    else:
        return
    raise UserError(f"{folder}: the locks of this machine's GPUs cannot be kept there ({problem}); {REMEDY}")
