"""Memory by phase, compared with real models, a real optimizer step and what autograd keeps."""

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dynclip.plan.memory import (
    GPU_ALLOWANCE,
    SEQUENCES,
    TILE_TOKENS,
    TILE_VOCABULARY,
    activation_bytes,
    architecture,
    cache_bytes,
    fits,
    micro_batch,
    needed,
    phases,
    sampler_bytes,
    trainer_bytes,
    update_bytes,
)
from dynclip.runtime.errors import UserError
from dynclip.runtime.hardware import GIB, Gpu, Hardware
from dynclip.studies.architectures import QWEN25_05B, QWEN25_7B, QWEN25_MATH_7B, SMOLLM2_135M, Architecture
from dynclip.studies.execution import processes_here, processes_of
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import LAPTOP, PAPER, PAPER_7B, SCALES, WORKSTATION, WORKSTATION_SMALL

LANGUAGE_MODELS = (SMOLLM2_135M, QWEN25_05B, QWEN25_7B, QWEN25_MATH_7B)
SMALL = Architecture("qwen2", 128, 3, 4, 2, 352, 50, 512, tied=True, qkv_bias=True)
H100, L4, T4 = Gpu("H100", 79.6, True), Gpu("L4", 22.5, True), Gpu("T4", 15.0, False)


def machine(*gpus: Gpu, memory_gib: float = 24.0) -> Hardware:
    return Hardware("CPU", 2, 2, memory_gib, True, gpus)


def config_of(shape: Architecture):
    return AutoConfig.for_model(
        shape.kind,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
    )


@pytest.mark.parametrize("shape", (*LANGUAGE_MODELS, SMALL), ids=lambda shape: f"{shape.parameters / 1e6:.1f}M")
def test_parameters_are_those_of_the_model_that_transformers_builds(shape):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    assert sum(each.numel() for each in model.parameters()) == shape.parameters


def test_tiny_policies_and_rehearsals_are_counted_as_they_are_built(tmp_path):
    from dynclip.training.hub_policy import random_model
    from dynclip.training.tiny_policy import build_model, build_tokenizer
    from evals.benchmarks.problem import Problem

    built = build_model(LAPTOP.policy, build_tokenizer(), 0)
    assert sum(each.numel() for each in built.parameters()) == architecture(LAPTOP.policy).parameters
    rehearsed = SCALES["paper_rehearsal"].policy
    random_model(rehearsed, [Problem("1", "What is 1 + 2?", "3", 0, "")], tmp_path)
    differences = architecture(rehearsed).differences(json.loads((tmp_path / "config.json").read_text()))
    assert [each for each in differences if not each.startswith("vocab_size")] == []


@pytest.mark.parametrize("shape", LANGUAGE_MODELS)
def test_keys_and_values_are_those_the_evaluation_counts(shape, tmp_path):
    from evals.sampling.models import Model

    config_of(shape).save_pretrained(tmp_path)
    assert cache_bytes(shape) == Model("m", tmp_path, "", "").cache_bytes_per_token


def test_weights_and_moments_are_those_of_a_real_step():
    model = AutoModelForCausalLM.from_config(config_of(SMALL))
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    scale = replace(WORKSTATION, policy=replace(WORKSTATION.policy, architecture=SMALL))
    held = sum(each.nbytes for each in (*model.parameters(), *moments))
    assert trainer_bytes(scale) == held + GPU_ALLOWANCE


