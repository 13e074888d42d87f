"""Canvas, style, legend and file formats of all figures, and the curves of a study's methods.

Figures stay readable in grey and at half size: lines differ by dashes and marker as well as by a colour of the
colour-blind-safe palette of Okabe and Ito. Files have the same bytes every time: a fixed hash salt and no date.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
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
    """format -> bytes of a drawn figure. text: a caption under the plot."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        if text:
            lines = textwrap.wrap(text, 122)
            # A label of the whole figure is part of the layout, so the caption is not cut off.
            figure.supxlabel("\n".join(lines), fontsize=8.5, x=0.015, ha="left", color="#333333")
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + 0.16 * len(lines))
        return {form: save(figure, form) for form in formats}


def save(figure: "Figure", form: str) -> bytes:
    """The bytes of a figure as "svg" or "png", without date and version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"svg": {"Date": None}, "png": {"Software": None}}[form])
    return buffer.getvalue()


def small_png(content: bytes) -> bytes:
    """A PNG with 128 colours, which a line figure does not need more of, at a third of its size."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(128).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def empty(width: float, height: float) -> "Figure":
    """A figure without axes, in inches. Draw within `matplotlib.rc_context(STYLE)`."""
    # Without pyplot there is no global state, no display and nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def canvas(height: float, rows: int = 1, columns: int = 1, heights=None, **shared) -> "tuple[Figure, list]":
    """An `empty` figure, 8 inches wide, and its axes in reading order.

    height: inches. heights: ratios of the rows. shared: of `Figure.subplots`.
    """
    figure = empty(8, height)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}, **shared)
    return figure, list(axes.flat)


def look(number: int) -> dict:
    """Colour, dashes and marker of the line with this number."""
    pick = number % len(COLOURS)
    return {"color": COLOURS[pick], "dashes": DASHES[pick], "marker": MARKERS[pick]}


def method_look(evidence: Evidence, method: str) -> dict:
    """A method's line style, the same in every figure of a study."""
    if method == BASE:
        return {"color": "#777777", "dashes": (1, 2), "marker": "", "linewidth": 1.2}
    place = evidence.methods.index(method)
    # After the last colour the palette starts again with other dashes.
    dashes = DASHES[(place + place // len(COLOURS)) % len(DASHES)]
    return look(place) | {"markersize": 5, "linewidth": 1.6, "dashes": dashes}


def mark_every(points: int) -> int:
    """Steps between two markers of a line with so many points."""
    return max(1, points // 8)


def draw_curves(evidence: Evidence, ax, key: str, factor: float = 1, smoothed: bool = False) -> None:
    """Draw a metric by rollout step, times `factor`: a line and a band per method."""
    drawn = False
    for method in evidence.methods:
        curves = {
            seed: dict(enumerate(factor * v for v in (smooth(values) if smoothed else values)))
            for seed, values in evidence.curves(key, method).items()
        }
        drawn |= bool(curves)
        draw_line(evidence, ax, method, curves)
    if not drawn:
        ax.text(0.5, 0.5, f"{key} was not recorded", transform=ax.transAxes, ha="center", color="#777777")


def draw_line(evidence: Evidence, ax, method: str, curves: dict[int, dict[int, float]]) -> None:
    """Mean over seeds and the band from the lowest to the highest seed. curves: seed -> x -> y."""
    if not curves:
        return
    xs = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    ys = [[curve[x] for curve in curves.values()] for x in xs]
    style = method_look(evidence, method)
    if len(curves) > 1:
        ax.fill_between(xs, list(map(min, ys)), list(map(max, ys)), color=style["color"], alpha=0.13, linewidth=0)
    # Markers of different methods are staggered, so that equal lines can be told apart.
    start = (
        0 if method == BASE else evidence.methods.index(method) * mark_every(len(xs)) // max(1, len(evidence.methods))
    )
    marks = (start, mark_every(len(xs)))
    ax.plot(xs, [sum(at) / len(at) for at in ys], **style, markevery=marks, label=method)


def legend(figure: "Figure", *axes, columns: int | None = None, **options) -> None:
    """One legend for the lines of all `axes`, above the plot. columns: default as many as fit. options: of `legend`."""
    entries = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        labels = list(entries)
        columns = columns or next(n for n in range(6, 0, -1) if n == 1 or _legend_width(labels, n) <= LEGEND_WIDTH)
        options = {"loc": "outside upper center", "handlelength": 3.4} | options
        figure.legend(entries.values(), labels, ncols=columns, **options)


LEGEND_WIDTH = 80  # characters that fit in a figure's width


def _legend_width(labels: list[str], columns: int) -> int:
    """Characters across a legend. The first columns hold one label more; the sample of a line counts as 8."""
    rows, longer = divmod(len(labels), columns)
    starts = [column * rows + min(column, longer) for column in range(columns + 1)]
    return sum(max(map(len, labels[a:b]), default=0) + 8 for a, b in pairwise(starts))


STATES = {  # OD's state -> colour and what it means
    -1: ("#dddddd", "neither yet"),
    0: ("#E69F00", "lower bound loosened"),
    1: ("#0072B2", "upper bound loosened"),
}


def state_shares(curves: Iterable[Sequence[float]]) -> dict[int, list[float]]:
    """state -> share of the curves in it at each step. Curves without a value at a step do not count there."""
    steps = [[round(v) for v in values if not math.isnan(v)] for values in zip(*curves, strict=True)]
    return {state: [at.count(state) / len(at) if at else math.nan for at in steps] for state in STATES}


def draw_shares(ax, curves: Iterable[Sequence[float]], bottom: float, height: float) -> None:
    """A stacked strip by step: `height` is divided among the states by their share of the curves."""
    shares = state_shares(curves)
    steps = range(len(next(iter(shares.values()))))
    base = [bottom] * len(steps)
    for state in sorted(shares, reverse=True):
        heights = [0.0 if math.isnan(share) else height * share for share in shares[state]]
        drawn = [(k, base[k], heights[k]) for k in steps if heights[k]]
        if drawn:
            at, low, high = zip(*drawn, strict=True)
            ax.bar(at, high, width=1.0, bottom=low, color=STATES[state][0], linewidth=0)
        base = [a + b for a, b in zip(base, heights, strict=True)]
