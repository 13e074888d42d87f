"""File locks: who waits says for which lock, for whom and since when; a dead process holds none."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dynclip.runtime import locks
from dynclip.runtime.errors import UserError

HOLD = """
import os, sys, time
from pathlib import Path
from dynclip.runtime.locks import hold
with hold(Path(sys.argv[1]), "the test"):
    child = os.fork() if "fork" in sys.argv else None
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child or 0, flush=True)
    sys.stdin.read()
"""


def holding(lock, *words):
    """(process that holds `lock`, the process that it forked or 0)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def test_a_free_lock_is_taken_without_a_word_and_names_its_holder(tmp_path):
    said, lock = [], tmp_path / "new" / "lock"
    for _ in range(2):
        with locks.hold(lock, "x", said.append):
            assert json.loads(lock.read_text())["process"] == os.getpid()
            assert locks.acquire(lock) is None
    assert said == []


def test_who_waits_says_for_whom_and_again_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.0)
    monkeypatch.setattr(locks, "REMINDER_S", 0.2)
    lock, said = tmp_path / "a lock", []
    other, _ = holding(lock, "two words")

    def log(text):
        said.append(text)
        if len(said) == 3:
            other.communicate(timeout=60)

    with locks.hold(lock, "the training of x", log):
        assert json.loads(lock.read_text())["process"] == os.getpid()
    assert len(said) == 3 and len(set(said)) == 1 and "\n" not in said[0]
    assert said[0].startswith(f"waiting for the training of x: {lock} is held by process {other.pid} on ")
    assert " since 20" in said[0] and "'two words'" in said[0] and said[0].endswith("this process goes on when it ends")


def test_what_a_killed_process_held_is_free(tmp_path):
    other, _ = holding(tmp_path / "lock")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    said = []
    with locks.hold(tmp_path / "lock", "x", said.append):
        assert said == []


def test_a_lock_that_a_dead_process_left_to_its_child_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.0)
    other, child = holding(tmp_path / "lock", "fork")
    other.send_signal(signal.SIGKILL)
    other.wait()
    said = []

    def log(text):
        said.append(text)
        os.kill(child, signal.SIGKILL)

    with locks.hold(tmp_path / "lock", "x", log):
        assert "it has ended, but a process that it started has not, and holds the lock" in said[0]


def test_a_lock_file_that_is_deleted_while_it_is_waited_for_locks_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.0)
    other, _ = holding(tmp_path / "lock")

    def log(_):
        (tmp_path / "lock").unlink()

    with locks.hold(tmp_path / "lock", "x", log):
        assert (tmp_path / "lock").exists() and locks.acquire(tmp_path / "lock") is None
    other.communicate(timeout=60)


def test_the_holder_of_another_program_s_lock_is_named_by_the_kernel(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / "lock"):
        assert f"is held by process {os.getpid()}: " in locks.holder(tmp_path / "lock")
    assert locks.holder(tmp_path / "lock").endswith("is held by another process")


def test_a_disk_without_locks_is_one_line(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    with pytest.raises(UserError, match=r"lock: cannot be locked \(No locks available\); use a folder on a disk"):
        locks.acquire(tmp_path / "lock")
