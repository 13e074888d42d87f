"""The tables of docs/lab.md, from the files of dynclip.lab.questions alone."""

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynclip.lab.agreement.counts import ratios
from dynclip.lab.agreement.page import interval
from dynclip.lab.bands import LOOSER, UPPER, WHERE
from dynclip.lab.compare import guess
from dynclip.lab.grids import AXES, GROUPS, STORIES, factorial, regimes
from dynclip.report.tables import markdown_rows

if TYPE_CHECKING:
    import pandas as pd


PLACES = {"half": "half time", "end": "end", "success": "equal success"}
SIDES = {"upper": UPPER, "lower": tuple(arm for arm in LOOSER if arm not in UPPER)}
PREDICTORS = {
    "paper": "the paper's direction: upper up, lower down",
    "lower": "always lower",
    "rule": "band, token-only rule",
    "exact": "band, exact",
    "optimizer": "band, the optimizer's step",
    "batch": "band, one batch tried out",
}


def page(out: Path) -> str:
    """README.md of the folder: every table, in the order of the questions."""
    parts = [
        "# The microscope: tables",
        "What they mean and how they are made: [docs/lab.md](../../../docs/lab.md). Every number is computed from the "
        "files in this folder.",
    ]
    for title, text in tables(out).items():
        parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def tables(out: Path) -> dict[str, str]:
    """Title → table, from the existing files."""
    found = {}
    cells = {grid: load_cells(out, grid) for grid in ("train", "test") if (out / f"cells-{grid}.csv").exists()}
    for grid, rows in cells.items():
        found[f"Signs, {grid} grid"] = sign_table(rows)
    if "train" in cells:
        found["Signs by axis"] = axis_table(cells["train"])
        found["Prediction, train grid"] = prediction_table(cells["train"])
    if "test" in cells:
        found["Prediction, test grid"] = prediction_table(cells["test"])
        found["Prediction by side, test grid"] = side_table(cells["test"])
    if (out / "rule.csv").exists():
        found["The rule along GRPO's runs"] = rule_table(out)
    if (out / "shapes.json").exists():
        found["Shapes"] = shape_table(out)
    if (out / "variants.csv").exists():
        found["Variants"] = variant_table(out)
    return found


def load_cells(out: Path, grid: str) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(out / f"cells-{grid}.csv")


def signs(rows: "pd.DataFrame") -> str:
    """`less / undecided / more` and, where entropies could not be compared, how many of those."""
    known = rows[rows["difference"].notna()]
    text = " / ".join(str(int((known["sign"] == sign).sum())) for sign in (-1, 0, 1))
    missing = len(rows) - len(known)
    return f"{text} ({missing} –)" if missing else text


def sign_table(cells: "pd.DataFrame") -> str:
    """A row per looser bound, a column per place: regimes with less / undecided / more entropy than GRPO, and the
    median difference.
    """
    rows = []
    for arm in LOOSER:
        row = [arm]
        for where in WHERE:
            some = cells[(cells["arm"] == arm) & (cells["where"] == where)]
            row.append(f"{signs(some)}, median {some['difference'].median():+.3f}")
        rows.append(row)
    return markdown_rows(["looser bound", *(PLACES[where] for where in WHERE)], rows)


def axis_table(cells: "pd.DataFrame") -> str:
    """A row per level of every axis of the factorial and per variation, for the two dynamic bounds."""
    labels = {number: key for number, key in enumerate(factorial())}
    groups = {}
    for place, (axis, levels) in enumerate(AXES.items()):
        for level in levels:
            groups[f"{axis} {level}"] = [number for number, key in labels.items() if key[place] == level]
    every = regimes("train")
    others = range(len(labels), len(every))
    groups["peak 4 on right actions"] = [n for n in others if every[n].peak_at == "good"]
    groups["peak 4 on wrong actions"] = [n for n in others if every[n].peak_at == "bad"]
    groups["SGD"] = [n for n in others if every[n].optimizer == "sgd"]
    small = {n: every[n] for n in others if every[n].group == GROUPS["4"]["group"]}
    groups["group 4"] = list(small)
    groups["… the same at group 16"] = [
        number for number, key in labels.items() if any(same(regime, factorial()[key]) for regime in small.values())
    ]
    rows = []
    for name, numbers in groups.items():
        some = cells[cells["regime"].isin(numbers)]
        row = [name]
        for arm, where in product(("dynamic_upper", "dynamic_lower"), WHERE):
            row.append(signs(some[(some["arm"] == arm) & (some["where"] == where)]))
        rows.append(row)
    head = [f"{arm}, {PLACES[where]}" for arm, where in product(("upper", "lower"), WHERE)]
    return markdown_rows(["regimes", *head], rows)


def same(one, other) -> bool:
    """Whether two regimes differ at most in how their completions are grouped."""
    left, right = vars(one), vars(other)
    return all(left[key] == right[key] for key in left if key not in ("group", "problems"))


