"""Scores of a world's policies: exact in `paths`, sampled and graded in the language worlds."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import rebuild_command
from dynclip.runtime.progress import Progress
from dynclip.runtime.provenance import digest
from dynclip.studies.scales import RunConfig, Scale
from dynclip.training.worlds import draws, folders
from dynclip.training.worlds.networks import Weights, stack
from dynclip.training.worlds.tasks import LanguageTask, PathTask, graph_of, mask_until, task_of
from evals import metrics, scoring
from evals.benchmarks.loading import read_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS
from evals.benchmarks.worlds import paths
from evals.sampling.models import Model
from evals.sampling.prompts import choose_template
from evals.sampling.task import Task

TOGETHER = 4096  # completions of one seed that are sampled at once


def score_company(
    config: RunConfig,
    method: str,
    seeds: Sequence[int],
    labels: dict[str, int],
    folder: Path,
    log_file: Path | None = None,
    benchmarks: Sequence[str] | None = None,
) -> None:
    """Score every checkpoint of `labels`, label -> rollout step, of all seeds; `folder` is results/<scale>.

    `method`: an arm, or "base", whose one checkpoint is at step 0. Writes scores/<method>/seed<N>/<label>/ and
    samples/<method>/seed<N>/<label>/. Raises UserError for a damaged checkpoint or data file.
    """
    torch.set_num_threads(1)
    scale, names = config.scale, tuple(benchmarks or config.scale.benchmarks)
    bases = {seed: folder / "base" / f"seed{seed}" for seed in seeds}
    progress = Progress(f"evaluate {method}", len(labels) * len(names), log_file)
    progress.start()
    for number, (label, step, name) in enumerate(((lb, st, n) for lb, st in labels.items() for n in names), 1):
        places = {s: bases[s] if method == "base" else checkpoint(folder, method, s, step) for s in seeds}
        for place in places.values():
            checkpoints.verify(place, rebuild_command("warmup" if method == "base" else "train", place))
        problems = limited(scale, read_problems(folder / "data" / f"{name}.jsonl"), seeds)
        made = [
            task_for(
                scale,
                name,
                problems,
                samples=folder / "samples" / method / f"seed{seed}" / label / f"{name}.parquet",
                score=folder / "scores" / method / f"seed{seed}" / label / f"{name}.json",
            )
            for seed in seeds
        ]
        began = time.perf_counter()
        with torch.no_grad(), draws.placed_for(scale):
            task = task_of(scale, tuple(seeds), bases, problems)
            weights = stack([folders.load(place, task.network) for place in places.values()])
            score = score_of(task)
            found = score(task, weights, made)
        seconds = time.perf_counter() - began
        for seed, each, (rows, numbers) in zip(seeds, made, found, strict=True):
            labelled = {"scale": config.name, "method": method, "seed": seed, "checkpoint": label, "step": step}
            maker = {"engine": "exact" if score is score_paths else "stacked", "seconds": seconds / len(seeds)}
            scoring.write_score(each, model_of(places[seed]), labelled, rows, numbers, [maker], log=quiet)
        average = sum(numbers["avg_at_k"]["value"] for _, numbers in found) / len(found)
        progress.step(number, f"{label} {name}: pass@1 {average:.3f}, mean of {len(seeds)} seeds")


def limited(scale: Scale, problems: list[Problem], seeds: Sequence[int]) -> list[Problem]:
    """The problems that are scored: the first `Evaluation.limit`, in `paths` that many of each seed's graph."""
    limit = scale.evaluation.limit
    if limit is None or scale.policy.world != "paths":
        return problems[:limit]
    own = {graph_of(seed): 0 for seed in seeds}
    kept = []
    for problem in problems:
        number = paths.parse(problem.problem)[0]
        if own.get(number, limit) < limit:
            own[number] += 1
            kept.append(problem)
    return kept


def numbers_of(
    scale: Scale, name: str, problems: list[Problem], bases: dict[int, Path], weights: Weights
) -> list[dict]:
    """The numbers of a score record for the policy of each seed of `bases`, without files. `weights` (R, ...)."""
    task = task_of(scale, tuple(bases), bases, problems)
    made = task_for(scale, name, problems, samples=Path(), score=Path())
    with torch.no_grad():
        return [numbers for _, numbers in score_of(task)(task, weights, [made] * len(bases))]


def score_of(task: LanguageTask | PathTask) -> Callable:
    """The function that scores policies on `task`."""
    return score_paths if isinstance(task, PathTask) else score_texts


def task_for(scale: Scale, name: str, problems: list[Problem], samples: Path, score: Path) -> Task:
    """`problems` of the benchmark `name`, to be scored as the scale does it."""
    entry = BENCHMARKS[name]
    return Task(
        name=name,
        content=entry.content,
        problems=problems,
        k=scale.evaluation.k or entry.k,
        sampling=entry.sampling,
        seed=entry.seed,
        template=choose_template(scale.template, "", None, "generated")[0],
        samples=samples,
        score=score,
        whole=entry.count,
    )


