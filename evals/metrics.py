"""Scores of sampled answers: avg@k, unbiased pass@k, maj@k, and their problem-clustered standard error."""

import math
from collections import Counter
from collections.abc import Sequence

PASS_AT = (1, 2, 4, 8)
STATUSES = ("correct", "wrong", "unparsable", "truncated", "timed_out")


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples with c correct ones.

    1 − C(n−c, k)/C(n, k) (arXiv 2107.03374, eq. 1), as a product. NaN when n < k: fewer samples cannot tell.
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


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool]) -> bool:
    """Whether the most frequent answer is correct. Ties go to the one seen first; None does not vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return False
    winner = votes.most_common(1)[0][0]  # insertion order breaks ties
    return correct[list(answers).index(winner)]


def clustered_stderr(means: Sequence[float]) -> float:
    """Standard error of the mean of `means`, one per problem (arXiv 2411.00640); NaN for a single problem."""
    n = len(means)
    if n < 2:
        return math.nan
    centre = sum(means) / n
    return math.sqrt(sum((m - centre) ** 2 for m in means) / (n - 1) / n)


def score(rows: Sequence[dict]) -> dict:
    """A score record's numbers from sample rows (problem_id, correct, status, tokens, answer, finish).

    `pass_at` holds K = 1, 2, 4, 8 where there are at least K samples of every problem. maj@k votes
    with `answer`, the extracted final answer. Raises ValueError where there are no rows.
    """
    if not rows:
        raise ValueError("score: there are no samples to score")
    problems: dict[str, list[dict]] = {}
    for row in rows:
        problems.setdefault(row["problem_id"], []).append(row)
    counts = [(name, len(group), sum(row["correct"] for row in group)) for name, group in problems.items()]
    means = [c / n for _, n, c in counts]
    verdicts = Counter(row["status"] for row in rows)
    majority = [maj_at_k([r["answer"] for r in g], [r["correct"] for r in g]) for g in problems.values()]
    stderr = clustered_stderr(means)
    return {
        "avg_at_k": {
            "value": sum(means) / len(means),
            "stderr": None if math.isnan(stderr) else stderr,
            "method": "clustered by problem",
        },
        "pass_at": {
            str(k): sum(pass_at_k(n, c, k) for _, n, c in counts) / len(counts)
            for k in PASS_AT
            if all(n >= k for _, n, _ in counts)
        },
        "maj_at_k": sum(majority) / len(majority),
        "verdicts": {status: verdicts[status] for status in STATUSES},
        "completion_tokens_mean": sum(row["tokens"] for row in rows) / len(rows),
        "truncated_share": sum(row["finish"] == "length" for row in rows) / len(rows),
        "per_problem": [{"id": name, "n": n, "c": c} for name, n, c in counts],
    }
