"""The import: each finished training is a run of its own, and one run holds what was computed from all of them.

Replaced runs are marked as deleted; `mlflow gc` removes them from disk.
"""

import math
from pathlib import Path
from urllib.parse import unquote, urlparse

from dynclip.report.evidence import Evidence, is_exact, load_evidence
from dynclip.report.tracking.database import experiment_id, open_client
from dynclip.report.tracking.view import KIND, SUMMARY, TRAINING
from dynclip.runtime.files import sha256, write_json
from dynclip.runtime.provenance import digest
from dynclip.studies.arms import STUDIES

TABLE_ROWS = 400  # samples per benchmark in the artifact; results/<scale>/samples holds all of them
POINTS = 500  # per curve: more points slow the UI and show no more
PASS_AT_1 = "eval/pass_at_1"  # mean over benchmarks, a name that all scales have
BATCH = 1000  # MLflow's limit for one log_batch call
LAYOUT = 2  # raised when imported runs look different; earlier ones are then imported again
ENTITY = "dynclip.entity"  # what a run stands for, unique in its experiment: summary or <method>/seed<k>
STUDY, STUDY_TAG = "study", "study."  # the names of all studies of a run; "yes" for each of them, to filter by
DIGEST = "dynclip.digest"  # of everything that was imported; set last, so that a run without it is incomplete


def track(results: Path | str, scale: str, methods=None, seeds=None) -> dict:
    """Import the finished runs of results/<scale> into results/mlflow.db or into what MLFLOW_TRACKING_URI names.

    Returns "<method>/seed<k>" -> {"run_id", "fingerprint", "state"}; state: "imported", "replaced" or "unchanged".
    Writes the same without state to tracking.json. A run whose content changed is deleted and imported again; other
    runs in MLflow stay. Raises UserError for a damaged file or database.
    """
    results = Path(results).resolve()
    evidence = load_evidence(results / scale, methods, seeds)
    with open_client(results, scale) as client:
        experiment = experiment_id(client, results, scale)
        known = known_runs(client, experiment)
        report = _import_runs(client, experiment, known, evidence)
        summary = _summary(client, experiment, known)
        for folder, pattern in (("", "report.html"), ("figures", "*.png"), ("tables", "*.*")):
            _refresh_artifacts(client, summary, sorted((evidence.results / folder).glob(pattern)), folder)
    _write_tracking(evidence.results, report)
    return report


def track_study(results: Path | str, scale: str, name: str, seeds=None) -> dict:
    """Import the runs and the page of the study `name`, and write studies/<name>/tracking.json.

    Return value, replaced runs and errors are those of `track`.
    """
    results, spec = Path(results).resolve(), STUDIES[name]
    folder, report = results / scale / "studies" / name, {}
    with open_client(results, scale, name) as client:
        experiment = experiment_id(client, results, scale)
        known = known_runs(client, experiment)
        for group in spec.groups or (spec.arms,):
            report |= _import_runs(client, experiment, known, load_evidence(results / scale, group, seeds))
        for entry in report.values():
            _add_study(client, entry["run_id"], name)
        files = sorted(path for path in folder.glob("*") if path.suffix in (".md", ".csv", ".png"))
        _refresh_artifacts(client, _summary(client, experiment, known), files, f"studies/{name}")
    _write_tracking(folder, report)
    return report


def _add_study(client, run_id: str, name: str) -> None:
    tags = client.get_run(run_id).data.tags
    if f"{STUDY_TAG}{name}" not in tags:
        client.set_tag(run_id, f"{STUDY_TAG}{name}", "yes")
        client.set_tag(run_id, STUDY, ", ".join(sorted({*filter(None, tags.get(STUDY, "").split(", ")), name})))


def _write_tracking(folder: Path, report: dict) -> None:
    written = {n: {key: entry[key] for key in ("run_id", "fingerprint")} for n, entry in report.items()}
    write_json(folder / "tracking.json", written)


def _summary(client, experiment: str, known: dict) -> str:
    """Id of the run that holds the scale's tables, figures, report and studies; created if there is none."""
    runs = known.get(SUMMARY)
    if not runs:
        runs = [client.create_run(experiment, run_name=SUMMARY, tags={ENTITY: SUMMARY, KIND: SUMMARY})]
        client.set_terminated(runs[0].info.run_id)
        known[SUMMARY] = runs
    for run in runs[1:]:
        client.delete_run(run.info.run_id)
    return runs[0].info.run_id


def _import_runs(client, experiment: str, known: dict, evidence: Evidence) -> dict:
    """Import every run of the evidence; "<method>/seed<k>" -> entry, as `track` returns."""
    return {
        f"{method}/seed{seed}": _import_run(client, experiment, known, evidence, method, seed)
        for method, seed in evidence.runs
    }


