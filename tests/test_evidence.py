"""Evidence of a synthetic world: a base policy of each seed, and scores that are computed instead of sampled."""

import json
import shutil

import pandas as pd
import pytest
from synthetic_study import BENCHMARKS, _seal, write_score, write_study

from dynclip.report.evidence import checkpoint_folder, counts, load_evidence, read_run
from dynclip.report.reference import provenance, read_committed, write_counts, write_metrics
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_json

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


def edit(path, **changes) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def exact_score(results, successes=(0.25, 0.5, 1.0)):
    """Make one score of the study exact, with these probabilities."""
    path = results / "scores" / "id" / "seed1" / "final" / f"{BENCHMARKS[0]}.json"
    stored = results / "samples" / "id" / "seed1" / "final" / f"{BENCHMARKS[0]}.parquet"
    names = [f"p{number}" for number in range(len(successes))]
    pd.DataFrame({"problem_id": names, "success": successes}).to_parquet(stored)
    score = json.loads(path.read_text())
    for name in ("maj_at_k", "flexible", "verdicts", "completion_tokens_mean"):
        del score[name]
    score |= {
        "headline": "exact", "k": 1, "n_problems": len(names),
        "avg_at_k": {"value": sum(successes) / len(names), "stderr": 0.1},
        "per_problem": [{"id": name, "n": 1, "c": c} for name, c in zip(names, successes, strict=True)],
        "samples": {"path": str(stored), "sha256": sha256(stored), "rows": len(names)},
    }  # fmt: skip
    write_json(path, score)
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
    with pytest.raises(UserError, match="not a complete score file"):
        load_evidence(world, comparable=False)


@pytest.mark.parametrize("successes", [(0.5, 1.25), (0.5, -0.25)])
def test_a_probability_beyond_0_and_1_is_refused(world, successes):
    exact_score(world, successes)
    with pytest.raises(UserError, match="disagree with its own per_problem counts"):
        load_evidence(world, comparable=False)


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
