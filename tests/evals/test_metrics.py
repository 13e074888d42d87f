import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.metrics import avg_at_k, clustered_stderr, maj_at_k, pass_at_k, score

counts = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@given(counts)
def test_pass_at_k_grows_with_k_and_with_c_and_starts_at_the_mean(case):
    n, c, k = case
    value = pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert value == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)
    if k < n:
        assert pass_at_k(n, c, k + 1) >= value - 1e-12
    if c < n:
        assert pass_at_k(n, c + 1, k) >= value - 1e-12


def test_pass_at_k_is_stable_for_many_samples():
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)
    assert pass_at_k(100_000, 99_999, 2) == 1.0


def test_pass_at_k_does_not_invent_samples():
    assert math.isnan(pass_at_k(4, 4, 5))
    for n, c, k in ((4, 5, 1), (4, -1, 1), (4, 2, 0)):
        with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
            pass_at_k(n, c, k)


def test_avg_at_k():
    assert avg_at_k([True, False, False, True]) == 0.5


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["1", "2", "2"], [True, False, False], False),
        (["1", "2", "2"], [False, True, True], True),
        (["2", "1", "1", "2"], [True, False, False, True], True),  # a tie: the first seen
        (["1", "2", "1", "2"], [False, True, False, True], False),
        ([None, None, None, "7"], [False, False, False, True], True),  # no answer is no vote
        ([None, None], [False, False], False),
    ],
)
def test_maj_at_k(answers, correct, expected):
    assert maj_at_k(answers, correct) is expected


@given(st.lists(st.integers(0, 16).map(lambda c: c / 16), min_size=2, max_size=60))
def test_the_clustered_error_is_that_of_the_problem_means(means):
    expected = statistics.stdev(means) / math.sqrt(len(means))
    assert clustered_stderr(means) == pytest.approx(expected, abs=1e-12)


def test_more_samples_of_the_same_problems_do_not_shrink_the_error():
    few = score(rows_of({"a": [1, 0], "b": [1, 1], "c": [0, 0]}))
    many = score(rows_of({"a": [1, 0] * 8, "b": [1, 1] * 8, "c": [0, 0] * 8}))
    assert many["avg_at_k"] == few["avg_at_k"]


def rows_of(results: dict[str, list[int]]) -> list[dict]:
    return [
        {
            "problem_id": name,
            "correct": bool(correct),
            "status": "correct" if correct else "wrong",
            "tokens": 10 + i,
            "finish": "stop",
            "answer": "1" if correct else str(i + 2),
        }
        for name, outcomes in results.items()
        for i, correct in enumerate(outcomes)
    ]


def test_score_of_a_small_case_by_hand():
    rows = rows_of({"a": [1, 1, 0, 0], "b": [0, 0, 0, 0]})
    rows[7] |= {"status": "truncated", "finish": "length", "answer": None}
    found = score(rows)
    assert found["avg_at_k"] == {
        "value": 0.25,
        "stderr": pytest.approx(0.25),
        "method": "clustered by problem",
    }
    assert found["pass_at"] == {"1": 0.25, "2": pytest.approx((1 - 1 / 6) / 2), "4": 0.5}
    assert found["maj_at_k"] == 0.5
    assert found["verdicts"] == {"correct": 2, "wrong": 5, "unparsable": 0, "truncated": 1, "timed_out": 0}
    assert found["completion_tokens_mean"] == 11.5
    assert found["truncated_share"] == 1 / 8
    assert found["per_problem"] == [{"id": "a", "n": 4, "c": 2}, {"id": "b", "n": 4, "c": 0}]


def test_one_problem_has_no_error_and_no_rows_have_no_score():
    assert score(rows_of({"a": [1, 0]}))["avg_at_k"]["stderr"] is None
    with pytest.raises(ValueError, match="no samples"):
        score([])


def test_pass_at_k_is_left_out_where_some_problem_has_fewer_samples():
    assert set(score(rows_of({"a": [1, 0, 0, 0], "b": [1, 0]}))["pass_at"]) == {"1", "2"}
