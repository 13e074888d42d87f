"""The figures of docs/methods.md, drawn with the methods' own code.

Each function takes the registry's specs by family (`methods_page.grouped`) and returns a figure 8 inches wide.
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from dynclip.methods.objective import GRPO_PIECES, Method
from dynclip.methods.spec import MethodSpec, piece_options
from dynclip.methods.types import TokenBatch
from dynclip.report.evidence import BASELINE
from dynclip.report.figures.plot import COLOURS, DASHES, STYLE, canvas, legend, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Grouped = dict[str, list[MethodSpec]]
# Options that are drawn with each of these values, for every method that has them.
VARIANTS = {"phase2": ("formula", "prose"), "divergence": ("kl", "chi2", "tv")}
BOUNDED = ("constant", "probability", "training")  # families whose methods differ in their bounds
STEPS = 120  # T, rollout steps of the run that is drawn
PER_ROW = 5  # surrogates beside GRPO's in a row of their figure
PROBABILITIES = (0.05, 0.5, 0.95)
# Dense at small q, which a logarithmic axis stretches, and near 1, where bounds with square roots close.
Q = torch.cat([torch.logspace(-3, -1, 50)[:-1], torch.linspace(0.1, 0.9, 33)[:-1], torch.linspace(0.9, 1, 21)]).double()
TRAINING, BOUNDS = "k/T, share of training", "bounds 1 − ε⁻ and 1 + ε⁺"
# An invented entropy curve, nats at k/T. It falls, recovers and falls again, so that every controller reacts.
ENTROPY = ((0.0, 1.0), (0.3, 0.12), (0.55, 0.8), (0.8, 0.1), (1.0, 0.35))
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
        upper.plot(_share(), _entropies(), color=COLOURS[0], linewidth=1.6, label="entropy (invented)")
        for number, level in enumerate(thresholds(bound.method)):
            label = "" if number else "threshold of the controller"
            upper.plot(_share()[1:], level, color=COLOURS[4], dashes=DASHES[4], linewidth=1.8, label=label)
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
        "training",
        schedules,
        "Bounds that follow the step, at three old probabilities. The upper bounds are above 1, the lower ones below.",
    ),
    "feedback": Diagram(
        "training",
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


@dataclass(frozen=True)
class Course:
    """A method's bounds over a whole training on the grid Q of old probabilities: lower and upper ratio, (T + 1, Q)."""

    method: Method
    label: str
    lower: torch.Tensor
    upper: torch.Tensor

    @property
    def envelope(self) -> torch.Tensor:
        """Least and greatest lower bound, least and greatest upper bound over training, (4, Q)."""
        return torch.stack([self.lower.amin(0), self.lower.amax(0), self.upper.amin(0), self.upper.amax(0)])

    @property
    def moves(self) -> bool:
        return not (torch.equal(*self.envelope[:2]) and torch.equal(*self.envelope[2:]))

    @property
    def wide(self) -> bool:
        return bool(self.lower.min() < 0.5 or self.upper.max() > 2)


def courses(specs: Grouped) -> list[Course]:
    """The bounds of every method in `BOUNDED`, and of its variants, in a run with the invented entropy."""
    found = []
    for spec in itertools.chain.from_iterable(specs.get(family, ()) for family in BOUNDED):
        choices = [[(name, value) for value in VARIANTS[name]] for name in VARIANTS if name in spec.defaults]
        for chosen in itertools.product(*choices):
            method, low, high = Method(spec, STEPS, dict(chosen)), [], []
            for step, entropy in enumerate(_entropies()):
                method.observe(step, entropy)
                pair = method.bounds(Q, step)
                low.append(1 - pair[0])
                high.append(1 + pair[1])
            label = ", ".join([spec.name, *(value for _, value in chosen)])
            found.append(Course(method, label, torch.stack(low), torch.stack(high)))
    return found


