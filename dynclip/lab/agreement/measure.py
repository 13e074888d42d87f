"""How often the token-only region rule has the sign of the exact inner product: the counts behind docs/regions.md.

    python -m dynclip.lab.agreement
    python -m dynclip.lab.agreement --model results/laptop/base --prompts results/laptop/data/train.jsonl --samples 8

The first measures random logits; the second adds a policy's own samples at temperature 1. Each writes its numbers to
`--out` and draws the tables and the figure of everything found there again. The rule (arXiv 2602.09782) says that a
token lowers entropy, for A > 0, where p_a (ln p_a + H) > 0; the exact condition is p_a (ln p_a + H) > B
(dynclip.regions).
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch

from dynclip.lab.agreement.counts import Tokens, bins_csv, grid, join, marginals, summarise
from dynclip.regions import baseline
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_atomic, write_json
from dynclip.runtime.provenance import code_digest, digest, environment
from evals.grading import extract, grade_many

FAMILIES = {"gaussian": (0.5, 1.0, 2.0, 4.0, 8.0), "zipf": (0.5, 1.0, 1.5, 2.0, 3.0)}
VOCABULARIES = (8, 64, 1024, 32000)
DRAWS = ("policy", "uniform")
MIXED = 4  # times the states of one setting: what the figure's bins are counted from
CHUNK = 2**22  # logits that are in memory at once in float64: 32 MiB a tensor
FIELDS = ("problem", "question", "prompt")
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")  # of a hub repository: not its other formats


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


def policy_tokens(model, tokenizer, rows: list[dict], samples: int, length: int, seed: int) -> Tokens:
    """`samples` completions of each row's prompt at temperature 1, of at most `length` tokens; clusters are prompts.

    Where a row has an "answer" and `samples` > 1, advantages are GRPO's, (r − mean) / (std + 1e-4) in each group.
    Logits exist for one completion at a time: (length, V).
    """
    texts = [prompt_text(row, tokenizer) for row in rows]
    parts, done = [], 0
    for number, ids, completions in sample(model, tokenizer, texts, samples, length, seed):
        advantages = group_advantages(rows[number], tokenizer.batch_decode(completions, skip_special_tokens=True))
        for completion, advantage in zip(completions, advantages, strict=True):
            whole = torch.cat([ids, completion]).unsqueeze(0)
            with torch.inference_mode():
                logits = model(whole, logits_to_keep=len(completion) + 1).logits[0, :-1]
            count = len(completion)
            parts.append(
                Tokens(
                    *measure(logits, completion.unsqueeze(-1)), np.full(count, number), np.full(count, float(advantage))
                )
            )
            done += count
        print(f"[agreement] {number + 1}/{len(rows)} prompts, {done} tokens", file=sys.stderr, flush=True)
    return join(parts)


def prompt_text(row: dict, tokenizer) -> str:
    """The text a policy continues: a chat template's user turn where the tokenizer has one, else the problem itself."""
    problem = next(row[name] for name in FIELDS if name in row)
    if tokenizer.chat_template is None:
        return problem
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True
    )


def sample(model, tokenizer, texts: list[str], samples: int, length: int, seed: int, batch: int = 32) -> Iterator:
    """(number, prompt ids, completions) of each text; a completion ends with its end token or after `length`."""
    torch.manual_seed(seed)
    per_batch = max(1, batch // samples)
    for start in range(0, len(texts), per_batch):
        # A chat template has put its own special tokens into the text.
        encoded = tokenizer(
            texts[start : start + per_batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=tokenizer.chat_template is None,
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                repetition_penalty=1.0,
                max_new_tokens=length,
                num_return_sequences=samples,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        completions = output[:, encoded["input_ids"].shape[1] :]
        for i, (ids, mask) in enumerate(zip(encoded["input_ids"], encoded["attention_mask"], strict=True)):
            group = [cut(row, tokenizer.eos_token_id) for row in completions[i * samples : (i + 1) * samples]]
            yield start + i, ids[mask.bool()], group


def cut(completion: torch.Tensor, end: int) -> torch.Tensor:
    """`completion` (T,) up to and with its first end token."""
    ends = (completion == end).nonzero()
    return completion[: int(ends[0]) + 1] if len(ends) else completion


def group_advantages(row: dict, texts: list[str]) -> np.ndarray:
    """GRPO's advantages of a group of completions; NaN where there is no answer to grade by or no group."""
    if len(texts) < 2 or "answer" not in row:
        return np.full(len(texts), np.nan)
    gold = extract(str(row["answer"])) or str(row["answer"])
    rewards = np.array([float(verdict.correct) for verdict in grade_many([(text, gold) for text in texts])])
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
    policy, tokenizer, weights = load_policy(model)
    rows = load_prompts(prompts)
    rows = random.Random(seed).sample(rows, min(count, len(rows)))
    tokens = policy_tokens(policy, tokenizer, rows, samples, length, seed)
    settings = {
        "model": label(model), **weights, "prompts": label(prompts), "prompts_digest": digest(rows),
        "prompts_count": len(rows), "samples": samples, "length": length, "temperature": 1.0, "seed": seed,
        "threads": torch.get_num_threads(), "device": policy.device.type,
    }  # fmt: skip
    found = {"name": name, "settings": settings, "provenance": provenance()}
    write_json(out / f"{slug(name)}.json", found | summarise(tokens) | marginals(tokens))
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


def load_policy(given: str) -> tuple:
    """(model in float32, tokenizer, facts about the weights) of a local folder or a hub id: safetensors only, no remote
    code. Raises UserError where there is neither.
    """
    from huggingface_hub import snapshot_download
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = Path(given if Path(given).is_dir() else snapshot_download(given, allow_patterns=WANTED))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        # Padding is masked: where a tokenizer names no token for it, any will do.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model {given}: expected a local folder or a hub id of a causal language model in safetensors "
            f"({type(error).__name__}); `make reproduce` makes results/laptop/base"
        ) from None
    facts = {
        "revision": None if Path(given).is_dir() else folder.name,
        "weights_sha256": {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))},
        "vocabulary": model.config.vocab_size,
        "parameters": model.num_parameters(),
    }
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, facts


def load_prompts(given: str) -> list[dict]:
    """Rows with one of FIELDS: a .jsonl file, or the test split of a hub data set "org/name" or "org/name/config".

    Raises UserError where there is neither, or a row has no prompt.
    """
    if given.endswith(".jsonl"):
        if not Path(given).is_file():
            raise UserError(f"--prompts {given}: no such file; expected one JSON object a line, with a {FIELDS[0]!r}")
        rows = [json.loads(line) for line in Path(given).read_text().splitlines() if line.strip()]
    else:
        from datasets import load_dataset

        organisation, _, rest = given.partition("/")
        name, _, config = rest.partition("/")
        try:
            rows = list(load_dataset(f"{organisation}/{name}", config or None, split="test"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"--prompts {given}: expected a .jsonl file or a hub data set that has a test split "
                f"({type(error).__name__})"
            ) from None
    if not rows or not all(any(name in row for name in FIELDS) for row in rows):
        raise UserError(f"--prompts {given}: expected rows with one of the fields {', '.join(FIELDS)}")
    return rows
