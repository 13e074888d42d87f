"""The synthetic worlds: a split by construction, teachers wrong as often as stated, words that never matter."""

import random
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from dynclip.runtime.errors import UserError
from evals.benchmarks import TRAIN_SETS
from evals.benchmarks.loading import draw
from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds import WORLDS, World, derive_seed, generate, generation, paths, worded
from evals.benchmarks.worlds.arithmetic import EMPTY, MODULUS, OPERATORS, apply, fact_probabilities
from evals.benchmarks.worlds.lexica import ADVERBS, CLOSINGS, CONNECTIVES, NAMES, OBJECTS, QUALITIES, VERBS
from evals.grading import extract, grade_many

COUNT = 600
names = pytest.mark.parametrize("name", WORLDS)
arithmetic = pytest.mark.parametrize("name", ["facts", "worded"])


@pytest.fixture(scope="module")
def problems() -> dict[str, list[Problem]]:
    return {name: generate(name, COUNT, 5, held_out=False) for name in WORLDS}


def expression(problem: Problem) -> tuple[int, list[tuple[str, int]]]:
    """The first number and the (operator, number) of each operation."""
    first, *places, equals = WORLDS[problem.subject].core(problem.problem).split()
    assert equals == "=" and places[problem.level :] == [EMPTY] * (len(places) - problem.level)
    return int(first), [(place[0], int(place[1:])) for place in places[: problem.level]]


def traces(name: str, rows: list[Problem], seed: int) -> list[str]:
    teach, rng = WORLDS[name].teacher(seed), random.Random(seed)
    return [teach(problem, rng) for problem in rows]


