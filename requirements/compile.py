"""Resolve requirements/*.in into the locks with uv and write environment.yml: `make lock`.

Pins stay as long as the .in files allow; the words of the command line go to uv (--upgrade lets go of all pins).
"""

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent
CONDA = """\
# The conda route, on Linux x86_64: the pins of requirements/cpu.txt. Made by `make lock`, do not edit.
#
#   PIP_NO_DEPS=1 conda env create -f environment.yml
#   conda activate dynclip
#   pip install --no-deps --no-build-isolation -e .
#
# PIP_NO_DEPS=1: the list is complete, and some packages ask for more than it holds (requirements/overrides-cpu.txt).
name: dynclip
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def environment_text() -> str:
    """The text of environment.yml: the CPU lock's pins, one to one."""
    lines = (REQUIREMENTS / "cpu.txt").read_text().splitlines(keepends=True)
    return CONDA + "".join(f"      - {line}" for line in lines if not line.startswith("#"))


def main(options: list[str]) -> int:
    for name in ("cpu", "cuda", "verl", "harnesses"):
        files = (f"{name}.in", "--overrides", f"overrides-{name}.txt", "--output-file", f"{name}.txt")
        command = ("uv", "pip", "compile", "--quiet", "--config-file", "uv.toml", *files, *options)
        if code := subprocess.run(command, cwd=REQUIREMENTS, stdout=subprocess.DEVNULL).returncode:
            print(f"lock: uv found no set of versions for requirements/{name}.in, see above", file=sys.stderr)
            return code
    (REQUIREMENTS.parent / "environment.yml").write_text(environment_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
