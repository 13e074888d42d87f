"""The TRL adapter: what a method is fed during a real training, what it leaves behind, and how it goes on.

Equality of losses with TRL's own is in tests/peers; every training here is a few updates of a tiny model.
"""

import ast
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_trainer import (
    COMPLETION,
    LETTERS,
    PROMPTS,
    early_letters,
    loss_and_gradients,
    model,
    random_inputs,
    score,
    tokenizer,
    train,
    trainer,
)
from transformers import Qwen2ForCausalLM

from dynclip import METHODS, MethodSpec, TokenBatch, method
from dynclip.methods.objective import Method
from dynclip.methods.vocabulary import clamped_entropy
from dynclip.regions import baseline
from dynclip.trl.settings import refuse_split_groups
from dynclip.trl.trainer import DynClipTrainer

# Options under which methods that would be GRPO on so few and so small steps do something.
ACTING = {
    "adaptive_entropy": {"target": 9.0, "delta": 0.01, "maximum": 1.0},
    "aer": {"fraction": 2.0, "maximum": 1.0},
    "aent": {"initial": 0.1, "maximum": 1.0},
    "clip_b": {"mu": 0.1},
    "clip_v": {"mu": 0.1},
    "stare": {"target": 9.0},
    "entropic": {"threshold": 0.05},
}
EXAMPLE = Path(__file__).parents[1] / "docs" / "trl_example.py"


def weights_of(instance):
    return torch.cat([parameter.detach().flatten() for parameter in instance.model.parameters()])


def saved_state(folder, step):
    return json.loads((folder / f"checkpoint-{step}" / "dynclip.json").read_text())


def expected_names(spec):
    """The metrics row of a method, by what it is composed of."""
    names = {"policy/entropy", "policy/ratio_max", "policy/kl_old", "clip/low_fraction", "clip/high_fraction"}
    names |= {"train/skipped", "policy/ratio_min", "clip/outside_fraction"}
    names |= {"time/rollout", *(f"region/E{n}" for n in (1, 2, 3, 4))}
    low, high = method(spec.name, 10).bounds(torch.tensor([0.5]), 0)
    names |= {"clip/eps_low_mean"} if low < 1 else set()  # ratios are not negative
    names |= {"clip/eps_high_mean"} if high < math.inf else set()
    if spec.controller:
        names |= {"clip/state" if spec.name == "od" else "control/signal"}
    names |= {"loss/weight"} if spec.weights or spec.rollout_weights else set()
    return names | ({"loss/extra"} if spec.extra else set())


@pytest.fixture(scope="module")
def grpo(tmp_path_factory):
    return weights_of(train(tmp_path_factory.mktemp("grpo"), "grpo")[0])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(tmp_path, name, grpo):
    """Two rollout steps: finite, measured completely, saved with its state, and not GRPO by another name."""
    spec = METHODS[name]
    instance, rows = train(tmp_path, name, ACTING.get(name), save_strategy="steps", save_steps=4)
    logs = [entry for entry in instance.state.log_history if "loss" in entry]
    assert len(logs) == 8 and all(math.isfinite(entry[key]) for entry in logs for key in ("loss", "grad_norm"))
    assert len(rows) == 2
    for row in rows:
        assert set(row) == expected_names(spec)
        assert all(math.isfinite(value) for value in row.values())
    assert sum(rows[0][f"region/E{n}"] for n in (1, 2, 3, 4)) > 0.5  # advantages are not zero
    saved = [saved_state(tmp_path, step) for step in (4, 8)]
    assert [state["rollout_step"] for state in saved] == [1, 2]
    assert saved[1]["method"] == instance.method.state_dict()
    assert bool(saved[0]["method"]) == bool(spec.controller) == bool(spec.keeps)
    assert torch.isfinite(weights_of(instance)).all()
    assert torch.equal(weights_of(instance), grpo) == (name == "grpo")


