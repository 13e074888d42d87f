"""The engines: order, lengths, reasons, determinism, end tokens, context; and vLLM's CPU build for real."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny, tiny_model, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from dynclip.runtime.errors import UserError
from dynclip.runtime.hardware import Gpu, Hardware
from evals.engines import transformers_engine
from evals.engines.budget import CLOSING, BudgetEngine
from evals.engines.choice import Job, cache_bytes, choose_engine, fitting_batch
from evals.engines.endings import opens_thinking, sample_of
from evals.engines.engine import derived_seed, end_tokens, installed_engines
from evals.engines.transformers_engine import TransformersEngine
from evals.sampling.settings import Sample, Sampling, repeats

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12)
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=12)
PROMPTS = ["1 +2 =", "Mia red pens 4 +7 =", "9 -8 =", "3 *3 ="]
ROOT = Path(__file__).resolve().parents[2]
PIECE = "ly "  # the end of many of the tiny model's words
LONG = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=40)


@pytest.fixture(scope="module")
def engine():
    tokenizer = tiny_tokenizer()
    return TransformersEngine(tiny_model(tokenizer).eval(), tokenizer, batch_size=6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def test_n_samples_per_prompt_with_lengths_and_reasons(engine):
    seen = []
    groups = engine.generate(PROMPTS, 3, SAMPLING, 0, lambda *numbers: seen.append(numbers))
    assert [len(group) for group in groups] == [3] * 4
    samples = [sample for group in groups for sample in group]
    assert {sample.finish for sample in samples} <= {"stop", "length"}
    assert all(sample.tokens == 12 for sample in samples if sample.finish == "length")
    assert all(1 <= sample.tokens <= 12 for sample in samples)
    assert [numbers[:2] for numbers in seen] == [(2, 4), (4, 4)]
    assert seen[-1][2] == sum(sample.tokens for sample in samples)


def test_a_seed_fixes_the_samples(engine):
    first, again, other = (engine.generate(PROMPTS, 3, SAMPLING, seed) for seed in (5, 5, 6))
    assert first == again != other


def test_a_stream_goes_on_from_a_chunk_as_if_it_had_never_stopped(engine):
    chunks = list(engine.stream(PROMPTS, 3, SAMPLING, 5))
    assert [chunk.positions for chunk in chunks] == [[0, 1], [2, 3]]
    torch.manual_seed(99)
    rest = list(engine.stream(PROMPTS[2:], 3, SAMPLING, 5, state=chunks[0].state))
    assert rest[0].samples == chunks[1].samples and rest[0].state == chunks[1].state


def test_later_samples_of_a_prompt_are_other_draws_than_its_first(engine):
    first = [chunk.samples for chunk in engine.stream(PROMPTS, 3, SAMPLING, 5)]
    later = [chunk.samples for chunk in engine.stream(PROMPTS, 3, SAMPLING, 5, first=3)]
    assert first != later
    assert derived_seed(5, 0) == 5 and len({derived_seed(5, 0), derived_seed(5, 3), derived_seed(6, 3)}) == 3


def test_the_likeliest_tokens_are_the_same_for_every_sample_and_seed(engine):
    groups = engine.generate(PROMPTS, 3, GREEDY, 0)
    assert all(group == [group[0]] * 3 for group in groups)
    assert groups == engine.generate(PROMPTS, 3, GREEDY, 1)


@pytest.mark.parametrize("text", [PIECE, "s s"], ids=["in a token", "of two tokens"])
def test_a_sample_ends_before_a_stop_text_and_counts_the_tokens_up_to_its_end(engine, text):
    whole = engine.generate(PROMPTS[:2], 3, LONG, 5)
    cut = engine.generate(PROMPTS[:2], 3, LONG, 5, stop_texts=["never written", text])
    pairs = [pair for groups in zip(whole, cut, strict=True) for pair in zip(*groups, strict=True)]
    assert any(text in sample.text for sample, _ in pairs)
    for sample, short in pairs:
        assert short.text == sample.text.partition(text)[0]
        if text in sample.text:
            ids = engine.tokenizer(short.text + text)["input_ids"]
            assert short.finish == "stop" and 1 <= short.tokens < sample.tokens and short.tokens <= len(ids)
        else:
            assert short == sample


def test_a_batch_is_not_drawn_to_the_end_where_all_of_it_has_ended():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).eval()
    model.lm_head = Head(model.lm_head, tokenizer.convert_tokens_to_ids("so "))
    engine, steps = TransformersEngine(model, tokenizer), []
    engine.step = lambda: steps.append(1)
    (sample,) = engine.generate(["1 +2 ="], 1, LONG, 0, stop_texts=["so so"])[0]
    assert (sample.text, sample.tokens, sample.finish, len(steps)) == ("", 2, "stop", 8)


def byte_tokenizer(*tokens: str):
    """A tokenizer of bytes; `tokens` are in the vocabulary, all others are several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet))
    made = PreTrainedTokenizerFast(tokenizer_object=backend)
    made.add_tokens([AddedToken(token, special=token.startswith("[")) for token in tokens])
    return made


