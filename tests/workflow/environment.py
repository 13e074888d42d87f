"""The copy's .venv without an installation: the packages of the environment that runs the tests, by links."""

import hashlib
import json
import os
import sys
from pathlib import Path

PACKAGES = os.path.join("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")


def lend_environment(root: Path) -> None:
    """Make root/.venv: this environment's packages and programs, and the project of `root` in place of this one.

    `make install` takes it for its own. Where this environment is not the one of the locks, nothing is made, and
    `make install` builds it.
    """
    lender, borrower = Path(sys.prefix), root / ".venv"
    stamp = json.loads((lender / ".installed").read_text()) if (lender / ".installed").is_file() else {}
    lock = Path(root, stamp.get("lock", ""))
    if not lock.is_file() or stamp["sha256"] != digest(lock, root / "pyproject.toml"):
        return
    moved = {str(lender): str(borrower), stamp["root"]: str(root)}  # the longer one first, which holds the other
    for folder in ("", PACKAGES, "bin"):
        (borrower / folder).mkdir(parents=True, exist_ok=True)
        for path in (lender / folder).iterdir():
            place = borrower / folder / path.name
            if names_paths(path):
                copy(path, place, moved)
            elif path.name not in ("bin", "lib"):
                place.symlink_to(os.readlink(path) if path.is_symlink() else path)
    (borrower / ".installed").unlink()
    (borrower / ".installed").write_text(json.dumps(stamp | {"root": str(root)}))


def digest(*files: Path) -> str:
    """What requirements/install.py stamps."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def names_paths(path: Path) -> bool:
    """Whether it is a program that names its interpreter, the finder of the project's modules, or a configuration."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"#!" or path.name.startswith("__editable__") or path.name == "pyvenv.cfg"


def copy(path: Path, place: Path, moved: dict[str, str]) -> None:
    """Copy a text file with other paths in it."""
    text = path.read_text()
    for old, new in moved.items():
        text = text.replace(old, new)
    place.write_text(text)
    place.chmod(path.stat().st_mode)
