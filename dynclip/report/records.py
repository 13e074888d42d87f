"""The records of a results folder, read from disk and verified: a run with its metrics rows, a score.

A record holds the SHA-256 of its own content, and a run's that of its metrics rows. A score's numbers are computed
again from its samples on every read. An error names the file and the command that rebuilds it.
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from dynclip.runtime.checkpoints import MANIFEST, weights_sha256
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import is_sealed, sha256, write_sums
from evals.metrics import numbers_of
from evals.sampling.store import read_samples

SUMS = "checksums"  # in results/<scale>: a list for each command that publishes files
BASE = "base"  # the policy before training: it has scores and no run
COUNTED = (  # the columns of a sample file that a score is computed from; the last two are those of an exact score
    "problem_id", "correct", "flexible", "status", "tokens", "candidate", "finish", "thinking_tokens", "success",
    "entropy",
)  # fmt: skip


def read_record(path: Path, rebuild: str) -> dict:
    """A JSON record with the SHA-256 of its content. Raises UserError, with the command `rebuild`, for any other."""
    try:
        record = json.loads(_text(path, rebuild))
    except ValueError:
        record = None
    if not is_sealed(record):
        raise UserError(
            f"{path}: damaged, edited or of an older version (its record_sha256 is not that of its content); "
            f"rebuild it with: {rebuild}"
        )
    return record


def read_run(path: Path) -> tuple[dict, list[dict]]:
    """A run.json and the rows of its metrics.jsonl. Raises UserError for a damaged or missing file."""
    rebuild = retrain(path)
    run = read_record(path, rebuild)
    if run["state"] != "finished" or (run["method"], run["seed"]) != (path.parts[-3], seed_of(path.parent)):
        raise UserError(f"{path}: not the record of this finished run; rebuild it with: {rebuild}")
    metrics = path.with_name("metrics.jsonl")
    rows = read_rows(metrics)
    if sha256(metrics) != run["metrics_sha256"]:
        raise UserError(
            f"{metrics} is not the file that the training wrote (SHA-256 differs); rebuild it with: {rebuild}"
        )
    if len(rows) != run["steps"]:
        raise UserError(f"{metrics}: {len(rows)} rows, expected {run['steps']}; rebuild it with: {rebuild}")
    return run, rows


def read_rows(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl. Raises UserError for the first line that is not the row of the next step."""
    rows = []
    for number, line in enumerate(_text(path, retrain(path)).splitlines(), 1):
        try:
            row = json.loads(line)
            step = row["step"]
        except (ValueError, KeyError, TypeError):
            step = None
        if step != len(rows):
            raise UserError(
                f"{path}, line {number}: expected the JSON row of step {len(rows)}; rebuild it with: {retrain(path)}"
            )
        rows.append(row)
    return rows


def read_score(path: Path, results: Path) -> dict:
    """One score file, checked against its samples and its checkpoint. The entry "file" (its path) is added.

    The samples must exist, have the recorded SHA-256 and give every number of the score. If the checkpoint's folder
    exists, its weights must be those that were scored. Raises UserError with the file that differs and the command that
    scores it again.
    """
    method, seed, checkpoint = path.parts[-4], seed_of(path.parents[1]), path.parent.name
    rebuild = rescore(path, results)
    score = read_record(path, rebuild)
    named = (score["method"], score["seed"], score["checkpoint"], score["benchmark"])
    if named != (method, seed, checkpoint, path.stem):
        raise UserError(f"{path}: holds the score of {'/'.join(map(str, named))}; rebuild it with: {rebuild}")
    stored = samples_of(path, results)
    if not stored.is_file():
        raise UserError(f"{stored} is missing, so {path} cannot be checked; rebuild it with: {rebuild}")
    digest = sha256(stored)
    if digest != score["samples"]["sha256"]:
        raise UserError(
            f"{stored} is not the file that {path} was made from (SHA-256 differs); rebuild it with: {rebuild}"
        )
    try:
        derived = _derived(stored.resolve(), digest, score.get("until", {}).get("points"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{stored}: not the samples of a score ({error!r}); rebuild it with: {rebuild}") from None
    for name, value in derived.items():
        if not same(value, score.get(name), 1e-9):
            raise UserError(f"{path}: {name} is not what its samples give; rebuild it with: {rebuild}")
    folder = checkpoint_folder(results, method, seed, score["step"])
    if folder.is_dir():
        try:
            weights = weights_sha256(folder)
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{folder / MANIFEST} is missing or damaged; rebuild it with: {retrain_run(results, method, seed)}"
            ) from None
        if score["model"]["sha256"] != weights:
            raise UserError(f"{path}: scores other weights than {folder} holds; rebuild it with: {rebuild}")
    return score | {"file": str(path)}


@lru_cache(maxsize=1024)  # a command reads a study's scores several times; `digest` is that of the file at `stored`
def _derived(stored: Path, digest: str, until: float | None) -> dict:
    numbers = numbers_of(read_samples(stored, COUNTED), until)
    return json.loads(json.dumps(numbers | {"n_problems": len(numbers["per_problem"])}))


def same(one, other, close: float) -> bool:
    """Whether two values of a JSON file are equal, numbers up to `close`, relative or absolute."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key], close) for key in one)
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(same(a, b, close) for a, b in zip(one, other, strict=True))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return one == other or (one != one and other != other) or abs(one - other) <= close * max(1.0, abs(one))
    return one == other


def published(results: Path, command: str, written: Iterable[Path]) -> list[Path]:
    """Record the SHA-256 of the files under `results` that a command wrote, and return their paths."""
    written = list(written)
    write_sums(results / SUMS / f"{command}.sha256", results, written)
    return written


# Places


def samples_of(score: Path, results: Path) -> Path:
    """The sample file of a score file."""
    return results / "samples" / score.relative_to(results / "scores").with_suffix(".parquet")


def base_folder(results: Path, seed: int) -> Path:
    """The folder of the base policy of a seed: base/seed<N> in a synthetic world, else base for all seeds."""
    own = results / BASE / f"seed{seed}"
    return own if own.is_dir() else results / BASE


def checkpoint_folder(results: Path, method: str, seed: int, step: int) -> Path:
    """The folder with the weights of a score."""
    if method == BASE:
        return base_folder(results, seed)
    return results / "runs" / method / f"seed{seed}" / "checkpoints" / f"step{step}"


def seed_of(folder: Path) -> int:
    """The number of a folder seed<number>. Raises UserError for another name."""
    try:
        return int(folder.name.removeprefix("seed"))
    except ValueError:
        raise UserError(f"{folder}: expected a folder named seed<number>") from None


# The commands that make a file again


def rescore(score: Path, results: Path) -> str:
    seeded = score.parts[-4] == BASE and base_folder(results, seed_of(score.parents[1])) != results / BASE
    return rebuild_command("evaluate_base" if seeded else "evaluate", score)


def retrain(path: Path) -> str:
    return rebuild_command("train", path)


def retrain_run(results: Path, method: str, seed: int) -> str:
    if method == BASE:
        return rebuild_command("warmup", base_folder(results, seed) / MANIFEST)
    return retrain(results / "runs" / method / f"seed{seed}" / "run.json")


def _text(path: Path, rebuild: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); rebuild it with: {rebuild}") from None
