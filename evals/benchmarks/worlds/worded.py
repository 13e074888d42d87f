r"""The world `worded`: arithmetic as in `facts`, modulo 7, in free wording, most of whose tokens do not touch the reward.

A problem such as `Mia pens 3 + 6 * 4 . . =` names a person and a thing, so that a prompt practically never recurs. A
response such as `so clearly gives 2 then nearly overall \boxed{1}` has three neutral words before each
result. Every class of words has its own lexicon, and the teacher draws from it with Zipf's law.
"""

import random
from collections.abc import Callable
from itertools import accumulate

from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds.arithmetic import Arithmetic
from evals.benchmarks.worlds.lexica import ADVERBS, CLOSINGS, CONNECTIVES, NAMES, OBJECTS, VERBS
from evals.benchmarks.worlds.world import Draws, Teacher, World

ZIPF = 1.2  # a word's probability is proportional to 1 / rank ** ZIPF
ARITHMETIC = Arithmetic(modulus=7, levels=(1, 2, 3))
WORDS = tuple(f"{word} " for words in (CONNECTIVES, ADVERBS, VERBS, CLOSINGS) for word in words)
PROMPT_WORDS = tuple(f"{word} " for word in (*NAMES, *OBJECTS))


def draw(level: int, seed: int) -> Draws:
    """Problems with `level` operations."""
    rng = random.Random(seed)
    while True:
        expression, answer = ARITHMETIC.draw(rng, level)
        yield f"{rng.choice(NAMES)} {rng.choice(OBJECTS)} {expression}", answer


def expression_of(text: str) -> str:
    """The expression in a problem's text. It alone decides the split, so that a held-out one occurs under no name."""
    return text.split(" ", 2)[2]


def zipf_weights(count: int) -> list[float]:
    """Unnormalised probabilities of the words of a lexicon, by rank."""
    return [1 / rank**ZIPF for rank in range(1, count + 1)]


def teacher(seed: int) -> Teacher:
    """A teacher that words the running results freely and boxes the last one; see `Arithmetic.taught_steps`."""
    steps, boxes = ARITHMETIC.taught_steps(seed), ARITHMETIC.boxes
    connective, adverb, verb, closing = map(_chooser, (CONNECTIVES, ADVERBS, VERBS, CLOSINGS))

    def solve(problem: Problem, rng: random.Random) -> str:
        results = steps(expression_of(problem.problem).split(), rng)
        words = []
        for i, result in enumerate(results, start=1):
            last = i == len(results)
            words += [connective(rng), adverb(rng), closing(rng) if last else verb(rng)]
            words.append(boxes[result] if last else str(result))
        return " ".join(words)

    return solve


def _chooser(words: tuple[str, ...]) -> Callable[[random.Random], str]:
    sums = list(accumulate(zipf_weights(len(words))))
    return lambda rng: rng.choices(words, cum_weights=sums)[0]


WORLD = World(
    name="worded",
    title="chained arithmetic modulo 7 in free wording",
    levels=ARITHMETIC.levels,
    vocabulary=(*ARITHMETIC.pieces, *WORDS, *PROMPT_WORDS),
    neutral=frozenset((*WORDS, *PROMPT_WORDS)),
    draw=draw,
    teacher=teacher,
    core=expression_of,
)
