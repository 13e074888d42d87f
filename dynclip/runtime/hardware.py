"""What this machine has and what this process may use of it: cores, memory, GPUs, disk.

Containers and batch systems give a process less than the machine has. Numbers here are the usable ones: the
smallest of the machine's, the affinity mask's and the control groups' limits. Importing this module imports
no torch.
"""

import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from dynclip.runtime.errors import UserError

GIB = 2**30
VLLM_CPU_CACHE_GIB = 1.0  # keys and values of vLLM inside a training on a CPU: thousands of tokens of a small model


@dataclass(frozen=True)
class Gpu:
    """One visible GPU."""

    name: str
    memory_gib: float
    bf16: bool  # matrix units for bfloat16: compute capability 8.0 and up
    uuid: str = field(default="", compare=False)  # the same in every process, whatever CUDA_VISIBLE_DEVICES says


@dataclass(frozen=True)
class Hardware:
    """One machine as this process sees it."""

    cpu: str
    cores: int  # usable at once: affinity and control-group quota
    cores_present: int
    memory_gib: float  # usable in all: physical memory and control-group limit
    cpu_bf16: bool  # bfloat16 instructions; without them bfloat16 on a CPU is slower than float32
    gpus: tuple[Gpu, ...]


def detect() -> Hardware:
    """This machine, measured now (milliseconds; no torch unless NVIDIA's library cannot be asked)."""
    quota, limit = cgroup_limits()
    info = _read(Path("/proc/cpuinfo"))
    flags = next((line.split() for line in info.splitlines() if line.startswith("flags")), [])
    name = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "CPU")
    return Hardware(
        cpu=name,
        cores=usable_cores(quota),
        cores_present=os.cpu_count() or 1,
        memory_gib=min(physical_memory(), limit) / GIB,
        cpu_bf16="avx512_bf16" in flags or "amx_bf16" in flags,
        gpus=gpus(),
    )


def usable_cores(quota: float = math.inf) -> int:
    """Cores this process may keep busy at once, at least 1; `quota` is the control group's, in cores."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(allowed, quota)))


def physical_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[float, float]:
    """(cores, bytes of memory) that this process's control groups allow; infinity without a limit.

    Reads version 2 (cpu.max, memory.max) and version 1 (cpu.cfs_quota_us, memory.limit_in_bytes) from the
    process's own group up to the root: every level limits those below it.
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

    NVIDIA's management library answers in milliseconds. Where it is missing or refuses (some virtual
    machines), torch is asked, which costs its import.
    """
    try:
        import pynvml
    except ImportError:
        return _gpus_by_torch()
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()
    except pynvml.NVMLError:
        return _gpus_by_torch()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        identities = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        found = []
        for index in visible(identities, os.environ.get("CUDA_VISIBLE_DEVICES")):
            handle = handles[index]
            major, _ = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIB
            found.append(Gpu(_text(pynvml.nvmlDeviceGetName(handle)), memory, major >= 8, identities[index]))
        return tuple(found)
    except pynvml.NVMLError:
        return _gpus_by_torch()
    finally:
        pynvml.nvmlShutdown()


def driver() -> str | None:
    """The NVIDIA driver's version; None without a driver or its management library."""
    pynvml = _management_library()
    if pynvml is None:
        return None
    try:
        return _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def links() -> str | None:
    """How the machine's GPUs reach each other, in words; None for fewer than two, or where the driver does not say."""
    pynvml = _management_library()
    if pynvml is None:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        pairs = [(a, b) for i, a in enumerate(handles) for b in handles[i + 1 :]]
        if not pairs:
            return None

        def connected(index: int) -> int:
            return sum(pynvml.nvmlDeviceGetP2PStatus(*pair, index) == pynvml.NVML_P2P_STATUS_OK for pair in pairs)

        # 0 is reading a peer's memory: the binding's own name for it is a tuple.
        nvlink, peers = connected(pynvml.NVML_P2P_CAPS_INDEX_NVLINK), connected(0)
        return f"{len(pairs)} pairs: {nvlink} by NVLink, {peers} read each other's memory"
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def visible(identities: list[str], selection: str | None) -> list[int]:
    """Indices of the GPUs that a CUDA_VISIBLE_DEVICES value selects, by CUDA's rules: numbers or identity
    prefixes, in the order given, up to the first entry that is no GPU; None selects all."""
    if selection is None:
        return list(range(len(identities)))
    chosen = []
    for word in (part.strip() for part in selection.split(",")):
        if word.isdigit() and int(word) < len(identities):
            chosen.append(int(word))
        else:
            matches = [index for index, name in enumerate(identities) if word and name.startswith(word)]
            if len(matches) != 1:
                break
            chosen += matches
    return chosen


def disk_free(path: Path) -> int:
    """Bytes free for this user on the disk that holds `path`, or will hold it."""
    return shutil.disk_usage(existing(path)).free


def check_writable(path: Path) -> None:
    """Write to the folder `path` (or where it would be made), flush to the disk and remove it again; leaves
    no trace.

    Raises UserError, one line naming the folder and the reason. Asking for permissions is not enough: the
    superuser has them all, and a full or read-only disk shows when bytes have to reach it.
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
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gpus_by_torch() -> tuple[Gpu, ...]:
    try:
        import torch
    except ImportError:
        return ()
    if not torch.cuda.is_available():
        return ()
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(Gpu(each.name, each.total_memory / GIB, each.major >= 8, f"GPU-{each.uuid}") for each in properties)


def _management_library():
    """NVIDIA's management library, initialised; None where there is none or it finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(path: Path) -> str:
    """The file's text; empty where there is none or it may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str) -> float:
    return float(text) if text.strip().isdigit() else math.inf
