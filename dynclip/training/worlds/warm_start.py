"""The base policies of a world, one for each seed: trained side by side on worked solutions, stopped by a rule.

Every seed stops at its first check with a pass@1 of at least the scale's `WarmStart.pass_at_1`. Its policy of that
moment is published in base/seed<N>: weights, for language worlds a Hugging Face folder, and warm_start.json.

A killed warm start goes on from its checkpoint in base/.warm_start, to the same bits.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError
from dynclip.runtime.locks import hold
from dynclip.runtime.provenance import digest
from dynclip.runtime.seeds import derive_seed
from dynclip.studies.scales import Scale
from dynclip.training.worlds import draws, folders, scoring
from dynclip.training.worlds.checkpoint import FACTS, MOMENTS, TENSORS
from dynclip.training.worlds.networks import Weights, gradient_norms, stack
from dynclip.training.worlds.tasks import (
    LanguageTask,
    PathTask,
    Prompts,
    Vocabulary,
    graph_of,
    mask_until,
    network_of,
    pairs_of,
)
from dynclip.training.worlds.tokenizer import build_tokenizer
from evals.benchmarks.problem import Problem
from evals.benchmarks.worlds import WORLDS, paths

PASSES = 4  # samples of each checked problem
CHECKED = 128  # problems of a check
SOLUTIONS = 12_000  # worked solutions of a seed's teacher, drawn once
SAVE_EVERY_S = 60.0  # least time between two checkpoints


def warm_start(scale: Scale, problems: Sequence[Problem], base: dict[int, Path], log: Callable[[str], None]) -> None:
    """Make the base policies that are missing, seed -> folder. Raises UserError if one never reaches its pass@1.

    A lock keeps two processes from making the same policies, and a killed call goes on from its checkpoint.
    """
    first = next(iter(base.values())).parent
    first.mkdir(parents=True, exist_ok=True)
    with hold(first / ".warm_start.lock", f"the warm start in {first}", log):
        missing = {seed: folder for seed, folder in base.items() if checkpoints.find_corruption(folder)}
        if missing:
            torch.set_num_threads(1)
            course = walk_course if scale.policy.world == "paths" else text_course
            made_by = digest([repr(scale.policy), scale.max_completion, [repr(each) for each in problems]])
            with draws.placed_for(scale):
                train(
                    scale, course(scale, problems, tuple(missing), first), missing, first / ".warm_start", made_by, log
                )


@dataclass(frozen=True)
class Course:
    """What the seeds learn from. `batch(step)`: inputs (R, B, ...), target tokens (R, B, T), the mask of those counted.

    `pass_at_1(weights)`: of each seed, at temperature 1 on training problems.
    """

    seeds: tuple[int, ...]
    network: object
    batch: Callable[[int], tuple[dict, torch.Tensor, torch.Tensor]]
    pass_at_1: Callable[[Weights], list[float]]
    tokenizer: object = None


def train(
    scale: Scale, course: Course, base: dict[int, Path], state: Path, made_by: str, log: Callable[[str], None]
) -> None:
    """Cross-entropy with AdamW until every seed has stopped; each seed's policy is published when it stops.

    state: the folder of the checkpoints, removed at the end. made_by: digest of what the policies are made from.
    """
    stage, seeds = scale.policy.warm_start, course.seeds
    starts = [course.network.start(draws.generator(seed, 3)) for seed in seeds]
    weights = {name: value.requires_grad_() for name, value in stack(starts).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=stage.learning_rate, weight_decay=0.01, fused=True)
    open_seeds = set(seeds)
    checkpoints.sweep(state)
    done, seconds = restore(state, made_by, seeds, weights, optimizer)
    if done:
        log(f"warm start: resuming at step {done}")
    saved = time.perf_counter()
    began = saved - seconds
    for step in range(done + 1, stage.max_steps + 1):
        inputs, targets, counted = course.batch(step)
        logprob = torch.log_softmax(course.network.logits(weights, inputs), -1)
        losses = -logprob.gather(-1, targets.unsqueeze(-1)).squeeze(-1) * counted
        loss = losses.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1e-9)
        optimizer.zero_grad()
        loss.sum().backward()
        norms = gradient_norms([value.grad for value in weights.values()])
        for value in weights.values():
            value.grad *= (1 / (norms + 1e-6)).clamp(max=1).view(-1, *[1] * (value.dim() - 1))
        optimizer.step()
        if step % stage.check_every:
            continue
        with torch.no_grad():
            found = course.pass_at_1(weights)
        for r, seed in enumerate(seeds):
            if seed in open_seeds and found[r] >= stage.pass_at_1:
                open_seeds.remove(seed)
                record = {"steps": step, "pass_at_1": found[r], "loss": loss[r].item()}
                record["seconds"] = round(time.perf_counter() - began, 1)
                own = {name: value.detach()[r].cpu() for name, value in weights.items()}
                folders.publish(base[seed], scale, course.network, own, record, course.tokenizer)
        log(
            f"warm start: step {step}, loss {loss.mean().item():.3f}, pass@1 {min(found):.3f} to {max(found):.3f}, "
            f"{len(open_seeds)} of {len(seeds)} seeds below {stage.pass_at_1}, {time.perf_counter() - began:.0f} s"
        )
        if not open_seeds:
            checkpoints.remove(state)
            return
        if time.perf_counter() - saved >= SAVE_EVERY_S:
            save(state, step, time.perf_counter() - began, made_by, seeds, open_seeds, weights, optimizer)
            saved = time.perf_counter()
    checkpoints.remove(state)
    raise UserError(
        f"warm start: after {stage.max_steps} updates pass@1 is below {stage.pass_at_1} for the seeds "
        f"{', '.join(map(str, sorted(open_seeds)))}; change {scale.name}'s WarmStart in dynclip/studies/scales.py"
    )


def save(state: Path, step: int, seconds: float, made_by: str, seeds, open_seeds: set[int], weights, optimizer) -> None:
    """Write checkpoint-<step> with the weights and moments of the seeds that have not stopped; delete older ones."""
    still = [r for r, seed in enumerate(seeds) if seed in open_seeds]
    tensors = {name: value.detach()[still].cpu() for name, value in weights.items()}
    for name, value in weights.items():
        tensors |= {f"{moment}.{name}": optimizer.state[value][moment][still].cpu() for moment in MOMENTS}
    facts = {"step": step, "seconds": seconds, "made_by": made_by, "seeds": [seeds[r] for r in still]}
    with checkpoints.writing(state / f"checkpoint-{step}") as aside:
        save_file(tensors, aside / TENSORS)
        (aside / FACTS).write_text(json.dumps(facts))
    checkpoints.prune(state, keep=1)


def restore(state: Path, made_by: str, seeds, weights: Weights, optimizer) -> tuple[int, float]:
    """Let `seeds` go on from the checkpoint of `save`: (its updates, the seconds they took).

    (0, 0) where there is none of the same `made_by`, or where it lacks one of the seeds.
    """
    found = checkpoints.latest(state)
    facts = checkpoints.read_state(found / FACTS) if found else {}
    if facts.get("made_by") != made_by or not set(seeds) <= set(facts["seeds"]):
        return 0, 0.0
    rows, tensors = [facts["seeds"].index(seed) for seed in seeds], load_file(found / TENSORS)
    updates = torch.tensor(float(facts["step"]))
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(tensors[name][rows])
            moments = {moment: draws.here(tensors[f"{moment}.{name}"][rows]) for moment in MOMENTS}
            optimizer.state[value] = {"step": updates.clone()} | moments
    return facts["step"], facts["seconds"]


def text_course(scale: Scale, problems: Sequence[Problem], seeds: tuple[int, ...], folder: Path) -> Course:
    """Worked solutions of each seed's own teacher, some of whose facts are wrong."""
    world = WORLDS[scale.policy.world]
    tokenizer = build_tokenizer(world)
    backend = tokenizer.backend_tokenizer
    ids = backend.get_vocab()
    vocabulary = Vocabulary(tuple(sorted(ids, key=ids.get)), tokenizer.pad_token_id, tokenizer.eos_token_id)
    network = network_of(scale.policy, len(vocabulary.pieces))
    prompts = Prompts.encode(problems, backend, vocabulary)
    length, end = scale.max_completion, vocabulary.end
    pools = []
    for seed in seeds:
        teach, rng = world.teacher(seed), random.Random(derive_seed(seed, 4))
        places = rng.choices(range(len(problems)), k=SOLUTIONS)
        texts = [teach(problems[place], rng) for place in places]
        rows = [[*each.ids[: length - 1], end] for each in backend.encode_batch(texts, add_special_tokens=False)]
        pools.append((torch.tensor(places), torch.tensor([row + [end] * (length - len(row)) for row in rows])))
    width = max(int((tokens != end).sum(1).max()) for _, tokens in pools) + 1
    everyone = torch.arange(len(seeds)).unsqueeze(1)
    places, tokens = torch.stack([p for p, _ in pools]), torch.stack([t for _, t in pools])[..., :width]

    def batch(step: int):
        count = (scale.policy.warm_start.batch,)
        picked = torch.stack([draws.integers(SOLUTIONS, count, seed, step, 5) for seed in seeds])
        problem, target = places[everyone, picked], tokens[everyone, picked]
        attend = torch.nn.functional.pad(prompts.attend[problem], (0, width), value=True)
        inputs = {
            "ids": torch.cat([prompts.ids[problem], target], -1),
            "attend": attend,
            "prompt": prompts.ids.shape[1],
        }
        ended = target == end
        return inputs, target, (ended.cumsum(-1) - ended.long()) == 0

    checked = replace(scale, prompts_per_step=CHECKED, group_size=PASSES)
    task = LanguageTask(checked, seeds, network, vocabulary, prompts)
    return Course(seeds, network, batch, lambda weights: task.rollout(weights, 0).rewards.mean(1).tolist(), tokenizer)


