r"""Measures the predictor's inputs on one rollout batch of real text, on a CPU.

    snakemake --cores all results/workstation_small/base/model.json --config scale=workstation_small
    python -m dynclip.lab.fresh.text --model results/workstation_small/base --out results/reference/steering \
        --groups 8 --prompts 128

Prompts, template, reward and group size are those of the scale `workstation_small`, whose base policy the first line
makes: the published model after a short supervised stage. `--reward coin` is for a model that solves too few problems.
`text.json` has all numbers and `text.md` a page of them.
Rollouts and updates are kept in OUT/parts-text, so a killed call goes on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from dynclip.lab.fresh.grids import ARMS, EDGE
from dynclip.lab.fresh.language import scores_of
from dynclip.lab.fresh.rollouts import (
    FIGURES,
    SCALE,
    Group,
    Sampled,
    describe,
    group_of,
    neutral_shares,
    of_tokens,
    read,
    sample,
)
from dynclip.lab.fresh.text_page import page
from dynclip.methods.objective import Method
from dynclip.methods.registry import method
from dynclip.methods.types import TokenBatch
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import digest, environment
from dynclip.training.hub_policy import RECORD
from evals.benchmarks.loading import obtain
from evals.benchmarks.registry import TRAIN_SETS
from evals.engines.transformers_engine import TransformersEngine
from evals.sampling.models import resolve
from evals.sampling.prompts import TEMPLATES

MINIBATCHES, EPOCHS = 4, 4
RATES = {"1e-6": 1e-6, "5e-6": 5e-6}  # the paper's, and that of the scale `workstation`
PLACES = 24  # tokens of mixed groups whose distribution is taken
LIKELY = 1e-4  # less likely tokens of a place are left out
TEXT_ARMS = ("grpo", "clip_higher", "dynamic_upper", "upper_steep", "clip_lower", "dynamic_lower")
BINS = {"q < 0.1": (0.0, 0.1), "0.1 to 0.5": (0.1, 0.5), "0.5 to 0.9": (0.5, 0.9), "q ≥ 0.9": (0.9, math.inf)}


def clipped(loss: Method, batch: TokenBatch) -> dict[str, list[float]]:
    """[tokens, clipped below, clipped above] of all tokens and of each probability bin, by the metrics of the loss."""
    counts, q = {}, batch.old_logprob.exp()
    for name, (low, high) in {"all": (0.0, math.inf), **BINS}.items():
        where = ((q >= low) & (q < high)).float() * batch.mask
        n, shares = float(where.sum()), loss.loss(replace(batch, mask=where), 0).metrics
        counts[name] = [n, *(n * float(shares[f"clip/{side}_fraction"]) for side in ("low", "high"))]
    return counts


def train(model, groups: Sequence[Group], sampled: Sequence[Sampled], tokens: int, rate: float, progress) -> dict:
    """GRPO's updates on mixed groups; `model` is changed. Returns each group's ln r and the clipped counts, by epochs.

    Mini-batches are whole groups, in the order of sampling. `tokens`: of the rollout batch with the groups that have no
    advantage, whose tokens count in the denominator of the loss. AdamW starts without moments, gradients are cut to
    norm 1. ln r is taken after the first and after the last epoch.
    """
    loss = method("grpo", 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=SCALE.weight_decay)
    parts = np.array_split(np.arange(len(groups)), MINIBATCHES)
    found: dict = {"moved": {}, "clipped": {}, "norms": []}
    counts: dict[str, np.ndarray] = {}
    progress.start()
    for epoch in range(1, EPOCHS + 1):
        for part in parts:
            optimizer.zero_grad()
            for number in part:
                known, now = sampled[number], of_tokens(read(model, groups[number]), sampled[number].tokens)
                rows = {"old_logprob": known.logprob[None], "advantages": known.advantages[None]}
                batch = TokenBatch(logprob=now[None], mask=torch.ones_like(now)[None], **rows)
                (loss.loss(batch, 0).per_token.sum() * MINIBATCHES / tokens).backward()
                with torch.no_grad():
                    seen = clipped(loss, replace(batch, logprob=now.detach()[None]))
                counts = {name: counts.get(name, 0) + np.array(value) for name, value in seen.items()}
            found["norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            progress.step(len(found["norms"]), f"gradient norm {found['norms'][-1]:.3g}")
        if epoch in (1, EPOCHS):
            with torch.no_grad():
                late = [of_tokens(read(model, group), each.tokens) for group, each in zip(groups, sampled, strict=True)]
            moved = [new - each.logprob for new, each in zip(late, sampled, strict=True)]
            found["moved"][str(epoch)] = [[float(f"{x:.6g}") for x in row.tolist()] for row in moved]
            found["clipped"][str(epoch)] = {name: value.tolist() for name, value in counts.items()}
    return found


def own_step(moved: torch.Tensor, sampled: Sequence[Sampled], epochs: int, draws: int = 1000) -> dict:
    """κ, the slope through 0 of ln r on A (1 − 2 q + Σ p²) over the epochs, and what it leaves unexplained.

    `interval`: 95 % of a bootstrap over groups, which are few. `explained`: 1 − Σ (ln r − fit)² / Σ (ln r)².
    """
    pulls = [each.advantages * each.slope for each in sampled]
    parts = torch.split(moved, [len(pull) for pull in pulls])
    above = np.array([float((part * pull).sum()) for part, pull in zip(parts, pulls, strict=True)])
    below = np.array([float((pull**2).sum()) for pull in pulls])
    picks = np.random.default_rng(0).integers(0, len(pulls), (draws, len(pulls)))
    slope = above.sum() / below.sum()
    low, high = np.quantile(above[picks].sum(1) / below[picks].sum(1), [0.025, 0.975]) / epochs
    rest = moved - slope * torch.cat(pulls)
    q, result = torch.cat([each.logprob for each in sampled]).exp(), {}
    for name, (least, most) in BINS.items():
        here = moved[(q >= least) & (q < most)].abs()
        result[name] = float(here.mean()) if len(here) else None
    return {
        "own": slope / epochs,
        "interval": [float(low), float(high)],
        "own_edge": slope / epochs / EDGE,
        "explained": 1 - float((rest**2).sum() / (moved**2).sum()),
        "moved": float(moved.abs().mean()),
        "moved_bins": result,
    }


def kept(file: Path, make: Callable[[], dict]) -> dict:
    """The content of `file`, made and written first where it is missing. `seconds`: how long `make` took."""
    if not file.exists():
        began = time.perf_counter()
        write_atomic(file, json.dumps(make() | {"seconds": round(time.perf_counter() - began)}))
    return json.loads(file.read_text())


def measure(name: str, problems: list, wanted: int, most: int, seed: int, reward: str, out: Path) -> dict:
    """All numbers of text.json, for the model `name` (a hub id or a folder). The others are those of `sample`.

    Raises UserError where fewer than MINIBATCHES groups have right and wrong answers.
    """
    found, template = resolve(name), TEMPLATES[SCALE.template]
    engine = TransformersEngine.load(found.folder, dtype="float32", stops=template.stops)
    parts = out / "parts-text" / digest([found.sha256, wanted, most, seed, reward])
    drawn = kept(
        parts / "rollouts.json",
        lambda: {"groups": [asdict(group) for group in sample(engine, problems, wanted, most, seed, reward)]},
    )
    every = [group_of(fields) for fields in drawn["groups"]]
    groups, tokens = [group for group in every if group.mixed], sum(group.tokens for group in every)
    if len(groups) < MINIBATCHES:
        raise UserError(
            f"{name}: {len(groups)} of {len(every)} prompts have right and wrong answers, the {MINIBATCHES} "
            "mini-batches need one each; raise --prompts, or use --reward coin"
        )
    sampled, places = describe(engine.model, groups, PLACES)
    start = {key: value.clone() for key, value in engine.model.state_dict().items()}
    law, settings, seconds = law_of(every), {}, {"rollouts": drawn["seconds"]}
    for label, rate in RATES.items():
        engine.model.load_state_dict(start)
        progress = Progress(f"updates at rate {label}", MINIBATCHES * EPOCHS)
        result = kept(
            parts / f"updates-{label}.json",
            lambda rate=rate, progress=progress: train(engine.model, groups, sampled, tokens, rate, progress),
        )
        seconds[f"updates at rate {label}"] = result["seconds"]
        for epochs in (1, EPOCHS):
            row = summary(result, sampled, epochs)
            arms = {arm: ARMS[arm] for arm in TEXT_ARMS}
            scores = scores_of(places, row["own"], law, epochs, arms, SCALE.steps, likely=LIKELY)
            settings[f"{label}, {epochs}"] = {"rate": rate, "epochs": epochs, **row, "scores": scores}
    decode, entropies = engine.tokenizer.decode, [each.entropy.tolist() for each in sampled]
    neutral = neutral_shares(groups, entropies, lambda token: bool(FIGURES & set(decode([token]))))
    for row in neutral["least_p"]:
        row["text"] = decode([row["token"]])
    q = torch.cat([each.logprob for each in sampled]).exp()
    made = json.loads((found.folder / RECORD).read_text()) if (found.folder / RECORD).exists() else {}
    return {
        "model": {
            "name": made.get("model", name), "revision": made.get("revision", found.revision), "sha256": found.sha256,
            "parameters": found.parameters, "supervised": made.get("supervised"),
        },
        "seed": seed,
        "sampling": {
            "temperature": 1.0, "template": template.label, "group": SCALE.group_size,
            "max_tokens": SCALE.max_completion,
        },
        "updates": {"minibatches": MINIBATCHES, "optimizer": "AdamW without earlier moments", "gradient_clip": 1.0},
        "batch": {
            "prompts": len(every), "tokens": tokens, "reward": reward,
            "right": float(np.mean([group.right for group in every])),
            "ended": float(np.mean([group.ended for group in every])), "mixed": len(groups), "mixed_tokens": len(q),
            "entropy": float(torch.cat([each.entropy for each in sampled]).mean()),
            "bins": {key: float(((q >= low) & (q < high)).double().mean()) for key, (low, high) in BINS.items()},
            "problems": [group.problem for group in every], "rewards": [group.rewards for group in every],
        },
        "places": {
            "count": len(places), "mass": float(np.mean([float(p.exp()[p > math.log(LIKELY)].sum()) for p in places])),
        },
        "settings": settings,
        "neutral": neutral,
        "seconds": seconds,
        "environment": environment() | {"threads": torch.get_num_threads()},
    }  # fmt: skip


def law_of(groups: Sequence[Group]) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, probabilities) of the advantage of a token of `groups`."""
    every = torch.cat([group.advantages.repeat_interleave(torch.tensor(group.lengths)) for group in groups])
    values, counts = torch.unique((every * 1e3).round(), return_counts=True)
    return values / 1e3, counts.double() / counts.sum()


