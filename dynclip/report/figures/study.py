"""The study's figures, one function each. FIGURES registers them with the captions under the plots."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.report.comparisons import average_name, scores_of, seed_means
from dynclip.report.evidence import BASE, Evidence, load_evidence
from dynclip.report.figures.plot import (
    BAND,
    FORMATS,
    STATES,
    STYLE,
    canvas,
    draw_curves,
    draw_line,
    draw_shares,
    files,
    legend,
    mark_every,
    method_look,
)
from dynclip.report.records import published
from dynclip.runtime.files import write_atomic
from evals.stats import mean_interval, smooth, window_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def entropy(evidence: Evidence) -> "Figure":
    """Entropy of the sampling policy by rollout step; below it the bound that OD loosens, where runs record it."""
    states = {method: evidence.curves("clip/state", method) for method in evidence.methods}
    states = {method: curves for method, curves in states.items() if curves}
    rows = {method: len(curves) if len(curves) <= MOST_STRIPS else SHARE_ROWS for method, curves in states.items()}
    below = 0.16 * sum(rows.values()) + 0.3
    if states:
        figure, axes = canvas(4.4 + below, rows=2, heights=[3.6, below], sharex=True)
    else:
        figure, axes = canvas(4.4)
    draw_curves(evidence, axes[0], "policy/entropy")
    axes[0].set_ylabel("entropy, nats")
    axes[0].set_ylim(bottom=0)
    if states:
        _draw_states(axes[1], states)
    axes[-1].set_xlabel("rollout step")
    legend(figure, axes[0])
    return figure


MOST_STRIPS = 6  # seeds that have a row each; with more, the share of seeds in each state is drawn
SHARE_ROWS = 5  # height of such a strip, in rows


def reward(evidence: Evidence) -> "Figure":
    """Training reward by rollout step, smoothed."""
    figure, axes = canvas(4.6)
    draw_curves(evidence, axes[0], "train/reward", smoothed=True)
    axes[0].set(xlabel="rollout step", ylabel="reward (share correct)")
    legend(figure, axes[0])
    return figure


def grad_norm(evidence: Evidence) -> "Figure":
    """Gradient norm by rollout step, smoothed."""
    figure, axes = canvas(4.4)
    draw_curves(evidence, axes[0], "train/grad_norm", smoothed=True)
    axes[0].set(xlabel="rollout step", ylabel="gradient norm, before clipping")
    axes[0].set_ylim(bottom=0)
    legend(figure, axes[0])
    return figure


def regions(evidence: Evidence) -> "Figure":
    """Share of tokens in each of the four regions."""
    figure, axes = canvas(3.6, columns=4, sharey=True)
    for ax, region in zip(axes, ("E1", "E2", "E3", "E4"), strict=True):
        draw_curves(evidence, ax, f"region/{region}", factor=100, smoothed=True)
        ax.set(xlabel="rollout step", title=region)
    axes[0].set_ylabel("% of tokens")
    axes[0].set_ylim(bottom=0)
    legend(figure, axes[0])
    return figure


def entropy_split(evidence: Evidence) -> "Figure":
    """Entropy of the tokens that decide the answer, and of the neutral ones."""
    figure, axes = canvas(4.2, columns=2)
    for ax, kind in zip(axes, KINDS, strict=True):
        draw_curves(evidence, ax, f"policy/entropy_{kind}")
        ax.set(xlabel="rollout step", title=f"{kind} tokens")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("entropy, nats a token")
    legend(figure, *axes)
    return figure


def clip_split(evidence: Evidence) -> "Figure":
    """Share of decisive and of neutral tokens that lost their gradient to each bound, smoothed."""
    figure, axes = canvas(6.0, rows=2, columns=2, sharex=True, sharey=True)
    places = [(bound, kind) for bound in ("low", "high") for kind in KINDS]
    for ax, (bound, kind) in zip(axes, places, strict=True):
        draw_curves(evidence, ax, f"clip/{bound}_fraction_{kind}", factor=100, smoothed=True)
        ax.set_title(f"{kind} tokens, {'lower' if bound == 'low' else 'upper'} bound")
    for ax in axes[::2]:
        ax.set_ylabel("clipped, % of tokens")
    for ax in axes[2:]:
        ax.set_xlabel("rollout step")
    axes[0].set_ylim(bottom=0)
    legend(figure, *axes)
    return figure


KINDS = ("decisive", "neutral")


def clip_fraction(evidence: Evidence) -> "Figure":
    """Share of tokens that lost their gradient to each bound, smoothed."""
    figure, axes = canvas(4.2, columns=2, sharey=True)
    for ax, key, name in zip(axes, ("clip/low_fraction", "clip/high_fraction"), ("lower", "upper"), strict=True):
        draw_curves(evidence, ax, key, factor=100, smoothed=True)
        ax.axhline(1, color="#888888", linewidth=0.9, linestyle=(0, (1, 2)))
        ax.set(xlabel="rollout step", title=f"{name} bound")
    axes[0].set_ylabel("clipped, % of tokens")
    axes[0].set_ylim(bottom=0)
    legend(figure, axes[0])
    return figure


def bounds(evidence: Evidence) -> "Figure":
    """The clipping thresholds as applied, averaged over tokens."""
    figure, axes = canvas(4.2, columns=2, sharey=True)
    for ax, key, name in zip(axes, ("clip/eps_low_mean", "clip/eps_high_mean"), ("ε low", "ε high"), strict=True):
        draw_curves(evidence, ax, key)
        ax.set(xlabel="rollout step", title=name)
    axes[0].set_ylabel("mean threshold (ratio units)")
    axes[0].set_ylim(bottom=0)
    legend(figure, axes[0])
    return figure


def pass_at_k(evidence: Evidence) -> "Figure":
    """pass@k by k: a row of panels per checkpoint, a column per benchmark."""
    labels, names = evidence.checkpoints or ("final",), evidence.benchmarks or ("no benchmark",)
    figure, axes = canvas(1.2 + 2.7 * len(labels), rows=len(labels), columns=len(names), sharex=True, sharey="row")
    for row, label in enumerate(labels):
        for column, benchmark in enumerate(names):
            ax = axes[row * len(names) + column]
            for method in (BASE, *evidence.methods):
                scores = scores_of(evidence, benchmark, method, "final" if method == BASE else label)
                curves = {
                    seed: {int(k): 100 * value for k, value in score["pass_at"].items() if value is not None}
                    for seed, score in scores.items()
                }
                draw_line(evidence, ax, method, curves)
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.set_title(benchmark if row == 0 else "")
        step = {s["step"] for s in evidence.scores if s["checkpoint"] == label and s["method"] != BASE}
        axes[row * len(names)].set_ylabel(f"pass@k, %\n(step {', '.join(map(str, sorted(step)))})")
    for ax in axes[-len(names) :]:
        ax.set_xlabel("k")
    legend(figure, *axes)
    return figure


def scores(evidence: Evidence) -> "Figure":
    """avg@k of the last checkpoint: a dot per seed, the mean with its 95 % t interval."""
    names, methods = evidence.benchmarks or ("no benchmark",), evidence.methods
    figure, axes = canvas(1.5 + 0.42 * len(methods), columns=len(names), sharey=True)
    for ax, benchmark in zip(axes, names, strict=True):
        for place, method in enumerate(methods):
            values = list(seed_means(evidence, benchmark, method).values())
            if not values:
                ax.text(0.02, place, "missing", transform=ax.get_yaxis_transform(), va="center", color="#777777")
                continue
            spread, look = mean_interval(values), method_look(evidence, method)
            ax.plot(values, [place + 0.22] * len(values), ".", color=look["color"], markersize=4, alpha=0.65)
            if spread.n > 1:
                ax.plot([spread.low, spread.high], [place, place], color=look["color"], linewidth=2)
            ax.plot([spread.mean], [place], marker=look["marker"], color=look["color"], markersize=7)
        # The base policy is far to the left. As a number in the title it does not stretch the axis.
        before = list(seed_means(evidence, benchmark, BASE).values())
        base = f"\nbefore training {sum(before) / len(before):.1f}" if before else ""
        ax.set_title(f"{benchmark}{base}", fontsize=10)
        ax.set_xlabel(f"{average_name(evidence, benchmark)}, %" if evidence.benchmarks else "")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


def entropy_reward(evidence: Evidence) -> "Figure":
    """Entropy against reward along training."""
    figure, axes = canvas(5.0)
    for method in evidence.methods:
        rewards, entropies = (
            evidence.curves("train/reward", method),
            evidence.curves("policy/entropy", method),
        )
        seeds = sorted(set(rewards) & set(entropies))
        pairs = [(smooth(rewards[s], FRONTIER), smooth(entropies[s], FRONTIER)) for s in seeds]
        if not pairs:
            continue
        look = method_look(evidence, method)
        for path in pairs:
            axes[0].plot(*path, color=look["color"], linewidth=0.6, alpha=0.35)
        mean = [[sum(at) / len(at) for at in zip(*side, strict=True)] for side in zip(*pairs, strict=True)]
        axes[0].plot(*mean, **look, markevery=mark_every(len(mean[0])), label=method)
        axes[0].plot(mean[0][0], mean[1][0], "o", color=look["color"], fillstyle="none", markersize=10)
    axes[0].set(xlabel="reward (share correct)", ylabel="entropy, nats")
    legend(figure, axes[0])
    return figure


FRONTIER = 30  # % of the steps: a curve of reward against entropy needs more smoothing than one over time
SMOOTHED = "Every seed is first smoothed by a running mean over {window} steps."
FIGURES: dict[str, tuple[Callable[[Evidence], "Figure"], str]] = {
    "entropy": (
        entropy,
        f"Entropy of the sampling policy (temperature 1, mean over completion tokens). {BAND}. "
        "Strips, where a method switches: which bound is loosened at each step, one row a seed, or with more than "
        f"{MOST_STRIPS} seeds the share of seeds in each state.",
    ),
    "reward": (reward, f"Training reward of the rollout batches. {BAND}. {SMOOTHED}"),
    "grad_norm": (
        grad_norm,
        f"Norm of the gradient, mean over a rollout step's updates, before it is clipped to 1. {BAND}. {SMOOTHED}",
    ),
    "regions": (
        regions,
        "Share of tokens in the entropy-sensitive regions (E1, E2: advantage above 0; E3, E4: below; E1, E3: likelier "
        f"than the entropy says; E2, E4: less likely), under the sampling policy. {BAND}. {SMOOTHED}",
    ),
    "clip_fraction": (
        clip_fraction,
        f"Share of tokens whose gradient each bound removed. {BAND}. {SMOOTHED} Dotted: 1 %, below which a bound "
        "hardly acts.",
    ),
    "bounds": (
        bounds,
        f"Thresholds as applied, averaged over tokens: the ratio is kept in [1−ε low, 1+ε high]. {BAND}.",
    ),
    "pass_at_k": (
        pass_at_k,
        f"pass@k, exact or the unbiased estimate; a row of panels per evaluated checkpoint. {BAND}. "
        "base: the policy before training.",
    ),
    "scores": (
        scores,
        "Last checkpoint. Small dots: one training seed each; large marker: their mean; bar: 95 % t interval over "
        "seeds. Intervals that overlap do not decide a paired comparison: see the differences table.",
    ),
    "entropy_reward": (
        entropy_reward,
        "Entropy against reward along training, from the ring on: at equal steps methods may differ only because one "
        "learns faster, here they are compared at equal reward. Thick: mean over seeds; thin: seeds. "
        "Every seed is first smoothed by a running mean over {frontier} steps.",
    ),
}  # fmt: skip
# Figures of metrics that only some worlds record: name -> (metric, drawing, caption). They are no declared outputs.
EXTRA_FIGURES: dict[str, tuple[str, Callable[[Evidence], "Figure"], str]] = {
    "entropy_split": (
        "policy/entropy_decisive",
        entropy_split,
        "Entropy of the tokens that decide the answer and of the neutral words between them, which no reward touches. "
        f"{BAND}.",
    ),
    "clip_split": (
        "clip/low_fraction_decisive",
        clip_split,
        f"Share of the decisive and of the neutral tokens whose gradient each bound removed. {BAND}. {SMOOTHED}",
    ),
}


def names_of(evidence: Evidence) -> list[str]:
    """The figures of these runs: FIGURES, and those EXTRA_FIGURES whose metric is recorded."""
    recorded = {key for rows in evidence.rows.values() for key in (rows[0] if rows else ())}
    return [*FIGURES, *(name for name, (metric, *_) in EXTRA_FIGURES.items() if metric in recorded)]


def _entry(name: str) -> tuple[Callable[[Evidence], "Figure"], str]:
    return FIGURES[name] if name in FIGURES else EXTRA_FIGURES[name][1:]


def caption(evidence: Evidence, name: str) -> str:
    """The figure's caption with the number of runs and the seeds that it shows."""
    seeds = ", ".join(map(str, evidence.seeds))
    absent = ", ".join(f"{method}/seed{seed}" for method, seed in evidence.missing)
    windows = {"window": window_steps(evidence.steps), "frontier": window_steps(evidence.steps, FRONTIER)}
    return (
        f"{_entry(name)[1].format(**windows)} n = {len(evidence.seeds)} seed{'s' * (len(evidence.seeds) != 1)} "
        f"({seeds}) per method, "
        f"{evidence.steps} rollout steps.{f' Missing: {absent}.' if absent else ''}"
    )