def accuracy(cells: "pd.DataFrame", predictor: str) -> tuple[list, float | None, int, int]:
    """([share of right signs, low, high], mean of the shares by true sign, n lower, n higher) over decided rows.

    The 95 % interval is a bootstrap over regimes: arms of one regime are no independent evidence.
    """
    rows = cells[cells["sign"] != 0]
    if rows.empty:
        return [None, None, None], None, 0, 0
    right = np.array([guess(row, predictor) == row["sign"] for row in rows.to_dict("records")], dtype=float)
    [spread] = ratios(right[:, None], np.ones((len(right), 1)), rows["regime"].to_numpy())
    truth = rows["sign"].to_numpy()
    recalls = [right[truth == sign].mean() for sign in (-1, 1) if (truth == sign).any()]
    return (
        spread,
        float(np.mean(recalls)) if len(recalls) == 2 else None,
        int((truth < 0).sum()),
        int((truth > 0).sum()),
    )


def prediction_table(cells: "pd.DataFrame", head: str = "predictor") -> str:
    """A row per predictor: % of decided rows whose sign it has, with interval, and balanced over the two signs."""
    rows = []
    for predictor, title in PREDICTORS.items():
        row = [title]
        for where in WHERE:
            spread, balanced, *_ = accuracy(cells[cells["where"] == where], predictor)
            row.append(interval(spread) + (f", balanced {100 * balanced:.0f}" if balanced is not None else ""))
        rows.append(row)
    counts = ["decided rows: less, more"]
    for where in WHERE:
        *_, less, more = accuracy(cells[cells["where"] == where], "lower")
        counts.append(f"{less}, {more}")
    return markdown_rows([head, *(PLACES[where] for where in WHERE)], [*rows, counts, correlation_row(cells)])


def correlation_row(cells: "pd.DataFrame") -> list[str]:
    """Spearman's correlation of the score "batch" with the measured difference, over all rows of a place."""
    row = ["rank correlation of score and difference, one batch tried out"]
    for where in WHERE:
        some = cells[cells["where"] == where].dropna(subset=["difference", "batch"])
        row.append(f"{some['difference'].corr(some['batch'], method='spearman'):.2f}")
    return row


def side_table(cells: "pd.DataFrame") -> str:
    """Like `prediction_table`, with one table for upper and one for lower bounds."""
    parts = []
    for side, arms in SIDES.items():
        some = cells[cells["arm"].isin(arms)]
        parts.append(prediction_table(some, f"{side} bounds"))
    return "\n\n".join(parts)


def rule_table(out: Path) -> str:
    """A row per story: tokens whose rule has the wrong sign, in each third of GRPO's run, and the sums of both."""
    import pandas as pd

    counts, rows = pd.read_csv(out / "rule.csv"), []
    for story in STORIES:
        row = [story]
        for third in range(3):
            some = counts[(counts["story"] == story) & (counts["third"] == third)].sum(numeric_only=True)
            wrong = 100 * (some["wrong_good"] + some["wrong_bad"]) / some["tokens"]
            drift = [1000 * some[name] / some["tokens"] for name in ("drift_rule", "drift_exact")]
            row.append(f"{wrong:.1f} %; {drift[0]:+.1f}, {drift[1]:+.1f}")
        rows.append(row)
    return markdown_rows(["GRPO's run", "first third", "second third", "last third"], rows)


def shape_table(out: Path) -> str:
    """A row per regime: the legs of each method's mean entropy, in nats, and of id and did from GRPO's."""
    shapes = json.loads((out / "shapes.json").read_text())["shapes"]
    found: dict[str, dict] = {}
    for shape in shapes:
        found.setdefault(shape["regime"], {})[shape["method"]] = shape
    rows = []
    for label, methods in found.items():
        row = [label, *(legs_text(methods[name]["legs"]) for name in ("grpo", "id", "did"))]
        row += [legs_text(methods[name]["legs_from_grpo"]) for name in ("id", "did")]
        for name in ("od 0.2", "od 0.5"):
            row.append(f"{legs_text(methods[name]['legs'])} ({np.mean(methods[name]['switches']):.0f})")
        rows.append(row)
    return markdown_rows(
        ["regime", "grpo", "id", "did", "id − grpo", "did − grpo", "od 0.2 (switches)", "od 0.5 (switches)"], rows
    )


def legs_text(legs: list[float]) -> str:
    return " ".join(f"{leg:+.2f}" for leg in legs) or "0"


def variant_table(out: Path) -> str:
    """A row per pair of variants: regimes with less / undecided / more entropy, and the median difference."""
    import pandas as pd

    cells, rows = pd.read_csv(out / "variants.csv"), []
    for variant in cells["variant"].unique():
        row = [variant]
        for where in WHERE:
            some = cells[(cells["variant"] == variant) & (cells["where"] == where)]
            row.append(f"{signs(some)}, median {some['difference'].median():+.4f}")
        rows.append(row)
    return markdown_rows(["variant", *(PLACES[where] for where in WHERE)], rows)
