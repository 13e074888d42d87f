"""The figures of docs/methods.md.

Each function takes the registry's specs by family (`questions.grouped`) and returns a figure 8 inches wide.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from docs.generate.curves import Course, Q, courses, entropies, gradient_factor, shares, surrogates, thresholds
from docs.generate.questions import Grouped
from dynclip.report.evidence import BASELINE
from dynclip.report.figures.plot import COLOURS, DASHES, STYLE, canvas, legend, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_ROW = 5  # surrogates beside GRPO's in a row of their figure
PROBABILITIES = (0.05, 0.5, 0.95)
TRAINING, BOUNDS = "k/T, share of training", "bounds 1 − ε⁻ and 1 + ε⁺"
ALLOWED, FAINT = "#0072B2", "#888888"


@dataclass(frozen=True)
class Diagram:
    """A figure of the page: its family, its drawing function and its caption."""

    family: str
    draw: Callable[[Grouped], "Figure"]
    caption: str


def narrow_bounds(specs: Grouped) -> "Figure":
    """Bounds over q of the methods that stay within a factor of two, on linear axes."""
    figure, axes = _draw_bounds(courses(specs), wide=False)
    axes[0].set(xlim=(0, 1), ylim=(0.6, 1.6), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure


def wide_bounds(specs: Grouped) -> "Figure":
    """Bounds over q of the methods with wider bounds, on logarithmic axes."""
    figure, axes = _draw_bounds(courses(specs), wide=True)
    axes[0].set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(0.1, 14))
    axes[0].set(xticks=(0.01, 0.1, 1), yticks=(0.1, 0.5, 1, 2, 5, 10))
    for axis in (axes[0].xaxis, axes[0].yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda *_: "")
    return figure


def schedules(specs: Grouped) -> "Figure":
    """Bounds over training at a few q, of the methods without a controller."""
    shown = [bound for bound in courses(specs) if bound.moves and not bound.method.controller]
    figure, axes = _canvas(len(shown), columns=2, height=2.4)
    for ax, bound in zip(axes, shown, strict=False):
        ax.set_title(bound.label)
        _draw_course(ax, bound)
    figure.supxlabel(TRAINING)
    figure.supylabel(BOUNDS)
    legend(figure, *axes, columns=5)
    return figure


def feedback(specs: Grouped) -> "Figure":
    """The invented entropy with the controllers' thresholds, above the bounds that result."""
    shown = [bound for bound in courses(specs) if bound.moves and bound.method.controller]
    columns = max(1, len(shown))
    figure, axes = _canvas(2 * columns, columns=columns, height=2.4, sharey=False)
    for upper, lower, bound in zip(axes, axes[columns:], shown, strict=False):
        upper.plot(shares(), entropies(), color=COLOURS[0], linewidth=1.6, label="entropy (invented)")
        for number, level in enumerate(thresholds(bound.method)):
            label = "" if number else "threshold of the controller"
            upper.plot(shares()[1:], level, color=COLOURS[4], dashes=DASHES[4], linewidth=1.8, label=label)
        upper.set(title=bound.label, ylim=(0, 1.1))
        _draw_course(lower, bound)
    axes[0].set_ylabel("entropy, nats")
    axes[columns].set_ylabel(BOUNDS)
    figure.supxlabel(TRAINING)
    legend(figure, *axes, columns=3)
    return figure


