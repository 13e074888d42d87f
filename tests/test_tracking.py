"""Real MLflow on SQLite: the import is complete, idempotent and rebuildable; a live run is followed."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from browsing import mlflow_server
from synthetic_study import edit, write_study

from dynclip.cli.follow import follow
from dynclip.report.figures import write_figures
from dynclip.report.study_page import write_study as write_page
from dynclip.report.tracking import database, track, track_study
from dynclip.report.tracking.runs import POINTS, training_points
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A study with figures, imported once; tests that change it work on a copy."""
    results = tmp_path_factory.mktemp("tracked") / "results"
    write_figures(write_study(results / "tiny", ("grpo", "od"), (0, 1), steps=6))
    return results, track(results, "tiny")


@pytest.fixture
def copied(imported, tmp_path):
    """The imported study at another place, with the database."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # MLflow remembers in a process where the artifacts of a run are
    shutil.copytree(imported[0], tmp_path / "my results")
    return tmp_path / "my results"


def client(results):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")


def all_runs(results, scale="tiny"):
    mlflow = client(results)
    experiment = mlflow.get_experiment_by_name(f"dynclip/{scale}")
    found = mlflow.search_runs([experiment.experiment_id])
    return {run.data.tags["dynclip.entity"]: run for run in found}, len(found)


def test_mlflow_tracking_uri_says_where_to_import_and_what_is_there_stays(imported, tmp_path, monkeypatch):
    results = tmp_path / "results"
    shutil.copytree(imported[0] / "tiny", results / "tiny")
    other = f"sqlite:///{tmp_path / 'team.db'}"
    from mlflow.tracking import MlflowClient

    team = MlflowClient(tracking_uri=other)
    # Made by a colleague, whose results lie elsewhere.
    experiment = team.create_experiment("dynclip/tiny", artifact_location=(tmp_path / "colleague").as_uri())
    theirs = team.create_run(experiment, tags={"dynclip.entity": "gspo/seed0"}).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert {entry["state"] for entry in track(results, "tiny").values()} == {"imported"}
    assert {entry["state"] for entry in track(results, "tiny").values()} == {"unchanged"}
    assert not (results / "mlflow.db").exists()
    found = {run.data.tags["dynclip.entity"] for run in team.search_runs([experiment])}
    assert {"summary", "grpo/seed0", "od/seed1", "gspo/seed0"} <= found
    assert team.get_run(theirs).info.lifecycle_stage == "active"


def test_an_unusable_tracking_uri_is_named(imported, tmp_path, monkeypatch):
    shutil.copytree(imported[0] / "tiny", tmp_path / "results" / "tiny")
    (tmp_path / "team.db").write_text("not a database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    with pytest.raises(UserError, match=r"team\.db: MLflow failed .* check MLFLOW_TRACKING_URI") as caught:
        track(tmp_path / "results", "tiny")
    assert "\n" not in str(caught.value)


def test_a_training_is_a_run_of_its_own_with_tags_and_params(imported):
    results, report = imported
    runs, total = all_runs(results)
    assert set(runs) == {"summary", *report} and total == 1 + 4
    assert {entry["state"] for entry in report.values()} == {"imported"}
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs.values())
    seed = runs["od/seed1"]
    assert seed.info.run_name == "od · seed 1" and seed.info.status == "FINISHED"
    record = json.loads((results / "tiny/runs/od/seed1/run.json").read_text())
    shown = {
        "method": "od", "seed": "1", "scale": "tiny", "base": record["base_model_sha256"][:12], "code": "0123456789ab",
    }  # fmt: skip
    expected = {
        "dynclip.kind": "training", "dynclip.fingerprint": "fp-od-1", "dynclip.data_sha256": "d" * 64,
        "dynclip.env.torch": "2.13.0", "dynclip.env.git_commit": "0123456789abcdef",
    }  # fmt: skip
    assert (shown | expected).items() <= seed.data.tags.items()
    assert seed.data.params == {"epsilon": "0.2", "steps": "6"} | shown
    assert "results/mlartifacts" in seed.info.artifact_uri
    written = json.loads((results / "tiny/tracking.json").read_text())
    assert written["od/seed1"] == {"run_id": seed.info.run_id, "fingerprint": "fp-od-1"}


@pytest.mark.parametrize(("filters", "found"), [
    ('tags.method = "od" and params.seed = "0"', {"od/seed0"}),
    ('params.method = "grpo"', {"grpo/seed0", "grpo/seed1"}),
    ("tags.`dynclip.kind` = 'summary'", {"summary"}),
    ('metrics.`policy/entropy` < 10 and tags.scale = "tiny" and tags.seed = "1"', {"grpo/seed1", "od/seed1"}),
])  # fmt: skip
def test_filters_that_people_type(imported, filters, found):
    mlflow = client(imported[0])
    number = mlflow.get_experiment_by_name("dynclip/tiny").experiment_id
    assert {run.data.tags["dynclip.entity"] for run in mlflow.search_runs([number], filters)} == found


def test_the_experiment_is_a_model_training_with_a_view_of_the_curves(imported):
    tags = client(imported[0]).get_experiment_by_name("dynclip/tiny").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(tags["mlflow.sharedViewState.dynclip"])
    run = all_runs(imported[0])[0]["od/seed1"]
    drawn = {chart["metricKey"] for chart in state["compareRunCharts"]}
    assert drawn - set(run.data.metrics) <= {"policy/entropy_neutral"}  # which the synthetic study lacks
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "method"}]


def test_metrics_keep_their_steps_and_scores_are_beside_them(imported):
    results, _ = imported
    run_id = all_runs(results)[0]["grpo/seed0"].info.run_id
    rows = [json.loads(line) for line in (results / "tiny/runs/grpo/seed0/metrics.jsonl").read_text().splitlines()]
    history = client(results).get_metric_history(run_id, "policy/entropy")
    assert {point.step: point.value for point in history} == {r["step"]: r["policy/entropy"] for r in rows}
    score = json.loads((results / "tiny/scores/grpo/seed0/final/facts.json").read_text())
    points = client(results).get_metric_history(run_id, "eval/facts/avg_at_4")
    assert {point.step for point in points} == {2, 6} and len(points) == 2
    assert max(points, key=lambda p: p.step).value == score["avg_at_k"]["value"]
    flexible = client(results).get_metric_history(run_id, "eval/facts/flexible_avg_at_4")
    assert max(flexible, key=lambda p: p.step).value == score["flexible"]["avg_at_k"]["value"]
    assert client(results).get_metric_history(run_id, "eval/facts/pass_at_2")
    means = client(results).get_metric_history(run_id, "eval/pass_at_1")
    both = [client(results).get_metric_history(run_id, f"eval/{name}/avg_at_4") for name in ("facts", "worded")]
    assert {p.step: p.value for p in means} == pytest.approx(
        {step: sum(p.value for curve in both for p in curve if p.step == step) / 2 for step in (2, 6)}
    )


def test_samples_and_figures_are_artifacts(imported):
    results, _ = imported
    runs, _ = all_runs(results)
    names = {f.path for f in client(results).list_artifacts(runs["grpo/seed0"].info.run_id, "samples")}
    assert names == {"samples/facts.json", "samples/worded.json"}
    run_id = runs["grpo/seed0"].info.run_id
    table = json.loads((results / "mlartifacts" / run_id / "artifacts/samples/facts.json").read_text())
    assert len(table["data"]) == 40 and "text" in table["columns"]
    figures = client(results).list_artifacts(runs["summary"].info.run_id, "figures")
    assert "figures/entropy.png" in {f.path for f in figures}


def test_second_import_changes_nothing(imported):
    results, first = imported
    before = {name: run.to_dictionary() for name, run in all_runs(results)[0].items()}
    again = track(results, "tiny")
    assert {entry["state"] for entry in again.values()} == {"unchanged"}
    assert {n: e["run_id"] for n, e in again.items()} == {n: e["run_id"] for n, e in first.items()}
    assert {name: run.to_dictionary() for name, run in all_runs(results)[0].items()} == before


def test_a_study_tags_its_runs_and_the_tags_survive_a_change_of_the_run(copied):
    results = copied / "tiny"
    track(copied, "tiny")  # of this place
    write_page(results, "curves", (0, 1))
    report = track_study(copied, "tiny", "curves", (0, 1))
    assert set(report) == {f"{name}/seed{seed}" for name in ("grpo", "od") for seed in (0, 1)}
    assert {entry["state"] for entry in report.values()} == {"unchanged"}
    runs, total = all_runs(copied)
    tags = runs["od/seed1"].data.tags
    assert total == 1 + 4 and tags["study.curves"] == "yes" and tags["study"] == "curves"
    page = client(copied).list_artifacts(runs["summary"].info.run_id, "studies/curves")
    assert {item.path for item in page} >= {"studies/curves/README.md", "studies/curves/panels.png"}
    record = results / "runs" / "od" / "seed1" / "run.json"
    edit(record, fingerprint="fp-changed")
    assert track(copied, "tiny")["od/seed1"]["state"] == "replaced"
    tags = all_runs(copied)[0]["od/seed1"].data.tags
    assert tags["study.curves"] == "yes" and tags["study"] == "curves"


def test_artifacts_are_found_after_a_move(copied, imported, capsys):
    """The copy's run ids are those of the original; their artifacts are read from the new place."""
    report = track(copied, "tiny")
    assert {entry["state"] for entry in report.values()} == {"unchanged"}
    assert {n: e["run_id"] for n, e in report.items()} == {n: e["run_id"] for n, e in imported[1].items()}
    moved = capsys.readouterr().err
    assert moved.count("artifacts have moved") == 1 and f"-> {copied.as_uri()[7:]}/mlartifacts" in moved
    run = all_runs(copied)[0]["grpo/seed0"]
    assert run.info.artifact_uri.startswith((copied / "mlartifacts").as_uri())
    assert {f.path for f in client(copied).list_artifacts(run.info.run_id, "samples")} == {
        "samples/facts.json", "samples/worded.json",
    }  # fmt: skip
    track(copied, "tiny")
    assert "moved" not in capsys.readouterr().err


