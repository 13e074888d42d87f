"""Finished runs into MLflow, and live runs to the terminal. Losing MLflow loses nothing: it is rebuilt from
results/.

One experiment per scale; in it a study run, under it a run per method, under that a run per seed with its
training curves, its scores and its last samples. A named study is a run with its page and figures; its trainings carry
the tag `study.<name>`, to be searched by: tags."study.thresholds" = 'yes'.
"""

import json
import math
import time
from contextlib import suppress
from pathlib import Path

from dynclip.evidence import Evidence, load_evidence
from dynclip.files import sha256, write_json
from dynclip.ledger import (
    ENTITY,
    artifact_folder,
    delete_run,
    experiment_id,
    known_runs,
    log,
    open_client,
    training_points,
)
from dynclip.progress import clock
from dynclip.provenance import digest
from dynclip.studies import STUDIES

TABLE_ROWS = 400  # samples per benchmark in the artifact; all of them are in results/<scale>/samples
PARENT = "mlflow.parentRunId"
STUDY_TAG = "study."
DIGEST = "dynclip.digest"  # of all that was imported; set last: a run without it is incomplete


def track(results: Path | str, scale: str, methods=None, seeds=None) -> dict:
    """Bring results/mlflow.db (or what MLFLOW_TRACKING_URI names) up to date with the finished runs of results/<scale>;
    returns and writes tracking.json.

    The answer maps "<method>/seed<k>" to {"run_id", "fingerprint", "state"}, state being "imported",
    "replaced" or "unchanged" ("state" is not written). A run whose content changed is deleted for good and
    imported again. Runs in MLflow that are not part of the evidence are left alone. Raises UserError for
    damaged files or database.
    """
    results = Path(results).resolve()
    evidence = load_evidence(results / scale, methods, seeds)
    with open_client(results) as client:
        experiment = experiment_id(client, results, scale)
        known = known_runs(client, experiment)
        study = _container(client, experiment, known, "study", {})
        report = {}
        for method, seed in evidence.runs:
            parent = _container(client, experiment, known, method, {PARENT: study, "method": method})
            name = f"{method}/seed{seed}"
            report[name] = _import_run(client, experiment, known, evidence, method, seed, name, parent)
        _refresh_artifacts(client, study, sorted((evidence.results / "figures").glob("*.png")), "figures")
    written = {n: {key: entry[key] for key in ("run_id", "fingerprint")} for n, entry in report.items()}
    write_json(evidence.results / "tracking.json", written)
    return report


def track_study(results: Path | str, scale: str, name: str, seeds=None) -> dict:
    """Bring the runs of the study `name` and its page into MLflow; returns and writes studies/<name>/tracking.json.

    As `track`: the answer, what is replaced, and what is raised.
    """
    results, spec = Path(results).resolve(), STUDIES[name]
    folder, report = results / scale / "studies" / name, {}
    with open_client(results) as client:
        experiment = experiment_id(client, results, scale)
        known = known_runs(client, experiment)
        study = _container(client, experiment, known, "study", {})
        for group in spec.groups or (spec.arms,):
            evidence = load_evidence(results / scale, group, seeds)
            for method, seed in evidence.runs:
                parent = _container(client, experiment, known, method, {PARENT: study, "method": method})
                run = f"{method}/seed{seed}"
                report[run] = _import_run(client, experiment, known, evidence, method, seed, run, parent)
                client.set_tag(report[run]["run_id"], f"{STUDY_TAG}{name}", "yes")
        page = _container(client, experiment, known, f"study/{name}", {PARENT: study, "question": spec.question})
        files = sorted(path for path in folder.glob("*") if path.suffix in (".md", ".csv", ".png"))
        _refresh_artifacts(client, page, files, "")
    written = {n: {key: entry[key] for key in ("run_id", "fingerprint")} for n, entry in report.items()}
    write_json(folder / "tracking.json", written)
    return report


def _container(client, experiment: str, known: dict, entity: str, tags: dict) -> str:
    """The run that holds others: made once, its tags kept right. Returns its id."""
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


def _import_run(client, experiment, known, evidence: Evidence, method, seed, name, parent) -> dict:
    run = evidence.runs[method, seed]
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
    log(
        client,
        run_id,
        training_points(evidence.rows[method, seed], start),
        {**run["options"], "steps": run["steps"]},
    )
    log(client, run_id, _score_points(scores, end), {})
    for score in scores:
        if score["checkpoint"] == "final":
            _log_samples(client, run_id, evidence, score)
    client.set_terminated(run_id, end_time=end)
    client.set_tag(run_id, DIGEST, content)
    return entry | {"run_id": run_id, "state": "replaced" if old else "imported"}


