"""Committed evidence: what is copied, what it says, and that the committed one agrees with itself."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import write_study

from dynclip.report.claims.page import decide_all, records, write_claims
from dynclip.report.comparisons import at_share, seed_means
from dynclip.report.reference import read_committed, spread, write_reference
from dynclip.report.tables import write_tables
from dynclip.report.terminal.verify import verify
from dynclip.runtime.files import write_json
from dynclip.studies.arms import STUDIES
from dynclip.studies.scales import SCALES, SUITES
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS
from evals.stats import difference, judge, mean_interval

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "results" / "reference" / "laptop-2core"
WORLDS = sorted(path.parent for path in COMMITTED.glob("*/provenance.json"))
NAMED = sorted(path.parent for path in COMMITTED.with_name("studies-2core").glob("*/claims.json"))
STUDIES_FOUND = [*WORLDS, *NAMED, COMMITTED.with_name("workstation-small-2core")]
LATER = {  # arms of the studies that were added after their runs
    "adapo", "bapo", "cppo", "did_recipe", "dppo", "dro", "entrocraft", "gmpo", "grpo_dropout", "id_recipe", "maxrl",
    "mimo", "od_fixed_start", "od_recipe", "repo_r", "rloo", "rloo_updates1", "stare", "vespo",
}  # fmt: skip
each_world = pytest.mark.parametrize("folder", WORLDS, ids=lambda folder: folder.name)
each_study = pytest.mark.parametrize("folder", STUDIES_FOUND, ids=lambda folder: folder.name)


def finish(study):
    """What a finished study has beside the fixture's runs and scores."""
    write_json(study / "base" / "warm_start.json", {"steps": 700, "seconds": 100.0})
    write_json(study / "data" / "manifest.json", {"files": {}})
    (study / "report.html").write_text("<html></html>")
    (study / "tables").mkdir(exist_ok=True)
    (study / "tables" / "main.md").write_text("table")
    folder = study / "benchmarks" / "train"
    folder.mkdir(parents=True)
    for i, seconds in enumerate((50.0, 54.0, 60.0)):
        (folder / f"run{i}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:50\n")


def test_evidence_is_small_files_with_cost_and_computed_findings(study, tmp_path):
    finish(study)
    out = write_reference(study, tmp_path / "reference" / "tiny-test")
    page = (out / "README.md").read_text()
    assert "one training job, with start-up | 54.0 [50.0, 60.0], n = 3 |" in page
    assert "warm start, 700 steps | 100.0" in page and "## Benchmarks, against grpo" in page
    assert (out / "tables" / "main.md").read_text() == "table"
    rows = pd.read_parquet(out / "metrics.parquet")
    assert len(rows) == 3 * 3 * 12 and {"method", "seed", "step", "policy/entropy"} <= set(rows.columns)
    assert set(json.loads((out / "provenance.json").read_text())["runs"]) == {
        f"{method}/seed{seed}" for method in ("grpo", "id", "od") for seed in (0, 1, 2)
    }


def test_pictures_lose_colours_and_no_pixels(study, tmp_path):
    from PIL import Image

    finish(study)
    (study / "figures").mkdir(exist_ok=True)
    drawn = Image.effect_mandelbrot((200, 100), (-2, -1, 1, 1), 50).convert("RGB")
    drawn.save(study / "figures" / "entropy.png")
    kept = write_reference(study, tmp_path / "reference") / "figures" / "entropy.png"
    with Image.open(kept) as image:
        assert image.size == (200, 100) and len(image.getcolors()) <= 128
        pairs = zip(image.convert("L").getdata(), drawn.convert("L").getdata(), strict=True)
        assert sum(abs(a - b) for a, b in pairs) / 20_000 < 3


def test_writing_again_replaces_what_was_there(study, tmp_path):
    finish(study)
    out = tmp_path / "reference"
    out.mkdir()
    (out / "old").write_text("stale")
    write_reference(study, out)
    assert not (out / "old").exists() and [p.name for p in tmp_path.glob(".reference*")] == []


