"""Evaluate a policy on benchmarks: sample what is missing, grade, and score.

`evaluate` serves the workflow's checkpoints and `dynclip evaluate --model` alike. Samples in the store are not
generated again, and no model is loaded where none are missing.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

from dynclip.runtime import hardware
from dynclip.runtime.errors import UserError
from dynclip.runtime.progress import Progress, clock
from dynclip.runtime.text import say
from evals.benchmarks.loading import check_golds, content_hash, obtain, read_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS
from evals.benchmarks.subset import drawn
from evals.engines.budget import BudgetEngine
from evals.engines.endpoint import SERVED, ServedModel, engine_of
from evals.engines.engine import Engine, derived_seed
from evals.engines.start import fastest_engine, fixed_engine
from evals.sampling.forecast import Forecast
from evals.sampling.models import Model
from evals.sampling.prompts import choose_template, render
from evals.sampling.settings import Evaluation
from evals.sampling.shots import with_shots
from evals.sampling.store import Gap, Store, parts_folder
from evals.sampling.task import Task
from evals.scoring import finish


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
        engine = fastest_engine(samples_missing, model, tasks, request.how.engine, log)
        return BudgetEngine(engine) if request.how.thinking_budget else engine

    # A checkpoint of a study is scored by a workflow job among others, which shows no progress of each benchmark.
    show = None if request.labels else lambda name, total: Progress(name, total, log_file)
    return run_tasks(tasks, model, start, request.labels, log, show)


def tasks_of(request: Request, log=say) -> list[Task]:
    """One task for each benchmark, with the benchmark's own values where the request gives none."""
    check_benchmarks(request.benchmarks)
    how, model, tasks = request.how, request.model, []
    values = {name: getattr(how, name) for name in ("temperature", "top_p", "top_k", "max_tokens", "thinking_budget")}
    changed = {name: value for name, value in values.items() if value is not None}
    changed |= {"stop_repetition": True} if how.stop_repetition else {}
    for name in dict.fromkeys(request.benchmarks):
        entry = BENCHMARKS[name]
        if isinstance(model, ServedModel) and how.template == "auto":
            template, why = SERVED, "the server has the chat template"
        else:
            template, why = choose_template(how.template, model.name, model.chat_template, entry.kind)
        if how.template == "auto" and not how.shots:
            log(f"{name}: template {template.label} ({template.title}): {why}")
        problems, whole, content = problems_of(request, name)
        if how.shots:
            template = with_shots(entry, how.shots, problems)
            log(f"{name}: template {template.label} ({template.title})")
        if entry.released and not request.labels:
            log(f"{name}: problems public since {entry.released}: a model trained on later data may have seen them")
        task = Task(
            name=name,
            content=content,
            problems=problems,
            whole=whole,
            until=how.until,
            k=how.k or entry.k,
            sampling=replace(entry.sampling, **changed),
            # The benchmark's own seed: every policy is sampled with the same random numbers.
            seed=entry.seed if how.seed is None else how.seed,
            template=template,
            samples=request.samples / f"{name}.parquet",
            score=request.scores / f"{name}.json",
            released=entry.released,
        )
        tasks.append(task)
    return tasks


def problems_of(request: Request, name: str) -> tuple[list[Problem], int, str]:
    """The problems of a benchmark that are scored, the number of all of its problems, and their content hash."""
    entry, limit = BENCHMARKS[name], request.how.limit
    if request.data:
        problems = read_problems(request.data / f"{name}.jsonl")
        return problems[:limit], len(problems), entry.content or content_hash(problems)
    problems, source = obtain(entry)
    subset = drawn(problems, limit)
    check_golds(name, subset)
    return subset, len(problems), source["content"]


def check_benchmarks(names: Iterable[str]) -> None:
    """Raise UserError for a name that is no benchmark."""
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"unknown benchmark {name!r}; the benchmarks are: {', '.join(BENCHMARKS)}")


def default_out(name: str) -> Path:
    """results/evaluations/<folder>, where <folder> is the model's name without slashes."""
    return Path("results") / "evaluations" / (re.sub(r"[^\w.@-]+", "--", name.strip("./")) or "model")


def run_tasks(
    tasks: Sequence[Task],
    model: Model,
    start: Callable[[int], Engine],
    labels: dict,
    log=say,
    show: Callable[[str, int], Progress] | None = None,
) -> dict[str, dict]:
    """Sample what is missing, grade and score every task. `start(samples missing)` loads the engine, if any are.

    `show(name, problems)` makes the progress display of one benchmark; None shows none.
    """
    with ExitStack() as stack:
        stores = [stack.enter_context(Store(parts_folder(task.samples), task.address(model), log)) for task in tasks]
        missing = sum(
            gap.samples
            for task, store in zip(tasks, stores, strict=True)
            for gap in store.gaps(task.ids[: _enough(task)], task.k)
        )
        engine, records = None, {}
        for task, store in zip(tasks, stores, strict=True):
            for stage in task.stages():
                gaps = store.gaps(stage.ids, stage.k)
                if gaps:
                    if engine is None:
                        engine = start(missing)
                        stack.callback(engine.close)
                    fill(engine, store, stage, gaps, log, show)
                else:
                    log(f"{stage.name}: all {stage.k * len(stage.problems)} samples are stored, none to generate")
                records[task.name] = record = finish(store, stage, model, labels, log)
                if record.get("until", {}).get("reached"):
                    break
        return records


def _enough(task: Task) -> int:
    """At most so many problems are needed for the standard error of a task: as if half of all samples were correct."""
    return len(task.problems) if task.until is None else ceil(2500 / task.until**2)


def fill(
    engine: Engine,
    store: Store,
    task: Task,
    gaps: Sequence[Gap],
    log=say,
    show: Callable[[str, int], Progress] | None = None,
) -> None:
    """Generate the samples of `gaps` in parts. Each part is on disk before the next one begins."""
    total = task.k * len(task.problems)
    missing = sum(gap.samples for gap in gaps)
    if missing < total:
        log(f"{task.name}: {total - missing} of {total} samples are stored, {missing} to generate")
    prompts = [render(problem.problem, engine.tokenizer, task.template) for problem in task.problems]
    reading = {
        "special_tokens": task.template.adds_special_tokens(engine.tokenizer),
        "stop_texts": task.template.stop_texts,
    }
    guarantees = engine.kept()
    progress = show(task.name, sum(len(gap.positions) for gap in gaps)) if show else None
    began, done, ended = time.perf_counter(), 0, []
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
        for chunk in engine.stream(chosen, gap.n, task.sampling, seed, gap.first, state, **reading):
            rows = [
                {
                    "problem_id": task.problems[gap.positions[place]].id,
                    "index": gap.first + i,
                    "text": sample.text,
                    "tokens": sample.tokens,
                    "finish": sample.finish,
                    "thinking_tokens": sample.thinking_tokens,
                }
                for place, group in zip(chunk.positions, chunk.samples, strict=True)
                for i, sample in enumerate(group)
            ]
            now = time.perf_counter()
            after = gap.positions[max(chunk.positions)] + 1
            store.add(gap, after, chunk.state if unbroken else b"", engine.kept(), round(now - since, 3), rows)
            since = now
            done += len(chunk.positions)
            ended += [row["tokens"] for row in rows]
            if progress:
                forecast = Forecast(missing, task.sampling.max_tokens, ended, engine.unfinished(), now - began)
                low, high = map(clock, forecast.left())
                span = low if low == high else f"{low}-{high}"
                progress.step(done, f"problems, {forecast.rate:.0f} tokens/s", span)
