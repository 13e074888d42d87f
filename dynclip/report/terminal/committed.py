"""A folder that `dynclip reference` wrote: its runs, read back, and its numbers, checked against each other."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.report.claims.page import decide_all, records
from dynclip.report.evidence import Evidence
from dynclip.report.records import same
from dynclip.report.tables import curves_table, frame
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import file_change, read_sums
from dynclip.studies.arms import STUDIES
from evals.metrics import pass_at_k

if TYPE_CHECKING:
    import pandas as pd

SUMS = "SHA256SUMS"
CLOSE = 1e-4  # committed metrics are float32


@dataclass
class Checked:
    """What was looked at, by kind, and a line for each file that is not what it should be."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def look(self, kind: str, check: Callable[[], object]) -> object:
        """Count one of `kind` and return what `check` does; a text that it returns, or its error, is a problem."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        try:
            found = check()
        except UserError as error:
            found = str(error)
        except (OSError, ValueError, KeyError) as error:  # a file of another form
            found = f"{kind}: cannot be read ({error!r})"
        if isinstance(found, str):
            self.problems += [found] * (found not in self.problems)
            return None
        return found


def read_committed(folder: Path | str, arms: Iterable[str], seeds: Iterable[int]) -> Evidence:
    """The runs of `arms` with `seeds` in such a folder.

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


def verify_committed(folder: Path) -> Checked:
    """Check a folder of committed evidence: scores from counts, the curves' table and claims from metrics rows."""
    checked = Checked()
    if (folder / SUMS).is_file():  # evidence from before has none
        sums = checked.look("list of checksums", lambda: read_sums(folder / SUMS)) or {}
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != SUMS}
        for name in sorted({*found, *sums}):
            checked.look("files", lambda name=name: file_change(folder / name, sums.get(name)))
    if checked.problems:
        return checked
    checked.look("table of scores", lambda: _check_counts(folder))
    curves = folder / "tables" / "curves.csv"
    if curves.is_file():
        checked.look("table of curves", lambda: _check_curves(folder, curves))
    if (folder / "claims.json").is_file():
        checked.look("list of claims", lambda: _check_claims(folder))
    return checked


def _check_counts(folder: Path) -> str | None:
    import pandas as pd

    keys = ["method", "seed", "checkpoint", "benchmark"]
    counts, stated = pd.read_parquet(folder / "counts.parquet"), pd.read_parquet(folder / "scores.parquet")
    groups = [counts[key].astype(str) for key in keys]
    pairs = list(zip(counts["n"], counts["c"], strict=True))

    def derive(metric: str) -> dict:
        if metric == "avg_at_k":
            return (counts["c"] / counts["n"]).groupby(groups).mean().to_dict()
        values = {pair: passed(*pair, int(metric.removeprefix("pass_at_"))) for pair in set(pairs)}
        return pd.Series([values[pair] for pair in pairs]).groupby(groups).mean().to_dict()

    for metric, rows in stated.groupby("metric"):
        if metric != "avg_at_k" and not metric.startswith("pass_at_"):
            continue  # the others need the samples
        derived = derive(metric)
        for row in rows.to_dict("records"):
            key = tuple(str(row[name]) for name in keys)
            if key not in derived or not abs(derived[key] - row["value"]) <= 1e-6:
                where = "/".join(key)
                return f"{folder / 'scores.parquet'}: {metric} of {where} is not what counts.parquet gives"
    return None


def passed(n: int, c: float, k: int) -> float:
    """pass@k of a problem with c of n samples correct; of an exact score, n = 1 and c is the chance of success."""
    return 1 - (1 - c) ** k if n == 1 else pass_at_k(int(n), int(c), k)


def _check_curves(folder: Path, file: Path) -> str | None:
    import pandas as pd

    stated = pd.read_csv(file).fillna({"unit": ""})
    methods = list(dict.fromkeys(stated["method"]))
    rows = pd.read_parquet(folder / "metrics.parquet", columns=["method", "seed"])
    seeds = sorted({int(seed) for seed in rows[rows["method"].isin(methods)]["seed"]})
    derived = frame(curves_table(read_committed(folder, methods, seeds)))
    if list(derived.columns) != list(stated.columns) or len(derived) != len(stated):
        return f"{file} does not have the rows and columns that metrics.parquet gives"
    for one, other in zip(derived.to_dict("records"), stated.to_dict("records"), strict=True):
        for name in one:
            if not same(one[name], other[name], CLOSE):
                return f"{file}: {name} of {other['method']}, {other['metric']}, is not what metrics.parquet gives"
    return None


def _check_claims(folder: Path) -> str | None:
    stated = json.loads((folder / "claims.json").read_text())
    known = json.loads((folder / "provenance.json").read_text())["runs"]
    seeds = sorted({int(name.split("/seed")[1]) for name in known if name.startswith("grpo/")})
    derived = records(decide_all(lambda claim: read_committed(folder, claim.arms, seeds[: STUDIES[claim.study].seeds])))
    for one, other in zip(derived, stated, strict=True):
        absent = one["verdict"] == other["verdict"] == "not run"
        for name in () if absent else one:
            if not same(json.loads(json.dumps(one[name])), other.get(name), 1e-3):
                return f"{folder / 'claims.json'}: {name} of {other['id']} is not what metrics.parquet gives"
    return None
