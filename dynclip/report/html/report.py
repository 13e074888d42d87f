"""results/<scale>/report.html: the whole study in one file that loads nothing from the network."""

from itertools import groupby
from pathlib import Path

import matplotlib

from dynclip.report.claims.page import NOTE
from dynclip.report.comparisons import is_exact
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.figures import caption, names_of, render
from dynclip.report.figures.plot import STYLE, files, small_png
from dynclip.report.html.answers import TABLE_NOTE, details, main_table, summary
from dynclip.report.html.cards import claims_of
from dynclip.report.html.charts import chart_data
from dynclip.report.html.effects import groups
from dynclip.report.html.findings import DESIGN, Finding, findings
from dynclip.report.html.front_figure import ROW_CAPTION, entropy_row
from dynclip.report.html.page import image, render_page
from dynclip.report.html.samples import samples_of
from dynclip.report.records import published
from dynclip.report.tables import TABLES, Table
from dynclip.runtime.files import write_atomic

QUESTION = (
    "Does the policy's entropy collapse in {scale} when it is trained with {baseline}, and do other methods change "
    "that, or what it solves?"
)


def write_report(results: Path | str, methods=None, seeds=None) -> Path:
    """Verify results/<scale>, write its report.html and return the path. Raises UserError for a damaged file."""
    evidence = load_evidence(results, methods, seeds)
    (path,) = published(
        evidence.results, "report", [write_atomic(evidence.results / "report.html", report_page(evidence))]
    )
    return path


def report_page(evidence: Evidence) -> str:
    """The text of a scale's report."""
    found = findings(evidence)
    # Differences are under Effects.
    kept = [finding for finding in found if ", against " not in finding.heading]
    grouped = {name: list(group) for name, group in groupby(kept, key=lambda finding: finding.heading)}
    with matplotlib.rc_context(STYLE):
        first = files(entropy_row([evidence]), formats=("svg",))["svg"]
    return render_page(
        "report.html",
        title=f"dynclip · {evidence.scale}",
        question=QUESTION.format(scale=evidence.scale, baseline=evidence.baseline),
        summary=summary(evidence),
        warnings=[finding for finding in found if finding.warning and finding.heading == DESIGN],
        figure=image(first),
        caption=ROW_CAPTION,
        curves=chart_data([evidence]),
        main=main_table([evidence], every_benchmark=True),
        table_note=TABLE_NOTE,
        baseline=evidence.baseline,
        groups=groups(evidence),
        claims=claims_of(evidence),
        claims_note=NOTE.replace("`", ""),
        findings={"Under the baseline": [Finding("", text) for text in details(evidence)], **grouped},
        figures=[_figure(evidence, name) for name in names_of(evidence)],
        tables=[build(evidence) for build in TABLES.values()],
        samples=samples_of(evidence),
        facts=_facts(evidence),
        runs=_runs(evidence),
        scores=_scores(evidence),
    )


def _facts(evidence: Evidence) -> dict[str, str]:
    """What was compared, on what machine and with which code: name -> text."""
    updates = sorted({run["updates_per_rollout"] for run in evidence.runs.values()})
    benchmarks = []
    for name in evidence.benchmarks:
        score = next(s for s in evidence.scores if s["benchmark"] == name)
        how = "scored exactly" if is_exact(score) else f"× {score['k']} samples"
        benchmarks.append(f"{name} ({score['n_problems']} problems {how})")
    facts = {
        "Compared": f"{', '.join(evidence.methods)}; differences are taken to {evidence.baseline}",
        "Runs": f"{len(evidence.runs)} of {len(evidence.methods) * len(evidence.seeds)} finished",
        "Seeds": ", ".join(map(str, evidence.seeds)),
        "Training": f"{evidence.steps} rollout steps, {', '.join(map(str, updates)) or '?'} updates per rollout batch",
        "Benchmarks": ", ".join(benchmarks) or "none scored",
        "Sampling": " / ".join(sorted({_pairs(s["sampling"]) for s in evidence.scores})) or "none",
    }
    machines = {key: _values(evidence, key) for key in ("cpu", "gpu", "cores")}
    facts["Machine"] = ", ".join(f"{key} {value}" for key, value in machines.items() if value)
    known = ("cpu", "gpu", "cores", "git_commit", "git_dirty")
    versions = dict.fromkeys(key for run in evidence.runs.values() for key in run["environment"] if key not in known)
    facts["Versions"] = ", ".join(f"{key} {_values(evidence, key)}" for key in versions)
    facts["Code"] = f"commit {_values(evidence, 'git_commit') or 'unknown'}"
    if any(run["environment"].get("git_dirty") for run in evidence.runs.values()):
        facts["Code"] += ", with uncommitted changes"
    return facts


def _values(evidence: Evidence, key: str) -> str:
    """The distinct values of an environment entry over all runs."""
    values = dict.fromkeys(str(run["environment"].get(key) or "") for run in evidence.runs.values())
    return " / ".join(value for value in values if value)


def _pairs(mapping: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in mapping.items())


def _figure(evidence: Evidence, name: str) -> dict[str, str]:
    drawn = render(evidence, name, captioned=False, formats=("png",))["png"]
    return {"name": name, "caption": caption(evidence, name), "source": image(small_png(drawn), "png")}


def _runs(evidence: Evidence) -> Table:
    rows = [
        [f"{method}/seed{seed}", _pairs(run["options"]) or "defaults", str(run["steps"]), f"{run['seconds']:.0f}",
         str(run["fingerprint"])[:12], run["base_model_sha256"][:12], run["data_sha256"][:12],
         str(run["environment"].get("git_commit") or "unknown")[:10]]
        for (method, seed), run in evidence.runs.items()
    ]  # fmt: skip
    header = ["run", "options", "steps", "seconds", "fingerprint", "base policy", "data", "commit"]
    note = "Fingerprint: method, options, seed, data, base policy and the code that matters to a run."
    return Table("Runs", note, header, rows)


def _scores(evidence: Evidence) -> Table:
    rows = [
        [f"{s['method']}/seed{s['seed']}/{s['checkpoint']}/{s['benchmark']}", s["samples"]["sha256"][:16],
         s["model"]["sha256"][:16]]
        for s in evidence.scores
    ]  # fmt: skip
    note = "Checked before use: the samples' SHA-256 against the file, the policy's against its checkpoint."
    return Table("Scores", note, ["method/seed/checkpoint/benchmark", "samples sha256", "policy sha256"], rows)
