"""How step, state and entropy reach a loss: the wrapped `ppo_loss` on verl's own batches, and what is said without."""

import warnings

import pytest
import torch
from batches import AGGREGATION, STEPS, actor_config, difference, gaps, random_batch, report
from launch import ACTOR, compose_run, run_overrides
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils import tensordict_utils

from dynclip.methods.registry import METHODS, method
from dynclip.methods.types import LOGIT_NEEDS, Line, TokenBatch
from dynclip.runtime.seeds import derive_seed
from dynclip.verl import losses as adapter
from dynclip.verl.trainer import check_settings

with warnings.catch_warnings():  # verl names every engine that is not installed
    warnings.simplefilter("ignore")
    from verl.workers import engine_workers

PROMPT = 2
ENTRY = {"step": 3, "total_steps": STEPS, "state": 0.4, "prepared": False}


def verl_batch(seed: int, entry: dict | None = None, dtype=torch.float64):
    """(batch, model output, TensorDict): one micro-batch as verl's worker has it, nested and without padding."""
    batch = random_batch(seed, dtype=dtype)
    lengths = batch["mask"].sum(1).tolist()
    logprob, entropy = batch["new"].clone().requires_grad_(), batch["entropy"].clone().requires_grad_()

    def nested(values: torch.Tensor) -> torch.Tensor:
        return torch.nested.as_nested_tensor(
            [row[:length] for row, length in zip(values, lengths, strict=True)], layout=torch.jagged
        )

    def whole(values: torch.Tensor) -> torch.Tensor:
        # The output at a position is about the next token: the response's begin one before the prompt's end.
        rows = [
            torch.nn.functional.pad(row[:length], (PROMPT - 1, 1)) for row, length in zip(values, lengths, strict=True)
        ]
        offsets = torch.tensor([0, *(PROMPT + length for length in lengths)]).cumsum(0)
        return torch.nested.nested_tensor_from_jagged(torch.cat(rows), offsets)

    prompts = [torch.zeros(PROMPT, dtype=torch.int64) for _ in lengths]
    data = TensorDict(
        {
            "prompts": torch.nested.as_nested_tensor(prompts, layout=torch.jagged),
            "responses": nested(torch.zeros_like(batch["mask"], dtype=torch.int64)),
            "response_mask": nested(batch["mask"].to(torch.int64)),
            "old_log_probs": nested(batch["old"]),
            "advantages": nested(batch["advantages"]),
            "entropy": nested(batch["entropy"] * 0.9),
        },
        batch_size=len(lengths),
    )
    tensordict_utils.assign_non_tensor(data, dp_size=1, batch_num_tokens=sum(lengths), global_batch_size=len(lengths))
    if entry is not None:
        tensordict_utils.assign_non_tensor_data(data, adapter.CONTEXT, entry)
    width = max(lengths)
    cut = {name: value[:, :width] for name, value in batch.items()}
    leaves = {"log_probs": logprob, "entropy": entropy}
    return cut, leaves, {"log_probs": whole(logprob), "entropy": whole(entropy)}, data


IN_REACH = [name for name, spec in METHODS.items() if not set(spec.needs) & set(LOGIT_NEEDS)]


@pytest.mark.parametrize("aggregation", list(AGGREGATION))
@pytest.mark.parametrize("name", IN_REACH)
def test_ppo_loss_gives_the_loss_and_gradients_of_the_core(name, aggregation, monkeypatch):
    worst, prepared = 0.0, "group" in METHODS[name].needs  # groups are the trainer's, a micro-batch splits them
    for seed in range(10):
        monkeypatch.setattr(adapter, "_draws", adapter.DrawCounter())
        batch, leaves, output, data = verl_batch(seed, ENTRY | {"prepared": prepared})
        data["dynclip_success"] = torch.linspace(0, 1, len(batch["mask"]))
        config = actor_config(policy_loss={"loss_mode": f"dynclip_{name}"}, loss_agg_mode=aggregation)
        loss, metrics = engine_workers.ppo_loss(config, output, data)
        loss.backward()

        logprob, entropy = batch["new"].clone().requires_grad_(), batch["entropy"].clone().requires_grad_()
        tokens = TokenBatch(
            logprob, batch["old"], batch["advantages"], batch["mask"], entropy=entropy,
            old_entropy=batch["entropy"] * 0.9, success=data["dynclip_success"],
            draw_seed=derive_seed(config.data_loader_seed, 3, 0), prepared=prepared,
        )  # fmt: skip
        expected = method(name, STEPS).loss(
            tokens, 3, 0.4, aggregation=AGGREGATION[aggregation], dual_clip=config.clip_ratio_c
        )
        expected.loss.backward()
        width = batch["mask"].size(1)
        pairs = [(loss.detach(), expected.loss.detach()), (leaves["log_probs"].grad[:, :width], logprob.grad)]
        if entropy.grad is not None:
            pairs.append((leaves["entropy"].grad[:, :width], entropy.grad))
        worst = max(worst, difference(*zip(*pairs, strict=True)))
        assert all(key.startswith("actor/") for key in metrics)
        kl = metrics["actor/policy/kl_old"].aggregate()
        assert isinstance(kl, float) and kl == pytest.approx(float(expected.metrics["policy/kl_old"]), rel=1e-5)
    assert worst < 1e-6


