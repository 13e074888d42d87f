"""Compares runs of the tabular policy at equal steps and at equal success, and with the predictions."""

from dataclasses import asdict

import numpy as np

from dynclip.lab.bands import ARMS, LOOSER, READINGS, UPPER, WHERE, follow, predict
from dynclip.lab.tabular import Trace, run
from dynclip.lab.world import Regime

DECIDED = 2.5  # standard errors
LEAST_GAIN = 0.01  # of expected reward, on average over seeds: below it "half of the gain" is noise
LEAST_SEEDS = 4


def differences(traces: dict[str, Trace], where: str) -> dict[str, np.ndarray]:
    """Entropy of each looser arm minus that of the first, (seeds,), paired by seed.

    "half" and "end" compare at equal steps. "success" compares where each arm first reaches half of the gain of the
    slowest arm of that seed, interpolated linearly between steps. It is NaN where that arm gains nothing.
    """
    base, *others = traces
    steps = traces[base].entropy.shape[1] - 1
    if where == "success":
        gain = np.min([trace.success[:, -1] - trace.success[:, 0] for trace in traces.values()], axis=0)
        gain = np.where((gain > 0) & (gain.mean() >= LEAST_GAIN), gain, np.nan)
        target = traces[base].success[:, 0] + gain / 2
        level = {name: entropy_at(trace, target) for name, trace in traces.items()}
    else:
        level = {name: trace.entropy[:, steps // 2 if where == "half" else steps] for name, trace in traces.items()}
    return {name: level[name] - level[base] for name in others}


def entropy_at(trace: Trace, target: np.ndarray) -> np.ndarray:
    """Entropy where `success` first reaches `target`, both (seeds,), interpolated; NaN if it never does."""
    found = np.full(len(target), np.nan)
    for seed, goal in enumerate(target):
        success, entropy = trace.success[seed], trace.entropy[seed]
        reached = np.flatnonzero(success >= goal)
        if len(reached) and reached[0] > 0:
            k = reached[0]
            part = (goal - success[k - 1]) / (success[k] - success[k - 1])
            found[seed] = entropy[k - 1] + part * (entropy[k] - entropy[k - 1])
    return found


def summary(values: np.ndarray) -> tuple[float, float, int]:
    """(mean, standard error, n) of the finite values; NaN for fewer than LEAST_SEEDS of them."""
    kept = values[np.isfinite(values)]
    if len(kept) < LEAST_SEEDS:
        return float("nan"), float("nan"), len(kept)
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept))), len(kept)


def decided(mean: float, error: float) -> int:
    """The sign of a difference of at least DECIDED standard errors, else 0."""
    return int(np.sign(mean)) if abs(mean) >= DECIDED * error and mean != 0 else 0


def compare(regime: Regime, seeds) -> tuple[dict, list[dict]]:
    """(facts about the regime, a row per looser arm and place with the measured difference and all scores)."""
    base, bands = follow(regime, seeds)
    traces = {"grpo": base} | {name: run(regime, *ARMS[name][:1], seeds, ARMS[name][1]) for name in LOOSER}
    rows = []
    for where in WHERE:
        measured = differences(traces, where)
        for number, name in enumerate(LOOSER):
            mean, error, n = summary(measured[name])
            row = {"arm": name, "where": where, "difference": mean, "se": error, "n": n, "sign": decided(mean, error)}
            rows.append(row | {reading: predict(base, bands, number, reading, where)[1] for reading in READINGS})
    facts = {
        **asdict(regime),
        "entropy_start": base.entropy[:, 0].mean(),
        "entropy_half": base.entropy[:, regime.steps // 2].mean(),
        "entropy_end": base.entropy[:, -1].mean(),
        "success_start": base.success[:, 0].mean(),
        "success_half": base.success[:, regime.steps // 2].mean(),
        "success_end": base.success[:, -1].mean(),
        "clip_low": base.clip_low.mean(),
        "clip_high": base.clip_high.mean(),
        **{f"band {name}": share for name, share in zip(LOOSER, bands.share.mean((1, 2)), strict=True)},
    }
    return facts, rows


def guess(row: dict, predictor: str) -> int:
    """The sign that a predictor gives: a reading of the band, or a constant answer.

    "paper": a looser upper bound raises entropy, a looser lower bound lowers it; "lower": any looser bound lowers it.
    """
    if predictor == "paper":
        return 1 if row["arm"] in UPPER else -1
    return -1 if predictor == "lower" else int(np.nan_to_num(np.sign(row[predictor])))