def test_a_changed_run_is_replaced(copied):
    first = track(copied, "tiny")
    path = copied / "tiny/runs/od/seed1/run.json"
    edit(path, fingerprint="fp-new")
    changed = track(copied, "tiny")
    assert {n for n, e in changed.items() if e["state"] == "replaced"} == {"od/seed1"}
    runs, total = all_runs(copied)
    assert total == len(runs) == 5 and runs["od/seed1"].data.tags["dynclip.fingerprint"] == "fp-new"
    assert client(copied).get_run(first["od/seed1"]["run_id"]).info.lifecycle_stage == "deleted"
    assert {entry["state"] for entry in track(copied, "tiny").values()} == {"unchanged"}


def test_runs_of_the_first_layout_are_replaced(copied):
    """They were nested: study > method > seed."""
    track(copied, "tiny")
    mlflow, number = client(copied), client(copied).get_experiment_by_name("dynclip/tiny").experiment_id
    for entity in ("study", "grpo", "study/curves"):
        mlflow.create_run(number, run_name=entity, tags={"dynclip.entity": entity})
    stranger = mlflow.create_run(number, run_name="mine").info.run_id
    track(copied, "tiny")
    names = {run.info.run_name for run in mlflow.search_runs([number])}
    assert names == {"summary", "mine", *(f"{m} · seed {s}" for m in ("grpo", "od") for s in (0, 1))}
    assert mlflow.get_run(stranger).info.lifecycle_stage == "active"


