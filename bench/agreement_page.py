"""The tables of bench/agreement.py: from the verdicts and the differences in a folder, without any text or harness."""

import json
from pathlib import Path

import pandas as pd
from agreement_kinds import KINDS, MODES

SETS = {"gsm8k": "GSM8K", "math500": "MATH-500", "aime24": "AIME 2024"}
SOURCES = {
    "model": "Responses of the model",
    "own answer": "The same responses, with the answer that dynclip reads in them as gold answer",
    "solution": "Worked solutions of the data sets, with their gold answer",
    "next gold": "Worked solutions, with the next problem's gold answer if it is another text",
}
COLUMNS = ("source", "set", "problem", "index", "strict", "flexible")  # of verdicts.parquet, before the harnesses' rules


def mode_of(rule: str) -> str:
    """The reading of dynclip that a rule is compared with."""
    return MODES.get(rule, "flexible")


def count(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a source, set and rule: texts, correct for both, for neither, for dynclip alone, for the rule alone."""
    rows = []
    for (source, name), part in verdicts.groupby(["source", "set"], sort=False):
        for rule in part.columns[len(COLUMNS) :]:
            if part[rule].isna().all():
                continue
            ours, theirs = part[mode_of(rule)], part[rule].fillna(False).astype(bool)
            pairs = [(ours & theirs), (~ours & ~theirs), (ours & ~theirs), (~ours & theirs)]
            rows.append((source, name, rule, mode_of(rule), len(part), *(int(pair.sum()) for pair in pairs)))
    return pd.DataFrame(rows, columns=["source", "set", "rule", "mode", "n", "both", "neither", "ours", "theirs"])


def pairs_table(verdicts: pd.DataFrame, source: str) -> str:
    rows = count(verdicts)
    cells = [
        [SETS[row.set], row.rule, row.mode, f"{row.n:,}", row.both, row.neither, row.ours, row.theirs,
         f"{100 * (row.both + row.neither) / row.n:.2f}"]
        for row in rows[rows["source"] == source].itertuples()
    ]  # fmt: skip
    head = ["set", "harness and rule", "dynclip", "texts", "both correct", "both wrong", "only dynclip", "only harness"]
    return markdown([*head, "agree, %"], cells)


def scores_table(verdicts: pd.DataFrame, name: str) -> str:
    """Share of correct samples in per cent, with its standard error over the means of the problems."""
    part = verdicts[(verdicts["source"] == "model") & (verdicts["set"] == name)]
    cells = []
    for rule in [*COLUMNS[4:], *part.columns[len(COLUMNS) :]]:
        if part[rule].isna().all():
            continue
        means = part[rule].astype(float).groupby(part["problem"]).mean()
        score = f"{100 * means.mean():.2f} ± {100 * means.std(ddof=1) / len(means) ** 0.5:.2f}"
        cells.append([f"dynclip, {rule}" if rule in COLUMNS else rule, f"{int(part[rule].sum())}", score])
    return markdown(["rule", f"correct of {len(part):,}", "score, % ± standard error"], cells)


def kinds_table(differences: pd.DataFrame) -> str:
    cells = []
    for name, kind in KINDS.items():
        part = differences[differences["kind"] == name]
        if len(part):
            found = [int((part["source"] == source).sum()) for source in SOURCES]
            cells.append([name, *found, kind.right, kind.why, kind.example])
    head = ["kind", "model", "own answer", "solution", "next gold", "right", "why", "example"]
    return markdown(head, cells)


def markdown(head: list, rows: list[list]) -> str:
    def line(cells: list) -> str:
        return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def page(folder: Path) -> str:
    """README.md of the folder."""
    record = json.loads((folder / "agreement.json").read_text())
    verdicts = pd.read_parquet(folder / "verdicts.parquet")
    differences = pd.read_csv(folder / "differences.csv", keep_default_na=False)
    versions = "; ".join(
        f"{peer} ({', '.join(f'{name} {number}' for name, number in found.items())})"
        for peer, found in record["versions"].items()
    )
    counts = verdicts.groupby("source", sort=False).size()
    texts = [f"## {title}\n\n{pairs_table(verdicts, source)}\n" for source, title in SOURCES.items() if source in counts]
    model = verdicts[verdicts["source"] == "model"]
    scores = [f"### {SETS[name]}\n\n{scores_table(verdicts, name)}\n" for name in model["set"].unique()]
    return PAGE.format(
        versions=versions,
        grader=record["grader"],
        samples=record["responses"],
        model=f"{counts['model']:,}",
        total=f"{len(verdicts):,}",
        differences=f"{len(differences):,}",
        in_model=f"{(differences['source'] == 'model').sum():,}",
        pairs="\n".join(texts),
        kinds=kinds_table(differences),
        scores="\n".join(scores),
    )


PAGE = """# Agreement with other harnesses

    python bench/agreement.py samples/gsm8k.parquet samples/math500.parquet --work WORK --write results/reference/agreement

{total} pairs of a text and a gold answer, of them {model} responses of a model, scored by the tasks of three harnesses and by
dynclip. Rules that ask for a mark are compared with dynclip's strict reading, the others with the flexible one. The counts
follow from `verdicts.parquet`. `differences.csv` has every pair with two verdicts, with both readings and its kind.

* dynclip: version {grader} of the grader
* {versions}
* responses: {samples}

{pairs}
## Differences by kind

{differences} differences, {in_model} of them in the model's responses with the gold answers of the data sets. Each pair counts once a rule.

{kinds}

## Scores of the model

The same texts under every rule. The standard error is that of the mean over problems.

{scores}"""
