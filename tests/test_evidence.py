"""Evidence of a synthetic world: a base policy of each seed, and scores that are computed instead of sampled."""

import json
import shutil

import pandas as pd
import pytest
from synthetic_study import BENCHMARKS, _seal, edit, write_score, write_study

from dynclip.report.evidence import counts, load_evidence
from dynclip.report.records import checkpoint_folder, read_run
from dynclip.report.reference import provenance, write_counts, write_metrics
from dynclip.report.terminal.committed import read_committed
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from evals.metrics import numbers_of
from evals.sampling.store import read_samples, write_samples

SEEDS = (0, 1)


@pytest.fixture
def world(tmp_path):
    """results/<scale> of a synthetic study in which each seed has its own base policy."""
    (tmp_path / "Snakefile").touch()
    results = write_study(tmp_path / "results" / "tiny", methods=("grpo", "id"), seeds=SEEDS)
    for path in ("base", "scores/base", "samples/base"):
        shutil.rmtree(results / path)
    for seed in SEEDS:
        digest = _seal(results / "base" / f"seed{seed}", f"base {seed}".encode())
        for benchmark in BENCHMARKS:
            write_score(results, "base", seed, "final", 0, benchmark, 4, 10, 0.4, digest)
        for method in ("grpo", "id"):
            edit(results / "runs" / method / f"seed{seed}" / "run.json", base_model_sha256=digest)
    return results


def exact_score(results, successes=(0.25, 0.5, 1.0)):
    """Make one score of the study exact, with these probabilities."""
    path = results / "scores" / "id" / "seed1" / "final" / f"{BENCHMARKS[0]}.json"
    stored = results / "samples" / "id" / "seed1" / "final" / f"{BENCHMARKS[0]}.parquet"
    rows = [{"problem_id": f"p{i}", "success": c, "entropy": 1.0, "tokens": 5.0} for i, c in enumerate(successes)]
    made = {"path": str(stored), **write_samples(stored, rows)}
    edit(path, k=1, n_problems=len(rows), samples=made, **numbers_of(rows))
    return path


def test_each_seed_has_its_base_policy_and_its_scores(world):
    evidence = load_evidence(world)
    assert sorted(evidence.select(BENCHMARKS[0], "base")) == list(SEEDS)
    assert checkpoint_folder(world, "base", 1, 0) == world / "base" / "seed1"
    assert sorted(evidence.subset(("id",), (1,)).select(BENCHMARKS[0], "base")) == [1]
    assert sorted(load_evidence(world, seeds=(0,)).select(BENCHMARKS[0], "base")) == [0]


def test_one_base_policy_is_that_of_every_seed(study):
    evidence = load_evidence(study, seeds=(1, 2))
    assert sorted(evidence.select(BENCHMARKS[0], "base")) == [0]
    assert sorted(evidence.subset(("id",), (2,)).select(BENCHMARKS[0], "base")) == [0]
    assert checkpoint_folder(study, "base", 1, 0) == study / "base"


def test_runs_of_a_seed_must_start_from_one_base_policy(world):
    record = world / "runs" / "id" / "seed1" / "run.json"
    edit(record, base_model_sha256=json.loads((world / "runs/id/seed0/run.json").read_text())["base_model_sha256"])
    with pytest.raises(UserError, match=r"seed1 has another base policy .SHA-256."):
        load_evidence(world)


def test_scores_of_a_base_policy_belong_to_the_weights_of_its_seed(world):
    _seal(world / "base" / "seed1", b"other")
    with pytest.raises(UserError, match=r"scores other weights than \S+/base/seed1 holds; .*--forcerun evaluate_base"):
        load_evidence(world)


def test_an_exact_score_holds_probabilities(world, tmp_path):
    path = exact_score(world)
    evidence = load_evidence(world, comparable=False)
    score = evidence.select(BENCHMARKS[0], "id")[1]
    assert counts(score) == {"p0": (1, 0.25), "p1": (1, 0.5), "p2": (1, 1.0)}
    frame = evidence.score_frame
    mine = frame[(frame.method == "id") & (frame.seed == 1) & (frame.checkpoint == "final")]
    mine = mine[mine.benchmark == BENCHMARKS[0]]
    assert mine[mine.metric == "avg_at_k"]["value"].item() == pytest.approx(1.75 / 3)
    assert not set(mine.metric) & {"maj_at_k", "flexible_avg_at_k", "share_correct", "completion_tokens_mean"}
    write_counts(world, tmp_path / "counts.parquet")
    table = pd.read_parquet(tmp_path / "counts.parquet")
    kept = table[(table.method == "id") & (table.seed == 1) & (table.problem == "p0")]
    assert (kept["n"].item(), kept["c"].item()) == (1, 0.25)
    edit(path, headline="strict")
    with pytest.raises(UserError, match=r"id/seed1/final/facts.json: headline is not what its samples give"):
        load_evidence(world, comparable=False)


