"""Reading committed evidence (`dynclip.reference`) back, so that tables and claims can be derived from it again.

from dynclip.committed import read_committed
evidence = read_committed("results/reference/laptop-2core", arms=("grpo", "id"))
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd


def read_committed(folder: Path | str, arms: Iterable[str], seeds: Iterable[int]) -> Evidence:
    """The runs of `arms` with `seeds` in a folder of committed evidence.

    Metrics rows and per-problem counts are those of the runs (float32); scores hold nothing else, and runs what
    provenance.json says of them. Raises OSError for a folder that holds no evidence.
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
    return [{"id": str(problem), "n": int(n), "c": int(c)} for problem, n, c in cells]


@lru_cache(maxsize=2)
def _tables(folder: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    import pandas as pd

    return pd.read_parquet(folder / "metrics.parquet"), pd.read_parquet(folder / "counts.parquet")
