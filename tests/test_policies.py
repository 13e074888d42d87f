"""The laptop's policy: an exact tokenizer, a Qwen2 model in Hugging Face format, a warm start with a stopping rule."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError
from dynclip.studies.scales import LAPTOP, MINIATURE
from dynclip.training.tiny_policy import build_model, build_tokenizer, trace_batch, warm_start
from evals.benchmarks.families import FAMILIES, generate


@pytest.fixture(scope="module")
def problems():
    return generate("chain_mod", 60, seed=1, held_out=False)


def test_every_problem_and_trace_survives_a_round_trip(problems):
    tokenizer, rng = build_tokenizer(), random.Random(0)
    for problem in problems:
        text = problem.problem + FAMILIES["chain_mod"].trace(problem, rng, 0.5)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and tokenizer.pad_token_id not in ids


def test_the_laptop_model_is_a_qwen2_of_the_stated_size():
    model = build_model(LAPTOP.policy, build_tokenizer(), seed=0)
    assert model.config.model_type == "qwen2" and 200_000 * 0.95 < model.num_parameters() < 3_000_000
    again = build_model(LAPTOP.policy, build_tokenizer(), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_only_the_trace_is_learned(problems):
    tokenizer = build_tokenizer()
    ids, attention, labels = trace_batch(problems, tokenizer, random.Random(0), MINIATURE.policy.warmup)
    assert ids.shape == attention.shape == labels.shape
    for row, label, seen in zip(ids, labels, attention, strict=True):
        learned = row[label != -100]
        assert torch.equal(learned, label[label != -100]) and learned[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(row[seen.bool()], skip_special_tokens=True)
        assert text.split("=")[0] + "=" == tokenizer.decode(row[(label == -100) & seen.bool()])


def test_a_warm_started_policy_loads_with_transformers_and_is_sealed(problems, tmp_path):
    said = []
    result = warm_start(MINIATURE, problems, tmp_path / "base", said.append)
    assert (
        result["steps"] == MINIATURE.policy.warmup.check_every and 0 <= result["pass_at_1"] <= result["pass_at_8"] <= 1
    )
    assert "entropy" in said[-1] and checkpoints.find_corruption(tmp_path / "base") is None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1
    assert tokenizer.decode(tokenizer("(4+7)%6=")["input_ids"]) == "(4+7)%6="


def test_a_window_that_is_not_reached_is_an_error_with_the_last_measurement(problems, tmp_path):
    warmup = replace(MINIATURE.policy.warmup, max_steps=2, check_every=2, pass_at_8_min=1.1)
    scale = replace(MINIATURE, policy=replace(MINIATURE.policy, warmup=warmup))
    with pytest.raises(UserError, match=r"not in its window after 2 steps, last \{'steps': 2"):
        warm_start(scale, problems, tmp_path / "base", lambda line: None)
    assert not (tmp_path / "base").exists()