@pytest.mark.parametrize("tags", [(), ("<think>", "</think>", "[THINK]", "[/THINK]")], ids=["text", "tokens"])
@pytest.mark.parametrize(
    ("text", "opened", "thinking"),
    [
        ("It is 4.", False, ""),
        ("<think>2+2…</think>It is 4.", False, "<think>2+2…</think>"),
        ("2+2 é</think>It is 4.", True, "2+2 é</think>"),
        ("2+2</think>", True, "2+2</think>"),
        ("<think>a</think>b<think>c</think>4", False, "<think>a</think>b<think>c</think>"),
        ("<think>a</think>b<think>c", False, "<think>a</think>b<think>c"),
        ("so it is", True, "so it is"),
        ("[THINK]a[/THINK]4", False, "[THINK]a[/THINK]"),
        ("", True, ""),
    ],
)
def test_tokens_of_thinking_are_counted_up_to_its_end(tags, text, opened, thinking):
    tokenizer = byte_tokenizer(*tags)
    ids = tokenizer(text)["input_ids"]
    found = sample_of(tokenizer, ids, "stop", (), opened)
    assert (found.tokens, found.thinking_tokens) == (len(ids), len(tokenizer(thinking)["input_ids"]))


def test_a_prompt_can_begin_the_thinking(engine):
    assert opens_thinking("2+2?\n<think>\n") and not opens_thinking("2+2?<think></think>\n\n")
    assert not opens_thinking("<think> is a tag") and not opens_thinking("2+2?")
    samples = [s for group in engine.generate([p + "<think>" for p in PROMPTS], 2, SAMPLING, 0) for s in group]
    assert all(sample.thinking_tokens == sample.tokens for sample in samples)


def check_budget(samples, budget: int, limit: int) -> None:
    """Samples of prompts that begin the thinking, of a model that has no word for its end."""
    assert any(CLOSING in sample.text for sample in samples)
    for sample in samples:
        assert sample.tokens <= limit and sample.text.count("</think>") <= 1
        if CLOSING in sample.text:
            assert sample.thinking_tokens == budget < sample.tokens
        else:
            assert sample.finish == "stop" and sample.thinking_tokens == sample.tokens <= budget


def test_thinking_beyond_its_budget_is_closed_and_the_answer_follows(engine, monkeypatch):
    prompts, limited = [prompt + "<think>" for prompt in PROMPTS], replace(SAMPLING, thinking_budget=4)
    budgeted = BudgetEngine(engine)
    groups = budgeted.generate(prompts, 3, limited, 5)
    check_budget([sample for group in groups for sample in group], 4, 12)
    assert groups == budgeted.generate(prompts, 3, limited, 5) != budgeted.generate(prompts, 3, limited, 6)
    begun = engine.generate(prompts, 3, replace(SAMPLING, max_tokens=4), 5)
    pairs = [pair for both in zip(groups, begun, strict=True) for pair in zip(*both, strict=True)]
    assert all(whole.text.startswith(begin.text) for whole, begin in pairs)
    monkeypatch.setattr("evals.engines.budget.TOGETHER", 6)
    assert [chunk.positions for chunk in budgeted.stream(prompts, 3, limited, 5)] == [[0, 1], [2, 3]]
    assert budgeted.guarantees() == engine.guarantees() | {"continues": False}


