"""The predictor's test on tiny language models: the world `worded` at several steps, updates and prompts.

GRPO's run alone gives what the predictor needs: the own step κ of its tokens, their distribution at neutral places, and
the law of the advantages. It then says whether another bound leaves more or less entropy at neutral places. A language
model's step on its logits is not known, so the prediction is a sign and an order, not a size in nats.
"""

import copy
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dynclip.lab.compare import decided, summary
from dynclip.lab.fresh.drift import push
from dynclip.lab.fresh.grids import ARMS
from dynclip.lab.fresh.world import own_slope
from dynclip.lab.tabular import entropy_of
from dynclip.methods.registry import method
from dynclip.runtime.files import write_atomic
from dynclip.runtime.progress import Progress
from dynclip.studies.scales import WORDED, Scale
from dynclip.training.loop import Loop, part_of, shuffle, take
from dynclip.training.worlds import folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.tasks import task_of
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.registry import read_problems, write_data

SEEDS = tuple(range(200, 206))  # used nowhere else
STEPS, PROBED = 50, (2, 15, 30)  # rollout steps, and those at which GRPO's run is probed
PLACES = 6  # neutral places of a seed whose distribution is taken, at each probed step
LIKELY = 1e-5  # less likely tokens of a place are left out
LANGUAGE_ARMS = ("grpo", "dynamic_upper", "upper_steep", "dynamic_lower")
# Declared before they ran: fields of the scale, and how many prompts there are (None: all).
CELLS: dict[str, tuple[dict, int | None]] = {
    "4 x 4 updates, rate 1e-4": ({"learning_rate": 1e-4}, None),
    "4 x 4 updates, rate 3e-4": ({"learning_rate": 3e-4}, None),
    "4 x 4 updates, rate 6e-4": ({"learning_rate": 6e-4}, None),
    "4 x 4 updates, rate 1.2e-3": ({"learning_rate": 1.2e-3}, None),
    "4 x 2 updates, rate 6e-4": ({"learning_rate": 6e-4, "epochs": 2}, None),
    "16 x 1 updates, rate 6e-4": ({"learning_rate": 6e-4, "minibatches": 16, "epochs": 1}, None),
    "4 x 4 updates, rate 3e-4, 32 prompts that recur": ({"learning_rate": 3e-4}, 32),
}


def scale_of(cell: str) -> Scale:
    """The scale of a cell."""
    fields, _ = CELLS[cell]
    return replace(WORDED, **{"minibatches": 4, "epochs": 4, "steps": STEPS, "seeds": SEEDS, **fields})


def measure_cell(cell: str, base: dict[int, Path], problems: Sequence) -> dict:
    """Curves of the neutral tokens' entropy, (seeds, steps) for each arm, and what GRPO's run was probed for."""
    torch.set_num_threads(1)
    scale, (_, prompts) = scale_of(cell), CELLS[cell]
    seeds, probes, curves, rewards, clipped = tuple(base), [], {}, {}, {}
    task = task_of(scale, seeds, base, problems[:prompts])
    start = stack([folders.load(folder, task.network) for folder in base.values()])
    for arm in LANGUAGE_ARMS:
        name, options = ARMS[arm]
        loop = Loop(scale, [method(name, scale.steps, **options) for _ in seeds], seeds, task, start)
        rows = []
        for step in range(scale.steps):
            if arm == "grpo" and step in PROBED:
                probes.append(probe(loop))
            rows.append(loop.step())
        curves[arm] = [[row[r]["policy/entropy_neutral"] for row in rows] for r in range(len(seeds))]
        rewards[arm] = [[row[r]["train/reward"] for row in rows] for r in range(len(seeds))]
        clipped[arm] = [float(np.mean([row[0][f"clip/{side}_fraction"] for row in rows])) for side in ("low", "high")]
    return {"cell": cell, "curves": curves, "rewards": rewards, "clipped": clipped, "probes": probes}


