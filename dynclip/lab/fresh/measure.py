"""Runs a grid: entropy of every arm against GRPO's, measured and predicted."""

import copy
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dynclip.lab.compare import decided, differences, summary
from dynclip.lab.fresh.drift import predict
from dynclip.lab.fresh.grids import ARMS, EDGE, SEEDS, regimes
from dynclip.lab.fresh.world import FreshRegime, describe, learn, run
from dynclip.methods import registry
from dynclip.runtime.files import write_atomic
from dynclip.runtime.progress import Progress

WHERE = ("half", "end", "success")
TRIAL_EVERY = 10  # rollout steps between the trials of one batch


@dataclass(frozen=True)
class Level:
    """Curves (seeds, steps + 1) that are compared: an entropy and the expected reward."""

    entropy: np.ndarray
    success: np.ndarray


def measure(regime: FreshRegime, seeds: Iterable[int]) -> list[dict]:
    """A row per arm and place of the comparison.

    "half" and "end" are at equal steps, "success" is at equal expected reward (`compare.differences`). `difference` is
    the neutral tokens' entropy minus GRPO's, in nats, or the decisive ones' where no token is neutral; `sign` is 0 if
    it is not decided. `predicted` is that of `drift.predict`, from the regime and GRPO's reward curve, `trial` that of
    one batch tried out every few steps. Both are NaN where they say nothing.
    """
    seeds, trials = tuple(seeds), np.zeros((len(ARMS) - 1, regime.steps))
    base, base_options = ARMS["grpo"]
    looser = [registry.method(name, regime.steps, **options) for name, options in list(ARMS.values())[1:]]
    kind = "neutral" if regime.neutral else "decisive"

    def try_out(step, state, good, streams) -> None:
        if step % TRIAL_EVERY:
            return
        ends = []
        for method in (registry.method(base, regime.steps, **base_options), *looser):
            own = state.copy()
            learn(regime, method, own, good, copy.deepcopy(streams), seeds, step)
            ends.append(float(describe(regime, own, good)[f"entropy_{kind}"].mean()))
        trials[:, step : step + TRIAL_EVERY] = np.subtract(ends[1:], ends[0])[:, None]

    traces = {"grpo": run(regime, base, seeds, base_options, watch=try_out)}
    traces |= {arm: run(regime, name, seeds, options) for arm, (name, options) in ARMS.items() if arm != "grpo"}
    levels = {arm: Level(getattr(trace, f"entropy_{kind}"), trace.success) for arm, trace in traces.items()}
    reward = traces["grpo"].success.mean(0)
    curves = {}
    if regime.neutral:
        curves = {arm: predict(regime, name, options, reward).numpy() for arm, (name, options) in ARMS.items()}
    rows = []
    for where in WHERE:
        if where == "success" and regime.neutral == regime.positions:
            continue
        at = regime.steps // 2 if where == "half" else regime.steps
        for number, (arm, values) in enumerate(differences(levels, where).items()):
            mean, error, n = summary(values)
            row = {"arm": arm, "where": where, "difference": mean, "se": error, "n": n, "sign": decided(mean, error)}
            said = curves and where != "success"
            row["predicted"] = float(curves[arm][at] - curves["grpo"][at]) if said else float("nan")
            row["trial"] = float(trials[number, :at].sum()) if where != "success" else float("nan")
            rows.append(row)
    grpo = traces["grpo"]
    facts = {
        **asdict(regime),
        "own_over_edge": regime.own / EDGE,
        "start": levels["grpo"].entropy[:, 0].mean(),
        "end": levels["grpo"].entropy[:, -1].mean(),
        "success_start": reward[0],
        "success_end": reward[-1],
        "clip_low": grpo.clip_low.mean(),
        "clip_high": grpo.clip_high.mean(),
        "own_step": grpo.own_step.mean(),
    }
    known = {f"regime.{name}": value.item() if hasattr(value, "item") else value for name, value in facts.items()}
    return [known | row for row in rows]


def measure_grid(grid: str, out: Path, processes: int) -> None:
    """Write cells-<grid>.csv. Every measured regime is kept in parts-<grid>/, so that a killed call goes on."""
    import pandas as pd

    parts = out / f"parts-{grid}"
    parts.mkdir(parents=True, exist_ok=True)
    every = dict(enumerate(regimes(grid)))
    left = [number for number in every if not (parts / f"{number}.json").exists()]
    progress = Progress(f"fresh {grid}", len(every), None)
    progress.start(len(every) - len(left))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(measure_alone, every[number], SEEDS[grid]): number for number in left}
        for count, job in enumerate(as_completed(jobs), len(every) - len(left) + 1):
            write_atomic(parts / f"{jobs[job]}.json", json.dumps(job.result()))
            progress.step(count, f"regime {jobs[job]}")
    rows = [{"regime": number, **row} for number in every for row in json.loads((parts / f"{number}.json").read_text())]
    table = pd.DataFrame(rows)
    write_atomic(out / f"cells-{grid}.csv", table.to_csv(index=False, float_format="%.5g", lineterminator="\n"))


def measure_alone(regime: FreshRegime, seeds: tuple[int, ...]) -> list[dict]:
    """`measure` on one thread."""
    torch.set_num_threads(1)
    return measure(regime, seeds)
