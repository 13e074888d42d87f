"""verl's own losses and dynclip's, on the same random batches with the options of docs/peers.md: equal to 1e-6.

Compared are the loss and its gradient with respect to the current log-probabilities, three ways: verl's built-in loss,
`Method.loss` alone, and the loss that dynclip registers in verl (verl's aggregation, verl's dual clip).
"""

import dataclasses

import numpy as np
import pytest
import torch
from batches import (
    AGGREGATION,
    STEPS,
    actor_config,
    context,
    core_loss,
    difference,
    gaps,
    random_batch,
    report,
    verl_loss,
)
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, compute_rloo_outcome_advantage

from dynclip.methods.registry import method
from dynclip.methods.types import TokenBatch

BATCHES = 100
TOLERANCE = 1e-6
NO_DUAL_CLIP = 1e9  # verl has no switch for it


@dataclasses.dataclass(frozen=True)
class Pair:
    """One row of the table: verl's loss mode and settings, dynclip's method and options."""

    mode: str
    settings: dict
    name: str
    options: dict
    dual_clip: float | None = None
    spread: float = 0.4
    aggregations: tuple[str, ...] = tuple(AGGREGATION)


def interval(low: float, high: float) -> dict:
    return {"clip_ratio_low": low, "clip_ratio_high": high}


COV = {"share": 1.0, "cov_low": 0.2, "cov_high": 3.0}
VERL_COV = {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.2, "clip_cov_ub": 3.0}
PAIRS = {
    "grpo": Pair("vanilla", {"clip_ratio_c": NO_DUAL_CLIP}, "grpo", {}),
    "dual_clip": Pair("vanilla", {"clip_ratio_c": 1.5}, "grpo", {}, dual_clip=1.5, spread=0.7),
    "clip_higher": Pair("vanilla", interval(0.2, 0.28), "clip_higher", {}, dual_clip=3.0),
    "gspo": Pair("gspo", interval(3e-4, 4e-4), "gspo", {}),
    "gspo_wide": Pair("gspo", interval(0.1, 0.2), "gspo", {"eps_low": 0.1, "eps_high": 0.2}),
    "sapo": Pair("sapo", {}, "sapo", {}, aggregations=("seq-mean-token-mean",)),
    "cispo": Pair("cispo", interval(1.0, 4.0), "cispo", {}, spread=1.0),
    # One δ for each side, and the cap of the weight where `vanilla` has its dual clip.
    "dppo_tv": Pair("dppo_tv", interval(0.15, 0.15) | {"clip_ratio_c": 20.0}, "dppo", {}),
    "dppo_tv_capped": Pair(
        "dppo_tv", interval(0.05, 0.05) | {"clip_ratio_c": 1.5}, "dppo", {"delta": 0.05, "weight_cap": 1.5}, spread=0.7
    ),
    "dppo_kl": Pair(
        "dppo_kl", interval(0.05, 0.05) | {"clip_ratio_c": 20.0}, "dppo", {"divergence": "kl", "delta": 0.05}
    ),
    "dro": Pair("dro", {"policy_loss": {"dro_beta": 0.7}}, "dro", {"beta": 0.7}),
    "cispo_narrow": Pair("cispo", interval(0.2, 0.2), "cispo", {"eps_low": 0.2, "eps_high": 0.2}),
    # Every eligible token is silenced, so that the random choice chooses nothing.
    "clip_cov": Pair("clip_cov", interval(1.0, 1.0) | {"policy_loss": VERL_COV}, "clip_cov", COV),
    "clip_cov_ppo": Pair(
        "clip_cov", {"policy_loss": VERL_COV}, "clip_cov", COV | {"eps_low": 0.2, "eps_high": 0.2}
    ),
    "kl_cov": Pair("kl_cov", {"policy_loss": {"kl_cov_ratio": 2e-3, "ppo_kl_coef": 1.0}}, "kl_cov", {}),
    "kl_cov_many": Pair(
        "kl_cov", {"policy_loss": {"kl_cov_ratio": 0.3, "ppo_kl_coef": 0.1}}, "kl_cov",
        {"share": 0.3, "coefficient": 0.1},
    ),
}  # fmt: skip
CASES = [(row, aggregation) for row, pair in PAIRS.items() for aggregation in pair.aggregations]


