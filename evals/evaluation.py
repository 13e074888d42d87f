"""Evaluate a policy on benchmarks: sample what is missing, grade, score, with the samples kept beside the scores.

`evaluate` scores a checkpoint of a study, `evaluate_model` any causal language model. Both do the same work: what is
in the store is not generated again, and no model is loaded where nothing is missing.
"""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dynclip.runtime import checkpoints, hardware
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import sha256, write_json
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import environment
from evals import grading
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS, load_problems, read_problems
from evals.metrics import score
from evals.sampling.choice import Choice, Job, choose_engine, fitting_batch
from evals.sampling.engine import Engine, derived_seed, installed_engines
from evals.sampling.models import Model, local, resolve
from evals.sampling.prompts import TEMPLATES, Template, choose_template, render
from evals.sampling.settings import Evaluation, Sampling
from evals.sampling.store import Gap, Store, parts_folder, write_samples
from evals.sampling.transformers_engine import TransformersEngine
from evals.sampling.vllm_engine import VLLMEngine

THREADS = 1  # fixed: the thread count is part of a float sum's result, and so of the samples
# Below TINY parameters a second thread costs more than it brings; in batches of TINY_BATCH such a model's samples are
# also those that a study draws from it.
TINY, TINY_BATCH = 5e6, 512
VERDICT = ("status", "correct", "flexible", "answer")  # of a sample, by the grader
TYPICAL_TOKENS = 500  # of a worked answer, for the choice of an engine; `max_tokens` is a bound, not an estimate


@dataclass(frozen=True)
class Task:
    """One benchmark to be scored: what is asked, how, how often, and where samples and score go."""

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
        """What all samples of this task have in common; with problem and index it addresses one."""
        return {
            "model": model.digest,
            "benchmark": self.name,
            "content": self.content,
            "template": self.template.label,
            "sampling": {**vars(self.sampling), "seed": self.seed},
        }


def evaluate(
    model: Path,
    benchmarks: list[str],
    data: Path,
    labels: dict,
    samples: Path,
    scores: Path,
    say=print,
    how: Evaluation | None = None,
    template: str = "plain",
) -> dict[str, dict]:
    """Score the policy in `model` on each of `benchmarks`, read from `data`/<benchmark>.jsonl, as `how` says.

    One engine start serves them all. Writes `samples`/<benchmark>.parquet, then `scores`/<benchmark>.json, whose
    leading fields are `labels` (scale, method, seed, checkpoint, step). Returns the score records by benchmark.
    Raises UserError for a damaged model or data file.
    """
    rule = "warmup" if labels.get("method") == "base" else "train"
    checkpoints.verify(model, rebuild_command(rule, model / checkpoints.MANIFEST))
    how, source = how or Evaluation(), local(model)
    tasks = [
        Task(
            name,
            BENCHMARKS[name].content,
            read_problems(data / f"{name}.jsonl")[: how.limit],
            how.k or BENCHMARKS[name].k,
            replace(BENCHMARKS[name].sampling, **({"max_tokens": how.max_tokens} if how.max_tokens else {})),
            BENCHMARKS[name].seed,  # the same draws for every policy: common random numbers
            TEMPLATES[template],
            samples / f"{name}.parquet",
            scores / f"{name}.json",
        )
        for name in benchmarks
    ]

    def start(samples_missing: int) -> Engine:
        import torch

        if how.engine == "auto":
            return fastest_engine(samples_missing, source, tasks, say=say)
        torch.set_num_threads(THREADS)
        return TransformersEngine.load(model, stops=sorted({stop for task in tasks for stop in task.template.stops}))

    return run_tasks(tasks, source, start, labels, say)


