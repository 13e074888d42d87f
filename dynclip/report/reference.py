"""Reference results: the small files of a finished study, with its cost and its provenance.

dynclip reference --scale laptop --out results/reference/laptop-2core

The scales of a suite have a folder each below that.
"""

import json
import shutil
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynclip.report.evidence import Evidence, counts, load_evidence
from dynclip.report.figures.plot import small_png
from dynclip.report.html.findings import findings
from dynclip.report.records import base_folder, read_run, read_score
from dynclip.report.tables import markdown_rows
from dynclip.report.terminal.committed import SUMS, Checked, verify_committed
from dynclip.report.terminal.verify import made_by, verify_results
from dynclip.runtime.checkpoints import weights_sha256
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import sha256, write_atomic, write_json, write_sums
from dynclip.runtime.text import say

KEPT = (
    "tables/*.md", "tables/*.csv", "figures/*.svg", "figures/entropy.png", "scores.parquet", "data/manifest.json",
    "studies/*/*.md", "studies/*/*.csv", "studies/*/*.png", "claims.*",
)  # fmt: skip
NEEDED = ("scores.parquet", "tables/main.md", "figures/entropy.png")
STAMP = Path(".venv/.installed")  # written by the installation: lock, device, seconds


def write_reference(results: Path, out: Path, methods=None, seeds=None, log=say) -> Path:
    """Copy the small files of a finished study to `out`, write a README.md there, and return `out`.

    The pages of the named studies, the claims, the numbers of every finished run and a list of checksums are included.
    `read_committed` reads them back. `out` is replaced. Before, the study is verified, and afterwards what was written:
    each problem is a line for `log`, and UserError is raised, with `out` as it was.
    """
    require_derived(verify_results(results), results, log)
    for name in NEEDED:
        if not (results / name).is_file():
            raise UserError(f"{results / name} is missing; make it with: {rebuild_command(*made_by(results, name))}")
    evidence = load_evidence(results, methods, seeds)
    with in_place_of(out) as aside:
        for pattern in KEPT:
            for path in sorted(results.glob(pattern)):
                copy_small(path, aside / path.relative_to(results))
        runs = [read_run(path) for path in sorted(results.glob("runs/*/seed*/run.json"))]
        write_metrics(runs, aside / "metrics.parquet")
        write_counts(results, aside / "counts.parquet")
        costs = {"trainings": len(runs), **timings(results, evidence)}
        write_json(aside / "timings.json", costs)
        write_json(aside / "provenance.json", provenance(results, evidence, [run for run, _ in runs]))
        write_atomic(aside / "README.md", page(evidence, costs))
        write_sums(aside / SUMS, aside, sorted(path for path in aside.rglob("*") if path.is_file()))
        require_derived(verify_committed(aside), aside, log)
    return out


@contextmanager
def in_place_of(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that then replaces `folder`; after an error it is removed and `folder` as it was."""
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def require_derived(checked: Checked, folder: Path, log) -> None:
    """Log the problems of a folder and raise UserError if there is any."""
    for problem in checked.problems:
        log(problem)
    if checked.problems:
        raise UserError(f"{folder}: {len(checked.problems)} not as derived, so no evidence was written")


def copy_small(path: Path, target: Path) -> None:
    """Copy a file, a PNG as `small_png`. Raises UserError if the copy differs."""
    if path.suffix == ".png":
        write_atomic(target, small_png(path.read_bytes()))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    if sha256(target) != sha256(path):
        raise UserError(f"{target}: not a whole copy of {path}; check the disk")


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
