"""Reference results: the small files of a finished study, with its cost and its provenance.

dynclip reference --scale laptop --out results/reference/laptop-2core

The scales of a suite have a folder each below that.
"""

import json
import shutil
import statistics
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.report.evidence import Evidence, base_folder, counts, load_evidence, read_run, read_score
from dynclip.report.figures.plot import small_png
from dynclip.report.html.findings import findings
from dynclip.report.tables import markdown_rows
from dynclip.runtime.checkpoints import weights_sha256
from dynclip.runtime.files import sha256, write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd


KEPT = (
    "tables/*.md", "tables/*.csv", "figures/*.svg", "figures/entropy.png", "scores.parquet", "data/manifest.json",
    "studies/*/*.md", "studies/*/*.csv", "studies/*/*.png", "claims.*",
)  # fmt: skip
STAMP = Path(".venv/.installed")  # written by the installation: lock, device, seconds


def write_reference(results: Path, out: Path, methods=None, seeds=None) -> Path:
    """Copy the small files of a finished study to `out`, write a README.md there, and return `out`.

    The pages of the named studies, the claims and the numbers of every finished run are included. `read_committed`
    reads them back. Every file is verified first. `out` is replaced. Raises UserError for a damaged file.
    """
    evidence = load_evidence(results, methods, seeds)
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    for pattern in KEPT:
        for path in sorted(results.glob(pattern)):
            target = aside / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_small(path, target)
    runs = {path.parent: read_run(path) for path in sorted(results.glob("runs/*/seed*/run.json"))}
    write_metrics(runs.values(), aside / "metrics.parquet")
    write_counts(results, aside / "counts.parquet")
    costs = {"trainings": len(runs), **timings(results, evidence)}
    write_json(aside / "timings.json", costs)
    write_json(aside / "provenance.json", provenance(results, evidence, [run for run, _ in runs.values()]))
    write_atomic(aside / "README.md", page(evidence, costs))
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)
    return out


def copy_small(path: Path, target: Path) -> None:
    """Copy a file, a PNG as `small_png`."""
    if path.suffix != ".png":
        shutil.copyfile(path, target)
        return
    target.write_bytes(small_png(path.read_bytes()))


