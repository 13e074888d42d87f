"""The sample files: every completion of an evaluation with its verdict, one parquet file per benchmark."""

from pathlib import Path

from dynclip.errors import UserError
from dynclip.files import sha256, write_atomic

COLUMNS = ("problem_id", "index", "text", "tokens", "finish", "status", "correct")


def write_samples(path: Path, rows: list[dict]) -> dict:
    """Write `rows` (one per sample, keys COLUMNS) whole or not at all; returns path, sha256 and row count."""
    import io

    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())
    return {"path": str(path), "sha256": sha256(path), "rows": len(rows)}


def read_samples(path: Path | str, expected_sha256: str, rebuild: str):
    """The sample table as a data frame. Raises UserError if the file is absent or not the one that was scored."""
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; rebuild it with: {rebuild}")
    if sha256(path) != expected_sha256:
        raise UserError(f"{path} is not the file its scores were computed from (SHA-256 differs); rebuild: {rebuild}")
    return pd.read_parquet(path)
