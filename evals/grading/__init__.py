"""Grading decides whether the final answer of a text equals the gold answer. Rewards and benchmarks both use it."""

from evals.grading.answers import extract
from evals.grading.grader import GRADER_VERSION, REWARDS, TIMEOUT_S, Verdict, candidates, grade, grade_many, rewards

__all__ = [
    "GRADER_VERSION", "REWARDS", "TIMEOUT_S", "Verdict", "candidates", "extract", "grade", "grade_many", "rewards",
]  # fmt: skip
