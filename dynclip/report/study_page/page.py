"""The page of a named study: question, arms, results of the comparisons, tables and figures.

    results/<scale>/studies/<study>/README.md, effects.{svg,png}, panels.{svg,png}, {differences,curves,...}.{md,csv}

Arms that cannot be compared (for example with other numbers of updates per rollout batch) are in groups, one section
each.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynclip.report.comparisons import at_share, seed_means, shared_counts, training_differences
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.figures import render
from dynclip.report.figures.plot import STYLE, files
from dynclip.report.records import published, read_record
from dynclip.report.study_page.figures import EFFECTS, effects, panels, panels_caption
from dynclip.report.tables import TABLES, Table, frame, markdown
from dynclip.runtime.errors import rebuild_command
from dynclip.runtime.files import write_atomic
from dynclip.studies.arms import STUDIES, Study, arm
from dynclip.studies.scales import SCALES
from evals.stats import (
    EXPLORATORY_SEEDS,
    Difference,
    Estimate,
    detectable_effect,
    iqm,
    mean_interval,
    probability_of_improvement,
    rankings,
)
from evals.stats.comparison import paired_values
from evals.stats.power import Components, Design, minimum_detectable_effect, variance_components


def write_study(results: Path, name: str, seeds: Sequence[int]) -> list[Path]:
    """Verify the runs of study `name` under results/<scale> = `results`, write its page, and return the paths.

    Raises UserError for damaged runs and for arms that cannot be compared. The page lists missing runs.
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
            pictures = {f"panels{mark}": (panels(evidence), panels_caption(evidence))}
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
        scale = SCALES.get(evidence.scale)
        if study.signs and (scale is None or scale.has_language_policy):
            tables["signs"] = signs(evidence, read_signs(out / "signs.json"))
        for label, table in tables.items():
            sections.append("#" + markdown(table).rstrip())
            written.append(write_atomic(out / f"{label}{mark}.csv", frame(table).to_csv(index=False)))
    written.append(write_atomic(out / "README.md", "\n\n".join(sections) + "\n"))
    return published(Path(results), f"study-{name}", written)


def head(study: Study, seeds: Sequence[int]) -> str:
    """Title, question, arms with their options, and the number of seeds."""
    arms = []
    for name in study.arms:
        made = arm(name)
        options = ", ".join(f"{key}={value}" for key, value in made.options.items())
        settings = ", ".join(f"{key}={value}" for key, value in made.settings.items())
        more = "".join(f" ({each})" for each in (options, settings) if each)
        arms.append(f"* `{name}`: {made.spec.title}{more}")
    if len(seeds) == 1:
        weight = "One seed: no interval, no claim."
    elif len(seeds) <= EXPLORATORY_SEEDS:
        weight = f"{len(seeds)} seeds: exploratory, no claim."
    else:
        weight = f"{len(seeds)} seeds, paired."
    return f"# {study.title}\n\n{study.question} {weight}\n\n" + "\n".join(arms)


def verdicts(evidence: Evidence, gaps: Sequence[Difference]) -> str:
    """The significant comparisons as sentences, then the number of the others and the missing runs."""
    decided = [gap for gap in gaps if gap.claim or gap.verdict.startswith("exploratory")]
    lines = [f"* {gap.sentence}" for gap in decided]
    rest = len(gaps) - len(decided)
    if gaps:
        lines.append(f"* {rest} of {len(gaps)} comparisons with {evidence.baseline} are not distinguishable.")
    lines += [f"* missing: {method}/seed{seed}" for method, seed in evidence.missing]
    return "\n".join(lines) if lines else "One arm: nothing to compare."


def runs(evidence: Evidence) -> str:
    """The end of a caption: the number of runs that are shown."""
    seeds = ", ".join(map(str, evidence.seeds))
    absent = ", ".join(f"{method}/seed{seed}" for method, seed in evidence.missing)
    return (
        f"n = {len(evidence.seeds)} seed{'s' * (len(evidence.seeds) != 1)} ({seeds}) an arm, {evidence.steps} rollout "
        f"steps.{f' Missing: {absent}.' if absent else ''}"
    )


