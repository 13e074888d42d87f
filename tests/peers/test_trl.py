"""TRL 1.16's GRPOTrainer as an oracle: with method "grpo", loss and gradients are equal bit for bit.

Also a canary: if a TRL release moves the private names that `dynclip.trl` builds on, it says which. The other methods
that TRL has are in test_trl_methods.py.
"""

import inspect

import pytest
import torch
from tiny_trainer import gaps, loss_and_gradients, random_inputs, report, trainer
from trl import GRPOTrainer

from dynclip.trl.settings import refuse_overlapping_options
from dynclip.trl.trainer import DynClipTrainer

LOSS_TYPES = ("dapo", "grpo", "bnpo", "dr_grpo")

# What dynclip.trl relies on: method of GRPOTrainer -> the parameters it must have.
RELIED_ON = {
    "_clip_grad_norm": ["self", "model"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ],
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_get_output_dir": ["self", "trial"],
    "create_model_card": ["self"],
}  # fmt: skip


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_grpo_equals_trl_bit_for_bit(tmp_path, loss_type, accumulation, record_property):
    config = {"loss_type": loss_type, "steps_per_generation": 4, "gradient_accumulation_steps": accumulation}
    theirs, ours = trainer(GRPOTrainer, tmp_path / "a", config), trainer(DynClipTrainer, tmp_path / "b", config)
    clipped, differences = 0.0, []
    for seed in range(25):
        inputs = random_inputs(theirs, seed)
        expected_loss, expected = loss_and_gradients(theirs, inputs)
        loss, gradients = loss_and_gradients(ours, inputs)
        differences.append(gaps((loss, gradients), (expected_loss, expected)))
        row = ours.take_row()
        clipped += row["clip/low_fraction"] + row["clip/high_fraction"]
        assert torch.equal(loss, expected_loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    assert clipped / 25 > 0.1  # the comparison saw clipped tokens
    report(record_property, "grpo", 25, differences)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_factors_that_trl_adds_to_a_run_are_kept(tmp_path, loss_type):
    """Tool results are left out, and the inference engine's correction multiplies the loss of a token."""
    config = {"loss_type": loss_type}
    theirs, ours = trainer(GRPOTrainer, tmp_path / "a", config), trainer(DynClipTrainer, tmp_path / "b", config)
    for seed in range(10):
        inputs = random_inputs(theirs, seed)
        inputs["tool_mask"] = inputs["tool"]
        for instance in (theirs, ours):
            instance.use_vllm = instance.vllm_importance_sampling_correction = True
        expected_loss, expected = loss_and_gradients(theirs, inputs)
        loss, gradients = loss_and_gradients(ours, inputs)
        assert torch.equal(loss, expected_loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_evaluation_loss_equals_trls(tmp_path, loss_type):
    """In evaluation TRL does not divide by accumulation steps, nor rescale the token count."""
    config = {"loss_type": loss_type, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
    theirs, ours = trainer(GRPOTrainer, tmp_path / "a", config), trainer(DynClipTrainer, tmp_path / "b", config)
    for seed in range(10):
        inputs = random_inputs(theirs, seed)
        losses = []
        for instance in (theirs, ours):
            instance.model.eval()
            with torch.no_grad():
                losses.append(instance._compute_loss(instance.model, dict(inputs)))
        assert torch.equal(*losses)


def test_clip_fractions_equal_trls(tmp_path):
    theirs, ours = trainer(GRPOTrainer, tmp_path / "a"), trainer(DynClipTrainer, tmp_path / "b")
    for seed in range(10):
        inputs = random_inputs(theirs, seed)
        loss_and_gradients(theirs, inputs)
        loss_and_gradients(ours, inputs)
        row = ours.take_row()
        assert row["clip/low_fraction"] == pytest.approx(theirs._metrics["train"]["clip_ratio/low_mean"][-1])
        assert row["clip/high_fraction"] == pytest.approx(theirs._metrics["train"]["clip_ratio/high_mean"][-1])


@pytest.mark.parametrize(("name", "parameters"), RELIED_ON.items())
def test_canary_the_names_this_adapter_builds_on(name, parameters):
    found = getattr(GRPOTrainer, name, None)
    assert found is not None, f"TRL no longer has GRPOTrainer.{name}; dynclip/trl overrides it and must be adapted"
    given = list(inspect.signature(found).parameters)[: len(parameters)]
    assert given == parameters, f"GRPOTrainer.{name} now takes {given}, dynclip/trl expects {parameters}"


def test_canary_the_source_this_adapter_mirrors():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    for name in ('inputs["advantages"]', "old_per_token_logps", "num_items_in_batch", "importance_sampling_ratio"):
        assert name in source, f"TRL's loss no longer mentions {name}; compare it with DynClipTrainer._compute_loss"


def test_one_update_per_rollout_is_refused(tmp_path):
    on_policy = {"steps_per_generation": 1}
    with pytest.raises(ValueError, match="every importance ratio is 1 and no clipping method can act"):
        trainer(DynClipTrainer, tmp_path, on_policy)
    assert trainer(DynClipTrainer, tmp_path, on_policy, allow_on_policy=True).updates_per_rollout == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"loss_type": "sapo"}, "loss_type='sapo': expected one of"),
        ({"loss_type": "cispo"}, "loss_type='cispo': expected one of"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level"),
        ({"entropy_coef": 0.01}, "entropy_coef"),
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy"),
        ({"off_policy_mask_threshold": 0.1}, "off_policy_mask_threshold"),
    ],
)
def test_trl_options_that_would_change_the_loss_are_refused(tmp_path, config, words):
    with pytest.raises(ValueError, match=words):
        trainer(DynClipTrainer, tmp_path, config)


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
