"""Committed evidence: what is copied, what it says, and that the committed one agrees with itself."""

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import write_study

from dynclip.report.claims.page import decide_all, records, write_claims
from dynclip.report.comparisons import at_share, seed_means
from dynclip.report.figures import write_figures
from dynclip.report.reference import spread, write_reference
from dynclip.report.tables import write_tables
from dynclip.report.terminal.committed import read_committed
from dynclip.report.terminal.verify import verify, verify_results
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import file_change, read_sums, sha256, write_json
from dynclip.studies.arms import STUDIES
from dynclip.studies.scales import SCALES, SUITES
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS
from evals.stats import difference, judge, mean_interval

SEEDS = (0, 1, 2, 3)
ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "results" / "reference" / "laptop-2core"
WORLDS = sorted(path.parent for path in COMMITTED.glob("*/provenance.json"))
NAMED = sorted(path.parent for path in COMMITTED.with_name("studies-2core").glob("*/claims.json"))
FIELD = sorted(path.parent for path in COMMITTED.with_name("field-2core").glob("*/claims.json"))
STUDIES_FOUND = [*WORLDS, *NAMED, *FIELD, COMMITTED.with_name("workstation-small-2core")]
LATER = {  # arms of the studies that were added after the runs of studies-2core; field-2core has them
    "adapo", "bapo", "cppo", "did_recipe", "dppo", "dro", "entrocraft", "gmpo", "grpo_dropout", "id_recipe", "maxrl",
    "mimo", "od_fixed_start", "od_recipe", "repo_r", "rloo", "rloo_updates1", "stare", "vespo",
}  # fmt: skip
each_world = pytest.mark.parametrize("folder", WORLDS, ids=lambda folder: folder.name)
each_study = pytest.mark.parametrize("folder", STUDIES_FOUND, ids=lambda folder: folder.name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(results/<scale> of a finished study with tables, figures and claims, the evidence written from it)."""
    folder = tmp_path_factory.mktemp("finished")
    results = write_study(folder / "results" / "tiny", ("grpo", "id", "did", "od"), SEEDS, k=8)
    write_json(results / "base" / "warm_start.json", {"steps": 700, "seconds": 100.0})
    write_tables(results)
    write_figures(results)
    write_claims(results, SEEDS)
    jobs = results / "benchmarks" / "train"
    jobs.mkdir(parents=True)
    for i, seconds in enumerate((50.0, 54.0, 60.0)):
        (jobs / f"run{i}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:50\n")
    out = folder / "reference"
    out.mkdir()
    (out / "old").write_text("stale")
    return results, write_reference(results, out)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of both."""
    for folder in finished:
        shutil.copytree(folder, tmp_path / "results" / folder.name)
    (tmp_path / "Snakefile").touch()  # printed commands are Snakemake's where there is one
    return tuple(tmp_path / "results" / folder.name for folder in finished)


def test_evidence_is_small_files_with_cost_and_computed_findings(finished):
    results, out = finished
    page = (out / "README.md").read_text()
    assert "one training job, with start-up | 54.0 [50.0, 60.0], n = 3 |" in page
    assert "warm start, 700 steps | 100.0" in page and "## Benchmarks, against grpo" in page
    for name in ("tables/main.md", "scores.parquet", "figures/entropy.svg", "claims.json"):
        assert (out / name).read_bytes() == (results / name).read_bytes()
    rows = pd.read_parquet(out / "metrics.parquet")
    assert len(rows) == 4 * 4 * 12 and {"method", "seed", "step", "policy/entropy"} <= set(rows.columns)
    assert set(json.loads((out / "provenance.json").read_text())["runs"]) == {
        f"{method}/seed{seed}" for method in ("grpo", "id", "did", "od") for seed in SEEDS
    }
    assert not (out / "old").exists() and [p.name for p in out.parent.glob(".reference*")] == []


def test_pictures_lose_colours_and_no_pixels(finished):
    from PIL import Image

    with (
        Image.open(finished[0] / "figures/entropy.png") as drawn,
        Image.open(finished[1] / "figures/entropy.png") as kept,
    ):
        assert kept.size == drawn.size and len(kept.getcolors()) <= 128
        pairs = zip(kept.convert("L").getdata(), drawn.convert("L").getdata(), strict=True)
        assert sum(abs(a - b) for a, b in pairs) / (kept.width * kept.height) < 3


def test_claims_derived_from_committed_files_are_those_of_the_runs(finished):
    assert_same_claims(json.loads((finished[0] / "claims.json").read_text()), rederived(finished[1], SEEDS))


def test_other_tools_can_check_the_sums(finished):
    for folder, lists in ((finished[1], ["SHA256SUMS"]), (finished[0], sorted((finished[0] / "checksums").glob("*")))):
        assert lists and subprocess.run(["sha256sum", "-c", "--quiet", *lists], cwd=folder, check=False).returncode == 0


def flip(path, place=-1, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_nothing_that_is_not_as_derived_becomes_evidence(copied, capsys):
    """Each forged or missing file is named in one line with the command that makes it again; `out` stays as it was."""
    results, out = copied
    table, picture = results / "tables" / "main.csv", results / "figures" / "entropy.png"
    table.write_text(table.read_text().replace("facts", "FACTS", 1))
    flip(picture)
    (results / "scores.parquet").write_bytes(b"0123456789")
    (results / "figures" / "reward.svg").unlink()
    (results / "tables" / "forged.md").write_text("| od | 99.9 |")
    claims = json.loads((results / "claims.json").read_text())
    claims[0]["verdict"] = "confirmed"
    write_json(results / "claims.json", claims)
    lists = results / "checksums" / "claims.sha256"
    lists.write_text(f"{sha256(results / 'claims.json')}  claims.json\n{sha256(results / 'claims.md')}  claims.md\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"tiny: 6 not as derived, so no evidence was written"):
        write_reference(results, out)
    lines = capsys.readouterr().out.splitlines()
    command = f"cd {results.parents[1]} && snakemake --cores all --config scale=tiny --forcerun"
    assert sorted(lines) == sorted(
        f"{results / name} {what}; make it again with: {command} {rule} -- results/tiny/{name}"
        for name, what, rule in (
            ("tables/main.csv", "changed since it was written (SHA-256 differs)", "tables"),
            ("figures/entropy.png", "changed since it was written (SHA-256 differs)", "figures"),
            ("scores.parquet", "changed since it was written (SHA-256 differs)", "tables"),
            ("figures/reward.svg", "is missing", "figures"),
            ("tables/forged.md", "has no recorded SHA-256", "tables"),
            ("claims.json", "is not what the runs and scores give", "claims"),
        )
    )
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_without_figures_there_is_no_evidence(copied):
    results, out = copied
    shutil.rmtree(results / "figures")
    (results / "checksums" / "figures.sha256").unlink()
    with pytest.raises(UserError, match=r"figures/entropy.png is missing; make it with: .*--forcerun figures -- "):
        write_reference(results, out)


def group_of(name):
    """A run's record and its metrics, a score and its samples: damage of one may hide that of the other."""
    if name.parts[0] == "runs":
        return name.parent
    return Path(*name.with_suffix("").parts[1:]) if name.parts[0] in ("scores", "samples") else name


def test_no_flipped_bit_in_a_study_passes(copied):
    """One bit in each of 60 files: every file is named, with a command."""
    rng, (results, _) = random.Random(11), copied
    groups = {}
    for place in ("runs/*/*/*.json*", "scores/**/*.json", "samples/**/*.parquet", "*/*.*", "*.parquet", "claims.*"):
        for path in sorted(results.glob(place)):
            if path.parent.name not in ("base", "checksums"):
                groups.setdefault(group_of(path.relative_to(results)), []).append(path)
    flipped = {}
    for group in rng.sample(list(groups), 60):
        path = rng.choice(groups[group])
        flipped[path] = path.read_bytes()
        flip(path, rng.randrange(len(flipped[path])), rng.randrange(8))
    problems = verify_results(results).problems
    for path, content in flipped.items():
        if not any(str(path) in line for line in problems):  # 1e-05 and 1E-05 are one number
            assert path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(content), path
    assert all(line.count("\n") == 0 and "snakemake --cores all" in line for line in problems)
    kinds = {path.relative_to(results).parts[0] for path in flipped}
    assert kinds >= {"runs", "scores", "samples", "tables", "figures"}


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


@pytest.mark.parametrize("folder", [*NAMED, *FIELD], ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_the_committed_claims_follow_from_the_committed_numbers(folder):
    committed = json.loads((folder / "claims.json").read_text())
    known = json.loads((folder / "provenance.json").read_text())
    checked = verify(folder)
    assert checked.problems == [] and checked.counts["list of claims"] == 1
    arms = {name.split("/")[0] for name in known["runs"]}
    everything = {arm for page in folder.glob("studies/*/README.md") for arm in STUDIES[page.parent.name].arms}
    assert everything - arms == (LATER if folder in NAMED else set()) and arms <= everything
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


def edit_pass(folder):
    scores = pd.read_parquet(folder / "scores.parquet")
    scores.loc[scores["metric"] == "pass_at_8", "value"] = 0.99
    scores.to_parquet(folder / "scores.parquet")


@pytest.mark.parametrize(("edit", "words"), [
    (edit_claim, r"claims\.json: parts of \w+ is not what metrics\.parquet gives"),
    (edit_curve, r"curves\.csv: mean of grpo, policy/entropy, is not what metrics\.parquet gives"),
    (edit_count, r"scores\.parquet: avg_at_k of .* is not what counts\.parquet gives"),
    (edit_pass, r"scores\.parquet: pass_at_8 of .* is not what counts\.parquet gives"),
])  # fmt: skip
def test_an_edited_number_of_committed_evidence_is_found(copied, edit, words):
    out = copied[1]
    (out / "SHA256SUMS").unlink()  # a list that fits the edit would hide it as well
    edit(out)
    (problem,) = verify(out).problems
    assert re.search(words, problem)


def test_a_changed_file_of_committed_evidence_is_named(copied):
    """Also one that nothing in the folder gives, and one that is gone or new."""
    out = copied[1]
    page = out / "tables" / "main.md"
    page.write_text(page.read_text().replace("facts", "FACTS"))
    (out / "figures" / "reward.svg").unlink()
    (out / "more.md").write_text("better")
    assert verify(out).problems == [
        f"{out}/figures/reward.svg is missing", f"{out}/more.md has no recorded SHA-256",
        f"{page} changed since it was written (SHA-256 differs)",
    ]  # fmt: skip


def test_a_parquet_file_of_ten_bytes_is_a_problem_and_no_traceback(copied):
    for sums in (True, False):
        (copied[1] / "scores.parquet").write_bytes(b"0123456789")
        if not sums:
            (copied[1] / "SHA256SUMS").unlink()
        (problem,) = verify(copied[1]).problems
        assert re.search(r"scores.parquet changed since" if sums else r"^table of scores: cannot be read", problem)


@each_study
def test_the_committed_files_are_those_of_their_list(folder):
    sums = read_sums(folder / "SHA256SUMS")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert [problem for name in found | set(sums) if (problem := file_change(folder / name, sums.get(name)))] == []


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
