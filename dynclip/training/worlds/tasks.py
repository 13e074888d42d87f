"""What the seeds of a world are trained on: prompts of a step, sampled completions, rewards.

A seed's prompts and random numbers depend on the seed and the step alone. So all methods see the same prompts and draw
with the same numbers (common random numbers), and a seed draws the same alone and beside others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from dynclip.studies.scales import Scale, WorldPolicy
from dynclip.training.worlds import draws
from dynclip.training.worlds.networks import PathNetwork, Transformer, Weights, draw
from dynclip.training.worlds.tokenizer import EOS, PAD, neutral_mask
from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds import WORLDS, paths
from evals.grading import rewards


@dataclass(frozen=True)
class Rollout:
    """A rollout batch. `inputs` of the network, (R, B, ...) each; `tokens` and `mask` (R, B, T), the mask is True up to
    and with the end token; T `logits` (R, B, V) that the tokens were drawn from, right where the mask is True;
    `rewards` and `truncated` (R, B). Groups are consecutive rows."""

    inputs: dict[str, torch.Tensor]
    tokens: torch.Tensor
    logits: Sequence[torch.Tensor]
    mask: torch.Tensor
    rewards: torch.Tensor
    truncated: torch.Tensor


def chosen(seed: int, step: int, per_step: int, count: int) -> torch.Tensor:
    """Numbers (per_step,) of the problems of a step: every pass over the `count` problems has an order of its own."""
    places = range(step * per_step, (step + 1) * per_step)
    orders = {p // count: None for p in places}
    for turn in orders:
        orders[turn] = draws.permutation(count, seed, turn, 2)
    return torch.stack([orders[p // count][p % count] for p in places])


def uniform_numbers(seeds: Sequence[int], step: int, rows: int, length: int) -> torch.Tensor:
    """Numbers (R, rows, length) in [0, 1) that draw the tokens of a step."""
    return torch.stack([draws.uniform((rows, length), seed, step, 0) for seed in seeds])


def mask_until(ended: torch.Tensor) -> torch.Tensor:
    """(..., T) bool: True up to and with the first True of `ended`."""
    return (ended.cumsum(-1) - ended.long()) == 0


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a language world: `pieces[i]` is the text of token i."""

    pieces: tuple[str, ...]
    pad: int
    end: int

    @classmethod
    def load(cls, folder: Path) -> "tuple[Vocabulary, object]":
        """(vocabulary, tokenizer of the `tokenizers` package) of a policy's folder. Imports no transformers."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = tokenizer.get_vocab()
        return cls(tuple(sorted(ids, key=ids.get)), ids[PAD], ids[EOS]), tokenizer

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a completion up to its end token."""
        pieces = []
        for token in tokens:
            if token == self.end:
                break
            pieces.append(self.pieces[token])
        return "".join(pieces)


@dataclass(frozen=True)
class Prompts:
    """Problems as token ids (N, L), padded on the left; `attend` (N, L) is False at the padding."""

    problems: tuple[Problem, ...]
    ids: torch.Tensor
    attend: torch.Tensor

    @classmethod
    def encode(cls, problems: Sequence[Problem], tokenizer, vocabulary: Vocabulary) -> "Prompts":
        rows = [each.ids for each in tokenizer.encode_batch([p.problem for p in problems], add_special_tokens=False)]
        width = max(map(len, rows))
        ids = torch.tensor([[vocabulary.pad] * (width - len(row)) + row for row in rows])
        attend = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
        return cls(tuple(problems), ids, attend)


@dataclass(frozen=True)
class LanguageTask:
    """Problems in text, graded by `evals.grading`. `neutral` (V,): tokens that no reward depends on, or None."""

    scale: Scale
    seeds: tuple[int, ...]
    network: Transformer
    vocabulary: Vocabulary
    prompts: Prompts
    neutral: torch.Tensor | None = None

    def rollout(self, weights: Weights, step: int) -> Rollout:
        """Sample and grade the completions of a step."""
        scale, count = self.scale, len(self.prompts.problems)
        places = torch.stack([chosen(seed, step, scale.prompts_per_step, count) for seed in self.seeds])
        uniforms = uniform_numbers(self.seeds, step, scale.completions, scale.max_completion)
        prompts, attend, logits = self.prompts.ids[places], self.prompts.attend[places], []
        tokens = self.network.sample(weights, prompts, attend, uniforms, self.vocabulary.end, logits)
        logits += [torch.zeros_like(logits[0])] * (tokens.shape[-1] - len(logits))
        return self.graded(tokens, logits, places)

    def graded(self, tokens: torch.Tensor, logits: Sequence[torch.Tensor], places: torch.Tensor) -> Rollout:
        """The rollout of completions `tokens` (R, B, T) of the problems `places` (R, P)."""
        ended = tokens == self.vocabulary.end
        # A completion that is cut off counts as no answer (`Scale.truncated`).
        whole = zip(tokens.flatten(0, 1).tolist(), ended.any(-1).flatten().tolist(), strict=True)
        texts = [self.vocabulary.text(row) if stopped else "" for row, stopped in whole]
        problems = places.repeat_interleave(self.scale.group_size, 1)
        golds = [self.prompts.problems[place].answer for place in problems.flatten().tolist()]
        earned = torch.tensor(graded_once(self.scale.reward, texts, golds)).view(problems.shape)
        ids = torch.cat([self.prompts.ids[problems], tokens], -1)
        attend = torch.nn.functional.pad(self.prompts.attend[problems], (0, tokens.shape[-1]), value=True)
        inputs = {"ids": ids, "attend": attend, "prompt": self.prompts.ids.shape[1]}
        return Rollout(inputs, tokens, logits, mask_until(ended), earned, ~ended.any(-1))