def evaluate_model(
    model: str | Path,
    benchmarks: Sequence[str],
    k: int | None = None,
    limit: int | None = None,
    engine: str = "auto",
    template: str = "auto",
    out: Path | None = None,
    sampling: dict | None = None,
    seed: int | None = None,
    log: Path | None = None,
) -> dict[str, dict]:
    """Score any causal language model, a local folder or a hub id, on each of `benchmarks`.

    k, sampling (fields of `Sampling`) and seed default to the benchmark's own. limit: the first so many problems.
    Writes <benchmark>.parquet and <benchmark>.json under `out` (default: `default_out`); returns the score records.
    Raises UserError, one line, for whatever the caller can put right.
    """
    names = list(dict.fromkeys(benchmarks))
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"unknown benchmark {name!r}; the benchmarks are: {', '.join(BENCHMARKS)}")
    say = Progress("evaluate", len(names), log).say
    source = resolve(str(model))
    out = Path(out) if out else default_out(source.name)
    hardware.check_writable(out)
    tasks = []
    for name in names:
        entry = BENCHMARKS[name]
        chosen, why = choose_template(template, source.name, source.chat_template, entry.kind)
        say(f"{name}: template {chosen.label} ({chosen.title}): {why}")
        tasks.append(
            Task(
                name,
                entry.content,
                load_problems(entry, limit),
                k or entry.k,
                replace(entry.sampling, **(sampling or {})),
                entry.seed if seed is None else seed,
                chosen,
                out / f"{name}.parquet",
                out / f"{name}.json",
            )
        )

    def start(samples_missing: int) -> Engine:
        return fastest_engine(samples_missing, source, tasks, engine, say)

    return run_tasks(tasks, source, start, {}, say, lambda name, total: Progress(name, total, log))


def fastest_engine(
    samples_missing: int, model: Model, tasks: Sequence[Task], wanted: str = "auto", say=print
) -> Engine:
    """The engine that finishes first here, or the one that is `wanted`, loaded; said with the reason."""
    import torch

    machine = hardware.detect()
    if not torch.cuda.is_available():  # a CPU build beside a GPU
        machine = replace(machine, gpus=())
    tokens = max(min(task.sampling.max_tokens, TYPICAL_TOKENS) for task in tasks)
    job = Job(samples_missing, tokens, model.parameters)
    choice = choose_engine(job, machine, installed_engines(), wanted, model.stored_float32)
    say(f"engine {choice.engine}: {choice.why}")
    return start_engine(choice, model, tasks, machine, fall_back=wanted == "auto", say=say)


def start_engine(choice: Choice, model: Model, tasks: Sequence[Task], machine, fall_back: bool, say=print) -> Engine:
    """The chosen engine, loaded. With `fall_back`, a model that vLLM cannot run goes to transformers, said aloud."""
    import torch

    tiny = model.parameters < TINY
    torch.set_num_threads(THREADS if tiny else int(os.environ.get("OMP_NUM_THREADS", 0)) or machine.cores)
    stops = sorted({stop for task in tasks for stop in task.template.stops})
    if choice.engine == "vllm":
        cache_gib = max(1.0, min(8.0, machine.memory_gib / 6))
        try:
            return VLLMEngine.load(
                model.folder, choice.dtype, choice.device, stops, cache_gib=cache_gib, compiled=choice.compiled
            )
        except UserError as error:
            if not fall_back:
                raise
            say(f"{error}; going on with transformers")
    longest = max(task.sampling.max_tokens for task in tasks)
    memory = min(gpu.memory_gib for gpu in machine.gpus) if machine.gpus else machine.memory_gib
    most = TINY_BATCH if tiny else 64
    batch = fitting_batch(memory * hardware.GIB, model.cache_bytes_per_token, longest, most)
    return TransformersEngine.load(model.folder, batch, choice.dtype, choice.device, stops)


def default_out(name: str) -> Path:
    """results/evaluations/<the model's name as one folder name>."""
    return Path("results") / "evaluations" / (re.sub(r"[^\w.@-]+", "--", name.strip("./")) or "model")


def run_tasks(
    tasks: Sequence[Task],
    model: Model,
    start: Callable[[int], Engine],
    labels: dict,
    say=print,
    show: Callable[[str, int], Progress] | None = None,
) -> dict[str, dict]:
    """Complete, grade and score every task; `start(samples missing)` is called once, and only if any are missing.

    `show(name, problems)` makes the progress display of one benchmark; none where it is None.
    """
    with ExitStack() as stack:
        work = []
        for task in tasks:
            store = stack.enter_context(Store(parts_folder(task.samples), task.address(model), say))
            work.append((task, store, store.gaps(task.ids, task.k)))
        missing = sum(gap.samples for _, _, gaps in work for gap in gaps)
        engine = start(missing) if missing else None
        if engine:
            stack.callback(engine.close)
        records = {}
        for task, store, gaps in work:
            if gaps:
                fill(engine, store, task, gaps, say, show)
            else:
                say(f"{task.name}: all {task.k * len(task.problems)} samples are stored, none to generate")
            records[task.name] = finish(store, task, model, labels, say)
        return records


