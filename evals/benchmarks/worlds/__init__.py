"""Synthetic worlds with verifiable rewards: problems, held-out split, vocabulary and a teacher's worked solutions."""

from evals.benchmarks.worlds.generation import WORLDS, generate
from evals.benchmarks.worlds.world import World, derive_seed

__all__ = ["WORLDS", "World", "derive_seed", "generate"]
