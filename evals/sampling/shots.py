"""Worked examples before a problem, for models that were not trained to follow instructions."""

from dataclasses import replace

from dynclip.runtime.errors import UserError
from dynclip.runtime.provenance import digest
from evals.benchmarks.decontamination import decontaminate
from evals.benchmarks.loading import obtain
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import TRAIN_SETS, ProblemSet
from evals.sampling.prompts import FEW_SHOT, Template, few_shot

# Of GSM8K's training split the first eight with two calculations or more, and at most 400 characters of problem and
# solution together. Of other training sets the same numbers.
NUMBERS = (1, 2, 5, 7, 13, 15, 29, 35)


def with_shots(entry: ProblemSet, count: int, problems: list[Problem]) -> Template:
    """The template of `count` examples for a benchmark: of GSM8K's training split, or of the same world's training set.

    Raises UserError where an example occurs in `problems`, or where the training set cannot be loaded.
    """
    name = f"{entry.world}_train" if entry.kind == "generated" else "gsm8k_train"
    training = obtain(TRAIN_SETS[name])[0]
    chosen = [training[number - 1] for number in NUMBERS[:count]]
    overlaps = {overlap.id: overlap.problem for overlap in decontaminate(training, {entry.name: problems})[1]}
    for shot in chosen:
        if shot.id in overlaps:
            raise UserError(f"--shots: the example {shot.id} occurs in {entry.name} ({overlaps[shot.id]})")
    pairs = [(shot.problem, shot.solution or f"\\boxed{{{shot.answer}}}") for shot in chosen]
    ids = [shot.id for shot in chosen]
    record = {"n": len(ids), "set": name, "ids": ids, "digest": digest([ids, pairs])}
    examples = "".join(f"{few_shot(problem, None)}\n{solution}\n\n" for problem, solution in pairs)
    return replace(FEW_SHOT, examples=examples, shots=record)