def bytes_kept(shape: Architecture, dtype: str, checkpointing: bool = False) -> int:
    """Bytes that autograd keeps of a forward pass through `shape` of two padded sequences of 64 tokens."""
    model = AutoModelForCausalLM.from_config(config_of(shape)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    own, kept = {each.untyped_storage().data_ptr() for each in model.parameters()}, {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    ids, mask = torch.zeros(2, 64, dtype=torch.long), torch.ones(2, 64, dtype=torch.long)
    mask[0, :7] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
    ):
        model.model(input_ids=ids, attention_mask=mask)
    return sum(each.untyped_storage().nbytes() for each in kept.values())


def one_layer(dtype: str, checkpointing: bool = False) -> int:
    """What one layer more adds."""
    return bytes_kept(SMALL, dtype, checkpointing) - bytes_kept(replace(SMALL, layers=2), dtype, checkpointing)


def test_activations_are_within_a_tenth_of_what_autograd_keeps():
    weights = SMALL.parameters - replace(SMALL, layers=2).parameters
    matrices = weights - 2 * SMALL.hidden - (SMALL.hidden + 2 * SMALL.kv_heads * SMALL.head_size)  # norms, biases
    assert one_layer("float32") == pytest.approx(128 * activation_bytes(SMALL, 4), rel=0.1)
    assert one_layer("bfloat16") == pytest.approx(128 * activation_bytes(SMALL, 2) + 2 * matrices, rel=0.1)
    assert one_layer("bfloat16", checkpointing=True) == 128 * 4 * SMALL.hidden


def test_trls_output_head_has_the_tiles_that_are_counted():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (TILE_TOKENS, TILE_VOCABULARY) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


def test_the_papers_phases_by_hand():
    weights, allowance, token = 7_615_616_512, 2 * GIB, 2 * 28 * 4 * 128 * 2
    assert trainer_bytes(PAPER) == weights * 12 // 8 + allowance
    assert sampler_bytes(PAPER) == 2 * weights + SEQUENCES * 4096 * token + allowance
    assert phases(PAPER)["rollout"] == trainer_bytes(PAPER) + sampler_bytes(PAPER)
    # Checkpointing, a micro-batch of 4 x 4096 tokens: 28 layers' inputs in float32, and one layer computed again.
    grown = update_bytes(PAPER, 4) - update_bytes(PAPER, 2)
    head = 2 * 3072 * 8 * 3584  # the hidden states of the scored tokens
    assert grown == 2 * 4096 * (28 * 4 * 3584 + 34 * 3584 + 8 * 18944) + head
    assert phases(PAPER)["update"] == trainer_bytes(PAPER) + update_bytes(PAPER, 4)  # the sampler sleeps
    # The sampler may fill half of each GPU, which decides; the longer completions of the 7B need more.
    assert needed(PAPER) == 2 * sampler_bytes(PAPER)
    assert needed(PAPER_7B) - needed(PAPER) == 2 * SEQUENCES * 4096 * token


def executed(scale, **changes):
    return replace(scale, execution=replace(scale.execution, **changes))


def test_sharding_sleep_and_checkpointing_take_less():
    alone, zero3 = (executed(PAPER, sharding=sharding) for sharding in ("none", "zero3"))
    assert trainer_bytes(alone) - GPU_ALLOWANCE == pytest.approx(8 * (trainer_bytes(PAPER) - GPU_ALLOWANCE), abs=8)
    assert update_bytes(alone, 1) > update_bytes(PAPER, 1) and trainer_bytes(zero3) == trainer_bytes(PAPER)
    asleep = executed(WORKSTATION, sleep=True)
    assert phases(WORKSTATION)["update"] - phases(asleep)["update"] == sampler_bytes(WORKSTATION)
    assert needed(asleep) < needed(WORKSTATION)
    assert update_bytes(executed(WORKSTATION, checkpointing=True), 8) < update_bytes(WORKSTATION, 8) / 3


@pytest.mark.parametrize(
    ("scale", "machine", "words"),
    [
        (PAPER, machine(), "needs 8 GPUs of about 47 GiB each, this machine has none"),
        (PAPER_7B, machine(), "needs 8 GPUs of about 61 GiB each, this machine has none"),
        (PAPER, machine(H100, H100), r"8 GPUs of .* has H100 80 GiB \+ H100 80 GiB"),
        (PAPER, machine(*[L4] * 8), "8 GPUs of about 47 GiB each, this machine has L4 22 GiB"),
        (WORKSTATION, machine(), "needs 1 GPU of about 10 GiB, this machine has none"),
        (WORKSTATION, machine(T4), "T4 has none .compute capability 8.0"),
        (WORKSTATION_SMALL, machine(memory_gib=6), "needs about 8 GiB of memory, this machine has 6 GiB"),
    ],
)
def test_what_does_not_fit_is_one_line_with_both_sizes(scale, machine, words):
    reason = fits(scale, machine)
    assert re.search(words, reason) and "\n" not in reason


def test_what_fits():
    assert fits(PAPER, machine(*[H100] * 8)) is None
    assert fits(PAPER, machine(*[H100] * 4)) is not None
    assert fits(WORKSTATION, machine(T4, L4)) is None
    assert fits(WORKSTATION, machine(H100)) is None
    for scale in SCALES.values():
        if not scale.execution.gpus:
            assert fits(scale, machine()) is None, scale.name


def test_two_machines_share_the_batch_and_ask_for_gpus_on_each():
    two = resolve("paper", nodes="2").scale
    assert two.execution.all_gpus == 16 and processes_of(two.execution) == 16 and processes_here(two.execution) == 8
    assert phases(two)["update"] < phases(PAPER)["update"]
    assert fits(two, machine(*[H100] * 8)) is None
    assert re.fullmatch(r"needs 2 machines with 8 GPUs of about \d+ GiB each, .* none", fits(two, machine()))


def test_processes_that_cannot_share_a_mini_batch_are_refused():
    with pytest.raises(UserError, match="256 completions of a mini-batch cannot be shared by 3 processes"):
        micro_batch(resolve("paper", gpus="3").scale)
