"""The two figures that every study page has: differences to the baseline, and a panel of curves for each arm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynclip.report.evidence import Evidence
from dynclip.report.figures.plot import BAND, COLOURS, canvas
from evals.stats import Difference, smooth, window_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # panels side by side
QUANTITIES = {"policy/entropy": "entropy, nats", "train/reward": "reward"}


EFFECTS = (
    "Paired difference to the baseline with its 95 % t interval over seeds; filled: decided after Holm's correction "
    "within the panel's quantity. At equal reward: where the regression of each run's reward reaches the same level."
)


def panels_caption(evidence: Evidence) -> str:
    """What the panels show."""
    return f"One panel an arm, the baseline in grey. {BAND}, smoothed over {window_steps(evidence.steps)} steps."


def effects(evidence: Evidence, gaps: Sequence[Difference]) -> "Figure":
    """A column per quantity, a row per arm: difference to the baseline and interval."""
    wheres = list(dict.fromkeys(gap.where for gap in gaps))
    arms = [name for name in evidence.methods if name != evidence.baseline]
    figure, axes = canvas(1.2 + 0.26 * len(arms), columns=len(wheres), sharey=True)
    for ax, where in zip(axes, wheres, strict=True):
        ax.axvline(0, color="#888888", linewidth=0.9)
        for gap in (gap for gap in gaps if gap.where == where):
            place = arms.index(gap.a)
            if gap.n == 0:
                ax.text(0.03, place, "missing", transform=ax.get_yaxis_transform(), va="center", color="#777777")
                continue
            if gap.low == gap.low:
                ax.plot([gap.low, gap.high], [place, place], color=COLOURS[0], linewidth=1.3)
            filled = "full" if gap.claim else "none"
            ax.plot([gap.effect], [place], "o", color=COLOURS[0], fillstyle=filled, markersize=5)
        ax.set_title(where.replace(" at ", "\nat "), fontsize=9)
        ax.set_xlabel(next(gap.unit for gap in gaps if gap.where == where))
        ax.tick_params(axis="x", labelsize=8)
        ax.locator_params(axis="x", nbins=3)
    axes[0].set_yticks(range(len(arms)), arms, fontsize=8)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def panels(evidence: Evidence) -> "Figure":
    """Entropy (solid) and reward (dashed) of every arm over the baseline's."""
    arms = evidence.methods
    columns = min(COLUMNS, len(arms))
    rows = -(-len(arms) // columns)
    figure, axes = canvas(0.9 + 1.55 * rows, rows=rows, columns=columns, sharex=True, sharey=True)
    for ax, name in zip(axes, arms, strict=False):
        for key, dashes in zip(QUANTITIES, ((), (4, 2)), strict=True):
            for who, colour in ((evidence.baseline, "#999999"), (name, COLOURS[1])):
                curves = [smooth(values) for values in evidence.curves(key, who).values()]
                at = list(zip(*curves, strict=True))
                if len(curves) > 1:
                    low, high = list(map(min, at)), list(map(max, at))
                    ax.fill_between(range(len(at)), low, high, color=colour, alpha=0.15, linewidth=0)
                ax.plot([sum(v) / len(v) for v in at], color=colour, dashes=dashes, linewidth=1.4)
        ax.set_title(name, fontsize=8.5)
        ax.tick_params(labelsize=8)
    axes[0].set_ylim(bottom=0)  # after all panels are drawn, because it ends their shared automatic scale
    for ax in axes[len(arms) :]:
        ax.set_axis_off()
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[1], dashes=dashes, label=label)
        for label, dashes in zip(QUANTITIES.values(), ((), (4, 2)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    for ax in axes[-columns:]:
        ax.set_xlabel("rollout step", fontsize=9)
    return figure