def walk_course(scale: Scale, problems: Sequence[Problem], seeds: tuple[int, ...], folder: Path) -> Course:
    """Random walks over each seed's graph, with the node where a walk ends as its goal.

    A share `error_rate` of the moves goes to a random node. Pairs of node and goal that are held out are not trained.
    """
    network, stage, moves = network_of(scale.policy, paths.NODES), scale.policy.warm_start, paths.MOVES
    graphs = [paths.graph(graph_of(seed)) for seed in seeds]
    edges = torch.stack([torch.tensor(graph.edges) for graph in graphs])
    held_out = torch.stack([torch.tensor(paths.held_out(graph_of(seed))) for seed in seeds])
    everyone = torch.arange(len(seeds)).unsqueeze(1)

    def numbers(step: int, high: int, kind: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.stack([draws.integers(high, shape, seed, step, kind) for seed in seeds])

    def batch(step: int):
        node = numbers(step, paths.NODES, 5, (stage.batch,))
        length = numbers(step, moves, 6, (stage.batch,)) + 1
        choices = numbers(step, paths.DEGREE, 7, (stage.batch, moves))
        strays = numbers(step, paths.NODES, 8, (stage.batch, moves))
        wrong = numbers(step, 1_000_000, 9, (stage.batch, moves)) < stage.error_rate * 1_000_000
        nodes, targets, true = [], [], []
        for move in range(moves):
            onward = edges[everyone, node, choices[..., move]]
            nodes.append(node)
            true.append(onward)
            targets.append(torch.where(wrong[..., move], strays[..., move], onward))
            node = onward
        nodes, targets, true = (torch.stack(each, -1) for each in (nodes, targets, true))
        goal = true.gather(-1, (length - 1).unsqueeze(-1)).expand_as(nodes)
        place = torch.arange(moves).expand_as(nodes)
        met = (true == goal) & (place < length.unsqueeze(-1))
        counted = (place < length.unsqueeze(-1)) & mask_until(met)
        counted &= ~(held_out[everyone.unsqueeze(-1), nodes, goal] & (nodes != goal))
        return {"node": nodes, "goal": goal, "move": place}, targets, counted

    pairs = pairs_of(problems, seeds)
    task = PathTask(scale, seeds, network, pairs)

    def pass_at_1(weights: Weights) -> list[float]:
        return [success.mean().item() for success in scoring.path_success(task, weights, pairs)]

    return Course(seeds, network, batch, pass_at_1)
