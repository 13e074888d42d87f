"""Usable hardware: control groups in both versions, visible GPUs, folders that cannot be written."""

import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".", 1)).write_text(text + "\n")


def limits(root: Path, *lines: str) -> tuple[float, float]:
    membership = root / "membership"
    membership.write_text("\n".join(lines) + "\n")
    return hardware.cgroup_limits(root, membership)


def test_every_level_of_a_version_2_group_limits(tmp_path):
    group(tmp_path, "job", cpu__max="150000 100000", memory__max="max")
    group(tmp_path, "job/step", cpu__max="max 100000", memory__max="2147483648")
    assert limits(tmp_path, "0::/job/step") == (1.5, 2**31)
    assert limits(tmp_path, "0::/job") == (1.5, math.inf)


def test_a_containers_group_is_the_mounted_root(tmp_path):
    group(tmp_path, ".", cpu__max="200000 100000", memory__max="1024")
    assert limits(tmp_path, "0::/docker/0123") == (2.0, 1024)


def test_version_1_groups(tmp_path):
    group(tmp_path, "cpu,cpuacct/job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    group(tmp_path, "memory/job", memory__limit_in_bytes="4096")
    assert limits(tmp_path, "4:cpu,cpuacct:/job", "3:memory:/job") == (0.5, 4096)
    group(tmp_path, "cpu,cpuacct/job", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert limits(tmp_path, "4:cpu,cpuacct:/job") == (math.inf, math.inf)


def test_no_groups_no_limits(tmp_path):
    assert hardware.cgroup_limits(tmp_path, tmp_path / "missing") == (math.inf, math.inf)


def test_cores_follow_affinity_and_quota():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert hardware.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert hardware.usable_cores() == len(before)
    assert hardware.usable_cores(0.5) == 1


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("GPU-bb", [1]),
        ("1,7,0", [1]),
        ("GPU-", []),  # ambiguous
    ],
)
def test_visible_gpus_follow_cudas_rules(selection, expected):
    assert hardware.visible(["GPU-aa", "GPU-bb", "GPU-cc"], selection) == expected


class NVMLError(Exception):
    pass


class NoLibrary(NVMLError):
    pass


def management_library(init=lambda: None):
    """A stand-in for NVIDIA's library with an H100 and an older card."""
    cards = [("H100", 80, (9, 0)), ("T4", 16, (7, 5))]
    return types.SimpleNamespace(
        NVMLError=NVMLError,
        NVMLError_LibraryNotFound=NoLibrary,
        NVMLError_DriverNotLoaded=NoLibrary,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetUUID=lambda card: f"GPU-{card[0]}",
        nvmlDeviceGetName=lambda card: card[0].encode(),
        nvmlDeviceGetCudaComputeCapability=lambda card: card[2],
        nvmlDeviceGetMemoryInfo=lambda card: types.SimpleNamespace(total=card[1] * hardware.GIB),
        nvmlSystemGetDriverVersion=lambda: b"590.48",
    )


def fail(error):
    raise error


def test_gpus_by_nvidias_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", management_library())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware.gpus() == (hardware.Gpu("H100", 80, True), hardware.Gpu("T4", 16, False))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.gpus() == (hardware.Gpu("T4", 16, False),)


@pytest.mark.parametrize(
    ("library", "asked"),
    [
        (management_library(lambda: fail(NoLibrary())), []),  # no driver: nothing more to ask
        (management_library(lambda: fail(NVMLError())), ["torch"]),
        (None, ["torch"]),  # None in sys.modules: the import fails
    ],
)
def test_torch_is_asked_only_where_nvidias_library_cannot_be(library, asked, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(hardware, "_gpus_by_torch", lambda: calls.append("torch") or ())
    assert hardware.gpus() == () and calls == asked


def test_the_drivers_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", management_library())
    assert hardware.driver() == "590.48"
    for library in (management_library(lambda: fail(NoLibrary())), None):
        monkeypatch.setitem(sys.modules, "pynvml", library)
        assert hardware.driver() is None


def test_detection_is_light_and_sane():
    code = "import sys; from dynclip.runtime import hardware as h; print(h.detect()); sys.exit('torch' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    here = hardware.detect()
    assert 1 <= here.cores <= here.cores_present
    assert 0 < here.memory_gib <= hardware.physical_memory() / hardware.GIB
    assert here.cpu


def test_a_writable_folder_passes_and_keeps_nothing(tmp_path):
    hardware.check_writable(tmp_path / "results" / "laptop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["a file", "/proc/dynclip"])
def test_an_unwritable_folder_is_one_line(where, tmp_path):
    (tmp_path / "a file").write_text("")
    folder = tmp_path / where / "results"  # joining an absolute path gives that path
    with pytest.raises(UserError, match="cannot write results there") as caught:
        hardware.check_writable(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_disk_free_of_a_folder_to_come(tmp_path):
    assert hardware.disk_free(tmp_path / "a" / "b") == pytest.approx(hardware.disk_free(tmp_path), rel=0.1)