def write_metrics(runs: Iterable[tuple[dict, list[dict]]], path: Path) -> None:
    """Write every metrics row of every run to one Parquet file, numbers as float32."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"method": run["method"], "seed": run["seed"], **row} for run, found in runs for row in found]
    table = pd.DataFrame(rows)
    numbers = {key: "float32" for key in table if "/" in key}
    table = table.astype({"seed": "int16", "step": "int32", **numbers})
    # Noisy numbers compress by a third better with their bytes apart.
    table.to_parquet(path, index=False, compression="zstd", use_dictionary=False, use_byte_stream_split=list(numbers))


def write_counts(results: Path, path: Path) -> None:
    """Write the number of samples and of correct samples of every problem and score to one Parquet file.

    An exact score has one sample of each problem, correct with a probability.
    """
    import pandas as pd

    keys = ("method", "seed", "checkpoint", "step", "benchmark")
    rows = [
        {**{key: score[key] for key in keys}, "problem": problem, "n": n, "c": c}
        for file in sorted(results.glob("scores/*/seed*/*/*.json"))
        for score in [read_score(file, results)]
        for problem, (n, c) in counts(score).items()
    ]
    table = pd.DataFrame(rows, columns=[*keys, "problem", "n", "c"])
    table = table.astype({"seed": "int16", "step": "int32", "n": "int16", "c": "float64"})
    table.to_parquet(path, index=False, compression="zstd", use_dictionary=False, use_byte_stream_split=["c"])


def timings(results: Path, evidence: Evidence) -> dict:
    """Wall-clock seconds of every part, as recorded by Snakemake, the installation and the runs."""
    warmups = base_records(results, evidence.seeds)
    steps = {
        method: [row["time/step"] for (name, _), rows in evidence.rows.items() if name == method for row in rows]
        for method in evidence.methods
    }
    return {
        "install": json.loads(STAMP.read_text())["seconds"] if STAMP.exists() else None,
        "all_jobs_minutes": round(sum(seconds(results, "**/*")) / 60, 1),
        "warm_start": {name: spread(each.get(name, 0) for each in warmups.values()) for name in ("steps", "seconds")}
        | {"job": benchmark(results, "warmup*")},
        "training_job": benchmark(results, "train/*"),
        "evaluation_job": benchmark(results, "evaluate/*"),
        "rollout_step": {method: spread(values) for method, values in steps.items()},
    }


def base_folders(results: Path, seeds: Iterable[int]) -> dict[str, Path]:
    """Folder below results/<scale>, as text -> path, of every base policy of `seeds`."""
    folders = dict.fromkeys(base_folder(results, seed) for seed in seeds)
    return {str(folder.relative_to(results)): folder for folder in folders}


def base_records(results: Path, seeds: Iterable[int]) -> dict[str, dict]:
    """Folder -> record of every base policy: its warm start, or the hub model and its supervised stage."""
    found = {}
    for name, folder in base_folders(results, seeds).items():
        warmup = folder / "warm_start.json"
        record = json.loads((warmup if warmup.exists() else folder / "base.json").read_text())
        found[name] = record | record.get("supervised", {})
    return found


def benchmark(results: Path, pattern: str) -> dict | None:
    """Spread of the wall-clock seconds of the matching Snakemake jobs, None without any."""
    found = seconds(results, pattern)
    return spread(found) if found else None


def seconds(results: Path, pattern: str) -> list[float]:
    """Wall-clock seconds of each matching job; for an interrupted job those of its last attempt."""
    files = sorted((results / "benchmarks").glob(f"{pattern}.tsv"))
    return [float(path.read_text().splitlines()[1].split("\t")[0]) for path in files]


def spread(values: Iterable[float]) -> dict:
    """n, median, minimum and maximum."""
    values = list(values)
    return {
        "n": len(values),
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def provenance(results: Path, evidence: Evidence, runs: list[dict]) -> dict:
    """Code, data, base policy, lock files, machine, and every run's fingerprint with its differences from the protocol
    of the first run.
    """
    any_run = next(iter(evidence.runs.values()))
    usual = any_run["protocol"]
    return {
        "environment": any_run["environment"],
        "lock": {path.name: sha256(path) for path in sorted(Path("requirements").glob("*.txt"))},
        "data": json.loads((results / "data" / "manifest.json").read_text()),
        "base": {
            name: {"sha256": weights_sha256(results / name), "warmup": record}
            for name, record in base_records(results, evidence.seeds).items()
        },
        "protocol": usual,
        "runs": {
            f"{run['method']}/seed{run['seed']}": {
                **{key: run[key] for key in ("fingerprint", "options", "steps", "updates_per_rollout", "seconds")},
                "other_protocol": {k: v for k, v in run["protocol"].items() if v != usual.get(k)},
            }
            for run in runs
        },
    }


def page(evidence: Evidence, costs: dict) -> str:
    """README.md of the reference results: machine, cost and the computed findings."""
    machine = next(iter(evidence.runs.values()))["environment"]
    state = " with uncommitted changes" if machine["git_dirty"] else ""
    scale = next(iter(evidence.runs.values()))["scale"]
    warm = costs["warm_start"]
    made, named = "snakemake --cores all", ""
    if costs["trainings"] > len(evidence.runs):  # arms of the named studies
        made += " all studies"
        named = "the named studies' pages in `studies/`; what became of the paper's claims in `claims.md`; "
    parts = {
        "installation": costs["install"],
        "warm start, trainings and evaluations, one after the other": f"{60 * costs['all_jobs_minutes']:.0f}",
        f"warm start, {warm['steps']['median']:g} steps": spread_text(warm["seconds"]),
        "one training job, with start-up": spread_text(costs["training_job"]),
        "one evaluation job": spread_text(costs["evaluation_job"]),
        **{f"rollout step, {method}": spread_text(found) for method, found in costs["rollout_step"].items()},
    }
    lines = [
        f"# Evidence of a `{scale}` study",
        "",
        f"{costs['trainings']} trainings, {len(evidence.runs)} of them of the comparison below, on {machine['cpu']}, "
        f"{machine['cores']} cores; torch {machine['torch']}, trl {machine['trl']}, "
        f"transformers {machine['transformers']}; code at commit {machine['git_commit']}{state}.",
        "",
        f"Made by `{made}`, then `dynclip reference --scale {scale} --out <this folder>`. Tables in `tables/`, figures "
        f"in `figures/`; {named}every metrics row in `metrics.parquet`, every score in `scores.parquet` and by problem "
        "in `counts.parquet`; hashes and fingerprints in `provenance.json`. Every number and sentence here is computed "
        "from those files.",
        "",
        "![Entropy](figures/entropy.png)",
        "",
        "## Time",
        "",
        markdown_rows(["part", "seconds (wall-clock)"], [[part, str(time)] for part, time in parts.items() if time]),
        "",
        "Medians; jobs ran side by side.",
    ]
    heading = None
    for finding in findings(evidence):
        if finding.heading != heading:
            heading = finding.heading
            lines += ["", f"## {heading}", ""]
        lines.append(f"- {'**' + finding.text + '**' if finding.warning else finding.text}")
    return "\n".join(lines) + "\n"


def spread_text(found: dict | None) -> str:
    """`median [min, max], n`, or "" where nothing was timed."""
    return f"{found['median']} [{found['min']}, {found['max']}], n = {found['n']}" if found else ""


def read_committed(folder: Path | str, arms: Iterable[str], seeds: Iterable[int]) -> Evidence:
    """The runs of `arms` with `seeds` in a folder that `write_reference` wrote.

    Metrics rows are those of the runs as float32. Scores hold the per-problem counts alone, and runs the fields of
    provenance.json. Raises OSError for a folder without these files.
    """
    folder, arms, seeds = Path(folder), tuple(arms), tuple(seeds)
    metrics, counted = _tables(folder)
    provenance = json.loads((folder / "provenance.json").read_text())
    known = {
        name: run | {"protocol": provenance["protocol"] | run["other_protocol"]}
        for name, run in provenance["runs"].items()
    }
    rows = {}
    for (arm, seed), table in metrics[metrics["method"].isin(arms) & metrics["seed"].isin(seeds)].groupby(
        ["method", "seed"], sort=False
    ):
        found = table.sort_values("step").drop(columns=["method", "seed"]).to_dict("records")
        rows[str(arm), int(seed)] = [{key: value for key, value in row.items() if value == value} for row in found]
    runs = {(arm, seed): known[f"{arm}/seed{seed}"] for arm, seed in rows}
    chosen = counted[counted["method"].isin(arms) & counted["seed"].isin(seeds)]
    scores = [
        {
            "method": str(arm), "seed": int(seed), "checkpoint": str(label), "step": int(step), "benchmark": str(name),
            "n_problems": len(table), "per_problem": _cells(table),
        }
        for (arm, seed, label, step, name), table in chosen.groupby(
            ["method", "seed", "checkpoint", "step", "benchmark"], sort=False
        )
    ]  # fmt: skip
    scores.sort(key=lambda score: (score["benchmark"], arms.index(score["method"]), score["seed"], score["step"]))
    return Evidence(folder, arms, seeds, runs, rows, scores)


def _cells(table: "pd.DataFrame") -> list[dict]:
    cells = zip(table["problem"], table["n"], table["c"], strict=True)
    return [{"id": str(problem), "n": int(n), "c": int(c) if c == int(c) else float(c)} for problem, n, c in cells]


@lru_cache(maxsize=2)
def _tables(folder: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    import pandas as pd

    return pd.read_parquet(folder / "metrics.parquet"), pd.read_parquet(folder / "counts.parquet")
