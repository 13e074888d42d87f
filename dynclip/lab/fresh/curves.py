"""Do ID, DID and OD draw their curves where contexts do not recur? Regimes, runs, shapes over seeds, table and figure.

ID's entropy is said to rise, then fall; DID's to fall, rise, fall; OD's to switch between two thresholds. The regimes
and seeds below were declared before any of them ran. `dynclip.report.claims` judges a study's curves by the same tests.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dynclip.lab.fresh.grids import CENTRE, EDGE
from dynclip.lab.fresh.world import FreshRegime, FreshTrace, run
from dynclip.methods.registry import method
from dynclip.report.tables import markdown_rows
from dynclip.runtime.files import write_atomic
from dynclip.runtime.progress import Progress
from evals.stats import (
    Difference,
    Shape,
    difference,
    falls_rises_falls,
    judge,
    oscillation,
    rises_then_falls,
)
from evals.stats.curves import Oscillation

if TYPE_CHECKING:
    import pandas as pd

Curves = Mapping[int, Sequence[float]]  # seed → curve
Key = tuple[str, float, float]  # kind of regime, rate of the shared logits, κ

CURVE_SEEDS = tuple(range(300, 312))  # used nowhere else
CURVE_METHODS = ("grpo", "clip_higher", "id", "did", "od", "dynamic_upper", "dynamic_lower")
KAPPAS, RATES = (0.06, 0.12, 0.3, 1.0), (0.01, 0.02)
STEPS, EVERY = 100, 5  # rollout steps, and those between two points of a stored curve
# Kind of regime → what it changes against CENTRE.
KINDS = {
    "reward": {"minibatches": 4, "epochs": 4},
    "coin": {"minibatches": 4, "epochs": 4, "neutral": 12},
    "coin, one epoch": {"minibatches": 16, "epochs": 1, "neutral": 12},
}
TITLES = {"reward": "real reward, 4 epochs", "coin": "coin, 4 epochs", "coin, one epoch": "coin, 1 epoch"}
# Method → the test of its shape, by halves and by thirds of training, as in the claims of a study.
SHAPES: dict[str, Callable[[Curves], Shape]] = {"id": rises_then_falls, "did": falls_rises_falls}


def declared() -> dict[Key, FreshRegime]:
    """The regimes by kind, rate of the shared logits and κ. The control with one epoch has the larger rate only."""
    found = {}
    for kind, fields in KINDS.items():
        for rate in RATES if fields["epochs"] > 1 else RATES[-1:]:
            for own in KAPPAS:
                found[kind, rate, own] = replace(CENTRE, own=own, learning_rate=rate, steps=STEPS, **fields)
    return found


def measure_method(key: Key, regime: FreshRegime, arm: str, seeds: tuple[int, ...]) -> list:
    """A row per seed, on one thread: the run's curves, every EVERY-th step, and the policy after the last update."""
    torch.set_num_threads(1)
    return rows_of(key, arm, seeds, run(regime, arm, seeds))


def rows_of(key: Key, arm: str, seeds: tuple[int, ...], trace: FreshTrace) -> list[dict]:
    """A row per seed. `entropy`: neutral tokens, nats. `success`: expected reward, "" for a coin. `all`: every token's
    entropy at every step, OD's only, because its switch reads it.
    """
    kind, rate, own = key

    def text(curve: np.ndarray) -> str:
        return " ".join(f"{value:.4g}" for value in curve)

    return [
        {
            "kind": kind,
            "rate": rate,
            "own": own,
            "method": arm,
            "seed": seed,
            "clip_low": round(float(trace.clip_low[r].mean()), 4),
            "clip_high": round(float(trace.clip_high[r].mean()), 4),
            "entropy": text(trace.entropy_neutral[r, ::EVERY]),
            "success": "" if kind.startswith("coin") else text(trace.success[r, ::EVERY]),
            "all": text(trace.entropy[r]) if arm == "od" else "",
        }
        for r, seed in enumerate(seeds)
    ]


