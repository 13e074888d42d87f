"""The study's tables: Markdown for people, CSV with every digit, LaTeX for papers.

Entry points: `write_tables(results)`, or `TABLES[name](evidence)` for one table in memory.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dynclip.report.comparisons import (
    at_share,
    average_name,
    benchmark_differences,
    flexible_means,
    scores_of,
    seed_means,
    training_differences,
)
from dynclip.report.evidence import BASE, Evidence, load_evidence
from dynclip.report.records import published
from dynclip.runtime.files import write_atomic
from evals.stats import Interval, mean_interval, window_steps

if TYPE_CHECKING:
    import pandas as pd

MISSING = "missing"
POINTS = (0, 25, 50, 75, 100)  # per cent of training
CURVES = {  # shown in the curves table: key -> (title, factor, unit)
    "policy/entropy": ("entropy", 1, "nats"),
    "train/reward": ("reward", 1, ""),
    "clip/low_fraction": ("clipped at lower bound", 100, "% of tokens"),
    "clip/high_fraction": ("clipped at upper bound", 100, "% of tokens"),
}


@dataclass(frozen=True)
class Table:
    """header, rows: the cells as text. records: the CSV rows with every digit."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    records: list[dict] = field(default_factory=list)


# Tables


def main_table(evidence: Evidence) -> Table:
    """Methods by benchmarks: avg@k of the last checkpoint with its interval, flexible avg@k (unmarked answers count as
    well) of sampled scores, and the paired difference to the baseline.
    """
    differences = {(d.a, d.where): d for d in benchmark_differences(evidence)}
    baseline = evidence.baseline
    header, notes = ["method"], []
    averages = {benchmark: average_name(evidence, benchmark) for benchmark in evidence.benchmarks}
    for benchmark, average in averages.items():
        header += [f"{benchmark} {average}, %", *(["flexible, %"] if average != EXACT else [])]
        if len(evidence.methods) > 1:
            header.append(f"{benchmark} − {baseline}")
    rows, records = [], []
    for method in (BASE, *evidence.methods):
        if method == BASE and not any(s["method"] == BASE for s in evidence.scores):
            continue
        row = [method]
        for benchmark in evidence.benchmarks:
            means = seed_means(evidence, benchmark, method)
            interval = mean_interval(list(means.values()))
            shared_base = method == BASE and len(scores_of(evidence, benchmark, BASE)) == 1
            expected = 1 if shared_base else len(evidence.seeds)
            flexible = mean_interval(list(flexible_means(evidence, benchmark, method).values()))
            row.append(_scored(interval, expected, shared_base))
            if averages[benchmark] != EXACT:
                row.append(_mean_sd(flexible, 1))
            record = {
                "method": method,
                "benchmark": benchmark,
                **_fields(interval),
                "seeds_expected": expected,
                "flexible_mean": flexible.mean,
            }
            gap = differences.get((method, benchmark))
            if len(evidence.methods) > 1:
                row.append("" if gap is None else f"{gap.text}: {gap.verdict}")
            if gap is not None:
                record |= {"difference": gap.effect, "difference_low": gap.low, "difference_high": gap.high}
                record |= {"verdict": gap.verdict}
            records.append(record)
        rows.append(row)
    if not evidence.scores:
        notes.append("No score is there yet.")
    notes.append(
        f"Last checkpoint, mean over training seeds [95 % t interval]. {_what_counts(averages.values())} "
        f"Differences to {baseline} are paired by seed. {DECIDED} {_absent(evidence)}"
    )
    return Table("Scores", " ".join(notes), header, rows, records)


EXACT = "pass@1"
DECIDED = (
    "A claim needs the paired t interval to exclude 0, also after Holm's correction; where all seeds are scored by "
    "samples of the same problems, the bootstrap over problems and seeds as well."
)


def _what_counts(averages: Iterable[str]) -> str:
    exact = {average == EXACT for average in averages}
    return " ".join(
        ["Success is calculated exactly, not sampled."] * (True in exact)
        + [
            "The headline is strict: an answer counts where the response marks it; flexible counts unmarked answers as "
            "well (mean ± SD over seeds)."
        ]
        * (False in exact)
    )


