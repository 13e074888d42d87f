"""Evaluate a policy on benchmarks: sample what is missing, grade, and score.

`evaluate` serves the workflow's checkpoints and `dynclip evaluate --model` alike. Samples in the store are not
generated again, and no model is loaded where none are missing.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_json
from dynclip.runtime.progress import Progress, clock
from dynclip.runtime.provenance import environment
from evals import grading
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS, load_problems, read_problems
from evals.endpoint import SERVED, ServedModel, engine_of
from evals.metrics import score
from evals.sampling.choice import Choice, Job, cache_bytes, choose_engine, fitting_batch
from evals.sampling.engine import Engine, derived_seed, installed_engines
from evals.sampling.models import Model
from evals.sampling.process import Threads
from evals.sampling.prompts import Template, choose_template, render
from evals.sampling.settings import Evaluation, Sampling
from evals.sampling.store import Gap, Store, parts_folder, write_samples
from evals.sampling.transformers_engine import TransformersEngine
from evals.sampling.vllm_engine import VLLMEngine

THREADS = 1  # the number of threads changes the order of float additions, and so the samples
# Below TINY parameters a second thread makes sampling slower. In batches of TINY_BATCH such a model's samples are the
# ones that the fixed engine of a study draws.
TINY, TINY_BATCH = 5e6, 512
VERDICT = ("status", "correct", "flexible", "answer")  # a sample's fields that the grader fills
PROMPT_TOKENS = 200  # of a template, at most
TYPICAL_TOKENS = 500  # of a worked answer, for the choice of an engine; few answers reach `max_tokens`


@dataclass(frozen=True)
class Request:
    """One evaluation: `model` on `benchmarks`, as `how` says.

    Writes `samples`/<benchmark>.parquet and `scores`/<benchmark>.json. data: the folder with a study's problems,
    <benchmark>.jsonl; None for the registry's. labels: the leading fields of every score record (scale, method, seed,
    checkpoint, step).
    """

    model: Model | ServedModel
    benchmarks: tuple[str, ...]
    how: Evaluation
    samples: Path
    scores: Path
    data: Path | None = None
    labels: dict = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name of its progress lines, such as `evaluate grpo/seed0/final`."""
        place = "{method}/seed{seed}/{checkpoint}".format(**self.labels) if self.labels else ""
        return f"evaluate {place}".strip()


@dataclass(frozen=True)
class Task:
    """One benchmark to be scored: `k` samples of each of `problems`, and the files of the samples and the score."""

    name: str
    content: str
    problems: list[Problem]
    k: int
    sampling: Sampling
    seed: int
    template: Template
    samples: Path
    score: Path

    @property
    def ids(self) -> list[str]:
        return [problem.id for problem in self.problems]

    def address(self, model: Model) -> dict:
        """What all samples of this task have in common. With problem and index it identifies one sample."""
        return {
            "model": model.digest,
            "benchmark": self.name,
            "content": self.content,
            "template": self.template.label,
            "sampling": {**vars(self.sampling), "seed": self.seed},
        }


def evaluate(request: Request, log_file: Path | None = None) -> dict[str, dict]:
    """Score `request.model` on each of its benchmarks; one engine start serves them all.

    Progress lines also go to `log_file`. Returns the score records by benchmark. Raises UserError, one line, for an
    unknown name, a damaged data file, or a folder that cannot be written.
    """
    log = Progress(request.title, len(request.benchmarks), log_file).log
    hardware.check_writable(request.scores)
    tasks, model = tasks_of(request, log), request.model

    def start(samples_missing: int) -> Engine:
        if isinstance(model, ServedModel):
            return engine_of(model, [task.template for task in tasks], request.how.concurrency)
        if request.how.engine == "fixed":
            return fixed_engine(model, tasks)
        return fastest_engine(samples_missing, model, tasks, request.how.engine, log)

    # A checkpoint of a study is scored by a workflow job among others, which shows no progress of each benchmark.
    show = None if request.labels else lambda name, total: Progress(name, total, log_file)
    return run_tasks(tasks, model, start, request.labels, log, show)


