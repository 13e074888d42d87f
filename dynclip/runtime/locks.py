"""File locks that explain themselves: who waits says for which lock, and who holds it.

`hold` locks one file for a job. `take` and `use` lock GPUs, so that two jobs of a user on one machine do not share one:
Snakemake counts GPUs but does not assign them. Each GPU has a lock file, named by its UUID, in a folder of this user in
the temporary directory, which all checkouts and workflows of the user share. Jobs of other users are not seen.

The kernel releases a lock when its process ends, however it ends: a lock file that lies around locks nothing.
"""

import fcntl
import json
import os
import shlex
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError, one_line

REMEDY = "remove that folder or set TMPDIR to another place, the same one for all jobs"
PATIENCE_S = 1.0  # before a waiting job says so
REMINDER_S = 60.0  # between two messages of a waiting job


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def hold(file: Path, what: str, log: Callable[[str], None] = _to_standard_error, poll_s: float = 0.1) -> Iterator[None]:
    """Hold the lock `file`, which is made where it is missing; `what` the lock is for, in the words of a message.

    While another process holds it, this one waits, and says every REMINDER_S seconds who that is. Raises UserError
    where the folder's file system has no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    began, said = time.monotonic(), None
    while (descriptor := acquire(file)) is None:
        now = time.monotonic()
        if now - began >= PATIENCE_S and (said is None or now - said >= REMINDER_S):
            said = now
            log(f"waiting for {what}: {holder(file)}; this process goes on when it ends")
        time.sleep(poll_s)
    try:
        yield
    finally:
        os.close(descriptor)


def acquire(file: Path) -> int | None:
    """Lock `file` and write into it who holds it. Returns the descriptor, whose closing unlocks it; None if it is held.

    Raises UserError where the file system has no locks.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(file).st_ino == os.fstat(descriptor).st_ino:  # else deleted between the opening and the locking
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(descriptor)
        raise UserError(
            f"{file}: cannot be locked ({error.strerror}); use a folder on a disk that has file locks"
        ) from error
    os.close(descriptor)
    return None


def holder(file: Path) -> str:
    """Who holds the lock `file`: as its holder wrote it there, else as this machine's kernel knows it."""
    try:
        found = json.loads(file.read_text(errors="replace"))
        number, host = int(found["process"]), str(found["host"])
        text = f"{file} is held by process {number} on {host} since {found['since']}: {found['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return one_line(f"{file} is held by {_known_to_the_kernel(file) or 'another process'}")
    if host == socket.gethostname() and not _exists(number):
        text += " (it has ended, but a process that it started has not, and holds the lock)"
    return one_line(text)


def _this_process() -> dict:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(sys.argv)[:300],
    }


def _known_to_the_kernel(file: Path) -> str | None:
    """The process of this machine that holds the lock `file`, which another program made; None if Linux names none."""
    with suppress(OSError):
        found = file.stat()
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 25068 fe:00:5211711 0 EOF
            if place in words and "->" not in words:
                command = Path(f"/proc/{words[4]}/cmdline").read_text(errors="replace").split("\0")[:-1]
                return f"process {words[4]}: {shlex.join(command)[:300]}"
    return None


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
    too few are free it waits, holds none, and reports through `log`. Raises UserError if there are fewer candidates
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
                others = "; ".join(holder(_lock_of(folder, name)) for name in candidates if name not in held)
                log(f"waiting for {count} of {len(candidates)} GPUs: {len(held)} free now; {others}")
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
        with ExitStack() as attempt, hold(folder / "choosing.lock", "the choice of GPUs", poll_s=0.01):
            held = []
            for name in candidates:
                if (descriptor := acquire(_lock_of(folder, name))) is not None:
                    attempt.callback(os.close, descriptor)
                    held.append(name)
                if len(held) == count:
                    locks.push(attempt.pop_all())
                    break
            return held
    except OSError as error:
        raise UserError(
            f"{folder}: the locks of this machine's GPUs cannot be kept there ({error.strerror}); {REMEDY}"
        ) from error


def _lock_of(folder: Path, gpu: str) -> Path:
    return folder / f"gpu{gpu}.lock"


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
