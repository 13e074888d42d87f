"""The verdicts on the paper's claims and on this project's statements: results/<scale>/claims.md and claims.json."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from dynclip.report.claims.parts import ENTROPY, Part, log_change, per_seed
from dynclip.report.claims.published import table as published_table
from dynclip.report.claims.registry import CLAIMS, NOT_RUN, RULES, VERDICTS, Claim, Decision, decide
from dynclip.report.evidence import Evidence, check_comparable, load_evidence
from dynclip.report.records import published
from dynclip.report.tables import Table, markdown_rows
from dynclip.runtime.files import write_atomic
from dynclip.studies.arms import STUDIES
from evals.stats import mean_interval

ALPHA = 0.05
HEAD = ("claim", "verdict", "effect [95 % interval], seeds", "detectable", "paper")
NOTE = (
    "Verdicts follow a rule that is fixed in the code. Decided is only what more than three seeds show in every route "
    "that applies (t interval; bootstrap over problems and seeds; sign flips from six seeds on), after Holm's "
    "correction over a claim's parts. Detectable: the smallest true effect that this design finds with 80 % power, "
    "also corrected. Negligible: equivalent to zero within a tenth of GRPO's own change, by two one-sided tests. "
    "Inconclusive is not refuted: see what could have been seen. Not testable here: the runs lack what the claim is "
    "about or what a refutation needs, for example a collapse of entropy under GRPO, or bounds that act."
)


def write_claims(results: Path, seeds: Sequence[int]) -> list[Path]:
    """Decide every claim from the runs under results/<scale> = `results`, each with its study's share of `seeds`.

    Writes claims.json and claims.md there and returns their paths. Raises UserError for damaged runs.
    """
    arms = dict.fromkeys(arm for claim in CLAIMS.values() for arm in claim.arms)
    present = [arm for arm in arms if (results / "runs" / arm).is_dir()]
    # Read once for all claims. Whether runs may be compared is checked for each claim: no claim compares all of them.
    evidence = load_evidence(results, present, seeds, comparable=False) if present else None

    def runs_of(claim: Claim) -> Evidence | None:
        if not set(claim.arms) & set(present):
            return None
        chosen = subset_of(evidence, claim)
        check_comparable(chosen)
        return chosen

    decisions, regime = decide_all(runs_of), regime_of(evidence)
    text = json.dumps(records(decisions), indent=1, ensure_ascii=False) + "\n"
    texts = {"claims.json": text, "claims.md": page(decisions, regime)}
    return published(results, "claims", [write_atomic(results / name, content) for name, content in texts.items()])


def decide_all(runs_of: Callable[[Claim], Evidence | None]) -> list[Decision]:
    """Every claim decided, in the order of the registry. runs_of: claim -> its runs, None where there are none."""
    return [decide(claim, runs_of(claim)) for claim in CLAIMS.values()]


def part_of(evidence: Evidence, claim: Claim) -> Evidence | None:
    """The claim's runs among those of `evidence`, None unless all its arms are among them."""
    return subset_of(evidence, claim) if set(claim.arms) <= set(evidence.methods) else None


def subset_of(evidence: Evidence, claim: Claim) -> Evidence:
    """The runs of the claim's arms, with as many seeds as its study takes."""
    return evidence.subset(claim.arms, evidence.seeds[: STUDIES[claim.study].seeds])


def records(decisions: Sequence[Decision]) -> list[dict]:
    """The decisions as JSON data. NaN becomes None."""
    found = []
    for made in decisions:
        claim = made.claim
        names = ("id", "sentence", "ours", "study", "arms", "statistic", "paper")
        fields = {name: getattr(claim, name) for name in names}
        parts = [{name: _number(value) for name, value in asdict(part).items()} for part in made.parts]
        found.append(
            {
                **fields,
                "rule": RULES[claim.decide],
                "verdict": made.verdict,
                "reason": made.reason,
                "seeds": made.seeds,
                "parts": parts,
            }
        )
    return found