def test_a_budget_leaves_what_does_not_think_its_whole_length(engine):
    limited = replace(GREEDY, thinking_budget=5)
    groups, plain = (BudgetEngine(engine).generate(PROMPTS, 2, limited, 0), engine.generate(PROMPTS, 2, GREEDY, 0))
    assert groups == plain
    for budget in (12, 99):
        assert BudgetEngine(engine).generate(PROMPTS, 2, replace(GREEDY, thinking_budget=budget), 0) == plain


class Head(torch.nn.Module):
    """An output layer that prefers one token whatever comes in."""

    def __init__(self, head, token):
        super().__init__()
        self.head, self.weight, self.token = head, head.weight, token

    def forward(self, x):
        logits = self.head(x)
        logits[..., self.token] += 1e4
        return logits


@pytest.mark.parametrize("end", ["<eos>", "so "])
def test_every_end_token_ends_a_sample_and_is_counted(end):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).eval()
    token = tokenizer.convert_tokens_to_ids(end)
    model.lm_head = Head(model.lm_head, token)
    ends = end_tokens(tokenizer, None, ["so ", "not in the vocabulary"])
    groups = TransformersEngine(model, tokenizer, ends=ends).generate(["1 +2 ="], 2, SAMPLING, 0)
    text = tokenizer.decode([token], skip_special_tokens=True)
    assert [(s.text, s.tokens, s.finish) for s in groups[0]] == [(text, 1, "stop")] * 2


def test_a_response_that_repeats_itself_is_ended_where_that_was_asked_for():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, positions=512).eval()
    model.lm_head = Head(model.lm_head, tokenizer.convert_tokens_to_ids("so "))
    engine = TransformersEngine(model, tokenizer)
    for temperature in (0.0, 1.0):
        rule = Sampling(temperature, 1.0, 0, 300)
        ((whole,),) = engine.generate(["1 +2 ="], 1, rule, 0)
        assert (whole.tokens, whole.finish) == (300, "length")
        (ended, *_), _ = engine.generate(["1 +2 =", "1 +2 *3 ="], 2, replace(rule, stop_repetition=True), 0)
        assert (ended.tokens, ended.finish) == (129, "repetition") and whole.text.startswith(ended.text)


def test_a_row_that_repeats_itself_beyond_its_own_room_was_cut_off(monkeypatch):
    monkeypatch.setattr(transformers_engine, "repeats", lambda tokens: len(tokens) >= 16)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).eval()
    model.lm_head = Head(model.lm_head, tokenizer.convert_tokens_to_ids("so "))
    rule = Sampling(0.0, 1.0, 0, 40, stop_repetition=True)
    ids, finishes = TransformersEngine(model, tokenizer).draw_ids(["1 +2 =", "1 +2 ="], [40, 5], 1, rule)
    assert ([len(each) for each in ids], finishes) == ([17, 5], ["repetition", "length"])


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 140), st.integers(0, 6), st.booleans())
def test_a_response_repeats_itself_if_a_block_stands_four_times_at_its_end(head, size, times, broken):
    block = [3 + i % 5 for i in range(size - 1)] + [9]
    tokens = head + block * times
    if broken and times:
        tokens[-1] = 10
    blocks = range(32, 129)
    expected = any(
        len(tokens) >= 4 * n and all(tokens[-i] == tokens[-i - n] for i in range(1, 3 * n + 1)) for n in blocks
    )
    assert repeats(tokens) == expected
    if not broken and 32 <= size <= 128:
        assert repeats(tokens) == (times >= 4)


def test_end_tokens_come_from_the_model_the_tokenizer_and_the_template():
    tokenizer = tiny_tokenizer()
    other = tokenizer.convert_tokens_to_ids("so ")
    assert end_tokens(tokenizer, None) == end_tokens(tokenizer, 1) == [1]
    assert end_tokens(tokenizer, [7, 9], ("so ",)) == sorted([1, 7, 9, other])


def test_the_prompt_of_another_length_does_not_change_a_greedy_answer(engine):
    """Left padding is invisible: a prompt alone and in a batch give the same text."""
    alone = engine.generate(["1 +2 ="], 1, GREEDY, 0)[0][0]
    batched = engine.generate(["1 +2 =", "4 +7 +9 +3 *6 +1 ="], 1, GREEDY, 0)[0][0]
    assert alone.text == batched.text


