"""Benchmarks and training sets: one registry entry each. Loaded contents are compared with the entry's pins.

A new generated benchmark needs a world in `worlds/` and an entry here with the hash that `pins()` returns. A new
benchmark of the hub needs an entry here; loading it once prints the count and the hash to pin. See docs/benchmarks.md.
"""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import sha256, write_atomic, write_json
from dynclip.runtime.progress import Progress
from evals.benchmarks import hub
from evals.benchmarks.decontamination import decontaminate
from evals.benchmarks.hub import HubSet
from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds import WORLDS, generate
from evals.grading import grade_many
from evals.sampling.settings import Sampling

LAPTOP_SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=6)
PAPER_SAMPLING = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=4096)
GOLD_TIMEOUT_S = 60  # for grading a gold answer against itself: long, since a busy machine proves no error


@dataclass(frozen=True)
class ProblemSet:
    """`count` problems of `world` drawn with `seed`, on one side of the held-out split.

    `content` is the SHA-256 of the (problem, answer) rows: it detects a changed generator.
    """

    name: str
    title: str
    world: str
    count: int
    seed: int
    content: str
    held_out: bool = False
    kind: str = "generated"


@dataclass(frozen=True)
class Benchmark(ProblemSet):
    """A held-out problem set with its sampling: `k` completions per problem under `sampling`."""

    held_out: bool = True
    k: int = 32
    sampling: Sampling = LAPTOP_SAMPLING


@dataclass(frozen=True)
class HubBenchmark(HubSet):
    """A problem set of the hub with its sampling: `k` completions per problem under `sampling`, from `seed`."""

    k: int = 4
    seed: int = 0
    sampling: Sampling = PAPER_SAMPLING


BENCHMARKS: dict[str, Benchmark | HubBenchmark] = {
    entry.name: entry
    for entry in (
        Benchmark(
            name="paths", title="Ways through a graph", world="paths", count=15204, seed=101, k=1,
            content="bd41bdd77e3d024abbee0a3c50087d98205633a564f7a1899dd49522ddfcf985",
        ),
        Benchmark(
            name="facts", title="Arithmetic modulo 7", world="facts", count=200, seed=102,
            content="2c75faabe711c2ad0935e9c48ae31ddb5285467e6707d2560b6ace53cef919df",
        ),
        Benchmark(
            name="worded", title="Worded arithmetic", world="worded", count=200, seed=103,
            content="e935a5d33ee8cdd6900cfef53589819283a7e0ace112ee0603e74ecd20d01399",
            sampling=replace(LAPTOP_SAMPLING, max_tokens=14),
        ),
        HubBenchmark(
            name="aime24", title="AIME 2024", id="HuggingFaceH4/aime_2024", config="default", split="train",
            key="id", problem="problem", answer="answer", answer_rule="number",
            pools=(("AIME 2024 I", 15), ("AIME 2024 II", 15)), count=30, k=32, seed=201,
            content="c3ce2fba1d9e4beaa9a13f9ec0048023a9aee3ffe7cde219fc447f61b6fa4679",
        ),
        HubBenchmark(
            name="aime25", title="AIME 2025", id="math-ai/aime25", config="default", split="test",
            key="id", problem="problem", answer="answer", answer_rule="number",
            pools=(("AIME 2025 I", 15), ("AIME 2025 II", 15)), count=30, k=32, seed=202,
            content="13895ee2137181c5ebf5106eaf529f5ab89fbd9059285a8ef698b10dafe2b21a",
        ),
        HubBenchmark(
            name="amc", title="AMC 2022-2023", id="AI-MO/aimo-validation-amc", config="default", split="train",
            key="id", problem="problem", answer="answer", answer_rule="number",
            pools=(("AMC 12 2022", 43), ("AMC 12 2023", 40)), count=83, k=32, seed=203,
            content="603ba77e97b379949c8240f4525919336f72422a06c03aa1688c5242c626c4cd",
        ),
        HubBenchmark(
            name="math500", title="MATH-500", id="HuggingFaceH4/MATH-500", config="default", split="test",
            problem="problem", answer="answer", level="level", subject="subject", count=500, k=4, seed=204,
            content="cc976e62f0457b6e026bf188f8a6f3d8c00675baaf63cf54c8a2c311b096118b",
        ),
        HubBenchmark(
            name="gsm8k", title="GSM8K", id="openai/gsm8k", config="main", split="test",
            problem="question", answer="answer", answer_rule="gsm8k", level="answer", level_rule="calculations",
            count=1319, k=2, seed=205,
            content="bb3478cc4e1038476525262658917d04d96e1ad4c9d88de7c93690219a9ce7a9",
        ),
        HubBenchmark(
            name="olympiad", title="OlympiadBench", id="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP",
            split="train", key="id", problem="question", answer="final_answer", answer_rule="olympiad",
            subject="subfield", tolerance="error", count=675, k=4, seed=206,
            content="a4ac225cb40be7ee986d531ff298ab32e21db741b094e398ca051b13923715ba",
        ),
    )
}  # fmt: skip

