from collections import Counter
from dataclasses import replace

import pytest

from evals.benchmarks.problem import Problem
from evals.benchmarks.subset import drawn
from evals.stats.comparison import mean_interval

SIZES = {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}  # MATH-500's levels
ORDERED = [Problem(f"p{level}-{i}", "", "", level, "s") for level, size in SIZES.items() for i in range(size)]


@pytest.mark.parametrize("count", [1, 7, 50, 131, 499, 500, 900])
def test_a_subset_has_the_whole_sets_share_of_every_level_and_grows_by_adding(count):
    found = drawn(ORDERED, count)
    assert len({p.id for p in found}) == len(found) == min(count, 500)
    for level, size in SIZES.items():
        share = Counter(p.level for p in found)[level]
        assert abs(share - len(found) * size / 500) <= 1.5
    assert drawn(ORDERED, count + 20)[:count] == found
    assert drawn(ORDERED[::-1], count) == found  # the order of the file decides nothing


def test_without_levels_the_subjects_are_the_strata():
    flat = [replace(problem, level=0, subject=f"field {problem.level}") for problem in ORDERED]
    assert Counter(p.subject for p in drawn(flat, 100))["field 5"] in (26, 27, 28)


def test_the_mean_of_subsets_is_the_whole_sets_and_their_intervals_cover_it():
    # Success falls with the level, as in the field: 90 % at level 1, 50 % at level 5. The ids decide the subset, so
    # other ids are other draws.
    means, covered = [], 0
    for trial in range(300):
        named = [replace(problem, id=f"{trial}/{problem.id}") for problem in ORDERED]
        solved = {p.id: (i * 7919 % 100) < 100 - 10 * p.level for i, p in enumerate(named)}
        truth = sum(solved.values()) / 500
        scores = [float(solved[p.id]) for p in drawn(named, 60)]
        means.append(sum(scores) / 60)
        found = mean_interval(scores, 0.95)
        covered += found.low <= truth <= found.high
    assert sum(means) / 300 == pytest.approx(truth, abs=0.01)
    assert covered >= 0.93 * 300  # strata and a finite whole make the truth's coverage higher than 95 %
