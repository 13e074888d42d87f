"""The reward of a training in verl, as verl's workers load it:
`reward.custom_reward_function.path=pkg://dynclip.training.verl_scripts.reward`, `name=compute_score`.

It grades as training in TRL and evaluation do, and imports nothing of verl. It needs math-verify in verl's environment.
"""

from typing import Any

from evals.grading import REWARDS, grade_many


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    reward: str = "correct",
) -> dict[str, float]:
    """verl's reward function for one response: "score", which verl trains on, and "acc", 1 where it is correct, else 0.

    The first four arguments are verl 0.9.1's, by its names; `data_source` does not matter. `extra_info["tolerance"]` is
    the deviation that the gold grants ("" for none). `reward`, a name of `evals.grading`, comes from
    `reward.custom_reward_function.reward_kwargs`. Raises KeyError for an unknown reward.
    """
    tolerance = (extra_info or {}).get("tolerance") or ""
    correct = grade_many([(solution_str, ground_truth)], tolerances=[tolerance])[0].correct
    return {"score": REWARDS[reward](correct), "acc": float(correct)}
