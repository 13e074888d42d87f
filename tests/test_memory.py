"""Memory of a training, compared with real models, a real optimizer step and what autograd keeps."""

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dynclip.plan import memory
from dynclip.plan.memory import GPU_ALLOWANCE, fits, needed, phases, sampler_bytes, trainer_bytes, update_bytes
from dynclip.runtime.errors import UserError
from dynclip.runtime.hardware import GIB, Gpu, Hardware
from dynclip.studies.architectures import QWEN25_05B, QWEN25_7B, QWEN25_MATH_7B, SMOLLM2_135M, Architecture
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import PAPER, PAPER_7B, SCALES, WORKSTATION, WORKSTATION_SMALL, HubPolicy

LANGUAGE_MODELS = (SMOLLM2_135M, QWEN25_05B, QWEN25_7B, QWEN25_MATH_7B)
SMALL = Architecture("qwen2", 128, 3, 4, 2, 352, 50, 512, tied=True, qkv_bias=True)
H100, L4, T4 = Gpu("H100", 79.6, True), Gpu("L4", 22.5, True), Gpu("T4", 15.0, False)


def machine(*gpus: Gpu, memory_gib: float = 24.0) -> Hardware:
    return Hardware("CPU", 2, 2, memory_gib, True, gpus)


def config_of(shape: Architecture):
    return AutoConfig.for_model(
        shape.kind, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate, vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context, tie_word_embeddings=shape.tied,
    )  # fmt: skip


@pytest.mark.parametrize("shape", (*LANGUAGE_MODELS, SMALL), ids=lambda shape: f"{shape.parameters / 1e6:.1f}M")
def test_parameters_and_cache_are_those_of_the_real_model(shape, tmp_path):
    from evals.sampling.models import Model

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    assert sum(each.numel() for each in model.parameters()) == shape.parameters
    config_of(shape).save_pretrained(tmp_path)
    assert memory.cache_bytes(shape) == Model("m", tmp_path, "", "").cache_bytes_per_token


def test_rehearsals_are_counted_as_they_are_built(tmp_path):
    from dynclip.training.hub_policy import random_model
    from evals.benchmarks.problem import Problem

    rehearsed = SCALES["paper_rehearsal"].policy
    random_model(rehearsed, [Problem("1", "What is 1 + 2?", "3", 0, "")], tmp_path)
    differences = memory.architecture(rehearsed).differences(json.loads((tmp_path / "config.json").read_text()))
    assert [each for each in differences if not each.startswith("vocab_size")] == []


def test_weights_and_moments_are_those_of_a_real_step():
    model = AutoModelForCausalLM.from_config(config_of(SMALL))
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    scale = replace(WORKSTATION, policy=replace(WORKSTATION.policy, architecture=SMALL))
    assert trainer_bytes(scale) == sum(each.nbytes for each in (*model.parameters(), *moments)) + GPU_ALLOWANCE


def bytes_kept(shape: Architecture, dtype: str) -> int:
    """Bytes that autograd keeps of a forward pass through `shape` of two padded sequences of 64 tokens."""
    model = AutoModelForCausalLM.from_config(config_of(shape)).train()
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


@pytest.mark.parametrize(("dtype", "width"), memory.WIDTH.items())
def test_activations_are_within_a_tenth_of_what_autograd_keeps(dtype, width):
    fewer = replace(SMALL, layers=2)
    one_layer = bytes_kept(SMALL, dtype) - bytes_kept(fewer, dtype)
    copies = 2 * (SMALL.parameters - fewer.parameters) if width == 2 else 0  # autocast's weights
    assert one_layer == pytest.approx(128 * memory.activation_bytes(SMALL, width) + copies, rel=0.1)


def test_trls_output_head_has_the_tiles_that_are_counted():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (memory.TILE_TOKENS, memory.TILE_VOCABULARY) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


