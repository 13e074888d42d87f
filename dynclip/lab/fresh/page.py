"""Tables (README.md) and figures of the map and of the predictor's test, from the files of `measure` alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynclip.lab.agreement.counts import ratios
from dynclip.lab.agreement.page import interval
from dynclip.lab.figures import LESS, MORE, NEITHER, mark
from dynclip.lab.fresh.curves import EVERY, KAPPAS, KINDS, RATES, STEPS, TITLES, curves_section, load
from dynclip.lab.fresh.grids import ARMS, EDGE, OWN, VARIATIONS, mapped
from dynclip.lab.fresh.measure import WHERE
from dynclip.report.figures.plot import COLOURS, MARKERS, STYLE, canvas, files, legend, look
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic
from evals.stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PLACES = {"half": "half time", "end": "end", "success": "equal reward"}
PREDICTED = WHERE[:2]  # the predictor speaks of equal steps
LOOSER_UPPER = ("clip_higher", "dynamic_upper")
LOOSER_LOWER = ("clip_lower", "dynamic_lower", "lower_steep")
DRAWN = ("grpo", "id", "did", "od")  # in the figure of curves
HIGHEST = 3.5  # nats, the top of that figure: ln 32 is 3.47
LATER = ("curves", "sizes")  # parts that a page can do without
LEAST = 0.01  # nats: a prediction below it counts as "no effect"
PREDICTORS = {
    "predicted": "the predictor",
    "large": f"the predictor, where it says {LEAST} nats or more",
    "trial": "one batch tried out",
    "paper": "the paper's direction: looser upper up, looser lower down",
    "up": "always more entropy",
    "down": "always less entropy",
}


def write_page(out: Path, figures: Path) -> None:
    """Write README.md into `out` and the figures into `figures`, from the cells in `out`.

    Curves and sizes may be missing; the page then leaves them out.
    """
    import matplotlib
    import pandas as pd

    cells = {grid: pd.read_csv(out / f"cells-{grid}.csv") for grid in ("train", "test")}
    language = pd.read_csv(out / "cells-language.csv")
    curves, sizes = (
        pd.read_csv(file) if file.exists() else None for file in (out / f"cells-{part}.csv" for part in LATER)
    )
    write_atomic(out / "README.md", page(cells, language, curves, sizes))
    with matplotlib.rc_context(STYLE):
        drawn = {"map": map_figure(cells["train"]), "predictor": predictor_figure(cells["test"])}
        drawn |= {} if curves is None else {"curves": curves_figure(curves)}
        for name, figure in drawn.items():
            for end, content in files(figure).items():
                write_atomic(figures / f"fresh-{name}.{end}", content)


def page(
    cells: "dict[str, pd.DataFrame]",
    language: "pd.DataFrame",
    curves: "pd.DataFrame | None" = None,
    sizes: "pd.DataFrame | None" = None,
) -> str:
    """README.md of the folder, without the parts that are None."""
    parts = [
        "# When does a bound change entropy: the map and the predictor's test",
        "Contexts that do not recur, tokens that no reward depends on. What it means and how it is made: "
        "[docs/steering.md](../../../docs/steering.md). Every number is computed from the files in this folder.",
        "## The map, at the end of training",
        "Regimes (one for each κ) with less / undecided / more entropy of neutral tokens than GRPO.",
        map_table(cells["train"]),
        "## Signs by arm",
        *(f"{grid} grid:\n\n{arm_table(rows)}" for grid, rows in cells.items()),
        "## Right signs among decided differences",
        "Brackets: 95 % intervals of a bootstrap over regimes.",
        *(f"{grid} grid:\n\n{prediction_table(rows)}" for grid, rows in cells.items()),
        "## Size",
        size_table(cells),
        "## Tiny language models",
        "Entropy of neutral tokens at the end minus GRPO's, nats, with the standard error over 6 seeds; arrows: the "
        "predicted direction. Bold: decided.",
        language_table(language),
        hits(language),
    ]
    if sizes is not None:
        parts += [
            "## Larger policies",
            "4 x 4 updates of 16 prompts x 8. Each size and seed has its own base policy. The numbers are as above, "
            f"over {sizes['n'].max()} seeds.",
            language_table(sizes),
            hits(sizes),
        ]
    if curves is not None:
        parts += curves_section(curves)
    return "\n\n".join(parts) + "\n"


def signs(rows: "pd.DataFrame") -> str:
    """`less / undecided / more`."""
    known = rows[rows["difference"].notna()]
    return " / ".join(str(int((known["sign"] == sign).sum())) for sign in (-1, 0, 1))


def map_table(cells: "pd.DataFrame") -> str:
    """A row per row of the map, a column per arm."""
    labels = list(mapped())
    rows = []
    for label in VARIATIONS:
        numbers = [number for number, (own_label, _) in enumerate(labels) if own_label == label]
        some = cells[cells["regime"].isin(numbers) & (cells["where"] == "end")]
        rows.append([label, *(signs(some[some["arm"] == arm]) for arm in list(ARMS)[1:])])
    return markdown_rows(["regimes", *list(ARMS)[1:]], rows)


def arm_table(cells: "pd.DataFrame") -> str:
    """A row per arm, a column per place: signs and the median difference."""
    rows = []
    for arm in list(ARMS)[1:]:
        row = [arm]
        for where in WHERE:
            some = cells[(cells["arm"] == arm) & (cells["where"] == where)]
            row.append(f"{signs(some)}, median {some['difference'].median():+.3f}")
        rows.append(row)
    return markdown_rows(["arm", *(PLACES[where] for where in WHERE)], rows)


def guess(row: dict, predictor: str) -> float:
    """The sign that a predictor gives; NaN where it says nothing."""
    if predictor == "large":
        return float(np.sign(row["predicted"])) if abs(row["predicted"]) >= LEAST else float("nan")
    if predictor == "paper":
        return 1.0 if row["arm"] in LOOSER_UPPER else -1.0 if row["arm"] in LOOSER_LOWER else float("nan")
    if predictor in ("up", "down"):
        return 1.0 if predictor == "up" else -1.0
    return float(np.sign(row[predictor]))


def accuracy(cells: "pd.DataFrame", predictor: str) -> tuple[list, int]:
    """([share of right signs, low, high], number of rows) over the decided rows where the predictor says something.

    The 95 % interval is a bootstrap over regimes: the arms of one regime are no independent evidence.
    """
    rows = cells[(cells["sign"] != 0) & cells["predicted"].notna()]
    said = np.array([guess(row, predictor) for row in rows.to_dict("records")])
    known = ~np.isnan(said)
    if not known.any():
        return [None, None, None], 0
    right = (said == rows["sign"].to_numpy())[known].astype(float)
    [spread] = ratios(right[:, None], np.ones((len(right), 1)), rows["regime"].to_numpy()[known])
    return spread, len(right)


def prediction_table(cells: "pd.DataFrame") -> str:
    """A row per predictor: % of right signs with interval and number of rows, at half time and at the end."""
    rows = []
    for predictor, title in PREDICTORS.items():
        row = [title]
        for where in PREDICTED:
            spread, count = accuracy(cells[cells["where"] == where], predictor)
            row.append(f"{interval(spread)} of {count}")
        rows.append(row)
    return markdown_rows(["predictor", *(PLACES[where] for where in PREDICTED)], rows)


def size_table(cells: "dict[str, pd.DataFrame]") -> str:
    """How large measured differences are where the predictor says a size, and how often they are decided."""
    rows = []
    for grid, every in cells.items():
        for where in PREDICTED:
            some = every[(every["where"] == where) & every["predicted"].notna()]
            slope = float((some["predicted"] * some["difference"]).sum() / (some["predicted"] ** 2).sum())
            rank = some["predicted"].corr(some["difference"], method="spearman")
            small, large = some[some["predicted"].abs() < LEAST], some[some["predicted"].abs() >= LEAST]
            decided = [f"{(part['sign'] != 0).sum()} of {len(part)}" for part in (small, large)]
            typical = f"{small['difference'].abs().median():.3f}"
            rows.append([f"{grid}, {PLACES[where]}", f"{slope:.2f}", f"{rank:.2f}", *decided, typical])
    head = [
        "grid", "slope through 0 of measured on predicted", "rank correlation",
        f"decided where less than {LEAST} nats are predicted", "decided where more are predicted",
        f"median size where less than {LEAST} are predicted, nats",
    ]  # fmt: skip
    return markdown_rows(head, rows)


def language_table(rows: "pd.DataFrame") -> str:
    """A row per cell: κ, GRPO's entropy, and each arm's difference from it with the predicted direction."""
    found, arms = [], list(dict.fromkeys(rows["arm"]))
    for cell in dict.fromkeys(rows["cell"]):
        some = rows[(rows["cell"] == cell) & (rows["where"] == "end")].set_index("arm")
        first = some.iloc[0]
        own, ends = first["own"], f"{first['grpo_start']:.2f} → {first['grpo']:.2f}"
        rewards = " ".join(f"{value:.2f}" for value in (first["grpo_reward"], *some.loc[arms, "reward"]))
        row = [cell, f"{own:.3f}, {own / EDGE:.2f}", ends]
        for arm in arms:
            number = f"{some.loc[arm, 'difference']:+.2f} ± {some.loc[arm, 'se']:.2f}"
            arrow = {1: "↑", -1: "↓", 0: "="}[int(np.sign(some.loc[arm, "score"]))]
            row.append(f"{f'**{number}**' if some.loc[arm, 'sign'] else number} {arrow}")
        found.append([*row, rewards])
    return markdown_rows(["cell", "κ, κ / ln 1.2", "GRPO, nats", *arms, "reward: GRPO, then in this order"], found)


def hits(rows: "pd.DataFrame") -> str:
    """How many decided directions the predictor has, and the paper."""
    decided = rows[rows["sign"] != 0]
    right = (np.sign(decided["score"]) == decided["sign"]).sum()
    said = decided[decided["arm"].isin(LOOSER_UPPER + LOOSER_LOWER)]
    paper = sum(guess(row, "paper") == row["sign"] for row in said.to_dict("records"))
    return (
        f"The predictor has {right} of {len(decided)} decided directions, at half time and at the end; the paper's "
        f"direction has {paper} of the {len(said)} that it speaks of."
    )


def map_figure(cells: "pd.DataFrame") -> "Figure":
    """Entropy of neutral tokens minus GRPO's at the end, for three arms, by kind of regime and κ."""
    figure, axes = canvas(5.4, 1, 3, sharey=True)
    labels, rows = list(mapped()), list(VARIATIONS)
    for ax, arm in zip(axes, ("dynamic_upper", "upper_steep", "dynamic_lower"), strict=True):
        some = cells[(cells["arm"] == arm) & (cells["where"] == "end")].set_index("regime")
        for number, (label, own) in enumerate(labels):
            mark(ax, OWN.index(own), rows.index(label), some.loc[number, "difference"], some.loc[number, "sign"])
        ax.axvline(np.interp(EDGE, OWN, range(len(OWN))), color="#888888", linewidth=0.9, linestyle=(0, (1, 2)))
        ax.set_title(arm.replace("_", " "), fontsize=10.5)
        ax.grid(visible=False)
        ax.set(xlim=(-0.6, len(OWN) - 0.4), ylim=(len(rows) - 0.4, -0.75))
        ax.set_xticks(range(len(OWN)), [f"{own / EDGE:.1f}" for own in OWN], fontsize=8.5)
        ax.set_xlabel("κ / ln 1.2", fontsize=9.5)
    axes[0].set_yticks(range(len(rows)), rows, fontsize=8.5)
    looks = (("^", MORE, True, "more entropy than GRPO"), ("v", LESS, False, "less"), (".", NEITHER, True, "undecided"))
    for marker, colour, full, text in looks:
        face = colour if full else "white"
        axes[0].plot([], [], marker, color=colour, markerfacecolor=face, markersize=9, label=text)
    legend(figure, axes[0], columns=3, loc="outside lower center", fontsize=9)
    return figure


