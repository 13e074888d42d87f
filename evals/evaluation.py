"""Evaluate one policy on benchmarks: sample, grade, score, with the samples kept beside the scores."""

import time
from pathlib import Path

from dynclip import checkpoints
from dynclip.errors import rebuild_command
from dynclip.files import write_json
from dynclip.provenance import environment
from evals.benchmarks import BENCHMARKS, read_problems
from evals.engines import Sampling, TransformersEngine
from evals.grading import extract, grade_many
from evals.metrics import score
from evals.samples import write_samples

THREADS = 1  # fixed: the thread count is part of a float sum's result, and so of the samples


def evaluate(
    model: Path,
    benchmarks: list[str],
    data: Path,
    labels: dict,
    samples: Path,
    scores: Path,
    say=print,
) -> dict[str, dict]:
    """Score the policy in `model` on each of `benchmarks`, read from `data`/<benchmark>.jsonl.

    One engine start serves them all. Writes `samples`/<benchmark>.parquet, then `scores`/<benchmark>.json, whose
    leading fields are `labels` (scale, method, seed, checkpoint, step). Returns the score records by benchmark.
    Raises UserError for a damaged model or data file.
    """
    import torch

    torch.set_num_threads(THREADS)
    rule = "warmup" if labels.get("method") == "base" else "train"
    checkpoints.verify(model, rebuild_command(rule, model / checkpoints.MANIFEST))
    problems = {name: read_problems(data / f"{name}.jsonl") for name in benchmarks}
    engine = TransformersEngine.load(model)
    return {
        name: evaluate_benchmark(engine, model, name, problems[name], labels, samples, scores, say)
        for name in benchmarks
    }


def evaluate_benchmark(engine, model, name, problems, labels, samples, scores, say) -> dict:
    """Sample, grade and score one benchmark; see `evaluate`."""
    benchmark = BENCHMARKS[name]
    sampling: Sampling = benchmark.sampling
    seed = benchmark.seed  # the same draws for every policy: common random numbers
    started = time.perf_counter()
    groups = engine.generate([p.problem for p in problems], benchmark.k, sampling, seed)
    seconds = time.perf_counter() - started
    flat = [
        (problem, i, sample) for problem, group in zip(problems, groups, strict=True) for i, sample in enumerate(group)
    ]
    verdicts = grade_many(
        [(sample.text, problem.answer) for problem, _, sample in flat],
        truncated=[sample.finish == "length" for _, _, sample in flat],
    )
    rows = [
        {
            "problem_id": problem.id,
            "index": i,
            "text": sample.text,
            "tokens": sample.tokens,
            "finish": sample.finish,
            "status": verdict.status,
            "correct": verdict.correct,
            "answer": extract(sample.text),
        }
        for (problem, i, sample), verdict in zip(flat, verdicts, strict=True)
    ]
    stored = write_samples(samples / f"{name}.parquet", rows)
    tokens = sum(row["tokens"] for row in rows)
    record = {
        **labels,
        "benchmark": name,
        "k": benchmark.k,
        "n_problems": len(problems),
        **score(rows),
        "samples": stored,
        "model": {"path": str(model), "sha256": checkpoints.weights_sha256(model)},
        "sampling": {**vars(sampling), "seed": seed},
        "engine": engine.name,
        "seconds": round(seconds, 2),
        "environment": environment(),
    }
    write_json(scores / f"{name}.json", record)
    value, error = record["avg_at_k"]["value"], record["avg_at_k"]["stderr"]
    say(
        f"{name}: avg@{benchmark.k} {value:.3f} ± {error:.3f} (problem-clustered SE), {len(problems)} problems, "
        f"{seconds:.1f} s, {tokens / seconds:.0f} tokens/s"
    )
    return record