@pytest.mark.parametrize(("row", "aggregation"), CASES)
def test_losses_and_gradients_are_verls(row, aggregation, record_property):
    pair, differences = PAIRS[row], []
    for seed in range(BATCHES):
        batch = random_batch(seed, pair.spread)
        theirs = verl_loss(pair.mode, batch, aggregation, **pair.settings)
        ours = core_loss(pair.name, batch, aggregation, pair.dual_clip, **pair.options)
        differences.append(gaps(theirs, ours))
    worst = report(record_property, pair.name, BATCHES, differences)
    print(f"{row} {aggregation}: {BATCHES} batches, largest difference {worst:.1e}")
    assert worst <= TOLERANCE


def registered(pair: Pair) -> dict:
    """verl's settings of the loss that dynclip registers: its bounds are the method's own, not clip_ratio_*."""
    dual_clip = NO_DUAL_CLIP if pair.dual_clip is None else pair.dual_clip
    return {"clip_ratio_c": dual_clip, "policy_loss": {"dynclip_options": pair.options}}


@pytest.mark.parametrize(("row", "aggregation"), CASES)
def test_the_registered_loss_is_verls_with_its_aggregation_and_weights(row, aggregation):
    pair, worst = PAIRS[row], 0.0
    for seed in range(BATCHES, BATCHES + 25):
        batch = random_batch(seed, pair.spread)
        if len(batch["mask"]) > 2:  # verl leaves empty rows out of a mean over rows
            batch["mask"][-1] = False
        weights = torch.rand(batch["mask"].shape, generator=torch.Generator().manual_seed(seed)).double() * 2
        theirs = verl_loss(pair.mode, batch, aggregation, weights, **pair.settings)
        with context():
            ours = verl_loss(f"dynclip_{pair.name}", batch, aggregation, weights, **registered(pair))
        worst = max(worst, difference(theirs, ours))
    assert worst <= TOLERANCE


@pytest.mark.parametrize("bound", [0.4, 0.1])
def test_gmpo_is_verls_geo_mean_over_responses(bound, record_property):
    """verl takes one advantage a response and the mean over responses, whatever `loss_agg_mode` says."""
    differences = []
    for seed in range(BATCHES):
        batch = random_batch(seed)
        batch["advantages"] = batch["advantages"].mean(1, keepdim=True).expand_as(batch["old"]).clone()
        theirs = verl_loss("geo_mean", batch, "token-mean", **interval(bound, bound))
        ours = core_loss("gmpo", batch, "seq-mean-token-mean", log_low=bound, log_high=bound)
        differences.append(gaps(theirs, ours))
    assert report(record_property, "gmpo", BATCHES, differences) <= TOLERANCE


def test_rloo_has_verls_advantages():
    """Rewards of 0 and 1 in groups of 2 to 5, the last two groups of one outcome: R minus the mean of the others."""
    group = torch.tensor([0] * 2 + [1] * 3 + [2] * 5 + [3] * 2 + [4] * 3)
    rewards = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], dtype=torch.float64)
    mask = torch.arange(4) < torch.randint(1, 5, (15, 1), generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(15, 4, dtype=torch.float64)
    scores[torch.arange(15), mask.sum(1) - 1] = rewards
    index = np.array(group.tolist())
    theirs, _ = compute_rloo_outcome_advantage(scores, mask, index)
    grpo, _ = compute_grpo_outcome_advantage(scores, mask, index)
    success = torch.stack([rewards[group == number].mean() for number in group])
    old = torch.zeros_like(scores)
    ours = method("rloo", STEPS).prepare(TokenBatch(old, old, grpo, mask, success=success, group=group), 0)
    assert (ours.advantages * mask - theirs).abs().max() < 1e-12 and theirs.abs().max() > 0.5


def test_global_normalisation_is_verls():
    batch = random_batch(0)
    config = {"dp_size": 2, "batch_num_tokens": 77, "global_batch_size": 12, "loss_scale_factor": 50}
    for aggregation in ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean",
                        "seq-mean-token-sum-norm"):  # fmt: skip
        settings = {"global_batch_info": config, "clip_ratio_c": 3.0}
        theirs = verl_loss("vanilla", batch, aggregation, **settings)
        with context():
            ours = verl_loss("dynclip_grpo", batch, aggregation, **settings)
        assert difference(theirs, ours) <= TOLERANCE