def test_a_method_added_by_a_function_and_an_entry_trains(tmp_path, monkeypatch):
    """The documented way: bounds as a function of (q, clock), and one MethodSpec in the registry."""

    def rarer_wider(q, clock, *, eps):
        """[1 − ε, 1 + ε/√q], closing to PPO's interval as training ends."""
        remaining = 1 - clock.step / clock.total_steps
        return eps, eps * q.clamp(min=1e-3) ** (-remaining / 2)

    spec = MethodSpec("rarer_wider", "Rarer, wider", "", rarer_wider, {"eps": 0.2}, {"eps": "PPO"})
    monkeypatch.setitem(METHODS, spec.name, spec)
    instance, rows = train(tmp_path, "rarer_wider", {"eps": 0.1})
    assert instance.method.name == "rarer_wider" and instance.method.total_steps == 2
    assert set(rows[0]) == expected_names(spec)
    assert rows[0]["clip/eps_low_mean"] == pytest.approx(0.1)
    assert rows[0]["clip/eps_high_mean"] > rows[1]["clip/eps_high_mean"] > 0.1
    assert all(math.isfinite(entry["loss"]) for entry in instance.state.log_history if "loss" in entry)


# What a method is fed.


def full_logits(policy, inputs, temperature):
    """(B, T, V) logits of a mini-batch's completion tokens, by the plain forward pass."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].size(1)
    return policy(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1] / temperature


def forbid_the_head(instance, monkeypatch):
    """Fail if the output head is applied to whole sequences."""

    def forward(hidden):
        raise AssertionError(f"the output head was applied to {tuple(hidden.shape)}")

    monkeypatch.setattr(instance.model.get_output_embeddings(), "forward", forward)


def test_the_baseline_from_hidden_states_is_the_one_from_full_logits(tmp_path, monkeypatch):
    instance = trainer(DynClipTrainer, tmp_path, {"temperature": 0.7}, dynclip_method="clip_v")
    for seed in range(5):
        inputs = random_inputs(instance, seed)
        logits = full_logits(instance.model, inputs, 0.7)
        with monkeypatch.context() as patched:
            forbid_the_head(instance, patched)
            logprob, entropy = score(instance, inputs)
        counted = inputs["completion_mask"] != 0
        reference = torch.log_softmax(logits, -1)
        taken = reference.gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)
        for found, expected in (
            (instance._sampling_pass[2], baseline(logits)),
            (logprob, taken),
            (entropy, -(reference.exp() * reference).sum(-1)),
        ):
            assert (found - expected)[counted].abs().max() < 1e-5


def test_the_clamped_entropy_and_its_gradient_are_those_of_full_logits(tmp_path, monkeypatch):
    """The loss of AEnt with a large coefficient, through the adapter and through full logits."""
    options = {"initial": 0.5, "maximum": 1.0}
    config = {"temperature": 0.7, "loss_type": "bnpo"}
    instance = trainer(DynClipTrainer, tmp_path, config, dynclip_method="aent", dynclip_options=options)
    for seed in range(5):
        inputs = random_inputs(instance, seed)
        with monkeypatch.context() as patched:
            forbid_the_head(instance, patched)
            loss, gradients = loss_and_gradients(instance, inputs)
        assert instance.take_row()["loss/extra"] < -0.1
        instance.model.zero_grad()
        logits = full_logits(instance.model, inputs, 0.7)
        taken = torch.log_softmax(logits, -1).gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)
        batch = TokenBatch(
            taken, inputs["old_per_token_logps"], inputs["advantages"], inputs["completion_mask"],
            clamped_entropy=clamped_entropy(logits, clamp=0.4),
        )  # fmt: skip
        expected = method("aent", 2, **options).loss(batch, 0).loss
        expected.backward()
        assert abs(loss - expected) < 1e-5
        for found, parameter in zip(gradients, instance.model.parameters(), strict=True):
            assert (found - parameter.grad).abs().max() < 1e-5


def rollout_rows(instance):
    """The rollout batch as it lies in TRL's buffer after shuffling and splitting, put together again."""
    parts = instance._buffered_inputs
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if parts[0][name].dim()}


