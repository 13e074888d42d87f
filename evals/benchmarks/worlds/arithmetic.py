r"""Chained arithmetic modulo 7, and a teacher who knows some of its facts wrongly. Used by `facts` and `worded`.

An expression such as `3 +6 *4 . . =` is evaluated from left to right: 3 + 6 is 2, 2 * 4 is 1. An operation and its
right number are one piece, and a dot stands in a place without operation, so that all expressions of a world have the
same length and a result is as far from its operation in every problem: one layer of attention can find it. A fact is
one operation on two numbers, so that there are 3 x 7 x 7 = 147 facts.
"""

import random
from collections.abc import Callable
from functools import cache

import numpy as np

from evals.benchmarks.worlds.world import derive_seed

MODULUS = 7
OPERATORS = "+-*"
WRONG_SHARE = 0.2  # of the facts that a teacher knows wrongly
RIGHT_WHERE_WRONG = 0.08  # probability of the right value of such a fact
FIXED_WHERE_WRONG = 0.6  # probability of its one fixed wrong value
RIGHT = 0.97  # probability of the right value of every other fact

BOXES = tuple(f"\\boxed{{{number}}}" for number in range(MODULUS))
EMPTY = "."  # a place without operation
PIECES = (
    *(f"{number} " for number in range(MODULUS)),
    *(f"{operator}{number} " for operator in OPERATORS for number in range(MODULUS)),
    f"{EMPTY} ", "=", *BOXES,
)  # fmt: skip


def apply(operator: str, left: int, right: int) -> int:
    """The value of one operation modulo 7."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator] % MODULUS


def draw_operations(rng: random.Random, operations: int, places: int) -> tuple[list[str], str]:
    """The words of a random expression, without the equals sign, and its value."""
    value = rng.randrange(MODULUS)
    words = [str(value)]
    for _ in range(operations):
        operator, right = rng.choice(OPERATORS), rng.randrange(MODULUS)
        value = apply(operator, value, right)
        words.append(f"{operator}{right}")
    return words + [EMPTY] * (places - operations), str(value)


@cache
def fact_probabilities(seed: int) -> np.ndarray:
    """(3, 7, 7, 7): by operator, left and right number, the probability of each value that the teacher writes."""
    rng = random.Random(derive_seed("facts", seed))
    facts = [(i, a, b) for i in range(len(OPERATORS)) for a in range(MODULUS) for b in range(MODULUS)]
    wrong = set(rng.sample(facts, round(WRONG_SHARE * len(facts))))
    table = np.empty((len(OPERATORS), MODULUS, MODULUS, MODULUS))
    for i, a, b in facts:
        value = apply(OPERATORS[i], a, b)
        row = table[i, a, b]
        if (i, a, b) in wrong:
            row[:] = (1 - RIGHT_WHERE_WRONG - FIXED_WHERE_WRONG) / (MODULUS - 2)
            row[rng.choice([other for other in range(MODULUS) if other != value])] = FIXED_WHERE_WRONG
            row[value] = RIGHT_WHERE_WRONG
        else:
            row[:] = (1 - RIGHT) / (MODULUS - 1)
            row[value] = RIGHT
    return table


def taught_steps(seed: int) -> Callable[[list[str], random.Random], list[int]]:
    """steps(words, rng): the running results that the teacher of `seed` writes for an expression's words.

    The words are those of `draw_operations`.
    Each result continues from the one before it as it was written, right or wrong.
    """
    sums = fact_probabilities(seed).cumsum(axis=-1).tolist()
    table = {operator: sums[i] for i, operator in enumerate(OPERATORS)}
    values = range(MODULUS)

    def steps(words: list[str], rng: random.Random) -> list[int]:
        value, results = int(words[0]), []
        for word in words[1:]:
            if word != EMPTY:
                value = rng.choices(values, cum_weights=table[word[0]][value][int(word[1:])])[0]
                results.append(value)
        return results

    return steps
