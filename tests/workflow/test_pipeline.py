"""The whole study end to end at miniature scale: real training, real MLflow, real report, in a fresh copy."""

import json
import re
import sqlite3

import pytest
from workspace import RESULTS, ROOT, SCALE, Workspace, copy_project

from dynclip.cli.options import resolve_all
from dynclip.cli.pipeline import figure_files, table_files
from dynclip.plan.outputs import is_world, run_files, score_files
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import SCALES, SUITES

pytestmark = pytest.mark.workflow
STUDY = resolve("miniature")
ONE_OF_EACH = ("paths", "workstation", "paper")  # a world, one GPU with problems of the hub, and verl's
REPORT = {"tables": 1, "figures": 1, "page": 1, "track": 1}


def test_every_declared_file_exists_and_the_last_lines_say_how_to_look(finished):
    workspace, output = finished
    files = [*run_files(STUDY), *score_files(STUDY), *table_files(STUDY), f"{RESULTS}/report.html"]
    files += [*figure_files(STUDY, "svg"), *figure_files(STUDY, "png"), f"{RESULTS}/tracking.json"]
    assert [name for name in files if not (workspace.root / name).stat().st_size] == []
    *sentences, _, report, mlflow, log = output.rpartition("\nminiature:\n")[2].strip().splitlines()
    assert (report, mlflow, log) == (
        f"report   {RESULTS}/report.html", "MLflow   dynclip ui", "log      results/logs/snakemake.log"
    )  # fmt: skip
    assert "Entropy" in sentences[0] and "against grpo's" in sentences[1] and "against grpo's" in sentences[2]


def test_a_call_of_snakemake_says_how_to_look(restored):
    report, mlflow = restored.snakemake(f"{RESULTS}/report.html", "--forcerun", "page").stdout.strip().splitlines()[-2:]
    assert f"open {RESULTS}/report.html" in report and mlflow.endswith("dynclip ui")


def test_the_plan_comes_first(finished):
    workspace, output = finished
    assert output.index("2 methods x 2 seeds") < output.index(f"report   {RESULTS}")
    assert "expect a factor of two" in output and "disk" in output
    # What snakemake prints is in a file: the terminal has the plan, a line now and then, and the end.
    assert "Building DAG of jobs" in (workspace.root / "results/logs/snakemake.log").read_text()
    study = output[output.index("2 methods x 2 seeds") :]
    assert "Building DAG" not in study and len(study.splitlines()) < 40


def test_runs_hold_one_row_per_rollout_step_and_whole_checkpoints(finished):
    workspace, _ = finished
    for method in STUDY.methods:
        for seed in STUDY.seeds:
            run = workspace.root / RESULTS / "runs" / method / f"seed{seed}"
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            assert [row["step"] for row in rows] == list(range(STUDY.steps))
            assert {"train/reward", "policy/entropy", "clip/low_fraction", "train/grad_norm"} <= rows[0].keys()
            assert ("clip/state" in rows[0]) == (method == "od")
            assert json.loads((run / "run.json").read_text())["state"] == "finished"
            for step in STUDY.checkpoints.values():
                assert (run / "checkpoints" / f"step{step}" / "model.json").exists()


def test_methods_share_their_first_rollouts(finished):
    """Common random numbers: before any update, methods with one seed see the same prompts and draw the same text."""
    workspace, _ = finished

    def first(method, seed):
        row = (workspace.root / RESULTS / "runs" / method / f"seed{seed}" / "metrics.jsonl").read_text().splitlines()[0]
        return {k: v for k, v in json.loads(row).items() if k in ("policy/entropy", "train/reward", "train/tokens")}

    assert first("grpo", 0) == first("od", 0)
    assert first("grpo", 0) != first("grpo", 1)


def test_mlflow_holds_every_run_with_its_curves_and_scores(finished):
    workspace, _ = finished
    with sqlite3.connect(workspace.root / "results" / "mlflow.db") as db:
        seeds = db.execute(
            "select count(distinct run_uuid) from tags join runs using (run_uuid) where key = 'dynclip.fingerprint' "
            # A run that was imported again, because its checkpoints were scored again, stays in the file as deleted.
            "and lifecycle_stage = 'active' and run_uuid in (select run_uuid from metrics where key = 'policy/entropy')"
        ).fetchone()[0]
        keys = {key for (key,) in db.execute("select distinct key from metrics")}
    assert seeds == len(STUDY.methods) * len(STUDY.seeds)
    assert {"train/reward", "clip/high_fraction", "eval/facts/avg_at_8", "eval/facts/pass_at_8"} <= keys


