"""Benchmarks and training sets, with loaders and pinned content hashes."""

from evals.benchmarks.loading import load_problems, pins, read_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS

__all__ = ["BENCHMARKS", "TRAIN_SETS", "Problem", "load_problems", "pins", "read_problems"]
