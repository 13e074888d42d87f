"""The regimes of the map and of the predictor's test, and the arms. Declared before any of them ran.

The "train" grid crosses κ with one change at a time. The predictor has no free number: this grid is for looking at it
and for choosing how it is written. The "test" grid is drawn at random from wider ranges, with other seeds; it decides.
"""

import math
from dataclasses import replace

import numpy as np

from dynclip.lab.fresh.world import FreshRegime
from dynclip.methods.types import Line

SEEDS = {"train": tuple(range(8)), "test": tuple(range(100, 108))}
EDGE = math.log(1.2)  # GRPO's upper bound as a log-ratio: the unit of κ in the map
OWN = (0.02, 0.06, 0.12, 0.2, 0.3, 0.5, 1.0)  # κ
# Arm → (method, options). The first one is what the others are compared with.
ARMS = {
    "grpo": ("grpo", {}),
    "clip_higher": ("clip_higher", {}),
    "dynamic_upper": ("dynamic_upper", {}),
    "upper_steep": ("dynamic_upper", {"upper": Line(-0.5, 0.5)}),
    "clip_lower": ("clip_lower", {}),
    "dynamic_lower": ("dynamic_lower", {}),
    "lower_steep": ("dynamic_lower", {"lower": Line(-0.26, 0.3)}),
    "no_clip": ("clip_higher", {"eps_low": 1.0, "eps_high": math.inf}),
}
CENTRE = FreshRegime(positions=12, neutral=10, right=16, problems=32, group=8, minibatches=4, epochs=2, own=0.3)
# What changes against CENTRE, one row of the map each.
VARIATIONS = {
    "centre: 10 of 12 tokens neutral": {},
    "all tokens neutral, the reward is a coin": {"neutral": 12},
    "half of the tokens neutral": {"neutral": 6, "right": 24},
    "no token neutral": {"neutral": 0, "right": 28},
    "half of the problems recur": {"recurring": 16},
    "all problems recur": {"recurring": 32},
    "all recur, no token neutral": {"recurring": 32, "neutral": 0, "right": 28},
    "16 updates: 16 mini-batches, 1 epoch": {"minibatches": 16, "epochs": 1},
    "16 updates: 4 mini-batches, 4 epochs": {"minibatches": 4, "epochs": 4},
    "groups of 4": {"group": 4, "problems": 64},
    "groups of 16": {"group": 16, "problems": 16},
    "rare reward: 2 % at the start": {"right": 4},
    "frequent reward: 77 % at the start": {"right": 28},
    "shared logits by plain descent": {"optimizer": "sgd", "learning_rate": 1.0},
}


def mapped() -> dict[tuple[str, float], FreshRegime]:
    """The regimes of the map, by the row's label and κ."""
    return {(label, own): replace(CENTRE, own=own, **fields) for label, fields in VARIATIONS.items() for own in OWN}


def drawn(count: int = 40, seed: int = 2611) -> list[FreshRegime]:
    """Random regimes. Even draws at decisive positions are right with a chance of at least 1 %."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        positions, actions = int(rng.choice([6, 10, 16])), int(rng.choice([16, 24, 48]))
        decisive = min(positions - 1, int(rng.choice([0, 1, 2, 4])))
        right, problems = max(1, round(actions * rng.uniform(0.2, 0.9))), int(rng.choice([16, 24, 48]))
        sgd = rng.random() < 0.25
        rate = rng.uniform(0.3, 2.0) if sgd else math.exp(rng.uniform(math.log(0.004), math.log(0.03)))
        minibatches, epochs = [(1, 4), (2, 3), (4, 2), (4, 4), (8, 1), (8, 2)][rng.integers(6)]
        regime = FreshRegime(
            positions=positions,
            neutral=positions - decisive,
            actions=actions,
            zipf=float(rng.choice([0.5, 1.0, 1.5])),
            right=right,
            problems=problems,
            group=int(rng.choice([4, 6, 12])),
            minibatches=minibatches,
            epochs=epochs,
            recurring=int(problems * rng.choice([0.0, 0.0, 0.25, 0.5])),
            own=float(f"{math.exp(rng.uniform(math.log(0.03), math.log(1.5))):.3g}"),
            learning_rate=float(f"{rate:.3g}"),
            optimizer="sgd" if sgd else "adam",
            steps=50,
        )
        if (right / actions) ** decisive >= 0.01:
            found.append(regime)
    return found


def regimes(grid: str) -> list[FreshRegime]:
    """The regimes of grid "train" or "test"."""
    return list(mapped().values()) if grid == "train" else drawn()
