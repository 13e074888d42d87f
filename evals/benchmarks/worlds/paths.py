"""The world `paths`: find a way from a start to a goal through a fixed random directed graph.

A move goes to one of the `DEGREE` successors of the node. A walk succeeds if it meets the goal within `MOVES` moves.
Problems are the pairs at a shortest distance of 5, 6 or 7 moves, in `GRAPHS` graphs.
"""

import random
import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds.world import Draws, Teacher, World

NODES = 100
DEGREE = 3
MOVES = 7
GRAPHS = 24
LEVELS = (7, 6, 5)  # shortest distances
FIRST_SEED = 1000  # of graph 0
TEXT = re.compile(r"g(\d+): (\d+) to (\d+)")


@dataclass(frozen=True)
class Graph:
    """A directed graph.

    edges: (N, DEGREE) successors of each node. distance: (N, N) moves from row to column, N where there is no way.
    """

    edges: np.ndarray
    distance: np.ndarray


@cache
def graph(number: int) -> Graph:
    """Graph `number`: every node has DEGREE different successors, drawn at random, never itself."""
    rng = np.random.default_rng(FIRST_SEED + number)
    others = [np.delete(np.arange(NODES), node) for node in range(NODES)]
    edges = np.stack([rng.choice(nodes, DEGREE, replace=False) for nodes in others])
    distance = np.full((NODES, NODES), NODES)
    np.fill_diagonal(distance, 0)
    for moves in range(1, NODES):
        reached = (distance[edges] == moves - 1).any(axis=1)  # (N, N): some successor is one move nearer
        new = reached & (distance == NODES)
        if not new.any():
            break
        distance[new] = moves
    return Graph(edges, distance)


def text_of(number: int, start: int, goal: int) -> str:
    """The text of a problem."""
    return f"g{number}: {start} to {goal}"


def parse(text: str) -> tuple[int, int, int]:
    """(graph number, start, goal) of a problem's text. Raises ValueError for another text."""
    match = TEXT.fullmatch(text)
    if not match:
        raise ValueError(f"paths: expected a text such as {text_of(7, 12, 83)!r}, got {text!r}")
    return int(match[1]), int(match[2]), int(match[3])


def walk_text(nodes: list[int]) -> str:
    r"""The response that walks over `nodes`, without the start, such as ` 40 7\boxed{83}`: the last node is boxed."""
    return "".join(f" {node}" for node in nodes[:-1]) + f"\\boxed{{{nodes[-1]}}}"


@cache
def held_out(number: int) -> np.ndarray:
    """(N, N) bool: whether the problem from row to column is held out. True also for pairs that are no problem."""
    texts = [[text_of(number, start, goal) for goal in range(NODES)] for start in range(NODES)]
    return np.array([[WORLD.is_held_out(text) for text in row] for row in texts])


def draw(level: int, seed: int) -> Draws:
    """Every problem of all graphs at distance `level`, once."""
    pairs = [
        (number, start, goal)
        for number in range(GRAPHS)
        for start, goal in np.argwhere(graph(number).distance == level).tolist()
    ]
    random.Random(seed).shuffle(pairs)
    for number, start, goal in pairs:
        yield text_of(number, start, goal), str(goal)


def teacher(seed: int) -> Teacher:
    """A teacher that writes a shortest path, drawn move by move among the successors that are nearer to the goal."""

    def solve(problem: Problem, rng: random.Random) -> str:
        number, node, goal = parse(problem.problem)
        edges, distance = graph(number).edges, graph(number).distance
        nodes = []
        while node != goal:
            node = rng.choice([n for n in edges[node].tolist() if distance[n, goal] == distance[node, goal] - 1])
            nodes.append(node)
        return walk_text(nodes)

    return solve


def part(text: str) -> tuple[str, str]:
    number = parse(text)[0]
    return f"-g{number:02d}", f"graph {number}"


WORLD = World(
    name="paths",
    title="ways through a random graph",
    levels=LEVELS,
    vocabulary=(
        *(f"g{number}:" for number in range(GRAPHS)), " to",
        *(f" {node}" for node in range(NODES)),
        *(f"\\boxed{{{node}}}" for node in range(NODES)),
    ),
    neutral=frozenset(),
    draw=draw,
    teacher=teacher,
    held_out_one_in=5,
    part=part,
)  # fmt: skip
