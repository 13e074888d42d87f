"""Every method that TRL 1.16 ships too, against TRL: the same mini-batches, the same loss and parameter gradients.

`MAPPINGS` is the table of which options mean the same on both sides; docs/peers.md has it in words, with the traps that
are executed at the end of this file.
"""

from dataclasses import dataclass, field

import pytest
import torch
from tiny_trainer import gaps, loss_and_gradients, random_inputs, report, score, trainer
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

from dynclip.trl.trainer import DynClipTrainer

BATCHES = 40
GSPO = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}


@dataclass(frozen=True)
class Mapping:
    """`method` with `options` in a run with the configuration `ours` is TRL's own trainer with `theirs`."""

    method: str
    theirs: dict
    ours: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    exact: bool = False  # bit for bit; else to 1e-6 in the loss and in every parameter's gradient
    drift: float = 0.5  # standard deviation of ln r over the mini-batches
    clips: bool = True  # more than a tenth of the tokens lose their gradient
    trainer: type = GRPOTrainer  # TRL's
    without: tuple[str, ...] = ()  # inputs that are left out
    no_empty_rows: bool = False


MAPPINGS = {
    # TRL writes the bounds as we do: 1 − epsilon and 1 + epsilon_high.
    "clip_higher": Mapping("clip_higher", {"epsilon": 0.2, "epsilon_high": 0.28}, exact=True),
    "clip_lower": Mapping("clip_lower", {"epsilon": 0.28, "epsilon_high": 0.2}, exact=True),
    # `delta` is the dual clip c on both sides: TRL bounds the ratio at c before it takes the minimum, which acts where
    # A < 0 only; we bound the loss of those tokens at −c A. The lower c makes many tokens meet it.
    "dual clip 1.5": Mapping("grpo", {"delta": 1.5}, {"delta": 1.5}, exact=True),
    "dual clip 3": Mapping("grpo", {"delta": 3.0}, {"delta": 3.0}, exact=True, drift=1.0),
    "dual clip 3, clip_higher": Mapping(
        "clip_higher", {"epsilon_high": 0.28, "delta": 3.0}, {"delta": 3.0}, exact=True, drift=1.0
    ),
    # TRL's level "sequence" has one ratio per row; ours stays "token", because the method makes the same ratio at each
    # token (GSPO-token), whose gradients add up to the row's under every aggregation. Row ratios differ less.
    **{
        f"gspo, {loss_type}": Mapping("gspo", GSPO | {"loss_type": loss_type}, {"loss_type": loss_type}, drift=2e-3)
        for loss_type in ("grpo", "dapo", "bnpo", "dr_grpo")
    },
    # TRL couples SAPO to the mean of row means, which is loss_type "grpo".
    "sapo": Mapping("sapo", {"loss_type": "sapo"}, {"loss_type": "grpo"}, exact=True, clips=False),
    "sapo, other temperatures": Mapping(
        "sapo", {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0}, {"loss_type": "grpo"},
        {"tau_positive": 2.0, "tau_negative": 3.0}, exact=True, clips=False,
    ),
    # TRL couples CISPO to the token mean of loss_type "dapo", and its epsilon_high is the bound itself, 5 = 1 + 4.
    "cispo": Mapping(
        "cispo", {"loss_type": "cispo", "epsilon_high": 5.0}, {"loss_type": "dapo"}, exact=True, clips=False, drift=1.0,
    ),
    "cispo, 1.28": Mapping(
        "cispo", {"loss_type": "cispo", "epsilon_high": 1.28}, {"loss_type": "dapo"}, {"eps_high": 0.28}, exact=True,
    ),
    # TRL couples VESPO to the token mean of loss_type "dapo". Where vLLM's correction is given, it is a factor of w.
    "vespo": Mapping(
        "vespo", {"loss_type": "vespo"}, {"loss_type": "dapo"}, clips=False, drift=0.1,
        without=("importance_sampling_ratio",),
    ),
    "vespo, other options": Mapping(
        "vespo", {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_pos": 1.5, "vespo_k_neg": 2.0,
                  "vespo_lambda_neg": 1.0}, {"loss_type": "dapo"},
        {"power_positive": 1.0, "decay_positive": 1.5, "power_negative": 2.0, "decay_negative": 1.0}, clips=False,
        without=("importance_sampling_ratio",),
    ),
    # TRL's experimental trainer reads epsilon as a bound of ln r, and always takes the mean over rows.
    # A row without tokens has the loss −A there and 0 here, without gradient on both sides.
    "gmpo": Mapping(
        "gmpo", {"epsilon": 0.4, "epsilon_high": 0.4}, {"loss_type": "grpo"}, trainer=GMPOTrainer,
        no_empty_rows=True,
    ),
    "gmpo, narrow": Mapping(
        "gmpo", {"epsilon": 0.1, "epsilon_high": 0.2}, {"loss_type": "grpo"}, {"log_low": 0.1, "log_high": 0.2},
        trainer=GMPOTrainer, no_empty_rows=True,
    ),
    # TRL adds the token mean of the entropy under every loss_type, we aggregate it as the loss: the same for "bnpo".
    "entropy bonus": Mapping(
        "ent_reg", {"loss_type": "bnpo", "entropy_coef": 0.01}, {"loss_type": "bnpo"}, {"coefficient": 0.01}
    ),
    # The share of tokens kept is TRL's option and ours; both divide by all tokens.
    **{
        f"high_entropy, {loss_type}": Mapping(
            "high_entropy", {"loss_type": loss_type, "top_entropy_quantile": 0.2}, {"loss_type": loss_type}, exact=True
        )
        for loss_type in ("dapo", "grpo")
    },
}  # fmt: skip


