"""The pinned environments: reading the locks, remaking them, and comparing them with what is installed.

`python -m dynclip.plan.pins environment` prints environment.yml, the conda route with the same pins as
requirements/cpu.txt; `python -m dynclip.plan.pins compile` resolves the .in files into the locks and writes
environment.yml (that is `make lock`).
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
# Of the CPU lock; why: requirements/overrides*.txt.
LEFT_OUT = ("pycosat", "torchaudio", "torchcodec", "torchvision")
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
class Recipe:
    """How a lock is made: whom it is for, what installs it, which overrides apply, and which of its packages are
    published as source only (pure Python: they build with setuptools, without a compiler)."""

    audience: str
    command: str
    overrides: tuple[str, ...]
    source_only: tuple[str, ...]


RECIPES = {
    "cpu": Recipe(
        "a machine without an NVIDIA GPU",
        "make install",
        ("overrides-cpu.txt", "overrides.txt"),
        ("cellpylib", "connection-pool", "zss"),
    ),
    "cuda": Recipe(
        "a machine with an NVIDIA GPU", "make install", ("overrides.txt",), ("cellpylib", "connection-pool", "zss")
    ),
    "verl": Recipe(
        "the comparison with verl (CPU)",
        "make peers",
        ("overrides-verl.txt",),
        ("antlr4-python3-runtime",),
    ),
    "harnesses": Recipe(
        "the comparison with other evaluation harnesses (CPU)",
        "python bench/evaluation.py",
        ("overrides-harnesses.txt",),
        ("antlr4-python3-runtime", "jieba", "rouge-score", "sqlitedict", "word2number"),
    ),
}

CONDA = """\
# The conda route, on Linux x86_64: the pins of requirements/cpu.txt. Made by `make lock`, do not edit.
#
#   PIP_NO_DEPS=1 conda env create -f environment.yml
#   conda activate dynclip
#   pip install --no-deps --no-build-isolation -e .
#
# PIP_NO_DEPS=1 because the list is complete, some packages ask for more than runs here
# ({left_out}), and an environment file has no place for pip's
# --no-deps. Without it pip stops with an error about pycosat.
name: dynclip
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
      - --only-binary=pycosat
{pins}
"""

HEADER = """\
# Exact versions of everything, for {audience} (Linux x86_64, glibc 2.31 or newer, Python 3.11).
# Made by `make lock` from requirements/{name}.in with uv {uv}; to change it, edit the .in files and run that.
# Installed by `{command}` without dependency resolution. Every package has a wheel or is pure Python.
"""


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
        lock = ROOT / stamp["lock"]
        return lock, f"{RECIPES[lock.stem].command}, {stamp['chosen_by']}"
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


def environment_text() -> str:
    """The text of environment.yml: the CPU lock's pins, one to one."""
    pins = "\n".join(f"      - {name}=={version}" for name, version in read_lock(REQUIREMENTS / "cpu.txt").items())
    return CONDA.format(left_out=", ".join(LEFT_OUT), pins=pins)


def compile_locks(*options: str) -> None:
    """Resolve requirements/*.in into the locks and write environment.yml.

    Pins that are already there are kept as long as the .in files allow; `--upgrade` among `options` lets go
    of them. Only packages with wheels are taken, so that no machine needs a compiler. Raises UserError when
    uv finds no solution.
    """
    fixed = [
        "--python-version=3.11",
        "--python-platform=x86_64-manylinux_2_31",
        "--no-header",
        "--no-annotate",
        "--quiet",
        "--only-binary=:all:",
    ]
    for name, recipe in RECIPES.items():
        lock = REQUIREMENTS / f"{name}.txt"
        draft = REQUIREMENTS / f".{name}.draft.txt"  # uv keeps the pins of an existing output file
        if lock.exists():
            draft.write_text(lock.read_text())
        chosen = [f"--override=requirements/{file}" for file in recipe.overrides]
        chosen += [f"--no-binary={package}" for package in recipe.source_only]
        command = [
            "uv",
            "pip",
            "compile",
            *fixed,
            *chosen,
            *options,
            f"requirements/{name}.in",
            f"--output-file={draft}",
        ]
        outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if outcome.returncode:
            draft.unlink(missing_ok=True)
            raise UserError(f"requirements/{name}.in: uv found no set of versions: {' '.join(outcome.stderr.split())}")
        pins = draft.read_text()
        draft.unlink()
        uv = re.search(r"^uv==(.+)$", pins, re.MULTILINE)[1]
        header = HEADER.format(audience=recipe.audience, command=recipe.command, name=name, uv=uv)
        write_atomic(lock, header + pins)
    write_atomic(ROOT / "environment.yml", environment_text())


def main(words: list[str]) -> int:
    try:
        match words:
            case ["environment"]:
                print(environment_text(), end="")
            case ["compile", *options]:
                compile_locks(*options)
            case _:
                raise UserError("usage: python -m dynclip.plan.pins environment | compile [--upgrade]")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
