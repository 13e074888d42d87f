r"""The world `facts`: chained arithmetic modulo 11 with worked results.

The response to `3 + 10 * 4 . . . . =` is `2 \boxed{8}`. Every token of a response decides the reward.
"""

import random

from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds.arithmetic import Arithmetic
from evals.benchmarks.worlds.world import Draws, Teacher, World

ARITHMETIC = Arithmetic(modulus=11, levels=(2, 3, 4))


def draw(level: int, seed: int) -> Draws:
    """Expressions with `level` operations."""
    rng = random.Random(seed)
    while True:
        yield ARITHMETIC.draw(rng, level)


def teacher(seed: int) -> Teacher:
    """A teacher that writes the running results and boxes the last one; see `Arithmetic.taught_steps`."""
    steps, boxes = ARITHMETIC.taught_steps(seed), ARITHMETIC.boxes

    def solve(problem: Problem, rng: random.Random) -> str:
        *results, last = steps(problem.problem.split(), rng)
        return "".join(f"{result} " for result in results) + boxes[last]

    return solve


WORLD = World(
    name="facts",
    title="chained arithmetic modulo 11",
    levels=ARITHMETIC.levels,
    vocabulary=ARITHMETIC.pieces,
    neutral=frozenset(),
    draw=draw,
    teacher=teacher,
)
