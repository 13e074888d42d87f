"""What one rollout step measured, collected over its updates."""

import math
from collections.abc import Callable

import torch


class MetricRow:
    """Measurements of one rollout step, by name: one value per update, or one for the whole step.

    `log` is TRL's buffer of the same form, which TRL averages and logs; values go to both.
    """

    def __init__(self, log: dict[str, list[float]]):
        self.log = log
        self.values: dict[str, list[float]] = {}
        self.micro_batches: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def put(self, name: str, value: float) -> None:
        """Add one value, in the row and in TRL's log."""
        self.values.setdefault(name, []).append(value)
        self.log[name].append(value)

    def put_skipped(self, skipped: bool) -> None:
        """Say whether the last update was skipped. TRL's log does not hold this."""
        self.values.setdefault("train/skipped", []).append(float(skipped))

    def add_micro_batch(self, metrics: dict[str, torch.Tensor], mask: torch.Tensor, gather: Callable) -> None:
        """Keep a micro-batch's scalar `metrics` of all processes, with its number of counted tokens (`mask` (B, T)).

        `gather` is accelerate's: (1, n) in each process to (processes, n).
        """
        row = torch.stack([*(value.detach().float() for value in metrics.values()), (mask != 0).sum().float()])
        everywhere = gather(row.unsqueeze(0)).double().cpu()
        for name, column in zip(metrics, everywhere[:, :-1].T, strict=True):
            self.micro_batches.setdefault(name, []).append((column, everywhere[:, -1]))

    def finish_update(self) -> float:
        """Put the update's values, from its micro-batches, and return its largest importance ratio.

        Values are means weighted by tokens, so that they do not depend on how a mini-batch is cut; `policy/ratio_max`
        is the maximum. The returned ratio is infinite where it is not finite, and 0 without micro-batches.
        """
        largest = 0.0
        for name, parts in self.micro_batches.items():
            values, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
            number = (values * tokens).sum() / tokens.sum().clamp(min=1)
            if name == "policy/ratio_max":
                number = values.max()
                largest = number.item() if number.isfinite() else math.inf
            self.put(name, number.item())
        self.micro_batches = {}
        return largest

    def take(self) -> dict[str, float]:
        """The row: means over updates, the maximum for `policy/ratio_max`; values that are not finite do not count.

        Empties the row. Micro-batches that no optimizer step has followed count as one more update.
        """
        self.finish_update()
        finite = {name: [v for v in values if math.isfinite(v)] for name, values in self.values.items()}
        self.values = {}
        return {name: max(v) if name == "policy/ratio_max" else sum(v) / len(v) for name, v in finite.items() if v}
