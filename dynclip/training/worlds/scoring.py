"""Scores of a world's policies: exact in `paths`, sampled and graded in the language worlds."""

from collections.abc import Sequence

import torch

from dynclip.training.worlds.networks import Weights
from dynclip.training.worlds.tasks import PathTask
from evals.benchmarks.worlds import paths


def path_success(task: PathTask, weights: Weights, pairs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The probability that each seed's policy meets the goal from the start, for its pairs (count, 2), exactly.

    With p the probabilities of the moves along edges from node c with the goal g at move t, backwards over t:
    S_t[c, g] = p[g] + Σ_{n ≠ g} p[n] S_{t+1}[n, g].
    """
    size, moves = paths.NODES, task.network.moves
    nodes = torch.arange(size)
    found = []
    for r, own in enumerate(pairs):
        policy = {name: value[r : r + 1] for name, value in weights.items()}
        node, goal = nodes.view(-1, 1).expand(size, size), nodes.view(1, -1).expand(size, size)
        success = torch.zeros(size, size)  # (node, goal), nothing left after the last move
        for move in reversed(range(moves)):
            inputs = {"node": node, "goal": goal, "move": torch.full_like(node, move)}
            logits = task.network.logits(policy, {name: value.unsqueeze(0) for name, value in inputs.items()})[0]
            chance = torch.softmax(logits, -1) * task.edges[r].unsqueeze(1)  # (node, goal, next)
            onward = success.clone().fill_diagonal_(1.0)  # at the goal the walk has succeeded
            success = torch.einsum("cgn,ng->cg", chance, onward)
        found.append(success[own[:, 0], own[:, 1]])
    return found
