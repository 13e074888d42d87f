"""Cores, memory, GPUs and disk that this process may use.

Containers and batch systems give a process less than the machine has: each number is the smallest of the machine's, the
affinity mask's and the control groups' limits. Importing this module imports no torch.
"""

import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dynclip.runtime.errors import UserError

GIB = 2**30
VLLM_CPU_CACHE_GIB = 1.0  # KV cache of vLLM inside a training on a CPU: thousands of tokens of a small model


@dataclass(frozen=True)
class Gpu:
    """One visible GPU."""

    name: str
    memory_gib: float
    bf16: bool  # bfloat16 matrix units: compute capability 8.0 and up
    uuid: str = field(default="", compare=False)  # does not depend on CUDA_VISIBLE_DEVICES


@dataclass(frozen=True)
class Hardware:
    """One machine as this process sees it."""

    cpu: str
    cores: int  # usable at once, by affinity and control-group quota
    cores_present: int
    memory_gib: float  # usable, by physical memory and control-group limit
    cpu_bf16: bool  # bfloat16 instructions; without them float32 is faster
    gpus: tuple[Gpu, ...]


def detect() -> Hardware:
    """This machine, in milliseconds; torch is imported only where NVIDIA's library cannot be asked."""
    quota, limit = cgroup_limits()
    flags = _cpuinfo("flags").split()
    return Hardware(
        cpu=processor(),
        cores=usable_cores(quota),
        cores_present=os.cpu_count() or 1,
        memory_gib=min(physical_memory(), limit) / GIB,
        cpu_bf16="avx512_bf16" in flags or "amx_bf16" in flags,
        gpus=gpus(),
    )


def processor() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def usable_cores(quota: float = math.inf) -> int:
    """Cores that this process may use at once, at least 1; `quota` is the control group's limit in cores."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(allowed, quota)))


def physical_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[float, float]:
    """(cores, bytes of memory) that this process's control groups allow; infinity without a limit.

    Reads version 2 (cpu.max, memory.max) and version 1 (cpu.cfs_quota_us, memory.limit_in_bytes) of the process's group
    and of all its parents, because a parent limits its children. joblib's cpu_count reads the root group alone.
    """
    cores, memory = [math.inf], [math.inf]
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controllers if controllers else root
        own = base / path.lstrip("/")
        # In a container the path may be the host's and not exist; the mounted root is then the group itself.
        for group in [folder for folder in (own, *own.parents) if folder.is_relative_to(base)]:
            period = _number(_read(group / "cpu.cfs_period_us"))
            quota = _read(group / "cpu.cfs_quota_us").strip()
            if quota and period < math.inf and float(quota) > 0:
                cores.append(float(quota) / period)
            words = _read(group / "cpu.max").split()
            if len(words) == 2 and words[0] != "max":
                cores.append(float(words[0]) / float(words[1]))
            memory += [_number(_read(group / name)) for name in ("memory.max", "memory.limit_in_bytes")]
    return min(cores), min(memory)


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible; empty without a driver.

    NVIDIA's management library answers in milliseconds. Where it is missing or fails (some virtual machines), torch is
    asked, whose import takes seconds.
    """
    try:
        import pynvml
    except ImportError:
        return _gpus_by_torch()
    try:
        with _nvml(pynvml):
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            uuids = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
            found = []
            for index in visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES")):
                major, _ = pynvml.nvmlDeviceGetCudaComputeCapability(handles[index])
                memory = pynvml.nvmlDeviceGetMemoryInfo(handles[index]).total / GIB
                found.append(Gpu(_text(pynvml.nvmlDeviceGetName(handles[index])), memory, major >= 8, uuids[index]))
            return tuple(found)
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()
    except pynvml.NVMLError:
        return _gpus_by_torch()


def driver() -> str | None:
    """The NVIDIA driver's version; None without a driver or its management library."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        with _nvml(pynvml):
            return _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def visible(uuids: list[str], selection: str | None) -> list[int]:
    """Indices of the GPUs that a CUDA_VISIBLE_DEVICES value selects, by CUDA's rules: numbers or UUID prefixes, in the
    order given, up to the first entry that is no GPU; None selects all."""
    if selection is None:
        return list(range(len(uuids)))
    chosen = []
    for word in (part.strip() for part in selection.split(",")):
        if word.isdigit() and int(word) < len(uuids):
            chosen.append(int(word))
        else:
            matches = [index for index, name in enumerate(uuids) if word and name.startswith(word)]
            if len(matches) != 1:
                break
            chosen += matches
    return chosen


def disk_free(path: Path) -> int:
    """Bytes free for this user on the disk of `path`, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def check_writable(path: Path) -> None:
    """Write to the folder `path` (or to its nearest ancestor that exists), flush to the disk and remove the file.

    Raises UserError, one line with the folder and the reason. Permission bits are not enough: the superuser has them
    all, and a full or read-only disk fails only when bytes have to reach it.
    """
    folder = existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".dynclip-") as probe:
            probe.write(bytes(2**16))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"{path}: cannot write results there ({error.strerror}); free space, change its permissions "
            "or work in another folder"
        ) from error


def existing(path: Path) -> Path:
    """`path`, or its nearest ancestor that exists."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def _gpus_by_torch() -> tuple[Gpu, ...]:
    try:
        import torch
    except ImportError:
        return ()
    if not torch.cuda.is_available():
        return ()
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(Gpu(each.name, each.total_memory / GIB, each.major >= 8, f"GPU-{each.uuid}") for each in properties)


@contextmanager
def _nvml(pynvml) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(path: Path) -> str:
    """The file's text; empty where there is none or it may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    lines = (line.partition(":") for line in _read(Path("/proc/cpuinfo")).splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def _number(text: str) -> float:
    return float(text) if text.strip().isdigit() else math.inf
