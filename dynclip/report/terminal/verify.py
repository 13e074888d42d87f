"""`dynclip verify`: every number of a results folder once more, from the samples and the metrics rows."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dynclip.report.claims.page import decide_all, records, write_claims
from dynclip.report.evidence import BASE, is_exact, read_run, read_score
from dynclip.report.figures import write_figures
from dynclip.report.html import write_report
from dynclip.report.reference import read_committed
from dynclip.report.study_page import write_study
from dynclip.report.tables import curves_table, frame, write_tables
from dynclip.runtime.checkpoints import MANIFEST, find_corruption
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.progress import Progress
from dynclip.runtime.text import say
from dynclip.studies.arms import STUDIES
from evals.benchmarks.loading import read_problems
from evals.metrics import exact_score, score
from evals.scoring import grader_version, with_verdicts

INPUTS = ("runs", "scores", "samples", "data", "base", "benchmarks")  # what everything else is made from
PUBLISHED = (".md", ".csv", ".tex", ".json", ".parquet", ".html", ".svg", ".png")
PICTURE = re.compile(r'src="data:image/[^"]*"')
CLOSE = 1e-4  # committed metrics are float32
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
POINT = 0.01  # of an inch / 72: what another processor may move a line by
PIXELS = 1e-3  # share of a picture's pixels that may differ by a quarter of the scale


@dataclass
class Checked:
    """What was looked at, by kind, and a line for each file that is not what it should be."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def look(self, kind: str, check: Callable[[], str | None]) -> None:
        """Count one of `kind`; `check` returns or raises what is wrong with it."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        try:
            problem = check()
        except UserError as error:
            problem = str(error)
        if problem and problem not in self.problems:
            self.problems.append(problem)


def verify(folder: Path | str, log: Callable[[str], None] = say) -> Checked:
    """Check results/<scale>, or a folder that `dynclip reference` wrote. Raises UserError where it is neither."""
    folder = Path(folder)
    if (folder / "runs").is_dir():
        checked = verify_results(folder)
    elif (folder / "provenance.json").is_file() and (folder / "metrics.parquet").is_file():
        checked = verify_committed(folder)
    else:
        raise UserError(f"{folder}: expected runs/, or metrics.parquet and provenance.json; give results/<scale>")
    for problem in checked.problems:
        log(problem)
    looked = ", ".join(f"{number} {kind}" for kind, number in checked.counts.items())
    bad = len(checked.problems)
    log(f"{folder.name}: {looked}: " + (f"{bad} not as derived" if bad else "all as derived"))
    return checked


def verify_results(results: Path) -> Checked:
    """Check weights, metrics, samples, scores, tables, figures and pages of results/<scale>."""
    checked, problems = Checked(), {}
    weights = sorted(path.parent for path in results.glob(f"runs/*/seed*/checkpoints/*/{MANIFEST}"))
    weights += sorted(path.parent for path in results.glob(f"{BASE}/**/{MANIFEST}"))
    runs = sorted(results.glob("runs/*/seed*/run.json"))
    scores = sorted(results.glob("scores/*/seed*/*/*.json"))
    progress = Progress(f"verify {results.name}", len(weights) + len(runs) + len(scores))
    progress.start()
    work = [("checkpoints", weights, _check_weights), ("runs", runs, lambda path: read_run(path) and None)]
    work += [("scores", scores, lambda path: _check_score(path, results, problems))]
    for kind, paths, check in work:
        for path in paths:
            checked.look(kind, lambda check=check, path=path: check(path))
            progress.step(sum(checked.counts.values()), str(path.relative_to(results)))
    if not checked.problems:  # otherwise nothing can be made from them
        for made, stated in rebuilt(results):
            checked.look("tables, figures and pages", lambda made=made, stated=stated: _compare(made, stated))
    return checked


def _check_weights(folder: Path) -> str | None:
    problem = find_corruption(folder)
    rule = "train" if "runs" in folder.parts else "warmup"
    return problem and f"damaged checkpoint: {problem}; rebuild it with: {rebuild_command(rule, folder / MANIFEST)}"


def _check_score(path: Path, results: Path, problems: dict[str, list]) -> str | None:
    """Grade a score's samples again and compute its numbers from them."""
    import pandas as pd

    stated = read_score(path, results)
    table = pd.read_parquet(results / "samples" / path.relative_to(results / "scores").with_suffix(".parquet"))
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    rebuild = rebuild_command("evaluate", path)
    if is_exact(stated):
        derived = exact_score(rows)
    else:
        name = stated["benchmark"]
        known = problems.setdefault(name, _problems(results, name))
        if known and stated.get("grader") == grader_version():
            again = with_verdicts([dict(row) for row in rows], known, {})
            for row, fresh in zip(rows, again, strict=True):
                timed_out = "timed_out" in (row["status"], fresh["status"])  # depends on the machine
                if not timed_out and (row["status"], row["correct"]) != (fresh["status"], fresh["correct"]):
                    return (
                        f"{path}: sample {row['index']} of {row['problem_id']} was graded {row['status']}, the grader "
                        f"says {fresh['status']}; rebuild it with: {rebuild}"
                    )
        derived = score(rows)
    for name, value in json.loads(json.dumps(derived)).items():
        if not _same(value, stated.get(name), 1e-9):
            return f"{path}: {name} is not what its samples give; rebuild it with: {rebuild}"
    return None


