"""Atomic writes (temporary file, flush to disk, rename) and checksums."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write `content` to `path` so that neither a reader nor a crash leaves a partial file; returns `path`.

    Parent folders are created. An OSError names `path` or its folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with aside.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError name `path`: that of a full disk names no file, others a temporary one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path | str, value) -> Path:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN, which is not JSON."""
    return write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
