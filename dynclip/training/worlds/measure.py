"""The rows of metrics of the stacked loop. All names are in docs/metrics.md."""

import math
import resource
from collections.abc import Iterable, Sequence

import torch

from dynclip.methods.controllers import Hysteresis
from dynclip.training.worlds.tasks import Rollout

EXTREME = {"policy/ratio_max": max, "policy/ratio_min": min}  # over a step's updates; all other metrics are means


def mean(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The means (R,) of `value` (R, B, T) over the tokens of `mask`."""
    return (value * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)


def as_rows(columns: dict[str, torch.Tensor]) -> list[dict[str, float]]:
    """One dictionary per seed of columns (R,)."""
    values = torch.stack([column.double() for column in columns.values()], 1).tolist()
    return [dict(zip(columns, row, strict=True)) for row in values]


def describe(loop, rollout: Rollout, batch: dict, apart: dict[str, torch.Tensor]) -> list[dict]:
    """What is known before the updates of a step, for each seed of `loop`. `apart`: more columns (R,)."""
    mask = rollout.mask
    columns = {
        "train/reward": rollout.rewards.mean(1),
        "train/completion_length": mask.sum(2).double().mean(1),
        "train/truncated": rollout.truncated.double().mean(1),
        "policy/entropy": mean(batch["old_entropy"], mask),
    }
    if "neutral" in batch:
        columns["policy/entropy_decisive"] = mean(batch["old_entropy"], mask & ~batch["neutral"])
        columns["policy/entropy_neutral"] = mean(batch["old_entropy"], batch["neutral"])
    rows = [{"step": loop.done, **row} for row in as_rows(columns | apart)]
    for r, (row, method, sampled) in enumerate(zip(rows, loop.methods, mask.sum((1, 2)).tolist(), strict=True)):
        loop.tokens[r] += sampled
        row["train/tokens"] = loop.tokens[r]
        if method.controller:
            name = "clip/state" if isinstance(method.controller, Hysteresis) else "control/signal"
            row[name] = float(method.controller.signal)
    return rows


def finish_rows(rows: list[dict], logs: Iterable[Sequence[dict]], batch: dict, now: dict) -> None:
    """Add to each seed's row the means over its updates in `logs`, and what the policy after the last update does.

    `now`: log-probabilities and entropies (R, b, T) of that policy on the tokens of `batch`, a part of the step's.
    Values that are not finite belong to skipped updates and do not count.
    """
    change = mean(now["entropy"] - batch["old_entropy"], batch["mask"])
    columns = {"policy/entropy_after": torch.tensor([row["policy/entropy"] for row in rows]) + change}
    if "neutral" in batch:
        columns["policy/drift_neutral"] = mean(now["logprob"] - batch["old_logprob"], batch["neutral"])
    for row, log, late in zip(rows, logs, as_rows(columns), strict=True):
        for name in dict.fromkeys(name for values in log for name in values):
            values = [value for value in (each.get(name, math.nan) for each in log) if math.isfinite(value)]
            if values:
                row[name] = EXTREME[name](values) if name in EXTREME else sum(values) / len(values)
        row |= late
        row["sys/memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