def test_a_prompt_that_fills_the_context_is_reported_and_a_near_one_is_cut(tmp_path):
    engine = TransformersEngine.load(save_tiny(tmp_path / "short", positions=16))
    near, full = "1 " + "+2 " * 12 + "=", "1 " + "+2 " * 14 + "="
    groups = engine.generate(["1 +2 =", full, near], 2, SAMPLING, 0)
    assert [(s.text, s.tokens, s.finish) for s in groups[1]] == [("", 0, "overflow")] * 2
    assert all(s.tokens <= 2 for s in groups[2]) and all(s.tokens <= 12 for s in groups[0])
    assert {s.finish for s in groups[2] if s.tokens == 2} <= {"length", "stop"}


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_learned_positions_every_response_has_the_room_that_its_own_prompt_leaves(kind, tmp_path):
    tokenizer = tiny_tokenizer()
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
    size |= {"ffn_dim": 16, "word_embed_proj_dim": 16} if kind == "opt" else {}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **size,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine.load(tmp_path)
    prompts = ["1 +2 =", "1 +2 +3 +4 +5 +6 ="]
    assert [len(ids) for ids in tokenizer(prompts)["input_ids"]] == [3, 7]
    torch.nn.init.constant_(engine.model.get_input_embeddings().weight, 0)  # all tokens are equally likely
    groups = engine.generate(prompts, 8, Sampling(1.0, 1.0, 0, 12), 0)
    assert [max(s.tokens for s in group) for group in groups] == [12, 9]
    assert all(s.finish in ("length", "stop") for group in groups for s in group)


def test_the_models_own_sampling_defaults_are_not_used(tiny, tmp_path):
    plain = TransformersEngine.load(tiny).generate(PROMPTS, 2, SAMPLING, 0)
    changed = save_tiny(tmp_path / "changed")
    settings = json.loads((changed / "generation_config.json").read_text())
    (changed / "generation_config.json").write_text(
        json.dumps(settings | {"repetition_penalty": 5.0, "do_sample": True})
    )
    assert TransformersEngine.load(changed).generate(PROMPTS, 2, SAMPLING, 0) == plain


def test_what_is_no_model_is_an_error_of_one_line(tiny, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for file in tiny.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="cannot load it as a causal language model") as error:
        TransformersEngine.load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_engine_says_what_it_can_promise(tiny):
    found = TransformersEngine.load(tiny, batch_size=8).guarantees()
    assert (found["engine"], found["device"], found["dtype"], found["batch_size"]) == (
        "transformers",
        "cpu",
        "float32",
        8,
    )
    assert found["repeatable"] and found["continues"] and not found["batch_invariant"]


LAPTOP = Hardware("CPU", 2, 2, 16.0, True, ())
OLD = Hardware("CPU", 2, 2, 16.0, False, ())
SERVER = Hardware("CPU", 16, 16, 128.0, True, (Gpu("card", 80.0, True),))
BOTH = {"transformers": "5", "vllm": "0.31"}
SMALL_JOB, MIDDLE_JOB, LARGE_JOB = (Job(n, 250, 135_000_000) for n in (4, 100, 8000))


@pytest.mark.parametrize(
    ("job", "machine", "installed", "expected"),
    [
        (SMALL_JOB, LAPTOP, BOTH, ("transformers", "cpu", "bfloat16")),
        (LARGE_JOB, LAPTOP, BOTH, ("vllm", "cpu", "bfloat16")),
        (MIDDLE_JOB, LAPTOP, BOTH, ("vllm", "cpu", "bfloat16")),
        (LARGE_JOB, OLD, BOTH, ("vllm", "cpu", "float32")),
        (LARGE_JOB, LAPTOP, {"transformers": "5", "vllm": None}, ("transformers", "cpu", "bfloat16")),
        (SMALL_JOB, SERVER, BOTH, ("transformers", "cuda", "bfloat16")),
        (LARGE_JOB, SERVER, BOTH, ("vllm", "cuda", "bfloat16")),
    ],
)
def test_the_engine_is_what_is_installed_and_done_first(job, machine, installed, expected):
    choice = choose_engine(job, machine, installed)
    assert (choice.engine, choice.device, choice.dtype) == expected
    assert str(job.samples) in choice.why and "\n" not in choice.why
    assert choice.compiled == (job is LARGE_JOB and choice.engine == "vllm"), "compiling has to pay for itself"


