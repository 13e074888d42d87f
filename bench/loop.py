"""Seconds of a rollout step of the loop, against TRL's path and against a bare forward and backward pass.

    python bench/loop.py [rounds] [steps] [--method grpo] [--busy 0,1,2] [--json FILE]

All of it at the scale facts, from the same untrained policy, on one thread. A round measures, in turns,

* a rollout step of `trainer=trl` for one seed,
* a rollout step of the loop for 20 seeds and for one seed,
* for 20 seeds the log-probabilities and gradients alone of the same stacked tokens, as often as a step has updates.

It prints the median of the rounds' ratios with least and greatest. Goals: a seed's share of a step of 20 seeds at most
0.1 of TRL's step, a single seed 0.6, the update part 1.3 of the bare passes.

`--busy` measures something else: the loop's step of 20 seeds beside so many other processes that compute all the time,
as a ratio to the first number of the list. A fair share of c cores beside n of them is max(1, (n + 1) / c).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from trainer_step import PROBLEMS, measure, through_trl, untrained

from dynclip import method
from dynclip.runtime.files import write_json
from dynclip.runtime.provenance import environment, processor
from dynclip.studies.scales import SCALES, Scale
from dynclip.training.loop import Loop, part_of
from dynclip.training.worlds import folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.tasks import LanguageTask, Prompts, Vocabulary, network_of
from evals.benchmarks.worlds import generate

SCALE = SCALES["facts"]
SEEDS = 20
GOALS = {"seed-step, 20 seeds / TRL": 0.1, "seed-step, one seed / TRL": 0.6, "updates / bare passes": 1.3}


def make_loop(scale: Scale, name: str, seeds: int, folder: Path) -> Loop:
    """The loop of `seeds` seeds, all with the untrained policy in `folder`."""
    base = untrained(scale, folder)
    vocabulary, tokenizer = Vocabulary.load(base)
    network = network_of(scale.policy, len(vocabulary.pieces))
    problems = generate(scale.policy.world, PROBLEMS, 1, held_out=False)
    task = LanguageTask(
        scale, tuple(range(seeds)), network, vocabulary, Prompts.encode(problems, tokenizer, vocabulary)
    )
    methods = [method(name, total_steps=scale.steps) for _ in range(seeds)]
    return Loop(scale, methods, range(seeds), task, stack([folders.load(base, network)] * seeds))


def loop_step(loop: Loop, steps: int) -> dict[str, float]:
    """Seconds of a rollout step of `loop` and of its update part, after one step that does not count."""
    loop.step()
    began = time.perf_counter()
    rows = [loop.step()[0] for _ in range(steps)]
    seconds = (time.perf_counter() - began) / steps
    return {"step": seconds, "update": sum(row["time/update"] for row in rows) / steps}


def bare_passes(loop: Loop, steps: int) -> float:
    """Seconds for log-probabilities and gradients alone, of as many sampled mini-batches as a step has updates."""
    with torch.no_grad():
        rollout = loop.task.rollout(loop.weights, 0)
    size = rollout.tokens.shape[1] // loop.scale.minibatches
    began = time.perf_counter()
    for update in range(steps * loop.scale.updates_per_rollout):
        at = update % loop.scale.minibatches * size
        inputs, tokens = part_of(rollout.inputs, slice(at, at + size)), rollout.tokens[:, at : at + size]
        logprob = torch.log_softmax(loop.task.network.logits(loop.weights, inputs), -1)
        chosen = logprob.gather(-1, tokens.unsqueeze(-1)).sum()
        torch.autograd.grad(chosen, list(loop.weights.values()))
    return (time.perf_counter() - began) / steps


def once(name: str, steps: int, folder: Path) -> dict[str, float]:
    """The seconds and ratios of one round."""
    trl = measure(name, SCALE.name, steps, folder)["seconds"]
    many = make_loop(SCALE, name, SEEDS, folder)
    together, alone = loop_step(many, steps), loop_step(make_loop(SCALE, name, 1, folder), steps)
    bare = bare_passes(many, steps)
    ratios = (together["step"] / SEEDS / trl, alone["step"] / trl, together["update"] / bare)
    return {
        "TRL, seconds a step": trl,
        "20 seeds, seconds a seed-step": together["step"] / SEEDS,
        "one seed, seconds a step": alone["step"],
        **dict(zip(GOALS, ratios, strict=True)),
    }


def beside(counts: list[int], rounds: int, steps: int, name: str, folder: Path) -> dict[int, list[float]]:
    """Number of busy processes -> seconds of a step of 20 seeds in each round."""
    loop = make_loop(SCALE, name, SEEDS, folder)
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            found[count].append(loop_step(loop, steps)["step"])
            for other in others:
                other.kill()
                other.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("steps", type=int, nargs="?", default=5)
    parser.add_argument("--method", default="grpo")
    parser.add_argument("--busy", help="numbers of other processes, separated by commas")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(through_trl(SCALE.name, words.steps).scale.threads)
    if words.busy:
        counts = [int(count) for count in words.busy.split(",")]
        with tempfile.TemporaryDirectory() as folder:
            found = beside(counts, words.rounds, words.steps, words.method, Path(folder))
        print(
            f"{processor()}, {len(os.sched_getaffinity(0))} cores, {SCALE.name}, {SEEDS} seeds, {words.rounds} rounds"
        )
        for count, seconds in found.items():
            ratios = [one / first for one, first in zip(seconds, found[counts[0]], strict=True)]
            spread = f"{statistics.median(ratios):5.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            print(f"beside {count} busy processes: {statistics.median(seconds):.3f} s a step, ratio {spread}")
        return
    with tempfile.TemporaryDirectory() as folder:
        rounds = [once(words.method, words.steps, Path(folder)) for _ in range(words.rounds)]
    print(f"{processor()}, {SCALE.name}, {words.method}, {words.rounds} rounds x {words.steps} rollout steps, 1 thread")
    for name in rounds[0]:
        found = [each[name] for each in rounds]
        goal = f"  goal {GOALS[name]}" if name in GOALS else ""
        print(f"{name:<32} {statistics.median(found):7.3f} [{min(found):.3f}, {max(found):.3f}]{goal}")
    if words.json:
        write_json(words.json, {"method": words.method, "rounds": rounds, "environment": environment()})


if __name__ == "__main__":
    main()
