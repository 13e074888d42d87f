"""The order of docs/methods.md: the question that a method answers, by a rule over its pieces.

`QUESTIONS` are the sections of the page and `FAMILIES` their parts. No method is named here.
"""

from dataclasses import dataclass

import torch

from dynclip.methods.objective import Method
from dynclip.methods.spec import MethodSpec

Grouped = dict[str, list[MethodSpec]]  # family -> its methods, in the order of the registry


@dataclass(frozen=True)
class Question:
    """A section of the page. `word` names it in the comparison table."""

    word: str
    title: str
    text: str


@dataclass(frozen=True)
class Family:
    """A part of a section; without a title it is the whole section."""

    question: str
    title: str = ""
    text: str = ""


QUESTIONS = {
    "bound": Question(
        "bound",
        "How far may a token move?",
        "These methods change the interval of the ratio, what happens outside it, or the ratio. Nothing moves during "
        "training.",
    ),
    "weight": Question(
        "weight",
        "Which tokens count, and how much?",
        "Factors of the loss, without gradient, decide how much a token counts.",
    ),
    "term": Question("added term", "What else is in the loss?", "A term is added to the loss of every token."),
    "advantage": Question(
        "advantage",
        "What is a response worth?",
        "Advantages are changed once per rollout batch, before the first update.",
    ),
    "controller": Question(
        "during training",
        "What changes while training runs?",
        "A schedule follows the step. A controller observes the mean entropy of every rollout batch and sets one "
        "number for the next losses.",
    ),
}
FAMILIES = {
    "constant": Family("bound", "One interval", "The interval is the same for every token and at every step."),
    "probability": Family("bound", "An interval by probability", "The interval depends on the old probability q."),
    "surrogate": Family(
        "bound",
        "Another surrogate or ratio",
        "These methods change the loss of a token beyond its bound, or the ratio that is bounded.",
    ),
    "weight": Family("weight"),
    "term": Family("term"),
    "advantage": Family("advantage"),
    "schedule": Family("controller", "A schedule moves the bound", "The interval follows the step."),
    "bound by entropy": Family("controller", "Entropy moves the bound"),
    "weight by entropy": Family("controller", "Entropy moves a weight"),
    "term by entropy": Family("controller", "Entropy moves an added term"),
    "advantage by entropy": Family("controller", "Entropy moves the advantage"),
}


def changed(spec: MethodSpec) -> str:
    """What a method changes, a key of `QUESTIONS`: the last piece of its loss that is not GRPO's."""
    if spec.extra:
        return "term"
    if spec.advantages:
        return "advantage"
    return "weight" if spec.weights or spec.rollout_weights else "bound"


def family(spec: MethodSpec) -> str:
    """The key in `FAMILIES` of a method: what it changes, and what moves that during training."""
    if spec.controller:
        return f"{changed(spec)} by entropy"
    if changed(spec) != "bound":
        return changed(spec)
    if spec.surrogate or spec.ratio:
        return "surrogate"
    # No entry declares what its bounds depend on, so they are evaluated.
    method, q = Method(spec, 8, {}), torch.linspace(0.05, 1, 20, dtype=torch.float64)
    seen = [torch.stack(method.bounds(q, step)) for step in range(9)]
    if any(not torch.equal(seen[0], bounds) for bounds in seen):
        return "schedule"
    return "constant" if (seen[0] == seen[0][:, :1]).all() else "probability"


def grouped(specs: dict[str, MethodSpec]) -> Grouped:
    """The specs by family: families in the order of `FAMILIES`, methods in the order of the registry."""
    families: Grouped = {key: [] for key in FAMILIES}
    for spec in specs.values():
        families[family(spec)].append(spec)
    return families


def sections(specs: dict[str, MethodSpec]) -> dict[str, Grouped]:
    """Question -> family -> methods, without those that are empty."""
    families = {key: members for key, members in grouped(specs).items() if members}
    found = {
        question: {key: members for key, members in families.items() if FAMILIES[key].question == question}
        for question in QUESTIONS
    }
    return {question: parts for question, parts in found.items() if parts}
