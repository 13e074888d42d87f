"""The tables of bench/agreement.py: from the verdicts and the differences in a folder, without any text or harness."""

import json
from pathlib import Path

import pandas as pd
from agreement_kinds import KINDS, MODES

SETS = {"gsm8k": "GSM8K", "math500": "MATH-500", "aime24": "AIME 2024"}
SOURCES = {
    "model": "Responses of the model",
    "solution": "Worked solutions of the data sets, with their gold answer",
    "next gold": "Worked solutions, with the next problem's gold answer if it is another text",
    "own formula": "The formulas of MATH-500's problems as responses, boxed, with the problem's gold answer",
}
COLUMNS = (
    "source",
    "set",
    "problem",
    "index",
    "strict",
    "flexible",
)  # of verdicts.parquet, before the harnesses' rules


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
        cells.append([f"dynclip, {rule}" if rule in COLUMNS else rule, int(part[rule].sum()), score])
    return markdown(["rule", f"correct of {len(part):,}", "score, % ± standard error"], cells)


def kinds_table(differences: pd.DataFrame) -> str:
    cells = []
    for name, kind in KINDS.items():
        part = differences[differences["kind"] == name]
        if len(part):
            found = [int((part["source"] == source).sum()) for source in SOURCES]
            cells.append([name, *found, kind.right, kind.why, kind.example])
    return markdown(["kind", *SOURCES, "right", "why", "example"], cells)


def markdown(head: list, rows: list[list]) -> str:
    def line(cells: list) -> str:
        return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def page(folder: Path) -> str:
    """README.md of the folder."""
    record = json.loads((folder / "agreement.json").read_text())
    verdicts = pd.read_parquet(folder / "verdicts.parquet")
    differences = pd.read_csv(folder / "differences.csv", keep_default_na=False)
    counts = verdicts.groupby("source", sort=False).size()
    model = verdicts[verdicts["source"] == "model"]
    return PAGE.format(
        grader=record["grader"],
        versions="\n".join(versions_line(peer, found) for peer, found in record["versions"].items()),
        responses="\n".join(responses_line(name, found) for name, found in record["responses"].items()),
        model=f"{counts['model']:,}",
        total=f"{len(verdicts):,}",
        differences=f"{len(differences):,}",
        in_model=f"{(differences['source'] == 'model').sum():,}",
        pairs="\n".join(f"## {SOURCES[source]}\n\n{pairs_table(verdicts, source)}\n" for source in counts.index),
        kinds=kinds_table(differences),
        mended=markdown(["before", "now", "test row"], MENDED),
        scores="\n".join(f"### {SETS[name]}\n\n{scores_table(verdicts, name)}\n" for name in model["set"].unique()),
    )


def versions_line(peer: str, found: dict[str, str]) -> str:
    others = ", ".join(f"{name} {number}" for name, number in found.items() if name != peer and name != "lm-eval")
    return f"* {peer} {found[peer]}, with {others}"


def responses_line(name: str, found: dict) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in found.items() if key not in ("model", "revision"))
    return f"* responses to {SETS[name]}: {found['model']} at {found['revision'][:12]}, {settings}"


# What the comparison showed to be wrong in version 3 of the grader.
MENDED = [
    ["A phrase that says where the answer stands was the answer",
     "It is skipped, and an earlier mark counts", "`The answer is 40. The final answer is within the specified box.`"],
    ["A unit after an equation made it words: `1 + 1 = 2 days` was not 2",
     "The unit is left out, and the equation must be true", "`1 + 1 = 2 days`, `4 = 5 days`"],
    ["\"then\" or \"therefore\" before the answer was part of it", "It is left out", "`The answer is therefore $6$.`"],
    ["Digits with spaces in a bold number were several numbers", "They are one", "`9+5=\\mathbf{1 4}`"],
    ["Flexible read the end of a response that was cut off", "It does not",
     "`1 + 1 + 1`, cut off, for 1: correct before"],
]  # fmt: skip

PAGE = """# Agreement with other harnesses

    cd results/reference/agreement && python ../../../bench/agreement.py samples/*.parquet --work WORK --write .

{total} pairs of a text and a gold answer, {model} of them responses of a model. Three harnesses score them by their
own tasks, and dynclip by its two readings. Rules that ask for a mark are compared with the strict reading, the others
with the flexible one. `verdicts.parquet` has every verdict, and all counts follow from it. `differences.csv` has every
pair with two verdicts, what each side reads, and its kind. The command builds the harnesses' environments and reads the
data sets from the hub.

* dynclip's grader, version {grader}
{versions}
{responses}

{pairs}
## Differences by kind

{differences} differences, {in_model} of them in responses of the model. A text counts once for each rule.

{kinds}

## What was mended

Where dynclip was wrong, version 4 of the grader differs from version 3. The tables are those of version 4.

{mended}

## Scores of the model

The same texts under every rule. The standard error is that of the mean over problems.

{scores}"""
