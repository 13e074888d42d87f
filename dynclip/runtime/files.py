"""Atomic writes (temporary file, flush to disk, rename) and checksums.

A record (run.json, a score, signs.json) holds the SHA-256 of its own content. Published files are listed in the format
of sha256sum, so that `sha256sum -c` checks them as well.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynclip.runtime.errors import UserError

SEAL = "record_sha256"


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


def seal(record: dict) -> dict:
    """`record` with record_sha256, the SHA-256 of its other fields as JSON with sorted keys."""
    # Read back first: JSON turns keys into text, which sorts otherwise than numbers, and tuples into lists.
    content = {key: value for key, value in json.loads(json.dumps(record)).items() if key != SEAL}
    return record | {SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def is_sealed(record) -> bool:
    """Whether a record is as `seal` returned it."""
    return isinstance(record, dict) and SEAL in record and seal(record)[SEAL] == record[SEAL]


def write_sums(file: Path, folder: Path, paths: Iterable[Path]) -> None:
    """Write the SHA-256 of each of `paths`, which are under `folder`, to `file`, in the format of `sha256sum -c`."""
    write_atomic(file, "".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in paths))


def read_sums(file: Path) -> dict[str, str]:
    """Path -> SHA-256 of a file that `write_sums` wrote. Raises UserError for any other."""
    try:
        return {name: digest for digest, name in (line.split("  ", 1) for line in file.read_text().splitlines())}
    except (OSError, ValueError):
        raise UserError(f"{file}: missing or damaged, expected lines of a SHA-256 and a path") from None


def file_change(path: Path, recorded: str | None) -> str | None:
    """What is wrong with a published file whose SHA-256 is recorded as `recorded`, None for nothing."""
    if not path.is_file():
        return f"{path} is missing"
    if recorded is None:
        return f"{path} has no recorded SHA-256"
    return None if sha256(path) == recorded else f"{path} changed since it was written (SHA-256 differs)"
