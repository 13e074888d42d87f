"""The base policy of a hub scale: a language model of the hub, fine-tuned first if the scale has that stage.

The result, in results/<scale>/base, is a plain Hugging Face folder in bfloat16. Its `base.json` holds the model's
source and the record of the supervised stage.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dynclip.runtime import fast_imports
from dynclip.runtime.checkpoints import writing
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_json
from dynclip.runtime.hardware import detect
from dynclip.runtime.text import say
from dynclip.studies.scales import HubPolicy, Scale, Supervised
from dynclip.training.problems import within_level
from evals.benchmarks.problem import Problem
from evals.engines.engine import end_tokens, load_tokenizer
from evals.engines.process import fix_threads
from evals.sampling.models import FETCHED, Model, resolve
from evals.sampling.prompts import TEMPLATES, render

RECORD = "base.json"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IGNORED = -100  # transformers' label of a token without loss
TOGETHER = 8  # rows in one forward pass of the supervised stage


def make_base(scale: Scale, problems: list[Problem], out: Path, log: Callable[[str], None] = say) -> dict:
    """Make the base policy of a hub scale and publish it in `out`; returns its record, the content of out/base.json.

    Raises UserError if the model cannot be loaded, has another architecture than the scale's plan, or has no token that
    the scale's prompt template needs.
    """
    policy: HubPolicy = scale.policy
    with writing(out) as aside:
        record = {"template": TEMPLATES[scale.template].label}
        if policy.random:
            log(f"{policy.id}: random weights in its architecture at a tiny width, a tokenizer of its family")
            random_model(policy, problems, aside)
            record |= {"model": f"{policy.architecture.kind} with random weights", "revision": None}
        else:
            found = resolve(f"{policy.id}@{policy.revision}")
            check_architecture(policy, found)
            log(f"{policy.id}: {found.parameters / 1e6:.1f} M parameters at {found.revision}")
            copy_model(found.folder, aside)
            record |= {"model": policy.id, "revision": found.revision, "source_sha256": found.sha256}
        tokenizer = load_tokenizer(aside)
        check_template(scale, tokenizer)
        write_end_tokens(aside, tokenizer, TEMPLATES[scale.template].stops)
        if policy.supervised:
            record["supervised"] = fine_tune(scale, policy.supervised, problems, aside, log)
        (aside / RECORD).write_text(json.dumps(record, indent=1))
    return record


def check_architecture(policy: HubPolicy, found: Model) -> None:
    """Raise UserError if the hub's model has another architecture than the scale's plan."""
    differences = policy.architecture.differences(found.config)
    if differences:
        raise UserError(
            f"{policy.id}: its config.json has {differences[0]}; correct its entry in dynclip/studies/architectures.py"
        )


def check_template(scale: Scale, tokenizer) -> None:
    """Raise UserError if a mark of the prompt template is no token: the policy would learn it as text."""
    prompt = render("1 + 1 = ?", tokenizer, scale.template)
    vocabulary = tokenizer.get_vocab()
    for mark in SPECIAL[1:]:
        if mark in prompt and mark not in vocabulary:
            raise UserError(
                f"template {scale.template!r} writes {mark}, which is no token of {scale.policy.id}'s tokenizer; "
                "choose another one with template="
            )


def copy_model(source: Path, target: Path) -> None:
    """Copy the model's files. Weights are hard links where the disk allows them: a 7B model has 15 GB.

    The other files are copies, because what follows writes into them. Weights are replaced, never written into.
    """
    for pattern in FETCHED:
        for file in source.glob(pattern):
            copy = target / file.name
            if copy.exists() or file.name == RECORD:
                continue
            if file.suffix == ".safetensors":
                with suppress(OSError):
                    os.link(file.resolve(), copy)
                    continue
            shutil.copyfile(file, copy)


def write_end_tokens(folder: Path, tokenizer, stops: tuple[str, ...]) -> None:
    """Write generation_config.json with the tokens that end a response.

    Trainer and sampler read the file. It has no sampling defaults, because they would change both.
    """
    file = folder / "generation_config.json"
    own = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    ends = end_tokens(tokenizer, own, stops)
    # Renamed into place: a base that an earlier version made may have a link into the hub's cache here.
    write_json(file, {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id})


def random_model(policy: HubPolicy, problems: list[Problem], folder: Path) -> None:
    """Save a model of the policy's architecture at a tiny width, and a byte-level BPE tokenizer with ChatML's marks."""
    fast_imports.skip_unused()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((problem.problem for problem in problems[:2000]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    architecture = policy.architecture
    groups = architecture.heads // architecture.kv_heads
    config = AutoConfig.for_model(
        architecture.kind,
        vocab_size=len(tokenizer),
        hidden_size=8 * groups,
        num_attention_heads=groups,
        num_key_value_heads=1,
        intermediate_size=16 * groups,
        num_hidden_layers=2,
        max_position_embeddings=architecture.context,
        tie_word_embeddings=architecture.tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fine_tune(scale: Scale, stage: Supervised, problems: list[Problem], folder: Path, log=say) -> dict:
    """The declared supervised stage, in place: cross-entropy on worked solutions, AdamW, linear decay to zero.

    Float32 weights, computed in bfloat16 on a GPU or on a processor with bfloat16 instructions. Returns what was done
    and measured: steps, tokens, first and last loss (nats per token, mean over ten steps), seconds.
    """
    fast_imports.skip_unused()
    import torch
    from transformers import AutoModelForCausalLM

    worked = [problem for problem in within_level(scale, problems) if problem.solution]
    if not worked:
        raise UserError(
            f"{scale.train_set}: no worked solutions, which the supervised stage of {scale.name} learns from"
        )
    rng = random.Random(stage.seed)
    chosen = rng.sample(worked, min(stage.solutions, len(worked)))
    machine = detect()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fix_threads(min(scale.threads, machine.cores) if device.type == "cpu" else machine.cores, log)
    torch.manual_seed(stage.seed)
    tokenizer = load_tokenizer(folder)
    rows = [encode(problem, tokenizer, scale) for problem in chosen]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).to(device)
    model.train()
    steps = stage.epochs * -(-len(rows) // stage.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    reduced = torch.cuda.is_bf16_supported() if device.type == "cuda" else machine.cpu_bf16
    losses, tokens, started = [], 0, time.perf_counter()
    for epoch in range(stage.epochs):
        for batch in batches(rows, stage.batch, random.Random(f"{stage.seed} {epoch}")):
            trained = sum(len(response) for _, response in batch)
            loss = 0.0
            # A few rows at a time: with a vocabulary of 49k their logits alone are 100 MB a row.
            for part in (batch[start : start + TOGETHER] for start in range(0, len(batch), TOGETHER)):
                ids, attention, labels = (each.to(device) for each in pad(part, tokenizer.pad_token_id))
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced):
                    mean = model(input_ids=ids, attention_mask=attention, labels=labels).loss
                share = mean * (sum(len(response) for _, response in part) / trained)
                share.backward()
                loss += share.item()
                tokens += int(attention.sum())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss)
            if len(losses) % 10 == 0 or len(losses) == steps:
                spent = time.perf_counter() - started
                left = spent / len(losses) * (steps - len(losses))
                log(f"supervised: step {len(losses)}/{steps}  loss {losses[-1]:.3f} nats  {left:.0f} s left")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    model.to(torch.bfloat16).save_pretrained(folder)
    write_end_tokens(folder, tokenizer, TEMPLATES[scale.template].stops)
    return {
        "solutions": len(chosen),
        "epochs": stage.epochs,
        "steps": steps,
        "tokens": tokens,
        "learning_rate": stage.learning_rate,
        "loss_first": sum(losses[:10]) / len(losses[:10]),
        "loss_last": sum(losses[-10:]) / len(losses[-10:]),
        "seconds": round(time.perf_counter() - started, 1),
        "computed_in": "bfloat16" if reduced else "float32",
    }


def encode(problem: Problem, tokenizer, scale: Scale) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids with the token that ends a turn), cut to the scale's lengths."""
    template = TEMPLATES[scale.template]
    text, special = render(problem.problem, tokenizer, template), template.adds_special_tokens(tokenizer)
    prompt = tokenizer(text, add_special_tokens=special)["input_ids"]
    response = tokenizer(problem.solution or problem.answer, add_special_tokens=False)["input_ids"]
    return prompt[-(scale.max_prompt or len(prompt)) :], [*response[: scale.max_completion - 1], tokenizer.eos_token_id]


def pad(rows: list[tuple[list[int], list[int]]], filler: int):
    """(ids, attention, labels), each (batch, T) long, of rows (prompt ids, response ids), padded with `filler` on the
    right; labels are IGNORED on prompts and padding."""
    import torch

    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.full((len(rows), width), filler)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for i, (prompt, response) in enumerate(rows):
        length = len(prompt) + len(response)
        ids[i, :length] = torch.tensor(prompt + response)
        attention[i, :length] = 1
        labels[i, len(prompt) : length] = torch.tensor(response)
    return ids, attention, labels


def batches(rows: list, size: int, rng: random.Random):
    """Shuffled batches of rows of similar length, which need little padding. Another `rng` gives other batches."""
    order = sorted(range(len(rows)), key=lambda i: (sum(map(len, rows[i])) + rng.uniform(0, 40), i))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(groups)
    return [[rows[i] for i in group] for group in groups]
