"""TRL 1.16's GRPOTrainer as an oracle: with method "grpo", loss and gradients are equal bit for bit.

Also a canary: if a TRL release moves the private names that `dynclip.trl` builds on, it says which.
"""

import inspect

import pytest
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from dynclip.trl import DynClipTrainer, refuse_overlapping_options

VOCAB, PROMPT, COMPLETION = 20, 5, 7

# What dynclip.trl relies on: method of GRPOTrainer -> the parameters it must have.
RELIED_ON = {
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ],
    "_generate_and_score_completions": ["self", "inputs"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_get_output_dir": ["self", "trial"],
    "create_model_card": ["self"],
}  # fmt: skip


def tokenizer():
    pieces = ["<pad>", "<eos>", *map(chr, range(97, 97 + VOCAB - 2))]
    raw = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def model():
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def trainer(cls, tmp_path, steps_per_generation=2, gradient_accumulation_steps=1, config=None, **kwargs):
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, steps_per_generation=steps_per_generation,
        gradient_accumulation_steps=gradient_accumulation_steps, num_generations=4, max_completion_length=COMPLETION,
        max_steps=8, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False, **(config or {}),
    )  # fmt: skip
    return cls(
        model=model(), processing_class=tokenizer(), reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args, train_dataset=Dataset.from_list([{"prompt": "abcde"}] * 16), **kwargs,
    )  # fmt: skip


def random_inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, COMPLETION + 1, (4,), generator=generator)
    mask = (torch.arange(COMPLETION) < lengths[:, None]).int()
    prompt_mask = torch.ones(4, PROMPT, dtype=torch.long)
    prompt_mask[:, 0] = torch.randint(2, (4,), generator=generator)
    return {
        "prompt_ids": torch.randint(2, VOCAB, (4, PROMPT), generator=generator),
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(2, VOCAB, (4, COMPLETION), generator=generator),
        "completion_mask": mask,
        "advantages": torch.randn(4, generator=generator),
        # Old log-probabilities far enough from the model's for clipping to act on a good share of tokens.
        "old_per_token_logps": -2.9 + 0.5 * torch.randn(4, COMPLETION, generator=generator),
        "num_items_in_batch": mask.sum() * 2 + 3,
    }


def loss_and_gradients(instance, inputs):
    instance.model.zero_grad()
    instance.model.train()
    instance.current_gradient_accumulation_steps = instance.args.gradient_accumulation_steps
    loss = instance._compute_loss(instance.model, dict(inputs))
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in instance.model.parameters()]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "dr_grpo"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_grpo_equals_trl_bit_for_bit(tmp_path, loss_type, accumulation):
    settings = {"steps_per_generation": 4, "gradient_accumulation_steps": accumulation}
    theirs = trainer(GRPOTrainer, tmp_path / "a", config={"loss_type": loss_type}, **settings)
    ours = trainer(DynClipTrainer, tmp_path / "b", config={"loss_type": loss_type}, dynclip_method="grpo", **settings)
    ours.state.max_steps = 8
    clipped = 0.0
    for seed in range(25):
        inputs = random_inputs(seed)
        expected_loss, expected = loss_and_gradients(theirs, inputs)
        loss, gradients = loss_and_gradients(ours, inputs)
        row = ours.take_row()
        clipped += row["clip/low_fraction"] + row["clip/high_fraction"]
        assert torch.equal(loss, expected_loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    assert clipped / 25 > 0.1  # the comparison saw clipped tokens


def test_clip_fractions_equal_trls(tmp_path):
    theirs, ours = trainer(GRPOTrainer, tmp_path / "a"), trainer(DynClipTrainer, tmp_path / "b")
    ours.state.max_steps = 8
    loss_and_gradients(theirs, random_inputs(5))
    loss_and_gradients(ours, random_inputs(5))
    row = ours.take_row()
    assert row["clip/low_fraction"] == pytest.approx(theirs._metrics["train"]["clip_ratio/low_mean"][-1])
    assert row["clip/high_fraction"] == pytest.approx(theirs._metrics["train"]["clip_ratio/high_mean"][-1])


def test_clip_higher_equals_trls_epsilon_high(tmp_path):
    theirs = trainer(GRPOTrainer, tmp_path / "a", config={"epsilon": 0.2, "epsilon_high": 0.28})
    ours = trainer(DynClipTrainer, tmp_path / "b", dynclip_method="clip_higher")
    ours.state.max_steps = 8
    for seed in range(10):
        expected_loss, expected = loss_and_gradients(theirs, random_inputs(seed))
        loss, gradients = loss_and_gradients(ours, random_inputs(seed))
        assert torch.equal(loss, expected_loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize(("name", "parameters"), RELIED_ON.items())
def test_canary_the_names_this_adapter_builds_on(name, parameters):
    found = getattr(GRPOTrainer, name, None)
    assert found is not None, f"TRL no longer has GRPOTrainer.{name}; dynclip/trl.py overrides it and must be adapted"
    given = list(inspect.signature(found).parameters)[: len(parameters)]
    assert given == parameters, f"GRPOTrainer.{name} now takes {given}, dynclip/trl.py expects {parameters}"


def test_canary_the_source_this_adapter_mirrors():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    for name in ('inputs["advantages"]', "old_per_token_logps", "num_items_in_batch", "importance_sampling_ratio"):
        assert name in source, f"TRL's loss no longer mentions {name}; compare it with DynClipTrainer._compute_loss"


def test_one_update_per_rollout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every importance ratio is 1 and no clipping method can act"):
        trainer(DynClipTrainer, tmp_path, steps_per_generation=1)
    assert trainer(DynClipTrainer, tmp_path, steps_per_generation=1, allow_on_policy=True).updates_per_rollout == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"delta": 3.0}, "delta"),
        ({"loss_type": "sapo"}, "loss_type='sapo': expected one of"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level"),
    ],
)
def test_trl_options_that_would_change_the_loss_are_refused(tmp_path, config, words):
    with pytest.raises(ValueError, match=words):
        trainer(DynClipTrainer, tmp_path, config=config)


def test_a_kl_penalty_is_refused(tmp_path):
    instance = trainer(DynClipTrainer, tmp_path)
    instance.beta = 0.1
    with pytest.raises(ValueError, match="beta"):
        refuse_overlapping_options(instance)


def test_unknown_methods_and_options_fail_before_training(tmp_path):
    with pytest.raises(ValueError, match="unknown method 'idd'"):
        trainer(DynClipTrainer, tmp_path, dynclip_method="idd")
    with pytest.raises(ValueError, match="unknown option 'slope'"):
        trainer(DynClipTrainer, tmp_path, dynclip_method="id", dynclip_options={"slope": 1})


def test_only_one_loss_method_is_overridden():
    own = {name for name in vars(DynClipTrainer) if name in vars(GRPOTrainer) and "loss" in name}
    assert own == {"_compute_loss"}
