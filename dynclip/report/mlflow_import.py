"""Import of finished runs into MLflow. The database is a copy: it can be deleted and rebuilt from results/.

One experiment per scale. It holds a run "study", under it a run per method, and under that a run per seed with its
training curves, scores and last samples. A named study is a run with its page and figures. Its trainings have the tag
`study.<name>`; search for it with tags."study.thresholds" = 'yes'. Replaced runs are marked as deleted;
`mlflow gc` removes them from disk.
"""

import math
import os
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from dynclip.report.evidence import Evidence, is_exact, load_evidence
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_json
from dynclip.runtime.provenance import digest
from dynclip.studies.arms import STUDIES

TABLE_ROWS = 400  # samples per benchmark in the artifact; results/<scale>/samples holds all of them
POINTS = 500  # per curve: more points slow the UI and show no more
BATCH = 1000  # MLflow's limit for one log_batch call
PARENT = "mlflow.parentRunId"
ENTITY = "dynclip.entity"  # what a run stands for, unique in its experiment: study, <method> or <method>/seed<k>
STUDY_TAG = "study."
DIGEST = "dynclip.digest"  # of everything that was imported; set last, so that a run without it is incomplete


def track(results: Path | str, scale: str, methods=None, seeds=None) -> dict:
    """Import the finished runs of results/<scale> into results/mlflow.db or into what MLFLOW_TRACKING_URI names.

    Returns "<method>/seed<k>" -> {"run_id", "fingerprint", "state"}; state: "imported", "replaced" or "unchanged".
    Writes the same without state to tracking.json. A run whose content changed is deleted and imported again; other
    runs in MLflow stay. Raises UserError for a damaged file or database.
    """
    results = Path(results).resolve()
    evidence = load_evidence(results / scale, methods, seeds)
    with open_client(results) as client:
        experiment = experiment_id(client, results, scale)
        known = known_runs(client, experiment)
        study = _container(client, experiment, known, "study", {})
        report = _import_runs(client, experiment, known, evidence, study)
        _refresh_artifacts(client, study, sorted((evidence.results / "figures").glob("*.png")), "figures")
    _write_tracking(evidence.results, report)
    return report


def track_study(results: Path | str, scale: str, name: str, seeds=None) -> dict:
    """Import the runs and the page of the study `name`, and write studies/<name>/tracking.json.

    Return value, replaced runs and errors are those of `track`.
    """
    results, spec = Path(results).resolve(), STUDIES[name]
    folder, report = results / scale / "studies" / name, {}
    with open_client(results) as client:
        experiment = experiment_id(client, results, scale)
        known = known_runs(client, experiment)
        study = _container(client, experiment, known, "study", {})
        for group in spec.groups or (spec.arms,):
            report |= _import_runs(client, experiment, known, load_evidence(results / scale, group, seeds), study)
        for entry in report.values():
            client.set_tag(entry["run_id"], f"{STUDY_TAG}{name}", "yes")
        page = _container(client, experiment, known, f"study/{name}", {PARENT: study, "question": spec.question})
        files = sorted(path for path in folder.glob("*") if path.suffix in (".md", ".csv", ".png"))
        _refresh_artifacts(client, page, files, "")
    _write_tracking(folder, report)
    return report


def _write_tracking(folder: Path, report: dict) -> None:
    written = {n: {key: entry[key] for key in ("run_id", "fingerprint")} for n, entry in report.items()}
    write_json(folder / "tracking.json", written)


def _container(client, experiment: str, known: dict, entity: str, tags: dict) -> str:
    """Id of the run that holds others. It is created if there is none, and its tags are updated."""
    runs = known.get(entity)
    if not runs:
        tags = {ENTITY: entity, **tags}
        runs = [client.create_run(experiment, run_name=entity, tags=tags)]
        client.set_terminated(runs[0].info.run_id)
        known[entity] = runs
    for run in runs[1:]:
        delete_run(client, run)
    for key, value in tags.items():
        if runs[0].data.tags.get(key) != value:
            client.set_tag(runs[0].info.run_id, key, value)
    return runs[0].info.run_id


