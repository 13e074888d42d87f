"""Benchmarks and training sets: one registry entry each; reading checks the disk against what was pinned.

To add a generated benchmark: a family in `families.py`, an entry here with the hash that `pins()` returns.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dynclip.errors import UserError, rebuild_command
from dynclip.files import sha256, write_atomic, write_json
from evals.engines import Sampling
from evals.families import FAMILIES, Problem, generate

LAPTOP_SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=48)


@dataclass(frozen=True)
class ProblemSet:
    """`count` problems drawn evenly from `families` with `seed`, on one side of the held-out split.

    `content` is the SHA-256 of the (problem, answer) rows: a change of a generator cannot pass unnoticed.
    """

    name: str
    title: str
    families: tuple[str, ...]
    count: int
    seed: int
    content: str
    held_out: bool = False
    kind: str = "generated"


@dataclass(frozen=True)
class Benchmark(ProblemSet):
    """A held-out problem set and how it is sampled: `k` completions per problem under `sampling`."""

    held_out: bool = True
    k: int = 16
    sampling: Sampling = LAPTOP_SAMPLING

    def load(self, folder: Path | str) -> list[Problem]:
        """The problems as `write_data` left them in `folder`; errors as in `read_problems`."""
        return read_problems(Path(folder) / f"{self.name}.jsonl")


BENCHMARKS: dict[str, Benchmark] = {
    entry.name: entry
    for entry in (
        Benchmark(
            name="chain_sum",
            title="Sums of digits",
            families=("chain_sum",),
            count=100,
            seed=101,
            content="bc244496fb477f1e68c90554574bf8adc5115093f6f4a7b40e98e3f6d299d161",
        ),
        Benchmark(
            name="basic_arithmetic",
            title="Expressions",
            families=("basic_arithmetic",),
            count=100,
            seed=102,
            content="6a492ca13203a2700420d431e856b9e764dc2463df0fffa98836bd0ec393e121",
        ),
        Benchmark(
            name="chain_mod",
            title="Sums modulo m",
            families=("chain_mod",),
            count=100,
            seed=103,
            content="09d092fd1e0b835e3c5a054e86ece21e15d3db844b81c7b8bfb03551ae0ec899",
        ),
    )
}

TRAIN_SETS: dict[str, ProblemSet] = {
    entry.name: entry
    for entry in (
        ProblemSet(
            name="laptop_train",
            title="All families",
            families=tuple(FAMILIES),
            count=3000,
            seed=7,
            content="1a182ea1ab3e910e2b3e0af228fd7e75f6ef3fecd6b1fc672dec2a14453e2ab5",
        ),
    )
}


def draw(entry: ProblemSet) -> list[Problem]:
    """The problems of an entry, unchecked; families take turns, so that every stretch holds them all."""
    share, rest = divmod(entry.count, len(entry.families))
    counts = [share + (i < rest) for i in range(len(entry.families))]
    parts = [generate(f, n, entry.seed, entry.held_out) for f, n in zip(entry.families, counts, strict=True)]
    return [part[i] for i in range(share + 1) for part in parts if i < len(part)]


def make(entry: ProblemSet) -> list[Problem]:
    """The problems of an entry. Raises UserError if their content is not the pinned one."""
    problems = draw(entry)
    found = content_hash(problems)
    if found != entry.content:
        raise UserError(
            f"{entry.name}: generated content has hash {found[:12]}, pinned is {entry.content[:12]}; "
            "reasoning-gym or evals/families.py is not the pinned one: `make install`, or update the pin"
        )
    return problems


def content_hash(problems: list[Problem]) -> str:
    """SHA-256 over the (problem, answer) rows in order."""
    rows = json.dumps([[p.problem, p.answer] for p in problems], ensure_ascii=False)
    return hashlib.sha256(rows.encode()).hexdigest()


def pins() -> dict[str, str]:
    """Content hashes of every entry as the installed generators make them: what the registries must carry."""
    return {entry.name: content_hash(draw(entry)) for entry in (*BENCHMARKS.values(), *TRAIN_SETS.values())}


def normalise(text: str) -> str:
    """A problem's text as the overlap check compares it: without case and whitespace."""
    return "".join(text.split()).casefold()


def write_data(folder: Path | str, scale: str, train_set: str, benchmarks: tuple[str, ...]) -> dict:
    """Write train.jsonl, <benchmark>.jsonl and, last, manifest.json; return the manifest.

    Training problems that occur in a benchmark are dropped and counted. Raises UserError for an unknown name,
    content that is not the pinned one, and a gold that is not graded correct against itself.
    """
    for name, known in ((train_set, TRAIN_SETS), *((name, BENCHMARKS) for name in benchmarks)):
        if name not in known:
            raise UserError(f"unknown problem set {name!r}; known: {', '.join(known)}")
    sets = {f"{name}.jsonl": make(BENCHMARKS[name]) for name in benchmarks}
    training = make(TRAIN_SETS[train_set])
    overlaps = {}
    for name in benchmarks:
        held_out = {normalise(p.problem) for p in sets[f"{name}.jsonl"]}
        kept = [p for p in training if normalise(p.problem) not in held_out]
        overlaps[name] = len(training) - len(kept)
        training = kept
    sets = {"train.jsonl": training, **sets}
    for name, problems in sets.items():
        check_golds(name, problems)
    files = {}
    for name, problems in sets.items():
        path = write_atomic(Path(folder) / name, "".join(json.dumps(asdict(p)) + "\n" for p in problems))
        files[name] = {"rows": len(problems), "sha256": sha256(path)}
    manifest = {
        "scale": scale,
        "files": files,
        "overlaps_removed": overlaps,
        "gold_self_check": "all correct",
        "generator": {name: family.source for name, family in FAMILIES.items()}
        | {"reasoning-gym version": importlib.metadata.version("reasoning-gym")},
    }
    write_json(Path(folder) / "manifest.json", manifest)
    return manifest


def check_golds(name: str, problems: list[Problem]) -> None:
    """Raise UserError unless every gold, boxed, is graded correct against itself."""
    from evals.grading import grade_many

    verdicts = grade_many([(f"\\boxed{{{p.answer}}}", p.answer) for p in problems])
    wrong = [p for p, verdict in zip(problems, verdicts, strict=True) if not verdict.correct]
    if wrong:
        raise UserError(f"{name}: {len(wrong)} golds fail against themselves, the first is {wrong[0]}")


def read_problems(path: Path | str) -> list[Problem]:
    """The problems of a data file that is exactly what manifest.json beside it recorded.

    Raises UserError naming the file and the command that rebuilds it if it is missing, truncated or edited.
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