def tasks_of(request: Request, log=print) -> list[Task]:
    """One task for each benchmark, with the benchmark's own values where the request gives none."""
    check_benchmarks(request.benchmarks)
    how, model, tasks = request.how, request.model, []
    values = {name: getattr(how, name) for name in ("temperature", "top_p", "top_k", "max_tokens")}
    changed = {name: value for name, value in values.items() if value is not None}
    for name in dict.fromkeys(request.benchmarks):
        entry = BENCHMARKS[name]
        if isinstance(model, ServedModel) and how.template == "auto":
            template, why = SERVED, "the server has the chat template"
        else:
            template, why = choose_template(how.template, model.name, model.chat_template, entry.kind)
        if how.template == "auto":
            log(f"{name}: template {template.label} ({template.title}): {why}")
        if request.data:
            problems = read_problems(request.data / f"{name}.jsonl")[: how.limit]
        else:
            problems = load_problems(entry, how.limit)
        task = Task(
            name=name,
            content=entry.content,
            problems=problems,
            k=how.k or entry.k,
            sampling=replace(entry.sampling, **changed),
            # The benchmark's own seed: every policy is sampled with the same random numbers.
            seed=entry.seed if how.seed is None else how.seed,
            template=template,
            samples=request.samples / f"{name}.parquet",
            score=request.scores / f"{name}.json",
        )
        tasks.append(task)
    return tasks


def check_benchmarks(names: Iterable[str]) -> None:
    """Raise UserError for a name that is no benchmark."""
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"unknown benchmark {name!r}; the benchmarks are: {', '.join(BENCHMARKS)}")


def stop_tokens(tasks: Sequence[Task]) -> list[str]:
    """The tokens that end a response under any of the tasks' templates."""
    return sorted({stop for task in tasks for stop in task.template.stops})


def fixed_engine(model: Model, tasks: Sequence[Task]) -> Engine:
    """The engine of `Evaluation(engine="fixed")`."""
    import torch

    torch.set_num_threads(THREADS)
    return TransformersEngine.load(model.folder, stops=stop_tokens(tasks))


def fastest_engine(
    samples_missing: int, model: Model, tasks: Sequence[Task], wanted: str = "auto", log=print
) -> Engine:
    """Load the engine that finishes first on this machine, or the `wanted` one, and log the reason."""
    import torch

    machine = hardware.detect()
    most = THREADS if model.parameters < TINY else int(os.environ.get("OMP_NUM_THREADS", 0)) or machine.cores
    threads = Threads(most, machine.cores, log) if most > 1 else None
    if not threads:
        torch.set_num_threads(most)
    if not torch.cuda.is_available():  # a CPU build beside a GPU
        machine = replace(machine, gpus=())
    limit = max(task.sampling.max_tokens for task in tasks)
    job = Job(samples_missing, min(limit, TYPICAL_TOKENS), model.parameters, limit)
    free = replace(machine, cores=threads.count if threads else machine.cores)
    choice = choose_engine(job, free, installed_engines(), wanted, model.stored_float32)
    log(f"engine {choice.engine}: {choice.why}")
    engine = start_engine(choice, model, tasks, machine, samples_missing, fall_back=wanted == "auto", log=log)
    if threads and choice.device == "cpu":
        engine.threads = threads
        threads.apply()  # loading may have changed their number
    return engine


def start_engine(
    choice: Choice, model: Model, tasks: Sequence[Task], machine, samples: int, fall_back: bool, log=print
) -> Engine:
    """Load the chosen engine. With `fall_back`, transformers runs what vLLM cannot run, and says so."""
    tiny = model.parameters < TINY
    stops = stop_tokens(tasks)
    memory = min(gpu.memory_gib for gpu in machine.gpus) if machine.gpus else machine.memory_gib
    longest = max(task.sampling.max_tokens for task in tasks)
    if choice.engine == "vllm":
        # A token has two characters or more in all but a few texts; the template is short.
        prompt = PROMPT_TOKENS + max((len(p.problem) for task in tasks for p in task.problems), default=0) // 2
        size = model.cache_bytes_per_token * (2 if choice.dtype == "float32" else 1)
        cache = cache_bytes(memory * hardware.GIB, size, longest + prompt, samples, model.context)
        try:
            return VLLMEngine.load(
                model.folder, choice.dtype, choice.device, stops, cache_gib=cache / 2**30, compiled=choice.compiled
            )
        except UserError as error:
            if not fall_back:
                raise
            log(f"{error}; going on with transformers")
    most = TINY_BATCH if tiny else 64
    batch = fitting_batch(memory * hardware.GIB, model.cache_bytes_per_token, longest, most)
    return TransformersEngine.load(model.folder, batch, choice.dtype, choice.device, stops)


def default_out(name: str) -> Path:
    """results/evaluations/<folder>, where <folder> is the model's name without slashes."""
    return Path("results") / "evaluations" / (re.sub(r"[^\w.@-]+", "--", name.strip("./")) or "model")