@pytest.mark.parametrize(
    ("name", "options"),
    [("clip_b", {"mu": 0.1}), ("clip_v", {"mu": 0.1, "share": 0.2}), ("exchange", {"alpha": 0.5})],
)
def test_what_is_decided_per_rollout_batch_stays_with_its_rows(tmp_path, name, options):
    """Weights, transformed advantages and entropies of every shuffled row are those recomputed from that row."""
    instance, _ = train(tmp_path, name, options, max_steps=1, temperature=1.5, steps_per_generation=8)
    rows = rollout_rows(instance)
    mask = rows["completion_mask"]
    assert len(set(mask.sum(1).tolist())) > 2  # rows that could not be confused unnoticed
    with torch.no_grad():
        logits = full_logits(model().eval(), rows, 1.5)  # step 0 was sampled from the initial model
    logprob = torch.log_softmax(logits, -1)
    entropy = -(logprob.exp() * logprob).sum(-1)
    taken = logprob.gather(-1, rows["completion_ids"].unsqueeze(-1)).squeeze(-1)
    assert (rows["old_entropy"] - entropy * mask).abs().max() < 1e-5
    assert ((rows["old_per_token_logps"] - taken) * mask).abs().max() < 1e-5
    base = group_advantages(instance, rows)
    batch = TokenBatch(taken, taken, base, mask, old_entropy=entropy, old_baseline=baseline(logits))
    expected = method(name, 1, **options).prepare(batch, 0)
    assert (
        (rows["advantages"].view(len(base), -1) - expected.advantages.view(len(base), -1)) * mask
    ).abs().max() < 1e-4
    if expected.weight is not None:
        assert torch.equal(rows["weight"][mask != 0], expected.weight[mask != 0])
        assert 0 < (expected.weight[mask != 0] == 0).sum() < (mask != 0).sum()


def rewards_by_group(instance, rows):
    """(rewards (B,), the rows of each row's group (B, B)), from the tokens themselves."""
    texts = instance.processing_class.batch_decode(
        [ids[keep != 0] for ids, keep in zip(rows["completion_ids"], rows["completion_mask"], strict=True)],
        skip_special_tokens=True,
    )
    prompts = rows["prompt_ids"] * rows["prompt_mask"]
    return torch.tensor(early_letters(texts)), (prompts.unsqueeze(0) == prompts.unsqueeze(1)).all(-1)


def group_advantages(instance, rows):
    rewards, same = rewards_by_group(instance, rows)
    groups = [rewards[members] for members in same]
    mean, deviation = (torch.stack([f(group) for group in groups]) for f in (torch.mean, torch.std))
    return (rewards - mean) / (deviation + 1e-4)


@pytest.mark.parametrize("name", ["rloo", "grpo_dropout"])
def test_groups_are_those_of_the_prompts(tmp_path, name):
    """The advantages of every shuffled row are those recomputed from the rows that share its prompt."""
    instance, _ = train(tmp_path, name, max_steps=1, steps_per_generation=4, learning_rate=0.0)
    rows = rollout_rows(instance)
    rewards, same = rewards_by_group(instance, rows)
    success, group = torch.stack([rewards[members].mean() for members in same]), same.int().argmax(1)
    assert len(group.unique()) == 4 and rewards.std() > 0
    old, base = rows["old_per_token_logps"], group_advantages(instance, rows)
    batch = TokenBatch(old, old, base, rows["completion_mask"], success=success, group=group)
    expected = method(name, 1).prepare(batch, 0).advantages
    assert ((rows["advantages"] - expected) * rows["completion_mask"]).abs().max() < 1e-4
    assert (rows["advantages"][:, 0] - base).abs().max() > 0.05


def test_a_group_that_processes_share_is_refused():
    refuse_split_groups(method("grpo", 1), 6, 4)
    refuse_split_groups(method("rloo", 1), 8, 4)
    words = "method 'rloo' compares the completions of a group: expected a multiple of num_generations = 4"
    with pytest.raises(ValueError, match=words):
        refuse_split_groups(method("rloo", 1), 6, 4)


