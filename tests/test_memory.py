"""Memory by phase: each part held against real models, a real optimizer step and what autograd really keeps."""

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dynclip.plan.memory import (
    SEQUENCES,
    TILE_TOKENS,
    TILE_VOCABULARY,
    architecture,
    cache_bytes,
    fits,
    kept_bytes,
    largest_micro_batch,
    micro_batch,
    minibatch_share,
    needed,
    phases,
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


def sizes(scale, phase: int, micro: int | None = None) -> dict[str, int]:
    return {item.name: item.size for item in phases(scale, micro)[phase].items}


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


def test_weights_gradients_and_moments_are_those_of_a_real_step():
    model = AutoModelForCausalLM.from_config(config_of(SMALL))
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    scale = replace(WORKSTATION, policy=replace(WORKSTATION.policy, architecture=SMALL))
    counted = sizes(scale, 1)
    assert counted["weights"] == sum(each.nbytes for each in model.parameters())
    assert counted["gradients"] == sum(each.grad.nbytes for each in model.parameters())
    assert counted["moments"] == sum(each.nbytes for each in moments)


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


def test_autograd_keeps_of_a_layer_what_is_counted():
    weights = SMALL.parameters - replace(SMALL, layers=2).parameters
    matrices = weights - 2 * SMALL.hidden - (SMALL.hidden + 2 * SMALL.kv_heads * SMALL.head_size)  # norms, biases
    assert one_layer("float32") == 128 * kept_bytes(SMALL, 64, 4)
    assert one_layer("bfloat16") == 128 * kept_bytes(SMALL, 64, 2) + 2 * matrices


def test_checkpointing_keeps_a_layers_input_alone():
    assert one_layer("bfloat16", checkpointing=True) == 128 * 4 * SMALL.hidden


def test_trls_output_head_has_the_tiles_that_are_counted():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (TILE_TOKENS, TILE_VOCABULARY) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


def test_the_papers_phases_by_hand():
    weights, allowance, token = 7_615_616_512, 2 * GIB, 2 * 28 * 4 * 128 * 2
    assert sizes(PAPER, 0) == {
        "weights": weights * 4 // 8,
        "moments": weights * 8 // 8,
        "process": allowance,
        "sampler's weights": weights * 2,
        "KV cache": SEQUENCES * 4096 * token,
        "sampler's own": allowance,
    }
    update = sizes(PAPER, 1)
    assert update["gradients"] == weights * 4 // 8
    # A micro-batch of 4 x 4096 tokens: 28 layers' inputs in float32, and one layer computed again.
    layer = 34 * 3584 + 8 * 18944 + 4 * 28 + 8 + 2 * 4096
    assert update["activations"] == 4 * 4096 * (28 * 4 * 3584 + layer)
    assert "sampler" not in update  # asleep
    # The sampler's part fills half of each GPU, and is what decides; the longer completions of the 7B need more.
    assert needed(PAPER) == 2 * (2 * weights + SEQUENCES * 4096 * token + allowance)
    assert needed(PAPER_7B) - needed(PAPER) == 2 * SEQUENCES * 4096 * token


def test_sharding_divides_what_the_trainer_holds():
    alone = replace(PAPER, execution=replace(PAPER.execution, sharding="none"))
    for name in ("weights", "moments", "gradients"):
        assert sizes(alone, 1)[name] == pytest.approx(8 * sizes(PAPER, 1)[name], abs=8)
    zero3 = replace(PAPER, execution=replace(PAPER.execution, sharding="zero3"))
    assert sizes(zero3, 1)["moments"] == sizes(PAPER, 1)["moments"]


def test_a_sampler_that_does_not_sleep_stays_during_the_update():
    assert "sampler" in sizes(WORKSTATION, 1)
    asleep = replace(WORKSTATION, execution=replace(WORKSTATION.execution, sleep=True))
    assert needed(asleep) < needed(WORKSTATION)


def test_checkpointing_takes_less():
    with_it = replace(WORKSTATION, execution=replace(WORKSTATION.execution, checkpointing=True))
    assert sizes(with_it, 1)["activations"] < sizes(WORKSTATION, 1)["activations"] / 5


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
    assert fits(WORKSTATION, machine(T4, L4)) is None
    assert fits(WORKSTATION, machine(H100)) is None
    for scale in SCALES.values():
        if not scale.execution.gpus:
            assert fits(scale, machine()) is None, scale.name


def test_half_the_gpus_do_not_carry_a_training():
    assert fits(PAPER, machine(*[H100] * 4)) is not None


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    wide = replace(WORKSTATION, execution=replace(WORKSTATION.execution, micro_batch=64))
    size = largest_micro_batch(wide, L4.memory_gib * GIB)
    assert 1 <= size < micro_batch(wide) == 64
    assert needed(wide, size) <= L4.memory_gib * GIB < needed(wide, 2 * size)
    assert largest_micro_batch(wide, H100.memory_gib * GIB) == 64
    assert largest_micro_batch(wide, 4 * GIB) == 0


def test_two_machines_share_the_batch_and_ask_for_gpus_on_each():
    two = resolve("paper", nodes="2").scale
    assert two.execution.all_gpus == 16 and processes_of(two.execution) == 16 and processes_here(two.execution) == 8
    assert minibatch_share(two) == minibatch_share(PAPER) // 2 and phases(two)[1].size < phases(PAPER)[1].size
    assert fits(two, machine(*[H100] * 8)) is None
    refusal = fits(two, machine())
    assert re.fullmatch(r"needs 2 machines with 8 GPUs of about \d+ GiB each, this machine has none", refusal)


def test_processes_that_cannot_share_a_mini_batch_are_refused():
    with pytest.raises(UserError, match="256 completions of a mini-batch cannot be shared by 3 processes"):
        micro_batch(resolve("paper", gpus="3").scale)
