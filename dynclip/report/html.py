"""results/<scale>/report.html: the whole study in one file that needs no network and runs no script.

Everything that comes from a file is escaped: completions are written by a model, and so by nobody we trust.
"""

import base64
import json
import random
import re
from html import escape
from pathlib import Path

from dynclip.report.claims.page import table_of
from dynclip.report.evidence import BASE, Evidence, load_evidence
from dynclip.report.figures import FIGURES, caption, render
from dynclip.report.findings import findings
from dynclip.report.tables import TABLES, Table
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import write_atomic

SHOWN = 3  # right and wrong samples per benchmark
LONGEST = 2000  # characters of a completion

CSS = """
:root { --ink: #1c1c1c; --soft: #5f6368; --line: #dcdcdc; --warn: #8a4b00; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.5rem 5rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; } ul { padding-left: 1.2rem; margin: .3rem 0; } li { margin: .15rem 0; }
.soft, figcaption, .note { color: var(--soft); font-size: .875rem; }
nav a { margin-right: 1.1rem; color: inherit; }
dl { display: grid; grid-template-columns: 10rem 1fr; gap: .25rem 1rem; margin: 1.2rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
li.warning { color: var(--warn); } li.warning::marker { content: "!  "; font-weight: bold; }
figure { margin: 1.2rem 0 2.4rem; } figure img { width: 100%; height: auto; display: block; }
figcaption { margin-top: .4rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
td:first-child { white-space: nowrap; }
code, pre { font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
pre.command { background: #f5f5f3; padding: .7rem .9rem; border-radius: 4px; }
.sample { border-left: 3px solid #2e7d32; padding: .1rem 0 .1rem .9rem; margin: .8rem 0; }
.sample p { margin: 0; }
.sample.no { border-left-style: dashed; border-left-color: #b3261e; }
summary { cursor: pointer; margin: .6rem 0; }
@media print { body { max-width: none; padding: 0; } figure, .sample { break-inside: avoid; } }
"""


def write_report(results: Path | str, methods=None, seeds=None) -> Path:
    """Verify results/<scale> and write its report.html; returns the path. Raises UserError for a damaged
    file.
    """
    evidence = load_evidence(results, methods, seeds)
    title = f"dynclip · {evidence.scale}"
    sections = {
        "Findings": _findings(evidence),
        "Claims": _table(table_of(evidence), level=3),
        "Figures": "".join(_figure(evidence, name) for name in FIGURES),
        "Tables": "".join(_table(build(evidence), level=3) for build in TABLES.values()),
        "Samples": _samples(evidence),
        "Provenance": _provenance(evidence),
        "Explore": _explore(evidence),
    }
    nav = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(f'<h2 id="{name.lower()}">{name}</h2>{content}' for name, content in sections.items())
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # Belt and braces next to escaping: this page may load nothing and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<h1>{escape(title)}</h1><nav class=soft>{nav}</nav>{_header(evidence)}{body}</body></html>\n"
    )
    return write_atomic(evidence.results / "report.html", page)


def _header(evidence: Evidence) -> str:
    updates = sorted({run["updates_per_rollout"] for run in evidence.runs.values()})
    benchmarks = []
    for name in evidence.benchmarks:
        score = next(s for s in evidence.scores if s["benchmark"] == name)
        benchmarks.append(f"{name} ({score['n_problems']} problems × {score['k']} samples)")
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
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<dl>{items}</dl>"


def _values(evidence: Evidence, key: str) -> str:
    """The distinct values of an environment entry over all runs."""
    values = dict.fromkeys(str(run["environment"].get(key) or "") for run in evidence.runs.values())
    return " / ".join(value for value in values if value)


def _pairs(mapping: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in mapping.items())


def _findings(evidence: Evidence) -> str:
    groups: dict[str, list[str]] = {}
    for finding in findings(evidence):
        mark = ' class="warning"' if finding.warning else ""
        groups.setdefault(finding.heading, []).append(f"<li{mark}>{escape(finding.text)}</li>")
    parts = [f"<h3>{escape(heading)}</h3><ul>{''.join(items)}</ul>" for heading, items in groups.items()]
    note = "Every sentence is computed from the files listed under Provenance. Brackets are 95 % intervals over seeds."
    return f'<p class="note">{note}</p>{"".join(parts)}'


def _figure(evidence: Evidence, name: str) -> str:
    # As an image each SVG keeps its ids to itself; inline, two figures would share them.
    data = base64.b64encode(render(evidence, name, captioned=False, formats=("svg",))["svg"]).decode()
    text = escape(caption(evidence, name))
    return (
        f'<figure id="figure-{name}"><img alt="{text}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _table(table: Table, level: int) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f"<h{level}>{escape(table.title)}</h{level}><div class=wide><table><thead><tr>{head}</tr></thead>"
        f'<tbody>{rows}</tbody></table></div><p class="note">{escape(table.note)}</p>'
    )


