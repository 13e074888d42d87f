"""The interactive curves of a page: their numbers, and the Vega-Lite chart that page.js fills with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynclip.report.evidence import Evidence
from dynclip.report.figures.plot import method_look
from dynclip.report.figures.study import FRONTIER
from dynclip.report.html.answers import ENTROPY
from dynclip.report.html.front_figure import bands
from evals.stats import smooth

DIGITS = 4  # significant digits of a number in the page
BRIEF = 6  # of VIEWS: entropy and reward, on a page over several scales


@dataclass(frozen=True)
class View:
    """A choice of what is drawn. key: the metric on the y axis, times `factor`; against: the metric on the x axis, the
    rollout step without one. width: of the running mean that every seed is smoothed by, in % of the steps.
    """

    label: str
    key: str
    title: str
    width: float = 0
    factor: float = 1
    against: str = ""
    x_title: str = "rollout step"
    zero: bool = True


TOKENS = "entropy of the {} tokens, nats a token"
VIEWS = (
    View("entropy", ENTROPY, "entropy, nats a token"),
    View("reward", "train/reward", "reward, share correct", 5),
    View(
        "entropy against reward", ENTROPY, "entropy, nats a token", FRONTIER, 1, "train/reward",
        "reward, share correct", zero=False,
    ),
    View("entropy of the decisive tokens", f"{ENTROPY}_decisive", TOKENS.format("decisive")),
    View("entropy of the neutral tokens", f"{ENTROPY}_neutral", TOKENS.format("neutral")),
    View(
        "entropy, neutral against decisive tokens", f"{ENTROPY}_neutral", TOKENS.format("neutral"), FRONTIER, 1,
        f"{ENTROPY}_decisive", TOKENS.format("decisive"), zero=False,
    ),
    View("clipped at the lower bound", "clip/low_fraction", "clipped at the lower bound, % of tokens", 5, 100),
    View("clipped at the upper bound", "clip/high_fraction", "clipped at the upper bound, % of tokens", 5, 100),
    View("lower threshold", "clip/eps_low_mean", "ε low, mean over tokens"),
    View("upper threshold", "clip/eps_high_mean", "ε high, mean over tokens"),
    View("gradient norm", "train/grad_norm", "gradient norm, before clipping", 5),
)  # fmt: skip


def chart_data(worlds: Sequence[Evidence], points: int = 100) -> dict:
    """What a page embeds for its curves.

    views: label, columns and titles of each. worlds: name, the drawn `steps`, `half` of the baseline's entropy at the
    start, and columns: name -> method -> "mean", "low", "high" or seed -> values at the steps. methods: name, colour
    and dashes. spec: the Vega-Lite chart. points: of each curve; a longer one is thinned to so many.
    """
    methods = list(dict.fromkeys(method for world in worlds for method in world.methods))
    most = max(worlds, key=lambda world: len(world.methods))
    looks = {method: method_look(most if method in most.methods else worlds[0], method) for method in methods}
    drawn = [_world(world, points, VIEWS if len(worlds) == 1 else VIEWS[:BRIEF]) for world in worlds]
    names = {name for world in drawn for name in world["columns"]}
    views = [
        {"label": view.label, "x": x, "y": y, "xTitle": view.x_title, "yTitle": view.title, "zero": view.zero}
        for view in VIEWS
        for x, y in [_columns(view)]
        if y in names and (not x or x in names)
    ]
    return {
        "views": views,
        "worlds": drawn,
        "methods": [{"name": m, "colour": looks[m]["color"], "dash": list(looks[m]["dashes"])} for m in methods],
        "seeds": sorted({seed for world in worlds for seed in world.seeds}),
        "spec": spec(methods, looks),
    }


def _columns(view: View) -> tuple[str, str]:
    """Names of the columns on the x axis, "" for the step, and on the y axis."""
    end = f"~{view.width:g}" if view.width else ""
    return f"{view.against}{end}" if view.against else "", f"{view.key}{end}"


def _world(evidence: Evidence, points: int, views: Sequence[View]) -> dict:
    steps = sorted({round(i) for i in np.linspace(0, evidence.steps - 1, min(points, evidence.steps))})
    columns: dict[str, dict] = {}
    for view in views:
        for key, name, factor in zip((view.against, view.key), _columns(view), (1, view.factor), strict=True):
            if not key or name in columns:
                continue
            found = {method: _curves(evidence, key, method, view.width, factor, steps) for method in evidence.methods}
            if any(found.values()):
                columns[name] = {method: curves for method, curves in found.items() if curves}
    starts = [values[0] for values in evidence.curves(ENTROPY, evidence.baseline).values()]
    half = _short(sum(starts) / len(starts) / 2) if starts else None
    return {"name": evidence.scale, "steps": steps, "columns": columns, "half": half}


def _curves(evidence: Evidence, key: str, method: str, width: float, factor: float, steps: Sequence[int]) -> dict:
    """mean, low, high and every seed -> values at `steps`; empty without a run."""
    curves = {
        str(seed): factor * smooth(values, width)[steps]
        for seed, values in evidence.curves(key, method).items()
        if len(values) == evidence.steps
    }
    if not curves:
        return {}
    made = {**dict(zip(("mean", "low", "high"), bands(np.array(list(curves.values()))), strict=True)), **curves}
    return {name: [_short(float(value)) for value in values] for name, values in made.items()}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def spec(methods: Sequence[str], looks: dict[str, dict]) -> dict:
    """The chart: bands, lines, a value under the pointer. Its data set `curves` and its titles come from page.js."""
    import altair as alt

    colour = alt.Color("method:N", legend=None).scale(domain=methods, range=[looks[m]["color"] for m in methods])
    dash = alt.StrokeDash("method:N", legend=None).scale(
        domain=methods, range=[list(looks[m]["dashes"]) or [1, 0] for m in methods]
    )
    chart = alt.Chart(alt.NamedData("curves")).encode(
        x=alt.X("x:Q", scale=alt.Scale(zero=False, nice=False)), y=alt.Y("y:Q"), color=colour
    )
    band = chart.mark_area(opacity=0.14, aria=False).encode(y="low:Q", y2="high:Q")
    line = chart.mark_line(strokeWidth=1.8, aria=False).encode(strokeDash=dash, detail="seed:N", order="step:Q")
    near = alt.selection_point(name="near", nearest=True, on="pointerover", fields=["step", "name"], empty=False)
    texts = [alt.Tooltip(f"{name}:N", title=name) for name in ("method", "seed", "step", "value")]
    dots = chart.mark_point(filled=True, size=60, aria=False).encode(
        opacity=alt.condition(near, alt.value(1), alt.value(0)), tooltip=texts
    )
    half = alt.Chart(alt.NamedData("half")).mark_rule(strokeDash=[1, 3], color="#888888", aria=False).encode(y="half:Q")
    layers = alt.layer(band, half, line, dots.add_params(near)).properties(width="container", height=220)
    made = layers.configure_view(stroke=None).configure_axis(grid=True, tickCount=6).to_dict()
    schema = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, never fetched
    return made | {"$schema": schema, "background": None}  # the page's own, light or dark
