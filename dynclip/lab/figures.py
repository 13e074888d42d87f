"""The figures of docs/lab.md: the same bytes every time, readable in grey and at half size."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynclip.lab.bands import LOOSER, WHERE
from dynclip.lab.grids import AXES, STORIES, factorial
from dynclip.lab.tables import PLACES, PREDICTORS, accuracy, load_cells
from dynclip.report.figures.plot import COLOURS, MARKERS, STYLE, canvas, legend, look
from dynclip.report.figures.plot import files as plot_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MORE, LESS, NEITHER = "#D55E00", "#0072B2", "#999999"
BELOW = {"loc": "outside lower center", "fontsize": 9, "handlelength": 3.6}
LEAST_TOKENS = 200  # bins with fewer tokens are left out of curves


def render_all(out: Path) -> dict[str, bytes]:
    """File name → bytes, of every figure whose numbers are in `out`."""
    import matplotlib

    files = {}
    with matplotlib.rc_context(STYLE):
        for name, (needed, draw) in FIGURES.items():
            if not all((out / file).exists() for file in needed):
                continue
            for end, content in plot_files(draw(out)).items():
                files[f"lab-{name}.{end}"] = content
    return files


def phase(out: Path) -> "Figure":
    """The factorial as a map: entropy of the dynamic bounds minus GRPO's, at half time and at equal success."""
    cells = load_cells(out, "train")
    figure, axes = canvas(8.6, 2, 2, sharex=True, sharey=True)
    columns = [(reward, update) for update in AXES["updates"] for reward in AXES["reward"]]
    rows = [(start, rate) for start in AXES["start"] for rate in AXES["step size"]]
    for line, arm in enumerate(("dynamic_upper", "dynamic_lower")):
        for place, where in enumerate(("half", "success")):
            ax = axes[2 * line + place]
            some = cells[(cells["arm"] == arm) & (cells["where"] == where)].set_index("regime")
            for number, (start, reward, updates, rate) in enumerate(factorial()):
                x, y = columns.index((reward, updates)), rows.index((start, rate))
                difference, sign = some.loc[number, "difference"], some.loc[number, "sign"]
                mark(ax, x, y, difference, sign)
            ax.set_title(f"{arm.replace('_', ' ')} bound, {PLACES[where]}", fontsize=10.5)
            ax.grid(visible=False)
            ax.axvline(len(AXES["reward"]) - 0.5, color="#bbbbbb", linewidth=0.8)
            for edge in range(2, len(rows), 2):
                ax.axhline(edge - 0.5, color="#bbbbbb", linewidth=0.8)
            ax.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) - 0.4, -0.75))
            ax.set_xticks(range(len(columns)), [reward for reward, _ in columns], fontsize=8.5)
            ax.set_yticks(range(len(rows)), [f"{start}, {rate}" for start, rate in rows], fontsize=8.5)
    for ax in axes[2:]:
        ax.set_xlabel("chance of reward for even draws\n4 updates a batch (left), 16 (right)", fontsize=9.5)
    for ax in axes[::2]:
        ax.set_ylabel("start, step size", fontsize=9.5)
    looks = (("^", MORE, True, "more entropy than GRPO"), ("v", LESS, False, "less"), (".", NEITHER, True, "undecided"))
    for marker, colour, full, text in looks:
        face = colour if full else "white"
        axes[0].plot([], [], marker, color=colour, markerfacecolor=face, markersize=9, label=text)
    axes[0].plot([], [], "x", color=NEITHER, markersize=6, label="no gain to compare at")
    legend(figure, axes[0], columns=4, **BELOW | {"handlelength": None})
    return figure


def mark(ax, x: int, y: int, difference: float, sign: int) -> None:
    """A triangle up or down whose size grows with the difference, and the number under it."""
    if not np.isfinite(difference):
        ax.plot([x], [y], "x", color=NEITHER, markersize=6)
        return
    if sign == 0:
        ax.plot([x], [y], ".", color=NEITHER, markersize=6)
        return
    size = 5 + 5 * min(1.0, abs(difference) / 0.1) ** 0.5
    colour = MORE if sign > 0 else LESS
    face = colour if sign > 0 else "white"
    ax.plot([x], [y - 0.14], "^" if sign > 0 else "v", color=colour, markerfacecolor=face, markersize=size)
    ax.text(x, y + 0.42, f"{100 * difference:+.0f}" if abs(difference) >= 0.01 else "<1", ha="center", fontsize=7)


def rule(out: Path) -> "Figure":
    """Share of tokens whose rule has the wrong sign, by the entropy of the state, in the thirds of GRPO's run."""
    import pandas as pd

    counts = pd.read_csv(out / "rule.csv")
    figure, axes = canvas(5.6, 2, 2, sharex=True, sharey=True)
    for ax, story in zip(axes, STORIES, strict=True):
        for third, name in enumerate(("first third", "second third", "last third")):
            some = counts[(counts["story"] == story) & (counts["third"] == third) & (counts["tokens"] >= LEAST_TOKENS)]
            wrong = 100 * (some["wrong_good"] + some["wrong_bad"]) / some["tokens"]
            ax.plot(some["entropy_low"] + 0.125, wrong, **look(third), markersize=4, linewidth=1.4, label=name)
        ax.axvline(np.log(2), color="#888888", linewidth=0.9, linestyle=(0, (1, 2)))
        ax.set_title(story, fontsize=10)
        ax.set_ylim(bottom=0)
    for ax in axes[2:]:
        ax.set_xlabel("entropy of the state, nats")
    for ax in axes[::2]:
        ax.set_ylabel("wrong sign, % of tokens")
    legend(figure, axes[0], columns=3, **BELOW)
    return figure