def curves_table(evidence: Evidence) -> Table:
    """Entropy, reward and clip fractions at 0, 25, 50, 75 and 100 % of training."""
    rows, records = [], []
    for key, (title, factor, unit) in CURVES.items():
        digits = 3 if factor == 1 else 2
        for method in evidence.methods:
            curves = evidence.curves(key, method)
            row = [f"{title}, {unit}" if unit else title, method]
            for percent in POINTS:
                spread = mean_interval([factor * at_share(values, percent) for values in curves.values()])
                row.append(_mean_sd(spread, digits))
                records.append({"metric": key, "method": method, "percent": percent, "unit": unit, **_fields(spread)})
            rows.append([*row, f"{len(curves)}/{len(evidence.seeds)}"])
    note = (
        f"Mean ± SD over training seeds; every value is a mean over {window_steps(evidence.steps)} steps around the "
        f"point, cut at the ends. {evidence.steps} rollout steps. {_absent(evidence)}"
    )
    return Table("Training curves", note, ["quantity", "method", *(f"{p} %" for p in POINTS), "seeds"], rows, records)


def cost_table(evidence: Evidence) -> Table:
    """Seconds per rollout step, split into sampling and updating."""
    parts = {"time/step": "step, s", "time/rollout": "rollout, s", "time/update": "update, s"}
    rows, records = [], []
    for method in evidence.methods:
        row, record = [method], {"method": method}
        for key in parts:
            curves = evidence.curves(key, method).values()
            spread = mean_interval([sum(v for v in c if v == v) / sum(v == v for v in c) for c in curves])
            row.append(_mean_sd(spread, 3))
            record |= {f"{key}_{name}": value for name, value in _fields(spread).items()}
        minutes = mean_interval([r["seconds"] / 60 for (m, _), r in evidence.runs.items() if m == method])
        memory = [v for c in evidence.curves("sys/memory", method).values() for v in c if not math.isnan(v)]
        row += [_mean_sd(minutes, 1), f"{max(memory):.2f}" if memory else MISSING]
        records.append(
            record
            | {f"minutes_{name}": value for name, value in _fields(minutes).items()}
            | {"memory_gib_max": max(memory, default=math.nan)}
        )
        rows.append([*row, f"{minutes.n}/{len(evidence.seeds)}"])
    note = (
        "Wall time, mean ± SD over training seeds (each seed: the mean over its rollout steps); "
        f"runs may have shared the machine with one another. {_absent(evidence)}"
    )
    header = ["method", *parts.values(), "whole run, min", "peak memory, GiB", "seeds"]
    return Table("Cost", note, header, rows, records)


def differences_table(evidence: Evidence) -> Table:
    """Every comparison with the baseline, with the smallest effect that the design detects."""
    rows, records = [], []
    for gap in [*benchmark_differences(evidence), *training_differences(evidence)]:
        digits = 1 if gap.unit == "pt" else 3
        boot = gap.boot_low is not None and not math.isnan(gap.boot_low)
        rows.append(
            [
                gap.where,
                f"{gap.a} − {gap.b}",
                gap.text,
                f"[{gap.boot_low:+.{digits}f}, {gap.boot_high:+.{digits}f}]" if boot else "–",
                str(gap.n),
                _p_value(gap.p_holm),
                "–" if math.isnan(gap.detectable) else f"{gap.detectable:.{digits}f} {gap.unit}",
                gap.verdict,
            ]
        )
        fields = {name: getattr(gap, name) for name in RECORDED}
        records.append(fields | {"comparisons_in_family": gap.family})
    note = (
        "Paired by seed: 95 % t interval, bootstrap interval over problems and seeds (sampled scores on the same "
        "problems only), Holm-corrected p within scores, entropy, reward and entropy at equal reward, and the smallest "
        f"true difference that this design would have found with 80 % power. {_absent(evidence)}"
    )
    if not rows:
        note = f"One method only: nothing to compare. {_absent(evidence)}"
    header = ["quantity", "comparison", "difference [95 % t]", "[95 % bootstrap]"]
    return Table("Differences", note, [*header, "seeds", "p (Holm)", "detectable", "verdict"], rows, records)


