"""A study's own page: question, arms, what the comparisons decide, tables and figures.

    results/<scale>/studies/<study>/README.md, effects.{svg,png}, panels.{svg,png}, {differences,curves,...}.{md,csv}

Arms that must not be compared (another number of updates per rollout batch, say) are kept in groups, one section each.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.comparisons import training_differences
from dynclip.evidence import Evidence, load_evidence
from dynclip.figures import BAND, COLOURS, STYLE, canvas, files, render
from dynclip.files import write_atomic
from dynclip.methods import find
from dynclip.studies import STUDIES, StudySpec, arm
from dynclip.study_tables import aggregate, power, ranking, signs
from dynclip.tables import TABLES, frame, markdown
from evals.curves import smooth
from evals.stats import EXPLORATORY_SEEDS, Difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # panels side by side
QUANTITIES = {"policy/entropy": "entropy, nats", "train/reward": "reward"}


def write_study(results: Path, name: str, seeds: Sequence[int]) -> list[Path]:
    """Verify the runs of study `name` under results/<scale> = `results` and write its page; returns the paths.

    Raises UserError for damaged runs and for arms that cannot be compared; missing runs are listed as missing.
    """
    import matplotlib

    study, out = STUDIES[name], Path(results) / "studies" / name
    sections, written = [head(study, seeds)], []
    for i, group in enumerate(study.groups or (study.arms,)):
        mark = f"-{i + 1}" if study.groups else ""
        evidence = load_evidence(results, group, seeds)
        if not study.evaluated:
            evidence = replace(evidence, scores=[])
        gaps = training_differences(evidence)
        with matplotlib.rc_context(STYLE):
            pictures = {f"panels{mark}": (panels(evidence), PANELS)}
            if gaps:
                pictures[f"effects{mark}"] = (effects(evidence, gaps), EFFECTS)
        sections.append(verdicts(evidence, gaps))
        drawn = {label: files(figure, f"{text} {runs(evidence)}") for label, (figure, text) in pictures.items()}
        drawn |= {f"{name}{mark}": render(evidence, name, captioned=True) for name in study.figures}
        for label, formats in drawn.items():
            written += [write_atomic(out / f"{label}.{end}", content) for end, content in formats.items()]
            sections.append(f"![{label}]({label}.png)")
        tables = {label: TABLES[label](evidence) for label in ("differences", "curves", "cost")}
        if study.evaluated:
            tables |= {"main": TABLES["main"](evidence), "aggregate": aggregate(evidence), "power": power(evidence)}
        if study.ranked:
            tables["ranking"] = ranking(evidence)
        if study.signs:
            tables["signs"] = signs(evidence)
        for label, table in tables.items():
            sections.append("#" + markdown(table).rstrip())
            written.append(write_atomic(out / f"{label}{mark}.csv", frame(table).to_csv(index=False)))
    return [*written, write_atomic(out / "README.md", "\n\n".join(sections) + "\n")]


def head(study: StudySpec, seeds: Sequence[int]) -> str:
    """Title, question, arms with what makes them, and what so many seeds allow."""
    arms = []
    for name in study.arms:
        made = arm(name)
        options = ", ".join(f"{key}={value}" for key, value in made.options.items())
        updates = "" if made.epochs is None else f"; {made.minibatches} mini-batches × {made.epochs} epochs"
        arms.append(f"* `{name}`: {find(made.method).title}{f' ({options})' if options else ''}{updates}")
    if len(seeds) == 1:
        weight = "One seed: no interval, no claim."
    elif len(seeds) <= EXPLORATORY_SEEDS:
        weight = f"{len(seeds)} seeds: exploratory, no claim."
    else:
        weight = f"{len(seeds)} seeds, paired."
    return f"# {study.title}\n\n{study.question} {weight}\n\n" + "\n".join(arms)


def verdicts(evidence: Evidence, gaps: Sequence[Difference]) -> str:
    """What the comparisons decide, in sentences: the decided ones, then how many are not."""
    decided = [gap for gap in gaps if gap.claim or gap.verdict.startswith("exploratory")]
    lines = [f"* {gap.sentence}" for gap in decided]
    rest = len(gaps) - len(decided)
    if gaps:
        lines.append(f"* {rest} of {len(gaps)} comparisons with {evidence.baseline} are not distinguishable.")
    lines += [f"* missing: {method}/seed{seed}" for method, seed in evidence.missing]
    return "\n".join(lines) if lines else "One arm: nothing to compare."


def runs(evidence: Evidence) -> str:
    """The part of a caption that says how many runs are shown."""
    seeds = ", ".join(map(str, evidence.seeds))
    absent = ", ".join(f"{method}/seed{seed}" for method, seed in evidence.missing)
    return (
        f"n = {len(evidence.seeds)} seed{'s' * (len(evidence.seeds) != 1)} ({seeds}) an arm, {evidence.steps} rollout "
        f"steps.{f' Missing: {absent}.' if absent else ''}"
    )


EFFECTS = (
    "Paired difference to the baseline with its 95 % t interval over seeds; filled: decided after Holm's correction "
    "within the panel's quantity. At equal reward: where each run first reaches the same smoothed reward."
)
PANELS = f"One panel an arm, the baseline in grey. {BAND}, smoothed over 5 % of the steps."


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
    axes[0].set_ylim(bottom=0)  # after all are drawn: it ends the automatic scale that the panels share
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