def _import_run(client, experiment, known, evidence: Evidence, method, seed) -> dict:
    run, name = evidence.runs[method, seed], f"{method}/seed{seed}"
    scores = [s for s in evidence.scores if (s["method"], s["seed"]) == (method, seed)]
    folder = evidence.results / "runs" / method / f"seed{seed}"
    graded = [{k: v for k, v in s.items() if k != "file"} for s in scores]
    content = digest([LAYOUT, run, sha256(folder / "metrics.jsonl"), graded])
    entry = {"fingerprint": run["fingerprint"]}
    old = known.get(name, [])
    for found in old:
        if found.data.tags.get(DIGEST) == content and _artifacts(found, scores):
            return entry | {"run_id": found.info.run_id, "state": "unchanged"}
    for found in old:
        client.delete_run(found.info.run_id)
    studies = {k: v for found in old for k, v in found.data.tags.items() if k == STUDY or k.startswith(STUDY_TAG)}
    end = int((folder / "run.json").stat().st_mtime * 1000)
    start = end - int(1000 * run["seconds"])
    tags = labels(evidence.scale, method, seed) | _provenance(run) | studies
    made = client.create_run(experiment, start_time=start, tags=tags, run_name=title(method, seed))
    run_id = made.info.run_id
    points = training_points(evidence.rows[method, seed], start) + _score_points(scores, end)
    shown = {key: tags[key] for key in ("method", "seed", "scale", "base", "code")}
    log_points(client, run_id, points, {**run["options"], "steps": run["steps"], **shown})
    for score in scores:
        if score["checkpoint"] == "final":
            _log_samples(client, run_id, evidence, score)
    client.set_terminated(run_id, end_time=end)
    client.set_tag(run_id, DIGEST, content)
    known[name] = [client.get_run(run_id)]
    return entry | {"run_id": run_id, "state": "replaced" if old else "imported"}


def title(method: str, seed: int) -> str:
    """The name of a training in MLflow."""
    return f"{method} · seed {seed}"


def labels(scale: str, method: str, seed: int) -> dict[str, str]:
    """The tags that say which training a run is, live or finished."""
    entity = f"{method}/seed{seed}"
    return {ENTITY: entity, KIND: TRAINING, "method": method, "seed": str(seed), "scale": scale}


def _provenance(run: dict) -> dict[str, str]:
    """The tags that say what a finished training was made from."""
    commit = str(run["environment"].get("git_commit") or "unknown")[:12]
    return {
        "base": run["base_model_sha256"][:12],
        "code": commit + ("+changes" if run["environment"].get("git_dirty") else ""),
        "dynclip.fingerprint": str(run["fingerprint"]),
        "dynclip.base_model_sha256": run["base_model_sha256"],
        "dynclip.data_sha256": run["data_sha256"],
        **{f"dynclip.env.{key}": str(value) for key, value in run["environment"].items()},
    }


def _artifacts(run, scores: list[dict]) -> bool:
    """Whether the sample tables of an imported run are on disk. Those on a server are not checked."""
    place = urlparse(run.info.artifact_uri)
    if place.scheme not in ("", "file"):
        return True
    folder = Path(unquote(place.path)) / "samples"
    return all((folder / f"{score['benchmark']}.json").is_file() for score in scores if score["checkpoint"] == "final")


def _score_points(scores: list[dict], stamp: int) -> list:
    from mlflow.entities import Metric

    points, means = [], {}
    for score in scores:
        name = f"eval/{score['benchmark']}"
        means.setdefault(score["step"], []).append(score["avg_at_k"]["value"])
        values = {f"{name}/avg_at_{score['k']}": score["avg_at_k"]["value"]}
        if not is_exact(score):
            values[f"{name}/flexible_avg_at_{score['k']}"] = score["flexible"]["avg_at_k"]["value"]
        values |= {f"{name}/pass_at_{k}": value for k, value in score["pass_at"].items() if value is not None}
        points += [Metric(key, float(value), stamp, score["step"]) for key, value in values.items()]
    points += [Metric(PASS_AT_1, sum(each) / len(each), stamp, step) for step, each in means.items()]
    return points


def _log_samples(client, run_id: str, evidence: Evidence, score: dict) -> None:
    import pandas as pd

    name = score["benchmark"]
    folder = evidence.results / "samples" / score["method"] / f"seed{score['seed']}" / "final"
    table = pd.read_parquet(folder / f"{name}.parquet").head(TABLE_ROWS)
    client.log_table(run_id, table, f"samples/{name}.json")


def _refresh_artifacts(client, run_id: str, files: list[Path], folder: str) -> None:
    """Log files as artifacts of a folder if their content changed. Files of the same name are overwritten."""
    tag, content = f"{DIGEST}/{folder or 'files'}", digest([[path.name, sha256(path)] for path in files])
    if files and client.get_run(run_id).data.tags.get(tag) != content:
        for path in files:
            client.log_artifact(run_id, str(path), folder or None)
        client.set_tag(run_id, tag, content)


def known_runs(client, experiment: str) -> dict[str, list]:
    """entity -> its active runs; those of others under "". There are several only after an interrupted import.

    Runs of the first layout, which held others, are deleted.
    """
    known: dict[str, list] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            known.setdefault(run.data.tags.get(ENTITY, ""), []).append(run)
        token = page.token
        if not token:
            break
    for entity in [each for each in known if each not in ("", SUMMARY) and "/seed" not in each]:
        for run in known.pop(entity):
            client.delete_run(run.info.run_id)
    return known


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