TRAIN_SETS: dict[str, ProblemSet | HubSet] = {
    entry.name: entry
    for entry in (
        ProblemSet(
            name="paths_train", title="Ways through a graph", world="paths", count=60_024, seed=1,
            content="65ba544bfe25a32407ce107b00a48f1ea7a64026783ec096135a5a7e2e48acec",
        ),
        ProblemSet(
            name="facts_train", title="Arithmetic modulo 7", world="facts", count=20_000, seed=2,
            content="e70cb483a7dc58aec0f96c7a179253bca7f80298d89a150963e90e489dfc179a",
        ),
        ProblemSet(
            name="worded_train", title="Worded arithmetic", world="worded", count=20_000, seed=3,
            content="90496dead9f2f6364e5807d4b216bd413d660a214e4823999ce8d7d3eb5423a7",
        ),
        HubSet(
            name="gsm8k_train", title="GSM8K", id="openai/gsm8k", config="main", split="train",
            problem="question", answer="answer", answer_rule="gsm8k", solution="answer", solution_rule="gsm8k",
            level="answer", level_rule="calculations", count=7473,
            content="f6d1e8227f7642f9b42da09a24b43807c031835dea29e6ed6bd94451c349f8d7",
        ),
        HubSet(
            name="dapo", title="DAPO-Math-17k", id="BytedTsinghua-SIA/DAPO-Math-17k", config="default", split="train",
            problem="prompt", problem_rule="dapo", answer="reward_model.ground_truth", answer_rule="number",
            key="extra_info.index", distinct=True, count=17398,
            content="c56be947f5853ad641dec43b06e27f3bafe1b8d6112428960392adc2c52632d1",
        ),
        HubSet(
            name="dapo_processed", title="DAPO-Math-17k", id="open-r1/DAPO-Math-17k-Processed", config="all",
            split="train", problem="prompt", answer="solution", answer_rule="number",
            key="extra_info.index", distinct=True, count=17398,
            content="c56be947f5853ad641dec43b06e27f3bafe1b8d6112428960392adc2c52632d1",
        ),
        HubSet(
            name="dapo_english", title="DAPO-Math-17k, English", id="open-r1/DAPO-Math-17k-Processed", config="en",
            split="train", problem="prompt", answer="solution", answer_rule="number",
            key="extra_info.index", distinct=True, count=14116,
            content="1c85daac74ff9672946b472ec3c402dc85c5a27f890a69146a43aa73a0628792",
        ),
    )
}  # fmt: skip


def load_problems(entry: ProblemSet | HubSet) -> list[Problem]:
    """The problems of an entry: generated, or loaded from the hub.

    Raises UserError if the set cannot be loaded or is not the pinned one, or if a gold answer is not graded correct
    against itself.
    """
    problems = obtain(entry)[0]
    check_golds(entry.name, problems)
    return problems


def obtain(entry: ProblemSet | HubSet) -> tuple[list[Problem], dict]:
    """The problems of an entry, compared with its pins, and their source for the manifest."""
    if entry.kind == "generated":
        return make(entry), {"seed": entry.seed, "content": entry.content}
    problems, revision = hub.fetch(entry)
    found = content_hash(problems)
    if (len(problems), found) != (entry.count, entry.content):
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

    Training problems that occur in a benchmark of the same world or, for sets of the hub, in any benchmark of the hub,
    evaluated here or not, are dropped and listed in the manifest. Raises UserError for an unknown name, for content
    that cannot be loaded or is not the pinned one, and for a gold answer that is not graded correct against itself.
    """
    for name, known in ((train_set, TRAIN_SETS), *((name, BENCHMARKS) for name in benchmarks)):
        if name not in known:
            raise UserError(f"unknown problem set {name!r}; known: {', '.join(known)}")
    entries = [TRAIN_SETS[train_set]]
    kind = _kind(entries[0])
    entries += [entry for entry in BENCHMARKS.values() if _kind(entry) == kind or entry.name in benchmarks]
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
