"""The figure of a suite's front page: a column for each scale; entropy, OD's states, pass@1 and pass@k by row."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynclip.report.comparisons import scores_of, seed_means
from dynclip.report.evidence import BASE, Evidence
from dynclip.report.figures import KINDS
from dynclip.report.figures.plot import STATES, draw_shares, empty, mark_every, method_look
from evals.stats import mean_interval, smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Lines and markers: mean over training seeds; bands and bars: its 95 % t interval. Intervals that overlap do not "
    "decide a comparison, because seeds are paired: see the table. Entropy: of the policy that samples the step, in "
    "nats a token; dotted: half of GRPO's start. OD: share of the seeds whose lower or upper bound is loosened at a "
    "step. pass@1 and pass@k: on held-out problems, the grey line is the policy before training; hollow: the "
    "early checkpoint, filled: the last one."
)
WIDTH, SPLIT = 12.0, 1.9  # inches
HEIGHTS = {"entropy": 2.5, "states": 0.42, "gap": 1.7, "pass@1": 2.2, "pass@k": 2.2}
SMALL = 8.5
LINE = 0.15  # inches between two labels


ROW_CAPTION = (
    "Entropy of the policy that samples the step, in nats a token. Lines: mean over training seeds; bands: its 95 % t "
    "interval; dotted: half of the baseline's start."
)


def entropy_row(worlds: Sequence[Evidence]) -> "Figure":
    """The entropy of every method alone, a column for each scale. Draw within `matplotlib.rc_context(STYLE)`."""
    figure = empty(WIDTH if len(worlds) > 1 else 0.6 * WIDTH, HEIGHTS["entropy"] + 0.6)
    for place, world in enumerate(worlds):
        ax = figure.add_subplot(1, len(worlds), place + 1)
        _entropy(world, ax, place == 0)
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("rollout step", fontsize=SMALL + 0.5)
    return figure


def front_figure(worlds: Sequence[Evidence]) -> "Figure":
    """The whole figure. Draw within `matplotlib.rc_context(STYLE)`."""
    split = [world for world in worlds if split_curves(world, KINDS[0])]
    heights = [*HEIGHTS.values(), *([SPLIT] if split else [])]
    figure = empty(WIDTH, sum(heights) + 1.9)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.02, wspace=0.03)
    grid = figure.add_gridspec(len(heights), len(worlds), height_ratios=heights)
    for column, world in enumerate(worlds):
        top = figure.add_subplot(grid[0, column])
        strip = figure.add_subplot(grid[1, column], sharex=top)
        gap, scores, many = (figure.add_subplot(grid[row, column]) for row in (2, 3, 4))
        first = column == 0
        _entropy(world, top, first)
        _states(world, strip, first)
        _entropy_gap(world, gap)
        _pass_at_1(world, scores, first)
        _pass_at_k(world, many)
    if split:
        last = grid[len(heights) - 1, :].subgridspec(1, 2 * len(split))
        for place, (world, kind) in enumerate((world, kind) for world in split for kind in KINDS):
            _split(world, kind, figure.add_subplot(last[0, place]))
    return figure


def split_curves(evidence: Evidence, kind: str) -> dict[str, dict[int, list[float]]]:
    """method -> seed -> entropy of the decisive or of the neutral tokens, of the methods that record it."""
    found = {method: evidence.curves(f"policy/entropy_{kind}", method) for method in evidence.methods}
    return {method: curves for method, curves in found.items() if curves}


def bands(ys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its 95 % t interval: (seeds, points) -> three of (points,). NaN limits for one seed."""
    spreads = [mean_interval(list(column)) for column in ys.T]
    return tuple(np.array([getattr(spread, name) for spread in spreads]) for name in ("mean", "low", "high"))


def spread_apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `values`, at least `gap` apart, in the same order and within low..high as far as they fit."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    places: list[list[float]] = []  # blocks of touching labels: [sum of wishes, number]
    for i in order:
        places.append([values[i], 1])
        while len(places) > 1 and _centre(places[-1]) - _centre(places[-2]) < gap * (places[-1][1] + places[-2][1]) / 2:
            wish, number = places.pop()
            places[-1] = [places[-1][0] + wish, places[-1][1] + number]
    found = []
    for block in places:
        middle, half = _centre(block), gap * (block[1] - 1) / 2
        middle = min(max(middle, low + half), high - half)
        found += [middle - half + gap * j for j in range(int(block[1]))]
    for j in range(1, len(found)):  # a block that was moved into the range may touch the next
        found[j] = max(found[j], found[j - 1] + gap)
    result = [0.0] * len(values)
    for place, i in zip(found, order, strict=True):
        result[i] = place
    return result