@names
def test_problems_are_distinct_labelled_and_balanced_over_levels(problems, name):
    rows = problems[name]
    assert len({p.problem for p in rows}) == len({p.id for p in rows}) == COUNT
    counts = Counter(p.level for p in rows)
    assert counts == dict.fromkeys(WORLDS[name].levels, COUNT // 3)
    assert [p.level for p in rows] != sorted(p.level for p in rows)


@names
def test_generation_depends_on_the_seed_and_on_nothing_else(problems, name):
    random.seed(99)
    np.random.seed(99)
    assert generate(name, COUNT, 5, held_out=False) == problems[name]
    assert generate(name, COUNT, 6, held_out=False) != problems[name]


@names
def test_train_and_held_out_problems_are_disjoint_by_construction(name):
    world = WORLDS[name]
    sides = {side: generate(name, COUNT // 3, 1, side) for side in (True, False)}
    for side, rows in sides.items():
        assert all(world.is_held_out(p.problem) == side for p in rows)
    cores = [{world.core(p.problem) for p in rows} for rows in sides.values()]
    assert not cores[0] & cores[1]
    share = sum(world.is_held_out(p) for level in world.levels for p in first(world, level, 2000)) / 6000
    assert share == pytest.approx(1 / world.held_out_one_in, abs=0.03)


def first(world: World, level: int, count: int) -> list[str]:
    return [text for text, _ in islice(world.draw(level, 3), count)]


def test_a_held_out_expression_occurs_under_no_name():
    world = WORLDS["worded"]
    rows = generate("worded", 300, 2, held_out=True)
    for problem in rows:
        renamed = " ".join(["Mia" if word in NAMES else word for word in problem.problem.split()])
        assert renamed != problem.problem and world.is_held_out(renamed)


@arithmetic
def test_answers_are_the_value_from_left_to_right_modulo_11(problems, name):
    for problem in problems[name]:
        value, operations = expression(problem)
        for operator, right in operations:
            value = eval(f"{value} {operator} {right}") % MODULUS
        assert problem.answer == str(value) and len(operations) == problem.level


def test_an_exhausted_level_leaves_its_share_to_the_others(monkeypatch):
    monkeypatch.setitem(generation.WORLDS, "odd", small_world((1, 2)))
    counts = Counter(p.level for p in generate("odd", 40, 1, held_out=False))
    assert counts[1] <= 10 and counts[1] + counts[2] == 40


def test_too_many_problems_and_unknown_worlds_are_refused(monkeypatch):
    monkeypatch.setattr(generation, "MAX_REPEATS", 50)
    monkeypatch.setitem(generation.WORLDS, "odd", small_world((1,)))
    with pytest.raises(UserError, match=r"odd: 20 problems wanted, only \d+ with held_out=False"):
        generate("odd", 20, 1, held_out=False)
    with pytest.raises(UserError, match="unknown world 'chess'; the worlds are: paths, facts, worded"):
        generate("chess", 1, 1, held_out=False)


def small_world(levels) -> World:
    """Ten problems in level 1, all numbers in the others."""

    def draws(level, seed):
        rng = random.Random(seed)
        while True:
            number = rng.randrange(10 if level == 1 else 10**6)
            yield f"{level}: {number}", str(number)

    return World("odd", "", levels, (), frozenset(), draws, WORLDS["facts"].teacher)


def test_seeds_derived_from_neighbours_are_far_apart():
    seeds = sorted(derive_seed("facts", level, seed, False) for level in range(9) for seed in range(9))
    assert min(b - a for a, b in pairwise(seeds)) > 1000


def test_graphs_are_fixed_and_distances_are_those_of_their_edges():
    graph = paths.graph(7)
    rng = np.random.default_rng(1007)
    assert sorted(graph.edges[0]) == sorted(rng.choice(np.arange(1, 100), 3, replace=False))
    assert not (graph.edges == paths.graph(8).edges).all()
    for node in range(paths.NODES):
        assert len({*graph.edges[node].tolist(), node}) == paths.DEGREE + 1
        reached, distance = {node}, {node: 0}
        for moves in range(1, 30):
            reached = {int(n) for r in reached for n in graph.edges[r]} - distance.keys()
            distance |= dict.fromkeys(reached, moves)
        expected = [distance.get(n, paths.NODES) for n in range(paths.NODES)]
        assert graph.distance[node].tolist() == expected


def test_paths_are_all_pairs_at_a_distance_of_5_to_7_moves_in_20_graphs():
    assert TRAIN_SETS["paths_train"].world == "paths"
    rows = draw(TRAIN_SETS["paths_train"])
    numbers = Counter(int(p.subject.removeprefix("graph ")) for p in rows)
    for p in rows[::20]:
        number, start, goal = paths.parse(p.problem)
        assert p.level == paths.graph(number).distance[start, goal] and p.answer == str(goal)
        assert p.subject == f"graph {number}" and p.id.startswith(f"paths-train-g{number:02d}-")
        assert not paths.held_out(number)[start, goal]
    assert set(numbers) == set(range(paths.GRAPHS))
    for number in numbers:
        distance = paths.graph(number).distance
        pairs = (distance >= 5) & (distance <= paths.MOVES)
        assert numbers[number] == (pairs & ~paths.held_out(number)).sum()


def test_a_text_that_is_no_problem_of_paths_is_refused():
    assert paths.parse(paths.text_of(7, 12, 83)) == (7, 12, 83)
    with pytest.raises(ValueError, match="paths: expected a text such as 'g7: 12 to 83', got '12 to 83'"):
        paths.parse("12 to 83")


def test_the_teacher_of_paths_walks_a_shortest_path_along_edges(problems):
    for problem, trace in zip(problems["paths"], traces("paths", problems["paths"], 0), strict=True):
        number, node, goal = paths.parse(problem.problem)
        walk = [int(word) for word in trace.replace("\\boxed{", " ").rstrip("}").split()]
        assert len(walk) == problem.level and walk[-1] == goal and trace == paths.walk_text(walk)
        for after in walk:
            assert after in paths.graph(number).edges[node]
            node = after


@names
def test_every_trace_is_graded_as_its_last_number_says(problems, name):
    texts = traces(name, problems[name], 3)
    verdicts = grade_many([(text, p.answer) for text, p in zip(texts, problems[name], strict=True)])
    lasts = [text.split("{")[1][:-1] for text in texts]
    assert [extract(text) for text in texts] == lasts
    assert [v.correct for v in verdicts] == [last == p.answer for last, p in zip(lasts, problems[name], strict=True)]
    assert {v.status for v in verdicts} <= {"correct", "wrong"}


def test_a_teacher_knows_118_facts_and_29_wrongly_by_its_seed():
    table = fact_probabilities(4)
    right = np.array([
        [[table[i, a, b, apply(operator, a, b)] for b in range(MODULUS)] for a in range(MODULUS)]
        for i, operator in enumerate(OPERATORS)
    ])  # fmt: skip
    assert Counter(right.round(4).ravel().tolist()) == {0.97: 118, 0.08: 29}
    assert np.allclose(table.sum(-1), 1) and table.min() > 0
    assert np.isclose(table[right < 0.5].max(-1), 0.6).all()
    assert not np.array_equal(table, fact_probabilities(5)) and np.array_equal(table, fact_probabilities.__wrapped__(4))


@arithmetic
def test_the_share_of_right_steps_and_of_right_answers_is_the_teachers(name):
    rows = generate(name, 3000, 8, held_out=False)
    table, steps, right = fact_probabilities(2), Counter(), 0
    expected = 0.0
    for problem, trace in zip(rows, traces(name, rows, 2), strict=True):
        value, operations = expression(problem)
        results = [int(word) for word in trace.replace("\\boxed{", "").replace("}", "").split() if word.isdigit()]
        assert len(results) == problem.level
        right += str(results[-1]) == problem.answer
        for (operator, number), result in zip(operations, results, strict=True):
            expected += table[OPERATORS.index(operator), value, number, apply(operator, value, number)]
            steps[apply(operator, value, number) == result] += 1
            value = result  # each step continues from the value written
    assert steps[True] / steps.total() == pytest.approx(expected / steps.total(), abs=0.015)
    assert 0.76 < steps[True] / steps.total() < 0.82
    without_error = sum(0.79**p.level for p in rows) / len(rows)
    # Some wrong results still lead to the right answer, such as those before a multiplication by 0.
    assert without_error - 0.02 < right / len(rows) < without_error + 0.1


def test_facts_has_one_token_for_each_result_and_worded_three_words_before_it(problems):
    for problem, trace in zip(problems["facts"], traces("facts", problems["facts"], 1), strict=True):
        assert len(trace.split()) == problem.level
    for problem, trace in zip(problems["worded"], traces("worded", problems["worded"], 1), strict=True):
        kinds = [f"{word} " in WORLDS["worded"].neutral for word in trace.split()]
        assert kinds == [True, True, True, False] * problem.level


def test_words_follow_zipfs_law_in_lexica_of_their_own(problems):
    lexica = (CONNECTIVES, ADVERBS, VERBS, CLOSINGS)
    assert all(30 <= len(words) <= 80 for words in lexica)
    every = [word for words in (*lexica, NAMES, QUALITIES, OBJECTS) for word in words]
    assert len(set(every)) == len(every) and len(WORLDS["worded"].vocabulary) <= 700
    seen = Counter(word for trace in traces("worded", problems["worded"] * 10, 5) for word in trace.split())
    for words in lexica:
        drawn = sum(seen[word] for word in words)
        weights = np.array(worded.zipf_weights(len(words)))
        for word, share in zip(words[:5], weights / weights.sum(), strict=False):
            assert seen[word] / drawn == pytest.approx(share, abs=0.025)


def test_prompts_practically_never_recur():
    texts = [text for level in WORLDS["worded"].levels for text in first(WORLDS["worded"], level, 5_000)]
    assert len(set(texts)) == len(texts) and len(NAMES) * len(QUALITIES) * len(OBJECTS) > 250_000


def test_neutral_words_never_change_a_verdict(problems):
    world, rng = WORLDS["worded"], random.Random(6)
    neutral = sorted(world.neutral)
    decisive = [piece for piece in world.vocabulary if piece not in world.neutral]
    rows = problems["worded"][:200]
    texts = [[f"{word} " if "{" not in word else word for word in t.split()] for t in traces("worded", rows, 6)]
    # As a policy may write it: any order, with no box or with several.
    texts += [[rng.choice(neutral if rng.random() < 0.6 else decisive) for _ in range(9)] for _ in range(200)]
    golds = [p.answer for p in rows] + ["3"] * 200
    changed = [[rng.choice(neutral) if piece in world.neutral else piece for piece in text] for text in texts]
    before, after = (
        grade_many([("".join(text), gold) for text, gold in zip(version, golds, strict=True)], flexible=True)
        for version in (texts, changed)
    )
    assert changed != texts and before == after
    assert {v.status for v in before[200:]} == {"correct", "wrong", "unparsable"}


@names
def test_only_one_split_of_a_text_into_pieces_exists(name):
    pieces = WORLDS[name].vocabulary
    assert len(set(pieces)) == len(pieces)
    for longer in pieces:
        for piece in pieces:
            if longer != piece and longer.startswith(piece):
                rest = longer[len(piece) :]
                assert not any(other.startswith(rest) or rest.startswith(other) for other in pieces)
