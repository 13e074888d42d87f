r"""The world `worded`: the arithmetic of `facts` in free wording, most of whose tokens do not touch the reward.

A problem such as `Mia's pens: 3 + 10 * 4 =` names a person and a thing, so that a prompt practically never recurs. A
response such as `so clearly gives 2 then nearly overall just \boxed{8}` has three or four neutral words before each
result. Every class of words has its own lexicon, and the teacher draws from it with Zipf's law.
"""

import random
from collections.abc import Callable
from itertools import accumulate

from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds.arithmetic import BOXES, PIECES, draw_expression, taught_steps
from evals.benchmarks.worlds.lexica import ADVERBS, CLOSINGS, CONNECTIVES, HEDGES, NAMES, OBJECTS, VERBS
from evals.benchmarks.worlds.world import Draws, Teacher, World

ZIPF = 1.2  # a word's probability is proportional to 1 / rank ** ZIPF
HEDGED = 0.5  # probability of a fourth word before a result
WORDS = tuple(f"{word} " for words in (CONNECTIVES, ADVERBS, VERBS, HEDGES, CLOSINGS) for word in words)
PROMPT_WORDS = (*(f"{name}'s " for name in NAMES), *(f"{thing}: " for thing in OBJECTS))


def draw(level: int, seed: int) -> Draws:
    """Problems with `level` operations."""
    rng = random.Random(seed)
    while True:
        expression, answer = draw_expression(rng, level)
        yield f"{rng.choice(NAMES)}'s {rng.choice(OBJECTS)}: {expression}", answer


def expression_of(text: str) -> str:
    """The expression in a problem's text. It alone decides the split, so that a held-out one occurs under no name."""
    return text.split(": ")[1]


def zipf_weights(count: int) -> list[float]:
    """Unnormalised probabilities of the words of a lexicon, by rank."""
    return [1 / rank**ZIPF for rank in range(1, count + 1)]


def teacher(seed: int) -> Teacher:
    """A teacher that words the running results freely and boxes the last one; see `arithmetic.taught_steps`."""
    steps = taught_steps(seed)
    connective, adverb, verb, hedge, closing = map(_chooser, (CONNECTIVES, ADVERBS, VERBS, HEDGES, CLOSINGS))

    def solve(problem: Problem, rng: random.Random) -> str:
        results = steps(expression_of(problem.problem).split(), rng)
        words = []
        for i, result in enumerate(results, start=1):
            last = i == len(results)
            words += [connective(rng), adverb(rng), closing(rng) if last else verb(rng)]
            if rng.random() < HEDGED:
                words.append(hedge(rng))
            words.append(BOXES[result] if last else str(result))
        return " ".join(words)

    return solve


def _chooser(words: tuple[str, ...]) -> Callable[[random.Random], str]:
    sums = list(accumulate(zipf_weights(len(words))))
    return lambda rng: rng.choices(words, cum_weights=sums)[0]


WORLD = World(
    name="worded",
    title="chained arithmetic modulo 11 in free wording",
    levels=(1, 2, 3),
    vocabulary=(*PIECES, *WORDS, *PROMPT_WORDS),
    neutral=frozenset((*WORDS, *PROMPT_WORDS)),
    draw=draw,
    teacher=teacher,
    core=expression_of,
)