def model_of(folder: Path) -> Model:
    """What a score record says about the policy in `folder`, whose checksums have been verified."""
    weights = checkpoints.weights_sha256(folder)
    return Model(str(folder), folder, digest(weights), weights)


def quiet(text: str) -> None:
    """The job has one line for all seeds."""


def checkpoint(folder: Path, method: str, seed: int, step: int) -> Path:
    return folder / "runs" / method / f"seed{seed}" / "checkpoints" / f"step{step}"


def score_texts(task: LanguageTask, weights: Weights, made: Sequence[Task]) -> list[tuple[list, dict]]:
    """Sample rows and numbers of each seed. A seed draws the same numbers for all methods and checkpoints."""
    first, end = made[0], task.vocabulary.end
    count, k, length = len(first.problems), first.k, first.sampling.max_tokens
    size, drawn = max(1, TOGETHER // k), []
    for start in range(0, count, size):
        cut = slice(start, min(start + size, count))
        prompts, attend = (
            each[cut].expand(len(task.seeds), -1, -1) for each in (task.prompts.ids, task.prompts.attend)
        )
        shape = ((cut.stop - start) * k, length)
        uniforms = torch.stack([draws.uniform(shape, first.seed, seed, start) for seed in task.seeds])
        drawn.append(task.network.sample(weights, prompts, attend, uniforms, end))
    tokens = torch.cat(drawn, 1)
    ended = tokens == end
    lengths, stopped = mask_until(ended).sum(-1).tolist(), ended.any(-1).tolist()
    found = []
    for r, each in enumerate(made):
        rows = [
            {
                "problem_id": each.problems[i // k].id,
                "index": i % k,
                "text": task.vocabulary.text(row),
                "tokens": lengths[r][i],
                "finish": "stop" if stopped[r][i] else "length",
            }
            for i, row in enumerate(tokens[r].tolist())
        ]
        rows = scoring.with_verdicts(rows, each.problems, {})
        found.append((rows, metrics.score(rows)))
    return found


def score_paths(task: PathTask, weights: Weights, made: Sequence[Task]) -> list[tuple[list, dict]]:
    """Exact success of each seed's policy on the problems of its own graph: one row a problem."""
    found = []
    graphs = [paths.parse(problem.problem)[0] for problem in made[0].problems]
    for seed, each, exact in zip(task.seeds, made, exact_paths(task, weights, task.pairs), strict=True):
        own = graph_of(seed)
        ids = [problem.id for problem, graph in zip(each.problems, graphs, strict=True) if graph == own]
        success, entropy, moves = (values.tolist() for values in exact)
        rows = [
            {"problem_id": name, "success": s, "entropy": e, "tokens": m}
            for name, s, e, m in zip(ids, success, entropy, moves, strict=True)
        ]
        found.append((rows, metrics.exact_score(rows)))
    return found


def path_success(task: PathTask, weights: Weights, pairs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The probability that each seed's policy meets the goal from the start, for its pairs (count, 2)."""
    return [success for success, _, _ in exact_paths(task, weights, pairs)]


def exact_paths(
    task: PathTask, weights: Weights, pairs: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each seed and its pairs (count, 2): success probability, expected sum of entropies, expected moves.

    With p the probabilities of the moves along edges from node c with the goal g at move t, backwards over t:
    S_t[c, g] = p[g] + Σ_{n ≠ g} p[n] S_{t+1}[n, g], and for the other two, E_t = H_t + Σ_{n ≠ g} p[n] E_{t+1}[n, g].
    """
    size, moves = paths.NODES, task.network.moves
    nodes = torch.arange(size)
    node, goal = nodes.view(-1, 1).expand(size, size), nodes.view(1, -1).expand(size, size)
    found = []
    for r, own in enumerate(pairs):
        policy = {name: value[r : r + 1] for name, value in weights.items()}
        success, entropy, length = torch.zeros(3, size, size)  # (node, goal), with no move left
        for move in reversed(range(moves)):
            inputs = {"node": node, "goal": goal, "move": torch.full_like(node, move)}
            logits = task.network.logits(policy, {name: value.unsqueeze(0) for name, value in inputs.items()})[0]
            logprob = torch.log_softmax(logits, -1)
            chance = logprob.exp() * task.edges[r].unsqueeze(1)  # (node, goal, next)
            success = torch.einsum("cgn,ng->cg", chance, success.clone().fill_diagonal_(1.0))
            entropy, length = (
                now + torch.einsum("cgn,ng->cg", chance, later.clone().fill_diagonal_(0.0))
                for now, later in ((-(logprob.exp() * logprob).sum(-1), entropy), (1.0, length))
            )
        found.append(tuple(value[own[:, 0], own[:, 1]] for value in (success, entropy, length)))
    return found