def _centre(block: Sequence[float]) -> float:
    return block[0] / block[1]


def _lines(
    evidence: Evidence, ax, curves: Mapping[str, Mapping[int, Sequence[float]]], inches: float, xs=None, zero=True
) -> None:
    """A line, a band and a label at its right end for each method. inches: height of `ax`. zero: start at 0."""
    ends = {}
    for place, (method, found) in enumerate(curves.items()):
        table = np.array(list(found.values()), dtype=float)
        x = np.arange(table.shape[1]) if xs is None else np.array(xs)
        mean, low, high = bands(table)
        style = method_look(evidence, method)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        every = mark_every(len(x))
        start = place * every // max(1, len(curves))
        ax.plot(x, mean, **{**style, "markersize": 4}, markevery=(start, every))
        ends[method] = float(mean[-1])
    if zero:
        ax.set_ylim(0, 1.04 * ax.dataLim.y1 if curves else 1)
    _label_ends(evidence, ax, ends, LINE / inches)


def _label_ends(evidence: Evidence, ax, ends: Mapping[str, float], gap: float) -> None:
    """Names right of the lines' ends, moved apart to `gap`, a share of the axis, where they would overlap."""
    if not ends:
        return
    low, high = ax.get_ylim()
    shares = [(y - low) / (high - low) for y in ends.values()]
    for (method, _), wish, place in zip(ends.items(), shares, spread_apart(shares, gap, 0.0, 1.0), strict=True):
        colour = method_look(evidence, method)["color"]
        across = ax.transAxes
        ax.plot([1.0, 1.03], [wish, place], transform=across, color=colour, linewidth=0.7, clip_on=False)
        name = "before" if method == BASE else method
        ax.text(1.04, place, name, transform=across, color=colour, fontsize=SMALL, va="center")


def _title(ax, text: str) -> None:
    ax.set_title(text, fontsize=9.5, loc="left", color="#333333")


def _entropy(world: Evidence, ax, first: bool) -> None:
    curves = {method: world.curves("policy/entropy", method) for method in world.methods}
    curves = {method: found for method, found in curves.items() if found}
    _lines(world, ax, curves, HEIGHTS["entropy"])
    seeds = max((len(found) for found in curves.values()), default=0)
    ax.set_title(f"{world.scale}, {seeds} seed{'s' * (seeds != 1)}", fontsize=12.5, fontweight="bold", loc="left")
    if world.baseline in curves:
        half = float(np.mean([values[0] for values in curves[world.baseline].values()])) / 2
        ax.axhline(half, color="#888888", linewidth=0.9, linestyle=(0, (1, 2)))
    ax.tick_params(labelbottom=False, labelsize=SMALL)
    if first:
        ax.set_ylabel("entropy, nats a token")


def _entropy_gap(world: Evidence, ax) -> None:
    """Entropy minus the baseline's of the same seed, smoothed."""
    base = world.curves("policy/entropy", world.baseline)
    gaps = {}
    for method in world.methods:
        found = world.curves("policy/entropy", method)
        shared = sorted(found.keys() & base.keys())
        if shared and method != world.baseline:
            gaps[method] = {s: smooth(np.array(found[s]) - np.array(base[s])) for s in shared}
    ax.axhline(0, color=method_look(world, world.baseline)["color"], linewidth=1.0)
    _lines(world, ax, gaps, HEIGHTS["gap"], zero=False)
    _title(ax, f"entropy minus {world.baseline}'s of the same seed")
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("rollout step", fontsize=SMALL + 0.5)


