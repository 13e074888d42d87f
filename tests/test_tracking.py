"""Real MLflow on SQLite: the import is complete, idempotent and rebuildable; a live run is followed."""

import json
import shutil
import subprocess
import sys
import threading
import time

import pytest
from synthetic_study import write_study

from dynclip.cli.follow import follow
from dynclip.report.figures import write_figures
from dynclip.report.mlflow_import import POINTS, track, track_study, training_points
from dynclip.report.study_page import write_study as write_page
from dynclip.runtime.errors import UserError


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A study with figures, imported once; tests that change it work on a copy."""
    results = tmp_path_factory.mktemp("tracked") / "results"
    write_figures(write_study(results / "tiny", ("grpo", "od"), (0, 1), steps=6))
    return results, track(results, "tiny")


@pytest.fixture
def copied(imported, tmp_path):
    """The imported study at another place, with the database."""
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
    assert {"study", "grpo", "od", "od/seed1", "gspo/seed0"} <= found
    assert team.get_run(theirs).info.lifecycle_stage == "active"


def test_an_unusable_tracking_uri_is_named(imported, tmp_path, monkeypatch):
    shutil.copytree(imported[0] / "tiny", tmp_path / "results" / "tiny")
    (tmp_path / "team.db").write_text("not a database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    with pytest.raises(UserError, match=r"team\.db: MLflow failed .* check MLFLOW_TRACKING_URI") as caught:
        track(tmp_path / "results", "tiny")
    assert "\n" not in str(caught.value)


def test_structure_tags_and_params(imported):
    results, report = imported
    runs, total = all_runs(results)
    assert total == len(runs) == 1 + 2 + 4
    assert {entry["state"] for entry in report.values()} == {"imported"}
    seed, method, study = runs["od/seed1"], runs["od"], runs["study"]
    assert seed.data.tags["mlflow.parentRunId"] == method.info.run_id
    assert method.data.tags["mlflow.parentRunId"] == study.info.run_id
    expected = {
        "method": "od", "seed": "1", "dynclip.fingerprint": "fp-od-1", "dynclip.data_sha256": "d" * 64,
        "dynclip.env.torch": "2.13.0", "dynclip.env.git_commit": "0123456789abcdef",
    }  # fmt: skip
    assert expected.items() <= seed.data.tags.items()
    assert seed.data.params == {"epsilon": "0.2", "steps": "6"}
    assert seed.info.status == "FINISHED" and "results/mlartifacts" in seed.info.artifact_uri
    written = json.loads((results / "tiny/tracking.json").read_text())
    assert written["od/seed1"] == {"run_id": seed.info.run_id, "fingerprint": "fp-od-1"}


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


def test_samples_and_figures_are_artifacts(imported):
    results, _ = imported
    runs, _ = all_runs(results)
    names = {f.path for f in client(results).list_artifacts(runs["grpo/seed0"].info.run_id, "samples")}
    assert names == {"samples/facts.json", "samples/worded.json"}
    run_id = runs["grpo/seed0"].info.run_id
    table = json.loads((results / "mlartifacts" / run_id / "artifacts/samples/facts.json").read_text())
    assert len(table["data"]) == 40 and "text" in table["columns"]
    figures = client(results).list_artifacts(runs["study"].info.run_id, "figures")
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
    assert total == 1 + 2 + 4 + 1 and runs["od/seed1"].data.tags["study.curves"] == "yes"
    page = runs["study/curves"]
    assert page.data.tags["question"].startswith("How do entropy")
    assert {item.path for item in client(copied).list_artifacts(page.info.run_id)} >= {"README.md", "panels.png"}
    record = results / "runs" / "od" / "seed1" / "run.json"
    record.write_text(record.read_text().replace("fp-od-1", "fp-changed"))
    assert track(copied, "tiny")["od/seed1"]["state"] == "replaced"
    assert all_runs(copied)[0]["od/seed1"].data.tags["study.curves"] == "yes"


def test_moved_database_is_rebuilt_and_changed_runs_are_replaced(copied):
    # The artifacts' absolute paths point to the old place, so everything is imported again.
    moved = track(copied, "tiny")
    assert {entry["state"] for entry in moved.values()} == {"imported"}
    path = copied / "tiny/runs/od/seed1/run.json"
    path.write_text(path.read_text().replace("fp-od-1", "fp-new"))
    changed = track(copied, "tiny")
    assert {n for n, e in changed.items() if e["state"] == "replaced"} == {"od/seed1"}
    runs, total = all_runs(copied)
    assert total == len(runs) == 7 and runs["od/seed1"].data.tags["dynclip.fingerprint"] == "fp-new"
    old = moved["od/seed1"]["run_id"]
    assert client(copied).get_run(old).info.lifecycle_stage == "deleted"
    active = [found.name for found in client(copied).search_experiments(filter_string="name LIKE 'dynclip%'")]
    assert active == ["dynclip/tiny"]
    assert {entry["state"] for entry in track(copied, "tiny").values()} == {"unchanged"}


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
    code = f"from dynclip.report.mlflow_import import track; answer = track({str(copied)!r}, 'tiny')\n"
    code += "print([entry['state'] for entry in answer.values()])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["imported"] * 4) and (copied / "mlflow.db").is_file()


def test_damaged_database_is_named(study):
    database = study.parent / "mlflow.db"
    database.write_bytes(b"this is no database" * 100)
    with pytest.raises(UserError, match=r"mlflow.db.*--forcerun track"):
        track(study.parent, "tiny")


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
        deadline = time.monotonic() + 20
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
    assert total == 1 and live.data.tags["dynclip.live"] == "true" and live.info.status == "RUNNING"
    assert [p.step for p in client(results).get_metric_history(live.info.run_id, "train/reward")] == [0, 1, 2]
    assert track(results, "tiny")["grpo/seed0"]["state"] == "replaced"
    runs, total = all_runs(results)
    assert total == 3 and "dynclip.live" not in runs["grpo/seed0"].data.tags