@pytest.mark.slow  # `make test` is one itself
def test_a_fresh_copy_builds_its_environment_from_the_lock(tmp_path):
    workspace = copy_project(tmp_path)
    done = workspace.run("make", "plan", f"CONFIG=scale={SCALE}")
    assert done.returncode == 0 and "environment: ready in" in done.stdout, done.stdout[-3000:]
    assert "2 methods x 2 seeds" in done.stdout
    pins = re.search(r"^(\d+) of (\d+) pins of requirements/\w+.txt hold", workspace.run("make", "doctor").stdout)
    assert pins and pins[1] == pins[2]


def test_a_second_call_has_nothing_to_do(current):
    assert "Nothing to be done" in current.snakemake().stdout


def test_a_touched_file_with_the_same_content_reruns_nothing(current):
    (current.root / RESULTS / "data" / "train.jsonl").touch()
    assert current.planned() == {}


def test_one_result_file_can_be_asked_for_by_name(restored):
    target = restored.root / RESULTS / "scores" / "od" / "seed1" / "final" / "facts.json"
    before = json.loads(target.read_text())
    target.unlink()
    done = restored.snakemake(str(target.relative_to(restored.root)))
    assert done.returncode == 0, done.stdout[-2000:]
    after = json.loads(target.read_text())
    # A world is scored again, not read again, and the record's checksum covers its times.
    timing = ("seconds", "tokens_per_second", "guarantees", "environment", "record_sha256")
    assert {k: v for k, v in after.items() if k not in timing} == {k: v for k, v in before.items() if k not in timing}


def slow(case):
    return pytest.param(case, marks=pytest.mark.slow)


def jobs_of(study):
    """Rule -> jobs of a whole study on a clean tree."""
    methods, runs = len(study.methods), len(study.methods) * len(study.seeds)
    jobs = {"data": 1, "warmup": 1, "train": runs, "evaluate": 1 + runs * len(study.checkpoints)}
    if is_world(study):  # one job for all seeds
        jobs |= {"train": methods, "evaluate": methods, "evaluate_base": 1}
    return jobs | REPORT


@pytest.mark.parametrize("scale", [each if each in ONE_OF_EACH else slow(each) for each in SCALES])
def test_job_counts_of_a_dry_run_on_a_clean_tree(tmp_path, scale):
    """The root Snakefile plans the whole study; counts follow from the scale."""
    assert copy_project(tmp_path).planned(scale=scale) == jobs_of(resolve(scale))


@pytest.mark.parametrize("suite", [each if each == "laptop" else slow(each) for each in SUITES])
def test_a_suite_is_one_graph_with_the_jobs_of_its_scales_and_a_front_page(tmp_path, suite):
    workspace, studies = copy_project(tmp_path), resolve_all(suite)
    jobs = {f"{scale}_{rule}": n for scale, study in studies.items() for rule, n in jobs_of(study).items()}
    assert workspace.planned(scale=suite) == jobs | {"front": 1}
    fewer = workspace.planned(scale=suite, config=("seeds=0", "methods=grpo"))
    assert all(fewer[f"{scale}_train"] == 1 for scale in studies)
    # A named study runs in every scale; a file by its name in its scale alone.
    named = workspace.planned("phase_ratio", scale=suite)
    assert all(named[f"{scale}_track_study"] == 1 for scale in studies) and "front" not in named
    scale, study = next(iter(studies.items()))
    alone = workspace.planned(f"results/{scale}/runs/od/seed{study.seeds[0]}/run.json", scale=suite)
    assert alone == {f"{scale}_{rule}": 1 for rule in ("data", "warmup", "train")}


def test_a_rehearsal_of_the_suite_is_one_of_each_scale(tmp_path):
    workspace = copy_project(tmp_path)
    planned = workspace.planned("rehearse", scale="laptop")
    assert planned.pop("rehearse") == 1
    assert planned == workspace.planned(scale="laptop_rehearsal")


