"""Grading: is the final answer of a text equal to the gold? For rewards and benchmarks alike. See docs/grading.md."""

from evals.grading.answers import extract, last_box
from evals.grading.grader import (
    GRADER_VERSION,
    REWARDS,
    TIMEOUT_S,
    Verdict,
    candidates,
    grade,
    grade_many,
    rewards,
)

__all__ = [
    "GRADER_VERSION", "REWARDS", "TIMEOUT_S", "Verdict", "candidates", "extract", "grade", "grade_many", "last_box",
    "rewards",
]  # fmt: skip