def test_success_is_the_mean_reward_of_a_rows_own_group(tmp_path):
    instance, _ = train(tmp_path, "aer", max_steps=1, steps_per_generation=4)
    rows = rollout_rows(instance)
    rewards, same = rewards_by_group(instance, rows)
    assert len(rows["success"]) == 16 and (same.sum(1) == 4).all()
    assert len(set(rows["success"].tolist())) > 1
    assert torch.allclose(rows["success"], torch.stack([rewards[members].mean() for members in same]))


def test_a_controller_is_fed_the_entropy_of_the_sampling_policy(tmp_path, monkeypatch):
    """Over the counted tokens of the whole rollout batch; AEnt's the clamped one."""
    seen = []
    observe = Method.observe
    monkeypatch.setattr(Method, "observe", lambda self, *given: (seen.append(given), observe(self, *given))[1])
    for name, measure in (("od", lambda logits: clamped_entropy(logits, clamp=0.0)),
                          ("aent", lambda logits: clamped_entropy(logits, clamp=0.4))):  # fmt: skip
        seen.clear()
        instance, _ = train(tmp_path, name, max_steps=1)
        rows = rollout_rows(instance)
        with torch.no_grad():
            entropy = measure(full_logits(model().eval(), rows, 1.0))
        expected = (entropy * rows["completion_mask"]).sum() / rows["completion_mask"].sum()
        assert seen == [(0, pytest.approx(expected.item(), abs=1e-5))]


# Random numbers.

DRAWING = {"share": 0.3, "cov_low": 0.0, "cov_high": 100.0}


def test_a_batch_in_which_no_token_counts_leaves_the_controller_as_it_is(tmp_path, monkeypatch):
    seen, observe = [], Method.observe
    monkeypatch.setattr(Method, "observe", lambda self, *given: (seen.append(given), observe(self, *given))[1])
    cut = {"mask_truncated_completions": True, "generation_kwargs": {"suppress_tokens": [0, 1]}}  # no response ends
    built, rows = train(tmp_path, "od", **cut)
    assert seen == [(0, None), (1, None)]
    assert built.method.state_dict() == method("od", total_steps=2).state_dict()
    assert not [row for row in rows if "policy/entropy" in row]


def test_the_generation_defaults_of_a_model_change_no_rollout(tmp_path, caplog):
    rollouts = []
    given = {
        "no_repeat_ngram_size": 1,
        "suppress_tokens": [5, 6, 7],
        "min_p": 0.5,
        "exponential_decay_length_penalty": (1, 9.0),
    }
    for changes in ({}, given):
        policy = model()
        for name, value in changes.items():
            setattr(policy.generation_config, name, value)
        built = trainer(DynClipTrainer, tmp_path, {"max_steps": 2}, policy, dynclip_method="id")
        built.train()
        rollouts.append(built.last_inputs["completion_ids"])
        assert policy.generation_config.eos_token_id == [1]
    assert torch.equal(*rollouts)
    (warned,) = [record.message for record in caplog.records if "generation_config" in record.message]
    assert "\n" not in warned and all(name in warned for name in given)


def test_the_draws_of_a_run_repeat_and_those_of_its_mini_batches_differ(tmp_path, monkeypatch):
    seeds, loss = [], Method.loss

    def spied(self, batch, *args, **kwargs):
        seeds.append(batch.draw_seed)
        return loss(self, batch, *args, **kwargs)

    monkeypatch.setattr(Method, "loss", spied)
    runs = [train(tmp_path / str(i), "clip_cov", DRAWING, seed=seed) for i, seed in enumerate((5, 5, 6))]
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run, _ in runs]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(weights_of(runs[0][0]), weights_of(runs[1][0]))
    assert seeds[:8] == seeds[8:16] and len(set(seeds)) == 16
    assert all(rows[0]["loss/weight"] < 1 for _, rows in runs)  # tokens were drawn


def test_the_largest_seed_of_a_run_can_seed_its_draws(tmp_path):
    instance, _ = train(tmp_path, "clip_cov", DRAWING, max_steps=4, seed=2**32 - 1)
    assert instance.state.global_step == 4


def test_methods_share_the_first_rollouts_of_a_seed(tmp_path):
    rollouts = [
        rollout_rows(train(tmp_path / name, name, max_steps=1)[0])["completion_ids"].tolist()
        for name in ("grpo", "thermostat")
    ]
    assert sorted(rollouts[0]) == sorted(rollouts[1])