def _problems(results: Path, benchmark: str) -> list:
    file = results / "data" / f"{benchmark}.jsonl"
    return read_problems(file) if file.is_file() else []


def rebuilt(results: Path) -> Iterator[tuple[Path, Path]]:
    """(file made again, file of `results`) for tables, figures, studies, claims and report, as far as they exist."""
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / results.name
        copy.mkdir()
        for name in INPUTS:
            if (results / name).exists():
                (copy / name).symlink_to((results / name).resolve())
        methods, seeds = _imported(results)
        written = list(write_tables(copy, methods, seeds)) if (results / "tables").is_dir() else []
        written += write_figures(copy, methods, seeds) if (results / "figures").is_dir() else []
        for page in sorted(results.glob("studies/*/README.md")):
            name = page.parent.name
            if name in STUDIES:
                if (page.parent / "signs.json").exists():  # measured, not derived
                    (copy / "studies" / name).mkdir(parents=True)
                    (copy / "studies" / name / "signs.json").symlink_to((page.parent / "signs.json").resolve())
                written += write_study(copy, name, _imported(page.parent)[1] or seeds)
        if (results / "claims.json").exists():
            written += write_claims(copy, sorted({int(path.name[4:]) for path in results.glob("runs/*/seed*")}))
        if (results / "report.html").exists():
            written.append(write_report(copy, methods, seeds))
        for made in written:
            if made.suffix in PUBLISHED:
                yield made, results / made.relative_to(copy)


def _imported(folder: Path) -> tuple[list[str] | None, list[int] | None]:
    """Methods and seeds of the runs in folder/tracking.json, which are those of its tables; None where it is absent."""
    try:
        names = [name.split("/seed") for name in json.loads((folder / "tracking.json").read_text())]
    except (OSError, ValueError):
        return None, None
    return list(dict.fromkeys(method for method, _ in names)), sorted({int(seed) for _, seed in names})


def _compare(made: Path, stated: Path) -> str | None:
    if not stated.is_file():
        return f"{stated} is missing"
    try:
        same = SAME.get(made.suffix, _same_text)(made, stated)
    except (OSError, ValueError):
        same = False
    return None if same else f"{stated} is not what the runs and scores give; make it again"


def _same_text(made: Path, stated: Path) -> bool:
    one, other = (PICTURE.sub("", path.read_text(errors="replace")) for path in (made, stated))
    return one == other


def _same_parquet(made: Path, stated: Path) -> bool:
    import pandas as pd

    return pd.read_parquet(made).equals(pd.read_parquet(stated))