def predictor_figure(cells: "pd.DataFrame") -> "Figure":
    """Test grid: predicted against measured difference, at half time and at the end."""
    figure, axes = canvas(4.4, 1, 2)
    for ax, where in zip(axes, PREDICTED, strict=True):
        some = cells[(cells["where"] == where) & cells["predicted"].notna()]
        for number, arm in enumerate(list(ARMS)[1:]):
            rows = some[some["arm"] == arm]
            clear = rows["sign"] != 0
            place = number % len(COLOURS)
            dots = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": "", "markersize": 4.5}
            ax.plot(rows["predicted"][clear], rows["difference"][clear], **dots, label=arm.replace("_", " "))
            ax.plot(rows["predicted"][~clear], rows["difference"][~clear], **dots, fillstyle="none", alpha=0.5)
        ax.axline((0, 0), slope=1, color="#888888", linewidth=0.9, linestyle=(0, (1, 2)))
        ax.axhline(0, color="#444444", linewidth=0.8)
        ax.axvline(0, color="#444444", linewidth=0.8)
        for scale in (ax.set_xscale, ax.set_yscale):
            scale("symlog", linthresh=0.01, linscale=0.8)
        ax.set_xticks([-1, -0.1, 0, 0.1, 1], ["−1", "−0.1", "0", "0.1", "1"])
        ax.set_yticks([-1, -0.1, 0, 0.1, 1], ["−1", "−0.1", "0", "0.1", "1"])
        ax.set(title=PLACES[where], xlabel="predicted difference from GRPO, nats")
    axes[0].set_ylabel("measured difference, nats")
    legend(figure, axes[0], columns=4, loc="outside lower center", fontsize=9)
    return figure


