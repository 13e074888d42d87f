"""Rewards: what a graded response is worth in training. The paper does not say which one it uses."""

from collections.abc import Callable, Sequence

REWARDS: dict[str, Callable[[bool], float]] = {
    "correct": lambda correct: 1.0 if correct else 0.0,
    # DAPO's (arXiv 2503.14476, eq. 7). Advantages are normalised in groups: up to the 1e-4 beside the standard
    # deviation they are those of "correct".
    "signed": lambda correct: 1.0 if correct else -1.0,
}


def rewards(name: str, completions: Sequence[str], golds: Sequence[str]) -> list[float]:
    """The reward `name` of each completion, graded against its gold as evaluation grades it."""
    from evals.grading import grade_many

    return [REWARDS[name](verdict.correct) for verdict in grade_many(list(zip(completions, golds, strict=True)))]