def run_tasks(
    tasks: Sequence[Task],
    model: Model,
    start: Callable[[int], Engine],
    labels: dict,
    log=print,
    show: Callable[[str, int], Progress] | None = None,
) -> dict[str, dict]:
    """Sample what is missing, grade and score every task. `start(samples missing)` loads the engine, if any are.

    `show(name, problems)` makes the progress display of one benchmark; None shows none.
    """
    with ExitStack() as stack:
        work = []
        for task in tasks:
            store = stack.enter_context(Store(parts_folder(task.samples), task.address(model), log))
            work.append((task, store, store.gaps(task.ids, task.k)))
        missing = sum(gap.samples for _, _, gaps in work for gap in gaps)
        engine = start(missing) if missing else None
        if engine:
            stack.callback(engine.close)
        records = {}
        for task, store, gaps in work:
            if gaps:
                fill(engine, store, task, gaps, log, show)
            else:
                log(f"{task.name}: all {task.k * len(task.problems)} samples are stored, none to generate")
            records[task.name] = finish(store, task, model, labels, log)
        return records


def fill(
    engine: Engine,
    store: Store,
    task: Task,
    gaps: Sequence[Gap],
    log=print,
    show: Callable[[str, int], Progress] | None = None,
) -> None:
    """Generate the samples of `gaps` in parts. Each part is on disk before the next one begins."""
    total = task.k * len(task.problems)
    missing = sum(gap.samples for gap in gaps)
    if missing < total:
        log(f"{task.name}: {total - missing} of {total} samples are stored, {missing} to generate")
    prompts = [render(problem.problem, engine.tokenizer, task.template) for problem in task.problems]
    special = task.template.adds_special_tokens(engine.tokenizer)
    guarantees = engine.kept()
    progress = show(task.name, sum(len(gap.positions) for gap in gaps)) if show else None
    began, done, tokens, drawn = time.perf_counter(), 0, 0, 0
    for gap in gaps:
        state = store.state_before(gap, guarantees)
        # The task's seed at its beginning, or where every sample has a seed of its own; elsewhere another seed, so that
        # no random numbers are used twice.
        begins = engine.seeds_each or state or gap.positions[0] == 0
        seed = task.seed if begins else derived_seed(task.seed, 0, "from", gap.positions[0])
        chosen = [prompts[position] for position in gap.positions]
        # The store records where to continue by one position, so only a gap without holes can be continued.
        unbroken = gap.positions[-1] - gap.positions[0] == len(gap.positions) - 1
        since = time.perf_counter()
        for chunk in engine.stream(chosen, gap.n, task.sampling, seed, gap.first, state, special_tokens=special):
            rows = [
                {
                    "problem_id": task.problems[gap.positions[place]].id,
                    "index": gap.first + i,
                    "text": sample.text,
                    "tokens": sample.tokens,
                    "finish": sample.finish,
                }
                for place, group in zip(chunk.positions, chunk.samples, strict=True)
                for i, sample in enumerate(group)
            ]
            now = time.perf_counter()
            after = gap.positions[max(chunk.positions)] + 1
            store.add(gap, after, chunk.state if unbroken else b"", engine.kept(), round(now - since, 3), rows)
            since = now
            done += len(chunk.positions)
            tokens += sum(row["tokens"] for row in rows)
            drawn += len(rows)
            if progress:
                rate, rest = tokens / (now - began), missing - drawn
                progress.step(done, f"problems, {rate:.0f} tokens/s", _left(rest, tokens, drawn, rate, task.sampling))


def _left(rest: int, tokens: int, drawn: int, rate: float, sampling: Sampling) -> str:
    """Time for `rest` more samples: if they are as long as those so far, and if they run to the limit.

    The first that finish are the short ones, so the truth lies between.
    """
    if not rest or not rate:
        return clock(0)
    return f"{clock(rest * tokens / drawn / rate)}-{clock(rest * sampling.max_tokens / rate)}"


def finish(store: Store, task: Task, model: Model, labels: dict, log=print) -> dict:
    """Grade the stored samples, write the sample file, then the score record, which is returned."""
    address = task.address(model)
    rows = store.rows(task.ids, task.k)
    rows = with_verdicts(rows, task.problems, _graded(task, address))
    return write_score(task, model, labels, rows, score(rows), store.makers(rows), log)