def thresholds(method: Method) -> list[list[float]]:
    """Entropies (nats) at which the controller's signal jumps: curves over steps 1 … T, NaN where there is none.

    At each step, and from each state of the drawn run, the signal is evaluated on a grid of entropies. Bisection then
    finds each jump. A controller whose signal changes gradually has none.
    """
    run, states = Method(method.spec, STEPS, method.options), {}
    for step, entropy in enumerate(_entropies()):
        run.observe(step, entropy)
        states[repr(run.state_dict())] = run.state_dict()

    def signal(state: dict, step: int, entropy: float) -> float:
        run.load_state_dict(state)
        run.observe(step, entropy)
        return run.controller.signal

    grid = [0.0012 + i / 100 for i in range(110)]  # off the round numbers, where a target is met exactly
    levels = []
    for step in range(1, STEPS + 1):
        found = set()
        for state in states.values():
            answers = [signal(state, step, entropy) for entropy in grid]
            jumps = [i for i, (one, other) in enumerate(itertools.pairwise(answers)) if one != other]
            if len(jumps) > 4:
                return []
            for i in jumps:
                low, high = grid[i], grid[i + 1]
                while high - low > 1e-4:
                    middle = (low + high) / 2
                    low, high = (middle, high) if signal(state, step, middle) == answers[i] else (low, middle)
                found.add(round(low, 3))
        levels.append(sorted(found))
    count = max(map(len, levels))
    return [[level[i] if i < len(level) else math.nan for level in levels] for i in range(count)]


def surrogates(specs: Grouped) -> dict[str, MethodSpec]:
    """Label -> spec: every surrogate once, from the first method that uses it, without weights and added terms."""
    found = {}
    for spec in itertools.chain.from_iterable(specs.values()):
        pieces, roles = GRPO_PIECES | spec.pieces, ("ratio", "bounds", "surrogate", "controller")
        taken = set().union(*(piece_options(pieces[role]) for role in roles if role in pieces))
        bare = dict.fromkeys(("weights", "rollout_weights", "advantages", "extra", "reduction"))
        defaults = {name: value for name, value in spec.defaults.items() if name in taken}
        found.setdefault(pieces["surrogate"], replace(spec, defaults=defaults, evidence="", needs=(), **bare))
    names = {spec.name: surrogate.__name__ for surrogate, spec in found.items()}
    labels = [name if name == kind else f"{kind} ({name})" for name, kind in names.items()]
    return dict(zip(labels, found.values(), strict=True))


def gradient_factor(spec: MethodSpec, ratios: torch.Tensor, advantage: float) -> torch.Tensor:
    """−(1/A) ∂loss/∂ln p of single tokens with the given ratios (N,), by autograd through `Method.loss`."""
    old = torch.full((len(ratios), 1), 0.1, dtype=ratios.dtype).log()
    logprob = (old + ratios.log().unsqueeze(1)).requires_grad_()
    advantages = torch.full_like(ratios, advantage)
    batch = TokenBatch(logprob, old, advantages, torch.ones_like(old))
    loss = Method(spec, STEPS, {}).loss(batch, 0).per_token.sum()
    return -torch.autograd.grad(loss, logprob)[0].squeeze(1) / advantage


def _share() -> list[float]:
    return [step / STEPS for step in range(STEPS + 1)]


def _entropies() -> list[float]:
    """The invented entropy (nats) at every rollout step: half waves between its knots."""
    values = []
    for share in _share():
        (x0, y0), (x1, y1) = next(pair for pair in itertools.pairwise(ENTROPY) if share <= pair[1][0])
        values.append(y0 + (y1 - y0) * (1 - math.cos(math.pi * (share - x0) / (x1 - x0))) / 2)
    return values


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
        ax.plot(_share(), bound.upper[:, at], **look, linewidth=1.7)
        ax.plot(_share(), bound.lower[:, at], **look | {"label": ""}, linewidth=1.7)
    ax.axhline(1, color=FAINT, linewidth=0.8)