def test_the_papers_phases_by_hand():
    weights, allowance, cache = 7_615_616_512, 2 * GIB, memory.SEQUENCES * 4096 * 2 * 28 * 4 * 128 * 2
    assert trainer_bytes(PAPER) == weights * 12 // 8 + allowance
    assert sampler_bytes(PAPER) == 2 * weights + cache + allowance
    # Checkpointing: 28 layers' inputs in float32, one layer computed again, the hidden states of the scored tokens.
    per_completion = 4096 * (28 * 4 * 3584 + 34 * 3584 + 8 * 18944) + 3072 * 8 * 3584
    assert update_bytes(PAPER, 4) - update_bytes(PAPER, 2) == 2 * per_completion
    rollout, update = trainer_bytes(PAPER) + sampler_bytes(PAPER), trainer_bytes(PAPER) + update_bytes(PAPER, 4)
    assert phases(PAPER) == {"rollout": rollout, "update": update}  # the sampler sleeps during the update
    # The sampler may fill half of each GPU, which decides; the longer completions of the 7B need more.
    assert needed(PAPER) == 2 * sampler_bytes(PAPER) and needed(PAPER_7B) - needed(PAPER) == 2 * cache


def test_sharding_sleep_and_checkpointing_take_less():
    def executed(scale, **changes):
        return replace(scale, execution=replace(scale.execution, **changes))

    alone, asleep = executed(PAPER, sharding="none"), executed(WORKSTATION, sleep=True)
    assert trainer_bytes(alone) - GPU_ALLOWANCE == pytest.approx(8 * (trainer_bytes(PAPER) - GPU_ALLOWANCE), abs=8)
    assert trainer_bytes(executed(PAPER, sharding="zero3")) == trainer_bytes(PAPER)
    assert update_bytes(alone, 1) > update_bytes(PAPER, 1)
    assert phases(WORKSTATION)["update"] - phases(asleep)["update"] == sampler_bytes(WORKSTATION)
    assert needed(asleep) < needed(WORKSTATION)
    assert update_bytes(executed(WORKSTATION, checkpointing=True), 8) < update_bytes(WORKSTATION, 8) / 3


@pytest.mark.parametrize(
    ("scale", "machine", "reason"),
    [
        (PAPER, machine(*[H100] * 8), None),
        (WORKSTATION, machine(T4, L4), None),
        (PAPER, machine(), "needs 8 GPUs of about 47 GiB each, this machine has none"),
        (PAPER_7B, machine(), "needs 8 GPUs of about 61 GiB each"),
        (PAPER, machine(*[H100] * 4), r"8 GPUs of .* has H100 80 GiB \+ H100 80 GiB"),
        (PAPER, machine(*[L4] * 8), "8 GPUs of about 47 GiB each, this machine has L4 22 GiB"),
        (WORKSTATION, machine(T4), "T4 has none .compute capability 8.0"),
        (WORKSTATION_SMALL, machine(memory_gib=6), "needs about 8 GiB of memory, this machine has 6 GiB"),
        (resolve("paper", nodes="2").scale, machine(*[H100] * 8), None),
        (resolve("paper", nodes="2").scale, machine(), "needs 2 machines with 8 GPUs of about "),
    ],
)
def test_what_does_not_fit_is_one_line_with_both_sizes(scale, machine, reason):
    found = fits(scale, machine)
    assert found is None if reason is None else re.search(reason, found) and "\n" not in found


def test_every_cpu_scale_fits_a_small_machine():
    hub = [scale for scale in SCALES.values() if isinstance(scale.policy, HubPolicy)]
    assert [scale.name for scale in hub if not scale.execution.gpus and fits(scale, machine())] == []


def test_processes_share_the_batch_evenly_or_are_refused():
    assert phases(resolve("paper", nodes="2").scale)["update"] < phases(PAPER)["update"]
    with pytest.raises(UserError, match="256 completions of a mini-batch cannot be shared by 3 processes"):
        memory.micro_batch(resolve("paper", gpus="3").scale)