def test_float32_losses_agree_too():
    for seed in range(50):
        batch = random_batch(seed, dtype=torch.float32)
        theirs = verl_loss("vanilla", batch, "token-mean")
        assert difference(theirs, core_loss("grpo", batch, "token-mean", dual_clip=3.0)) <= TOLERANCE


def test_the_batches_are_hard_enough():
    clipped, counted, low, high, dual, dropped = 0, 0, 0, 0, 0, 0
    for seed in range(BATCHES):
        batch = random_batch(seed)
        ratio, advantages, mask = (batch["new"] - batch["old"]).exp(), batch["advantages"], batch["mask"]
        below, above = (ratio < 0.8) & (advantages < 0) & mask, (ratio > 1.28) & (advantages > 0) & mask
        low, high, counted = low + int(below.sum()), high + int(above.sum()), counted + int(mask.sum())
        clipped += int((below | above).sum())
        wide = random_batch(seed, PAIRS["dual_clip"].spread)
        dual += int((((wide["new"] - wide["old"]).exp() > 1.5) & (wide["advantages"] < 0) & wide["mask"]).sum())
        dropped += int((~mask).sum())
        assert (advantages[mask] > 0).any() or (advantages[mask] < 0).any()
    assert clipped > 0.1 * counted and low > 0.05 * counted and high > 0.05 * counted
    assert dual > 0.05 * counted and dropped > 0.1 * counted


def eligible_for_clip_cov(batch) -> int:
    advantages, mask = batch["advantages"], batch["mask"]
    centred = (advantages - advantages[mask].mean()) * (batch["new"] - batch["new"][mask].mean())
    return int(((centred > 0.2) & (centred < 3.0) & mask).sum())


def test_clip_covs_random_set_has_the_same_size_and_comes_from_the_same_tokens():
    # Which tokens are drawn cannot agree: verl draws from torch's global generator, dynclip from a seed of its own.
    # Their number must, and every drawn token must be one that both sides find eligible.
    share, drawn_tokens, sizes = 0.1, {"verl": set(), "dynclip": set()}, []
    cov = VERL_COV | {"clip_cov_ratio": share}
    for seed in range(40):
        batch = random_batch(seed)
        batch["advantages"] = batch["advantages"] + 0.01  # A = 0 would have no gradient to lose
        whole = core_loss("clip_cov", batch, "token-mean", **COV)[1] == 0
        for draw in range(5):
            theirs = verl_loss("clip_cov", batch, "token-mean", **interval(1.0, 1.0), policy_loss=cov)[1] == 0
            ours = core_loss("clip_cov", batch, "token-mean", seed=draw, **COV | {"share": share})[1] == 0
            silent = ((batch["new"] - batch["old"]).exp() > 2) & (batch["advantages"] > 0) | ~batch["mask"]
            quota = min(max(int(share * int(batch["mask"].sum())), 1), int((whole & ~silent).sum()))
            for side, zero in (("verl", theirs & ~silent), ("dynclip", ours & ~silent)):
                assert int(zero.sum()) == quota
                assert not (zero & ~whole).any()
                drawn_tokens[side] |= {(seed, int(place)) for place in zero.flatten().nonzero()}
            sizes.append(quota)
    assert max(sizes) > 1
    most = max(len(drawn_tokens["verl"]), len(drawn_tokens["dynclip"]))
    assert min(len(drawn_tokens["verl"]), len(drawn_tokens["dynclip"])) > 0.8 * most  # both spread over the tokens


def test_settings_reach_verls_configuration():
    config = actor_config(policy_loss={"dynclip_options": {"eps": 0.3}}, clip_ratio_c=10.0)
    assert config.policy_loss.dynclip_options == {"eps": 0.3} and config.clip_ratio_c == 10.0
