"""Intervals over training seeds, tests of differences, resampling, curves, and what a design can detect."""

from evals.stats.bootstrap import (
    EXPLORATORY_SEEDS,
    NO_CLAIM,
    Counts,
    Estimate,
    Rank,
    bootstrap_difference,
    interquartile_mean,
    iqm,
    probability_of_improvement,
    rankings,
    sign_flip_p,
)
from evals.stats.comparison import (
    Difference,
    Interval,
    detectable_effect,
    difference,
    holm,
    judge,
    mean_interval,
    mean_test,
)
from evals.stats.curves import (
    Area,
    Shape,
    area_between,
    at_equal_success,
    falls_rises_falls,
    oscillation,
    rises_then_falls,
    smooth,
    window,
    window_steps,
)
from evals.stats.power import Components, Design, minimum_detectable_effect, problem_interval, variance_components

__all__ = [
    "EXPLORATORY_SEEDS", "NO_CLAIM", "Area", "Components", "Counts", "Design", "Difference", "Estimate", "Interval",
    "Rank", "Shape", "area_between", "at_equal_success", "bootstrap_difference", "detectable_effect", "difference",
    "falls_rises_falls", "holm", "interquartile_mean", "iqm", "judge", "mean_interval", "mean_test",
    "minimum_detectable_effect", "oscillation", "probability_of_improvement", "problem_interval", "rankings",
    "rises_then_falls", "sign_flip_p", "smooth", "variance_components", "window", "window_steps",
]  # fmt: skip
