"""A rollout batch of text on a CPU: a language model's completions, the policy's distributions at their tokens, and
which token types have an advantage that is noise, estimated from the groups.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dynclip.lab.fresh.world import own_slope
from dynclip.lab.tabular import entropy_of
from dynclip.runtime.progress import Progress
from dynclip.studies.scales import WORKSTATION_SMALL
from dynclip.training.loop import advantages
from dynclip.training.problems import prompts
from evals.engines.draws import draw
from evals.grading import rewards
from evals.sampling.prompts import render

SCALE = WORKSTATION_SMALL
TOGETHER = 4  # prompts sampled in one batch
LEAST = 5  # completions that a token type must occur in, to be tested
PERMUTATIONS, LEVEL = 2000, 0.05
FIGURES = set("0123456789+-*/=<>%$×÷")


@dataclass(frozen=True)
class Group:
    """The completions of a prompt, as token ids with the end token, and the problem's id.

    `rewards` are those of the updates, `right` is what the grader says of completions that ended.
    """

    problem: str
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]
    ended: tuple[bool, ...]
    right: tuple[bool, ...]

    @property
    def mixed(self) -> bool:
        """Whether the group has right and wrong answers, so that its advantages are not 0."""
        return len(set(self.rewards)) > 1

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(completion) for completion in self.completions]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def advantages(self) -> torch.Tensor:
        """(G,), by the rule of training."""
        return advantages(torch.tensor([self.rewards], dtype=torch.float64), len(self.rewards))[0][0]


@torch.inference_mode()
def complete(engine, prompts: Sequence[str], n: int, limit: int) -> list[list[list[int]]]:
    """`n` completions of each prompt at temperature 1, token ids with the end token, at most `limit` each.

    As `TransformersEngine.draw_ids`, but every prompt is read once instead of n times, which is half of the work for
    short responses on a CPU. Draws follow torch's random state.
    """
    encoded = engine.tokenizer(
        list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    mask = encoded["attention_mask"]
    place = (mask.cumsum(1) - 1).clamp(min=0)
    output = engine.model(encoded["input_ids"], attention_mask=mask, position_ids=place, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits[:, -1].repeat_interleave(n, 0)
    cache.batch_repeat_interleave(n)
    mask, place = mask.repeat_interleave(n, 0), place[:, -1:].repeat_interleave(n, 0)
    found: list[list[int]] = [[] for _ in range(len(mask))]
    active = torch.arange(len(mask))
    ends = torch.tensor(engine.ends)
    for _ in range(limit):
        tokens = draw(logits, torch.rand(len(logits)), temperature=1.0, top_p=1.0, top_k=0)
        for row, token in zip(active.tolist(), tokens.tolist(), strict=True):
            found[row].append(token)
        going = (~torch.isin(tokens, ends)).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(active):
            cache.batch_select_indices(going)
            active, mask, place, tokens = active[going], mask[going], place[going], tokens[going]
        mask, place = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), place + 1
        output = engine.model(tokens[:, None], attention_mask=mask, position_ids=place, past_key_values=cache)
        logits = output.logits[:, -1]
    return [found[i : i + n] for i in range(0, len(found), n)]


def sample(engine, problems: list, wanted: int, most: int, seed: int, reward: str = "correct") -> list[Group]:
    """Groups of shuffled training problems, until `wanted` of them are mixed or `most` are sampled.

    `reward` "correct" is the grader's. "coin" is a fair coin: no token decides about it, so all are neutral, also where
    the model solves nothing.
    """
    coin = np.random.default_rng(seed)
    progress = Progress("rollouts", most)
    ids = {render(problem.problem, engine.tokenizer, SCALE.template): problem.id for problem in problems}
    rows = prompts(SCALE, problems, engine.tokenizer, progress.log)
    random.Random(seed).shuffle(rows)
    torch.manual_seed(seed)
    groups: list[Group] = []
    progress.start()
    for start in range(0, min(most, len(rows)), TOGETHER):
        part = rows[start : start + TOGETHER][: most - start]
        drawn = complete(engine, [row["prompt"] for row in part], SCALE.group_size, SCALE.max_completion)
        for row, completions in zip(part, drawn, strict=True):
            ended = [ids[-1] in engine.ends for ids in completions]
            texts = engine.tokenizer.batch_decode(completions, skip_special_tokens=True)
            # As in training, a completion that is cut off counts as no answer.
            kept = [text if end else "" for text, end in zip(texts, ended, strict=True)]
            right = rewards(SCALE.reward, kept, [row["answer"]] * len(kept), [row["problem"]] * len(kept))
            given = coin.integers(0, 2, len(kept)).astype(float).tolist() if reward == "coin" else right
            prompt = engine.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
            found = tuple(map(tuple, completions))
            graded = tuple(value > 0 for value in right)
            groups.append(Group(ids[row["prompt"]], tuple(prompt), found, tuple(given), tuple(ended), graded))
        mixed = sum(group.mixed for group in groups)
        progress.step(len(groups), f"{mixed} of {wanted} mixed groups")
        if mixed >= wanted:
            break
    return groups


def packed(group: Group) -> tuple[dict, torch.Tensor]:
    """Model inputs that hold the prompt once and all completions after it, and the tokens (N,) of the completions.

    A completion's token sees the prompt and its own completion alone (a 4-D attention mask, 0 or the least float32), at
    the position that it has in a sequence of its own. The model returns logits (1, N, V) for the N tokens.
    """
    start, ids, before = len(group.prompt), list(group.prompt), []
    place, owner = list(range(start)), [-1] * start
    for number, completion in enumerate(group.completions):
        before += [start - 1, *range(len(ids), len(ids) + len(completion) - 1)]
        place += range(start, start + len(completion))
        owner += [number] * len(completion)
        ids += completion
    whose = torch.tensor(owner)
    seen = ((whose[:, None] == whose) | (whose == -1)) & torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    inputs = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": mask[None, None],
        "position_ids": torch.tensor([place]),
        "logits_to_keep": torch.tensor(before),
        "use_cache": False,
    }
    return inputs, torch.tensor(ids[start:])


def read(model, group: Group) -> torch.Tensor:
    """Log-probabilities (N, V) of the policy at the completions' tokens."""
    return torch.log_softmax(model(**packed(group)[0]).logits[0], -1)


