"""The supervised stage of a hub scale's base policy: cross-entropy on worked solutions, with checkpoints."""

import itertools
import json
import random
import time
from pathlib import Path

from dynclip.runtime import checkpoints, fast_imports
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256
from dynclip.runtime.hardware import detect
from dynclip.runtime.provenance import digest
from dynclip.runtime.text import say
from dynclip.studies.scales import Scale, Supervised
from dynclip.training.problems import within_level
from evals.benchmarks.problem import Problem
from evals.engines.engine import load_tokenizer
from evals.engines.process import fix_threads
from evals.sampling.prompts import TEMPLATES, render

IGNORED = -100  # transformers' label of a token without loss
TOGETHER = 8  # rows in one forward pass
SAVE_EVERY_S = 300.0  # least time between two checkpoints, of 12 bytes a parameter each
FACTS, TENSORS = "dynclip.json", "stage.pt"  # of a checkpoint


def fine_tune(
    scale: Scale, stage: Supervised, problems: list[Problem], folder: Path, log=say, state: Path | None = None
) -> dict:
    """The declared supervised stage, in place: cross-entropy on worked solutions, AdamW, linear decay to zero.

    Float32 weights, computed in bfloat16 on a GPU or on a processor with bfloat16 instructions. Returns what was done
    and measured: steps, tokens, first and last loss (nats per token, mean over ten steps), seconds.

    state: folder of its checkpoints, from which a killed stage goes on; it is the caller's to remove.
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
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    made_by = digest([repr(stage), str(device), rows, [sha256(file) for file in sorted(folder.glob("*.safetensors"))]])
    losses, tokens, seconds = restore(state, made_by, parts) if state else ([], 0, 0.0)
    if losses:
        log(f"supervised: resuming at step {len(losses)} of {steps}")
    saved = time.perf_counter()
    started = saved - seconds
    epochs = (batches(rows, stage.batch, random.Random(f"{stage.seed} {epoch}")) for epoch in range(stage.epochs))
    for batch in list(itertools.chain.from_iterable(epochs))[len(losses) :]:
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
        if state and time.perf_counter() - saved >= SAVE_EVERY_S:
            facts = {"made_by": made_by, "losses": losses, "tokens": tokens, "seconds": time.perf_counter() - started}
            save(state, facts, parts)
            saved = time.perf_counter()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    model.to(torch.bfloat16).save_pretrained(folder)
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


def save(state: Path, facts: dict, parts: dict) -> None:
    """Write checkpoint-<steps> of the supervised stage; delete older ones. parts: name -> module or optimizer."""
    import torch

    with checkpoints.writing(state / f"checkpoint-{len(facts['losses'])}") as aside:
        torch.save({name: part.state_dict() for name, part in parts.items()}, aside / TENSORS)
        (aside / FACTS).write_text(json.dumps(facts))
    checkpoints.prune(state, keep=1)


def restore(state: Path, made_by: str, parts: dict) -> tuple[list[float], int, float]:
    """Load the checkpoint of `save` into `parts`: (losses, tokens, seconds) so far; ([], 0, 0) where there is none."""
    import torch

    checkpoints.sweep(state)
    found = checkpoints.latest(state)
    facts = checkpoints.read_state(found / FACTS) if found else {}
    if facts.get("made_by") != made_by:
        checkpoints.remove(state)
        return [], 0, 0.0
    tensors = torch.load(found / TENSORS, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(tensors[name])
    return facts["losses"], facts["tokens"], facts["seconds"]


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
