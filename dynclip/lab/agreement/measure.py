"""How often the token-only region rule has the sign of the exact inner product: the counts behind docs/regions.md.

    python -m dynclip.lab.agreement
    python -m dynclip.lab.agreement --model results/facts/base/seed0 --prompts results/facts/data/train.jsonl

The first command measures random logits. The second adds a policy's own samples at temperature 1. Each writes its
numbers to `--out`, then makes the tables and the figure of everything in that folder again. The rule (arXiv 2602.09782)
says that a token lowers entropy, for A > 0, if p_a (ln p_a + H) > 0. The exact condition is p_a (ln p_a + H) > B
(dynclip.regions).
"""

import random
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import torch

from dynclip.lab.agreement.counts import Tokens, bins_csv, grid, join, marginals, summarise
from dynclip.regions import baseline
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic, write_json
from dynclip.runtime.provenance import code_digest, digest, environment
from evals.benchmarks.loading import load_problems, read_problems
from evals.benchmarks.problem import Problem
from evals.benchmarks.registry import BENCHMARKS
from evals.engines.transformers_engine import TransformersEngine
from evals.grading import grade_many
from evals.sampling.models import resolve
from evals.sampling.settings import Sampling

FAMILIES = {"gaussian": (0.5, 1.0, 2.0, 4.0, 8.0), "zipf": (0.5, 1.0, 1.5, 2.0, 3.0)}
VOCABULARIES = (8, 64, 1024, 32000)
DRAWS = ("policy", "uniform")
MIXED = 4  # times the states of one setting; the figure's bins are counted from these
CHUNK = 2**22  # logits that are in memory at once in float64: 32 MiB a tensor