def regime_of(evidence: Evidence | None) -> str:
    """In which regime the claims are decided: scale, batch, updates, rate, seeds, and what GRPO's runs do in it."""
    runs = {seed: run for (arm, seed), run in evidence.runs.items() if arm == "grpo"} if evidence else {}
    if not runs:
        return "No run of grpo exists, so no regime is shown."
    first = next(iter(runs.values()))
    settings = "; ".join(f"{name} {first['protocol'][name]}" for name in REGIME if name in first["protocol"])
    kept = mean_interval([math.exp(value) for value in per_seed(evidence, ENTROPY, "grpo", log_change).values()])
    low, high = (evidence.curves(f"clip/{side}_fraction", "grpo") for side in ("low", "high"))
    clipped = mean_interval([sum(low[seed] + high[seed]) / len(low[seed]) for seed in low.keys() & high.keys()])
    return (
        f"Decided at the scale `{first['scale']}`: {settings}; {first['steps']} rollout steps, "
        f"{first['updates_per_rollout']} updates on each. Under GRPO, {kept.n} seeds, entropy ends at {kept.mean:.1%} "
        f"[{kept.low:.1%}, {kept.high:.1%}] of its start, and the bounds remove the gradient of {clipped.mean:.1%} "
        f"[{clipped.low:.1%}, {clipped.high:.1%}] of the tokens."
    )


def page(decisions: Sequence[Decision], regime: str) -> str:
    """The text of claims.md. regime: what `regime_of` returned."""
    sides = [made for made in decisions if not made.claim.ours], [made for made in decisions if made.claim.ours]
    counted = ", ".join(f"{sum(made.verdict == word for made in sides[0])} {word}" for word in VERDICTS)
    lines = ["# Claims", "", regime, "", f"{len(sides[0])} claims of the paper: {counted}. {discoveries(decisions)}"]
    lines += ["", NOTE, "", "## The paper's claims", "", markdown_rows(HEAD, rows(sides[0])), ""]
    lines += ["## Statements of this project", "", OURS_NOTE, "", markdown_rows(HEAD, rows(sides[1])), ""]
    lines += ["## Rules and parts", ""]
    for made in decisions:
        claim = made.claim
        lines.append(
            f"* **{claim.sentence}** (`{claim.id}`, study `{claim.study}`) {claim.statistic}; {RULES[claim.decide]}."
        )
        lines += [f"  * {made.verdict}: {made.reason}"] if made.reason else []
        lines += [f"  * {part.what}: {number(part)}; {part.finding}" for part in made.parts]
    lines += ["", "## The paper's own scores", "", PUBLISHED, "", published_table(methods=METHODS_SHOWN)]
    return "\n".join(lines) + "\n"


def discoveries(decisions: Sequence[Decision]) -> str:
    """How many parts of all claims together survive a correction over all of them."""
    from scipy import stats

    found = [part.p for made in decisions for part in made.parts if not math.isnan(part.p)]
    if not found:
        return ""
    kept = sum(p <= ALPHA for p in stats.false_discovery_control(found))
    return (
        f"Of {len(found)} tested parts {sum(p <= ALPHA for p in found)} have p ≤ {ALPHA}, and {kept} keep it after "
        "Benjamini and Hochberg's correction over all claims."
    )


REGIME = (  # entries of a run's protocol that the page names
    "completions per mini-batch", "mini-batches per rollout batch", "epochs per rollout batch", "learning rate",
)  # fmt: skip
OURS_NOTE = (
    "The paper does not make them. They follow from measurements of this project or from the mathematics, and the same "
    "rules judge them."
)
METHODS_SHOWN = ("grpo", "clip_higher", "id", "did", "od")
PUBLISHED = (
    "Qwen2.5-Math-7B, arXiv 2602.09782 v1, one run per cell: score [widest [narrower] interval] that it would have had "
    "from its choice of problems alone, answers to one problem all alike or correlated by a half."
)


def table_of(evidence: Evidence) -> Table:
    """The claims that the runs of one comparison can decide, for the report."""
    decisions = decide_all(lambda claim: part_of(evidence, claim))
    decided = [made for made in decisions if made.verdict != NOT_RUN]
    rest = f"{len(decisions) - len(decided)} more need other runs: snakemake --cores all studies, then claims.md."
    return Table("Claims", f"{NOTE.replace('`', '')} {rest}", list(HEAD), rows(decided))


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