def assert_same(found, expected, exact):
    """Loss and gradients are equal, bit for bit or to 1e-6; returns their differences."""
    if exact:
        assert all(torch.equal(a, b) for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True))
    differences = gaps(found, expected)
    assert max(differences) <= 1e-6
    return differences


def both(folder, mapping):
    ours = trainer(
        DynClipTrainer, folder / "ours", mapping.ours, dynclip_method=mapping.method, dynclip_options=mapping.options
    )
    return trainer(mapping.trainer, folder / "theirs", mapping.theirs), ours


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapped_method_equals_trls(tmp_path, name, record_property):
    mapping = MAPPINGS[name]
    theirs, ours = both(tmp_path, mapping)
    clipped, differences = 0.0, []
    for seed in range(BATCHES):
        inputs = random_inputs(theirs, seed, mapping.drift)
        inputs = {name: value for name, value in inputs.items() if name not in mapping.without}
        if mapping.no_empty_rows:
            inputs["completion_mask"][:, 0] = 1
        expected = loss_and_gradients(theirs, inputs)
        differences.append(assert_same(loss_and_gradients(ours, inputs), expected, mapping.exact))
        row = ours.take_row()
        clipped += (row["clip/low_fraction"] + row["clip/high_fraction"]) / BATCHES
    assert clipped > 0.1 or not mapping.clips
    report(record_property, mapping.method, BATCHES, differences)


@pytest.mark.parametrize(("c", "drift"), [(1.5, 0.5), (3.0, 1.0)])
def test_the_dual_clip_above_acted(tmp_path, c, drift):
    """On the mini-batches of the table, tokens with A < 0 and r > c are there, and the loss feels them."""
    theirs, dual = both(tmp_path / "a", Mapping("grpo", {}, {"delta": c}))
    beyond = 0
    for seed in range(BATCHES):
        inputs = random_inputs(theirs, seed, drift)
        ratio = (score(theirs, inputs)[0] - inputs["old_per_token_logps"]).exp()
        pushed = (inputs["advantages"].unsqueeze(1) < 0) & (ratio > c) & (inputs["completion_mask"] != 0)
        beyond += pushed.sum().item()
        plain, bounded = (loss_and_gradients(instance, inputs)[0] for instance in (theirs, dual))
        assert (bounded < plain) == pushed.any()
    assert beyond > BATCHES / 2