def test_interrupted_import_and_missing_database(copied):
    track(copied, "tiny")
    mlflow, (runs, _) = client(copied), all_runs(copied)
    mlflow.delete_tag(runs["od/seed0"].info.run_id, "dynclip.digest")  # as if killed before the end
    shutil.rmtree(copied / "mlartifacts" / runs["grpo/seed1"].info.run_id)
    states = {name: entry["state"] for name, entry in track(copied, "tiny").items()}
    assert states == {
        "grpo/seed0": "unchanged",
        "grpo/seed1": "replaced",
        "od/seed0": "replaced",
        "od/seed1": "unchanged",
    }
    (copied / "mlflow.db").unlink()
    # In a process of its own: this one still holds the deleted file open.
    code = f"from dynclip.report.tracking import track; answer = track({str(copied)!r}, 'tiny')\n"
    code += "print([entry['state'] for entry in answer.values()])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["imported"] * 4) and (copied / "mlflow.db").is_file()


def damaged(path):
    path.write_bytes(b"this is no database" * 100)


def foreign(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cats (name TEXT)")


def of_another_mlflow(path):
    shutil.copy(path.parents[1] / "schema.db", path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.execute("UPDATE experiments SET artifact_location = ?", ((path.parent / "mlartifacts").as_uri(),))


@pytest.mark.parametrize(("spoil", "words"), [
    (damaged, r"mlflow\.db is no SQLite database .* move it away, then run: dynclip track --scale tiny"),
    (foreign, r"mlflow\.db is not MLflow's: it has other tables; .* away, then run: dynclip track --scale tiny"),
    (of_another_mlflow, r"its schema is not that of MLflow .* run: mlflow db upgrade .*; otherwise install"),
])  # fmt: skip
def test_a_database_that_mlflow_cannot_use_is_named(imported, tmp_path, spoil, words):
    shutil.copy(imported[0] / "mlflow.db", tmp_path / "schema.db")
    shutil.copytree(imported[0] / "tiny", tmp_path / "results" / "tiny")
    spoil(tmp_path / "results" / "mlflow.db")
    kept = sha256(tmp_path / "results" / "mlflow.db")
    with pytest.raises(UserError, match=words) as caught:
        track(tmp_path / "results", "tiny")
    assert "\n" not in str(caught.value) and "delete" not in str(caught.value)
    assert sha256(tmp_path / "results" / "mlflow.db") == kept


def test_a_locked_database_is_waited_for(copied, monkeypatch):
    holder = sqlite3.connect(copied / "mlflow.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"another program has been writing to it for 0\.2 s; close it, then run"):
        track(copied, "tiny")
    monkeypatch.setattr(database, "LOCK_SECONDS", 60)
    timer = threading.Timer(1.0, holder.rollback)
    timer.start()
    assert {entry["state"] for entry in track(copied, "tiny").values()} == {"unchanged"}
    timer.join()


def test_a_killed_creation_leaves_no_database(tmp_path):
    """Killed in the middle of MLflow's migrations: the next import creates the database anew."""
    results = tmp_path / "results"
    write_study(results / "tiny", ("grpo",), (0,), steps=6)
    code = f"from dynclip.report.tracking import track; track({str(results)!r}, 'tiny')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    aside = results / "mlflow.db.new"
    deadline = time.monotonic() + 600
    while not (aside.exists() and aside.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert aside.exists() and not (results / "mlflow.db").exists()
    assert track(results, "tiny")["grpo/seed0"]["state"] == "imported" and not aside.exists()


def test_a_server_takes_the_runs_and_their_artifacts(copied, tmp_path, monkeypatch):
    with mlflow_server(tmp_path / "server") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        local = sha256(copied / "mlflow.db")
        assert {entry["state"] for entry in track(copied, "tiny").values()} == {"imported"}
        assert {entry["state"] for entry in track(copied, "tiny").values()} == {"unchanged"}
        assert sha256(copied / "mlflow.db") == local

        from mlflow.tracking import MlflowClient

        mlflow = MlflowClient(tracking_uri=address)
        number = mlflow.get_experiment_by_name("dynclip/tiny").experiment_id
        (run,) = mlflow.search_runs([number], 'tags.method = "od" and params.seed = "0"')
        assert mlflow.get_metric_history(run.info.run_id, "policy/entropy")
        assert {item.path for item in mlflow.list_artifacts(run.info.run_id, "samples")} == {
            "samples/facts.json", "samples/worded.json",
        }  # fmt: skip
    with pytest.raises(UserError, match=r"check MLFLOW_TRACKING_URI and what it names"):
        track(copied, "tiny")


def test_curves_are_thinned_with_both_ends():
    pytest.importorskip("mlflow")
    rows = [{"step": k, "train/reward": k / 10, "time/step": 0.5, "clip/state": None} for k in range(2000)]
    points = training_points(rows, start=0)
    steps = [point.step for point in points if point.key == "train/reward"]
    assert len(steps) == POINTS and (steps[0], steps[-1]) == (0, 1999)
    assert points[-1].timestamp == 1_000_000 and {point.key for point in points} == {
        "train/reward",
        "time/step",
    }


def test_follow_shows_a_run_as_it_grows_until_it_is_finished(tmp_path):
    done = write_study(tmp_path / "done" / "tiny", ("grpo",), (0,), steps=6) / "runs/grpo/seed0"
    rows = (done / "metrics.jsonl").read_text().splitlines(keepends=True)
    run = tmp_path / "results/tiny/runs/grpo/seed0"
    (run / "state").mkdir(parents=True)
    live, lines = run / "state/metrics.jsonl", []
    live.write_text("".join(rows[:2]) + rows[2][:40])  # the third row is still being written

    def train():
        wait_for(lambda: len(lines) == 2)
        live.write_text(rows[0])  # killed, and resumed from an earlier step
        wait_for(lambda: len(lines) == 4)
        live.write_text("".join(rows[:4]))
        wait_for(lambda: len(lines) == 7)
        (run / "metrics.jsonl").write_text("".join(rows))
        shutil.rmtree(run / "state")
        shutil.copy(done / "run.json", run / "run.json")

    def wait_for(condition):
        deadline = time.monotonic() + 300
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)

    thread = threading.Thread(target=train)
    thread.start()
    follow(run, total=6, poll=0.02, log=lines.append)
    thread.join()
    steps = [line.split("]")[1].split()[0] for line in lines]
    assert steps == ["1/6", "2/6", "was", "1/6", "2/6", "3/6", "4/6", "5/6", "6/6", "finished"]
    assert "entropy 0.5" in lines[0] and "clipped 1.00 %" in lines[0] and "2.00 steps/s  0:02 left" in lines[0]


def test_follow_sends_live_rows_that_the_import_replaces(tmp_path):
    results = tmp_path / "results"
    done = write_study(results / "tiny", ("grpo",), (0,), steps=6) / "runs/grpo/seed0"
    record, rows = done / "run.json", (done / "metrics.jsonl").read_text()
    (done / "state").mkdir()
    (done / "state/metrics.jsonl").write_text("".join(rows.splitlines(keepends=True)[:3]))
    hidden = record.rename(tmp_path / "run.json")
    lines = []

    def log(line):
        lines.append(line)
        if len(lines) == 3:
            # Finished after the third row was shown and before the next look.
            threading.Timer(0.5, lambda: hidden.rename(record)).start()

    follow(done, total=6, mlflow=True, poll=0.1, log=log)
    runs, total = all_runs(results)
    live = runs["grpo/seed0"]
    assert total == 1 and live.info.run_name == "grpo · seed 0" and live.data.tags["dynclip.live"] == "true"
    assert live.info.status == "RUNNING"
    assert [p.step for p in client(results).get_metric_history(live.info.run_id, "train/reward")] == [0, 1, 2]
    assert track(results, "tiny")["grpo/seed0"]["state"] == "replaced"
    runs, total = all_runs(results)
    assert total == 2 and "dynclip.live" not in runs["grpo/seed0"].data.tags
