"""A part of a problem set that stands for the whole: drawn at random, with the whole's share of every difficulty."""

import hashlib
from collections.abc import Sequence

from evals.benchmarks.problem import Problem


def drawn(problems: Sequence[Problem], count: int | None = None) -> list[Problem]:
    """The first `count` problems of a random order, which is the same for everybody; None for all of them.

    Strata are the levels, or the subjects where no problem has a level. Of any first m of N problems, a stratum of n
    has m·n/N, give or take one. So a larger `count` adds to a smaller one.
    """
    by_level = any(problem.level for problem in problems)
    strata: dict[object, list[Problem]] = {}
    for problem in problems:
        strata.setdefault(problem.level if by_level else problem.subject, []).append(problem)
    places = {}
    for name, members in strata.items():
        # Within a stratum the order is random. Its members have equal distances from a random beginning.
        begin = _number(name, *sorted(member.id for member in members))
        for i, member in enumerate(sorted(members, key=lambda member: _number(member.id))):
            places[member.id] = (i + begin) / len(members)
    return sorted(problems, key=lambda problem: (places[problem.id], problem.id))[:count]


def _number(*parts) -> float:
    """A number in [0, 1) that the parts decide: another Python or numpy draws the same subset."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48
