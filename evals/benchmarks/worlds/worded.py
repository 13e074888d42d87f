r"""The world `worded`: the arithmetic of `facts` in free wording, most of whose tokens do not touch the reward.

A problem such as `Mia red pens 3 Ben new cups +6 Ana old hats *4 Tom big maps . =` names persons and things, so that a
prompt practically never recurs. A response such as `so clearly gives 2 then nearly overall \boxed{1}` has three neutral
words before each result. Every class of words has its own lexicon, and the teacher draws from it with Zipf's law.

A prompt has three words before each number or place as well, so that a result is as far from its operation in every
step: one layer of attention can find it.
"""

import random
from collections.abc import Callable
from itertools import accumulate

from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds.arithmetic import BOXES, PIECES, draw_operations, taught_steps
from evals.benchmarks.worlds.lexica import ADVERBS, CLOSINGS, CONNECTIVES, NAMES, OBJECTS, QUALITIES, VERBS
from evals.benchmarks.worlds.world import Draws, Teacher, World

ZIPF = 1.2  # a word's probability is proportional to 1 / rank ** ZIPF
LEVELS = (1, 2, 3)  # operations
RESPONSE_CLASSES = (CONNECTIVES, ADVERBS, VERBS, CLOSINGS)
PROMPT_CLASSES = (NAMES, QUALITIES, OBJECTS)
WORDS = tuple(f"{word} " for words in (*RESPONSE_CLASSES, *PROMPT_CLASSES) for word in words)


def draw(level: int, seed: int) -> Draws:
    """Problems with `level` operations."""
    rng = random.Random(seed)
    while True:
        operations, answer = draw_operations(rng, level, max(LEVELS))
        words = [word for each in operations for word in (*map(rng.choice, PROMPT_CLASSES), each)]
        yield " ".join([*words, "="]), answer


def expression_of(text: str) -> str:
    """The expression in a problem's text. It alone decides the split, so that a held-out one occurs under no name."""
    return " ".join([*text.split()[3::4], "="])


def zipf_weights(count: int) -> list[float]:
    """Unnormalised probabilities of the words of a lexicon, by rank."""
    return [1 / rank**ZIPF for rank in range(1, count + 1)]


def teacher(seed: int) -> Teacher:
    """A teacher that words the running results freely and boxes the last one; see `arithmetic.taught_steps`."""
    steps = taught_steps(seed)
    connective, adverb, verb, closing = map(_chooser, RESPONSE_CLASSES)

    def solve(problem: Problem, rng: random.Random) -> str:
        *results, last = steps(problem.problem.split()[3::4], rng)
        words = [word for each in results for word in (connective(rng), adverb(rng), verb(rng), str(each))]
        return " ".join([*words, connective(rng), adverb(rng), closing(rng), BOXES[last]])

    return solve


def _chooser(words: tuple[str, ...]) -> Callable[[random.Random], str]:
    sums = list(accumulate(zipf_weights(len(words))))
    return lambda rng: rng.choices(words, cum_weights=sums)[0]


WORLD = World(
    name="worded",
    title="chained arithmetic modulo 7 in free wording",
    levels=LEVELS,
    vocabulary=(*PIECES, *WORDS),
    neutral=frozenset(WORDS),
    draw=draw,
    teacher=teacher,
    core=expression_of,
)