def test_claims_derived_from_committed_files_are_those_of_the_runs(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id", "did", "od"), (0, 1, 2, 3), k=8)
    finish(results)
    data, _ = write_claims(results, (0, 1, 2, 3))
    out = write_reference(results, tmp_path / "reference")
    assert_same_claims(json.loads(data.read_text()), rederived(out, (0, 1, 2, 3)))
    assert json.loads((out / "claims.json").read_text()) == json.loads(data.read_text())


def rederived(folder, seeds):
    """The claims, decided again from a folder of committed evidence."""

    def runs_of(claim):
        return read_committed(folder, claim.arms, seeds[: STUDIES[claim.study].seeds])

    return records(decide_all(runs_of))


def assert_same_claims(old, new):
    assert [(claim["id"], claim["verdict"], claim["seeds"]) for claim in old] == [
        (claim["id"], claim["verdict"], claim["seeds"]) for claim in new
    ]
    for one, other in zip(old, new, strict=True):
        if one["verdict"] == "not run":
            continue
        for a, b in zip(one["parts"], other["parts"], strict=True):
            assert a["finding"] == b["finding"] and a["n"] == b["n"]
            for field in ("effect", "low", "high"):
                assert (a[field] is None) == (b[field] is None)
                if a[field] is not None:  # metrics are committed as float32
                    assert a[field] == pytest.approx(b[field], rel=1e-3, abs=1e-5), (one["id"], a["what"], field)


def test_spread_by_hand():
    assert spread([3.0, 1.0, 2.0]) == {"n": 3, "median": 2.0, "min": 1.0, "max": 3.0}


def test_the_laptop_study_is_committed_with_its_front_figure():
    """One folder a world, as `dynclip reference` writes it, and a page with the front figure that links them."""
    assert {folder.name for folder in WORLDS} == set(SUITES["laptop"])
    page = (COMMITTED / "README.md").read_text()
    assert (COMMITTED / "front.png").stat().st_size > 10_000 and "](front.png)" in page
    assert [folder.name for folder in WORLDS if f"]({folder.name}/README.md)" not in page] == []


def test_the_page_states_the_regime_of_the_scales():
    page = (ROOT / "docs" / "laptop.md").read_text().split("## The regime")[1]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert table[0][1:4] == [f"`{name}`" for name in SUITES["laptop"]]
    said = {row[0]: row[1:] for row in table}
    for i, scale in enumerate(SCALES[name] for name in SUITES["laptop"]):
        early, last = scale.early_fraction * scale.steps, scale.steps
        for row, text in {
            "base policy, one for each seed": f"pass@1 ≥ {scale.policy.warm_start.pass_at_1:.0%}".replace("%", " %"),
            "seeds": str(len(scale.seeds)),
            "rollout batch": f"{scale.prompts_per_step}{'' if i else ' prompts'} × {scale.group_size}",
            "updates per rollout batch": f"{scale.minibatches}{'' if i else ' mini-batches'} × {scale.epochs}",
            "learning rate": f"{scale.learning_rate:.0e}".replace("e-0", "e-"),
            "rollout steps, early checkpoint": f"{last}, {early:.0f}",
            "training problems, held out": f"{TRAIN_SETS[scale.train_set].count:,}, {BENCHMARKS[scale.name].count:,}",
            "completion, at most": str(scale.max_completion),
        }.items():
            assert text in said[row][i], (scale.name, row)


@each_world
def test_the_committed_runs_are_those_of_the_scale(folder):
    """Methods and seeds of the scale, each seed with its own base policy, over all steps of the scale."""
    scale = SCALES[folder.name]
    record = json.loads((folder / "provenance.json").read_text())
    rows = pd.read_parquet(folder / "metrics.parquet")
    assert {f"{method}/seed{seed}" for method, seed in zip(rows["method"], rows["seed"], strict=True)} <= set(
        record["runs"]
    )
    assert set(rows["seed"]) == set(scale.seeds) and set(rows["method"]) >= set(scale.methods)
    rows = rows[rows["method"].isin(scale.methods)]
    assert rows.groupby(["method", "seed"])["step"].nunique().eq(scale.steps).all()
    starts = rows[(rows["step"] == 0) & (rows["method"] == "grpo")]["policy/entropy"]
    assert starts.nunique() == len(starts), "two seeds share a base policy"
    shared = rows[rows["step"] == 0].groupby("seed")["policy/entropy"]
    assert (shared.max() - shared.min()).max() < 1e-5, "the methods of a seed do not start from one base policy"


@each_study
def test_the_committed_tables_follow_from_the_committed_metrics(folder):
    """Entropy at the start and reward at the end of training, per method, again from every metrics row."""
    rows = pd.read_parquet(folder / "metrics.parquet")
    table = pd.read_csv(folder / "tables" / "curves.csv")
    rows = rows[rows["method"].isin(table["method"])]  # the studies' other arms have tables of their own
    steps = rows["step"].max() + 1
    window = max(3, int(steps * 5 / 200) + 1)  # 5 % of the steps, half of it at an end, but no fewer than three
    places = {0: rows[rows["step"] < window], 100: rows[rows["step"] >= steps - window]}
    assert set(table["metric"]) >= {"policy/entropy", "train/reward"}
    for percent, part in places.items():
        for key in ("policy/entropy", "train/reward"):
            seeds = part.groupby(["method", "seed"])[key].mean().groupby("method").mean()
            factor = 100 if table[table["metric"] == key]["unit"].isin(["%", "pt"]).all() else 1
            for method, value in seeds.items():
                found = table[(table["metric"] == key) & (table["method"] == method) & (table["percent"] == percent)]
                assert abs(found["mean"].item() - factor * value) < 1e-5, (key, method, percent)


@pytest.mark.parametrize("folder", NAMED, ids=lambda folder: folder.name)
def test_the_committed_claims_follow_from_the_committed_numbers(folder):
    committed = json.loads((folder / "claims.json").read_text())
    known = json.loads((folder / "provenance.json").read_text())
    checked = verify(folder)
    assert checked.problems == [] and checked.counts["list of claims"] == 1
    arms = {name.split("/")[0] for name in known["runs"]}
    everything = {arm for name, study in STUDIES.items() if name not in ("staleness", "mismatch") for arm in study.arms}
    assert everything - arms == LATER and arms <= everything
    page = (folder / "claims.md").read_text()
    for verdict in {claim["verdict"] for claim in committed}:
        assert page.count(f"| {verdict} |") >= sum(claim["verdict"] == verdict for claim in committed)


def edit_claim(folder):
    claims = json.loads((folder / "claims.json").read_text())
    claims[0]["parts"][0]["effect"] += 0.1
    write_json(folder / "claims.json", claims)


def edit_curve(folder):
    table = pd.read_csv(folder / "tables" / "curves.csv")
    table.loc[3, "mean"] += 0.01
    table.to_csv(folder / "tables" / "curves.csv", index=False)


def edit_count(folder):
    counts = pd.read_parquet(folder / "counts.parquet")
    counts.loc[5, "c"] = counts.loc[5, "c"] - 1 if counts.loc[5, "c"] else 1.0
    counts.to_parquet(folder / "counts.parquet")


@pytest.mark.parametrize(("edit", "words"), [
    (edit_claim, r"claims\.json: parts of \w+ is not what metrics\.parquet gives"),
    (edit_curve, r"curves\.csv: mean of grpo, policy/entropy, is not what metrics\.parquet gives"),
    (edit_count, r"scores\.parquet: the score of .* is not what counts\.parquet gives"),
])  # fmt: skip
def test_an_edited_number_of_committed_evidence_is_found(tmp_path, edit, words):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id", "did", "od"), (0, 1, 2, 3), k=8)
    finish(results)
    write_tables(results)
    write_claims(results, (0, 1, 2, 3))
    out = write_reference(results, tmp_path / "reference")
    assert verify(out).problems == []
    edit(out)
    (problem,) = verify(out).problems
    assert re.search(words, problem)


@each_world
def test_the_documents_state_the_committed_numbers(folder):
    """The share of GRPO's entropy that is left, and ID against GRPO in pass@1 and in entropy at the end."""
    rows = pd.read_parquet(folder / "metrics.parquet")
    rows = rows[rows["method"] == "grpo"].sort_values("step")
    curves = [list(part["policy/entropy"]) for _, part in rows.groupby("seed")]
    left = mean_interval([100 * at_share(curve, 100) / curve[0] for curve in curves])
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/laptop.md"))
    share = f"{left.mean:.1f} % [{left.low:.1f}, {left.high:.1f}]"
    assert share in readme and share in page
    table = pd.read_csv(folder / "tables" / "differences.csv")
    table = table[(table["a"] == "id") & (table["b"] == "grpo")].set_index("where")
    for where, digits in ((folder.name, 1), ("entropy at the end", 3)):
        mean, low, high = table.loc[where, ["effect", "low", "high"]]
        text = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−")
        assert text in readme, (where, text)


@pytest.mark.parametrize(("column", "digits"), [("mean entropy, nats", 3), ("pass@1, %", 1)])
def test_the_second_run_against_the_first(column, digits):
    """Every cell of the tables, and which are decided after Holm's correction over the methods of a world."""
    second = COMMITTED.with_name("laptop-2core-second")
    page, table = (second / "README.md").read_text(), pd.read_csv(second / "seeds.csv")
    methods = list(dict.fromkeys(table["method"]))
    for folder in WORLDS:
        part = table[table["world"] == folder.name]
        first = read_committed(folder, methods, sorted(set(part["seed"])))
        runs = {}
        for method in methods:
            if digits == 1:
                one = seed_means(first, folder.name, method)
            else:
                one = {seed: sum(c) / len(c) for seed, c in first.curves("policy/entropy", method).items()}
            two = part[part["method"] == method].set_index("seed")[column].to_dict()
            runs[method] = (one, two, {seed: (one[seed] + two[seed]) / 2 for seed in one})
        columns = [
            judge([difference(runs[m][i], runs["grpo"][i], (m, "grpo"), column) for m in methods[1:]]) for i in range(3)
        ]
        for method, gaps in zip(methods[1:], zip(*columns, strict=True), strict=True):
            cells = [f"{g.effect:+.{digits}f} [{g.low:+.{digits}f}, {g.high:+.{digits}f}]" for g in gaps]
            cells = [f"**{cell}**" if gap.claim else cell for cell, gap in zip(cells, gaps, strict=True)]
            assert f"| `{folder.name}`, {method} | {' | '.join(cells)} |".replace("-", "−") in page


@each_world
def test_exact_scores_need_no_samples_and_the_others_have_some(folder):
    counts = pd.read_parquet(folder / "counts.parquet")
    assert counts["c"].between(0, counts["n"]).all()
    assert (counts["n"] == 1).all() if folder.name == "paths" else (counts["n"] > 1).all()


@each_study
def test_the_committed_evidence_names_no_path_of_the_machine(folder):
    for path in folder.rglob("*"):
        if path.suffix in (".md", ".json", ".csv"):
            assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work)/", path.read_text()), path
