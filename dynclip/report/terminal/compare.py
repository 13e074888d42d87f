"""`dynclip compare`: runs of one scale side by side in the terminal, with curves and paired intervals.

A run is a method of the scale (`id`), one seed of it (`id/seed20`), a path below results/<scale>/runs, or an id of
MLflow. The first one is what the others are compared with.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dynclip.report.comparisons import at_share, benchmark_differences, seed_means, training_differences
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.html.answers import entropy_areas, interval
from dynclip.report.tracking.database import NAME, given_uri, open_client
from dynclip.runtime.errors import UserError
from dynclip.runtime.text import say
from dynclip.studies.arms import arm
from evals.stats import mean_interval

BARS, WIDTH = "▁▂▃▄▅▆▇█", 24
MLFLOW_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Named:
    """What a word on the command line stands for. seed: None for all seeds of the method."""

    results: Path
    method: str
    seed: int | None = None


def compare(words: Sequence[str], results: Path, scale: str, log: Callable[[str], None] = say) -> None:
    """Print curves, levels and differences of the runs in `words`.

    results, scale: where a name without a path is looked for. Raises UserError for runs that are not there or that
    cannot be compared: other problems, policies, lengths or protocols, or seeds of one method alone.
    """
    named = [find(word, results, scale) for word in words]
    places = list(dict.fromkeys(each.results for each in named))
    if len(places) > 1:
        raise UserError(
            f"compare: runs of {' and '.join(place.name for place in places)} cannot be compared: they have other "
            "problems and policies"
        )
    methods = list(dict.fromkeys(each.method for each in named))
    if len(methods) < 2:
        raise UserError(
            f"compare: expected at least two methods, given {', '.join(methods)}; seeds of one method differ by chance "
            "alone"
        )
    evidence = chosen(load_evidence(places[0], methods), named)
    for method in methods:
        if not any(name == method for name, _ in evidence.runs):
            raise UserError(f"{places[0] / 'runs' / method} has no finished run; train it with: snakemake --cores all")
    for line in lines(replace(evidence, against=methods[0])):
        log(line)


def find(word: str, results: Path, scale: str) -> Named:
    """The runs that a word stands for."""
    path = Path(word)
    if MLFLOW_ID.fullmatch(word):
        return of_mlflow(word, results)
    if path.is_dir():
        parts = path.resolve().parts
        if "runs" not in parts[:-1]:
            raise UserError(f"{word}: expected a folder below results/<scale>/runs")
        place = len(parts) - 1 - parts[::-1].index("runs")
        seed = parts[place + 2] if len(parts) > place + 2 else None
        return Named(Path(*parts[:place]), parts[place + 1], int(seed.removeprefix("seed")) if seed else None)
    method, _, seed = word.partition("/seed")
    if seed and not seed.isdigit():
        raise UserError(f"{word}: expected METHOD or METHOD/seed<number>, a folder of a run, or an id of MLflow")
    return Named((results / scale).resolve(), arm(method).name, int(seed) if seed else None)


def of_mlflow(number: str, results: Path) -> Named:
    """The run with this id in MLflow, which must lie under `results`."""
    from mlflow.exceptions import MlflowException

    if not given_uri() and not (results / NAME).exists():
        raise UserError(
            f"{results / NAME} does not exist, so that {number} is unknown; name runs by method and --scale"
        )
    with open_client(results.resolve()) as client:
        try:
            tags = client.get_run(number).data.tags
            return Named((results / tags["scale"]).resolve(), tags["method"], int(tags["seed"]))
        except (MlflowException, KeyError):
            raise UserError(f"{number} is no training in MLflow; its Overview page has the id of a run") from None


def chosen(evidence: Evidence, named: Iterable[Named]) -> Evidence:
    """The runs that were named: all seeds of a method, or some."""
    wanted: dict[str, set[int | None]] = {}
    for each in named:
        wanted.setdefault(each.method, set()).add(each.seed)
    keys = {(m, s) for m, s in evidence.runs if wanted[m] & {s, None}}
    seeds = tuple(sorted({seed for _, seed in keys}))
    return replace(
        evidence.subset(evidence.methods, seeds),
        runs={key: run for key, run in evidence.runs.items() if key in keys},
        rows={key: rows for key, rows in evidence.rows.items() if key in keys},
        scores=[s for s in evidence.scores if s["method"] == "base" or (s["method"], s["seed"]) in keys],
    )


def lines(evidence: Evidence) -> list[str]:
    """The comparison as text: curves and levels of each method, then the differences to the first."""
    methods = evidence.methods
    width = max(map(len, methods))
    said = [f"{evidence.scale}, {evidence.steps} rollout steps; levels are means over seeds [95 % interval]", ""]
    for key, title, factor in (("policy/entropy", "entropy, nats", 1), ("train/reward", "reward, %", 100)):
        curves = {method: list(evidence.curves(key, method).values()) for method in methods}
        means = {method: [factor * v for v in np.nanmean(found, axis=0)] for method, found in curves.items() if found}
        every = [value for curve in means.values() for value in curve]
        low, high = (min(every), max(every)) if every else (0.0, 0.0)
        said.append(f"{title}, curves from {low:.3g} to {high:.3g}")
        for method, curve in means.items():
            ends = [mean_interval([factor * at_share(c, where) for c in curves[method]]) for where in (0, 100)]
            digits, n = (2, 1)[factor > 1], len(curves[method])
            said.append(
                f"  {method:{width}}  {sparkline(curve, low, high)}  {interval(ends[0], digits)} → "
                f"{interval(ends[1], digits)}  ({n} seed{'s' * (n > 1)})"
            )
    for benchmark in evidence.benchmarks:
        said.append(f"{benchmark}, last checkpoint, % solved")
        for method in methods:
            solved = mean_interval(list(seed_means(evidence, benchmark, method).values()))
            said.append(f"  {method:{width}}  {interval(solved, 1)}")
    said += ["", f"differences to {methods[0]}, paired by seed [95 % interval], verdicts after Holm's correction"]
    said += [
        f"  {area.gap.a}, mean entropy over training: {area.gap.text}: {area.verdict}"
        for area in entropy_areas(evidence)
    ]
    gaps = [*training_differences(evidence), *(benchmark_differences(evidence) if evidence.benchmarks else [])]
    return said + [f"  {gap.a}, {gap.where}: {gap.text}: {gap.verdict}" for gap in gaps]


def sparkline(values: Sequence[float], low: float, high: float, width: int = WIDTH) -> str:
    """A curve as `width` characters, each the mean of its part of the steps; a blank where it has no value."""
    text = ""
    for part in np.array_split(np.asarray(values, float), min(width, len(values))):
        kept = part[~np.isnan(part)]
        if not len(kept):
            text += " "
            continue
        share = (kept.mean() - low) / (high - low) if high > low else 0.5
        text += BARS[min(len(BARS) - 1, math.floor(share * len(BARS)))]
    return text