def write_score(
    task: Task, model: Model, labels: dict, rows: Sequence[dict], numbers: dict, makers: Sequence[dict], log=print
) -> dict:
    """Write the sample file, then the score record, which is returned. `numbers`: what was computed from `rows`.

    `makers`: engine, seconds and promises of whatever made the rows.
    """
    stored = write_samples(task.samples, rows)
    seconds = sum(maker["seconds"] for maker in makers)
    tokens = sum(row["tokens"] for row in rows)
    record = {
        **labels,
        "benchmark": task.name,
        "k": task.k,
        "n_problems": len(numbers["per_problem"]),
        **numbers,
        "samples": stored,
        "model": {"path": model.name, "sha256": model.sha256, "revision": model.revision},
        "sampling": {**vars(task.sampling), "seed": task.seed},
        "engine": " + ".join(dict.fromkeys(maker["engine"] for maker in makers)),
        "guarantees": makers,
        "address": task.address(model),
        "grader": grader_version(),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "seconds": round(seconds, 2),
        "environment": environment(),
    }
    write_json(task.score, record)
    log(summary(record))
    return record


def with_verdicts(rows: Sequence[dict], problems: Sequence[Problem], known: dict) -> list[dict]:
    """`rows` with the fields of VERDICT: from `known` ((problem id, index) -> row) where the text is the same, else
    graded now."""
    by_id = {problem.id: problem for problem in problems}
    fresh = [row for row in rows if known.get((row["problem_id"], row["index"]), {}).get("text") != row["text"]]
    golds = [by_id[row["problem_id"]] for row in fresh]
    verdicts = grading.grade_many(
        [(row["text"], gold.answer) for row, gold in zip(fresh, golds, strict=True)],
        truncated=[row["finish"] != "stop" for row in fresh],
        tolerances=[gold.tolerance for gold in golds],
        flexible=True,
    )
    graded = {
        (row["problem_id"], row["index"]): {
            "status": verdict.status,
            "correct": verdict.correct,
            "flexible": verdict.flexible,
            "answer": grading.extract(row["text"]),
        }
        for row, verdict in zip(fresh, verdicts, strict=True)
    }
    judged = [
        {**row, **{name: found[name] for name in VERDICT}}
        for row in rows
        for found in [graded.get((row["problem_id"], row["index"])) or known[row["problem_id"], row["index"]]]
    ]
    return with_candidates(judged)


def with_candidates(rows: Sequence[dict]) -> list[dict]:
    """`rows` with the `candidate` each votes for in maj@k: correct answers share one, wrong ones share one per value.

    An answer that could not be read or compared with the gold answer votes for its own text.
    """
    problems: dict[str, list[dict]] = {}
    for row in rows:
        problems.setdefault(row["problem_id"], []).append(row)
    wrong = [[row["answer"] if row["status"] == "wrong" else None for row in group] for group in problems.values()]
    for group, found in zip(problems.values(), grading.candidates(wrong), strict=True):
        right = next((row["answer"] for row in group if row["correct"]), None)
        for row, candidate in zip(group, found, strict=True):
            row["candidate"] = right if row["correct"] else candidate or row["answer"]
    return list(rows)


def grader_version() -> str:
    """The grader's version. When it changes, every stored sample is graded again."""
    return grading.GRADER_VERSION


def _graded(task: Task, address: dict) -> dict:
    """Verdicts in the sample file by (problem id, index). Empty if they are another grader's or the file changed."""
    import pandas as pd

    try:
        record = json.loads(task.score.read_text())
        same = record["address"] == address and record["grader"] == grader_version()
        if not same or sha256(task.samples) != record["samples"]["sha256"]:
            return {}
        table = pd.read_parquet(task.samples)
        # pandas reads a missing answer as None or NaN.
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return {(row["problem_id"], row["index"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def summary(record: dict) -> str:
    """A score in one line: strict score with error and interval, flexible score, problems, time, tokens/s."""
    average = record["avg_at_k"]
    error = "" if average["stderr"] is None else f" ± {average['stderr']:.3f} (problem-clustered SE)"
    span = average["interval"]
    limits = "" if span["low"] is None else f", 95 % interval [{span['low']:.3f}, {span['high']:.3f}]"
    speed = "" if record["tokens_per_second"] is None else f", {record['tokens_per_second']:.0f} tokens/s"
    flexible = f"flexible {record['flexible']['avg_at_k']['value']:.3f}"
    return (
        f"{record['benchmark']}: {record['headline']} avg@{record['k']} {average['value']:.3f}{error}{limits}; "
        f"{flexible}; {record['n_problems']} problems, {record['seconds']:.1f} s{speed}"
    )
