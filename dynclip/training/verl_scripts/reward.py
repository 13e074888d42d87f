"""The reward of a training in verl, as verl's workers load it:
`reward.custom_reward_function.path=pkg://dynclip.training.verl_scripts.reward`, `name=compute_score`.

The grader is that of training in TRL and of evaluation. verl's environment needs math-verify. Nothing of verl is
imported.
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
    """verl's reward function for one response: "score", which verl trains on, and "acc", 1 if correct, else 0.

    The first four arguments have verl 0.9.1's names; `data_source` is not used. `extra_info` has "problem", the
    problem's text, and "tolerance", the allowed deviation from the gold answer ("" for none). `reward` is a name of
    `evals.grading.REWARDS`, set by
    `reward.custom_reward_function.reward_kwargs`. Raises KeyError for an unknown reward.
    """
    tolerance, problem = ((extra_info or {}).get(name) or "" for name in ("tolerance", "problem"))
    correct = grade_many([(solution_str, ground_truth)], tolerances=[tolerance], problems=[problem])[0].correct
    return {"score": REWARDS[reward](correct), "acc": float(correct)}
