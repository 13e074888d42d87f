"""A problem with its gold answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem. `level` is its difficulty (0: not given), `subject` its family, field or contest.

    `tolerance`, such as "1e-1", is the absolute deviation that still counts as correct; "" means exact. `solution` is a
    worked solution, where the set has one.
    """

    id: str
    problem: str
    answer: str
    level: int
    subject: str
    tolerance: str = ""
    solution: str = ""
