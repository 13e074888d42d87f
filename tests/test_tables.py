"""Tables, and the checks that every number passes before it is used."""

import json
import math
import re
import shutil

import pandas as pd
import pytest
from scipy import stats
from synthetic_study import edit, write_rows, write_study, write_world

from dynclip.report.comparisons import (
    at_share,
    benchmark_differences,
    common_reward,
    detectable_after_holm,
    entropy_at_reward,
    seed_means,
    spread_of_pass,
)
from dynclip.report.evidence import load_evidence
from dynclip.report.html.findings import findings
from dynclip.report.tables import TABLES, frame, latex, main_table, markdown, write_tables
from dynclip.runtime.errors import UserError
from evals.stats.curves import smooth


def test_all_tables_are_written_in_all_formats(study):
    written = write_tables(study)
    expected = {f"tables/{name}.{end}" for name in TABLES for end in ("md", "csv", "tex")} | {"scores.parquet"}
    assert {str(path.relative_to(study)) for path in written} == expected
    again = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in write_tables(study)} == again


def test_scores_frame_holds_what_the_files_say(study):
    write_tables(study)
    scores = pd.read_parquet(study / "scores.parquet")
    record = json.loads((study / "scores/id/seed1/final/facts.json").read_text())
    row = scores.query("method == 'id' and seed == 1 and checkpoint == 'final' and benchmark == 'facts'")
    values = row.set_index("metric")["value"]
    assert values["avg_at_k"] == record["avg_at_k"]["value"]
    assert values["flexible_avg_at_k"] == record["flexible"]["avg_at_k"]["value"] != values["avg_at_k"]
    assert values["pass_at_4"] == record["pass_at"]["4"]
    assert values["share_correct"] == pytest.approx(record["verdicts"]["correct"] / 40)
    assert set(scores["method"]) == {"base", "grpo", "id", "od"}


def test_main_table_is_the_mean_over_seeds_and_the_paired_difference(study):
    table = main_table(load_evidence(study))
    means, flexible = {}, []
    for method in ("grpo", "id"):
        found = [json.loads((study / f"scores/{method}/seed{s}/final/facts.json").read_text()) for s in range(3)]
        means[method] = [100 * score["avg_at_k"]["value"] for score in found]
        flexible = [score["flexible"]["avg_at_k"]["value"] for score in found]
    records = frame(table).set_index(["method", "benchmark"])
    assert records.loc[("id", "facts"), "mean"] == pytest.approx(sum(means["id"]) / 3)
    assert records.loc[("id", "facts"), "flexible_mean"] == pytest.approx(100 * sum(flexible) / 3)
    assert "flexible, %" in table.header and "strict" in table.note
    gap = sum(a - b for a, b in zip(means["id"], means["grpo"], strict=True)) / 3
    assert records.loc[("id", "facts"), "difference"] == pytest.approx(gap)
    assert [row[0] for row in table.rows] == ["base", "grpo", "id", "od"]
    assert "(one policy)" in table.rows[0][1]


def test_missing_seed_is_shown_and_not_filled_in(study):
    shutil.rmtree(study / "runs/id/seed2")
    shutil.rmtree(study / "scores/id/seed2")
    evidence = load_evidence(study)
    assert evidence.missing == [("id", 2)]
    row = next(row for row in main_table(evidence).rows if row[0] == "id")
    assert "(2 of 3 seeds)" in row[1]
    for build in TABLES.values():
        assert "Missing, not filled in: id/seed2" in build(evidence).note
    whole = load_evidence(study, methods=("grpo", "id", "od", "did"), seeds=(0, 1, 2))
    assert main_table(whole).rows[-1][:2] == ["did", "missing"]


def test_only_the_studys_own_runs_are_used(study):
    evidence = load_evidence(study, methods=("od", "grpo"), seeds=(1,))
    assert (evidence.methods, evidence.seeds, evidence.baseline) == (("od", "grpo"), (1,), "grpo")
    assert set(evidence.runs) == {("od", 1), ("grpo", 1)}
    assert {score["method"] for score in evidence.scores} == {"base", "od", "grpo"}
    assert "n=1, no claim" in markdown(main_table(evidence))


@pytest.mark.parametrize(("methods", "seeds", "steps"), [(("id",), (3,), 1), (("grpo", "od"), (0,), 2)])
def test_smallest_studies(tmp_path, methods, seeds, steps):
    results = write_study(tmp_path / "tiny", methods, seeds, steps)
    assert len(write_tables(results)) == 13
    assert any("no claim" in finding.text for finding in findings(load_evidence(results)))