def _import_runs(client, experiment: str, known: dict, evidence: Evidence, study: str) -> dict:
    """Import every run of the evidence under the run of its method; "<method>/seed<k>" -> entry, as `track` returns."""
    report = {}
    for method, seed in evidence.runs:
        parent = _container(client, experiment, known, method, {PARENT: study, "method": method})
        report[f"{method}/seed{seed}"] = _import_run(client, experiment, known, evidence, method, seed, parent)
    return report


def _import_run(client, experiment, known, evidence: Evidence, method, seed, parent) -> dict:
    run, name = evidence.runs[method, seed], f"{method}/seed{seed}"
    scores = [s for s in evidence.scores if (s["method"], s["seed"]) == (method, seed)]
    folder = evidence.results / "runs" / method / f"seed{seed}"
    content = digest(
        [run, sha256(folder / "metrics.jsonl"), [{k: v for k, v in s.items() if k != "file"} for s in scores]]
    )
    entry = {"fingerprint": run["fingerprint"]}
    old = known.get(name, [])
    for found in old:
        tags = found.data.tags
        if tags.get(DIGEST) == content and tags.get(PARENT) == parent and _artifacts(found, scores):
            return entry | {"run_id": found.info.run_id, "state": "unchanged"}
    for found in old:
        delete_run(client, found)
    studies = {key: value for found in old for key, value in found.data.tags.items() if key.startswith(STUDY_TAG)}
    end = int((folder / "run.json").stat().st_mtime * 1000)
    start = end - int(1000 * run["seconds"])
    made = client.create_run(experiment, start_time=start, tags=_tags(run, name, parent) | studies, run_name=name)
    run_id = made.info.run_id
    points = training_points(evidence.rows[method, seed], start) + _score_points(scores, end)
    log_points(client, run_id, points, {**run["options"], "steps": run["steps"]})
    for score in scores:
        if score["checkpoint"] == "final":
            _log_samples(client, run_id, evidence, score)
    client.set_terminated(run_id, end_time=end)
    client.set_tag(run_id, DIGEST, content)
    return entry | {"run_id": run_id, "state": "replaced" if old else "imported"}


def _artifacts(run, scores: list[dict]) -> bool:
    """Whether the sample tables of an imported run are on disk. Those on a server are not checked."""
    place = urlparse(run.info.artifact_uri)
    if place.scheme not in ("", "file"):
        return True
    folder = Path(unquote(place.path)) / "samples"
    return all((folder / f"{score['benchmark']}.json").is_file() for score in scores if score["checkpoint"] == "final")


def _tags(run: dict, name: str, parent: str) -> dict[str, str]:
    environment = {f"dynclip.env.{key}": str(value) for key, value in run["environment"].items()}
    return {
        ENTITY: name,
        PARENT: parent,
        "method": run["method"],
        "seed": str(run["seed"]),
        "dynclip.fingerprint": str(run["fingerprint"]),
        "dynclip.base_model_sha256": run["base_model_sha256"],
        "dynclip.data_sha256": run["data_sha256"],
        **environment,
    }


def _score_points(scores: list[dict], stamp: int) -> list:
    from mlflow.entities import Metric

    points = []
    for score in scores:
        name = f"eval/{score['benchmark']}"
        values = {f"{name}/avg_at_{score['k']}": score["avg_at_k"]["value"]}
        if not is_exact(score):
            values[f"{name}/flexible_avg_at_{score['k']}"] = score["flexible"]["avg_at_k"]["value"]
        values |= {f"{name}/pass_at_{k}": value for k, value in score["pass_at"].items() if value is not None}
        points += [Metric(key, float(value), stamp, score["step"]) for key, value in values.items()]
    return points


def _log_samples(client, run_id: str, evidence: Evidence, score: dict) -> None:
    import pandas as pd

    name = score["benchmark"]
    folder = evidence.results / "samples" / score["method"] / f"seed{score['seed']}" / "final"
    table = pd.read_parquet(folder / f"{name}.parquet").head(TABLE_ROWS)
    client.log_table(run_id, table, f"samples/{name}.json")


