"""The predictor's test on tiny language models: the world `worded` at several steps, updates, prompts and sizes.

GRPO's run alone gives what the predictor needs: the own step κ of its tokens, their distribution at neutral places, and
the law of the advantages. It then says whether another bound leaves more or less entropy at neutral places. A language
model's step on its logits is not known, so the prediction is a sign and an order, not a size in nats.
"""

import copy
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
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
from dynclip.studies.scales import LAPTOP_LARGE, WORDED, Scale, WarmStart, WorldPolicy
from dynclip.training.loop import Loop, part_of, shuffle, take
from dynclip.training.worlds import folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.tasks import task_of
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.loading import read_problems, write_data

SEEDS = tuple(range(200, 206))  # used nowhere else
STEPS, PROBED = 50, (2, 15, 30)  # rollout steps, and those at which GRPO's run is probed
PLACES = 6  # neutral places of a seed whose distribution is taken, at each probed step
LIKELY = 1e-5  # less likely tokens of a place are left out
LANGUAGE_ARMS = ("grpo", "dynamic_upper", "upper_steep", "dynamic_lower")


@dataclass(frozen=True)
class Cell:
    """What a cell trains: `fields` of the scale, how many prompts there are (None: all), the policy, arms and seeds."""

    fields: dict
    prompts: int | None = None
    policy: WorldPolicy = WORDED.policy
    arms: tuple[str, ...] = LANGUAGE_ARMS
    seeds: tuple[int, ...] = SEEDS

    @property
    def scale(self) -> Scale:
        common = {"prompts_per_step": 32, "minibatches": 4, "epochs": 4, "steps": STEPS}
        return replace(WORDED, policy=self.policy, seeds=self.seeds, **common | self.fields)


# Declared before they ran.
CELLS = {
    "4 x 4 updates, rate 1e-4": Cell({"learning_rate": 1e-4}),
    "4 x 4 updates, rate 3e-4": Cell({"learning_rate": 3e-4}),
    "4 x 4 updates, rate 6e-4": Cell({"learning_rate": 6e-4}),
    "4 x 4 updates, rate 1.2e-3": Cell({"learning_rate": 1.2e-3}),
    "4 x 2 updates, rate 6e-4": Cell({"learning_rate": 6e-4, "epochs": 2}),
    "16 x 1 updates, rate 6e-4": Cell({"learning_rate": 6e-4, "minibatches": 16, "epochs": 1}),
    "4 x 4 updates, rate 3e-4, 32 prompts that recur": Cell({"learning_rate": 3e-4}, prompts=32),
}
MIDDLE = WorldPolicy(
    "worded", hidden=128, intermediate=512, layers=2, heads=4,
    warm_start=WarmStart(batch=128, learning_rate=1.5e-3, check_every=50, max_steps=3000, pass_at_1=0.25),
)  # fmt: skip


def sized(policy: WorldPolicy, rate: float) -> Cell:
    """A cell for the size of the policy: 16 prompts × 8 a batch."""
    fields = {"learning_rate": rate, "prompts_per_step": 16}
    return Cell(fields, policy=policy, arms=("grpo", "dynamic_upper", "dynamic_lower"), seeds=SEEDS[:5])


# Parameters → cell, declared before they ran. As from `WORDED` to `LAPTOP_LARGE`, the rate falls as 1 / width.
SIZES = {"0.1M": sized(WORDED.policy, 3e-4), "0.5M": sized(MIDDLE, 1.5e-4), "2M": sized(LAPTOP_LARGE.policy, 1e-4)}


