"""The worlds by name, and how a problem set is drawn from one."""

import random
from collections import Counter

from dynclip.runtime.errors import UserError
from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds import facts, paths, worded
from evals.benchmarks.worlds.world import World, derive_seed

MAX_REPEATS = 10_000  # draws without a new problem after which a level counts as exhausted

WORLDS: dict[str, World] = {world.name: world for world in (paths.WORLD, facts.WORLD, worded.WORLD)}


def generate(world_name: str, count: int, seed: int, held_out: bool) -> list[Problem]:
    """`count` distinct problems of one side of the split, shuffled, with levels balanced where they are large enough.

    Raises UserError for an unknown world, or if the world has fewer problems than `count`.
    """
    if world_name not in WORLDS:
        raise UserError(f"unknown world {world_name!r}; the worlds are: {', '.join(WORLDS)}")
    world = WORLDS[world_name]
    chosen: dict[str, tuple[str, int]] = {}
    for i, level in enumerate(world.levels):
        # The missing problems of an exhausted level come from the larger levels after it.
        target = len(chosen) + (count - len(chosen)) // (len(world.levels) - i)
        misses = 0
        for text, answer in world.draw(level, derive_seed(world_name, level, seed, held_out)):
            if len(chosen) == target or misses == MAX_REPEATS:
                break
            misses += 1
            if text not in chosen and world.is_held_out(text) == held_out:
                chosen[text] = answer, level
                misses = 0
    if len(chosen) < count:
        raise UserError(f"{world_name}: {count} problems wanted, only {len(chosen)} with held_out={held_out}")
    rows = list(chosen.items())
    random.Random(derive_seed(world_name, "order", seed, held_out)).shuffle(rows)
    name, numbers, problems = world_name if held_out else f"{world_name}-train", Counter(), []
    for text, (answer, level) in rows:
        part, subject = world.part(text)
        numbers[part] += 1
        problems.append(Problem(f"{name}{part}-{numbers[part]:04d}", text, answer, level, subject or world_name))
    return problems
