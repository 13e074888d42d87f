r"""The world `facts`: chained arithmetic modulo 7 with worked results, such as `3 +6 *4 . . =` and `2 \boxed{1}`.

Every token of a response decides the reward.
"""

import random

from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds.arithmetic import BOXES, PIECES, draw_operations, taught_steps
from evals.benchmarks.worlds.world import Draws, Teacher, World

LEVELS = (2, 3, 4)  # operations


def draw(level: int, seed: int) -> Draws:
    """Expressions with `level` operations."""
    rng = random.Random(seed)
    while True:
        words, value = draw_operations(rng, level, max(LEVELS))
        yield " ".join([*words, "="]), value


def teacher(seed: int) -> Teacher:
    """A teacher that writes the running results and boxes the last one; see `arithmetic.taught_steps`."""
    steps = taught_steps(seed)

    def solve(problem: Problem, rng: random.Random) -> str:
        *results, last = steps(problem.problem.split()[:-1], rng)
        return "".join(f"{result} " for result in results) + BOXES[last]

    return solve


WORLD = World(
    name="facts",
    title="chained arithmetic modulo 7",
    levels=LEVELS,
    vocabulary=PIECES,
    neutral=frozenset(),
    draw=draw,
    teacher=teacher,
)
