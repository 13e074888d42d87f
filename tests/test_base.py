"""Base policies of hub scales: what is sealed, what is refused. No hub is asked: folders stand in for its answers."""

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError
from dynclip.studies.architectures import QWEN25_05B, QWEN25_7B, QWEN25_MATH_7B, SMOLLM2_135M
from dynclip.studies.scales import SCALES, Supervised
from dynclip.training import hub_policy, supervised
from dynclip.training.supervised import IGNORED
from evals.benchmarks.problem import Problem
from evals.engines.engine import load_tokenizer
from evals.sampling.models import Model

PROBLEMS = [
    Problem(
        f"p{i}", f"What is {i} + {i}?", str(2 * i), 0, "sums", solution=f"{i} + {i} is {2 * i}.\n\\boxed{{{2 * i}}}"
    )
    for i in range(40)
]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """(scale, folder, record): the workstation rehearsal's base policy, its supervised stage included."""
    folder = tmp_path_factory.mktemp("base") / "base"
    scale = SCALES["workstation_rehearsal"]
    return scale, folder, hub_policy.make_base(scale, PROBLEMS, folder, lambda text: None)


def test_a_rehearsal_s_base_is_a_sealed_model_of_the_scale_s_architecture(rehearsed):
    _, folder, record = rehearsed
    checkpoints.verify(folder, "")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == SMOLLM2_135M.kind and config["tie_word_embeddings"]
    assert record["supervised"]["steps"] == 2 and record == json.loads((folder / "base.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and model.num_parameters() < 1e6


def test_what_ends_a_response_is_written_where_trainer_and_sampler_read_it(rehearsed):
    _, folder, _ = rehearsed
    vocabulary = load_tokenizer(folder).get_vocab()
    found = json.loads((folder / "generation_config.json").read_text())
    assert set(found) == {"eos_token_id", "pad_token_id"}  # no sampling defaults of the model's makers
    assert found["eos_token_id"] == sorted([vocabulary["<|endoftext|>"], vocabulary["<|im_end|>"]])


def test_a_base_made_from_a_model_of_the_cache_leaves_the_cache_as_it_was(rehearsed, tmp_path, monkeypatch):
    scale, folder, _ = rehearsed
    cache, out = tmp_path / "cache", tmp_path / "base"
    shutil.copytree(folder, cache, ignore=shutil.ignore_patterns("model.json", "base.json"))
    config = json.loads((cache / "config.json").read_text())
    (cache / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32", "of_the_cache": True}))
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    monkeypatch.setattr(hub_policy, "check_architecture", lambda *_: None)
    found = Model("m", cache, "digest", "sha")
    monkeypatch.setattr(hub_policy, "resolve", lambda name: found)
    policy = replace(scale.policy, random=False)
    hub_policy.make_base(replace(scale, policy=policy), PROBLEMS, out, lambda text: None)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert all(path.stat().st_nlink == 1 for path in out.iterdir() if path.suffix != ".safetensors")
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]  # of the supervised stage


def test_another_architecture_than_the_planned_one_is_refused():
    config = {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
    }  # fmt: skip
    assert QWEN25_05B.differences(config) == []
    assert QWEN25_05B.differences({**config, "num_hidden_layers": 25}) == ["num_hidden_layers 25 instead of 24"]


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [(SMOLLM2_135M, 134.515), (QWEN25_05B, 494.033), (QWEN25_7B, 7615.617), (QWEN25_MATH_7B, 7615.617)],
)
def test_parameters_are_those_the_models_cards_give(architecture, millions):
    assert architecture.parameters / 1e6 == pytest.approx(millions, abs=0.001)


def test_a_template_whose_marks_are_no_tokens_is_refused(rehearsed):
    scale, folder, _ = rehearsed
    tokenizer = load_tokenizer(folder)
    hub_policy.check_template(scale, tokenizer)
    from tiny_trainer import tokenizer as letters

    with pytest.raises(UserError, match=r"writes <\|im_start\|>, which is no token"):
        hub_policy.check_template(replace(scale, template="qwen-math"), letters())


def test_the_supervised_loss_is_on_the_response_alone_and_padding_counts_nowhere(rehearsed):
    scale, folder, _ = rehearsed
    tokenizer = load_tokenizer(folder)
    rows = [supervised.encode(problem, tokenizer, scale) for problem in PROBLEMS[:3]]
    ids, attention, labels = supervised.pad(rows, tokenizer.pad_token_id)
    for i, (prompt, response) in enumerate(rows):
        length = len(prompt) + len(response)
        assert ids[i, :length].tolist() == prompt + response and response[-1] == tokenizer.eos_token_id
        assert labels[i, len(prompt) : length].tolist() == response
        assert (labels[i, : len(prompt)] == IGNORED).all() and (labels[i, length:] == IGNORED).all()
        assert attention[i].sum() == length


def test_the_supervised_stage_learns_its_solutions(rehearsed, tmp_path):
    import shutil

    scale, folder, _ = rehearsed
    shutil.copytree(folder, tmp_path / "base")
    stage = Supervised(solutions=32, epochs=40, batch=16, learning_rate=3e-3)
    record = supervised.fine_tune(scale, stage, PROBLEMS, tmp_path / "base", lambda text: None)
    assert record["loss_last"] < 0.6 * record["loss_first"]
    assert record["steps"] == 80


def test_a_stage_without_solutions_is_refused(rehearsed):
    scale, folder, _ = rehearsed
    bare = [replace(problem, solution="") for problem in PROBLEMS]
    with pytest.raises(UserError, match="gsm8k_train: no worked solutions"):
        supervised.fine_tune(scale, scale.policy.supervised, bare, folder, lambda text: None)


def test_batches_hold_every_row_once_in_another_order_every_epoch():
    rows = [([0] * i, [1]) for i in range(20)]
    first, second = (supervised.batches(rows, 6, random.Random(seed)) for seed in (0, 1))
    assert sorted(len(row[0]) for batch in first for row in batch) == list(range(20))
    assert first != second


def test_a_killed_supervised_stage_goes_on_to_the_same_bits(rehearsed, tmp_path, monkeypatch):
    scale, folder, record = rehearsed
    save, said = supervised.save, []

    def dying(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(supervised, "SAVE_EVERY_S", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(supervised, "save", dying)
        hub_policy.make_base(scale, PROBLEMS, tmp_path / "base", said.append)
    again = hub_policy.make_base(scale, PROBLEMS, tmp_path / "base", said.append)
    assert "supervised: resuming at step 1 of 2" in said
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert again["supervised"] | {"seconds": 0} == record["supervised"] | {"seconds": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".base.lock", "base"]
