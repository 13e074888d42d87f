"""The paper's scores (Chen et al., arXiv 2602.09782 v1, "main table"): one run per cell, no seeds, no intervals.

They are shown beside our numbers with the interval that follows from the choice of problems alone
(`evals.stats.problem_interval`).
"""

from dataclasses import dataclass

from dynclip.report.tables import markdown_rows
from evals.stats import problem_interval

BENCHMARKS = {  # benchmark -> (problems, samples of each)
    "AIME24": (30, 32),
    "AIME25": (30, 32),
    "AMC": (83, 32),
    "MATH-500": (500, 4),
    "GSM8K": (1319, 2),
    "OlympiadBench": (675, 4),
}

SCORES = {  # model -> method of the registry -> avg@k in per cent, in the order of BENCHMARKS
    "Qwen2.5-Math-7B": {
        "grpo": (24.4, 10.2, 54.8, 81.1, 91.6, 46.2),
        "clip_higher": (30.5, 12.7, 55.8, 82.7, 93.3, 46.4),
        "clip_lower": (22.9, 8.1, 53.2, 80.8, 79.9, 44.0),
        "ent_reg": (21.6, 12.7, 53.0, 79.6, 91.2, 44.2),
        "clip_cov": (27.1, 17.1, 53.9, 83.6, 92.2, 44.3),
        "sapo": (31.1, 10.8, 56.6, 82.3, 91.7, 45.1),
        "gspo": (27.9, 10.4, 57.3, 81.9, 85.5, 40.5),
        "id": (33.1, 18.1, 58.9, 84.5, 93.7, 48.3),
        "did": (31.5, 15.2, 55.0, 82.3, 91.7, 47.8),
        "od": (31.1, 18.3, 58.3, 83.0, 92.4, 47.5),
    },
    "Qwen2.5-7B": {
        "grpo": (15.9, 9.6, 44.9, 77.1, 90.5, 41.9),
        "clip_higher": (16.5, 11.6, 46.6, 77.6, 91.6, 42.6),
        "clip_lower": (16.4, 8.5, 42.2, 77.0, 89.9, 40.0),
        "ent_reg": (16.2, 11.3, 43.4, 76.3, 91.5, 40.5),
        "clip_cov": (13.9, 9.0, 44.1, 77.3, 89.3, 42.2),
        "sapo": (13.1, 8.9, 42.0, 74.9, 84.1, 42.0),
        "gspo": (16.4, 9.1, 47.4, 77.2, 92.4, 42.1),
        "id": (17.0, 9.3, 45.3, 78.0, 92.2, 42.6),
        "did": (16.9, 12.1, 45.3, 77.5, 93.4, 42.4),
        "od": (16.9, 11.7, 48.3, 77.2, 92.0, 44.0),
    },
}


@dataclass(frozen=True)
class Cell:
    """A published score in per cent with two intervals from problems alone: answers to one problem all alike (`low`,
    `high`, the widest), or with a correlation of 0.5 (`low_half`, `high_half`).
    """

    score: float
    low: float
    high: float
    low_half: float
    high_half: float

    @property
    def text(self) -> str:
        """score [widest low [narrower interval] widest high]."""
        return f"{self.score} [{self.low:.1f} [{self.low_half:.1f}, {self.high_half:.1f}] {self.high:.1f}]"


def cell(model: str, method: str, benchmark: str) -> Cell:
    """The published score of a method on a benchmark. Raises KeyError for a model or method without a score."""
    score = SCORES[model][method][list(BENCHMARKS).index(benchmark)]
    problems, samples = BENCHMARKS[benchmark]
    widest = problem_interval(score, problems, samples)
    return Cell(score, *widest, *problem_interval(score, problems, samples, correlation=0.5))


def table(model: str = "Qwen2.5-Math-7B", methods: tuple[str, ...] = ("grpo", "clip_higher", "id")) -> str:
    """The published scores of some methods with their intervals, as Markdown."""
    rows = [
        [benchmark, f"{problems} × {samples}", *(cell(model, method, benchmark).text for method in methods)]
        for benchmark, (problems, samples) in BENCHMARKS.items()
    ]
    return markdown_rows(["benchmark", "problems × samples", *methods], rows)