def test_a_wanted_engine_is_taken_if_it_is_there_and_small_float32_models_stay_float32():
    assert choose_engine(SMALL_JOB, LAPTOP, BOTH, "vllm").engine == "vllm"
    assert choose_engine(Job(1, 1, 10_000), LAPTOP, BOTH, float32=True).dtype == "float32"
    assert choose_engine(Job(1, 1, 10**9), LAPTOP, BOTH, float32=True).dtype == "bfloat16"
    with pytest.raises(UserError, match="'vllm' is not installed"):
        choose_engine(SMALL_JOB, LAPTOP, {"transformers": "5", "vllm": None}, "vllm")
    with pytest.raises(UserError, match="unknown engine 'sglang'; the engines are: auto, vllm, transformers"):
        choose_engine(SMALL_JOB, LAPTOP, BOTH, "sglang")
    with pytest.raises(UserError, match="no sampling engine"):
        choose_engine(SMALL_JOB, LAPTOP, {"transformers": None, "vllm": None})


def test_batches_fit_in_a_quarter_of_the_memory():
    assert fitting_batch(2**30, 2**20, 64) == 4
    assert fitting_batch(2**40, 2**10, 64) == 64 and fitting_batch(1, 2**20, 64) == 1


def test_vllms_cache_is_sized_to_the_job():
    gib, token = 2**30, 23_040  # of SmolLM2-135M
    few = cache_bytes(24 * gib, token, [600] * 16, 8192)
    assert 600 * 16 * token < few < 0.35 * gib
    one = cache_bytes(24 * gib, token, [600], 8192)
    assert 8192 * token < one < 0.3 * gib  # less than one whole context, and vLLM does not start
    many = [100] * 10_000 + [600] * 256
    assert cache_bytes(24 * gib, token, many, 8192) == cache_bytes(24 * gib, token, [600] * 256, 8192)
    assert cache_bytes(24 * gib, token, [4600] * 256, 8192) == 4 * gib  # a sixth of the memory
    assert cache_bytes(2 * gib, token, [4600] * 256, 8192) == gib
    assert cache_bytes(24 * gib, token, [600] * 16, None) < few + 1


VLLM_SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path

import torch

from evals import evaluation
from evals.engines import start
from evals.sampling.models import resolve
from evals.sampling.settings import Evaluation, Sampling
from evals.engines.budget import BudgetEngine
from evals.engines.transformers_engine import TransformersEngine
from evals.engines.vllm_engine import VLLMEngine

