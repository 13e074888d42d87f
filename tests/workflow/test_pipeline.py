"""The whole study end to end at miniature scale: real TRL, real MLflow, real report, in a fresh copy."""

import json
import sqlite3

import pytest
from workspace import RESULTS, ROOT, SCALE, copy_project

from dynclip.cli.pipeline import figure_files, run_files, score_files, table_files
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import SCALES

pytestmark = pytest.mark.workflow
STUDY = resolve("miniature")
REPORT = {"tables": 1, "figures": 1, "page": 1, "track": 1}


def test_every_declared_file_exists_and_the_last_lines_say_how_to_look(finished):
    workspace, output = finished
    files = [*run_files(STUDY), *score_files(STUDY), *table_files(STUDY), f"{RESULTS}/report.html"]
    files += [*figure_files(STUDY, "svg"), *figure_files(STUDY, "png"), f"{RESULTS}/tracking.json"]
    assert [name for name in files if not (workspace.root / name).stat().st_size] == []
    report, mlflow = output.strip().splitlines()[-2:]
    assert f"open {RESULTS}/report.html" in report
    assert mlflow.endswith("mlflow ui --backend-store-uri sqlite:///results/mlflow.db")


def test_the_plan_comes_first(finished):
    _, output = finished
    assert output.index("2 methods x 2 seeds") < output.index("Building DAG of jobs")
    assert "expect a factor of two" in output and "disk" in output


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
            assert not (run / "state").exists()
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
            "select count(distinct run_uuid) from tags where key = 'dynclip.fingerprint' and run_uuid in "
            "(select run_uuid from metrics where key = 'policy/entropy')"
        ).fetchone()[0]
        keys = {key for (key,) in db.execute("select distinct key from metrics")}
    assert seeds == len(STUDY.methods) * len(STUDY.seeds)
    assert {"train/reward", "clip/high_fraction", "eval/chain_sum/avg_at_16", "eval/chain_sum/pass_at_8"} <= keys


def test_a_second_call_has_nothing_to_do(current):
    assert "Nothing to be done" in current.snakemake().stdout


def test_a_touched_file_with_the_same_content_reruns_nothing(current):
    (current.root / RESULTS / "data" / "train.jsonl").touch()
    assert current.planned() == {}


def test_one_result_file_can_be_asked_for_by_name(finished):
    workspace, _ = finished
    target = workspace.root / RESULTS / "scores" / "od" / "seed1" / "final" / "chain_sum.json"
    before = json.loads(target.read_text())
    target.unlink()
    done = workspace.snakemake(str(target.relative_to(workspace.root)))
    assert done.returncode == 0, done.stdout[-2000:]
    after = json.loads(target.read_text())
    timing = ("seconds", "environment")
    assert {k: v for k, v in after.items() if k not in timing} == {k: v for k, v in before.items() if k not in timing}


def test_job_counts_of_a_dry_run_on_a_clean_tree(tmp_path):
    """The root Snakefile plans the whole study; counts follow from the scale."""
    workspace = copy_project(tmp_path)
    for scale in SCALES:
        study = resolve(scale)
        runs = len(study.methods) * len(study.seeds)
        expected = {"data": 1, "warmup": 1, "train": runs, "evaluate": 1 + runs * len(study.checkpoints)}
        assert workspace.planned(scale=scale) == expected | REPORT


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
    assert (changed["method"], changed["options"]["eps"]) == (name, str(0.1 * SCALES["miniature"].thresholds))
    assert changed["fingerprint_parts"]["method"] != default["fingerprint_parts"]["method"]
    assert changed["fingerprint_parts"]["settings"] == default["fingerprint_parts"]["settings"]
    for file in ("report.html", "tables/main.md", "tables/differences.md"):
        assert name in (current.root / RESULTS / file).read_text(), file
    with sqlite3.connect(current.root / "results" / "mlflow.db") as db:
        assert db.execute("select count(*) from runs where name = ?", (f"{name}/seed0",)).fetchone()[0] == 1
    shown = current.run("dynclip", "follow", "--scale", SCALE, "--method", "od", "--option", "eps=0.1", "--seed", "0")
    assert f"[{name}/seed0] 6/6" in shown.stdout and shown.returncode == 0
    words = ("evaluate", "--scale", SCALE, "--method", "od", "--option", "eps=0.10", "--seed", "0")
    done = current.run("dynclip", *words, "--benchmark", "chain_sum")
    assert done.returncode == 0 and "none to generate" in done.stdout, done.stdout[-2000:]


def edited(workspace, name, old, new):
    path = workspace.root / name
    text = path.read_text()
    assert text.count(old) == 1, f"{name} no longer holds {old!r} once"
    path.write_text(text.replace(old, new))
    return lambda: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "old", "new", "jobs"),
    [
        # One method's bounds: its two seeds, their two checkpoints each, and what is drawn from them.
        (
            "dynclip/methods/bounds.py", "    return eps, eps\n", "    return eps + 0.0, eps\n",
            {"train": 2, "evaluate": 4, **REPORT},
        ),
        # The loss is everybody's.
        (
            "dynclip/methods/surrogate.py", "return -torch.min(tokens", "return -1 * torch.min(tokens",
            {"train": 4, "evaluate": 8, **REPORT},
        ),
        # A comment is nobody's.
        ("dynclip/methods/surrogate.py", "import torch\n", "import torch  # tensors\n", {}),
        # Another method that this study does not run.
        ("dynclip/methods/bounds.py", "return eps, 1 / (1 - eps)", "return eps, 1.0 / (1 - eps)", {}),
        # A plot retrains nothing.
        ("dynclip/report/figures.py", '.set_ylabel("entropy, nats")', '.set_ylabel("entropy (nats)")', None),
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


def test_lint_and_formatting_are_clean():
    from workspace import Workspace

    here = Workspace(ROOT)
    assert here.run("snakemake", "--lint").returncode == 0
    assert here.run("snakefmt", "--check", "Snakefile", "workflow").returncode == 0
    assert here.run("ruff", "check", ".").returncode == 0
    assert here.run("ruff", "format", "--check", ".").returncode == 0