def gradients(specs: Grouped) -> "Figure":
    """The factor that each surrogate puts on a token's gradient, over the ratio, for both signs of the advantage.

    The first surrogate, GRPO's, is in every row; a row has at most as many others as there are other line styles.
    """
    first, *others = surrogates(specs).items()
    rows = [[first, *others[i : i + PER_ROW]] for i in range(0, max(1, len(others)), PER_ROW)]
    figure, axes = _canvas(2 * len(rows), columns=2, height=3.4)
    ratios = torch.logspace(-3, 3, 601, base=2, dtype=torch.float64)
    for number, ax in enumerate(axes):
        advantage = -1.0 if number % 2 else 1.0
        for (label, spec), color, dashes in zip(rows[number // 2], COLOURS, DASHES, strict=False):
            factor = gradient_factor(spec, ratios, advantage)
            ax.plot(ratios, factor, color=color, dashes=dashes, linewidth=1.8, label=label)
        ax.axvline(1, color=FAINT, linewidth=0.8)
        if number < 2:
            ax.set_title("A > 0: the token is pushed up" if advantage > 0 else "A < 0: the token is pushed down")
        if advantage > 0:
            ax.legend(loc="upper left", fontsize=8, handlelength=3.4, frameon=False)
    figure.supxlabel("ratio r = p/q")
    figure.supylabel("gradient factor  −(1/A) ∂loss/∂ln p")
    axes[0].set_xscale("log", base=2)
    axes[0].set(xlim=(1 / 8, 8), xticks=(0.25, 0.5, 1, 2, 4), ylim=(-0.15, 5.6))
    axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure


FIGURES: dict[str, Diagram] = {
    "bounds": Diagram(
        "probability",
        narrow_bounds,
        "The ratio r = p/q keeps its gradient between the blue lines. The light area is what a bound passes through "
        "over a training. Dotted is 1/q, where p = 1: a bound above it never acts.",
    ),
    "bounds_wide": Diagram(
        "probability",
        wide_bounds,
        "The same on logarithmic axes, for methods with wider bounds. A lower bound that leaves its panel goes to 0.",
    ),
    "schedules": Diagram(
        "schedule",
        schedules,
        "Bounds that follow the step, at three old probabilities. The upper bounds are above 1, the lower ones below.",
    ),
    "feedback": Diagram(
        "bound by entropy",
        feedback,
        "Bounds that follow the entropy. The entropy curve is invented, so that it crosses every threshold.",
    ),
    "gradients": Diagram(
        "surrogate",
        gradients,
        "The factor of A ∇ ln p in the gradient of one token's objective, by autograd through each surrogate. Defaults "
        "are those of the method in the legend, without added terms and weights. At 0 a token has no gradient.",
    ),
}  # fmt: skip


def render(name: str, specs: Grouped, form: str = "svg") -> bytes:
    """The bytes of a figure, the same every time; `form` is "svg" or "png"."""
    import matplotlib

    with matplotlib.rc_context(STYLE | {"font.size": 10, "axes.titlesize": 10, "figure.labelsize": 10}):
        content = save(FIGURES[name].draw(specs), form)
    if form == "png":
        return content
    # Rounded to a hundredth of a point: half the bytes, and the rounding of a processor does not show.
    return re.sub(rb"\d+\.\d{3,}", lambda match: b"%g" % round(float(match[0]), 2), content)


def _canvas(panels: int, columns: int, height: float, sharey: bool = True) -> "tuple[Figure, list]":
    """A figure with its axes. `height` is in inches per row; unused panels of the last row stay empty."""
    rows = max(1, math.ceil(panels / columns))
    figure, axes = canvas(height * rows + 0.6, rows, columns, sharex=True, sharey=sharey)
    for i, ax in enumerate(axes):
        ax.set_axis_on() if i < panels else ax.set_axis_off()
        ax.tick_params(labelbottom=i + columns >= panels)
    return figure, axes[: max(1, panels)]


def _draw_bounds(known: list[Course], wide: bool) -> "tuple[Figure, list]":
    """One panel for each envelope. Its title names all methods that have this envelope."""
    reference = next(bound for bound in known if bound.label == BASELINE)
    shown, panels = [bound for bound in known if bound.wide == wide], []
    for bound in shown:
        # Closer than the thickness of a line: schedules that pass the same bounds at different steps.
        near = (panel for panel in panels if torch.allclose(panel[0].envelope, bound.envelope, atol=5e-3))
        if alike := next(near, None):
            alike.append(bound)
        else:
            panels.append([bound])
    figure, axes = _canvas(len(panels), columns=3, height=2.3)
    for ax, panel in zip(axes, panels, strict=False):
        low, low_inner, high_inner, high = edges = panel[0].envelope.clamp(min=1e-9)  # a log axis has no 0
        ax.plot(Q, 1 / Q, color=COLOURS[0], dashes=DASHES[4], linewidth=1.2, label="1/q")
        ax.fill_between(Q, low_inner, high_inner, color=ALLOWED, alpha=0.25, linewidth=0)
        if panel[0].moves:
            ax.fill_between(Q, low, low_inner, color=ALLOWED, alpha=0.1, linewidth=0)
            ax.fill_between(Q, high_inner, high, color=ALLOWED, alpha=0.1, linewidth=0)
        for number in range(4) if panel[0].moves else (0, 3):
            ax.plot(Q, edges[number], color=ALLOWED, linewidth=1.5, label="" if number else "bounds")
        for edge, label in ((reference.lower[0], ""), (reference.upper[0], reference.label)):
            ax.plot(Q, edge, color=FAINT, dashes=DASHES[1], linewidth=1.1, label=label)
        ax.set_title(_title(panel, shown))
    figure.supxlabel("old probability q")
    figure.supylabel("ratio r")
    legend(figure, axes[0], columns=3)
    return figure, axes


def _title(panel: list[Course], shown: list[Course]) -> str:
    """The methods of a panel. A variant has its own label where another variant of the method looks different."""
    words = {}
    for bound in panel:
        variants = [other for other in shown if other.method.name == bound.method.name]
        words[bound.method.name if all(other in panel for other in variants) else bound.label] = None
    return ", ".join(words)


def _draw_course(ax, bound: Course) -> None:
    """Both bounds over training at a few old probabilities, or once where they do not depend on q."""
    places = [int((Q - q).abs().argmin()) for q in PROBABILITIES]
    looks = [{"color": COLOURS[i + 1], "dashes": DASHES[i], "label": f"q = {q}"} for i, q in enumerate(PROBABILITIES)]
    if all((edge[:, places] == edge[:, places[:1]]).all() for edge in (bound.lower, bound.upper)):
        places, looks = places[:1], [{"color": COLOURS[5], "label": "every q"}]
    for at, look in zip(places, looks, strict=True):
        ax.plot(shares(), bound.upper[:, at], **look, linewidth=1.7)
        ax.plot(shares(), bound.lower[:, at], **look | {"label": ""}, linewidth=1.7)
    ax.axhline(1, color=FAINT, linewidth=0.8)