def of_tokens(logprob: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logprob.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Sampled:
    """A mixed group under the policy that sampled, (N,) each: tokens, A, ln q, entropy in nats, 1 − 2 q + Σ p²."""

    tokens: torch.Tensor
    advantages: torch.Tensor
    logprob: torch.Tensor
    entropy: torch.Tensor
    slope: torch.Tensor


@torch.no_grad()
def describe(model, groups: Sequence[Group], places: int) -> tuple[list[Sampled], list[torch.Tensor]]:
    """The mixed groups as sampled, and log-probabilities (V,) at about `places` tokens spread evenly over them."""
    found, kept = [], []
    for group in groups:
        logprob, tokens = read(model, group), packed(group)[1]
        rise = group.advantages.float().repeat_interleave(torch.tensor(group.lengths))
        found.append(Sampled(tokens, rise, of_tokens(logprob, tokens), entropy_of(logprob), own_slope(logprob, tokens)))
        each = max(1, places // len(groups))
        kept += [logprob[at].clone() for at in np.linspace(0, len(tokens) - 1, each + 2).round().astype(int)[1:-1]]
    return found, kept


def group_of(fields: dict) -> Group:
    """A `Group` from its JSON."""
    prompt, completions = tuple(fields["prompt"]), tuple(map(tuple, fields["completions"]))
    return Group(
        fields["problem"], prompt, completions, *(tuple(fields[name]) for name in ("rewards", "ended", "right"))
    )


def neutral_shares(
    groups: Sequence[Group], entropies: Sequence[Sequence[float]], figures: Callable[[int], bool], seed: int = 0
) -> dict:
    """Token types whose completions' mean advantage is not distinguishable from 0, and their share of tokens.

    A type is tested if it is in at least LEAST completions of mixed groups. The null distribution permutes the rewards
    within groups; p counts the permutations with a mean of at least the same size. `entropies`: of every group, (N,)
    nats. `figures`: whether a type is made of digits and operators. A type that is in every completion has mean 0.
    """
    from scipy.stats import false_discovery_control

    rows = [completion for group in groups for completion in group.completions]
    rise = np.concatenate([group.advantages.numpy() for group in groups])
    types = sorted({token for row in rows for token in row})
    column = {token: number for number, token in enumerate(types)}
    present = np.zeros((len(rows), len(types)))
    count, level = np.zeros(len(types)), np.zeros(len(types))
    every = np.concatenate([np.asarray(each, dtype=float) for each in entropies])
    np.add.at(count, at := [column[token] for row in rows for token in row], 1)
    np.add.at(level, at, every)
    for number, row in enumerate(rows):
        present[number, [column[token] for token in set(row)]] = 1
    tested = present.sum(0) >= LEAST
    present = present[:, tested]
    rng, sizes = np.random.default_rng(seed), np.cumsum([len(group.rewards) for group in groups])[:-1]
    shuffled = np.stack(
        [np.concatenate([rng.permutation(part) for part in np.split(rise, sizes)]) for _ in range(PERMUTATIONS)]
    )
    mean = rise @ present / present.sum(0)
    extreme = np.abs(shuffled @ present / present.sum(0)) >= np.abs(mean) - 1e-9
    chance = (1 + extreme.sum(0)) / (1 + PERMUTATIONS)
    order = np.argsort(chance)
    after = false_discovery_control(chance) <= LEVEL if len(chance) else np.zeros(0, dtype=bool)
    kind = np.array([figures(token) for token in types], dtype=bool)[tested]
    count, level, result = count[tested], level[tested], {}
    for name, among in (("all", np.ones_like(kind)), ("digits and operators", kind), ("words and punctuation", ~kind)):
        result[name] = {"types": int(among.sum())}
        for rule, decided in (("5 %", chance <= LEVEL), ("BH", after)):
            result[name][rule] = {
                "decided": int((decided & among).sum()),
                "tokens": share(count, among & ~decided, among),
                "entropy": share(level, among & ~decided, among),
            }
    ids = [token for token, kept in zip(types, tested, strict=True) if kept]
    least = [{"token": ids[n], "mean": float(mean[n]), "p": float(chance[n])} for n in order[:12]]
    covered = {"tokens": float(count.sum() / len(every)), "entropy": float(level.sum() / every.sum())}
    return {"completions": len(rows), "types": len(types), "covered": covered, "shares": result, "least_p": least}


def share(weights: np.ndarray, part: np.ndarray, whole: np.ndarray) -> float | None:
    """The weight of `part` in that of `whole`; None where `whole` has none."""
    return float(weights[part].sum() / weights[whole].sum()) if weights[whole].sum() else None