def _artifacts(run, scores: list[dict]) -> bool:
    """Whether the samples that belong to an imported run are still on disk; a server's are taken to be there."""
    folder = artifact_folder(run)
    names = [f"{score['benchmark']}.json" for score in scores if score["checkpoint"] == "final"]
    return folder is None or all((folder / "samples" / name).is_file() for name in names)


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
    """Files as artifacts of a run that holds others; those of the same name are overwritten."""
    content = digest([[path.name, sha256(path)] for path in files])
    if client.get_run(run_id).data.tags.get(DIGEST) != content:
        for path in files:
            client.log_artifact(run_id, str(path), folder or None)
        client.set_tag(run_id, DIGEST, content)


# Live runs


def follow(run: Path | str, total: int | None = None, mlflow: bool = False, poll: float = 1.0, say=print) -> None:
    """Print a line per rollout step of a run, from its first, until it is finished; Ctrl-C ends it.

    `run`: results/<scale>/runs/<method>/seed<k>. `total`: its rollout steps, for the time left. With
    `mlflow`, new rows also go to MLflow, to a run that the final import replaces.
    """
    run = Path(run)
    shown, name = 0, f"{run.parent.name}/{run.name}"
    live = _LiveRun(run) if mlflow else None
    with suppress(KeyboardInterrupt):
        while True:
            # Asked before reading: rows that come in between are shown, not lost.
            finished = (run / "run.json").is_file()
            rows = _rows_so_far(run, finished)
            if len(rows) < shown:
                say(f"[{name}] was resumed from step {len(rows)}")
                shown = 0
                live = _LiveRun(run) if mlflow else None
            for row in rows[shown:]:
                say(progress_line(name, row, total, rows[: row["step"] + 1]))
            if live and rows[shown:] and not finished:  # a finished run belongs to the import
                live.send(rows[shown:])
            shown = len(rows)
            if finished:
                say(f"[{name}] finished")
                return
            time.sleep(poll)


def progress_line(name: str, row: dict, total: int | None, rows: list[dict]) -> str:
    """`[grpo/seed0] 12/100  reward 0.51  entropy 0.412 nats  clipped 0.62 %  1.92 steps/s  0:46 left`"""
    done = row["step"] + 1
    recent = [r["time/step"] for r in rows[-20:] if r.get("time/step")]
    rate = len(recent) / sum(recent) if recent else math.nan
    clipped = row.get("clip/low_fraction", math.nan) + row.get("clip/high_fraction", math.nan)
    left = f"  {clock((total - done) / rate)} left" if total and rate == rate else ""
    return (
        f"[{name}] {done}{f'/{total}' if total else ''}  reward {row.get('train/reward', math.nan):.2f}  "
        f"entropy {row.get('policy/entropy', math.nan):.3f} nats  clipped {100 * clipped:.2f} %  "
        f"{rate:.2f} steps/s{left}"
    )


def _rows_so_far(run: Path, finished: bool) -> list[dict]:
    """The complete rows written up to now; a line that is still being written waits for the next look."""
    for path in (run / "metrics.jsonl", run / "state" / "metrics.jsonl")[:: 1 if finished else -1]:
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return []


class _LiveRun:
    """Sends rows of a running training to MLflow; the lock is held only while it does."""

    def __init__(self, run: Path):
        self.results, self.scale = run.resolve().parents[3], run.resolve().parents[2].name
        self.name, self.run_id = f"{run.parent.name}/{run.name}", None

    def send(self, rows: list[dict]) -> None:
        with open_client(self.results) as client:
            known = known_runs(client, experiment_id(client, self.results, self.scale)).get(self.name, [])
            if self.run_id is None:
                for old in known:
                    delete_run(client, old)
                method, seed = self.name.split("/seed")
                tags = {ENTITY: self.name, "method": method, "seed": seed, "dynclip.live": "true"}
                experiment = experiment_id(client, self.results, self.scale)
                self.run_id = client.create_run(experiment, run_name=self.name, tags=tags).info.run_id
            elif self.run_id not in {run.info.run_id for run in known}:
                return  # the final import came first and replaced this run
            log(client, self.run_id, training_points(rows, int(1000 * time.time())), {})