def graded_once(reward: str, texts: Sequence[str], golds: Sequence[str]) -> list[float]:
    """The reward of each text. Equal pairs of text and gold answer are graded once."""
    pairs = list(zip(texts, golds, strict=True))
    different = list(dict.fromkeys(pairs))
    known = dict(zip(different, rewards(reward, *zip(*different, strict=True)), strict=True))
    return [known[pair] for pair in pairs]


@dataclass(frozen=True)
class PathTask:
    """Ways through each seed's graph. `pairs`: (start, goal) of the training problems, (count, 2) for each seed."""

    scale: Scale
    seeds: tuple[int, ...]
    network: PathNetwork
    pairs: tuple[torch.Tensor, ...]
    neutral: None = None

    @cached_property
    def edges(self) -> torch.Tensor:
        """(R, N, N) bool: whether a move leads from row to column."""
        return torch.stack([edge_matrix(seed) for seed in self.seeds])

    def rollout(self, weights: Weights, step: int) -> Rollout:
        """Walk until the goal is met, a move follows no edge, or the moves are used up."""
        scale, length = self.scale, self.network.moves
        picked = [
            pairs[chosen(seed, step, scale.prompts_per_step, len(pairs))]
            for seed, pairs in zip(self.seeds, self.pairs, strict=True)
        ]
        pairs = torch.stack(picked).repeat_interleave(scale.group_size, 1)
        uniforms = uniform_numbers(self.seeds, step, scale.completions, length)
        node, goal = pairs[..., 0], pairs[..., 1]
        everyone = torch.arange(len(self.seeds)).unsqueeze(1)
        nodes, tokens, logits, ended = [], [], [], []
        for move in range(length):
            inputs = {"node": node, "goal": goal, "move": torch.full_like(node, move)}
            scores = self.network.logits(weights, {name: value.unsqueeze(-1) for name, value in inputs.items()})
            logits.append(scores.squeeze(2).float())  # of weights in bfloat16 too
            token = draw(logits[-1], uniforms[..., move])
            ended.append((token == goal) | ~self.edges[everyone, node, token])
            nodes.append(node)
            tokens.append(token)
            node = token
        mask, tokens = mask_until(torch.stack(ended, -1)), torch.stack(tokens, -1)
        nodes = torch.stack(nodes, -1)
        legal = self.edges[everyone.unsqueeze(-1), nodes, tokens]
        won = ((tokens == goal.unsqueeze(-1)) & legal & mask).any(-1)
        inputs = {
            "node": nodes,
            "goal": goal.unsqueeze(-1).expand_as(nodes),
            "move": torch.arange(length).expand_as(nodes),
        }
        earned = won.float() if self.scale.reward == "correct" else 2 * won.float() - 1
        return Rollout(inputs, tokens, logits, mask, earned, ~torch.stack(ended, -1).any(-1))


def edge_matrix(seed: int) -> torch.Tensor:
    """(N, N) bool: the edges of the graph of a seed."""
    edges = torch.tensor(np.asarray(paths.graph(graph_of(seed)).edges))
    return torch.zeros(paths.NODES, paths.NODES, dtype=torch.bool).scatter(1, edges, True)


def graph_of(seed: int) -> int:
    """The number of a seed's graph."""
    return seed % paths.GRAPHS


def pairs_of(problems: Sequence[Problem], seeds: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """(start, goal) of the problems on each seed's graph, (count, 2) each."""
    pairs: dict[int, list[tuple[int, int]]] = {graph_of(seed): [] for seed in seeds}
    for problem in problems:
        number, start, goal = paths.parse(problem.problem)
        if number in pairs:
            pairs[number].append((start, goal))
    return tuple(torch.tensor(pairs[graph_of(seed)]) for seed in seeds)


def network_of(policy: WorldPolicy, tokens: int) -> PathNetwork | Transformer:
    """The network of a world's policy, with a vocabulary of `tokens`."""
    if policy.world == "paths":
        return PathNetwork(paths.NODES, paths.MOVES, policy.intermediate, policy.hidden)
    return Transformer(tokens, policy.hidden, policy.intermediate, policy.layers, policy.heads)


def task_of(
    scale: Scale, seeds: tuple[int, ...], bases: dict[int, Path], problems: Sequence[Problem]
) -> LanguageTask | PathTask:
    """The task of `seeds` on `problems`. `bases`: seed -> the folder of its base policy, which has the tokenizer."""
    if scale.policy.world == "paths":
        return PathTask(scale, seeds, network_of(scale.policy, paths.NODES), pairs_of(problems, seeds))
    vocabulary, tokenizer = Vocabulary.load(bases[seeds[0]])
    world = WORLDS[scale.policy.world]
    neutral = neutral_mask(tokenizer, world) if world.neutral else None
    prompts = Prompts.encode(problems, tokenizer, vocabulary)
    return LanguageTask(scale, seeds, network_of(scale.policy, len(vocabulary.pieces)), vocabulary, prompts, neutral)
