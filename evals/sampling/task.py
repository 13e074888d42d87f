"""What is to be sampled and scored of one benchmark."""

from dataclasses import dataclass
from pathlib import Path

from evals.benchmarks.problem import Problem
from evals.sampling.models import Model
from evals.sampling.prompts import Template
from evals.sampling.settings import Sampling


@dataclass(frozen=True)
class Task:
    """One benchmark to be scored: `k` samples of each of `problems`, and the files of the samples and the score.

    `released` is the day on which its first problems became public, "" for generated problems.
    """

    name: str
    content: str
    problems: list[Problem]
    k: int
    sampling: Sampling
    seed: int
    template: Template
    samples: Path
    score: Path
    released: str = ""

    @property
    def ids(self) -> list[str]:
        return [problem.id for problem in self.problems]

    def address(self, model: Model) -> dict:
        """What all samples of this task have in common. With problem and index it identifies one sample."""
        return {
            "model": model.digest,
            "benchmark": self.name,
            "content": self.content,
            "template": self.template.label,
            "sampling": {**vars(self.sampling), "seed": self.seed},
        }