def test_one_rising_run_does_not_fall(tmp_path):
    evidence = load_evidence(write_study(tmp_path / "tiny", ("grpo",), (0,), steps=12))
    for rows in evidence.rows.values():
        for row in rows:
            row["policy/entropy"] = 1 + row["step"] / 10
    (found,) = [finding.text for finding in findings(evidence) if finding.text.startswith("Entropy under grpo")]
    assert found.startswith("Entropy under grpo does not fall in the one seed there is: from 1.100 to 2.000 nats")


def test_curves_and_cost(study):
    evidence = load_evidence(study)
    curves = frame(TABLES["curves"](evidence))
    first = curves.query("metric == 'policy/entropy' and method == 'grpo' and percent == 0").iloc[0]
    runs = [p.read_text().splitlines() for p in sorted(study.glob("runs/grpo/*/metrics.jsonl"))]
    entropies = pd.Series([at_share([json.loads(row)["policy/entropy"] for row in rows], 0) for rows in runs])
    assert (first["mean"], first["sd"]) == pytest.approx((entropies.mean(), entropies.std()))
    cost = frame(TABLES["cost"](evidence)).set_index("method").loc["id"]
    assert (cost["time/step_mean"], cost["time/step_sd"]) == pytest.approx((0.51, 0.01))
    assert evidence.metrics.shape[0] == 3 * 3 * 12 and evidence.metrics["clip/state"].notna().sum() == 36


def test_at_share_and_smooth():
    ramp = [float(i) for i in range(100)]
    assert [at_share(ramp, p) for p in (0, 50, 100)] == [1.0, 50.0, 98.0]  # 5 steps, cut at the ends
    assert smooth(ramp)[10] == 10.0 and len(smooth(ramp)) == 100
    short = [float(i) for i in range(30)]  # 5 % of 30 steps would be a single one
    assert [at_share(short, p) for p in (0, 50, 100)] == [1.0, 14.0, 28.0]
    assert list(smooth(short)[:3]) == [1.0, 1.0, 2.0] and list(smooth(short, width=0)) == short
    assert at_share([4.0], 100) == 4.0 and math.isnan(at_share([math.nan], 0))


def test_entropy_is_compared_at_equal_reward(study):
    evidence = load_evidence(study)
    found = entropy_at_reward(evidence, common_reward(evidence))
    assert all(len(seeds) == 3 for seeds in found.values())
    # id's entropy falls more slowly at the same reward by construction.
    assert sum(found["id"].values()) > sum(found["grpo"].values())
    assert all(math.isnan(v) for v in entropy_at_reward(evidence, 2.0)["grpo"].values())


