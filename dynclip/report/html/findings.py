"""The findings of a study as sentences that are computed from its numbers."""

import math
from dataclasses import dataclass
from itertools import pairwise

from dynclip.report.comparisons import (
    at_share,
    benchmark_differences,
    common_reward,
    detectable_after_holm,
    entropy_at_reward,
    is_exact,
    training_differences,
)
from dynclip.report.evidence import Evidence, samples
from evals.stats import EXPLORATORY_SEEDS, Difference, mean_interval

DESIGN = "Design"
BINDING = 0.01  # share of tokens below which the bounds hardly act


@dataclass(frozen=True)
class Finding:
    """One sentence under a heading. warning: the sentence says that the comparison is weak."""

    heading: str
    text: str
    warning: bool = False


def findings(evidence: Evidence) -> list[Finding]:
    """All findings: design, entropy, clipping, training, scores."""
    return [
        *_design(evidence),
        *_entropy(evidence),
        *_clipping(evidence),
        *_training(evidence),
        *_scores(evidence),
    ]


def _design(evidence: Evidence) -> list[Finding]:
    heading, found = DESIGN, []
    n = len(evidence.seeds)
    if n == 1:
        found.append(Finding(heading, "One seed per method: n=1, no claim about any difference is possible.", True))
    elif n <= EXPLORATORY_SEEDS:
        found.append(Finding(heading, f"{n} seeds per method: every comparison is exploratory.", True))
    else:
        found.append(Finding(heading, f"{n} seeds per method, compared in pairs that share start and random numbers."))
    updates = sorted({run["updates_per_rollout"] for run in evidence.runs.values()})
    if updates:
        text = f"{', '.join(map(str, updates))} updates per rollout batch"
        if updates == [1]:
            text = (
                "1 update per rollout batch: every importance ratio is 1, so the clipping methods are one and the same"
            )
        found.append(Finding(heading, f"{text}.", updates == [1]))
    if evidence.missing:
        names = ", ".join(f"{method}/seed{seed}" for method, seed in evidence.missing)
        found.append(Finding(heading, f"Missing runs, left out and not filled in: {names}.", True))
    return found


def _entropy(evidence: Evidence) -> list[Finding]:
    found = []
    for method in evidence.methods:
        curves = evidence.curves("policy/entropy", method)
        ends = [(at_share(values, 0), at_share(values, 100)) for values in curves.values()]
        if not ends:
            continue
        fell = sum(last < first for first, last in ends)
        first, last = (sum(side) / len(ends) for side in zip(*ends, strict=True))
        times = f"falls in {fell} of {len(ends)} seeds"
        if len(ends) == 1:
            times = f"{'falls' if fell else 'does not fall'} in the one seed there is"
        text = f"Entropy under {method} {times}"
        found.append(Finding("Entropy", f"{text}: from {first:.3f} to {last:.3f} nats (mean over seeds)."))
    level = common_reward(evidence)
    if not math.isnan(level):
        parts = []
        for method, values in entropy_at_reward(evidence, level).items():
            spread = mean_interval(list(values.values()))
            if spread.n:
                sd = f" ± {spread.sd:.3f}" if spread.n > 1 else ""
                parts.append(f"{method} {spread.mean:.3f}{sd} (n={spread.n})")
        found.append(
            Finding(
                "Entropy",
                f"Entropy when reward first reaches {level:.2f}, mean ± seed SD: {'; '.join(parts)} nats.",
            )
        )
    return found


def _clipping(evidence: Evidence) -> list[Finding]:
    heading, found = "Do the bounds act?", []
    for method in evidence.methods:
        low, high = (evidence.curves(f"clip/{side}_fraction", method) for side in ("low", "high"))
        totals = [
            sum(a + b for a, b in zip(low[s], high[s], strict=True)) / len(low[s]) for s in sorted(set(low) & set(high))
        ]
        spread = mean_interval(totals)
        if not spread.n:
            continue
        sd = f" ± {100 * spread.sd:.2f}" if spread.n > 1 else ""
        text = f"{method}: {100 * spread.mean:.2f}{sd} % of tokens lost their gradient to a bound (mean over training)"
        weak = spread.mean < BINDING
        if weak:
            text += "; below 1 %, so the bounds hardly act and methods can hardly differ through them"
        found.append(Finding(heading, text + ".", weak))
    for method in evidence.methods:
        switches = {
            seed: sum(a != b for a, b in pairwise(states))
            for seed, states in evidence.curves("clip/state", method).items()
        }
        if switches:
            never = list(switches.values()).count(0)
            text = f"{method} switches {min(switches.values())} to {max(switches.values())} times a seed"
            text += f"; it never switches in {never} of {len(switches)} seeds" if never else ""
            found.append(Finding(heading, f"{text}.", never > 0))
    return found


def _training(evidence: Evidence) -> list[Finding]:
    return [
        Finding("Training, against " + evidence.baseline, f"{gap.sentence}.") for gap in training_differences(evidence)
    ]


def _scores(evidence: Evidence) -> list[Finding]:
    heading = "Benchmarks, against " + evidence.baseline
    gaps = benchmark_differences(evidence)
    found = [Finding(heading, text) for text in _family(gaps)]
    found += [Finding(heading, f"{gap.sentence}.") for gap in gaps]
    graded = [score for score in evidence.scores if not is_exact(score)]
    total = sum(map(samples, graded))
    if total:
        counted = {
            name: sum(score["verdicts"].get(name, 0) for score in graded)
            for name in ("truncated", "unparsable", "timed_out")
        }
        shares = [f"{name.replace('_', ' ')} {100 * n / total:.1f} %" for name, n in counted.items()]
        found.append(Finding("Grading", f"Of {total} graded samples: {', '.join(shares)}."))
    return found


def _family(gaps: list[Difference]) -> list[str]:
    tested = [gap for gap in gaps if gap.p_holm is not None]
    if not tested:
        return []
    claims = [gap for gap in tested if gap.claim]
    lines = [
        f"{len(claims)} of {len(tested)} comparisons support a claim: every interval excludes 0, also after Holm's "
        f"correction, with more than {EXPLORATORY_SEEDS} seeds."
    ]
    sizes = [size for size in map(detectable_after_holm, tested) if not math.isnan(size)]
    if sizes:
        lines.append(
            "Smallest true difference that this design would have found with 80 % power, after Holm's correction: "
            f"{min(sizes):.1f} to {max(sizes):.1f} pt, depending on the comparison."
        )
    return lines