DESIGNS = (5, 10, 20)  # training seeds that the power table plans for


def scores_of(evidence: Evidence, method: str) -> np.ndarray:
    """avg@k of the last checkpoint in per cent, (seeds, benchmarks); NaN where a run is missing."""
    columns = [seed_means(evidence, benchmark, method) for benchmark in evidence.benchmarks]
    return np.array([[column.get(seed, math.nan) for column in columns] for seed in evidence.seeds])


def aggregate(evidence: Evidence) -> Table:
    """Interquartile mean over benchmarks and the probability that a run is better than the baseline's."""
    rows, records, base = [], [], scores_of(evidence, evidence.baseline)
    for method in evidence.methods:
        table = scores_of(evidence, method)
        centre = iqm(table, resample="run")
        within = iqm(table)
        better = None if method == evidence.baseline else probability_of_improvement(table, base, resample="run")
        rows.append([method, _text(centre, 1), _text(within, 1), "–" if better is None else _text(better, 2)])
        records.append(
            {"method": method, **_fields("iqm", centre), **_fields("iqm_within", within)}
            | ({} if better is None else _fields("improvement", better))
        )
    note = (
        "Last checkpoint, all benchmarks together. Interquartile mean (arXiv 2108.13264) with its 95 % interval, whole "
        "runs resampled, and as in that paper with seeds resampled within each benchmark, which takes one run's scores "
        f"for independent ones. Improvement: chance that a run scores above a run of {evidence.baseline}, ties half, "
        "mean over benchmarks; 0.5 is none."
    )
    header = ["method", "IQM, % [runs]", "IQM, % [within benchmarks]", f"better than {evidence.baseline} [runs]"]
    return Table("All benchmarks together", note, header, rows, records)


def power(evidence: Evidence) -> Table:
    """The variance components of the scores, and the smallest difference that more seeds would detect."""
    rows, records = [], []
    for benchmark in evidence.benchmarks:
        base = evidence.select(benchmark, evidence.baseline).keys()
        for method in evidence.methods:
            if method == evidence.baseline or len(evidence.select(benchmark, method).keys() & base) < 2:
                continue
            pair = shared_counts(evidence, benchmark, (method, evidence.baseline))
            if pair is None:
                row, record = _power_of_seeds(evidence, benchmark, method)
                rows.append(row)
                records.append(record)
                continue
            parts = variance_components(*pair)
            sizes = {n: _detectable(parts, n) for n in DESIGNS}
            rows.append([benchmark, f"{method} − {evidence.baseline}", parts.sentence])
            rows[-1] += [f"{size:.1f} pt" for size in sizes.values()]
            records.append(
                {"benchmark": benchmark, "a": method, "b": evidence.baseline, "sd_seed": parts.sd("seed"),
                 "sd_interaction": parts.sd("interaction"), "sd_problem": parts.sd("problem"),
                 "sd_sampling": parts.sd("sampling"), **{f"detectable_{n}": size for n, size in sizes.items()}}
            )  # fmt: skip
    note = (
        "Spread of one pair's difference by source, as SDs in points; then the smallest true difference that so many "
        "seeds find with 80 % power, on other problems of the kind too (t interval and "
        "bootstrap, before Holm's correction), with the same problems and samples."
    )
    header = ["benchmark", "comparison", "where the spread comes from", *(f"{n} seeds" for n in DESIGNS)]
    return Table("What the design can see", note, header, rows, records)


def _power_of_seeds(evidence: Evidence, benchmark: str, method: str) -> tuple[list[str], dict]:
    """Row and record of `power` where problems differ between seeds: the spread over seeds holds all sources."""
    sides = [seed_means(evidence, benchmark, name) for name in (method, evidence.baseline)]
    sd = mean_interval(paired_values(*sides)).sd
    sizes = {n: detectable_effect(sd, n) for n in DESIGNS}
    seeds = len(sides[0].keys() & sides[1].keys())
    row = [benchmark, f"{method} − {evidence.baseline}", f"seed sd {sd:.1f} pt, its problems included ({seeds} seeds)"]
    record = {"benchmark": benchmark, "a": method, "b": evidence.baseline, "sd_seed": sd}
    return [*row, *(f"{size:.1f} pt" for size in sizes.values())], record | {
        f"detectable_{n}": size for n, size in sizes.items()
    }