def curves_figure(rows: "pd.DataFrame") -> "Figure":
    """Entropy of neutral tokens by rollout step: kinds of regime in rows, κ in columns, the larger rate.

    Bands are 95 % intervals of the mean over seeds.
    """
    figure, axes = canvas(6.2, len(KINDS), len(KAPPAS), heights=(1, 1, 0.55), sharex=True, sharey=True)
    for number, ax in enumerate(axes):
        kind, own = list(KINDS)[number // len(KAPPAS)], KAPPAS[number % len(KAPPAS)]
        curves = load(rows, (kind, RATES[-1], own))
        for place, arm in enumerate(DRAWN):
            spreads = [mean_interval(values) for values in np.array(list(curves[arm].values())).T]
            steps = EVERY * np.arange(len(spreads))
            style = look(place)
            low, high = [s.low for s in spreads], [s.high for s in spreads]
            ax.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
            mean = [s.mean for s in spreads]
            ax.plot(steps, mean, **style, markersize=4.5, linewidth=1.5, markevery=(place, 5), label=arm)
        if number < len(KAPPAS):
            ax.set_title(f"κ = {own:g} = {own / EDGE:.1f} ln 1.2", fontsize=10)
        if number % len(KAPPAS) == 0:
            ax.set_ylabel(f"{TITLES[kind]}\nentropy, nats", fontsize=9.5)
        if number >= len(KAPPAS) * (len(KINDS) - 1):
            ax.set_xlabel("rollout step", fontsize=9.5)
        ax.set_xticks(range(0, STEPS + 1, 25))
        ax.tick_params(labelsize=8.5)
        ax.set_ylim(0, HIGHEST)
        ax.set_yticks(range(4))
    legend(figure, axes[0], columns=len(DRAWN), loc="outside lower center", fontsize=9)
    return figure
