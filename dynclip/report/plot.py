"""Canvas, style, legend and file formats of every figure of a report."""

import io
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING

from dynclip.report.evidence import BASE, Evidence
from evals.stats import smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2), (1, 1), (10, 3), (4, 1, 1, 1, 1, 1))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BAND = "Lines: mean over seeds; bands: lowest to highest seed"
STYLE = {
    "svg.hashsalt": "dynclip",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}
FORMATS = ("svg", "png")


def files(figure: "Figure", text: str = "", formats=FORMATS) -> dict[str, bytes]:
    """The bytes of a drawn figure by format, with `text` as the caption under the plot."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        if text:
            lines = textwrap.wrap(text, 122)
            # A label of the whole figure takes part in the layout, so nothing is cut off.
            figure.supxlabel("\n".join(lines), fontsize=8.5, x=0.015, ha="left", color="#333333")
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + 0.16 * len(lines))
        written = {}
        for end in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=end, metadata={"svg": {"Date": None}, "png": {"Software": None}}[end])
            written[end] = buffer.getvalue()
        return written


def canvas(height: float, rows: int = 1, columns: int = 1, heights=None, **shared) -> "tuple[Figure, list]":
    """An empty figure, 8 inches wide, and its axes in reading order. Draw within `matplotlib.rc_context(STYLE)`."""
    # The object interface, without pyplot: no global state, no display, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}, **shared)
    return figure, list(axes.flat)


def _look(evidence: Evidence, method: str) -> dict:
    """A method's line: the same in every figure of a study."""
    if method == BASE:
        return {"color": "#777777", "dashes": (1, 2), "marker": "", "linewidth": 1.2}
    place = evidence.methods.index(method)
    pick = place % len(COLOURS)
    # Past the palette's end, colours come back with the next method's dashes.
    dashes = DASHES[(pick + place // len(COLOURS)) % len(DASHES)]
    look = {"color": COLOURS[pick], "marker": MARKERS[pick], "markersize": 5, "linewidth": 1.6}
    return look | {"dashes": dashes}


def _every(points: int) -> int:
    return max(1, points // 8)


def _draw_curves(evidence: Evidence, ax, key: str, factor: float = 1, smoothed: bool = False) -> None:
    drawn = False
    for method in evidence.methods:
        curves = {
            seed: dict(enumerate(factor * v for v in (smooth(values) if smoothed else values)))
            for seed, values in evidence.curves(key, method).items()
        }
        drawn |= bool(curves)
        _draw_line(evidence, ax, method, curves)
    if not drawn:
        ax.text(0.5, 0.5, f"{key} was not recorded", transform=ax.transAxes, ha="center", color="#777777")


def _draw_line(evidence: Evidence, ax, method: str, curves: dict[int, dict[int, float]]) -> None:
    """Mean over seeds and the band from the lowest to the highest; `curves`: seed -> x -> y."""
    if not curves:
        return
    xs = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    ys = [[curve[x] for curve in curves.values()] for x in xs]
    look = _look(evidence, method)
    if len(curves) > 1:
        ax.fill_between(xs, list(map(min, ys)), list(map(max, ys)), color=look["color"], alpha=0.13, linewidth=0)
    # Markers of different methods are staggered, so that lines on top of each other remain countable.
    start = 0 if method == BASE else evidence.methods.index(method) * _every(len(xs)) // max(1, len(evidence.methods))
    marks = (start, _every(len(xs)))
    ax.plot(xs, [sum(at) / len(at) for at in ys], **look, markevery=marks, label=method)


def _legend(figure, *axes) -> None:
    entries = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        columns = next(n for n in range(6, 0, -1) if n == 1 or _legend_width(list(entries), n) <= LEGEND_WIDTH)
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns, handlelength=3.4)


LEGEND_WIDTH = 80  # characters that fit side by side in a figure's width


def _legend_width(labels: list[str], columns: int) -> int:
    """Characters across a legend whose first columns take one label more; a line's sample counts as 8."""
    rows, longer = divmod(len(labels), columns)
    starts = [column * rows + min(column, longer) for column in range(columns + 1)]
    return sum(max(map(len, labels[a:b]), default=0) + 8 for a, b in pairwise(starts))