def measure_curves(out: Path, processes: int) -> None:
    """Write cells-curves.csv. Finished runs are kept in parts-curves/, so that a killed call goes on."""
    import pandas as pd

    parts = out / "parts-curves"
    parts.mkdir(parents=True, exist_ok=True)
    every = [
        (parts / f"{number}-{arm}.json", key, regime, arm)
        for number, (key, regime) in enumerate(declared().items())
        for arm in CURVE_METHODS
    ]
    left = [job for job in every if not job[0].exists()]
    progress = Progress("fresh curves", len(every), None)
    progress.start(len(every) - len(left))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(measure_method, *job[1:], CURVE_SEEDS): job for job in left}
        for count, job in enumerate(as_completed(jobs), len(every) - len(left) + 1):
            file, key, _, arm = jobs[job]
            write_atomic(file, json.dumps(job.result()))
            progress.step(count, f"{', '.join(map(str, key))}: {arm}")
    rows = [row for file, *_ in every for row in json.loads(file.read_text())]
    write_atomic(out / "cells-curves.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def load(rows: "pd.DataFrame", key: Key, column: str = "entropy") -> dict[str, dict]:
    """method → seed → curve, of the regime `key`."""
    kind, rate, own = key
    some = rows[(rows["kind"] == kind) & (rows["rate"] == rate) & (rows["own"] == own)]
    found: dict[str, dict] = {}
    for row in some[some[column].notna()].to_dict("records"):
        found.setdefault(row["method"], {})[row["seed"]] = np.array(row[column].split(" "), dtype=float)
    return found


def relative(curves: Curves, base: Curves) -> Curves:
    """Each seed's curve minus that of `base` in the same seed."""
    return {seed: np.subtract(curve, base[seed]) for seed, curve in curves.items()}


def segments(shape: Shape) -> str:
    """The change within every segment by its mean slope, nats, with 95 % intervals. Bold: as the shape wants it."""
    parts = []
    for slope, sign in zip(shape.slopes, shape.signs, strict=True):
        spread, share = slope.interval, slope.last - slope.first
        text = f"{share * spread.mean:+.2f} [{share * spread.low:+.2f}, {share * spread.high:+.2f}]"
        shown = slope.p_holm <= shape.alpha and spread.mean * sign > 0
        parts.append(f"**{text}**" if shown else text)
    return f"{', '.join(parts)}{': yes' if shape.claim else ''}"


@dataclass(frozen=True)
class Switching:
    """OD's switch in one regime, over seeds.

    reached: seeds whose entropy falls to τ_low. lowest: mean of the lowest entropy as a share of the first. lower and
    upper: mean share of the steps with this bound loosened. switches: mean number of changes from one side to the
    other. swings: of the entropy through both thresholds.
    """

    reached: int
    lowest: float
    lower: float
    upper: float
    switches: float
    swings: Oscillation


def switching(curves: Curves) -> Switching:
    """`curves`: the entropy of all tokens, which OD's controller reads before each of STEPS rollout steps."""
    fraction = method("od", STEPS).controller.fraction
    lows, highs, sides, shares = {}, {}, [], []
    for seed, curve in curves.items():
        controller, signals = method("od", STEPS).controller, []
        for step, entropy in enumerate(curve[:STEPS]):
            controller.observe(step, float(entropy))
            signals.append(controller.signal)
        sides.append(np.array(signals))
        shares.append(min(curve[:STEPS]) / curve[0])
        lows[seed] = fraction * curve[0]
        highs[seed] = [lows[seed] + (curve[0] - lows[seed]) * (1 - k / STEPS) for k in range(len(curve))]
    chosen = [own[own >= 0] for own in sides]  # before the first trigger no side is loosened
    return Switching(
        reached=int(sum(share <= fraction for share in shares)),
        lowest=float(np.mean(shares)),
        lower=float(np.mean([(own == 0).mean() for own in sides])),
        upper=float(np.mean([(own == 1).mean() for own in sides])),
        switches=float(np.mean([np.abs(np.diff(own)).sum() for own in chosen])),
        swings=oscillation(curves, lows, highs),
    )


def against_start(curves: Curves, place: int) -> Difference:
    """Entropy at point `place` of stored curves minus that at the start, over seeds."""
    ends = ({seed: curve[at] for seed, curve in curves.items()} for at in (place, 0))
    return difference(*ends, ("entropy", "start"), f"step {place * EVERY}", unit="nats")


def titles(key: Key) -> list[str]:
    """Cells that name a regime."""
    kind, rate, own = key
    return [f"{TITLES[kind]}, rate {rate:g}", f"{own:g}, {own / EDGE:.1f}"]


def shape_table(rows: "pd.DataFrame", arm: str) -> str:
    """A row per regime: the shape of the arm's entropy, absolutely and against GRPO's of the same seed."""
    found = []
    for key in declared():
        curves = load(rows, key)
        grpo = np.mean(list(curves["grpo"].values()), axis=0)
        shapes = [SHAPES[arm](some) for some in (curves[arm], relative(curves[arm], curves["grpo"]))]
        ends = f"{grpo[0]:.2f} → {grpo[-1]:.2f}"
        gaps = [against_start(curves[arm], place) for place in (STEPS // 4 // EVERY, STEPS // EVERY)]
        changes = [f"{gap.effect:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]" for gap in gaps]
        found.append([*titles(key), ends, *changes, *map(segments, shapes)])
    name = arm.upper()
    head = ["regime", "κ, κ / ln 1.2", "GRPO", f"{name} at step {STEPS // 4} − start", f"{name} at the end − start"]
    return markdown_rows([*head, f"{name} by segment", f"{name} − GRPO by segment"], found)


def od_table(rows: "pd.DataFrame") -> str:
    """A row per regime: how OD's switch went."""
    found = []
    for key in declared():
        od = switching(load(rows, key, "all")["od"])
        n, times = len(od.swings.seeds), od.swings.times
        sides = f"{od.lower:.0%}, {od.upper:.0%}"
        found.append([*titles(key), f"{od.lowest:.2f}", f"{od.reached} of {n}", sides, f"{od.switches:.1f}"])
        found[-1].append(f"{times} of {n}{': yes' if od.swings.claim else ''}")
    head = [
        "regime", "κ, κ / ln 1.2", "lowest entropy, share of the first", "seeds that reach the threshold 0.2",
        "steps with lower, upper bound loosened", "changes of side", "seeds that swing 3 times or more",
    ]  # fmt: skip
    return markdown_rows(head, found)


def ends_table(rows: "pd.DataFrame") -> str:
    """A row per regime: every method's entropy at the end minus GRPO's of the same seed."""
    found = []
    for key in declared():
        ends = {arm: {s: curve[-1] for s, curve in some.items()} for arm, some in load(rows, key).items()}
        family = [difference(ends[arm], ends["grpo"], (arm, "grpo"), "end") for arm in CURVE_METHODS[1:]]
        cells = [f"{gap.effect:+.2f}" for gap in family]
        cells = [f"**{cell}**" if gap.claim else cell for cell, gap in zip(cells, judge(family), strict=True)]
        found.append([*titles(key), *cells])
    return markdown_rows(["regime", "κ, κ / ln 1.2", *CURVE_METHODS[1:]], found)


def counted(rows: "pd.DataFrame") -> str:
    """In how many regimes with several epochs the shapes are shown."""
    keys = [key for key, regime in declared().items() if regime.epochs > 1]
    every = [load(rows, key) for key in keys]
    parts = []
    for arm, test in SHAPES.items():
        plain = sum(test(curves[arm]).claim for curves in every)
        against = sum(test(relative(curves[arm], curves["grpo"])).claim for curves in every)
        parts.append(f"{arm.upper()}'s shape is shown in {plain} of {len(keys)}, against GRPO's in {against}")
    od = [switching(load(rows, key, "all")["od"]) for key in keys]
    reached, seeds = sum(one.reached for one in od), sum(len(one.swings.seeds) for one in od)
    swings = sum(one.swings.claim for one in od)
    parts.append(f"OD swings in {swings}, and {reached} of its {seeds} runs reach its lower threshold")
    return f"Of the regimes with 4 epochs: {'; '.join(parts)}."


def curves_section(rows: "pd.DataFrame") -> list[str]:
    """The part of README.md on curves."""
    return [
        "## Do ID, DID and OD draw their curves",
        f"Entropy of neutral tokens, nats, over {STEPS} rollout steps and {len(CURVE_SEEDS)} seeds, with 95 % "
        "intervals. By segment: the change within each half (ID) or third (DID) of training along the segment's own "
        "line. Bold: the sign that the shape wants, after Holm's correction over its segments. Yes: all of them. There "
        "is no correction over regimes. With one epoch κ changes nothing: a token's own movement is thrown away before "
        "it is used.",
        counted(rows),
        "ID, which should rise, then fall:\n\n" + shape_table(rows, "id"),
        "DID, which should fall, rise, fall:\n\n" + shape_table(rows, "did"),
        "OD, which should swing between 0.2 of the first entropy and a threshold that falls to it:\n\n"
        + od_table(rows),
        "Entropy at the end minus GRPO's, nats. Bold: decided by the paired t test, after Holm's correction over the "
        "row:\n\n" + ends_table(rows),
    ]
