"""`dynclip diagnose`: what clipping does in a training log, and what else keeps a run from learning, in plain words.

Every rule is a function of a `Log` with its threshold beside it; docs/diagnose.md has the sources.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynclip.report.terminal.compare import sparkline
from dynclip.report.terminal.logs import Log, read_log
from dynclip.runtime.text import say

ACTIVE = 0.01  # of the tokens: below it bounds hardly act (the precondition of the project's claims)
HEAVY = 0.2  # of the tokens: above it a bound cuts the gradient of many
HALF = 0.5  # of entropy's start: below it entropy has collapsed (the same precondition)
LOW = 0.1  # nats a token: nearly deterministic
GROWN = 1.5  # times entropy's start
DEAD = 0.5  # of the groups: above it most of a batch has no gradient (DAPO's dynamic sampling, arXiv 2503.14476)
CUT = 0.1  # of the completions: above it length decides much of the reward (DAPO's overlong shaping)
APART = 0.02  # nats a token, mean: sampler and trainer disagree (TRL and verl correct for it on request)
ON_POLICY = 1e-6  # ratios and KL to the sampling policy nearer to 1 and 0 than this are rounding


@dataclass(frozen=True)
class Said:
    """A sentence of the diagnosis. warns: whether something should be changed or looked at."""

    text: str
    warns: bool = False


def diagnose(path: Path | str, log: Callable[[str], None] = say) -> list[Said]:
    """Print what the log at `path` says. Raises UserError where nothing can be read."""
    found = read_log(path)
    log(f"{found.path}: a log of {found.kind}, {found.steps} logged steps; metrics: {', '.join(found.names.values())}")
    said = [sentence for rule in RULES for sentence in rule(found)]
    for sentence in said:
        log(f"{'!' if sentence.warns else ' '} {sentence.text}")
    missing = [name for name in ("entropy", "reward") if name not in found.series]
    if missing:
        log(f"  Not logged: {', '.join(missing)}; what depends on it is not judged.")
    return said


def clipping(log: Log) -> list[Said]:
    """Share of clipped tokens on each side, or that nothing can be clipped."""
    sides = {name: log.series[name] for name in ("clip_low", "clip_high") if name in log.series}
    both = log.series.get("clip") or [sum(pair) for pair in zip(*sides.values(), strict=False)]
    if not both:
        return [Said("No clipped share is logged, so that it is not known whether a bound acts.", True)]
    off = log.series.get("kl_old"), log.series.get("ratio_max")
    never = max(both) == 0
    at_one = off[1] and max(abs(ratio - 1) for ratio in off[1]) < ON_POLICY
    no_move = off[0] and max(map(abs, off[0])) < ON_POLICY
    if never and (at_one or no_move or not any(off)):
        seen = "and the ratios are 1" if at_one or no_move else "in any step"
        return [
            Said(
                f"No token is ever clipped, {seen}: most likely each rollout batch gets one update, at which every "
                "ratio is 1. No bound can act then. To use one, split the batch into mini-batches or go over it "
                "several times (TRL: num_iterations, or steps_per_generation above gradient_accumulation_steps; verl: "
                "ppo_mini_batch_size, ppo_epochs).",
                True,
            )
        ]
    start, end = thirds(both)
    parts = [f"{percent(mean(values))} {'below' if name == 'clip_low' else 'above'}" for name, values in sides.items()]
    text = f"Clipped tokens: {percent(mean(both))} on average"
    text += f" ({', '.join(parts)})" if parts else ""
    text += f"; {percent(start)} in the first third of the steps, {percent(end)} in the last."
    if mean(both) < ACTIVE:
        return [Said(f"{text} That is below {percent(ACTIVE)}: another bound would hardly change this run.", True)]
    if mean(both) > HEAVY:
        return [Said(f"{text} That is above {percent(HEAVY)}: much of each batch has no gradient.", True)]
    return [Said(text)]


def dual_clip(log: Log) -> list[Said]:
    values = log.series.get("dual_clip")
    if not values or mean(values) < ACTIVE / 10:
        return []
    return [Said(f"The dual clip cuts {percent(mean(values))} of the tokens: ratios become very large.", True)]


def entropy(log: Log) -> list[Said]:
    """How entropy moves, and when it has collapsed."""
    values = log.series.get("entropy")
    if not values or len(values) < 3:
        return []
    start, end = edge(values), edge(values[::-1])
    text = f"Entropy {sparkline(values, min(values), max(values))} goes from {start:.3g} to {end:.3g} nats a token"
    if math.isfinite(start) and start < LOW:
        return [Said(f"{text}. It starts below {LOW} nats: the policy is nearly deterministic before training.", True)]
    if end < HALF * start:
        crossed = next(i for i, value in enumerate(values) if value < HALF * start)
        where = f"it is below half of its start from logged step {crossed + 1} of {len(values)} on"
        floor = f" and ends below {LOW} nats" if end < LOW else ""
        return [Said(f"{text}: it collapses; {where}{floor}.", True)]
    if end > GROWN * start:
        return [Said(f"{text}: it grows. Look at samples: growth beside a level reward is noise.", True)]
    return [Said(f"{text}, {100 * (end / start - 1):+.0f} %.")]


def groups(log: Log) -> list[Said]:
    values = log.series.get("dead_groups")
    if not values:
        return []
    level = mean(values)
    text = f"{percent(level)} of the groups have one reward for all completions and no gradient"
    if level > DEAD:
        rewards = log.series.get("reward", [])
        easy = bool(rewards) and edge(rewards[::-1]) > 0.5
        cause = "problems are too easy" if easy else "problems are too hard, or the reward is too rare"
        return [Said(f"{text}: {cause}; choose problems, or sample until groups differ (dynamic sampling).", True)]
    return [Said(f"{text}.")]


def truncation(log: Log) -> list[Said]:
    values = log.series.get("truncated")
    if not values or mean(values) <= CUT:
        return []
    return [
        Said(
            f"{percent(mean(values))} of the completions are cut off: length decides much of the reward; raise the "
            "limit or leave cut completions out of the loss.",
            True,
        )
    ]


def mismatch(log: Log) -> list[Said]:
    values = log.series.get("mismatch")
    if not values or mean(values) <= APART:
        return []
    return [
        Said(
            f"Sampler and trainer differ by {mean(values):.3g} on average in a token's log-probability or probability, "
            "so that ratios are not 1 before any update: correct for it (truncated importance sampling), or give both "
            "one precision.",
            True,
        )
    ]


def reward(log: Log) -> list[Said]:
    values = log.series.get("reward")
    if not values or len(values) < 3:
        return []
    start, end = edge(values), edge(values[::-1])
    curve = sparkline(values, min(values), max(values))
    return [Said(f"Reward {curve} goes from {start:.3g} to {end:.3g}.")]


def numbers(log: Log) -> list[Said]:
    bad = [name for name, values in log.series.items() if any(map(math.isnan, values))]
    if not bad:
        return []
    return [Said(f"Not a number in some steps: {', '.join(bad)}; find the first of them and what led to it.", True)]


RULES = (clipping, dual_clip, entropy, reward, groups, truncation, mismatch, numbers)


def mean(values: Sequence[float]) -> float:
    """Mean of what is a number; NaN without any."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan


def edge(values: Sequence[float]) -> float:
    """Mean of the first twentieth of the steps, at least 3 of them."""
    return mean(values[: max(3, len(values) // 20)])


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last third of the steps."""
    size = max(1, len(values) // 3)
    return mean(values[:size]), mean(values[-size:])


def percent(share: float) -> str:
    return f"{100 * share:.2g} %"
