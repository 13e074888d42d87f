"""Loads the sets of the registry, compares them with their pins, and writes the data of a study."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import seal, sha256, write_atomic, write_json
from dynclip.runtime.progress import Progress
from evals.benchmarks import first_load, hub
from evals.benchmarks.decontamination import decontaminate
from evals.benchmarks.hub import HubSet
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS, ProblemSet
from evals.benchmarks.worlds import WORLDS, generate
from evals.grading import grade_many

GOLD_TIMEOUT_S = 60  # for grading a gold answer against itself: long, since a busy machine proves no error


def load_problems(entry: ProblemSet | HubSet) -> list[Problem]:
    """The problems of an entry: generated, or loaded from the hub.

    Raises UserError if the set cannot be loaded or is not the pinned one, or if a gold answer is not graded correct
    against itself.
    """
    problems = obtain(entry)[0]
    check_golds(entry.name, problems)
    return problems


def obtain(entry: ProblemSet | HubSet) -> tuple[list[Problem], dict]:
    """The problems of an entry, compared with its pins, and their source for the manifest.

    An entry without a pin is compared with what its first load found.
    """
    if entry.kind == "generated":
        return make(entry), {"seed": entry.seed, "content": entry.content}
    problems, revision = hub.fetch(entry)
    found = content_hash(problems)
    if not entry.content:
        first_load.check(entry, len(problems), found, revision)
    elif (len(problems), found) != (entry.count, entry.content):
        raise UserError(
            f"{entry.name}: {entry.place} is not what was pinned: expected {entry.count} problems with content "
            f"{entry.content}, found {len(problems)} with {found} at {revision}; set `revision` of this entry in "
            "evals/benchmarks/registry.py to the commit that has the expected ones, or `count` and `content` to "
            "what was found"
        )
    place = {"id": entry.id, "config": entry.config, "split": entry.split, "revision": revision}
    return problems, {**place, "content": found}


def draw(entry: ProblemSet) -> list[Problem]:
    """The problems of an entry, not yet compared with its pin."""
    return generate(entry.world, entry.count, entry.seed, entry.held_out)


def make(entry: ProblemSet) -> list[Problem]:
    """The problems of a generated entry. Raises UserError if their content is not the pinned one."""
    problems = draw(entry)
    found = content_hash(problems)
    if found != entry.content:
        raise UserError(
            f"{entry.name}: generated content has hash {found[:12]}, pinned is {entry.content[:12]}; "
            f"evals/benchmarks/worlds/{entry.world}.py is not the pinned one: undo its edit, or update the pin"
        )
    return problems


def content_hash(problems: list[Problem]) -> str:
    """SHA-256 over the (problem, answer) rows in order."""
    rows = json.dumps([[p.problem, p.answer] for p in problems], ensure_ascii=False)
    return hashlib.sha256(rows.encode()).hexdigest()


def pins() -> dict[str, str]:
    """Content hash of every generated entry, from the installed generators: the value that the entry must have."""
    entries = (*BENCHMARKS.values(), *TRAIN_SETS.values())
    return {entry.name: content_hash(draw(entry)) for entry in entries if entry.kind == "generated"}


def write_data(folder: Path | str, scale: str, train_set: str, benchmarks: tuple[str, ...]) -> dict:
    """Write train.jsonl, <benchmark>.jsonl and, last, manifest.json; return the manifest.

    Training problems that occur in a benchmark of the same world or, for sets of the hub, in any benchmark of the hub
    that the registry pins, evaluated here or not, are dropped and listed in the manifest. A benchmark that the registry
    does not pin takes part only if it is in `benchmarks`. Raises UserError for an unknown name, for content
    that cannot be loaded or is not the pinned one, and for a gold answer that is not graded correct against itself.
    """
    for name, known in ((train_set, TRAIN_SETS), *((name, BENCHMARKS) for name in benchmarks)):
        if name not in known:
            raise UserError(f"unknown problem set {name!r}; known: {', '.join(known)}")
    entries = [TRAIN_SETS[train_set]]
    kind = _kind(entries[0])
    pinned = [entry.name for entry in BENCHMARKS.values() if _kind(entry) == kind and entry.content]
    entries += [entry for entry in BENCHMARKS.values() if entry.name in (*pinned, *benchmarks)]
    progress = Progress("data", len(entries))
    progress.start()
    loaded, sources = {}, {}
    for number, entry in enumerate(entries, start=1):
        loaded[entry.name], source = obtain(entry)
        check_golds(entry.name, loaded[entry.name])
        sources[entry.name] = {"rows": len(loaded[entry.name]), **source}
        progress.step(number, f"{entry.name}: {len(loaded[entry.name])} problems, all golds graded correct")
    kept, overlaps = decontaminate(loaded.pop(train_set), loaded)
    progress.log(f"{train_set}: {len(overlaps)} problems that occur in a benchmark removed, {len(kept)} left")
    files = {}
    for name, problems in {"train": kept, **{name: loaded[name] for name in benchmarks}}.items():
        path = write_atomic(Path(folder) / f"{name}.jsonl", "".join(map(_line, problems)))
        files[path.name] = {"rows": len(problems), "sha256": sha256(path)}
    counts = Counter(overlap.benchmark for overlap in overlaps)
    manifest = {
        "scale": scale,
        "files": files,
        "sets": sources,
        "overlaps_removed": {name: counts[name] for name in loaded},
        "removed": [asdict(overlap) for overlap in overlaps],
        "gold_self_check": "all correct",
        "generator": {entry.world: WORLDS[entry.world].title for entry in entries if entry.kind == "generated"},
    }
    manifest = seal(manifest)
    write_json(Path(folder) / "manifest.json", manifest)
    return manifest


def _kind(entry: ProblemSet | HubSet) -> str:
    return entry.world if entry.kind == "generated" else entry.kind


def _line(problem: Problem) -> str:
    """A row of a data file, without the fields `tolerance` and `solution` where they are empty."""
    empty = {name for name in ("tolerance", "solution") if not getattr(problem, name)}
    return json.dumps({name: value for name, value in asdict(problem).items() if name not in empty}) + "\n"


def check_golds(name: str, problems: list[Problem]) -> None:
    """Raise UserError unless every gold answer, boxed, is graded correct against itself."""
    verdicts = grade_many([(f"\\boxed{{{p.answer}}}", p.answer) for p in problems], timeout_s=GOLD_TIMEOUT_S)
    wrong = [(p, verdict) for p, verdict in zip(problems, verdicts, strict=True) if not verdict.correct]
    if wrong:
        problem, verdict = wrong[0]
        raise UserError(f"{name}: {len(wrong)} golds fail against themselves, the first is {verdict.status}: {problem}")


def read_problems(path: Path | str) -> list[Problem]:
    """The problems of a data file, compared with the checksum in manifest.json beside it.

    Raises UserError with the file and the command that rebuilds it if it is missing, truncated or edited.
    """
    path = Path(path)
    manifest = path.with_name("manifest.json")
    for needed in (path, manifest):
        if not needed.is_file():
            raise UserError(f"{needed} is missing; make it with: {rebuild_command('data', needed)}")
    try:
        recorded = json.loads(manifest.read_text())["files"][path.name]
        rows, expected = recorded["rows"], recorded["sha256"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{manifest} does not describe {path.name}; rebuild it: {rebuild_command('data', manifest)}"
        ) from None
    if sha256(path) != expected:
        raise UserError(
            f"{path} is not the file of {rows} rows that {manifest.name} recorded; "
            f"rebuild it: {rebuild_command('data', path)}"
        )
    return [Problem(**json.loads(line)) for line in path.read_text().splitlines()]
