"""results/<scale>/report.html: the whole study in one file that loads nothing from the network and runs no script."""

import json
import random
from pathlib import Path

from dynclip.report.claims.page import table_of
from dynclip.report.comparisons import is_exact
from dynclip.report.evidence import BASE, Evidence, load_evidence
from dynclip.report.figures import caption, names_of, render
from dynclip.report.html.answers import answers
from dynclip.report.html.findings import Finding, findings
from dynclip.report.html.style import HEAD, image, render_page
from dynclip.report.tables import TABLES, Table
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import write_atomic

SAMPLES = 3  # correct and wrong samples per benchmark
MAX_CHARACTERS = 2000  # of a completion

TEMPLATE = (
    HEAD
    + """\
<h1>{{ title }}</h1>
<ul>{% for sentence in answers %}<li>{{ sentence }}</li>{% endfor %}</ul>
<nav class="soft">
{% for name in ("Findings", "Claims", "Figures", "Tables", "Samples", "Provenance", "Explore") %}
<a href="#{{ name | lower }}">{{ name }}</a>
{% endfor %}
</nav>

{{ heading("Findings") }}
<p class="note">Every sentence is computed from the files listed under Provenance. Brackets are 95 % intervals over
seeds.</p>
{% for name, group in findings.items() %}
<h3>{{ name }}</h3><ul>
{% for finding in group %}
<li{% if finding.warning %} class="warning"{% endif %}>{{ finding.text }}</li>
{% endfor %}
</ul>
{% endfor %}

{{ heading("Claims") }}
{{ table(claims, 3) }}

{{ heading("Figures") }}
{% for figure in figures %}
<figure id="figure-{{ figure.name }}"><img alt="{{ figure.caption }}"
src="{{ figure.source }}"><figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}

{{ heading("Tables") }}
{% for content in tables %}{{ table(content, 3) }}{% endfor %}

{{ heading("Samples") }}
<p class="note">{{ samples.note }}</p>
{% for benchmark, chosen in samples.benchmarks.items() %}
<h3>{{ benchmark }}</h3>
{% for sample in chosen %}
<div class="sample{% if not sample.correct %} no{% endif %}"><div class="soft">{{ sample.facts }}</div>
{% if sample.problem %}<pre>{{ sample.problem.problem }}</pre>{% endif %}
<pre>→ {{ sample.text }}</pre>
{% if sample.problem %}<p class="note">expected {{ sample.problem.answer }}</p>{% endif %}
</div>
{% endfor %}
{% endfor %}

{{ heading("Provenance") }}
<dl>{% for name, text in facts.items() %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}</dl>
{{ table(runs, 3) }}
<details><summary>{{ scores.rows | length }} score files</summary>{{ table(scores, 4) }}</details>

{{ heading("Explore") }}
<p>Every run with its curves, options, scores and samples, in MLflow:</p>
<pre class="command">dynclip ui</pre>
<p>The numbers behind the figures: <code>runs/*/seed*/metrics.jsonl</code>, <code>scores.parquet</code> and
<code>tables/*.csv</code> beside this page.</p>
</body></html>
"""
)


def write_report(results: Path | str, methods=None, seeds=None) -> Path:
    """Verify results/<scale>, write its report.html and return the path. Raises UserError for a damaged file."""
    evidence = load_evidence(results, methods, seeds)
    page = render_page(
        TEMPLATE,
        title=f"dynclip · {evidence.scale}",
        answers=answers(evidence),
        facts=_facts(evidence),
        findings=_findings(evidence),
        claims=table_of(evidence),
        figures=[_figure(evidence, name) for name in names_of(evidence)],
        tables=[build(evidence) for build in TABLES.values()],
        samples=_samples(evidence),
        runs=_runs(evidence),
        scores=_scores(evidence),
    )
    return write_atomic(evidence.results / "report.html", page + "\n")


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


def _findings(evidence: Evidence) -> dict[str, list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings(evidence):
        groups.setdefault(finding.heading, []).append(finding)
    return groups


def _figure(evidence: Evidence, name: str) -> dict[str, str]:
    svg = render(evidence, name, captioned=False, formats=("svg",))["svg"]
    return {"name": name, "caption": caption(evidence, name), "source": image(svg)}


def _samples(evidence: Evidence) -> dict:
    """A few correct and wrong completions per benchmark of one run's last checkpoint, drawn with a fixed seed."""
    sampled = [s for s in evidence.scores if s["checkpoint"] == "final" and not is_exact(s)]
    if not sampled:
        scored = "The scores are exact, without samples." if evidence.scores else "No checkpoint is scored yet."
        return {"note": scored, "benchmarks": {}}
    order = (evidence.baseline, *evidence.methods, BASE)
    chosen = min(sampled, key=lambda score: order.index(score["method"]))
    method, seed = chosen["method"], chosen["seed"]
    return {
        "note": f"Run {method}, seed {seed}, last checkpoint; up to {SAMPLES} right and {SAMPLES} wrong, drawn at "
        "random.",
        "benchmarks": {
            benchmark: _benchmark_samples(evidence, benchmark, method, seed)
            for benchmark in evidence.benchmarks
            if (score := evidence.select(benchmark, method).get(seed)) and not is_exact(score)
        },
    }


def _benchmark_samples(evidence: Evidence, benchmark: str, method: str, seed: int) -> list[dict]:
    import pandas as pd

    folder = evidence.results / "samples" / method / f"seed{seed}" / "final"
    rows = pd.read_parquet(folder / f"{benchmark}.parquet").to_dict("records")
    problems = read_problems(evidence.results / "data" / f"{benchmark}.jsonl")
    draw, chosen = random.Random(f"{benchmark}-{seed}"), []
    for correct in (True, False):
        kind = [row for row in rows if bool(row["correct"]) is correct]
        for row in draw.sample(kind, min(SAMPLES, len(kind))):
            chosen.append(_sample(row, problems.get(row["problem_id"])))
    return chosen


def _sample(row: dict, problem: dict | None) -> dict:
    text = str(row["text"])
    rest = len(text) - MAX_CHARACTERS
    return {
        "correct": bool(row["correct"]),
        "facts": f"{row['status']} · {row['problem_id']} · {row['tokens']} tokens · ended by {row['finish']}",
        "text": text[:MAX_CHARACTERS] + (f"\n… {rest} more characters" if rest > 0 else ""),
        "problem": problem,
    }


def read_problems(path: Path) -> dict[str, dict]:
    """problem id -> its row of data/<benchmark>.jsonl, empty without that file. Raises UserError for a damaged file."""
    if not path.is_file():
        return {}
    try:
        return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(
            f"{path}: not one JSON problem per line; rebuild it with: {rebuild_command('data', path)}"
        ) from None


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