def measure(logits: torch.Tensor, actions: torch.Tensor) -> tuple[np.ndarray, ...]:
    """(prob, entropy, term, baseline) of `actions` (N, k) at positions with `logits` (N, V): four arrays of N·k."""
    parts = []
    rows = max(1, CHUNK // logits.shape[1])
    for some, chosen in zip(logits.split(rows), actions.split(rows), strict=True):
        some = some.double()
        logprob = torch.log_softmax(some, dim=-1)
        entropy = torch.special.entr(logprob.exp()).sum(-1, keepdim=True).expand(chosen.shape)
        taken = logprob.gather(-1, chosen)
        parts.append(
            (taken.exp(), entropy, taken.exp() * (taken + entropy), baseline(some).unsqueeze(-1).expand(chosen.shape))
        )
    return tuple(torch.cat(column).flatten().cpu().numpy() for column in zip(*parts, strict=True))


def random_tokens(
    family: str, scales: tuple[float, float], vocabulary: int, draw: str, states: int, each: int, seed: int
) -> Tokens:
    """`each` tokens in each of `states` random states; clusters are states.

    gaussian: logits scale · N(0, 1). zipf: logits −scale · ln(rank) + 0.5 · N(0, 1). A state's scale is log-uniform
    between the two `scales`. `draw`: from the state's own distribution ("policy") or evenly from the vocabulary
    ("uniform").
    """
    generator = torch.Generator().manual_seed(seed)
    parts, rows = [], max(1, CHUNK // vocabulary)
    for start in range(0, states, rows):
        shape = (min(rows, states - start), vocabulary)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        share = torch.rand((shape[0], 1), generator=generator, dtype=torch.float64)
        scale = scales[0] * (scales[1] / scales[0]) ** share
        ranks = torch.arange(1, vocabulary + 1, dtype=torch.float64)
        logits = scale * noise if family == "gaussian" else 0.5 * noise - scale * ranks.log()
        weights = torch.softmax(logits, -1) if draw == "policy" else torch.ones(shape)
        actions = torch.multinomial(weights, each, replacement=True, generator=generator)
        cluster = np.repeat(np.arange(start, start + shape[0]), each)
        parts.append(Tokens(*measure(logits, actions), cluster, np.full(len(cluster), np.nan)))
    return join(parts)


def policy_tokens(
    engine: TransformersEngine, problems: Sequence[Problem], samples: int, length: int, seed: int
) -> Tokens:
    """`samples` completions of each problem at temperature 1, of at most `length` tokens; clusters are problems.

    Where `samples` > 1, advantages are GRPO's in each group. Logits exist for one completion at a time: (length, V).
    """
    model, tokenizer = engine.model, engine.tokenizer
    special = tokenizer.chat_template is None  # a chat template has put its own special tokens into the text
    sampling, per_batch = Sampling(1.0, 1.0, 0, length), max(1, engine.batch_size // samples)
    parts, done = [], 0
    torch.manual_seed(seed)
    for start in range(0, len(problems), per_batch):
        some = problems[start : start + per_batch]
        texts = [prompt_text(problem, tokenizer) for problem in some]
        drawn, _ = engine.draw_ids(texts, [length] * len(some), samples, sampling, special)
        for number, (problem, text) in enumerate(zip(some, texts, strict=True)):
            group = drawn[number * samples : (number + 1) * samples]
            ids = tokenizer(text, add_special_tokens=special)["input_ids"]
            advantages = group_advantages(problem, tokenizer.batch_decode(group, skip_special_tokens=True))
            for completion, advantage in zip(group, advantages, strict=True):
                whole = torch.tensor([ids + completion], device=model.device)
                with torch.inference_mode():
                    logits = model(whole, logits_to_keep=len(completion) + 1).logits[0, :-1]
                measured = measure(logits, whole[0, len(ids) :].unsqueeze(-1))
                count = len(completion)
                parts.append(Tokens(*measured, np.full(count, start + number), np.full(count, float(advantage))))
                done += count
        print(f"[agreement] {start + len(some)}/{len(problems)} prompts, {done} tokens", file=sys.stderr, flush=True)
    return join(parts)


def prompt_text(problem: Problem, tokenizer) -> str:
    """The text a policy continues: a chat template's user turn where the tokenizer has one, else the problem itself."""
    if tokenizer.chat_template is None:
        return problem.problem
    turn = [{"role": "user", "content": problem.problem}]
    return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


def group_advantages(problem: Problem, texts: list[str]) -> np.ndarray:
    """GRPO's advantages (r − mean) / (std + 1e-4) of a group of completions; NaN for a single one."""
    if len(texts) < 2:
        return np.full(len(texts), np.nan)
    verdicts = grade_many([(text, problem.answer) for text in texts], tolerances=[problem.tolerance] * len(texts))
    rewards = np.array([float(verdict.correct) for verdict in verdicts])
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)


def write_random(out: Path, states: int, each: int, seed: int) -> None:
    """random.json: every family, scale, vocabulary and draw. random.csv: by bin, drawn from the policy, scale mixed."""
    sources, bins = [], {}
    for vocabulary, (family, scales) in product(VOCABULARIES, FAMILIES.items()):
        for scale, draw in product(scales, DRAWS):
            tokens = random_tokens(family, (scale, scale), vocabulary, draw, states, each, seed)
            labels = {"family": family, "scale": scale, "vocabulary": vocabulary, "draw": draw}
            sources.append(labels | summarise(tokens))
        ends = (min(scales), max(scales))
        mixed = random_tokens(family, ends, vocabulary, "policy", MIXED * states, each, seed)
        bins[f"{family}, V = {vocabulary}"] = grid(mixed)
        print(f"[agreement] random logits: {family}, V = {vocabulary}", file=sys.stderr, flush=True)
    settings = {"states": states, "states_mixed": MIXED * states, "tokens_per_state": each, "seed": seed}
    write_json(out / "random.json", {"settings": settings, "provenance": provenance(), "sources": sources})
    write_atomic(out / "random.csv", bins_csv(bins))


def write_policy(out: Path, name: str, model: str, prompts: str, count: int, samples: int, length: int, seed: int):
    """<name>.json and <name>.csv: tokens that the policy in `model` sampled from `count` of the prompts."""
    found = resolve(model)
    problems = load_prompts(prompts)
    problems = random.Random(seed).sample(problems, min(count, len(problems)))
    engine = load_policy(found.folder)
    tokens = policy_tokens(engine, problems, samples, length, seed)
    settings = {
        "model": label(model), "revision": found.revision, "weights_sha256": found.sha256,
        "vocabulary": engine.model.config.vocab_size, "parameters": found.parameters, "prompts": label(prompts),
        "prompts_digest": digest([asdict(problem) for problem in problems]), "prompts_count": len(problems),
        "samples": samples, "length": length, "temperature": 1.0, "seed": seed, "threads": torch.get_num_threads(),
        "device": engine.model.device.type,
    }  # fmt: skip
    record = {"name": name, "settings": settings, "provenance": provenance()}
    write_json(out / f"{slug(name)}.json", record | summarise(tokens) | marginals(tokens))
    write_atomic(out / f"{slug(name)}.csv", bins_csv({name: grid(tokens)}))


def provenance() -> dict:
    """The code behind the numbers, by content, and where it ran."""
    return {
        "code": code_digest("dynclip.lab.agreement.measure:write_random", "dynclip.lab.agreement.measure:write_policy"),
        **environment(),
    }


def label(given: str) -> str:
    """A model or prompt source as it is recorded: a file or folder outside the working directory by its name alone."""
    return Path(given).name if Path(given).is_absolute() else given


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def load_policy(folder: Path | str) -> TransformersEngine:
    """The policy of a folder, in float32, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TransformersEngine.load(folder, batch_size=32, dtype="float32", device=device)


def load_prompts(given: str) -> list[Problem]:
    """The problems of a .jsonl file that `dynclip data` wrote, or of a benchmark by its name. UserError for others."""
    if given.endswith(".jsonl"):
        return read_problems(given)
    if given not in BENCHMARKS:
        raise UserError(f"--prompts {given}: expected a .jsonl file or a benchmark: {', '.join(BENCHMARKS)}")
    return load_problems(BENCHMARKS[given])
