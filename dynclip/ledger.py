"""The MLflow database results/mlflow.db: the one module that opens it, one process at a time.

Where MLFLOW_TRACKING_URI is set, MLflow's own variable, that database or server is used instead. It may hold other
people's work: nothing in it is deleted but changed runs of the same method and seed in the experiment dynclip/<scale>.

The lock is not caution for its own sake: several processes that meet a fresh SQLite file break MLflow's
migration, and the database stays broken.
"""

import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from dynclip.errors import UserError

POINTS = 500  # per curve: more slows the UI and shows no more
BATCH = 1000  # MLflow's limit for one log_batch call
ENTITY = "dynclip.entity"  # study | <method> | <method>/seed<k>: what a run stands for, unique in its experiment


@contextmanager
def open_client(results: Path):
    """An MlflowClient on results/mlflow.db or what MLFLOW_TRACKING_URI names, held by this process alone."""
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
    """The database or server that MLFLOW_TRACKING_URI names; None: results/mlflow.db is meant."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _store(client):
    # MLflow offers hard deletion only as the command `mlflow gc`, which makes these same calls.
    return client._tracking_client.store


def experiment_id(client, results: Path, scale: str) -> str:
    """Id of the experiment dynclip/<scale>; in results/mlflow.db one whose artifacts lie elsewhere (a moved folder) is
    started afresh.
    """
    from mlflow.entities import ViewType
    from mlflow.store.db.db_types import DATABASE_ENGINES

    location = (results / "mlartifacts").as_uri()
    name, given = f"dynclip/{scale}", given_uri()
    if given and urlparse(given).scheme.partition("+")[0] not in DATABASE_ENGINES:
        location = None  # a server has a place of its own for artifacts
    for found in client.search_experiments(ViewType.ALL, filter_string=f"name = '{name}'"):
        if given and found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        if given or (found.lifecycle_stage == "active" and found.artifact_location == location):
            return found.experiment_id
        if found.lifecycle_stage == "active":
            client.delete_experiment(found.experiment_id)
        _store(client)._hard_delete_experiment(found.experiment_id)
    return client.create_experiment(name, artifact_location=location)


def known_runs(client, experiment: str) -> dict[str, list]:
    """entity -> its runs; more than one only after an interrupted import."""
    known: dict[str, list] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            known.setdefault(run.data.tags.get(ENTITY, ""), []).append(run)
        token = page.token
        if not token:
            return known


def artifact_folder(run) -> Path | None:
    """Where a run's artifacts lie on this machine; None where a server keeps them."""
    place = urlparse(run.info.artifact_uri)
    return Path(unquote(place.path)) if place.scheme in ("", "file") else None


def delete_run(client, run) -> None:
    """Delete a run for good; a server lets it be marked as deleted only."""
    client.delete_run(run.info.run_id)
    if hasattr(_store(client), "_hard_delete_run"):
        _store(client)._hard_delete_run(run.info.run_id)
    folder = artifact_folder(run)
    if folder and folder.parent.name == run.info.run_id:  # never a path that MLflow did not make for this run
        shutil.rmtree(folder.parent, ignore_errors=True)


def training_points(rows: list[dict], start: int) -> list:
    """At most POINTS rows, first and last among them, with their own steps; times follow from time/step."""
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


def log(client, run_id: str, points: list, options: dict) -> None:
    from mlflow.entities import Param

    params = [Param(key, str(value)) for key, value in options.items()]
    if params:
        client.log_batch(run_id, params=params)
    for first in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[first : first + BATCH])