def _cell(text: str) -> str:
    """Escaped; an interval, a ± or a difference is never broken across lines."""
    whole = re.sub(r"\[[^]]*\]|\S+ [±−] \S+", lambda part: part[0].replace(" ", "\u00a0"), text)
    return escape(whole)


def _samples(evidence: Evidence) -> str:
    """A few right and wrong completions per benchmark of one run's last checkpoint, drawn with a fixed
    seed.
    """
    chosen = next(
        (s for m in (evidence.baseline, *evidence.methods, BASE) for s in evidence.scores
         if (s["method"], s["checkpoint"]) == (m, "final")),
        None,
    )  # fmt: skip
    if chosen is None:
        return '<p class="note">No checkpoint is scored yet.</p>'
    method, seed = chosen["method"], chosen["seed"]
    note = f"Run {method}, seed {seed}, last checkpoint; up to {SHOWN} right and {SHOWN} wrong, drawn at random."
    parts = [f'<p class="note">{escape(note)}</p>']
    for benchmark in evidence.benchmarks:
        if seed in evidence.select(benchmark, method):
            parts.append(f"<h3>{escape(benchmark)}</h3>" + _benchmark_samples(evidence, benchmark, method, seed))
    return "".join(parts)


def _benchmark_samples(evidence: Evidence, benchmark: str, method: str, seed: int) -> str:
    import pandas as pd

    folder = evidence.results / "samples" / method / f"seed{seed}" / "final"
    rows = pd.read_parquet(folder / f"{benchmark}.parquet").to_dict("records")
    problems = read_problems(evidence.results / "data" / f"{benchmark}.jsonl")
    draw, parts = random.Random(f"{benchmark}-{seed}"), []
    for right in (True, False):
        kind = [row for row in rows if bool(row["correct"]) is right]
        for row in draw.sample(kind, min(SHOWN, len(kind))):
            parts.append(_sample(row, problems.get(row["problem_id"], {})))
    return "".join(parts)


def _sample(row: dict, problem: dict) -> str:
    right, text = bool(row["correct"]), str(row["text"])
    cut = f"\n… {len(text) - LONGEST} more characters" if len(text) > LONGEST else ""
    facts = f"{row['status']} · {row['problem_id']} · {row['tokens']} tokens · ended by {row['finish']}"
    question = f"<pre>{escape(str(problem['problem']))}</pre>" if problem else ""
    answer = f'<p class="note">expected {escape(str(problem["answer"]))}</p>' if problem else ""
    return (
        f'<div class="sample{"" if right else " no"}"><div class=soft>{escape(facts)}</div>{question}'
        f"<pre>→ {escape(text[:LONGEST])}{cut}</pre>{answer}</div>"
    )


def read_problems(path: Path) -> dict[str, dict]:
    """problem id -> its row of data/<benchmark>.jsonl; empty if the file is gone, UserError if it is
    damaged.
    """
    if not path.is_file():
        return {}
    try:
        return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(
            f"{path}: not one JSON problem per line; rebuild it with: {rebuild_command('data', path)}"
        ) from None


def _provenance(evidence: Evidence) -> str:
    runs = Table(
        "Runs",
        "Fingerprint: method, options, seed, data, base policy and the code that matters to a run.",
        ["run", "options", "steps", "seconds", "fingerprint", "base policy", "data", "commit"],
        [
            [
                f"{method}/seed{seed}",
                _pairs(run["options"]) or "defaults",
                str(run["steps"]),
                f"{run['seconds']:.0f}",
                str(run["fingerprint"])[:12],
                run["base_model_sha256"][:12],
                run["data_sha256"][:12],
                str(run["environment"].get("git_commit") or "unknown")[:10],
            ]
            for (method, seed), run in evidence.runs.items()
        ],
    )
    scores = Table(
        "Scores",
        "Checked before use: the samples' SHA-256 against the file, the policy's against its checkpoint.",
        ["method/seed/checkpoint/benchmark", "samples sha256", "policy sha256"],
        [
            [
                f"{s['method']}/seed{s['seed']}/{s['checkpoint']}/{s['benchmark']}",
                s["samples"]["sha256"][:16],
                s["model"]["sha256"][:16],
            ]
            for s in evidence.scores
        ],
    )
    files = f"<details><summary>{len(scores.rows)} score files</summary>{_table(scores, level=4)}</details>"
    return _table(runs, level=3) + files


def _explore(evidence: Evidence) -> str:
    command = f"mlflow ui --backend-store-uri sqlite:///{evidence.results.parent / 'mlflow.db'}"
    return (
        "<p>Every run with its curves, options, scores and samples, in MLflow:</p>"
        f'<pre class="command">{escape(command)}</pre>'
        "<p>The numbers behind the figures: <code>runs/*/seed*/metrics.jsonl</code>, "
        "<code>scores.parquet</code> and "
        f"<code>tables/*.csv</code> in <code>{escape(str(evidence.results))}</code>.</p>"
    )