def probe(loop: Loop) -> dict:
    """What the predictor needs of the policy of `loop`, which is not changed.

    `own`: κ at neutral tokens, the slope through 0 of the change of ln r over the batch's updates on
    A (1 − 2 q + Σ p²), divided by the epochs. A single update would not do: Adam's momentum spreads the effect of a
    gradient over the next ten. `scores`: for each arm the expected change of entropy at neutral places for a unit step
    on their logits, minus GRPO's, mean over places and seeds.
    """
    trial, k = copy.deepcopy(loop), loop.done
    with torch.no_grad():
        rollout = trial.task.rollout(trial.weights, k)
        batch = trial.prepare(rollout, k)
    order = shuffle(trial.seeds, k, rollout.tokens.shape[1])
    batch, inputs = take(batch, order), take(rollout.inputs, order)
    size = rollout.tokens.shape[1] // trial.scale.minibatches
    with torch.no_grad():
        logprob = torch.log_softmax(trial.task.network.logits(trial.weights, inputs), -1)
    for update in range(trial.scale.updates_per_rollout):
        cut = slice(update % trial.scale.minibatches * size, (update % trial.scale.minibatches + 1) * size)
        trial.update(part_of(batch, cut), part_of(inputs, cut), k, update)
    with torch.no_grad():
        moved = trial.evaluate(inputs, batch["tokens"])["logprob"] - batch["old_logprob"]
    advantages = batch["advantages"]
    advantages = (advantages if advantages.dim() == 3 else advantages.unsqueeze(-1)).expand_as(moved)
    counted = batch["neutral"] & (advantages != 0)
    pull = (advantages * own_slope(logprob, batch["tokens"]))[counted]
    own = float((moved[counted] * pull).sum() / (pull**2).sum()) / loop.scale.epochs
    values, counts = torch.unique((advantages[batch["neutral"]] * 1e3).round(), return_counts=True)
    law = (values.double() / 1e3, counts.double() / counts.sum())
    scores = {arm: 0.0 for arm in LANGUAGE_ARMS}
    places = []
    for r in range(len(loop.seeds)):
        at = batch["neutral"][r].nonzero()
        places += [logprob[r, row, place] for row, place in at[:: max(1, len(at) // PLACES)][:PLACES].tolist()]
    for place in places:
        likely = torch.log_softmax(place[place > np.log(LIKELY)].double(), -1)
        prob, level = likely.exp(), entropy_of(likely)
        for arm in LANGUAGE_ARMS:
            name, options = ARMS[arm]
            chosen = method(name, loop.scale.steps, **options)
            mean, _ = push(likely, own, law, lambda q, m=chosen: m.bounds(q, k), loop.scale.epochs)
            scores[arm] -= float((prob * (likely + level) * mean).sum()) / len(places)
    return {"step": k, "own": own, "scores": {arm: score - scores["grpo"] for arm, score in scores.items()}}


def rows_of(found: dict) -> list[dict]:
    """A row per arm and place of the comparison: measured difference from GRPO, and the score summed up to there."""
    rows = []
    for where, steps in (("half", STEPS // 2), ("end", STEPS)):
        window = slice(steps - 3, steps)
        level = {arm: np.array(curve)[:, window].mean(1) for arm, curve in found["curves"].items()}
        probes = [each for each in found["probes"] if each["step"] < steps]
        for arm in LANGUAGE_ARMS[1:]:
            mean, error, n = summary(level[arm] - level["grpo"])
            rows.append(
                {
                    "cell": found["cell"],
                    "arm": arm,
                    "where": where,
                    "own": float(np.mean([each["own"] for each in probes])),
                    "grpo_start": float(np.array(found["curves"]["grpo"])[:, 0].mean()),
                    "grpo": float(level["grpo"].mean()),
                    "difference": mean,
                    "se": error,
                    "n": n,
                    "sign": decided(mean, error),
                    "score": float(np.mean([each["scores"][arm] for each in probes])),
                    "reward": float(np.mean(np.array(found["rewards"][arm])[:, window])),
                    "grpo_reward": float(np.mean(np.array(found["rewards"]["grpo"])[:, window])),
                    "clip_low": found["clipped"][arm][0],
                    "clip_high": found["clipped"][arm][1],
                }
            )
    return rows


def measure_language(out: Path, processes: int) -> None:
    """Write cells-language.csv; finished cells are kept in parts-language/."""
    import pandas as pd

    parts = out / "parts-language"
    if not (parts / "data" / "manifest.json").exists():
        write_data(parts / "data", WORDED.name, WORDED.train_set, WORDED.benchmarks)
    problems = read_problems(parts / "data" / "train.jsonl")
    base = {seed: parts / "base" / f"seed{seed}" for seed in SEEDS}
    progress = Progress("language models", len(CELLS), None)
    warm_start(WORDED, problems, base, progress.log)
    left = {cell: parts / f"{number}.json" for number, cell in enumerate(CELLS)}
    left = {cell: file for cell, file in left.items() if not file.exists()}
    progress.start(len(CELLS) - len(left))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(measure_cell, cell, base, problems): cell for cell in left}
        for count, job in enumerate(as_completed(jobs), len(CELLS) - len(left) + 1):
            write_atomic(left[jobs[job]], json.dumps(job.result()))
            progress.step(count, jobs[job])
    rows = [row for number in range(len(CELLS)) for row in rows_of(json.loads((parts / f"{number}.json").read_text()))]
    table = pd.DataFrame(rows).to_csv(index=False, float_format="%.5g", lineterminator="\n")
    write_atomic(out / "cells-language.csv", table)
