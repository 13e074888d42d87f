"""Reading samples: problem, gold answer, response and verdict, page by page.

A model's text is printed with control characters escaped, so that it cannot control the terminal.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from dynclip.runtime.errors import UserError, file_problem
from dynclip.runtime.files import naming
from dynclip.runtime.text import visible
from evals.benchmarks.loading import obtain, read_problems
from evals.benchmarks.registry import BENCHMARKS
from evals.evaluation import default_out
from evals.grading import extract

STATUSES = ("correct", "wrong", "unparsable", "truncated", "timed_out")


@dataclass(frozen=True)
class Filter:
    """Which samples to show: `statuses` (empty for all), one `problem` id, at most `limit`."""

    statuses: tuple[str, ...] = ()
    problem: str | None = None
    limit: int | None = None


def find(selection: str, benchmarks: Iterable[str] | None, results: Path = Path("results")) -> list[Path]:
    """The sample files that `selection` names: a file, a folder, or the rest of a path below `results`.

    `facts/grpo/seed0/final` stands for results/facts/samples/grpo/seed0/final, a model's name for its folder in
    results/evaluations. Raises UserError where there are none.
    """
    scale, _, rest = selection.partition("/")
    places = [Path(selection), results / selection, results / scale / "samples" / rest, default_out(selection)]
    places += [] if Path(selection).is_absolute() else sorted(results.glob(f"*/samples/{escape(selection)}"))
    found = next((files for files in map(_sample_files, places) if files), [])
    if not found:
        raise UserError(
            f"{selection}: no samples there; expected a .parquet file, a folder of them, a model's name, or a path "
            "such as facts/grpo/seed0/final"
        )
    names = sorted({path.stem for path in found})
    unknown = sorted(set(benchmarks or ()) - set(names))
    if unknown:
        raise UserError(f"{selection}: no samples of {', '.join(unknown)}; there are: {', '.join(names)}")
    return [path for path in found if not benchmarks or path.stem in benchmarks]


def _sample_files(place: Path) -> list[Path]:
    """The sample files at a place: the file, the one beside a score, or all in a folder except the store's parts."""
    if place.is_file():
        file = place.with_suffix(".parquet")
        return [file] if file.is_file() else []
    files = place.rglob("*.parquet") if place.is_dir() else ()
    return sorted(path for path in files if not any(part.endswith(".parts") for part in path.parts))


def blocks(path: Path, chosen: Filter = Filter()) -> Iterator[str]:
    """The chosen samples of one file as text blocks, after a line with their numbers.

    Raises UserError for a file that is no sample file.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        kept = [
            row
            for row in rows
            if (not chosen.statuses or row["status"] in chosen.statuses) and chosen.problem in (None, row["problem_id"])
        ]
        for name in ("problem_id", "index", "text", "tokens", "finish", "status", "correct"):
            _ = table[name]
    except (OSError, ValueError, KeyError) as error:
        if file_problem(error):
            with naming(path):
                raise
        raise UserError(f"{path}: not a sample file ({type(error).__name__})") from None
    problems = _problems(path)
    shown = kept[: chosen.limit]
    rest = f", {len(shown)} of them shown" if len(shown) < len(kept) else ""
    yield f"{path}: {len(rows)} samples, {len(kept)} chosen{rest}\n"
    for row in shown:
        yield block(row, problems.get(row["problem_id"]))


def block(row: dict, problem=None) -> str:
    """One sample as text. Each line of the model's text begins with a bar, so that it differs from our own lines."""
    answer = row["answer"] if "answer" in row else extract(row["text"])
    head = (
        f"=== {row['problem_id']}, sample {row['index']}: {str(row['status']).upper()}, {row['tokens']} tokens, "
        f"ended by {row['finish']}"
    )
    if row.get("thinking_tokens"):
        head += f", {int(row['thinking_tokens'])} tokens of thinking"
    if row.get("flexible") and not row["correct"]:
        head += "; its unmarked answer is correct (flexible)"
    parts = [("problem", problem.problem if problem else None), ("gold", problem.answer if problem else None)]
    parts += [("response", row["text"]), ("answer", answer)]
    lines = [visible(head).replace("\n", "\\n")]
    for name, text in parts:
        lines += [f"{name}:"] + [f"  | {line}" for line in visible("(none)" if text is None else str(text)).split("\n")]
    return "\n".join(lines) + "\n"


def _problems(path: Path) -> dict:
    """Problem id -> problem of a sample file's benchmark: beside a study's samples, else from the registry.

    Empty where the problems cannot be loaded (an unknown benchmark, no hub); samples are then shown without them.
    """
    scale = next((parent.parent for parent in path.absolute().parents if parent.name == "samples"), None)
    try:
        if scale and (scale / "data" / f"{path.stem}.jsonl").is_file():
            found = read_problems(scale / "data" / f"{path.stem}.jsonl")
        else:
            found, _ = obtain(BENCHMARKS[path.stem])
    except (UserError, KeyError, OSError, ValueError) as error:
        text = f"dynclip: {path.stem}: problems are not shown ({str(error).splitlines()[0]})"
        print(visible(text), file=sys.stderr)
        return {}
    return {problem.id: problem for problem in found}


def show(texts: Iterable[str]) -> None:
    """Print blocks: unchanged into a pipe or file; on a terminal through $PAGER, or else one screen at a time."""
    try:
        if not (sys.stdout.isatty() and sys.stdin.isatty()):
            for text in texts:
                print(text)
            sys.stdout.flush()
        elif os.environ.get("PAGER"):
            _through_pager(os.environ["PAGER"], texts)
        else:
            _by_screen(texts)
    except BrokenPipeError:
        # The reader (head, a pager) has closed the pipe. Python would report it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _through_pager(command: str, texts: Iterable[str]) -> None:
    try:
        pager = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, text=True, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"PAGER={command!r} cannot be run ({error}); unset it or set it to a program") from None
    try:
        with suppress(BrokenPipeError):
            for text in texts:
                pager.stdin.write(text + "\n")
    finally:
        with suppress(BrokenPipeError):
            pager.stdin.close()
        pager.wait()


def _by_screen(texts: Iterable[str]) -> None:
    """Print one screen, then wait for a key: Enter continues, q ends."""
    size = shutil.get_terminal_size()
    room = size.lines - 1
    for line in (line for text in texts for line in (text + "\n").splitlines()):
        height = 1 + len(line) // size.columns
        if height > room:
            print("-- Enter: more, q: end -- ", end="", flush=True)
            key = sys.stdin.readline()
            if not key or key.strip().lower().startswith("q"):
                return
            room = size.lines - 1
        print(line)
        room -= height
