"""Checkpoint folders with checksums: `model.json` lists the SHA-256 of every file and is written last."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic, write_json

MANIFEST = "model.json"
# What a whole checkpoint lists: weights (of a sharded training .distcp or .pt), and a file that says what they are.
WEIGHTS = (".safetensors", ".distcp", ".pt")
DESCRIPTIONS = ("config.json", "dynclip.json", "loop.json")


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that `publish_folder` then makes `target`; after an error it is removed."""
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        publish_folder(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def publish_folder(aside: Path, target: Path) -> Path:
    """Write the checksums of `aside` to its `model.json`, flush all files to disk, rename the folder to `target`.

    An existing `target` (of an earlier attempt) is replaced. Returns `target`.
    """
    files = sorted(path for path in aside.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    manifest = {"files": {str(p.relative_to(aside)): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files}}
    write_json(aside / MANIFEST, manifest)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(target)
    return target


def publish_links(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to the files of `source`, the manifest last."""
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, copy_function=os.link, ignore=shutil.ignore_patterns(MANIFEST))
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    # A copy: the declared file has to be newer than the inputs of the job, and a link is as old as what it links to.
    write_atomic(target / MANIFEST, (source / MANIFEST).read_bytes())


def find_corruption(folder: Path) -> str | None:
    """The first missing or changed file of a checkpoint, as a message; None if it is whole and every checksum holds."""
    manifest = folder / MANIFEST
    try:
        files = json.loads(manifest.read_text())["files"]
        recorded = [(folder / name, entry["bytes"], entry["sha256"]) for name, entry in files.items()]
    except FileNotFoundError:
        return f"{manifest} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{manifest} is not a checkpoint manifest"
    if not any(name.endswith(WEIGHTS) for name in files):
        return f"{manifest} lists no weights"
    if not any(Path(name).name in DESCRIPTIONS for name in files):
        return f"{manifest} lists none of {', '.join(DESCRIPTIONS)}"
    for path, size, checksum in recorded:
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes, expected {size}"
        if sha256(path) != checksum:
            return f"{path} does not have the SHA-256 that {MANIFEST} recorded"
    return None


def verify(folder: Path | str, rebuild: str) -> Path:
    """`folder` if every checksum holds. Raises UserError with the damaged file and `rebuild`, the command to run."""
    folder = Path(folder)
    problem = find_corruption(folder)
    if problem:
        raise UserError(f"damaged checkpoint: {problem}; rebuild it with: {rebuild}")
    return folder


def latest(state: Path) -> Path | None:
    """The newest undamaged `checkpoint-<optimizer step>` of a training state folder; None if there is none."""
    return next((path for path in _newest_first(state) if find_corruption(path) is None), None)


def prune(state: Path, keep: int = 2) -> None:
    """Delete all but the newest `keep` checkpoints of a training state folder."""
    for path in _newest_first(state)[keep:]:
        shutil.rmtree(path)


def numbered(state: Path) -> dict[int, Path]:
    """Number -> folder checkpoint-<number> of a training state folder. Other names are no checkpoints."""
    found = {path.name.removeprefix("checkpoint-"): path for path in state.glob("checkpoint-*")}
    return {int(number): path for number, path in found.items() if number.isdecimal()}


def read_state(file: Path) -> dict:
    """The JSON object in a file of a training state folder. Raises UserError if it is missing or damaged."""
    try:
        value = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        value = None
    if isinstance(value, dict):
        return value
    state = file.parent.parent if file.parent.name.startswith("checkpoint-") else file.parent
    raise UserError(f"{file}: missing or damaged, expected a JSON object; to train from the start, remove {state}")


def _newest_first(state: Path) -> list[Path]:
    found = numbered(state)
    return [found[number] for number in sorted(found, reverse=True)]


def weights_sha256(folder: Path | str) -> str:
    """SHA-256 of a checkpoint's weights, from its manifest: of the one safetensors file, or of the list of all sums."""
    files = json.loads((Path(folder) / MANIFEST).read_text())["files"]
    sums = [files[name]["sha256"] for name in sorted(files) if name.endswith(".safetensors")]
    return sums[0] if len(sums) == 1 else hashlib.sha256(json.dumps(sums).encode()).hexdigest()
