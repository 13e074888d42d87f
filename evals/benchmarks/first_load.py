"""Pins of the sets whose registry entry has none: written at the first load, compared at every later one.

They lie beside the hub's cache, one record for each name: place, count, content hash, commit and date.
"""

import json
from datetime import date
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from evals.benchmarks.hub import HubSet, log


def pins_file() -> Path:
    """The file of the pins: HF_HOME/dynclip-pins.json."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "dynclip-pins.json"


def check(entry: HubSet, count: int, content: str, commit: str) -> None:
    """Compare what was loaded with the pin of an earlier load. Pin it if this is the first load of this place.

    Raises UserError if the documented count or the pin differs. A file that cannot be written is reported in a line.
    """
    if entry.count and count != entry.count:
        raise UserError(
            f"{entry.name}: {entry.place} is not the documented set: expected {entry.count} problems, found {count} at "
            f"{commit}; set `revision` of this entry in evals/benchmarks/registry.py to a commit that has them, or "
            "`count` to what was found"
        )
    path = pins_file()
    pins = _read(path)
    pin = pins.get(entry.name)
    if pin and pin["place"] == entry.place:
        if (pin["count"], pin["content"]) != (count, content):
            raise UserError(
                f"{entry.name}: {entry.place} is not what its first load pinned: expected {pin['count']} problems with "
                f"content {pin['content']} ({pin['commit']}, {pin['date']}), found {count} with {content} at {commit}; "
                f"set `revision` of this entry in evals/benchmarks/registry.py to the pinned commit, or remove "
                f"{entry.name} from {path} to pin what was found"
            )
        return
    found = {"place": entry.place, "count": count, "content": content, "commit": commit}
    try:
        write_json(path, {**pins, entry.name: {**found, "date": date.today().isoformat()}})
    except OSError as error:
        log(entry, f"not pinned: cannot write {path} ({error.strerror}); a later load has nothing to compare with")
        return
    log(entry, f"first load: pinned {count} problems with content {content[:12]} in {path}")


def _read(path: Path) -> dict:
    """The pins of a file; none where there is no file."""
    try:
        pins = json.loads(path.read_text())
        if any({"place", "count", "content", "commit", "date"} - pin.keys() for pin in pins.values()):
            raise ValueError("a pin lacks a field")
        return pins
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); correct it, or remove it to pin anew") from None
