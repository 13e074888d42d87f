"""The pinned environments: reading the locks and comparing them with what is installed."""

import importlib.metadata
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
# The packages whose version decides numbers or behaviour, and what each is for.
ROLES = {
    "torch": "tensors, automatic differentiation; the only need of dynclip's core",
    "transformers": "the policy's architecture, its tokenizer, sampling",
    "trl": "the GRPO trainer that dynclip.trl extends",
    "vllm": "fast sampling at the GPU scales",
    "accelerate": "devices and processes below the trainer",
    "datasets": "training problems in the form the trainer reads",
    "mlflow": "the runs' tracking database and its interface",
    "snakemake": "the workflow: what to run, and what not to run again",
    "math-verify": "brings the parser of the formulas in answers; a peer of the grader in bench/",
    "pandas": "score tables",
    "numpy": "statistics, seeded generators",
}


@dataclass(frozen=True)
class Pin:
    """One package of a lock: the version it wants and the one that is installed (None: not installed)."""

    name: str
    wanted: str
    found: str | None

    @property
    def holds(self) -> bool:
        """The installed version is the wanted one; a local part ("2.13.0+cpu") names a build, not a
        version."""
        return self.found is not None and self.found.partition("+")[0] == self.wanted


def read_lock(path: Path) -> dict[str, str]:
    """Package name -> exact version of a lock. Raises UserError for a missing file or a line that is no exact
    pin."""
    if not path.exists():
        raise UserError(f"{path}: not found, expected a lock of exact versions; run `git checkout -- {path.name}`")
    pins = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        pin = re.fullmatch(r"([a-z0-9-]+)==([A-Za-z0-9.!]+)", content)
        if pin is None:
            raise UserError(f"{path}:{number}: expected name==version, found {content!r}; run `make lock`")
        pins[pin[1]] = pin[2]
    return pins


def installed_lock() -> tuple[Path, str]:
    """The lock that this Python's environment was made of, and how that is known."""
    try:
        stamp = json.loads(Path(sys.prefix, ".installed").read_text())
        return ROOT / stamp["lock"], stamp["known_by"]
    except (OSError, ValueError, KeyError):
        name = "cuda" if installed_version("vllm") else "cpu"
        return REQUIREMENTS / f"{name}.txt", "not made by make install; by the vLLM build found"


def compare(lock: dict[str, str]) -> list[Pin]:
    """Every package of a lock beside what this Python's environment has, in the lock's order."""
    return [Pin(name, wanted, installed_version(name)) for name, wanted in lock.items()]


def installed_version(name: str) -> str | None:
    """The installed version of a package, None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
