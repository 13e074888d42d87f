"""results/mlflow.db, or the database or server that MLFLOW_TRACKING_URI names: opened, created, and moved along.

Everything that can be wrong with it is one line, a UserError.
"""

import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlparse

from dynclip.report.tracking.view import EXPERIMENT_TAGS
from dynclip.runtime.errors import UserError, call_options
from dynclip.runtime.locks import hold

NAME = "mlflow.db"
LOCK_SECONDS = 60  # how long to wait for another program that writes to the database


@contextmanager
def open_client(results: Path, scale: str | None = None, study: str | None = None) -> Iterator:
    """An MlflowClient on results/mlflow.db or on what MLFLOW_TRACKING_URI names, under a file lock.

    Raises UserError where MLflow cannot use it: the line says what it is, where, and how to import `scale` again, or
    its `study`.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 take minutes if no server answers
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    results.mkdir(parents=True, exist_ok=True)
    database, given = results / NAME, given_uri()
    retry = import_command(results, scale, study)
    with hold(results / f"{NAME}.lock", f"the import into {database}"):
        try:
            if not given:
                _prepare(database, retry)
            yield MlflowClient(tracking_uri=given or f"sqlite:///{database}")
        except (MlflowException, SQLAlchemyError) as error:
            raise UserError(_line(str(error), given, database, retry)) from error


def import_command(results: Path, scale: str | None = None, study: str | None = None) -> str:
    """The shell command that imports what this process was asked for. scale: default: the first one in `results`."""
    scale = scale or next((folder.parent.name for folder in sorted(results.glob("*/runs"))), None)
    if not scale:
        return "snakemake --cores all"
    chosen = f" --study {study}" if study else ""
    place = "" if results == Path.cwd() / "results" else f" --results {quoted(results)}"
    return f"dynclip track --scale {shlex.quote(scale)}{chosen}{call_options()}{place}"


def given_uri() -> str | None:
    """The database or server in MLFLOW_TRACKING_URI, None if it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def quoted(path: Path) -> str:
    """`path` as a word of a shell command."""
    return shlex.quote(str(path))


def _prepare(database: Path, retry: str) -> None:
    """Create the database if there is none; otherwise check that MLflow may write to it, and adopt a moved one."""
    if not database.exists():
        _create(database)
        return
    try:
        with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not {"alembic_version", "experiments", "runs"} <= tables:
                raise UserError(
                    f"{database} is not MLflow's: it has other tables; end what uses it, move it away, "
                    f"then run: {retry}"
                )
            if tables:
                _move_artifacts(connection, database.parent)
            connection.commit()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise UserError(
                f"{database}: another program has been writing to it for {LOCK_SECONDS} s; close it, then run: {retry}"
            ) from error
        raise UserError(f"{database}: cannot be written ({error}); check its rights, then run: {retry}") from error
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{database} is no SQLite database ({error}); end what uses it, move it away, then run: {retry}"
        ) from error


def _create(database: Path) -> None:
    """Create the database under another name first: its many migrations cannot be resumed if they are interrupted."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = database.with_name(f"{NAME}.new")
    aside.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{aside}", (database.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    aside.replace(database)


def _move_artifacts(connection: sqlite3.Connection, results: Path) -> None:
    """Let the project's experiments and their runs point to results/mlartifacts, in case `results` was moved.

    MLflow stores absolute locations.
    """
    here = (results / "mlartifacts").as_uri()
    found = connection.execute("SELECT experiment_id, artifact_location FROM experiments WHERE name LIKE 'dynclip/%'")
    for number, there in found.fetchall():
        if there == here or not (there or "").startswith("file:") or not there.endswith("/mlartifacts"):
            continue
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (here, number))
        connection.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
            (here, len(there) + 1, number, len(there), there),
        )
        print(f"MLflow's artifacts have moved: {urlparse(there).path} -> {urlparse(here).path}", file=sys.stderr)


def _line(message: str, given: str | None, database: Path, retry: str) -> str:
    """What went wrong, and what to do, in one line. It never advises to delete a database, which may be in use."""
    first = message.strip().partition("\n")[0]
    if "database schema" in first:
        from mlflow import __version__

        return (
            f"{given or database}: its schema is not that of MLflow {__version__}. If an older MLflow made it, end "
            f"what uses it, copy it, then run: mlflow db upgrade {shlex.quote(given or f'sqlite:///{database}')}; "
            "otherwise install the MLflow that did"
        )
    if given:
        return (
            f"{given}: MLflow failed ({first}); check MLFLOW_TRACKING_URI and what it names, or unset it, "
            f"then run: {retry}"
        )
    return f"{database}: MLflow failed ({first}); end what uses it (dynclip ui), move it away, then run: {retry}"


def experiment_id(client, results: Path, scale: str) -> str:
    """Id of the experiment dynclip/<scale>, created, restored and tagged where needed."""
    from mlflow.entities import ViewType
    from mlflow.store.db.db_types import DATABASE_ENGINES

    name, given = f"dynclip/{scale}", given_uri()
    for found in client.search_experiments(ViewType.ALL, filter_string=f"name = '{name}'"):
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        known, number = found.tags, found.experiment_id
        break
    else:
        # A server decides where artifacts are stored.
        local = not given or urlparse(given).scheme.partition("+")[0] in DATABASE_ENGINES
        location = (results / "mlartifacts").as_uri() if local else None
        known, number = {}, client.create_experiment(name, artifact_location=location)
    for key, value in EXPERIMENT_TAGS.items():
        if known.get(key) != value:
            client.set_experiment_tag(number, key, value)
    return number
