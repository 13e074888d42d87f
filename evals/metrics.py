"""Scores of sampled answers: avg@k, unbiased pass@k, maj@k, and their problem-clustered standard error."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from evals.stats.comparison import mean_interval

PASS_AT = (1, 2, 4, 8, 16, 32, 64, 256)
STATUSES = ("correct", "wrong", "unparsable", "truncated", "timed_out")


@lru_cache(maxsize=4096)  # hundreds of problems have the same few counts
def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples with c correct ones.

    1 − C(n−c, k)/C(n, k) (arXiv 2107.03374, eq. 1), as a product. NaN for n < k. Raises ValueError for c
    outside 0..n or k < 1.
    """
    if not 0 <= c <= n or k < 1:
        raise ValueError(f"pass_at_k: expected 0 <= c <= n and k >= 1, given n={n}, c={c}, k={k}")
    if n < k:
        return math.nan
    if n - c < k:
        return 1.0
    return 1.0 - math.prod((n - c - i) / (n - i) for i in range(k))


def avg_at_k(correct: Sequence[bool]) -> float:
    """The share of correct samples."""
    return sum(correct) / len(correct)


def maj_at_k(candidates: Sequence[str | None], correct: Sequence[bool]) -> bool:
    """Whether the candidate with most votes is correct. A tie goes to the one seen first; None does not vote.

    candidates[i]: what sample i votes for, the same text for all answers of equal value (`evals.grading.candidates`).
    """
    votes = Counter(candidate for candidate in candidates if candidate is not None)
    if not votes:
        return False
    winner = votes.most_common(1)[0][0]  # insertion order breaks ties
    return correct[list(candidates).index(winner)]


def clustered_stderr(means: Sequence[float]) -> float:
    """Standard error of the mean of `means`, one per problem (arXiv 2411.00640); NaN for a single problem."""
    n = len(means)
    if n < 2:
        return math.nan
    centre = sum(means) / n
    return math.sqrt(sum((m - centre) ** 2 for m in means) / (n - 1) / n)


def interval_of(means: Sequence[float], confidence: float = 0.95) -> dict:
    """Interval of the mean of `means`, one per problem in 0..1, as {"level", "low", "high", "method"}.

    Student's t over problems. If all means are 0 or all are 1, it is the exact binomial interval over problems
    (Clopper-Pearson). If all are equal to another value there is no interval, and "method" gives the reason.
    """
    n = len(means)
    entry = {"level": confidence, "low": None, "high": None}
    if n < 2:
        return entry | {"method": "none: one problem has no spread"}
    if len(set(means)) > 1:
        found = mean_interval(means, confidence)
        return entry | {
            "low": max(0.0, found.low),
            "high": min(1.0, found.high),
            "method": "Student's t over problems, cut to 0..1",
        }
    if means[0] not in (0, 1):
        return entry | {"method": "none: no spread between problems"}
    from scipy import stats

    exact = stats.binomtest(n * int(means[0]), n).proportion_ci(confidence)
    return entry | {
        "low": float(exact.low),
        "high": float(exact.high),
        "method": "exact binomial over problems: all have the same mean",
    }


def guarded(means: Sequence[float], confidence: float = 0.95) -> tuple[float, dict]:
    """Standard error and interval of the mean of `means`, one per problem, where the scores decided their number.

    As for Student's t over problems, with two solved and two unsolved problems added (Agresti and Coull 1998). Without
    them a few equal scores at the beginning would end the drawing with an error of 0. With looks a quarter apart the
    interval covers 93.7 to 99.7 % (tests/evals/test_until.py).
    """
    added = [*means, 0.0, 0.0, 1.0, 1.0]
    found = mean_interval(added, confidence)
    entry = {"level": confidence, "low": max(0.0, found.low), "high": min(1.0, found.high)}
    return clustered_stderr(added), entry | {
        "method": "Student's t with two solved and two unsolved problems added: the scores decided their number"
    }


def with_until(numbers: dict, points: float) -> dict:
    """`numbers` of `score`, whose problems were drawn until the standard error is at most `points` (of 100).

    Their errors and intervals become those of `guarded`. until: the error that counts, in points, and whether it is
    small enough.
    """
    table = numbers["per_problem"]
    strict = numbers["avg_at_k"] | _sequential([entry["c"] / entry["n"] for entry in table])
    flexible = numbers["flexible"]["avg_at_k"] | _sequential([entry["f"] / entry["n"] for entry in table])
    error = 100 * strict["stderr"]
    return numbers | {
        "avg_at_k": strict,
        "flexible": numbers["flexible"] | {"avg_at_k": flexible},
        "until": {"points": points, "error": error, "reached": error <= points},
    }


def _sequential(means: Sequence[float]) -> dict:
    stderr, interval = guarded(means)
    return {"stderr": stderr, "interval": interval}


