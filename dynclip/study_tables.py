"""Tables of single studies: all benchmarks together, what the design can see, a ranking, the rule's sign."""

import math

import numpy as np

from dynclip.comparisons import at_share, seed_means
from dynclip.evidence import Evidence, checkpoint_folder, counts
from dynclip.tables import Table
from evals.power import Components, Design, minimum_detectable_effect, variance_components
from evals.stats import Estimate, iqm, mean_interval, probability_of_improvement, rankings

DESIGNS = (5, 10, 20)  # training seeds that the power table plans for


def scores_of(evidence: Evidence, method: str) -> np.ndarray:
    """avg@k of the last checkpoint in per cent, (seeds, benchmarks); NaN where a run is missing."""
    columns = [seed_means(evidence, benchmark, method) for benchmark in evidence.benchmarks]
    return np.array([[column.get(seed, math.nan) for column in columns] for seed in evidence.seeds])


def aggregate(evidence: Evidence) -> Table:
    """Interquartile mean over benchmarks and the chance that a run is better than the baseline's."""
    rows, records, base = [], [], scores_of(evidence, evidence.baseline)
    for method in evidence.methods:
        table = scores_of(evidence, method)
        centre = iqm(table, resample="run")
        within = iqm(table)
        better = None if method == evidence.baseline else probability_of_improvement(table, base, resample="run")
        rows.append([method, _text(centre, 1), _text(within, 1), "–" if better is None else _text(better, 2)])
        records.append(
            {"method": method, **_fields("iqm", centre), **_fields("iqm_within", within)}
            | ({} if better is None else _fields("improvement", better))
        )
    note = (
        "Last checkpoint, all benchmarks together. Interquartile mean (arXiv 2108.13264) with its 95 % interval, whole "
        "runs resampled, and as in that paper with seeds resampled within each benchmark, which takes one run's scores "
        f"for independent ones. Improvement: chance that a run scores above a run of {evidence.baseline}, ties half, "
        "mean over benchmarks; 0.5 is none."
    )
    header = ["method", "IQM, % [runs]", "IQM, % [within benchmarks]", f"better than {evidence.baseline} [runs]"]
    return Table("All benchmarks together", note, header, rows, records)


def power(evidence: Evidence) -> Table:
    """Where the scores' spread comes from, and the smallest difference that more seeds would show."""
    rows, records = [], []
    for benchmark in evidence.benchmarks:
        base = {s: counts(score) for s, score in evidence.select(benchmark, evidence.baseline).items()}
        for method in evidence.methods:
            these = {s: counts(score) for s, score in evidence.select(benchmark, method).items()}
            if method == evidence.baseline or len(these.keys() & base.keys()) < 2:
                continue
            parts = variance_components(these, base)
            sizes = {n: _detectable(parts, n) for n in DESIGNS}
            rows.append([benchmark, f"{method} − {evidence.baseline}", parts.sentence])
            rows[-1] += [f"{size:.1f} pt" for size in sizes.values()]
            records.append(
                {"benchmark": benchmark, "a": method, "b": evidence.baseline, "sd_seed": parts.sd("seed"),
                 "sd_interaction": parts.sd("interaction"), "sd_problem": parts.sd("problem"),
                 "sd_sampling": parts.sd("sampling"), **{f"detectable_{n}": size for n, size in sizes.items()}}
            )  # fmt: skip
    note = (
        "Spread of one pair's difference by source, as SDs in points; then the smallest true difference that so many "
        "seeds find with 80 % power, on other problems of the kind too (t interval and "
        "bootstrap, before Holm's correction), with the same problems and samples."
    )
    header = ["benchmark", "comparison", "where the spread comes from", *(f"{n} seeds" for n in DESIGNS)]
    return Table("What the design can see", note, header, rows, records)


def _detectable(parts: Components, seeds: int) -> float:
    design = Design(seeds, parts.problems, parts.samples)
    return max(minimum_detectable_effect(parts, design, problems_drawn=drawn) for drawn in (False, True))