def test_findings_are_computed(study):
    texts = [finding.text for finding in findings(load_evidence(study))]
    assert any(text.startswith("Entropy under grpo falls in 3 of 3 seeds") for text in texts)
    assert "3 seeds per method: every comparison is exploratory." in texts
    assert any(text.startswith("id vs grpo on entropy at half time: +0.0") for text in texts)
    assert "od switches 2 to 2 times a seed." in texts
    assert not any(finding.warning for finding in findings(load_evidence(study)) if "1.1" in finding.text)
    for path in study.glob("runs/*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path.parent, [row | {"clip/high_fraction": 0.001} for row in rows])
    weak = [f for f in findings(load_evidence(study)) if "below 1 %" in f.text]
    assert len(weak) == 3 and all(finding.warning for finding in weak)


def test_exact_scores_of_own_problems_are_paired_by_seed_alone(tmp_path):
    results = write_world(tmp_path / "paths", ("grpo", "did"), range(5), steps=20)
    evidence = load_evidence(results)
    means = {}
    for method in ("base", "grpo", "did"):
        files = [json.loads((results / f"scores/{method}/seed{s}/final/paths.json").read_text()) for s in range(5)]
        means[method] = [100 * sum(p["c"] for p in f["per_problem"]) / 12 for f in files]
        assert list(seed_means(evidence, "paths", method).values()) == pytest.approx(means[method])
    (gap,) = benchmark_differences(evidence)
    expected = stats.ttest_rel(means["did"], means["grpo"])
    assert (gap.n, gap.boot_low, gap.p) == (5, None, pytest.approx(expected.pvalue))
    assert (gap.low, gap.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    table = main_table(evidence)
    assert table.header == ["method", "paths pass@1, %", "paths − grpo"] and "calculated exactly" in table.note
    assert table.rows[0][0] == "base" and "one policy" not in table.rows[0][1] and "[" in table.rows[0][1]
    assert frame(table).set_index("method").loc["base", "mean"] == pytest.approx(sum(means["base"]) / 5)
    part = load_evidence(results, seeds=(1, 3))
    assert list(seed_means(part, "paths", "base")) == [1, 3], "only the bases of the compared seeds"
    chances = [p["c"] for p in evidence.select("paths", "did")[2]["per_problem"]]
    gain = 100 * sum(1 - (1 - c) ** 32 - c for c in chances) / 12
    assert spread_of_pass(evidence, "did", "final")[2] == pytest.approx(gain)


def test_the_detectable_difference_after_holm_is_larger(study):
    (gap, *_) = benchmark_differences(load_evidence(study))
    assert gap.family == 4 and detectable_after_holm(gap) > gap.detectable


def test_latex_escapes(tmp_path):
    text = latex(main_table(load_evidence(write_study(tmp_path / "tiny", ("grpo", "clip_higher")))))
    assert r"clip\_higher" in text and r"\%" in text and r"\end{tabular}" in text


SCORE = "scores/id/seed1/final/facts.json"


def damage_truncate(study):
    path = study / SCORE
    path.write_text(path.read_text()[:200])
    return SCORE, "evaluate"


def damage_edited_value(study):
    path = study / SCORE
    record = json.loads(path.read_text())
    record["avg_at_k"]["value"] += 0.05
    path.write_text(json.dumps(record))
    return SCORE, "evaluate"


def damage_missing_field(study):
    path = study / SCORE
    record = json.loads(path.read_text())
    del record["per_problem"]
    path.write_text(json.dumps(record))
    return SCORE, "evaluate"


def damage_samples(study):
    with (study / "samples/id/seed1/final/facts.parquet").open("ab") as file:
        file.write(b"x")
    return SCORE, "evaluate"


def damage_no_samples(study):
    (study / "samples/id/seed1/final/facts.parquet").unlink()
    return SCORE, "evaluate"


def damage_other_weights(study):
    shutil.copy(
        study / "runs/od/seed1/checkpoints/step12/model.json",
        study / "runs/id/seed1/checkpoints/step12/model.json",
    )
    return SCORE, "evaluate"


def damage_manifest(study):
    (study / "runs/id/seed1/checkpoints/step12/model.json").write_text("{")
    return "runs/id/seed1/checkpoints/step12/model.json", "train"


def damage_copied_score(study):
    shutil.copy(study / "scores/id/seed0/final/facts.json", study / SCORE)
    return SCORE, "evaluate"


def damage_sampling(study):
    sampling = json.loads((study / SCORE).read_text())["sampling"]
    edit(study / SCORE, sampling=sampling | {"temperature": 0.6})
    return SCORE, "evaluate"


def damage_rows(study):
    path = study / "runs/id/seed1/metrics.jsonl"
    path.write_text(path.read_text()[:-30])
    return "runs/id/seed1/metrics.jsonl", "train"


def damage_fewer_rows(study):
    path = study / "runs/id/seed1/metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "runs/id/seed1/metrics.jsonl", "train"


def damage_record(study):
    (study / "runs/id/seed1/run.json").write_text("")
    return "runs/id/seed1/run.json", "train"


def damage_other_data(study):
    edit(study / "runs/id/seed1/run.json", data_sha256="e" * 64)
    return "runs/id/seed1/run.json", "train"


DAMAGES = [function for name, function in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_damage_names_the_file_and_the_command_that_rebuilds_it(study, damage):
    file, rule = damage(study)
    with pytest.raises(UserError) as error:
        write_tables(study)
    message = str(error.value)
    assert file in message and "\n" not in message
    assert re.search(rf"snakemake --cores all --config scale=tiny (\S+ )*--forcerun {rule} -- results/tiny/", message)
    assert not (study / "scores.parquet").exists()


def test_a_deleted_checkpoint_folder_is_no_damage(study):
    shutil.rmtree(study / "runs/id/seed1/checkpoints")
    assert load_evidence(study).missing == []


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        load_evidence(tmp_path)