def fill(
    engine: Engine,
    store: Store,
    task: Task,
    gaps: Sequence[Gap],
    say=print,
    show: Callable[[str, int], Progress] | None = None,
) -> None:
    """Generate the samples of `gaps`, part by part, each on disk before the next is begun."""
    total = task.k * len(task.problems)
    missing = sum(gap.samples for gap in gaps)
    if missing < total:
        say(f"{task.name}: {total - missing} of {total} samples are stored, {missing} to generate")
    prompts = [render(problem.problem, engine.tokenizer, task.template) for problem in task.problems]
    guarantees = engine.guarantees()
    progress = show(task.name, sum(len(gap.positions) for gap in gaps)) if show else None
    began, done, tokens = time.perf_counter(), 0, 0
    for gap in gaps:
        state = store.state_before(gap, guarantees)
        # The benchmark's own seed where it begins, or where every sample has one of its own; another one elsewhere, so
        # that no draws are used twice.
        begins = engine.seeds_each or state or gap.positions[0] == 0
        seed = task.seed if begins else derived_seed(task.seed, 0, "from", gap.positions[0])
        chosen = [prompts[position] for position in gap.positions]
        # What follows a position is told by its number, so only a gap without holes can be continued from inside.
        unbroken = gap.positions[-1] - gap.positions[0] == len(gap.positions) - 1
        since = time.perf_counter()
        for chunk in engine.stream(
            chosen, gap.n, task.sampling, seed, gap.first, state, special_tokens=task.template.special_tokens
        ):
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
            store.add(gap, after, chunk.state if unbroken else b"", guarantees, round(now - since, 3), rows)
            since = now
            done += len(chunk.positions)
            tokens += sum(row["tokens"] for row in rows)
            if progress:
                progress.step(done, f"problems, {tokens / (now - began):.0f} tokens/s")


def finish(store: Store, task: Task, model: Model, labels: dict, say=print) -> dict:
    """Grade the stored samples, write the sample file, then the score record, which is returned."""
    address = task.address(model)
    rows = store.rows(task.ids, task.k)
    rows = with_verdicts(rows, task.problems, _graded(task, address))
    stored = write_samples(task.samples, rows)
    makers = store.makers(rows)
    seconds = sum(maker["seconds"] for maker in makers)
    tokens = sum(row["tokens"] for row in rows)
    record = {
        **labels,
        "benchmark": task.name,
        "k": task.k,
        "n_problems": len(task.problems),
        **score(rows),
        "samples": stored,
        "model": {"path": model.name, "sha256": model.sha256, "revision": model.revision},
        "sampling": {**vars(task.sampling), "seed": task.seed},
        "engine": " + ".join(dict.fromkeys(maker["engine"] for maker in makers)),
        "guarantees": makers,
        "address": address,
        "grader": grader_version(),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "seconds": round(seconds, 2),
        "environment": environment(),
    }
    write_json(task.score, record)
    say(summary(record))
    return record


def with_verdicts(rows: Sequence[dict], problems: Sequence[Problem], known: dict) -> list[dict]:
    """`rows` with what VERDICT names: taken from `known` ((problem id, index) -> row), else graded now."""
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
    """`rows` with what each votes for in maj@k: correct answers are one candidate, wrong ones go by their value.

    What could not be read or compared with the gold is not compared with other answers either: it votes for its text.
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
    """What decides verdicts; a change grades every stored sample again."""
    return grading.GRADER_VERSION


def _graded(task: Task, address: dict) -> dict:
    """Verdicts of the present sample file by (problem id, index); empty unless this grader gave them."""
    import pandas as pd

    try:
        record = json.loads(task.score.read_text())
        same = record["address"] == address and record["grader"] == grader_version()
        if not same or sha256(task.samples) != record["samples"]["sha256"]:
            return {}
        table = pd.read_parquet(task.samples)
        # Text columns read back as None or NaN where there is no answer.
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return {(row["problem_id"], row["index"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def summary(record: dict) -> str:
    """A score in one line: the headline with error and interval, the flexible number, problems, time, tokens/s."""
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
