"""What verl 0.9.1 does that its option names do not say: each row of docs/peers.md's list of traps, executed."""

import warnings

import numpy as np
import pytest
import torch
from batches import actor_config, context, core_loss, difference, random_batch, verl_loss
from launch import ACTOR, actor_of, compose_run
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from dynclip.methods.registry import METHODS
from dynclip.methods.surrogate import aggregate


def test_clip_ratio_alone_has_no_effect():
    batch = random_batch(0)
    usual = verl_loss("vanilla", batch, "token-mean")
    assert difference(usual, verl_loss("vanilla", batch, "token-mean", clip_ratio=0.5)) == 0
    assert difference(usual, verl_loss("vanilla", batch, "token-mean", clip_ratio_low=0.5, clip_ratio_high=0.5)) > 1e-3
    null = {"clip_ratio": 0.5, "clip_ratio_low": None, "clip_ratio_high": None}
    assert difference(usual, verl_loss("vanilla", batch, "token-mean", **null)) > 1e-3


def test_dual_clip_is_always_on_in_vanilla_and_nowhere_else():
    batch = random_batch(3, spread=1.5)
    assert actor_config().clip_ratio_c == 3.0
    default, wide = ({}, {"clip_ratio_c": 1e9})
    assert difference(*(verl_loss("vanilla", batch, "token-mean", **c) for c in (default, wide))) > 1e-3
    with pytest.raises(TypeError):
        verl_loss("vanilla", batch, "token-mean", clip_ratio_c=None)
    for mode in ("gspo", "sapo", "cispo", "clip_cov", "kl_cov"):
        arms = []
        for setting in (default, wide):
            torch.manual_seed(0)
            arms.append(verl_loss(mode, batch, "token-mean", **setting))
        assert difference(*arms) == 0, mode
    for name in ("gspo", "clip_cov", "steer"):  # under dynclip it is the run's, for every arm with PPO's surrogate
        with context(entropy=batch["entropy"]):
            arms = [verl_loss(f"dynclip_{name}", batch, "token-mean", clip_ratio_c=c) for c in (1.01, 1e9)]
        assert difference(*arms) > 0, name
    with context():
        without = verl_loss("dynclip_grpo", batch, "token-mean", clip_ratio_c=None)
    assert difference(without, core_loss("grpo", batch, "token-mean")) == 0


def test_kl_covs_defaults_are_a_tenth_of_the_official_ones():
    theirs, ours = actor_config().policy_loss, METHODS["kl_cov"].defaults
    assert (theirs.kl_cov_ratio, theirs.ppo_kl_coef) == (2e-4, 0.1)
    assert (ours["share"], ours["coefficient"]) == (2e-3, 1.0)
    batch = random_batch(0)
    official = {"kl_cov_ratio": ours["share"], "ppo_kl_coef": ours["coefficient"]}
    assert difference(verl_loss("kl_cov", batch, "token-mean"), core_loss("kl_cov", batch, "token-mean")) > 1e-4
    assert difference(
        verl_loss("kl_cov", batch, "token-mean", policy_loss=official), core_loss("kl_cov", batch, "token-mean")
    ) < 1e-6  # fmt: skip


def test_clip_cov_leaves_ppos_interval_at_the_runs():
    assert (actor_config().clip_ratio_low, actor_config().clip_ratio_high) == (0.2, 0.2)
    assert (METHODS["clip_cov"].defaults["eps_low"], METHODS["clip_cov"].defaults["eps_high"]) == (1.0, 1.0)


def test_sapo_ignores_loss_agg_mode():
    batch = random_batch(0)
    losses = [verl_loss("sapo", batch, mode) for mode in ("token-mean", "token-sum", "seq-mean-token-mean")]
    assert difference(losses[0], losses[1]) == difference(losses[0], losses[2]) == 0
    with context():
        ours = [verl_loss("dynclip_sapo", batch, mode) for mode in ("token-mean", "seq-mean-token-mean")]
    assert difference(ours[0], losses[0]) > 1e-4 and difference(ours[1], losses[0]) < 1e-9