def add_one(score):
    """One more correct sample of one problem, in all numbers that say so."""
    table = [dict(entry) for entry in score["per_problem"]]
    least = min(table, key=lambda entry: entry["c"])
    least["c"] += 1
    mean = sum(entry["c"] / entry["n"] for entry in table) / len(table)
    return {"per_problem": table, "avg_at_k": score["avg_at_k"] | {"value": mean}}


@pytest.mark.parametrize(("name", "change"), [
    ("avg_at_k", add_one),
    ("avg_at_k", lambda score: {"avg_at_k": score["avg_at_k"] | {"stderr": score["avg_at_k"]["stderr"] / 2}}),
    ("per_problem", lambda score: {"per_problem": [entry | {"tokens": 1.0} for entry in score["per_problem"]]}),
    ("pass_at", lambda score: {"pass_at": score["pass_at"] | {"2": 0.5}}),
    ("flexible", lambda score: {"flexible": score["flexible"] | {"pass_at": {}}}),
    ("maj_at_k", lambda score: {"maj_at_k": score["maj_at_k"] + 1e-6}),
    ("verdicts", lambda score: {"verdicts": score["verdicts"] | {"wrong": 0}}),
    ("completion_tokens_mean", lambda score: {"completion_tokens_mean": 21}),
    ("n_problems", lambda score: {"n_problems": 11}),
])  # fmt: skip
def test_every_number_of_a_score_is_what_its_samples_give(study, name, change):
    """Even if whoever edited it made the record's own checksum anew."""
    path = study / "scores" / "id" / "seed1" / "final" / "facts.json"
    edit(path, **change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=rf"facts\.json: {name} is not what its samples give; .*--forcerun evaluate"):
        load_evidence(study)


@pytest.mark.parametrize(("file", "field", "value", "rule"), [
    ("scores/id/seed1/final/facts.json", "k", 5, "evaluate"),
    ("scores/id/seed1/final/facts.json", "seconds", 2.0, "evaluate"),
    ("runs/id/seed1/run.json", "seconds", 1.0, "train"),
    ("runs/id/seed1/run.json", "metrics_sha256", None, "train"),
])  # fmt: skip
def test_a_field_that_nothing_gives_is_guarded_by_the_records_checksum(study, file, field, value, rule):
    record = json.loads((study / file).read_text())
    write_json(study / file, record | {field: value})
    with pytest.raises(UserError, match=rf"{file}: damaged, edited or of an older version .*--forcerun {rule}"):
        load_evidence(study)
    del record["record_sha256"]
    write_json(study / file, record)
    with pytest.raises(UserError, match=rf"{file}: damaged, edited or of an older version"):
        load_evidence(study)


def test_an_edited_reward_is_not_read(study):
    path = study / "runs" / "id" / "seed1" / "metrics.jsonl"
    rows = [json.loads(line) | {"train/reward": 0.99} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"metrics\.jsonl is not the file that the training wrote .*--forcerun train"):
        load_evidence(study)


def test_a_score_of_problems_drawn_until_the_error_is_small(study):
    """Its error and interval are those of the sequential rule."""
    path = study / "scores" / "id" / "seed1" / "final" / "facts.json"
    rows = read_samples(study / "samples" / "id" / "seed1" / "final" / "facts.parquet")
    plain, found = numbers_of(rows), numbers_of(rows, until=2.5)
    assert plain["avg_at_k"]["stderr"] != found["avg_at_k"]["stderr"]
    edit(path, **found)
    assert load_evidence(study).select("facts", "id")[1]["until"] == found["until"]
    edit(path, **plain)
    with pytest.raises(UserError, match="avg_at_k is not what its samples give"):
        load_evidence(study)


def test_committed_counts_read_back_as_they_were(world, tmp_path):
    exact_score(world)
    evidence = load_evidence(world, comparable=False)
    for seed in SEEDS:
        write_json(world / "base" / f"seed{seed}" / "warm_start.json", {"steps": 50 + seed, "seconds": 1.5})
    write_json(world / "data" / "manifest.json", {})
    out = tmp_path / "out"
    runs = [read_run(path) for path in sorted(world.glob("runs/*/seed*/run.json"))]
    write_metrics(runs, out / "metrics.parquet")
    write_counts(world, out / "counts.parquet")
    write_json(out / "provenance.json", provenance(world, evidence, [run for run, _ in runs]))
    assert set(json.loads((out / "provenance.json").read_text())["base"]) == {"base/seed0", "base/seed1"}
    back = read_committed(out, ("id",), SEEDS)
    assert counts(back.select(BENCHMARKS[0], "id")[1]) == {"p0": (1, 0.25), "p1": (1, 0.5), "p2": (1, 1.0)}
    assert all(isinstance(c, int) for _, c in counts(back.select(BENCHMARKS[0], "id")[0]).values())