def summary(result: dict, sampled: Sequence[Sampled], epochs: int) -> dict:
    """`own_step` after `epochs` epochs of `train`, the clipped shares over their updates, and the gradients' norms."""
    moved = torch.tensor([value for row in result["moved"][str(epochs)] for value in row])
    norms = np.array(result["norms"][: MINIBATCHES * epochs])
    clips = {
        name: {"tokens": round(n / epochs), "low": low / max(n, 1), "high": high / max(n, 1)}
        for name, (n, low, high) in result["clipped"][str(epochs)].items()
    }
    norm = {"gradient_norm": float(norms.mean()), "gradient_clipped": float((norms > 1).mean())}
    return own_step(moved, sampled, epochs) | {"clipped": clips} | norm


def main(arguments: list[str] | None = None) -> int:
    """Measure and write text.json and text.md."""
    parser = argparse.ArgumentParser(prog="python -m dynclip.lab.fresh.text", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SCALE.policy.id, help="hub id or folder; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("results/steering"), help="default: %(default)s")
    parser.add_argument(
        "--groups", type=int, default=8, help="groups with right and wrong answers; default: %(default)s"
    )
    parser.add_argument("--prompts", type=int, default=96, help="prompts at most; default: %(default)s")
    parser.add_argument("--reward", choices=("correct", "coin"), default="correct", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="only make text.md from text.json")
    options = parser.parse_args(arguments)
    try:
        if options.groups < MINIBATCHES or options.prompts < options.groups:
            raise UserError(f"expected {MINIBATCHES} <= groups <= prompts, given {options.groups}, {options.prompts}")
        if not options.page:
            torch.set_num_threads(1)
            problems = obtain(TRAIN_SETS[SCALE.train_set])[0]
            given = options.groups, options.prompts, options.seed, options.reward
            found = measure(options.model, problems, *given, options.out)
            write_json(options.out / "text.json", found)
        elif not (options.out / "text.json").exists():
            raise UserError(f"{options.out} has no text.json; run without --page to measure it")
        write_atomic(options.out / "text.md", page(json.loads((options.out / "text.json").read_text())))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
