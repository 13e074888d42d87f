"""A problem: what is asked, and the gold answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One question with its answer; `level` is its difficulty (0: not given), `subject` its family, field or contest.

    The answer is exact unless `tolerance` gives the absolute deviation that is still correct, as "1e-1". `solution` is
    a worked one, where the set has them.
    """

    id: str
    problem: str
    answer: str
    level: int
    subject: str
    tolerance: str = ""
    solution: str = ""