def measure_cell(cell: Cell, base: dict[int, Path], problems: Sequence) -> dict:
    """Curves of the neutral tokens' entropy, (seeds, steps) for each arm, and what GRPO's run was probed for."""
    torch.set_num_threads(1)
    scale, seeds, probes, curves, rewards, clipped = cell.scale, tuple(base), [], {}, {}, {}
    task = task_of(scale, seeds, base, problems[: cell.prompts])
    start = stack([folders.load(folder, task.network) for folder in base.values()])
    for arm in cell.arms:
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
    return {"curves": curves, "rewards": rewards, "clipped": clipped, "probes": probes}


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
    places = []
    for r in range(len(loop.seeds)):
        at = batch["neutral"][r].nonzero()
        places += [logprob[r, row, place] for row, place in at[:: max(1, len(at) // PLACES)][:PLACES].tolist()]
    scores = scores_of(
        places, own, law, loop.scale.epochs, {arm: ARMS[arm] for arm in LANGUAGE_ARMS}, loop.scale.steps, k
    )
    return {"step": k, "own": own, "scores": scores}


def scores_of(
    places: Sequence[torch.Tensor],
    own: float,
    law: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    arms: dict[str, tuple[str, dict]],
    steps: int,
    k: int = 0,
    likely: float = LIKELY,
) -> dict[str, float]:
    """The expected change of entropy for a unit step on the logits of `places`, minus GRPO's, for each of `arms`.

    `places`: log-probabilities (V,); tokens less likely than `likely` are left out. `arms` (name → method, options) has
    "grpo". Mean over places, at step `k` of a run of `steps`.
    """
    scores = dict.fromkeys(arms, 0.0)
    for place in places:
        kept = torch.log_softmax(place[place > np.log(likely)].double(), -1)
        prob, level = kept.exp(), entropy_of(kept)
        for arm, (name, options) in arms.items():
            chosen = method(name, steps, **options)
            mean, _ = push(kept, own, law, lambda q, m=chosen: m.bounds(q, k), epochs)
            scores[arm] -= float((prob * (kept + level) * mean).sum()) / len(places)
    return {arm: score - scores["grpo"] for arm, score in scores.items()}


def rows_of(cell: str, found: dict) -> list[dict]:
    """A row per arm and place of the comparison: measured difference from GRPO, and the score summed up to there."""
    rows, last = [], len(found["curves"]["grpo"][0])
    for where, steps in (("half", last // 2), ("end", last)):
        window = slice(steps - 3, steps)
        level = {arm: np.array(curve)[:, window].mean(1) for arm, curve in found["curves"].items()}
        probes = [each for each in found["probes"] if each["step"] < steps]
        for arm in list(level)[1:]:
            mean, error, n = summary(level[arm] - level["grpo"])
            rows.append(
                {
                    "cell": cell,
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


def training_problems(parts: Path) -> list:
    """The training problems of `WORDED`, made in parts/data where they are missing."""
    if not (parts / "data" / "manifest.json").exists():
        write_data(parts / "data", WORDED.name, WORDED.train_set, WORDED.benchmarks)
    return read_problems(parts / "data" / "train.jsonl")


def measure_language(out: Path, processes: int) -> None:
    """Write cells-language.csv; finished cells are kept in parts-language/."""
    parts = out / "parts-language"
    problems = training_problems(parts)
    base = {seed: parts / "base" / f"seed{seed}" for seed in SEEDS}
    progress = Progress("language models", len(CELLS), None)
    warm_start(WORDED, problems, base, progress.log)
    left = {cell: parts / f"{number}.json" for number, cell in enumerate(CELLS)}
    left = {cell: file for cell, file in left.items() if not file.exists()}
    progress.start(len(CELLS) - len(left))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(measure_cell, CELLS[cell], base, problems): cell for cell in left}
        for count, job in enumerate(as_completed(jobs), len(CELLS) - len(left) + 1):
            write_atomic(left[jobs[job]], json.dumps(job.result()))
            progress.step(count, jobs[job])
    every = [(cell, json.loads((parts / f"{number}.json").read_text())) for number, cell in enumerate(CELLS)]
    write_rows(out / "cells-language.csv", [row for cell, found in every for row in rows_of(cell, found)])


def measure_sizes(out: Path, processes: int, sizes: Sequence[str] = tuple(SIZES)) -> None:
    """Measure `sizes` and write cells-sizes.csv with all sizes that are finished, now or earlier.

    Base policies and finished arms are kept in parts-sizes/, so that a killed call goes on. One size at a time.
    """
    parts = out / "parts-sizes"
    problems = training_problems(parts)
    for size in sizes:
        cell, folder = SIZES[size], parts / size
        left = [arm for arm in cell.arms if not (folder / f"{arm}.json").exists()]
        progress = Progress(f"policy of {size} parameters", len(cell.arms), None)
        base = {seed: folder / "base" / f"seed{seed}" for seed in cell.seeds}
        warm_start(cell.scale, problems, base, progress.log)
        progress.start(len(cell.arms) - len(left))
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            jobs = {pool.submit(measure_cell, replace(cell, arms=(arm,)), base, problems): arm for arm in left}
            for count, job in enumerate(as_completed(jobs), len(cell.arms) - len(left) + 1):
                write_atomic(folder / f"{jobs[job]}.json", json.dumps(job.result()))
                progress.step(count, jobs[job])
        write_sizes(out)


def write_sizes(out: Path) -> None:
    """Write cells-sizes.csv with the sizes of parts-sizes/ whose arms are all there."""
    rows = []
    for size, cell in SIZES.items():
        files = [out / "parts-sizes" / size / f"{arm}.json" for arm in cell.arms]
        if not all(file.exists() for file in files):
            continue
        found: dict = {"curves": {}, "rewards": {}, "clipped": {}, "probes": []}
        for part in (json.loads(file.read_text()) for file in files):
            found = {key: found[key] + part[key] if key == "probes" else found[key] | part[key] for key in found}
        rows += rows_of(f"{size} parameters, rate {cell.scale.learning_rate:g}", found)
    write_rows(out / "cells-sizes.csv", rows)


def write_rows(file: Path, rows: list[dict]) -> None:
    """Write a table of cells."""
    import pandas as pd

    write_atomic(file, pd.DataFrame(rows).to_csv(index=False, float_format="%.5g", lineterminator="\n"))
