"""What is to be sampled and scored of one benchmark."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from evals.benchmarks.problem import Problem
from evals.sampling.models import Model
from evals.sampling.prompts import Template
from evals.sampling.settings import Sampling

FIRST_STAGE = 64  # problems before the first look at the standard error


@dataclass(frozen=True)
class Task:
    """One benchmark to be scored: `k` samples of each of `problems`, and the files of the samples and the score.

    whole: the number of problems of the benchmark, of which `problems` may be a subset; 0 if unknown. until: the
    standard error, in points, at which no more problems are needed; None scores all of them.
    released: the day on which its first problems became public; "" for generated problems.
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
    whole: int = 0
    until: float | None = None
    released: str = ""

    @property
    def ids(self) -> list[str]:
        return [problem.id for problem in self.problems]

    def stages(self) -> Iterator["Task"]:
        """This task with its first problems, then with a quarter more, and so on to all of them."""
        count = len(self.problems) if self.until is None else FIRST_STAGE
        while count < len(self.problems):
            yield replace(self, problems=self.problems[:count])
            count = ceil(count * 1.25)
        yield self

    def address(self, model: Model) -> dict:
        """What all samples of this task have in common. With problem and index it identifies one sample."""
        return {
            "model": model.digest,
            "benchmark": self.name,
            "content": self.content,
            "template": self.template.label,
            "sampling": {**self.sampling.record, "seed": self.seed},
        }
