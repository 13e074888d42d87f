"""Writes the table of docs/peers.md of what equals TRL and verl, from what their tests measure.

    python -m docs.generate.peers_table [PYTHON]

PYTHON: the Python of verl's environment, .venv-verl/bin/python unless given (`make peers` builds it). The tests run in
this process' environment for TRL and in PYTHON's for verl, and report the differences as properties of pytest's XML.
Exit status 1 where a test fails.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from dynclip.methods.registry import METHODS
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "peers.md"
START, END = "<!-- measured: python -m docs.generate.peers_table -->\n", "<!-- end -->"
VERL = ROOT / ".venv-verl" / "bin" / "python"
# Peer -> its tests, the arguments that pytest needs for them, and what is compared.
TRL_TESTS = ("tests/peers/test_trl.py", "tests/peers/test_trl_methods.py")
VERL_TESTS = ("tests/peers/verl/test_losses.py", "tests/peers/verl/test_route.py")
COMPARED = {
    "TRL 1.16.0": "loss and gradient of every parameter, float32",
    "verl 0.9.1": "loss and gradient of every log-probability, float64",
}
HEADER = ["method", "peer", "compared", "settings × batches", "loss differs by", "gradient by", "test"]


def measured(python: Path, tests: tuple[str, ...], *arguments: str) -> list[dict[str, str]]:
    """What the tests report: method, batches, loss, gradient and test. Raises RuntimeError where one fails."""
    foreign = ("PYTEST_", "RAY_", "VERL_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    clean |= {"OMP_NUM_THREADS": "1"}  # a mini-batch is too small to share
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [python, "-m", "pytest", "-W", "ignore", *tests, *arguments, "-k", "equals_trl or verls"]
        command += ["--junitxml", report, "--basetemp", Path(folder, "inside"), "-p", "no:cacheprovider"]
        outcome = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
        if outcome.returncode:
            raise RuntimeError(f"{' '.join(tests)}: expected all tests to pass\n{outcome.stdout[-4000:]}")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found = []
    for case in cases:
        properties = {one.get("name"): one.get("value") for one in case.iter("property")}
        if properties:
            found.append(properties | {"test": f"{case.get('classname').replace('.', '/')}.py"})
    return found


def rows(peer: str, reports: list[dict[str, str]]) -> list[list[str]]:
    """One row per method, in the order of the registry, with the largest differences of its tests."""
    by_method = defaultdict(list)
    for one in reports:
        by_method[one["method"]].append(one)
    return [
        [
            f"[{name}](methods.md#{name})",
            peer,
            COMPARED[peer],
            f"{len(own)} × {' or '.join(sorted({one['batches'] for one in own}))}",
            *(shown(max(float(one[key]) for one in own)) for key in ("loss", "gradient")),
            ", ".join(sorted({f"[{Path(one['test']).stem}](../{one['test']})" for one in own})),
        ]
        for name, own in ((name, by_method[name]) for name in METHODS if name in by_method)
    ]


def shown(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0, bit for bit"


def written(page: str, table: str) -> str:
    """The page with the table between its two marks. Raises ValueError where they are missing."""
    if START not in page or END not in page:
        raise ValueError(f"docs/peers.md: expected the marks {START.strip()} and {END.strip()}")
    return f"{page[: page.index(START) + len(START)]}\n{table}\n\n{page[page.index(END) :]}"


def main(arguments: list[str]) -> int:
    python = Path(arguments[0]) if arguments else VERL
    if not python.exists():
        print(f"{python}: expected the Python of verl's environment; run `make peers`", file=sys.stderr)
        return 1
    try:
        table = rows("TRL 1.16.0", measured(Path(sys.executable), TRL_TESTS))
        table += rows("verl 0.9.1", measured(python, VERL_TESTS, "--confcutdir", "tests/peers/verl"))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    write_atomic(PAGE, written(PAGE.read_text(), markdown_rows(HEADER, table)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