def _detectable(parts: Components, seeds: int) -> float:
    design = Design(seeds, parts.problems, parts.samples)
    return max(minimum_detectable_effect(parts, design, problems_drawn=drawn) for drawn in (False, True))


def ranking(evidence: Evidence) -> Table:
    """The arms by their reward over the last fifth of training, with the interval of each rank."""
    table = {}
    for name in evidence.methods:
        last = {s: at_share(curve, 90, 20) for s, curve in evidence.curves("train/reward", name).items()}
        table[name] = np.array([[100 * last.get(seed, math.nan)] for seed in evidence.seeds])
    rows, records = [], []
    for place in rankings(table):
        spread, rank = mean_interval(table[place.method].ravel()), place.rank
        ends = "missing" if rank.n == 0 else f"{rank.value:g}" if rank.n == 1 else f"{rank.low:g} to {rank.high:g}"
        score = "missing" if spread.n == 0 else f"{spread.mean:.1f} ± {spread.sd:.1f}"
        rows.append([f"{rank.value:g}" if rank.n else "–", place.method, score, ends, f"{place.first:.2f}", rank.label])
        records.append(
            {"method": place.method, "rank": rank.value, "rank_low": rank.low, "rank_high": rank.high,
             "leads": place.first, "reward": spread.mean, "sd": spread.sd, "seeds": rank.n}
        )  # fmt: skip
    note = (
        "Training reward, mean over the last fifth of the steps, ± SD over seeds. Places: 95 % interval over resampled "
        "seeds, the same ones for all (expanded percentiles); leads: share of the resamples that the arm is first in."
    )
    header = ["place", "method", "reward, %", "place, 95 %", "leads", ""]
    return Table("Ranking", note, header, rows, records)


def read_signs(path: Path) -> dict:
    """The measurement of the rule `agreement`. Raises UserError for a missing or changed file."""
    return read_record(path, rebuild_command("agreement", path))


def signs(evidence: Evidence, measured: dict) -> Table:
    """Share of the baseline's tokens on which the token-only rule has the exact sign, by checkpoint."""
    groups = {"agree": "all tokens", **{f"agree_E{n}": f"E{n}" for n in (1, 2, 3, 4)}}
    found: dict[int, list[dict]] = {}
    for one in measured["checkpoints"]:
        found.setdefault(one["step"], []).append(one)
    rows, records = [], []
    for step, every in sorted(found.items()):
        entropy = mean_interval([one["mean_entropy"][0] for one in every])
        row, record = [str(step), f"{entropy.mean:.3f} ± {entropy.sd:.3f}"], {"step": step, "entropy": entropy.mean}
        for key in groups:
            share = mean_interval([math.nan if one[key][0] is None else 100 * one[key][0] for one in every])
            row.append("missing" if share.n == 0 else f"{share.mean:.1f} ± {share.sd:.1f}")
            record |= {key: share.mean, f"{key}_sd": share.sd, "seeds": share.n}
        rows.append(row)
        records.append(record)
    note = (
        f"{evidence.baseline}'s checkpoints after so many rollout steps: {measured['samples']} completions of "
        f"{measured['prompts']} training problems at temperature 1. "
        "Share of tokens on which p (ln p + H) has the sign of p (ln p + H) − B "
        "(docs/regions.md), % ± SD over training seeds."
    )
    return Table("Is the rule's sign right?", note, ["step", "entropy, nats", *groups.values()], rows, records)


def _fields(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high, "seeds": estimate.n}


def _text(estimate: Estimate, digits: int) -> str:
    if estimate.n == 0:
        return "missing"
    text = f"{estimate.value:.{digits}f}"
    if estimate.n > 1:
        text += f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{text} ({estimate.label})" if estimate.label else text
