"""Grading: is the final answer of a text equal to the gold? One function for rewards and benchmarks. See docs/grading.md."""

from evals.grading.answers import extract, last_box
from evals.grading.grader import GRADER_VERSION, TIMEOUT_S, Verdict, grade, grade_many

__all__ = ["GRADER_VERSION", "TIMEOUT_S", "Verdict", "extract", "grade", "grade_many", "last_box"]