@pytest.mark.parametrize("aggregation", list(AGGREGATION))
def test_an_entropy_bonus_is_verls_entropy_coeff(aggregation, record_property):
    differences = []
    for seed in range(100):
        _, theirs, output, data = verl_batch(seed)
        config = actor_config(entropy_coeff=0.01, loss_agg_mode=aggregation)
        their_loss, _ = engine_workers.ppo_loss(config, output, data)
        their_loss.backward()
        _, ours, output, data = verl_batch(seed, ENTRY)
        options = {"loss_mode": "dynclip_ent_reg", "dynclip_options": {"coefficient": 0.01}}
        our_loss, _ = engine_workers.ppo_loss(
            actor_config(policy_loss=options, loss_agg_mode=aggregation), output, data
        )
        our_loss.backward()
        sides = [
            (loss.detach(), leaves["log_probs"].grad, leaves["entropy"].grad)
            for loss, leaves in ((their_loss, theirs), (our_loss, ours))
        ]
        differences.append(gaps(*sides))
    worst = report(record_property, "ent_reg", 100, differences)
    print(f"entropy bonus {aggregation}: 100 batches, largest difference {worst:.1e}")
    assert worst < 1e-6


def test_verls_own_losses_pass_the_wrapper_unchanged():
    for mode in ("vanilla", "gspo", "kl_cov"):
        config = actor_config(policy_loss={"loss_mode": mode})
        for entry in (None, ENTRY):
            _, _, output, data = verl_batch(0, entry)
            wrapped, _ = engine_workers.ppo_loss(config, output, data)
            _, _, output, data = verl_batch(0)
            plain, _ = engine_workers.ppo_loss.__wrapped__(config, output, data)
            assert torch.equal(wrapped, plain)


def test_rollout_correction_weights_multiply_the_loss_as_verls_do():
    losses = []
    for mode, entry in (("vanilla", None), ("dynclip_grpo", ENTRY)):
        _, leaves, output, data = verl_batch(1, entry)
        data["rollout_is_weights"] = data["advantages"] * 0 + 0.3
        loss, _ = engine_workers.ppo_loss(actor_config(policy_loss={"loss_mode": mode}), output, data)
        loss.backward()
        losses.append((loss, leaves["log_probs"].grad))
    assert torch.equal(losses[0][0], losses[1][0]) and torch.equal(losses[0][1], losses[1][1])


def test_a_batch_without_a_step_is_an_error_that_says_what_to_set():
    _, _, output, data = verl_batch(0)
    config = actor_config(policy_loss={"loss_mode": "dynclip_id"})
    with pytest.raises(ValueError, match=r"dynclip_id: the batch carries no step.*trainer_mode=dynclip_sync") as error:
        engine_workers.ppo_loss(config, output, data)
    assert "\n" not in str(error.value)


def test_a_loss_outside_the_wrapper_is_an_error_that_says_what_to_set():
    batch = random_batch(0)
    with pytest.raises(ValueError, match=r"dynclip_id: called outside.*external_lib=dynclip\.verl"):
        get_policy_loss_fn("dynclip_id")(
            batch["old"], batch["new"], batch["advantages"], batch["mask"], config=actor_config()
        )


