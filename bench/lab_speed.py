"""Rollout steps per second of the tabular policy on one core, with one seed and with eight in one table.

    python bench/lab_speed.py [rounds]

Prints the median of the rounds with minimum and maximum, for 4 and 16 updates a batch; docs/lab.md quotes it.
"""

import statistics
import sys
import time

import torch

from dynclip.lab.grids import factorial
from dynclip.lab.tabular import run
from dynclip.runtime.provenance import processor


def rate(regime, replicas: int) -> float:
    start = time.perf_counter()
    run(regime, "grpo", range(replicas))
    return replicas * regime.steps / (time.perf_counter() - start)


def main(rounds: int = 5, *_) -> None:
    torch.set_num_threads(1)
    print(f"{processor()}, 1 thread, {rounds} rounds, seeds x rollout steps a second")
    for density in ("0.25", "0.004"):
        for updates in ("4", "16"):
            regime = factorial()["flat", density, updates, "0.05"]
            rate(regime, 1)  # warm-up, not counted
            for replicas in (1, 8):
                found = [rate(regime, replicas) for _ in range(rounds)]
                span = f"{statistics.median(found):6.0f} [{min(found):.0f}, {max(found):.0f}]"
                print(f"reward density {density}, {updates} updates, {replicas} seeds: {span}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