def _refresh_artifacts(client, run_id: str, files: list[Path], folder: str) -> None:
    """Log files as artifacts if their content changed. Files of the same name are overwritten."""
    content = digest([[path.name, sha256(path)] for path in files])
    if client.get_run(run_id).data.tags.get(DIGEST) != content:
        for path in files:
            client.log_artifact(run_id, str(path), folder or None)
        client.set_tag(run_id, DIGEST, content)


@contextmanager
def open_client(results: Path):
    """An MlflowClient on results/mlflow.db or on what MLFLOW_TRACKING_URI names, under a file lock."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from filelock import FileLock
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    results.mkdir(parents=True, exist_ok=True)
    database, given = results / "mlflow.db", given_uri()
    with FileLock(f"{database}.lock"):
        try:
            yield MlflowClient(tracking_uri=given or f"sqlite:///{database}")
        except (MlflowException, SQLAlchemyError) as error:
            line = str(error).strip().partition("\n")[0]
            advice = "it holds copies only: delete it, then run"
            if given:
                advice = "check MLFLOW_TRACKING_URI and what it names, or unset it, then run"
            raise UserError(
                f"{given or database}: MLflow failed ({line}); {advice} snakemake --cores all --forcerun track"
            ) from error


def given_uri() -> str | None:
    """The database or server in MLFLOW_TRACKING_URI, None if it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def experiment_id(client, results: Path, scale: str) -> str:
    """Id of the experiment dynclip/<scale>, created if there is none.

    If results/mlflow.db was moved, its artifact paths are wrong. That experiment is renamed and deleted, and a new one
    is created.
    """
    from mlflow.entities import ViewType
    from mlflow.store.db.db_types import DATABASE_ENGINES

    location = (results / "mlartifacts").as_uri()
    name, given = f"dynclip/{scale}", given_uri()
    if given and urlparse(given).scheme.partition("+")[0] not in DATABASE_ENGINES:
        location = None  # the server decides where artifacts are stored
    for found in client.search_experiments(ViewType.ALL, filter_string=f"name = '{name}'"):
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        if given or found.artifact_location == location:
            return found.experiment_id
        # A deleted experiment keeps its name, and names are unique.
        client.rename_experiment(found.experiment_id, f"{name}, moved ({found.experiment_id})")
        client.delete_experiment(found.experiment_id)
    return client.create_experiment(name, artifact_location=location)


def known_runs(client, experiment: str) -> dict[str, list]:
    """entity -> its active runs. There are several only after an interrupted import."""
    known: dict[str, list] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            known.setdefault(run.data.tags.get(ENTITY, ""), []).append(run)
        token = page.token
        if not token:
            return known


def delete_run(client, run) -> None:
    """Mark a run as deleted."""
    client.delete_run(run.info.run_id)


def training_points(rows: list[dict], start: int) -> list:
    """MLflow metrics of at most POINTS rows, the first and the last among them. Times are sums of time/step."""
    from mlflow.entities import Metric

    count = min(POINTS, len(rows))
    kept = {round(i * (len(rows) - 1) / max(1, count - 1)) for i in range(count)}
    points, elapsed = [], 0.0
    for place, row in enumerate(rows):
        elapsed += row.get("time/step") or 0.0
        if place in kept:
            values = {key: value for key, value in row.items() if "/" in key and isinstance(value, int | float)}
            stamp = start + int(1000 * elapsed)
            points += [Metric(key, float(v), stamp, row["step"]) for key, v in values.items() if math.isfinite(v)]
    return points


def log_points(client, run_id: str, points: list, options: dict) -> None:
    """Log metrics in batches, and options as parameters."""
    from mlflow.entities import Param

    params = [Param(key, str(value)) for key, value in options.items()]
    if params:
        client.log_batch(run_id, params=params)
    for first in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[first : first + BATCH])