def test_the_adaptive_coefficient_equals_trls(tmp_path, record_property):
    """One update per rollout step and the same entropies: the same coefficient, off above the target on both sides.

    TRL moves it after every optimizer step from the entropy of that step's mini-batches, by 0.005 up to 1; we move it
    once per rollout step, by the official code's 0.0001 up to 0.005 unless told otherwise.
    """
    shared = {"loss_type": "bnpo", "steps_per_generation": 1}
    probe = trainer(GRPOTrainer, tmp_path / "probe")
    batches = [random_inputs(probe, seed) for seed in range(60)]
    batches = [batch for batch in batches if batch["completion_mask"].any()]
    entropies = [masked_mean(score(probe, batch)[1], batch["completion_mask"]) for batch in batches]
    target = sorted(entropies)[len(entropies) // 2] + 1e-5
    theirs = trainer(
        GRPOTrainer, tmp_path / "a",
        shared | {"use_adaptive_entropy": True, "entropy_target": target, "entropy_coef_delta": 0.005},
    )  # fmt: skip
    ours = trainer(
        DynClipTrainer, tmp_path / "b", shared, allow_on_policy=True, dynclip_method="adaptive_entropy",
        dynclip_options={"target": target, "delta": 0.005, "maximum": 1.0},
    )  # fmt: skip
    applied, differences = set(), []
    for batch, entropy in zip(batches, entropies, strict=True):
        ours.method.observe(0, entropy)
        applied.add(ours.method.controller.signal)
        found, expected = loss_and_gradients(ours, batch), loss_and_gradients(theirs, batch)
        differences.append(assert_same(found, expected, exact=False))
        assert ours.method.controller.coefficient == pytest.approx(theirs.entropy_coef, abs=1e-12)
    assert 0.0 in applied and len(applied) > 3  # the bonus was off, and on at several strengths
    report(record_property, "adaptive_entropy", len(batches), differences)


def masked_mean(value, mask):
    return ((value * mask).sum() / mask.sum()).item()


# Traps: the same name, another meaning.


# The defaults that docs/peers.md names.
TRL_DEFAULTS = {
    "loss_type": "dapo", "epsilon": 0.2, "epsilon_high": None, "delta": None, "beta": 0.0, "scale_rewards": "group",
    "importance_sampling_level": "token", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05,
    "entropy_coef": 0.0, "entropy_target": 0.2, "entropy_coef_delta": 0.005, "entropy_coef_min": 0.0,
    "entropy_coef_max": 1.0, "top_entropy_quantile": 1.0, "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, 
    "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0, "vllm_importance_sampling_correction": True,
}  # fmt: skip


@pytest.mark.parametrize(("option", "value"), TRL_DEFAULTS.items())
def test_trls_defaults(option, value):
    assert GRPOConfig.__dataclass_fields__[option].default == value


def test_trap_trls_default_is_not_grpos_aggregation(tmp_path):
    """TRL's GRPOTrainer averages over tokens unless it is told loss_type="grpo"."""
    default, dapo, grpo = (
        trainer(GRPOTrainer, tmp_path / name, config)
        for name, config in (("a", {}), ("b", {"loss_type": "dapo"}), ("c", {"loss_type": "grpo"}))
    )
    inputs = random_inputs(default, 3)
    losses = [loss_and_gradients(instance, inputs)[0] for instance in (default, dapo, grpo)]
    assert torch.equal(losses[0], losses[1]) and not torch.isclose(losses[0], losses[2])


def test_trap_trls_updates_are_on_policy_by_default(tmp_path):
    """One update per rollout batch unless steps_per_generation is above gradient_accumulation_steps."""
    config = trainer(GRPOTrainer, tmp_path, {"steps_per_generation": None, "gradient_accumulation_steps": 4}).args
    assert config.steps_per_generation == config.gradient_accumulation_steps and config.num_iterations == 1


def test_trap_a_row_without_tokens_counts_in_trls_row_mean(tmp_path):
    """Masking a truncated completion leaves it in the denominator of loss_type "grpo" (and of ours)."""
    config = {"loss_type": "grpo"}
    theirs, ours = trainer(GRPOTrainer, tmp_path / "a", config), trainer(DynClipTrainer, tmp_path / "b", config)
    inputs = random_inputs(theirs, 0)
    inputs["completion_mask"] = torch.ones_like(inputs["completion_mask"])
    inputs["completion_mask"][0] = 0
    kept = {name: value[1:] if value.dim() else value for name, value in inputs.items()}
    without = loss_and_gradients(theirs, kept)[0]
    for instance in (theirs, ours):
        assert loss_and_gradients(instance, inputs)[0].item() == pytest.approx(without.item() * 3 / 4, rel=1e-5)


def test_trap_a_delta_below_the_upper_bound_is_no_dual_clip(tmp_path):
    """TRL bounds the ratio, not the loss: with delta < 1 + ε⁺, A > 0 is clipped at delta and A < 0 at 1 + ε⁺."""
    theirs, ours = both(tmp_path, Mapping("grpo", {"delta": 1.1}, {"delta": 1.1}))
    inputs = random_inputs(theirs, 3)
    for sign in (1, -1):
        inputs["advantages"] = sign * inputs["advantages"].abs()
        assert loss_and_gradients(theirs, inputs)[0] > loss_and_gradients(ours, inputs)[0] + 1e-3


def test_trap_cispos_epsilon_high_is_the_bound_itself(tmp_path):
    """TRL's epsilon_high=0.28 bounds the weight at 0.28, ours at 1.28; left unset it is epsilon, 0.2."""
    assert trainer(GRPOTrainer, tmp_path / "unset", {"loss_type": "cispo"}).epsilon_high == 0.2
    mapping = Mapping("cispo", {"loss_type": "cispo", "epsilon_high": 0.28}, {}, {"eps_high": 0.28})
    theirs, ours = both(tmp_path, mapping)
    inputs = random_inputs(theirs, 3)
    assert not torch.isclose(loss_and_gradients(theirs, inputs)[0], loss_and_gradients(ours, inputs)[0])
    inputs["old_per_token_logps"] = score(theirs, inputs)[0]  # r = 1: TRL weighs every token with 0.28, we with 1
    expected, found = loss_and_gradients(theirs, inputs), loss_and_gradients(ours, inputs)
    assert found[0].item() * 0.28 == pytest.approx(expected[0].item(), rel=1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_trap_trls_entropy_bonus_is_a_token_mean_whatever_the_aggregation(tmp_path, loss_type):
    """With any loss_type but "bnpo" the same coefficient is another bonus than ours, which follows the aggregation."""
    coefficient = 0.01
    mapping = Mapping(
        "ent_reg", {"loss_type": loss_type, "entropy_coef": coefficient}, {"loss_type": loss_type},
        {"coefficient": coefficient},
    )  # fmt: skip
    theirs, ours = both(tmp_path, mapping)
    plain = trainer(GRPOTrainer, tmp_path / "plain", {"loss_type": loss_type})
    inputs = random_inputs(theirs, 3)
    mask = inputs["completion_mask"]
    assert len(set(mask.sum(1).tolist())) > 1  # rows of different lengths, else row means and token means agree
    entropy = score(theirs, inputs)[1]
    base = loss_and_gradients(plain, inputs)[0]
    theirs_bonus, ours_bonus = (base - loss_and_gradients(instance, inputs)[0] for instance in (theirs, ours))
    assert theirs_bonus.item() == pytest.approx(coefficient * masked_mean(entropy, mask), abs=1e-6)
    assert abs(theirs_bonus - ours_bonus) > 1e-4


def test_trap_at_its_target_entropy_trl_counts_as_low(tmp_path):
    """TRL raises the coefficient at H = H* (≤), we as the official code do not (<)."""
    probe = trainer(GRPOTrainer, tmp_path / "probe")
    inputs = random_inputs(probe, 3)
    target = masked_mean(score(probe, inputs)[1], inputs["completion_mask"])
    theirs = trainer(GRPOTrainer, tmp_path / "a", {"use_adaptive_entropy": True, "entropy_target": target})
    loss_and_gradients(theirs, inputs)
    ours = trainer(
        DynClipTrainer, tmp_path / "b", dynclip_method="adaptive_entropy", dynclip_options={"target": target}
    )
    ours.method.observe(0, target)
    assert theirs.entropy_coef == 0.005 and ours.method.controller.coefficient == 0.0