def _states(world: Evidence, ax, first: bool) -> None:
    switching = {method: world.curves("clip/state", method) for method in world.methods}
    curves = next((found for found in switching.values() if found), None)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.tick_params(labelsize=SMALL)
    if curves is None:
        ax.text(0.5, 0.5, "no method switches", transform=ax.transAxes, ha="center", va="center", fontsize=SMALL)
        return
    draw_shares(ax, curves.values(), 0.0, 1.0)
    if first:
        ax.set_ylabel("OD", rotation=0, ha="right", va="center")
    names = {-1: ("neither", "#777777"), 0: ("lower", STATES[0][0]), 1: ("upper", STATES[1][0])}
    for place, (text, colour) in zip((0.82, 0.45, 0.08), (names[1], names[0], names[-1]), strict=True):
        ax.text(1.04, place, text, transform=ax.transAxes, color=colour, fontsize=SMALL - 1, va="center")


def _pass_at_1(world: Evidence, ax, first: bool) -> None:
    benchmark = world.benchmarks[0] if world.benchmarks else ""
    _title(ax, "held-out pass@1, %")
    labels = dict(zip(world.checkpoints, ("none", "full")[-len(world.checkpoints) :], strict=False))
    steps = {score["checkpoint"]: score["step"] for score in world.scores if score["method"] != BASE}
    before = mean_interval(list(seed_means(world, benchmark, BASE).values())) if benchmark else mean_interval([])
    if before.n:
        ax.axvline(before.mean, color="#777777", linewidth=1.2, dashes=(1, 2))
        if before.n > 1:
            ax.axvspan(before.low, before.high, color="#777777", alpha=0.2, linewidth=0)
        middle = (len(world.methods) - 1) / 2
        style = {"fontsize": SMALL, "color": "#666666", "rotation": 90, "va": "center"}
        right = before.high if before.n > 1 else before.mean
        ax.annotate("before", (right, middle), (2, 0), textcoords="offset points", **style)
    for place, method in enumerate(world.methods):
        look = method_look(world, method)
        for label, fill in labels.items():
            spread = mean_interval(list(seed_means(world, benchmark, method, label).values()))
            if not spread.n:
                continue
            if spread.n > 1:
                ax.plot([spread.low, spread.high], [place, place], color=look["color"], linewidth=1.8)
            style = {"marker": look["marker"], "color": look["color"], "markersize": 6, "linestyle": ""}
            face = "white" if fill == "none" else look["color"]
            ax.plot([spread.mean], [place], **style, markerfacecolor=face)
            if method == world.baseline:
                ax.axvline(spread.mean, color=look["color"], linewidth=0.8, linestyle=(0, (1, 3)))
                when = "end" if label == "final" else f"step {steps[label]}"
                side = "left" if label == "final" else "right"
                ax.text(spread.mean, -0.62, f" {when} ", fontsize=SMALL, ha=side, va="center")
    ax.set_yticks(range(len(world.methods)), world.methods if first else [], fontsize=SMALL + 0.5)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.set_ylim(len(world.methods) - 0.5, -1.0)
    ax.grid(axis="y", visible=False)


def _pass_at_k(world: Evidence, ax) -> None:
    benchmark = world.benchmarks[0] if world.benchmarks else ""
    _title(ax, "held-out pass@k at the end, %")
    found = {method: pass_curves(world, benchmark, method) for method in (BASE, *world.methods)}
    found = {method: curves for method, curves in found.items() if curves}
    if not found:
        ax.text(0.5, 0.5, "no score", transform=ax.transAxes, ha="center", color="#777777")
        return
    ks = sorted(set.intersection(*(set(curve) for curves in found.values() for curve in curves.values())))
    lines = {m: {s: [curve[k] for k in ks] for s, curve in curves.items()} for m, curves in found.items()}
    _lines(world, ax, lines, HEIGHTS["pass@k"], ks)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("k", fontsize=SMALL + 0.5)


def pass_curves(evidence: Evidence, benchmark: str, method: str) -> dict[int, dict[int, float]]:
    """seed -> k -> pass@k in per cent of the last checkpoint."""
    return {
        seed: {int(k): 100 * value for k, value in score["pass_at"].items() if value is not None}
        for seed, score in scores_of(evidence, benchmark, method).items()
    }


def _split(world: Evidence, kind: str, ax) -> None:
    _lines(world, ax, split_curves(world, kind), SPLIT - 0.85)  # without title and axis
    _title(ax, f"{world.scale}: entropy of the {kind} tokens, nats a token")
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("rollout step", fontsize=SMALL + 0.5)
