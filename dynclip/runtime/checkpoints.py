"""Checkpoint folders with checksums: `model.json` lists the SHA-256 of every file and is written last."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic, write_json

MANIFEST = "model.json"
# What a whole checkpoint lists: weights (of a sharded training .distcp or .pt), and a file that says what they are.
WEIGHTS = (".safetensors", ".distcp", ".pt")
DESCRIPTIONS = ("config.json", "dynclip.json", "loop.json")
LEFT = ("writing", "removed", "tmp")  # endings of hidden names: on the way to a final name, or away from it


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that `publish_folder` then makes `target`; after an error it is removed."""
    with _aside(target) as aside:
        yield aside
        publish_folder(aside, target)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; after an error it is removed."""
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
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
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(target)
    aside.rename(target)
    return target


def publish_links(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to the files of `source`, copies where the disk has no links.

    The manifest stays that of `source`: a file that has changed since `source` was written does not become valid.
    """
    with _aside(target) as aside:
        shutil.copytree(source, aside, copy_function=_link, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
        # A copy: the declared file has to be newer than the inputs of the job, and a link is as old as its file.
        write_atomic(aside / MANIFEST, (source / MANIFEST).read_bytes())
        remove(target)
        aside.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove(folder: Path) -> None:
    """Delete `folder`, if it is there. A kill leaves all of it or nothing under its name."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside)


def sweep(*folders: Path) -> None:
    """Delete what killed processes left in these folders on the way to its name or away from it."""
    for path in [path for folder in folders for ending in LEFT for path in folder.glob(f".*.{ending}")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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
        remove(path)


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
