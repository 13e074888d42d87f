"""From stored samples to a score: grade them, write the sample file, then the score record."""

import json
from collections.abc import Sequence

from dynclip.runtime.files import seal, sha256, write_json
from dynclip.runtime.provenance import environment
from dynclip.runtime.text import say
from evals import grading
from evals.benchmarks.problem import Problem
from evals.metrics import numbers_of
from evals.sampling.models import Model
from evals.sampling.store import Store, read_samples, write_samples
from evals.sampling.task import Task

VERDICT = ("status", "correct", "flexible", "answer")  # a sample's fields that the grader fills


def finish(store: Store, task: Task, model: Model, labels: dict, log=say) -> dict:
    """Grade the stored samples, write the sample file, then the score record, which is returned."""
    address = task.address(model)
    rows = store.rows(task.ids, task.k)
    rows = with_verdicts(rows, task.problems, _graded(task, address))
    return write_score(task, model, labels, rows, numbers_of(rows, task.until), store.makers(rows), log)


def write_score(
    task: Task, model: Model, labels: dict, rows: Sequence[dict], numbers: dict, makers: Sequence[dict], log=say
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
        **({"released": task.released} if task.released else {}),
        "k": task.k,
        "n_problems": len(numbers["per_problem"]),
        "benchmark_problems": task.whole or len(numbers["per_problem"]),
        **numbers,
        "samples": stored,
        "model": {"path": model.name, "sha256": model.sha256, "revision": model.revision},
        "sampling": {**task.sampling.record, "seed": task.seed},
        "engine": " + ".join(dict.fromkeys(maker["engine"] for maker in makers)),
        "guarantees": makers,
        "address": task.address(model),
        "shots": task.template.shots,
        "grader": grader_version(),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "seconds": round(seconds, 2),
        "environment": environment(),
    }
    record = seal(record)
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
        problems=[gold.problem for gold in golds],
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
    try:
        record = json.loads(task.score.read_text())
        same = record["address"] == address and record["grader"] == grader_version()
        if not same or sha256(task.samples) != record["samples"]["sha256"]:
            return {}
        return {(row["problem_id"], row["index"]): row for row in read_samples(task.samples)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def summary(record: dict) -> str:
    """A score in one line: strict score with error and interval, flexible score, problems, time, tokens/s."""
    average = record["avg_at_k"]
    error = "" if average["stderr"] is None else f" ± {average['stderr']:.3f} (problem-clustered SE)"
    span = average["interval"]
    limits = "" if span["low"] is None else f", 95 % interval [{span['low']:.3f}, {span['high']:.3f}]"
    speed = "" if record["tokens_per_second"] is None else f", {record['tokens_per_second']:.0f} tokens/s"
    whole = record["benchmark_problems"]
    problems = f"{record['n_problems']} {f'of {whole} ' * (whole > record['n_problems'])}problems"
    flexible = f"flexible {record['flexible']['avg_at_k']['value']:.3f}"
    return (
        f"{record['benchmark']}: {record['headline']} avg@{record['k']} {average['value']:.3f}{error}{limits}; "
        f"{flexible}; {problems}, {record['seconds']:.1f} s{speed}"
    )