@pytest.mark.parametrize("name", ["steer", "ent_reg", "high_entropy"])
def test_missing_entropy_is_an_error_that_says_what_to_set(name):
    _, _, output, data = verl_batch(0, ENTRY)
    del output["entropy"]
    with pytest.raises(ValueError, match=rf"dynclip_{name}: needs .*entropy.*actor\.calculate_entropy=True"):
        engine_workers.ppo_loss(actor_config(policy_loss={"loss_mode": f"dynclip_{name}"}), output, data)


@pytest.mark.parametrize(("name", "need"), [("clip_v", "old_baseline"), ("aent", "clamped_entropy")])
def test_what_verl_cannot_give_is_an_error_that_names_it(name, need):
    _, _, output, data = verl_batch(0, ENTRY)
    with pytest.raises(ValueError, match=rf"dynclip_{name}: needs {need}.*docs/peers\.md"):
        engine_workers.ppo_loss(actor_config(policy_loss={"loss_mode": f"dynclip_{name}"}), output, data)
    with pytest.raises(ValueError, match=rf"dynclip_{name}: needs {need}"):
        check_settings(compose_run(run_overrides(name)))


def test_the_context_ends_with_the_loss():
    _, _, output, data = verl_batch(0, ENTRY)
    engine_workers.ppo_loss(actor_config(policy_loss={"loss_mode": "dynclip_grpo"}), output, data)
    with pytest.raises(ValueError, match="called outside"):
        adapter.take_context("grpo")


def test_draws_depend_on_step_and_place_alone(monkeypatch):
    options = {"loss_mode": "dynclip_clip_cov", "dynclip_options": {"share": 0.2, "cov_low": 0.0}}

    def gradients(steps):
        monkeypatch.setattr(adapter, "_draws", adapter.DrawCounter())
        found = []
        for step in steps:
            _, leaves, output, data = verl_batch(5, ENTRY | {"step": step})
            engine_workers.ppo_loss(actor_config(policy_loss=options), output, data)[0].backward()
            found.append(leaves["log_probs"].grad)
        return found

    first, second, later = gradients([3, 3, 4])
    assert not torch.equal(first, second)  # two micro-batches of one step
    assert torch.equal(gradients([4])[0], later)  # what a resumed process draws
    assert torch.equal(gradients([3])[0], first)


def test_lines_are_written_as_pairs_in_a_configuration():
    options = {"upper": [-0.1, 0.4], "eps": 0.3}
    config = compose_run(run_overrides("id", options))
    assert check_settings(config) == ("id", adapter.method_options("id", options))
    assert adapter.method_options("id", options)["upper"] == Line(-0.1, 0.4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{ACTOR}.policy_loss.loss_mode=vanilla"], r"loss_mode=vanilla: .*expects one of dynclip_grpo"),
        ([f"{ACTOR}.policy_loss.loss_mode=dynclip_idd"], r"loss_mode=dynclip_idd: .*expects one of dynclip_grpo"),
        ([*run_overrides("id", {"epss": 0.3})], r"method 'id': unknown option 'epss'; it has: .*eps"),
        ([*run_overrides("steer"), f"{ACTOR}.calculate_entropy=False"], r"dynclip_steer: .*calculate_entropy=True"),
        ([*run_overrides("od"), "algorithm.rollout_correction.bypass_mode=True"], r"dynclip_od: .*bypass_mode"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(overrides, message):
    from verl.trainer.ppo.v1 import get_trainer_cls

    with pytest.raises(ValueError, match=message) as error:
        get_trainer_cls(adapter.TRAINER_MODE)(config=compose_run(overrides))
    assert "\n" not in str(error.value)


def test_one_update_per_rollout_batch_is_warned_about(caplog):
    config = compose_run([*run_overrides("id"), f"{ACTOR}.ppo_mini_batch_size=8"])
    from verl.trainer.ppo.v1 import get_trainer_cls

    get_trainer_cls(adapter.TRAINER_MODE)(config=config)
    assert "clipping cannot act" in caplog.text


def test_a_ppo_loss_of_another_shape_is_refused():
    from types import ModuleType

    for another in (None, lambda config, data: None):
        module = ModuleType("engine_workers")
        if another is not None:
            module.ppo_loss = another
        with pytest.raises(RuntimeError, match=r"engine_workers\.ppo_loss: expected .*install verl==0\.9\.1"):
            adapter.wrap_ppo_loss(module)