def test_clip_covs_choice_is_unseeded():
    batch = random_batch(6)
    settings = {"policy_loss": {"clip_cov_ratio": 0.1, "clip_cov_lb": 0.0}}
    torch.manual_seed(0)
    first = verl_loss("clip_cov", batch, "token-mean", **settings)
    others = [verl_loss("clip_cov", batch, "token-mean", **settings) for _ in range(5)]
    assert any(difference(first, other) > 0 for other in others)
    torch.manual_seed(0)  # what it draws is a matter of whatever drew before it in the process
    assert difference(first, verl_loss("clip_cov", batch, "token-mean", **settings)) == 0

    state = torch.get_rng_state()
    options = {"policy_loss": {"dynclip_options": {"share": 0.1, "cov_low": 0.0}}}
    ours = []
    for seed in (7, 7, 8):
        with context(draw_seed=seed):
            ours.append(verl_loss("dynclip_clip_cov", batch, "token-mean", **options))
    assert difference(ours[0], ours[1]) == 0 < difference(ours[0], ours[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", ["clip_cov", "kl_cov"])
def test_the_covariance_methods_act_on_each_micro_batch(mode):
    # At least one token per micro-batch: 0.02 % is 1 token of 100 in one piece, and one of each row row by row.
    batch = random_batch(6)
    rows = len(batch["mask"])
    settings = {"clip_ratio_low": 1.0, "clip_ratio_high": 1.0, "policy_loss": {"clip_cov_lb": -9.0, "clip_cov_ub": 9.0}}
    bare = {"clip_ratio_c": 1e9, "clip_ratio_low": 1.0, "clip_ratio_high": 1e9}

    def changed(part):
        return int((verl_loss(mode, part, "token-sum", **settings)[1] !=
                    verl_loss("vanilla", part, "token-sum", **bare)[1]).sum())  # fmt: skip

    batch["advantages"] = batch["advantages"].abs() + 0.1
    batch["new"] = batch["old"].where(batch["mask"], batch["new"]) + 0.1
    whole = changed(batch)
    pieces = sum(changed({name: value[row : row + 1] for name, value in batch.items()}) for row in range(rows))
    assert whole == 1 and pieces == rows > 1


def test_an_unknown_policy_loss_key_fails_instead_of_being_ignored():
    key = f"+{ACTOR}.policy_loss.my_option=1"
    with pytest.raises(Exception, match="unexpected keyword argument 'my_option'"):
        actor_of(compose_run([key]))


def test_a_trainer_mode_of_ones_own_is_asynchronous_to_verl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

    own = register_trainer("my_sync")(type("MySync", (PPOTrainerSync,), {}))
    trainer = own(config=compose_run(["trainer.v1.trainer_mode=my_sync"]))
    assert type(trainer.replay_buffer).__name__ == "ReplayBufferAsync"


def test_entropy_coeff_means_as_much_as_the_aggregation_says():
    from verl.trainer.ppo.core_algos import agg_loss

    batch = random_batch(0)
    mean, total = (agg_loss(batch["entropy"], batch["mask"], mode) for mode in ("token-mean", "token-sum"))
    assert total / mean == pytest.approx(float(batch["mask"].sum()))


def test_cispos_default_interval_is_ppos_and_clamps_both_sides():
    batch = random_batch(0)
    theirs = verl_loss("cispo", batch, "token-mean")
    assert difference(theirs, core_loss("cispo", batch, "token-mean", eps_low=0.2, eps_high=0.2)) < 1e-9
    assert difference(theirs, core_loss("cispo", batch, "token-mean", eps_low=1.0, eps_high=0.2)) > 1e-4
    assert METHODS["cispo"].defaults["eps_low"] == 1.0


def test_rows_without_tokens_count_only_where_verls_workers_say_how_many_rows_there_are():
    batch = random_batch(2)
    batch["mask"][0] = False
    rows = len(batch["mask"])
    theirs, _ = verl_loss("vanilla", batch, "seq-mean-token-mean", clip_ratio_c=1e9)
    ours, _ = core_loss("grpo", batch, "seq-mean-token-mean")
    assert theirs * (rows - 1) / rows == pytest.approx(float(ours))
    told = {"global_batch_info": {"global_batch_size": rows}, "clip_ratio_c": 1e9}  # as `ppo_loss` does
    assert verl_loss("vanilla", batch, "seq-mean-token-mean", **told)[0] == pytest.approx(float(ours))
    assert aggregate(torch.ones(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]]), "sequence") == 0.5


def test_group_advantages_of_verl():
    rewards = torch.tensor([[0.0], [1.0], [1.0], [1.0], [1.0]])
    groups = np.array(["a", "a", "a", "b", "c"])
    advantages, _ = compute_grpo_outcome_advantage(rewards, torch.ones(5, 1), groups)
    std = torch.tensor([0.0, 1.0, 1.0]).std()  # divided by G − 1, as in TRL
    assert advantages[0].item() == pytest.approx(-2 / 3 / (std.item() + 1e-6))  # TRL adds 1e-4
    assert advantages[3:].flatten().tolist() == pytest.approx([1.0, 1.0])  # a group of one keeps its reward
