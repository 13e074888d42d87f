"""GPUs by lock: real processes on a made-up machine never hold the same one, and what a killed one held is free."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dynclip.runtime import hardware, locks
from dynclip.runtime.errors import UserError

FOUR = tuple(hardware.Gpu("H100", 80.0, True, f"GPU-{letter}") for letter in "abcd")

# Takes GPUs, marks each with an exclusively created file while it has them, and holds them until its input ends.
HOLDER = """
import json, os, sys
from pathlib import Path
from dynclip.runtime import locks as gpus, hardware
count, total, folder, rounds = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
machine = [hardware.Gpu("H100", 80.0, True, f"GPU-{letter}") for letter in "abcd"[:total]]
say = lambda line: print(json.dumps(["says", line]), flush=True)
for _ in range(rounds):
    with gpus.take(count, machine, folder / "locks", say, poll_s=0.01) as taken:
        for name in taken.split(","):
            os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL))
        print(json.dumps(["took", taken]), flush=True)
        if rounds == 1:
            sys.stdin.read()
        for name in taken.split(","):
            os.unlink(folder / name)
"""


def start(count: int, total: int, folder: Path, rounds: int = 1) -> subprocess.Popen:
    words = [sys.executable, "-c", HOLDER, str(count), str(total), str(folder), str(rounds)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen) -> list[str]:
    return json.loads(process.stdout.readline())


def finish(process: subprocess.Popen) -> str:
    """Let a process go on to its end; the rest of what it printed."""
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return rest


def test_two_jobs_get_different_gpus_and_a_third_waits_until_one_ends(tmp_path):
    first, second = start(1, 2, tmp_path), start(1, 2, tmp_path)
    taken = {heard(first)[1], heard(second)[1]}
    assert taken == {"GPU-a", "GPU-b"}
    third = start(1, 2, tmp_path)
    kind, line = heard(third)
    assert kind == "says" and "waiting for 1 of 2 GPUs: 0 free now" in line and str(tmp_path) in line
    finish(first)
    assert heard(third)[0] == "took"
    finish(second), finish(third)


def test_a_job_that_waits_holds_nothing(tmp_path):
    one = start(1, 2, tmp_path)
    assert heard(one) == ["took", "GPU-a"]
    both = start(2, 2, tmp_path)
    assert "waiting for 2 of 2 GPUs: 1 free now" in heard(both)[1]
    with locks.take(1, FOUR[1:2], tmp_path / "locks") as taken:  # the one that `both` could have kept
        assert taken == "GPU-b"
    finish(one)
    assert heard(both) == ["took", "GPU-a,GPU-b"]
    finish(both)


def test_what_a_killed_job_held_is_free(tmp_path):
    job = start(4, 4, tmp_path)
    assert heard(job)[0] == "took"
    job.send_signal(signal.SIGKILL)
    job.communicate()
    with locks.take(4, FOUR, tmp_path / "locks") as taken:
        assert taken == "GPU-a,GPU-b,GPU-c,GPU-d"


def test_many_jobs_of_different_sizes_never_share_and_all_finish(tmp_path):
    """Each fails if another's mark is on a GPU that it was given."""
    jobs = [start(count, 4, tmp_path, rounds=10) for count in (1, 2, 3, 4)]
    for job in jobs:
        assert finish(job).count("took") == 10


def test_a_failure_inside_gives_the_gpus_back(tmp_path):
    with pytest.raises(RuntimeError), locks.take(2, FOUR, tmp_path):
        raise RuntimeError("out of memory")
    with locks.take(4, FOUR, tmp_path) as taken:
        assert len(taken.split(",")) == 4


def test_no_gpu_asked_for_is_nothing_to_wait_for(tmp_path):
    with locks.take(0, (), tmp_path / "never made") as taken:
        assert taken is None
    assert not (tmp_path / "never made").exists()


def test_more_than_the_machine_has_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused = pytest.raises(UserError, match="8 GPUs needed, 4 visible here; run on")
    with refused as caught, locks.take(8, FOUR, tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_only_the_gpus_that_a_batch_system_gave_are_candidates(tmp_path, monkeypatch):
    cards = "abcd"
    library = types.SimpleNamespace(
        NVMLError=OSError, NVMLError_LibraryNotFound=OSError, NVMLError_DriverNotLoaded=OSError,
        nvmlInit=lambda: None, nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetUUID=lambda card: f"GPU-{card}",
        nvmlDeviceGetName=lambda card: "H100",
        nvmlDeviceGetCudaComputeCapability=lambda card: (9, 0),
        nvmlDeviceGetMemoryInfo=lambda card: types.SimpleNamespace(total=80 * hardware.GIB),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    with locks.take(2, folder=tmp_path) as taken:
        assert taken == "GPU-d,GPU-b"
    refused = pytest.raises(UserError, match=r"3 GPUs needed, 2 visible here \(CUDA_VISIBLE_DEVICES=3,1\)")
    with refused, locks.take(3, folder=tmp_path):
        pass


def test_a_process_uses_what_it_takes_and_a_cpu_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with locks.take(1, FOUR, tmp_path), locks.use(1, FOUR, folder=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with locks.use(8, FOUR[:2], folder=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    with locks.use(1, (), folder=tmp_path):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_locks_are_seen_from_every_checkout_of_a_user_and_private(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    with locks.take(1, FOUR):
        assert (locks.lock_folder() / "gpuGPU-a.lock").exists()
    assert locks.lock_folder().parent == tmp_path and str(os.getuid()) in locks.lock_folder().name
    assert locks.lock_folder().stat().st_mode & 0o077 == 0


def test_a_place_without_locks_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(UserError, match="locks of this machine's GPUs cannot be kept there")
    with refused as caught, locks.take(1, FOUR, tmp_path / "file"):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder, _: folder.chmod(0o777), "other users may write to it: mode 777, expected 700"),
        (lambda folder, patch: patch.setattr(locks.os, "getuid", lambda: 4242), "not to 4242"),
        (
            lambda folder, _: folder.rename(folder.with_name("x")).parent.joinpath("locks").symlink_to("x"),
            "it is a link",
        ),
    ],
)
def test_a_lock_folder_that_another_user_may_have_made_is_refused(harm, words, tmp_path, monkeypatch):
    folder = tmp_path / "locks"
    with locks.take(1, FOUR, folder):
        pass
    harm(folder, monkeypatch)
    with pytest.raises(UserError, match=words) as caught, locks.take(1, FOUR, folder):
        pass
    assert "remove that folder or set TMPDIR" in str(caught.value) and "\n" not in str(caught.value)