def test_fewer_seeds_run_nothing_and_more_seeds_train_the_missing_ones(current):
    """One job makes the files of all seeds of a call, and what it made stays valid in calls with other seeds."""
    runs = current.root / RESULTS / "runs" / "od"
    target = f"{RESULTS}/runs/od/seed{{}}/run.json"
    assert current.planned(target.format(0), config=("seeds=0",)) == {}
    before = (runs / "seed0" / "run.json").read_bytes()
    done = current.snakemake(target.format(2), config=("seeds=0-2",))
    assert done.returncode == 0, done.stdout[-3000:]
    assert (runs / "seed2" / "run.json").exists() and (runs / "seed0" / "run.json").read_bytes() == before
    assert (current.root / RESULTS / "base" / "seed2" / "model.json").exists()
    assert current.planned() == {}


@pytest.mark.slow
def test_a_method_with_options_is_an_arm_of_its_own_everywhere(current):
    """Trained, scored, tabled, drawn, reported and imported under its name, beside the method without options."""
    name, config = "od@eps=0.1", ("methods=grpo,od@eps=0.1", "seeds=0")
    assert current.planned(config=("methods=grpo,od", "seeds=0", "options=od:eps=.10")) == current.planned(
        config=config
    )
    done = current.snakemake(config=config)
    assert done.returncode == 0, done.stdout[-4000:]
    run = current.root / RESULTS / "runs" / name / "seed0"
    changed, default = (json.loads((path / "run.json").read_text()) for path in (run, run.parents[1] / "od" / "seed0"))
    assert (changed["method"], changed["options"]["eps"]) == (name, "0.1")
    assert changed["fingerprint_parts"]["method"] != default["fingerprint_parts"]["method"]
    assert changed["fingerprint_parts"]["settings"] == default["fingerprint_parts"]["settings"]
    for file in ("report.html", "tables/main.md", "tables/differences.md"):
        assert name in (current.root / RESULTS / file).read_text(), file
    with sqlite3.connect(current.root / "results" / "mlflow.db") as db:
        assert db.execute("select count(*) from runs where name = ?", (f"{name} · seed 0",)).fetchone()[0] == 1
    shown = current.run("dynclip", "follow", "--scale", SCALE, "--method", "od", "--option", "eps=0.1", "--seed", "0")
    assert f"[{name}/seed0] 6/6" in shown.stdout and shown.returncode == 0
    words = ("evaluate", "--scale", SCALE, "--method", "od", "--option", "eps=0.10", "--seed", "0")
    done = current.run("dynclip", *words, "--benchmark", "facts")
    assert done.returncode == 0 and f"evaluate {name}" in done.stdout, done.stdout[-2000:]


def edited(workspace, name, old, new):
    path = workspace.root / name
    text = path.read_text()
    assert text.count(old) == 1, f"{name} no longer holds {old!r} once"
    path.write_text(text.replace(old, new))
    return lambda: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "old", "new", "jobs"),
    [
        # One method's bounds: its training and evaluation, of all seeds, and what is drawn from them.
        (
            "dynclip/methods/bounds.py", "    return eps, eps\n", "    return eps + 0.0, eps\n",
            {"train": 1, "evaluate": 1, **REPORT},
        ),
        # The loss is everybody's.
        (
            "dynclip/methods/surrogate/__init__.py", "return -torch.min(tokens", "return -1 * torch.min(tokens",
            {"train": 2, "evaluate": 2, **REPORT},
        ),
        # A comment is nobody's.
        ("dynclip/methods/surrogate/__init__.py", "import torch\n", "import torch  # tensors\n", {}),
        # Another method that this study does not run.
        ("dynclip/methods/bounds.py", "return eps, 1 / (1 - eps)", "return eps, 1.0 / (1 - eps)", {}),
        # A plot retrains nothing.
        ("dynclip/report/figures/study.py", '.set_ylabel("entropy, nats")', '.set_ylabel("entropy (nats)")', None),
    ],
)  # fmt: skip
def test_an_edit_reruns_what_depends_on_it_and_nothing_else(current, name, old, new, jobs):
    restore = edited(current, name, old, new)
    try:
        planned = current.planned()
    finally:
        restore()
    if jobs is None:
        assert "figures" in planned and set(planned) <= set(REPORT)
    else:
        assert planned == jobs


@pytest.mark.slow  # `make lint` is a command of the README
def test_lint_and_formatting_are_clean():
    here = Workspace(ROOT)
    assert here.run("snakemake", "--lint").returncode == 0
    assert here.run("snakefmt", "--check", "Snakefile", "workflow").returncode == 0
    assert here.run("ruff", "check", ".").returncode == 0
    assert here.run("ruff", "format", "--check", ".").returncode == 0