# On policy, evaluation, checkpoints.


def train_on_policy(folder, name):
    config = {"steps_per_generation": 1, "max_steps": 2, "learning_rate": 1e-2}
    instance = trainer(DynClipTrainer, folder, config, dynclip_method=name, allow_on_policy=True)
    instance.train()
    return weights_of(instance)


@pytest.fixture(scope="module")
def grpo_on_policy(tmp_path_factory):
    return train_on_policy(tmp_path_factory.mktemp("on_policy"), "grpo")


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if spec.on_policy_grpo])
def test_with_one_update_per_rollout_a_clipping_method_trains_as_grpo(tmp_path, name, grpo_on_policy):
    assert torch.equal(train_on_policy(tmp_path, name), grpo_on_policy)


@pytest.mark.parametrize("name", ["aent", "aer", "clip_v", "exchange", "high_entropy", "od"])
def test_evaluation_before_and_during_training_leaves_the_method_alone(tmp_path, monkeypatch, name):
    """Evaluation needs the same inputs, is no observation, and does not fix the number of steps."""
    seen, observe = [], Method.observe
    monkeypatch.setattr(Method, "observe", lambda self, *given: (seen.append(given[0]), observe(self, *given))[1])
    config = {"num_iterations": 2, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4}
    prompts = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS[:2]])
    instance = trainer(DynClipTrainer, tmp_path, config, dynclip_method=name, eval_dataset=prompts)
    instance.state.max_steps = 0  # as it is before `train`
    assert math.isfinite(instance.evaluate()["eval_loss"])
    instance.train()
    assert instance.method.total_steps == 2
    assert seen == [0, 1]
    assert sum("eval_loss" in entry for entry in instance.state.log_history) == 4  # `train` starts it anew


@pytest.mark.parametrize("name", ["adaptive_entropy", "od", "thermostat"])
def test_a_resumed_training_goes_on_with_its_controller(tmp_path, name):
    """From the checkpoint of the first step to the end of the third, bit for bit."""
    options = {"adaptive_entropy": ACTING["adaptive_entropy"], "thermostat": {"target": 9.0}}.get(name)
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole, rows = train(tmp_path, name, options, rollout_steps=3, **saving)
    first = saved_state(tmp_path, 4)
    resumed, later = train(tmp_path / "again", name, options, rollout_steps=3, resume=tmp_path / "checkpoint-4")
    assert first["method"] != whole.method.state_dict() == resumed.method.state_dict()
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert len(later) == 2
    for row, again in zip(rows[1:], later, strict=True):
        assert {key: row[key] for key in row if "time" not in key} == {k: again[k] for k in again if "time" not in k}


def test_a_state_of_another_kind_or_none_is_a_clear_error(tmp_path):
    train(tmp_path, "thermostat", max_steps=4, save_strategy="steps", save_steps=4)
    with pytest.raises(ValueError, match=r"controller state: expected \['reference_entropy', 'signal'\]"):
        train(tmp_path / "other", "od", resume=tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4" / "dynclip.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4: no dynclip\.json in it; .* a checkpoint of DynClipTrainer"):
        train(tmp_path / "none", "thermostat", resume=tmp_path / "checkpoint-4")


def test_only_as_many_checkpoints_are_kept_as_trl_was_told(tmp_path):
    train(tmp_path, "grpo", rollout_steps=3, save_strategy="steps", save_steps=4, save_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]


def test_the_best_checkpoint_is_kept_and_loaded_at_the_end(tmp_path, monkeypatch):
    """The first of three, by an evaluation that only gets worse."""
    config = {
        "num_iterations": 2, "max_steps": 12, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 2,
        "eval_strategy": "steps", "eval_steps": 4, "per_device_eval_batch_size": 4, "load_best_model_at_end": True,
        "metric_for_best_model": "quality",
    }  # fmt: skip
    instance = trainer(DynClipTrainer, tmp_path, config, eval_dataset=Dataset.from_list([{"prompt": "abc"}]))
    qualities, evaluate = iter([3.0, 2.0, 1.0]), instance.evaluate
    monkeypatch.setattr(instance, "evaluate", lambda **given: evaluate(**given) | {"eval_quality": next(qualities)})
    instance.train()
    best = tmp_path / "checkpoint-4"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-4"]
    recorded = json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert instance.state.best_model_checkpoint == recorded == str(best)
    assert torch.equal(weights_of(instance), weights_of(Qwen2ForCausalLM.from_pretrained(best)))


# Errors.


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"epsilon": 0.1}, r"epsilon or epsilon_high \(dynclip_options has the bounds\)"),
        ({"epsilon_high": 0.28}, "epsilon or epsilon_high"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "would straddle two rollout batches"),
    ],
)
def test_settings_that_would_be_ignored_or_misread_are_refused(tmp_path, config, words):
    with pytest.raises(ValueError, match=words):
        trainer(DynClipTrainer, tmp_path, config)