def ranking(evidence: Evidence) -> Table:
    """The arms in the order of their reward over the last fifth of training, with the interval of each place."""
    table = {}
    for name in evidence.methods:
        last = {s: at_share(curve, 90, 20) for s, curve in evidence.curves("train/reward", name).items()}
        table[name] = np.array([[100 * last.get(seed, math.nan)] for seed in evidence.seeds])
    rows, records = [], []
    for place in rankings(table):
        spread, rank = mean_interval(table[place.method].ravel()), place.rank
        ends = "missing" if rank.n == 0 else f"{rank.value:g}" if rank.n == 1 else f"{rank.low:g} to {rank.high:g}"
        score = "missing" if spread.n == 0 else f"{spread.mean:.1f} ± {spread.sd:.1f}"
        rows.append([f"{rank.value:g}" if rank.n else "–", place.method, score, ends, f"{place.first:.2f}", rank.label])
        records.append(
            {"method": place.method, "rank": rank.value, "rank_low": rank.low, "rank_high": rank.high,
             "leads": place.first, "reward": spread.mean, "sd": spread.sd, "seeds": rank.n}
        )  # fmt: skip
    note = (
        "Training reward, mean over the last fifth of the steps, ± SD over seeds. Places: 95 % interval over resampled "
        "seeds, the same ones for all (expanded percentiles); leads: share of the resamples that the arm is first in."
    )
    header = ["place", "method", "reward, %", "place, 95 %", "leads", ""]
    return Table("Ranking", note, header, rows, records)


SIGN_PROMPTS, SIGN_SAMPLES = 32, 8  # of each checkpoint whose tokens are looked at


def signs(evidence: Evidence) -> Table:
    """How often the token-only rule has the exact expression's sign on the baseline's own tokens, by checkpoint."""
    from dynclip.agreement import load_policy, load_prompts, policy_tokens
    from dynclip.agreement_counts import summarise
    from dynclip.scales import SCALES

    groups = {"agree": "all tokens", **{f"agree_E{n}": f"E{n}" for n in (1, 2, 3, 4)}}
    prompts = load_prompts(str(evidence.results / "data" / "train.jsonl"))[:SIGN_PROMPTS]
    length, found = SCALES[evidence.scale].max_completion, {}
    for (method, seed), run in evidence.runs.items():
        for step in run["checkpoints"] if method == evidence.baseline else ():
            model, tokenizer, _ = load_policy(str(checkpoint_folder(evidence.results, method, seed, step)))
            found.setdefault(step, []).append(
                summarise(policy_tokens(model, tokenizer, prompts, SIGN_SAMPLES, length, seed))
            )
    rows, records = [], []
    for step, every in sorted(found.items()):
        entropy = mean_interval([one["mean_entropy"][0] for one in every])
        row, record = [str(step), f"{entropy.mean:.3f} ± {entropy.sd:.3f}"], {"step": step, "entropy": entropy.mean}
        for key in groups:
            share = mean_interval([math.nan if one[key][0] is None else 100 * one[key][0] for one in every])
            row.append("missing" if share.n == 0 else f"{share.mean:.1f} ± {share.sd:.1f}")
            record |= {key: share.mean, f"{key}_sd": share.sd, "seeds": share.n}
        rows.append(row)
        records.append(record)
    note = (
        f"{evidence.baseline}'s checkpoints after so many rollout steps: {SIGN_SAMPLES} completions of {SIGN_PROMPTS} "
        "training problems at temperature 1. Share of tokens on which p (ln p + H) has the sign of p (ln p + H) − B "
        "(docs/regions.md), % ± SD over training seeds."
    )
    return Table("Is the rule's sign right?", note, ["step", "entropy, nats", *groups.values()], rows, records)


def _fields(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high, "seeds": estimate.n}


def _text(estimate: Estimate, digits: int) -> str:
    if estimate.n == 0:
        return "missing"
    text = f"{estimate.value:.{digits}f}"
    if estimate.n > 1:
        text += f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{text} ({estimate.label})" if estimate.label else text
