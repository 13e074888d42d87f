"""What became of the paper's claims, for people and for programs: results/<scale>/claims.md and claims.json."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from dynclip.report.claims.parts import Part
from dynclip.report.claims.published import table as published_table
from dynclip.report.claims.registry import CLAIMS, NOT_RUN, RULES, VERDICTS, Claim, Decision, decide
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.tables import Table
from dynclip.runtime.files import write_atomic
from dynclip.studies.arms import STUDIES

HEAD = ("claim", "verdict", "effect [95 % interval], seeds", "detectable", "paper")
NOTE = (
    "Verdicts follow a rule that is fixed in the code. Decided is only what more than three seeds show in "
    "every route (t interval, bootstrap over problems and seeds or sign flips), after Holm's correction over a claim's "
    "parts. Detectable: the smallest true effect that this design finds with 80 % power, before Holm's correction. "
    "Inconclusive is not refuted: see what could have been seen."
)


def write_claims(results: Path, seeds: Sequence[int]) -> list[Path]:
    """Decide every claim from the runs under results/<scale> = `results`, each with its study's share of `seeds`.

    Writes claims.json and claims.md there and returns their paths. Raises UserError for damaged runs.
    """

    seen = []

    def runs_of(claim: Claim) -> Evidence | None:
        if not any((results / "runs" / arm).is_dir() for arm in claim.arms):
            return None
        seen.append(load_evidence(results, claim.arms, seeds[: STUDIES[claim.study].seeds]))
        return seen[-1]

    decisions = decide_all(runs_of)
    text = json.dumps(records(decisions), indent=1, ensure_ascii=False) + "\n"
    written = page(decisions, thresholds_note(seen))
    return [write_atomic(results / "claims.json", text), write_atomic(results / "claims.md", written)]


def thresholds_note(evidence: Iterable[Evidence]) -> str:
    """What a threshold named in a claim is in these runs, where their scale multiplies it; else ""."""
    protocols = [run["protocol"] for each in evidence for run in each.runs.values()]
    factors = sorted({float(protocol.get("factor on thresholds", 1)) for protocol in protocols})
    told = [
        f"In these runs every threshold is {factor:g} times the one named: 0.2 is {0.2 * factor:g}, 0.7-1.3 is "
        f"{1 - 0.3 * factor:g}-{1 + 0.3 * factor:g}."
        for factor in factors
        if factor != 1
    ]
    return " ".join(told)


def decide_all(runs_of: Callable[[Claim], Evidence | None]) -> list[Decision]:
    """Every claim decided, in the order of the registry, from what `runs_of` gives for it."""
    return [decide(claim, runs_of(claim)) for claim in CLAIMS.values()]


def part_of(evidence: Evidence, claim: Claim) -> Evidence | None:
    """The claim's runs among those of `evidence`, None unless all its arms and its study are among them."""
    spec = STUDIES[claim.study]
    if not set(claim.arms) <= set(evidence.methods):
        return None
    seeds = evidence.seeds[: spec.seeds]

    def kept(mapping: Mapping) -> dict:
        return {(arm, seed): value for (arm, seed), value in mapping.items() if arm in claim.arms and seed in seeds}

    scores = [score for score in evidence.scores if score["method"] in claim.arms and score["seed"] in seeds]
    return replace(
        evidence, methods=claim.arms, seeds=seeds, runs=kept(evidence.runs), rows=kept(evidence.rows), scores=scores
    )


def records(decisions: Sequence[Decision]) -> list[dict]:
    """The decisions as plain data; a number that does not exist is None."""
    found = []
    for made in decisions:
        claim = made.claim
        fields = {name: getattr(claim, name) for name in ("id", "sentence", "study", "arms", "statistic", "paper")}
        parts = [{name: _number(value) for name, value in asdict(part).items()} for part in made.parts]
        found.append(
            {**fields, "rule": RULES[claim.decide], "verdict": made.verdict, "seeds": made.seeds, "parts": parts}
        )
    return found


def page(decisions: Sequence[Decision], conditions: str = "") -> str:
    """claims.md. conditions: what holds for all its runs and differs from the paper, a sentence."""
    counted = ", ".join(f"{sum(made.verdict == word for made in decisions)} {word}" for word in VERDICTS)
    lines = ["# The paper's claims", "", f"{len(decisions)} claims: {counted}.", "", NOTE, ""]
    lines += [conditions, ""] if conditions else []
    lines += [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(decisions)]
    lines += ["", "## Rules and parts", ""]
    for made in decisions:
        claim = made.claim
        lines.append(
            f"* **{claim.sentence}** (`{claim.id}`, study `{claim.study}`) {claim.statistic}; {RULES[claim.decide]}."
        )
        lines += [f"  * {part.what}: {number(part)}; {part.finding}" for part in made.parts]
    lines += ["", "## The paper's own scores", "", PUBLISHED, "", published_table(methods=METHODS_SHOWN)]
    return "\n".join(lines) + "\n"


METHODS_SHOWN = ("grpo", "clip_higher", "id", "did", "od")
PUBLISHED = (
    "Qwen2.5-Math-7B, arXiv 2602.09782 v1, one run per cell: score [widest [narrower] interval] that it would have had "
    "from its choice of problems alone, answers to one problem all alike or correlated by a half."
)


def table_of(evidence: Evidence) -> Table:
    """The claims that the runs of one comparison speak to, for a report."""
    decisions = decide_all(lambda claim: part_of(evidence, claim))
    told = [made for made in decisions if made.verdict != NOT_RUN]
    rest = f"{len(decisions) - len(told)} more need other runs: snakemake --cores all studies, then claims.md."
    note = " ".join(filter(None, [NOTE.replace("`", ""), thresholds_note([evidence]), rest]))
    return Table("The paper's claims", note, list(HEAD), rows(told))


def rows(decisions: Sequence[Decision]) -> list[list[str]]:
    """A row per claim, in the columns of HEAD."""
    found = []
    for made in decisions:
        shown = [part for part in made.parts if part.n]
        effects = "; ".join(number(part) for part in shown) if len(shown) < 4 else f"{len(shown)} parts, below"
        sizes = [part.detectable for part in shown if not math.isnan(part.detectable)]
        least = f"{max(sizes):.2g} {shown[0].unit}".rstrip() if sizes else "–"
        found.append([made.claim.sentence, made.verdict, effects or "–", least, made.claim.paper])
    return found


def number(part: Part) -> str:
    """Effect, interval, unit and seeds, e.g. `+0.021 [-0.018, +0.060] nats, 5 seeds`."""
    if part.n == 0:
        return "missing"
    digits = 1 if part.unit == "pt" else 3
    interval = "" if math.isnan(part.low) else f" [{part.low:+.{digits}f}, {part.high:+.{digits}f}]"
    unit = f" {part.unit}" if part.unit else ""
    return f"{part.effect:+.{digits}f}{interval}{unit}, {part.n} seed{'s' * (part.n != 1)}"


def _number(value):
    return None if isinstance(value, float) and math.isnan(value) else value
