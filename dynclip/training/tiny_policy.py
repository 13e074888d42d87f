"""The laptop's base policy: a tokenizer and a small Qwen2 model, made here, and a supervised warm start.

The warm start stops when pass@1 and pass@8 at temperature 1 on training problems lie in the window of `Warmup`. A share
of the steps in its traces is wrong on purpose, because RL with verifiable rewards starts from a policy that is right
only sometimes.
"""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from dynclip.runtime import fast_imports
from dynclip.runtime.checkpoints import publish_folder
from dynclip.runtime.errors import UserError
from dynclip.studies.scales import Scale, TinyPolicy
from evals.benchmarks.families import FAMILIES, VOCABULARY
from evals.grading import grade_many
from evals.metrics import pass_at_k
from evals.sampling.settings import Sampling

PAD, EOS = "<pad>", "<eos>"
IGNORED = -100  # transformers' label of a token without loss


def build_tokenizer():
    """A word-level tokenizer, in Hugging Face format, over the pieces of generated problems and traces.

    Encoding splits a text into pieces, longest first. Decoding joins them, so a round trip is exact.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(VOCABULARY, key=len, reverse=True)
    tokenizer = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate([PAD, EOS, *VOCABULARY])}, unk_token=PAD)
    )
    pattern = Regex("|".join(re.escape(piece) for piece in pieces))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(policy: TinyPolicy, tokenizer, seed: int):
    """An untrained Qwen2 model in float32 with tied embeddings."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=policy.hidden,
        intermediate_size=policy.intermediate,
        num_hidden_layers=policy.layers,
        num_attention_heads=policy.heads,
        num_key_value_heads=policy.heads,
        max_position_embeddings=policy.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    # Saved with the model, because `generate` reads its defaults here.
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def warm_start(scale: Scale, problems: list, out: Path, log: Callable[[str], None] = print) -> dict:
    """Train the base policy of `scale` on worked traces of `problems` and publish it in `out`.

    Returns the measurements, which out/warmup.json holds too: steps, seconds, pass@1, pass@8, entropy, loss. Raises
    UserError if the policy is not in the window after `max_steps`.
    """
    fast_imports.skip_unused()
    import torch

    warmup = scale.policy.warmup
    torch.set_num_threads(2)  # fixed, because the number of threads changes the rounding of sums
    tokenizer = build_tokenizer()
    model = build_model(scale.policy, tokenizer, warmup.seed)
    rng = random.Random(warmup.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=warmup.learning_rate, weight_decay=0.01)
    started, result = time.perf_counter(), None
    for step in range(1, warmup.max_steps + 1):
        ids, attention, labels = trace_batch(problems, tokenizer, rng, warmup)
        loss = model(input_ids=ids, attention_mask=attention, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % warmup.check_every == 0:
            result = {"steps": step, "loss": loss.item(), **measure(model, tokenizer, problems, scale, step)}
            result["seconds"] = round(time.perf_counter() - started, 1)
            log(
                f"warm start: step {step}, loss {result['loss']:.3f}, pass@1 {result['pass_at_1']:.3f}, "
                f"pass@8 {result['pass_at_8']:.3f}, entropy {result['entropy']:.3f} nats, {result['seconds']:.0f} s "
                f"(stops at pass@1 in {warmup.pass_at_1[0]}-{warmup.pass_at_1[1]}, pass@8 >= {warmup.pass_at_8_min})"
            )
            low, high = warmup.pass_at_1
            if low <= result["pass_at_1"] <= high and result["pass_at_8"] >= warmup.pass_at_8_min:
                break
            model.train()
    else:
        raise UserError(f"warm start: not in its window after {warmup.max_steps} steps, last {result}")
    aside = out.with_name(f".{out.name}.writing")
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    result["parameters"] = model.num_parameters()
    (aside / "warmup.json").write_text(json.dumps(result, indent=1))
    publish_folder(aside, out)
    return result


def trace_batch(problems: list, tokenizer, rng: random.Random, warmup):
    """A padded batch (see `pad`) of problems with worked traces; the trace ends with the end token."""
    chosen = rng.choices(problems, k=warmup.batch)
    traces = [FAMILIES[p.subject].trace(p, rng, warmup.error_rate) + EOS for p in chosen]
    prompts = tokenizer([p.problem for p in chosen])["input_ids"]
    rows = list(zip(prompts, tokenizer(traces)["input_ids"], strict=True))
    return pad(rows, tokenizer.pad_token_id)


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


def measure(model, tokenizer, problems: list, scale: Scale, seed: int, count: int = 192, n: int = 8) -> dict:
    """pass@1 and pass@8 at temperature 1 and mean token entropy (nats) on `count` of the training problems."""
    import torch

    from evals.sampling.transformers_engine import TransformersEngine

    chosen = random.Random(seed).sample(problems, min(count, len(problems)))
    engine = TransformersEngine(model.eval(), tokenizer, batch_size=count * n)
    groups = engine.generate([p.problem for p in chosen], n, Sampling(1.0, 1.0, 0, scale.max_completion), seed)
    pairs = [(s.text, p.answer) for p, group in zip(chosen, groups, strict=True) for s in group]
    verdicts = [verdict.correct for verdict in grade_many(pairs)]
    correct = [sum(verdicts[i : i + n]) for i in range(0, len(verdicts), n)]
    texts = [p.problem + group[0].text for p, group in zip(chosen, groups, strict=True)]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    starts = torch.tensor([len(tokenizer(p.problem)["input_ids"]) for p in chosen])
    with torch.no_grad():
        logprob = torch.log_softmax(model(**encoded).logits, dim=-1)
    entropy = -(logprob.exp() * logprob).sum(-1)
    positions = torch.arange(entropy.shape[1]).unsqueeze(0)
    predicts = (positions >= starts.unsqueeze(1) - 1) & encoded["attention_mask"].bool()
    return {
        "pass_at_1": sum(correct) / len(verdicts),
        "pass_at_8": sum(pass_at_k(n, c, 8) for c in correct) / len(correct),
        "entropy": entropy[predicts].mean().item(),
    }