RECORDED = (  # fields of a Difference in the CSV
    "where", "a", "b", "unit", "effect", "low", "high", "boot_low", "boot_high", "n", "p", "p_holm", "detectable",
    "verdict",
)  # fmt: skip


TABLES: dict[str, Callable[[Evidence], Table]] = {
    "main": main_table,
    "curves": curves_table,
    "cost": cost_table,
    "differences": differences_table,
}
FORMATS = ("md", "csv", "tex")


# Writing


def write_tables(results: Path | str, methods=None, seeds=None) -> list[Path]:
    """Verify results/<scale>, write scores.parquet and tables/<name>.{md,csv,tex}, and return the paths."""
    evidence = load_evidence(results, methods, seeds)
    written = [write_scores(evidence)]
    for name, build in TABLES.items():
        table = build(evidence)
        texts = {"md": markdown(table), "csv": frame(table).to_csv(index=False), "tex": latex(table)}
        written += [write_atomic(evidence.results / "tables" / f"{name}.{end}", texts[end]) for end in FORMATS]
    return published(evidence.results, "tables", written)


def write_scores(evidence: Evidence) -> Path:
    """scores.parquet: `Evidence.score_frame`."""
    import io

    buffer = io.BytesIO()
    evidence.score_frame.to_parquet(buffer, index=False)
    return write_atomic(evidence.results / "scores.parquet", buffer.getvalue())


def frame(table: Table) -> "pd.DataFrame":
    """The table's records as a data frame."""
    import pandas as pd

    return pd.DataFrame(table.records)


def markdown(table: Table) -> str:
    """Title, aligned GitHub table and note. Cells are plain text."""
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows))
    return f"## {table.title}\n\n{markdown_rows(header, rows, aligned=True)}\n\n{table.note}\n"


def markdown_rows(header: Sequence[str], rows: Iterable[Sequence[str]], aligned: bool = False) -> str:
    """A GitHub table without a final newline. Cells are Markdown. aligned: pad cells to the width of their column."""
    lines = [header, ["---"] * len(header), *rows]
    if aligned:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines]
        lines[1] = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
}
_TEX |= {char: "\\" + char for char in "&%$#_{}"}


def latex(table: Table) -> str:
    """A booktabs `tabular` for \\input in a paper. The note is a comment above it."""

    def line(row: list[str]) -> str:
        return " & ".join("".join(_TEX.get(char, char) for char in cell) for cell in row) + r" \\"

    body = "\n".join(line(row) for row in table.rows)
    return (
        f"% {table.title}. {table.note}\n"
        f"\\begin{{tabular}}{{{'l' * len(table.header)}}}\n\\toprule\n{line(table.header)}\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _fields(spread: Interval) -> dict[str, float]:
    return {"mean": spread.mean, "low": spread.low, "high": spread.high, "sd": spread.sd, "n": spread.n}


def _p_value(p: float | None) -> str:
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _scored(interval: Interval, expected: int, is_base: bool) -> str:
    if interval.n == 0:
        return MISSING
    seeds = "" if interval.n == expected else f" ({interval.n} of {expected} seeds)"
    if interval.n == 1:
        return f"{interval.mean:.1f}" + (" (one policy)" if is_base else f" (n=1, no claim){seeds}")
    return f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]{seeds}"


def _mean_sd(spread: Interval, digits: int) -> str:
    if spread.n == 0:
        return MISSING
    return f"{spread.mean:.{digits}f}" + (f" ± {spread.sd:.{digits}f}" if spread.n > 1 else "")


def _absent(evidence: Evidence) -> str:
    seeds = ", ".join(map(str, evidence.seeds))
    absent = [f"{method}/seed{seed}" for method, seed in evidence.missing]
    return f"Seeds {seeds}." + (f" Missing, not filled in: {', '.join(absent)}." if absent else "")
