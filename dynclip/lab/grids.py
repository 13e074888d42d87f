"""The regimes for the questions of docs/lab.md, declared before any run.

The grid "train" is a factorial, the phase diagram. All choices for the predictor were made on it. The grid "test" is
drawn at random from wider ranges, with other sizes and seeds. It decides how good the predictor is.
"""

import math
from itertools import product

import numpy as np

from dynclip.lab.world import PEAKS, Regime

STEPS = 60
SAMPLES = 256  # completions of a rollout step in the train grid
SEEDS = {"train": tuple(range(8)), "test": tuple(range(100, 108))}
# The axes of the train grid: label → fields.
STARTS = {
    "flat": {"peak": 0.0},
    "peak 2.5": {"peak": 2.5},
    "peak 4": {"peak": 4.0},
}
REWARDS = {
    "0.5": {"good": 8, "length": 1},
    "0.25": {"good": 4, "length": 1},
    "0.06": {"good": 8, "length": 4},
    "0.004": {"good": 4, "length": 4},
}
UPDATES = {"4": {"minibatches": 1, "epochs": 4}, "16": {"minibatches": 4, "epochs": 4}}
RATES = {"0.05": {"learning_rate": 0.05}, "0.15": {"learning_rate": 0.15}}
GROUPS = {"4": {"group": 4, "problems": SAMPLES // 4}, "16": {"group": 16, "problems": SAMPLES // 16}}
AXES = {"start": STARTS, "reward": REWARDS, "updates": UPDATES, "step size": RATES}
# Four regimes for curves: where entropy starts, and how far the peak is from the reward.
STORIES = {
    "flat start, frequent reward": {"peak": 0.0, "good": 8, "length": 2},
    "flat start, long problems": {"peak": 0.0, "good": 8, "length": 4},
    "peaked start": {"peak": 4.0, "good": 4, "length": 2},
    "peaked on wrong actions": {"peak": 4.0, "peak_at": "bad", "good": 8, "length": 2},
}


def factorial() -> dict[tuple[str, ...], Regime]:
    """The 48 regimes of the phase diagram, by their labels on AXES, with groups of 16."""
    found = {}
    for labels in product(*AXES.values()):
        fields = dict(GROUPS["16"])
        for axis, label in zip(AXES.values(), labels, strict=True):
            fields |= axis[label]
        found[labels] = Regime(**fields, steps=STEPS)
    return found


def variations() -> list[Regime]:
    """Variations outside the factorial, at four updates: peaks on right or wrong actions, SGD, and groups of 4.

    SGD's rate is in logits per unit of the token-mean gradient: 10 moves a ratio about as far as Adam's 0.1 here.
    """
    base = {**GROUPS["16"], **UPDATES["4"], "steps": STEPS}
    peaks = [
        Regime(peak=4.0, peak_at=at, learning_rate=0.1, **reward, **base)
        for at in ("good", "bad")
        for reward in REWARDS.values()
    ]
    plain = [
        Regime(peak=peak, optimizer="sgd", learning_rate=10.0, **reward, **base)
        for peak in (0.0, 4.0)
        for reward in REWARDS.values()
    ]
    small = [
        Regime(peak=peak, learning_rate=0.15, **{**reward, **base, **GROUPS["4"]})
        for peak in (0.0, 4.0)
        for reward in REWARDS.values()
    ]
    return peaks + plain + small


def drawn(count: int = 40, seed: int = 2602) -> list[Regime]:
    """Random regimes: every size and rate is from a range; even draws have a reward chance of at least 0.2 %."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        states, actions = int(rng.choice([32, 48, 96])), int(rng.choice([8, 12, 24, 32]))
        length, good = int(rng.integers(1, 6)), max(1, round(actions * rng.uniform(0.1, 0.6)))
        peak = float(rng.choice([0.0, rng.uniform(1, 5), rng.uniform(1, 5)]))
        sgd = rng.random() < 0.25
        rate = states * rng.uniform(0.08, 0.35) if sgd else math.exp(rng.uniform(math.log(0.03), math.log(0.2)))
        regime = Regime(
            states=states,
            actions=actions,
            length=length,
            good=good,
            noise=float(rng.choice([0.3, 1.0])),
            peak=round(peak, 2),
            peak_at=str(rng.choice(PEAKS, p=(0.25, 0.25, 0.5))),
            group=int(rng.choice([4, 6, 8, 12])),
            problems=24,
            minibatches=int(rng.integers(1, 5)),
            epochs=int(rng.integers(2, 6)),
            learning_rate=float(f"{rate:.3g}"),
            optimizer="sgd" if sgd else "adam",
            steps=STEPS,
        )
        if (good / actions) ** length >= 0.002:
            found.append(regime)
    return found


def regimes(grid: str) -> list[Regime]:
    """The regimes of grid "train" or "test"."""
    return [*factorial().values(), *variations()] if grid == "train" else drawn()


def stories(learning_rates=(0.05, 0.15), updates=("16",), steps: int = 120) -> dict[str, Regime]:
    """STORIES at several step sizes and updates per rollout batch, by a label that names all three."""
    return {
        f"{story}, {rate:g}, {number} updates": Regime(
            **fields, **UPDATES[number], **GROUPS["16"], learning_rate=rate, steps=steps
        )
        for story, fields in STORIES.items()
        for rate in learning_rates
        for number in updates
    }