def lengths(tokens: Sequence[int]) -> dict:
    """Mean, median, 90th percentile and maximum of response lengths in tokens."""
    ordered = sorted(tokens)
    return {
        "mean": sum(ordered) / len(ordered),
        "median": (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2,
        "p90": ordered[math.ceil(0.9 * len(ordered)) - 1],
        "max": ordered[-1],
    }


def score(rows: Sequence[dict]) -> dict:
    """A score record's numbers from sample rows (problem_id, correct, flexible, status, tokens, candidate, finish, and
    thinking_tokens where they were counted).

    headline: "strict", only marked answers count. flexible: avg@k and pass@K where unmarked answers count as well.
    pass_at: the K of PASS_AT as far as every problem has K samples; pass_at_missing: the reason for each other K. maj@k
    votes with `candidate`. per_problem: samples n, correct c, flexibly correct f, whether the majority is correct, mean
    tokens, samples cut off. Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("score: there are no samples to score")
    problems: dict[str, list[dict]] = {}
    for row in rows:
        problems.setdefault(row["problem_id"], []).append(row)
    table = [_problem(name, group) for name, group in problems.items()]
    fewest = min(entry["n"] for entry in table)
    verdicts = Counter(row["status"] for row in rows)
    finishes = Counter(row["finish"] for row in rows)
    tokens = lengths([row["tokens"] for row in rows])
    return {
        "headline": "strict",
        "avg_at_k": _average([entry["c"] / entry["n"] for entry in table]),
        "pass_at": _pass_at(table, "c", fewest),
        "flexible": {
            "avg_at_k": _average([entry["f"] / entry["n"] for entry in table]),
            "pass_at": _pass_at(table, "f", fewest),
        },
        "pass_at_missing": {
            str(k): f"needs {k} samples of every problem, the fewest here is {fewest}" for k in PASS_AT if k > fewest
        },
        "maj_at_k": sum(entry["maj"] for entry in table) / len(table),
        "verdicts": {status: verdicts[status] for status in STATUSES},
        "verdict_shares": {status: verdicts[status] / len(rows) for status in STATUSES},
        "completion_tokens_mean": tokens["mean"],
        "completion_tokens": tokens,
        "thinking": _thinking(rows),
        "truncated_share": finishes["length"] / len(rows),
        "overflow_share": finishes["overflow"] / len(rows),
        "repetition_share": finishes["repetition"] / len(rows),
        "per_problem": table,
    }


def _thinking(rows: Sequence[dict]) -> dict | None:
    """Mean tokens of thinking and of the rest, and the share of samples whose thinking never ended; None where thinking
    was not counted.
    """
    pairs = [(row.get("thinking_tokens"), row["tokens"]) for row in rows]
    if any(thinking is None for thinking, _ in pairs):
        return None
    return {
        "tokens_mean": sum(thinking for thinking, _ in pairs) / len(rows),
        "answer_tokens_mean": sum(tokens - thinking for thinking, tokens in pairs) / len(rows),
        "unclosed_share": sum(0 < thinking == tokens for thinking, tokens in pairs) / len(rows),
    }


def _average(means: Sequence[float]) -> dict:
    """avg@k over problems with its clustered error and interval."""
    stderr = clustered_stderr(means)
    return {
        "value": sum(means) / len(means),
        "stderr": None if math.isnan(stderr) else stderr,
        "method": "clustered by problem",
        "interval": interval_of(means),
    }


def _pass_at(table: Sequence[dict], counted: str, fewest: int) -> dict[str, float]:
    """pass@K for the K that every problem has samples for; `counted` names the column of correct samples."""
    return {
        str(k): sum(pass_at_k(entry["n"], entry[counted], k) for entry in table) / len(table)
        for k in PASS_AT
        if k <= fewest
    }


def _problem(name: str, group: Sequence[dict]) -> dict:
    correct = [row["correct"] for row in group]
    return {
        "id": name,
        "n": len(group),
        "c": sum(correct),
        "f": sum(row["flexible"] for row in group),
        "maj": maj_at_k([row["candidate"] for row in group], correct),
        "tokens": sum(row["tokens"] for row in group) / len(group),
        "cut": sum(row["finish"] != "stop" for row in group),
    }


def exact_score(rows: Sequence[dict]) -> dict:
    """The numbers of `score` from exact success probabilities: rows of problem_id, success, entropy, tokens.

    pass@K is 1 − (1 − success)^K, averaged over problems. per_problem has n = 1 and the probability as c. `entropy`:
    expected nats per token, over all tokens that the problems' responses are expected to have.
    """
    if not rows:
        raise ValueError("exact_score: there are no problems to score")
    success = [min(max(row["success"], 0.0), 1.0) for row in rows]
    tokens = [row["tokens"] for row in rows]
    won = sum(success)
    pass_at = {str(k): sum(1 - (1 - s) ** k for s in success) / len(rows) for k in PASS_AT}
    average = _average(success)
    shares = dict.fromkeys(STATUSES, 0.0) | {"correct": won, "wrong": len(rows) - won}
    return {
        "headline": "exact",
        "avg_at_k": average,
        "pass_at": pass_at,
        "flexible": {"avg_at_k": average, "pass_at": pass_at},
        "pass_at_missing": {},
        "maj_at_k": sum(s > 0.5 for s in success) / len(rows),
        "verdicts": shares,
        "verdict_shares": {status: number / len(rows) for status, number in shares.items()},
        "completion_tokens_mean": sum(tokens) / len(tokens),
        "completion_tokens": lengths(tokens),
        "truncated_share": 0.0,
        "overflow_share": 0.0,
        "repetition_share": 0.0,
        "entropy": sum(row["entropy"] for row in rows) / sum(tokens),
        "per_problem": [
            {"id": row["problem_id"], "n": 1, "c": s, "f": s, "maj": s > 0.5, "tokens": row["tokens"], "cut": 0}
            for row, s in zip(rows, success, strict=True)
        ],
    }


def numbers_of(rows: Sequence[dict], until: float | None = None) -> dict:
    """The numbers of a score record from its sample rows: `score`, with `until` points `with_until`, or `exact_score`
    where the rows hold exact success probabilities. Raises ValueError for no rows.
    """
    if rows and "success" in rows[0]:
        return exact_score(rows)
    return score(rows) if until is None else with_until(score(rows), until)
