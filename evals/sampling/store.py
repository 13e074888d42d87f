"""The sample store and the sample files.

The address of a sample is (model, benchmark content, prompt template and its version, sampling parameters with the
seed, problem, index). The store keeps samples in parts, `<file>.parts/<digest of the address>/*.parquet`. Each part is
written atomically and has its SHA-256 in its name. So an evaluation that is killed continues from its last part, a
larger k generates only the missing samples, and samples are graded again without a model. The sample file
`<benchmark>.parquet` is made from the parts and the verdicts and can be deleted without loss.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic, write_json
from dynclip.runtime.locks import acquire, holder
from dynclip.runtime.provenance import digest
from dynclip.runtime.text import say

PART_COLUMNS = ("problem_id", "index", "text", "tokens", "finish", "thinking_tokens")
COLUMNS = (*PART_COLUMNS, "status", "correct", "answer", "flexible", "candidate")
META = b"dynclip"


@dataclass(frozen=True)
class Gap:
    """Samples that are missing: for each problem at `positions`, those with index first .. first + n − 1."""

    first: int
    n: int
    positions: tuple[int, ...]

    @property
    def samples(self) -> int:
        return self.n * len(self.positions)


@dataclass(frozen=True)
class Part:
    """One part: the gap it belongs to, its end, the random state after it, the engine and the seconds it took."""

    first: int
    n: int
    after: int  # the position after its last problem
    state: bytes
    engine: dict
    seconds: float
    rows: list[dict]


class Store:
    """The samples of one address, for one writer at a time. Use as a context manager: it holds the lock.

    folder: `<sample file>.parts`. address: JSON-like, what all of these samples have in common. A damaged part is
    deleted and reported to `say`; its samples are then missing. Raises UserError on entering while another process
    writes to the same folder.
    """

    def __init__(self, folder: Path | str, address: dict, log=say):
        self.folder = Path(folder)
        self.key = digest(address)
        self.place, self.address, self.log = self.folder / self.key, address, log
        self.parts: list[Part] = []

    def __enter__(self) -> "Store":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = acquire(self.folder / "lock")
        if self.lock is None:
            raise UserError(
                f"{self.folder}: another evaluation is writing its samples here; wait for it, or give another --out; "
                f"{holder(self.folder / 'lock')}"
            )
        try:
            self.parts = self._read()
        except BaseException:
            os.close(self.lock)
            raise
        return self

    def __exit__(self, *error) -> None:
        os.close(self.lock)

    def gaps(self, ids: Sequence[str], k: int) -> list[Gap]:
        """What is missing for `k` samples of each problem, in the order in which it should be generated."""
        present: dict[str, set[int]] = {}
        for part in self.parts:
            for row in part.rows:
                present.setdefault(row["problem_id"], set()).add(row["index"])
        found: dict[tuple[int, int], list[int]] = {}
        for position, name in enumerate(ids):
            for first, n in _runs(sorted(set(range(k)) - present.get(name, set()))):
                found.setdefault((first, n), []).append(position)
        return [Gap(first, n, tuple(positions)) for (first, n), positions in sorted(found.items())]

    def state_before(self, gap: Gap, engine: dict) -> bytes:
        """The random state after the part that ends where `gap` begins; b"" if there is none.

        Only a part of the same request by the same engine counts.
        """
        for part in self.parts:
            if (part.first, part.n, part.after) == (gap.first, gap.n, gap.positions[0]) and part.engine == engine:
                return part.state
        return b""

    def add(self, gap: Gap, after: int, state: bytes, engine: dict, seconds: float, rows: list[dict]) -> None:
        """Write one part. It is completely on disk when this returns."""
        part = Part(gap.first, gap.n, after, state, engine, seconds, rows)
        if not self.place.is_dir():
            write_json(self.place / "address.json", self.address)
        content = _encode(part)
        name = f"{gap.first:05d}+{gap.n}-{after:06d}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        write_atomic(self.place / name, content)
        self.parts.append(part)

    def rows(self, ids: Sequence[str], k: int) -> list[dict]:
        """The first k stored samples (keys PART_COLUMNS) of each problem, in order; UserError if any is missing."""
        place = {name: position for position, name in enumerate(ids)}
        found: dict[tuple[int, int], dict] = {}
        for part in self.parts:
            for row in part.rows:
                if row["problem_id"] in place and row["index"] < k:
                    found.setdefault((place[row["problem_id"]], row["index"]), row)
        if len(found) != k * len(ids):
            raise UserError(f"{self.place}: {len(found)} samples, expected {k * len(ids)}; run the evaluation again")
        return [found[key] for key in sorted(found)]

    def makers(self, rows: Iterable[dict]) -> list[dict]:
        """The guarantees of the engines that made `rows`, each with its number of samples and its seconds."""
        wanted = {(row["problem_id"], row["index"]) for row in rows}
        merged: dict[str, dict] = {}
        for part in self.parts:
            used = sum((row["problem_id"], row["index"]) in wanted for row in part.rows)
            entry = merged.setdefault(digest(part.engine), {**part.engine, "samples": 0, "seconds": 0.0})
            entry["samples"] += used
            entry["seconds"] += part.seconds * used / len(part.rows)
        return [{**each, "seconds": round(each["seconds"], 2)} for each in merged.values() if each["samples"]]

    def _read(self) -> list[Part]:
        parts = []
        for path in sorted(self.place.glob("*.parquet")):
            try:
                content = path.read_bytes()  # its OSError is no damage: nothing is dropped for a lack of rights
                if not path.stem.endswith(hashlib.sha256(content).hexdigest()[:16]):
                    raise ValueError("its SHA-256 differs")
                parts.append(_decode(content))
            except (ValueError, KeyError, TypeError) as error:
                self.log(f"{path}: damaged part ({error}); dropped, its samples are generated again")
                path.unlink(missing_ok=True)
        return parts


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of consecutive numbers as (first, length)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def _encode(part: Part) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = {name: getattr(part, name) for name in ("first", "n", "after", "engine", "seconds")}
    table = pa.table({name: [row.get(name) for row in part.rows] for name in PART_COLUMNS})
    table = table.replace_schema_metadata({META: json.dumps({**facts, "state": part.state.hex()}).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _decode(content: bytes) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # In Arrow's memory: its threads abort a program that ends while they hold one of Python's objects.
    sink = pa.BufferOutputStream()
    sink.write(content)
    table = pq.read_table(pa.BufferReader(sink.getvalue()))
    facts = json.loads(table.schema.metadata[META])
    # Parts of before thinking was counted have no number of its tokens.
    rows = [{"thinking_tokens": None, **row} for row in table.to_pylist()]
    rows = [{name: row[name] for name in PART_COLUMNS} for row in rows]
    return Part(**{**facts, "state": bytes.fromhex(facts["state"])}, rows=rows)


def parts_folder(path: Path) -> Path:
    """The folder of a sample file's parts. It is not declared to Snakemake, which deletes declared files of a rule."""
    return path.with_suffix(".parts")


def write_samples(path: Path, rows: list[dict]) -> dict:
    """Write `rows` atomically: one per sample, keys COLUMNS, or one per problem with an exact score.

    Returns path, sha256 and number of rows.
    """
    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=list(COLUMNS) if "text" in rows[0] else None).to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())
    return {"path": str(path), "sha256": sha256(path), "rows": len(rows)}


def read_samples(path: Path, columns: Sequence[str] | None = None) -> list[dict]:
    """The rows of a sample file, a missing value as None. columns: those to read, as far as the file has them.

    Raises OSError or ValueError (pyarrow's errors are such) for a file that is not Parquet.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(columns).to_pylist()
