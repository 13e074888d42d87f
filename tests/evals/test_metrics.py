import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.metrics import avg_at_k, clustered_stderr, interval_of, lengths, maj_at_k, pass_at_k, score

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
            "candidate": "1" if correct else str(i + 2),
            "flexible": bool(correct),
        }
        for name, outcomes in results.items()
        for i, correct in enumerate(outcomes)
    ]


def test_score_of_a_small_case_by_hand():
    rows = rows_of({"a": [1, 1, 0, 0], "b": [0, 0, 0, 0]})
    rows[7] |= {"status": "truncated", "finish": "length", "candidate": None}
    rows[6] |= {"status": "unparsable", "flexible": True}
    found = score(rows)
    interval = found["avg_at_k"].pop("interval")
    assert found["avg_at_k"] == {
        "value": 0.25,
        "stderr": pytest.approx(0.25),
        "method": "clustered by problem",
    }
    assert interval == {"level": 0.95, "low": 0.0, "high": 1.0, "method": "Student's t over problems, cut to 0..1"}
    assert found["headline"] == "strict"
    assert found["flexible"]["avg_at_k"]["value"] == 3 / 8 and found["flexible"]["pass_at"]["4"] == 1.0
    assert found["pass_at"] == {"1": 0.25, "2": pytest.approx((1 - 1 / 6) / 2), "4": 0.5}
    assert found["maj_at_k"] == 0.5
    assert found["verdicts"] == {"correct": 2, "wrong": 4, "unparsable": 1, "truncated": 1, "timed_out": 0}
    assert found["verdict_shares"]["wrong"] == 4 / 8 and sum(found["verdict_shares"].values()) == 1
    assert found["completion_tokens_mean"] == 11.5
    assert found["completion_tokens"] == {"mean": 11.5, "median": 11.5, "p90": 13, "max": 13}
    assert found["truncated_share"] == 1 / 8 and found["overflow_share"] == 0
    assert found["per_problem"] == [
        {"id": "a", "n": 4, "c": 2, "f": 2, "maj": True, "tokens": 11.5, "cut": 0},
        {"id": "b", "n": 4, "c": 0, "f": 1, "maj": False, "tokens": 11.5, "cut": 1},
    ]


def test_thinking_and_answer_are_counted_apart():
    rows = rows_of({"a": [1, 0], "b": [0, 0]})  # of 10, 11, 10 and 11 tokens
    assert score(rows)["thinking"] is None
    counted = [row | {"thinking_tokens": count} for row, count in zip(rows, (0, 7, 10, 3), strict=True)]
    assert score(counted)["thinking"] == {"tokens_mean": 5.0, "answer_tokens_mean": 5.5, "unclosed_share": 0.25}
    assert score([*counted[:3], counted[3] | {"thinking_tokens": None}])["thinking"] is None


def test_one_problem_has_no_error_and_no_rows_have_no_score():
    assert score(rows_of({"a": [1, 0]}))["avg_at_k"]["stderr"] is None
    with pytest.raises(ValueError, match="no samples"):
        score([])


def test_pass_at_k_is_left_out_where_some_problem_has_fewer_samples():
    found = score(rows_of({"a": [1, 0, 0, 0], "b": [1, 0]}))
    assert set(found["pass_at"]) == {"1", "2"}
    assert found["pass_at_missing"] == {
        str(k): f"needs {k} samples of every problem, the fewest here is 2" for k in (4, 8, 16, 32, 64, 256)
    }


def test_pass_at_large_k_is_there_where_the_samples_are():
    found = score(rows_of({"a": [1] + [0] * 255, "b": [0] * 256}))
    assert list(found["pass_at"]) == ["1", "2", "4", "8", "16", "32", "64", "256"] and not found["pass_at_missing"]
    assert found["pass_at"]["64"] == pytest.approx(0.125) and found["pass_at"]["256"] == 0.5


@given(st.lists(st.integers(0, 16).map(lambda c: c / 16), min_size=2, max_size=60))
def test_the_interval_holds_the_mean_stays_in_range_and_names_its_method(means):
    found = interval_of(means)
    centre = sum(means) / len(means)
    assert found["level"] == 0.95 and found["method"]
    if found["low"] is not None:
        assert 0 <= found["low"] <= centre + 1e-9 and centre - 1e-9 <= found["high"] <= 1


def test_no_correct_sample_is_no_certainty():
    """All wrong: the exact binomial bound, as scipy gives it; Student's t would have said [0, 0]."""
    expected = stats.binomtest(0, 30).proportion_ci(0.95, method="exact")
    found = interval_of([0.0] * 30)
    assert (found["low"], found["high"]) == (0.0, pytest.approx(expected.high)) and "exact binomial" in found["method"]
    assert interval_of([1.0] * 30)["low"] == pytest.approx(1 - expected.high)
    assert interval_of([0.5] * 30) == {
        "level": 0.95, "low": None, "high": None, "method": "none: no spread between problems"
    }  # fmt: skip
    assert interval_of([0.5])["low"] is None


def test_lengths_by_hand():
    assert lengths([10]) == {"mean": 10, "median": 10, "p90": 10, "max": 10}
    assert lengths(range(1, 12)) == {"mean": 6, "median": 6, "p90": 10, "max": 11}