def write_figures(results: Path | str, methods=None, seeds=None) -> list[Path]:
    """Verify results/<scale>, write figures/<name>.{svg,png} with captions, and return the paths."""
    evidence = load_evidence(results, methods, seeds)
    written = []
    for name in names_of(evidence):
        for end, content in render(evidence, name, captioned=True).items():
            written.append(write_atomic(evidence.results / "figures" / f"{name}.{end}", content))
    return published(evidence.results, "figures", written)


def render(evidence: Evidence, name: str, captioned: bool, formats=FORMATS) -> dict[str, bytes]:
    """format -> bytes of a figure. captioned: with the caption under the plot."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return files(_entry(name)[0](evidence), caption(evidence, name) if captioned else "", formats)


def _draw_states(ax, states: dict[str, dict[int, list[float]]]) -> None:
    """The bound that each switching method loosens at each step: thin rows of runs, or shares of its seeds."""
    from matplotlib.patches import Patch

    labels, row = {}, 0
    for method, curves in states.items():
        if len(curves) > MOST_STRIPS:
            draw_shares(ax, curves.values(), row + SHARE_ROWS - 0.5, -SHARE_ROWS + 0.2)
            labels[row + (SHARE_ROWS - 1) / 2] = f"{method}, share\nof {len(curves)} seeds"
            row += SHARE_ROWS
            continue
        for seed, values in curves.items():
            draw_shares(ax, [values], row + 0.4, -0.8)
            labels[row] = f"{method}, seed {seed}"
            row += 1
    ax.set_yticks(list(labels), list(labels.values()), fontsize=7)
    ax.set_ylim(row - 0.4, -0.6)
    ax.grid(visible=False)
    handles = [Patch(color=colour, label=label) for colour, label in reversed(STATES.values())]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=7.5, borderpad=0.1)