folder, out = sys.argv[1], Path(sys.argv[2])
prompts = json.loads(sys.argv[3])
setting = torch.set_num_threads
engine = VLLMEngine.load(folder, "float32", cache_gib=0.25)
kept = setting is torch.set_num_threads
sampled, greedy = Sampling(1.0, 1.0, 0, 12), Sampling(0.0, 1.0, 0, 12)
thinking = Sampling(1.0, 1.0, 0, 12, thinking_budget=4)
found = {
    "kept": kept,
    "guarantees": engine.guarantees(),
    "first": [[vars(s) for s in g] for g in engine.generate(prompts, 3, sampled, 5)],
    "again": [[vars(s) for s in g] for g in engine.generate(prompts, 3, sampled, 5)],
    "other": [[vars(s) for s in g] for g in engine.generate(prompts, 3, sampled, 6)],
    "later": [[vars(s) for s in g] for c in engine.stream(prompts, 3, sampled, 5, first=3) for g in c.samples],
    "piece": [[vars(s) for s in g] for g in engine.generate(prompts, 3, sampled, 5, stop_texts=[sys.argv[4]])],
    "budget": [
        [vars(s) for s in g]
        for g in BudgetEngine(engine).generate([p + "<think>" for p in prompts], 2, thinking, 5)
    ],
    "greedy": [[vars(s) for s in g] for g in engine.generate(prompts, 2, greedy, 0)],
    "overflow": [vars(s) for s in engine.generate(["1 +1 " * 48, prompts[0]], 2, sampled, 0)[0]],
}
stream = engine.stream(prompts * 40, 1, sampled, 0)
next(stream)
stream.close()  # what is left undone is given up, and the engine goes on
found["after"] = [[vars(s) for s in g] for g in engine.generate(prompts, 3, sampled, 5)]
from evals.engines import vllm_engine
vllm_engine.REPETITION = {"min_pattern_size": 1, "max_pattern_size": 16, "min_count": 2}
long, ending = Sampling(0.0, 1.0, 0, 60), Sampling(0.0, 1.0, 0, 60, stop_repetition=True)
found["long"] = [[vars(s) for s in g] for g in engine.generate(prompts, 1, long, 0)]
found["ending"] = [[vars(s) for s in g] for g in engine.generate(prompts, 1, ending, 0)]
started = []
start.start_engine = lambda choice, *rest, **more: started.append(choice.engine) or engine
how = Evaluation(k=2, limit=5, engine="vllm")
records = evaluation.evaluate(evaluation.Request(resolve(folder), ("facts", "worded"), how, out, out))
found["started"] = started
found["scores"] = {n: [r["engine"], r["n_problems"], r["k"], r["samples"]["rows"]] for n, r in records.items()}
reference = TransformersEngine.load(folder)
found["reference"] = [[vars(s) for s in g] for g in reference.generate(prompts, 2, greedy, 0)]
(out / "found.json").write_text(json.dumps(found))
"""


@pytest.mark.skipif(not installed_engines()["vllm"], reason="vLLM is not installed")
def test_vllm_for_real(tiny, tmp_path):
    """One start of vLLM (its CPU build where there is no GPU), in a process of its own: it changes its process."""
    script = tmp_path / "script.py"
    script.write_text(VLLM_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, script, tiny, tmp_path / "out", json.dumps(PROMPTS), PIECE],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found["kept"], "vLLM's replacement of torch.set_num_threads was left in place"
    assert found["first"] == found["again"] == found["after"] != found["other"]
    assert found["later"] != found["first"] and [len(group) for group in found["first"]] == [3] * 4
    assert found["greedy"] == found["reference"], "both engines take the same likeliest tokens"
    samples = [sample for group in found["first"] for sample in group]
    assert all((s["tokens"] == 12) or s["finish"] == "stop" for s in samples)
    assert any(PIECE in s["text"] for s in samples)
    for whole, cut in zip(samples, (s for group in found["piece"] for s in group), strict=True):
        assert cut["text"] == whole["text"].partition(PIECE)[0]
        assert cut == whole or (cut["finish"], cut["tokens"] <= whole["tokens"]) == ("stop", True)
    check_budget([Sample(**s) for group in found["budget"] for s in group], 4, 12)
    assert found["overflow"] == [{"text": "", "tokens": 0, "finish": "overflow", "thinking_tokens": 0}] * 2
    assert found["guarantees"]["repeatable"] and not found["guarantees"]["continues"]
    assert (found["guarantees"]["dtype"], found["guarantees"]["compiled"]) == ("float32", False)
    pairs = [(a[0], b[0]) for a, b in zip(found["long"], found["ending"], strict=True)]
    assert any(b["finish"] == "repetition" for _, b in pairs)
    assert all(a["text"].startswith(b["text"]) and a["tokens"] >= b["tokens"] for a, b in pairs)
    assert found["started"] == ["vllm"], "one start serves both benchmarks"
    assert found["scores"] == {name: ["vllm", 5, 2, 10] for name in ("facts", "worded")}


def test_a_pad_token_without_a_row_of_the_embedding_does_no_harm(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    before = TransformersEngine.load(folder).generate(PROMPTS, 2, GREEDY, 0)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"pad_token": "<|unknown pad|>"}))
    engine = TransformersEngine.load(folder)
    assert len(engine.tokenizer) > engine.model.get_input_embeddings().num_embeddings
    assert engine.generate(PROMPTS, 2, GREEDY, 0) == before