def _same_drawing(made: Path, stated: Path) -> bool:
    """Whether two SVG files have the same elements with coordinates within POINT."""
    one, other = made.read_text(), stated.read_text(errors="replace")
    if one == other:
        return True
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (one, other)]
    return NUMBER.sub("#", one) == NUMBER.sub("#", other) and _same(*numbers, POINT)


def _same_picture(made: Path, stated: Path) -> bool:
    import numpy as np
    from PIL import Image

    pictures = []
    for path in (made, stated):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB"), dtype=int))
    one, other = pictures
    return one.shape == other.shape and bool((abs(one - other).max(axis=2) > 64).mean() <= PIXELS)


SAME = {".parquet": _same_parquet, ".svg": _same_drawing, ".png": _same_picture}


def verify_committed(folder: Path) -> Checked:
    """Check a folder of committed evidence: scores from counts, the curves' table and claims from metrics rows."""
    checked = Checked()
    checked.look("table of scores", lambda: _check_counts(folder))
    curves = folder / "tables" / "curves.csv"
    if curves.is_file():
        checked.look("table of curves", lambda: _check_curves(folder, curves))
    if (folder / "claims.json").is_file():
        checked.look("list of claims", lambda: _check_claims(folder))
    return checked


def _check_counts(folder: Path) -> str | None:
    import pandas as pd

    keys = ["method", "seed", "checkpoint", "benchmark"]
    counts, stated = pd.read_parquet(folder / "counts.parquet"), pd.read_parquet(folder / "scores.parquet")
    derived = (counts["c"] / counts["n"]).groupby([counts[key].astype(str) for key in keys]).mean()
    for row in stated[stated["metric"] == "avg_at_k"].to_dict("records"):
        key = tuple(str(row[name]) for name in keys)
        if key not in derived.index or abs(derived[key] - row["value"]) > 1e-6:
            return f"{folder / 'scores.parquet'}: the score of {'/'.join(key)} is not what counts.parquet gives"
    return None


def _check_curves(folder: Path, file: Path) -> str | None:
    import pandas as pd

    stated = pd.read_csv(file).fillna({"unit": ""})
    methods = list(dict.fromkeys(stated["method"]))
    rows = pd.read_parquet(folder / "metrics.parquet", columns=["method", "seed"])
    seeds = sorted({int(seed) for seed in rows[rows["method"].isin(methods)]["seed"]})
    derived = frame(curves_table(read_committed(folder, methods, seeds)))
    if list(derived.columns) != list(stated.columns) or len(derived) != len(stated):
        return f"{file} does not have the rows and columns that metrics.parquet gives"
    for one, other in zip(derived.to_dict("records"), stated.to_dict("records"), strict=True):
        for name in one:
            if not _same(one[name], other[name], CLOSE):
                return f"{file}: {name} of {other['method']}, {other['metric']}, is not what metrics.parquet gives"
    return None


def _check_claims(folder: Path) -> str | None:
    stated = json.loads((folder / "claims.json").read_text())
    known = json.loads((folder / "provenance.json").read_text())["runs"]
    seeds = sorted({int(name.split("/seed")[1]) for name in known if name.startswith("grpo/")})
    derived = records(decide_all(lambda claim: read_committed(folder, claim.arms, seeds[: STUDIES[claim.study].seeds])))
    for one, other in zip(derived, stated, strict=True):
        same = one["verdict"] == other["verdict"] == "not run"
        for name in () if same else one:
            if not _same(json.loads(json.dumps(one[name])), other.get(name), 1e-3):
                return f"{folder / 'claims.json'}: {name} of {other['id']} is not what metrics.parquet gives"
    return None


def _same(one, other, close: float) -> bool:
    """Whether two values of a JSON file are equal, numbers up to `close`, relative or absolute."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], close) for key in one)
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(_same(a, b, close) for a, b in zip(one, other, strict=True))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return one == other or (one != one and other != other) or abs(one - other) <= close * max(1.0, abs(one))
    return one == other
