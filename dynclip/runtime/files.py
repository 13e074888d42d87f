"""Files that are either whole or absent: write aside, flush to disk, rename; checksums for what is read back."""

import hashlib
import json
import os
from pathlib import Path


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write `content` to `path` so that a reader, or a crash, never sees half of it.

    The bytes go to a sibling file first, reach the disk (fsync) and are then renamed over `path`.
    Parent folders are made. Returns `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return path


def write_json(path: Path | str, value) -> Path:
    """`write_atomic` of `value` as readable JSON (NaN is refused: it is not JSON)."""
    return write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
