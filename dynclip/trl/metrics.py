"""What one rollout step measured, collected over its updates."""

import math
from collections.abc import Callable

import torch

from dynclip.methods.objective import LossOutput

# Measurements of which the step's row has the extreme value.
EXTREMES = {"policy/ratio_max": torch.amax, "policy/ratio_min": torch.amin}


class MetricRow:
    """Measurements of one rollout step, by name: one value per update, or one for the whole step.

    `log` is TRL's buffer of the same form, which TRL averages and logs; values go to both.
    """

    def __init__(self, log: dict[str, list[float]]):
        self.log = log
        self.values: dict[str, list[float]] = {}
        self.micro_batches: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.live_ratios: list[torch.Tensor] = []

    def put(self, name: str, value: float) -> None:
        """Add one value, in the row and in TRL's log."""
        self.values.setdefault(name, []).append(value)
        self.log[name].append(value)

    def put_skipped(self, skipped: bool) -> None:
        """Say whether the last update was skipped. TRL's log does not hold this."""
        self.values.setdefault("train/skipped", []).append(float(skipped))

    def add_micro_batch(self, output: LossOutput, mask: torch.Tensor, gather: Callable) -> None:
        """Keep what the loss of a micro-batch measured, of all processes, with its counted tokens (`mask` (B, T)).

        `gather` is accelerate's: (1, n) in each process to (processes, n).
        """
        values = (*output.metrics.values(), output.live_ratio, (mask != 0).sum())
        row = torch.stack([value.detach().float() for value in values])
        *columns, live, tokens = gather(row.unsqueeze(0)).double().cpu().T
        for name, column in zip(output.metrics, columns, strict=True):
            self.micro_batches.setdefault(name, []).append((column, tokens))
        self.live_ratios.append(live)

    def finish_update(self) -> float:
        """Put the update's values, from its micro-batches, and return its largest `live_ratio`, 0 without any.

        Values are means weighted by tokens, so that they do not depend on how a mini-batch is cut, or EXTREMES.
        """
        for name, parts in self.micro_batches.items():
            values, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
            mean = (values * tokens).sum() / tokens.sum().clamp(min=1)
            self.put(name, (EXTREMES[name](values) if name in EXTREMES else mean).item())
        largest = max((live.max().item() for live in self.live_ratios), default=0.0)
        self.micro_batches, self.live_ratios = {}, []
        return largest

    def take(self) -> dict[str, float]:
        """The row: means over updates, or EXTREMES; values that are not finite do not count.

        Empties the row. Micro-batches that no optimizer step has followed count as one more update.
        """
        self.finish_update()
        finite = {name: [v for v in values if math.isfinite(v)] for name, values in self.values.items()}
        self.values = {}
        return {
            name: EXTREMES[name](torch.tensor(v, dtype=torch.float64)).item() if name in EXTREMES else sum(v) / len(v)
            for name, v in finite.items()
            if v
        }