def test_a_dual_clip_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not take delta <= 1"):
        trainer(DynClipTrainer, tmp_path, {"delta": 0.5})


def test_a_checkpoint_inside_a_rollout_batch_is_not_resumed(tmp_path, caplog):
    """Four updates a batch, a checkpoint after the third: said at construction, refused at resume."""
    train(tmp_path, "thermostat", rollout_steps=1, save_strategy="steps", save_steps=3)
    assert "save_steps=3 is no multiple of the 4 updates per rollout batch" in caplog.text
    with pytest.raises(ValueError, match="3 updates lie inside a rollout batch of 4; resume from a multiple"):
        train(tmp_path / "again", "thermostat", resume=tmp_path / "checkpoint-3")


def test_what_a_step_measured_is_in_trls_own_logs(tmp_path):
    instance, _ = train(tmp_path, "thermostat", rollout_steps=1)
    logged = {name for entry in instance.state.log_history for name in entry}
    assert {"policy/entropy", "clip/high_fraction", "region/E1", "policy/ratio_max", "control/signal"} <= logged


def test_an_input_that_a_batch_lacks_is_named(tmp_path):
    instance = trainer(DynClipTrainer, tmp_path, dynclip_method="aer")
    with pytest.raises(ValueError, match=r"success: method 'aer' needs it \(mean reward of the sequence's group"):
        loss_and_gradients(instance, random_inputs(instance, 0))


def test_logits_that_a_model_rescales_cannot_be_reduced(tmp_path):
    """The adapter makes logits from hidden states and the head alone."""
    scaled = model()
    scaled.config.final_logit_softcapping = 30.0
    for name in ("clip_v", "aent"):
        with pytest.raises(ValueError, match=f"method '{name}' needs full logits.*final_logit_softcapping"):
            trainer(DynClipTrainer, tmp_path, dynclip_method=name, policy=scaled)
    assert trainer(DynClipTrainer, tmp_path, dynclip_method="clip_b", policy=scaled)


# The example of the documentation.


def test_the_example_for_trl_users_is_short_and_runs(tmp_path, monkeypatch):
    code = EXAMPLE.read_text()
    after_docstring = code.splitlines()[ast.parse(code).body[0].end_lineno :]
    assert len([line for line in after_docstring if line.strip()]) <= 15
    model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "answer": LETTERS[i % 9]}) + "\n" for i, p in enumerate(PROMPTS))
    )
    words = {
        "model_name_or_path": tmp_path / "model", "dataset_name": tmp_path / "data", "output_dir": tmp_path / "out",
        "steps_per_generation": 4, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 4,
        "num_generations": 4, "max_completion_length": COMPLETION, "max_steps": 8, "save_steps": 4, "use_cpu": True,
        "bf16": False, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *(str(x) for k, v in words.items() for x in (f"--{k}", v))])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    instance = runpy.run_path(str(EXAMPLE), run_name="__main__")["trainer"]
    assert (instance.method.name, instance.method.total_steps, instance.rollout_step) == ("id", 2, 2)
    assert saved_state(tmp_path / "out", 4)["rollout_step"] == 1