def curves(out: Path) -> "Figure":
    """Mean entropy of grpo, id, did and od in the four stories, at step size 0.05 and 16 updates."""
    import pandas as pd

    found = pd.read_csv(out / "curves.csv")
    figure, axes = canvas(6.2, 2, 2, sharex=True)
    for ax, story in zip(axes, STORIES, strict=True):
        some = found[found["regime"] == f"{story}, 0.05, 16 updates"].set_index("method").drop(columns="regime")
        steps = some.columns.astype(int)
        for number, name in enumerate(("grpo", "id", "did", "od 0.2", "od 0.5")):
            every = (number * 2, 12)
            ax.plot(steps, some.loc[name], **look(number), markersize=4.5, linewidth=1.5, markevery=every, label=name)
        ax.set_title(story, fontsize=10)
        ax.set_ylim(bottom=0)
    for ax in axes[2:]:
        ax.set_xlabel("rollout step")
    for ax in axes[::2]:
        ax.set_ylabel("entropy, nats")
    legend(figure, axes[0], columns=5, **BELOW)
    return figure


def variants(out: Path) -> "Figure":
    """Entropy of one variant minus another, a dot per regime, at the end and at equal success."""
    import pandas as pd

    cells = pd.read_csv(out / "variants.csv")
    names = list(cells["variant"].unique())
    figure, axes = canvas(4.4, 1, 2, sharey=True)
    for ax, where in zip(axes, ("end", "success"), strict=True):
        for row, name in enumerate(names):
            some = cells[(cells["variant"] == name) & (cells["where"] == where)].dropna(subset=["difference"])
            shift = np.linspace(-0.3, 0.3, len(some))
            for offset, difference, sign in zip(shift, some["difference"], some["sign"], strict=True):
                colour = {1: MORE, -1: LESS, 0: NEITHER}[sign]
                marker = {1: "^", -1: "v", 0: "."}[sign]
                face = "white" if sign < 0 else colour
                ax.plot([difference], [row + offset], marker, color=colour, markerfacecolor=face, markersize=5)
        ax.axvline(0, color="#444444", linewidth=0.9)
        ax.set(title=PLACES[where], xlabel="difference of entropy, nats")
        ax.set_xscale("symlog", linthresh=0.01, linscale=0.8)
        ax.set_xticks([-0.1, -0.01, 0, 0.01, 0.1], ["−0.1", "−0.01", "0", "0.01", "0.1"])
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def prediction(out: Path) -> "Figure":
    """Test grid: the score of a trial batch against the measured difference, and every predictor's accuracy."""
    cells = load_cells(out, "test")
    figure, axes = canvas(6.8, 2, 3)
    for ax, where in zip(axes[:3], WHERE, strict=True):
        some = cells[cells["where"] == where].dropna(subset=["difference", "batch"])
        for number, arm in enumerate(LOOSER):
            rows = some[some["arm"] == arm]
            clear = rows["sign"] != 0
            dots = {"color": COLOURS[number + 1], "marker": MARKERS[number + 1], "linestyle": "", "markersize": 4.5}
            ax.plot(rows["batch"][clear], rows["difference"][clear], **dots, label=arm)
            ax.plot(rows["batch"][~clear], rows["difference"][~clear], **dots, fillstyle="none", alpha=0.5)
        ax.axhline(0, color="#444444", linewidth=0.8)
        ax.axvline(0, color="#444444", linewidth=0.8)
        for scale in (ax.set_xscale, ax.set_yscale):
            scale("symlog", linthresh=0.01, linscale=0.8)
        ax.set_xticks([-0.1, 0, 0.1], ["−0.1", "0", "0.1"])
        ax.set_yticks([-0.1, 0, 0.1], ["−0.1", "0", "0.1"])
        ax.set_title(PLACES[where], fontsize=10.5)
        ax.set_xlabel("score, nats", fontsize=9.5)
    axes[0].set_ylabel("measured difference, nats")
    for ax, where in zip(axes[3:], WHERE, strict=True):
        for row, predictor in enumerate(PREDICTORS):
            spread, balanced, *_ = accuracy(cells[cells["where"] == where], predictor)
            if spread[0] is None:
                continue
            ax.plot([100 * spread[1], 100 * spread[2]], [row, row], color="#000000", linewidth=1.8)
            ax.plot([100 * spread[0]], [row], "o", color="#000000", markersize=6, label="right signs")
            if balanced is not None:
                ax.plot(
                    [100 * balanced], [row], "D", color=COLOURS[2], fillstyle="none", markersize=7, label="balanced"
                )
        ax.axvline(50, color="#888888", linewidth=0.9, linestyle=(0, (1, 2)))
        ax.set(xlim=(0, 104), ylim=(len(PREDICTORS) - 0.5, -0.5), xlabel="% of decided signs")
        ax.set_yticks(range(len(PREDICTORS)), list(PREDICTORS) if where == WHERE[0] else [])
    legend(figure, axes[0], axes[5], columns=4, **BELOW | {"handlelength": None})
    return figure


# Name → (the files it needs, the function that draws it).
FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Path], "Figure"]]] = {
    "phase": (("cells-train.csv",), phase),
    "rule": (("rule.csv",), rule),
    "curves": (("curves.csv",), curves),
    "variants": (("variants.csv",), variants),
    "prediction": (("cells-test.csv",), prediction),
}
