"""`dynclip verify`: every number of a results folder once more, from the samples and the metrics rows."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dynclip.report.claims.page import write_claims
from dynclip.report.evidence import BASE, is_exact
from dynclip.report.figures import write_figures
from dynclip.report.html import write_report
from dynclip.report.records import SUMS, read_record, read_run, read_score, rescore, same, samples_of
from dynclip.report.study_page import write_study
from dynclip.report.study_page.page import read_signs
from dynclip.report.tables import write_tables
from dynclip.report.terminal.committed import Checked, verify_committed
from dynclip.runtime.checkpoints import MANIFEST, find_corruption
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import file_change, read_sums
from dynclip.runtime.progress import Progress
from dynclip.runtime.text import say
from dynclip.studies.arms import STUDIES
from evals.benchmarks.loading import read_problems
from evals.sampling.store import read_samples
from evals.scoring import grader_version, with_verdicts

INPUTS = ("runs", "scores", "samples", "data", "base", "benchmarks")  # what everything else is made from
PLACES = ("tables/*", "figures/*", "studies/*/*", "scores.parquet", "report.html", "front.*", "claims.*")
MEASURED = ("signs.json", "tracking.json")  # beside a study's page, not made from the runs
PICTURE = re.compile(r'src="data:image/[^"]*"')
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
POINT = 0.01  # of an inch / 72: what another processor may move a line by
PIXELS = 1e-3  # share of a picture's pixels that may differ by a quarter of the scale


def verify(folder: Path | str, log: Callable[[str], None] = say) -> Checked:
    """Check results/<scale>, or a folder that `dynclip reference` wrote. Raises UserError where it is neither."""
    folder = Path(folder)
    if (folder / "runs").is_dir() or (folder / SUMS).is_dir():  # a suite has its front page alone
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
    """Check weights, metrics, samples, scores, problems, tables, figures and pages of results/<scale>."""
    checked, problems = Checked(), {}
    weights = sorted(path.parent for path in results.glob(f"runs/*/seed*/checkpoints/*/{MANIFEST}"))
    weights += sorted(path.parent for path in results.glob(f"{BASE}/**/{MANIFEST}"))
    work = [
        ("checkpoints", weights, _check_weights),
        ("runs", sorted(results.glob("runs/*/seed*/run.json")), read_run),
        ("files of problems", sorted(results.glob("data/*.json*")), _check_data),
        ("scores", sorted(results.glob("scores/*/seed*/*/*.json")), lambda path: _check_score(path, results, problems)),
        ("measured signs", sorted(results.glob("studies/*/signs.json")), read_signs),
    ]
    progress = Progress(f"verify {results.name}", sum(len(paths) for _, paths, _ in work))
    progress.start()
    for kind, paths, check in work:
        for path in paths:
            checked.look(kind, lambda check=check, path=path: check(path))
            progress.step(sum(checked.counts.values()), str(path.relative_to(results)))
    sums = {}
    for file in sorted((results / SUMS).glob("*.sha256")):
        sums |= checked.look("lists of checksums", lambda file=file: read_sums(file)) or {}
    there = [path for pattern in PLACES for path in results.glob(pattern)]
    there = [path for path in there if path.name not in MEASURED and not path.name.startswith(".")]
    published = {str(path.relative_to(results)) for path in there}
    # Without whole inputs nothing can be made from them.
    with nullcontext({}) if checked.problems else rebuilt(results) as made:
        for name in sorted({*made, *sums, *published}):
            checked.look("tables, figures and pages", lambda name=name: _check(results, name, sums, made))
    return checked


def _check_data(path: Path) -> None:
    if path.suffix == ".jsonl":
        read_problems(path)
    else:
        read_record(path, rebuild_command("data", path))


def _check_weights(folder: Path) -> str | None:
    problem = find_corruption(folder)
    rule = "train" if "runs" in folder.parts else "warmup"
    return problem and f"damaged checkpoint: {problem}; rebuild it with: {rebuild_command(rule, folder / MANIFEST)}"


def _check_score(path: Path, results: Path, problems: dict[str, list]) -> str | None:
    """Read a score, which computes its numbers from its samples, and grade the samples again."""
    stated = read_score(path, results)
    name = stated["benchmark"]
    known = problems.setdefault(name, _problems(results, name))
    if is_exact(stated) or not known or stated.get("grader") != grader_version():
        return None
    rows = read_samples(samples_of(path, results))
    for row, fresh in zip(rows, with_verdicts([dict(row) for row in rows], known, {}), strict=True):
        timed_out = "timed_out" in (row["status"], fresh["status"])  # depends on the machine
        if not timed_out and (row["status"], row["correct"]) != (fresh["status"], fresh["correct"]):
            return (
                f"{path}: sample {row['index']} of {row['problem_id']} was graded {row['status']}, the grader "
                f"says {fresh['status']}; rebuild it with: {rescore(path, results)}"
            )
    return None


def _problems(results: Path, benchmark: str) -> list:
    file = results / "data" / f"{benchmark}.jsonl"
    return read_problems(file) if file.is_file() else []


@contextmanager
def rebuilt(results: Path) -> Iterator[dict[str, Path]]:
    """Path in `results` -> file made again, of tables, figures, studies, claims and report, as far as they exist."""
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
        if (results / "report.html").exists() and (results / "runs").is_dir():
            written.append(write_report(copy, methods, seeds))
        yield {str(path.relative_to(copy)): path for path in written}


def _imported(folder: Path) -> tuple[list[str] | None, list[int] | None]:
    """Methods and seeds of the runs in folder/tracking.json, which are those of its tables; None where it is absent."""
    try:
        names = [name.split("/seed") for name in json.loads((folder / "tracking.json").read_text())]
    except (OSError, ValueError):
        return None, None
    return list(dict.fromkeys(method for method, _ in names)), sorted({int(seed) for _, seed in names})


def _check(results: Path, name: str, sums: dict[str, str], made: dict[str, Path]) -> str | None:
    """Compare a published file with its recorded SHA-256, and with what was `made` again."""
    stated = results / name
    problem = file_change(stated, sums.get(name))
    if not problem and name in made:
        try:
            alike = SAME.get(stated.suffix, _same_text)(made[name], stated)
        except (OSError, ValueError):
            alike = False
        problem = None if alike else f"{stated} is not what the runs and scores give"
    return problem and f"{problem}; make it again with: {rebuild_command(*made_by(results, name))}"


def made_by(results: Path, name: str) -> tuple[str, Path]:
    """The workflow's rule that makes a published file, and the file to ask it for."""
    top, *rest = Path(name).parts
    if top == "studies":
        return "study", results / top / rest[0] / "README.md"
    if not (results / "runs").is_dir():
        return "front", results / "report.html"
    return {"tables": "tables", "scores.parquet": "tables", "figures": "figures", "report.html": "page"}.get(
        top, "claims"
    ), results / name


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
    return NUMBER.sub("#", one) == NUMBER.sub("#", other) and same(*numbers, POINT)


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
