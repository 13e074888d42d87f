"""What a looser bound re-admits: against the region theory, against finite steps, and against runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dynclip import method
from dynclip.lab.bands import ARMS, LOOSER, Bands, band_effects, follow, half_gain, predict
from dynclip.lab.compare import compare, decided, differences, entropy_at, guess, summary
from dynclip.lab.grids import drawn, factorial, regimes
from dynclip.lab.tabular import Slots, Trace, learn, run
from dynclip.lab.world import Regime
from dynclip.regions import alignment

REGIME = Regime(states=8, actions=8, length=2, peak=1.0, problems=8, group=8, steps=6, learning_rate=0.15)
LOOSE = [method(name, REGIME.steps, **options) for name, options in list(ARMS.values())[1:]]


def view_of(regime, step=2, update=5, seeds=(0, 1)):
    """What a run looked like before one update, with copies of what the run changes."""
    seen = []

    def watch(view):
        if (view.step, view.update) == (step, update):
            seen.append(replace(view, table=view.table.clone(), slots=view.slots.copy()))

    run(regime, "grpo", seeds, watch=watch)
    return seen[0]


def test_the_band_is_the_sum_of_the_package_s_alignments():
    """Token by token: PPO clips it, the looser bound does not; r times `regions.alignment`, over the tokens."""
    view = view_of(REGIME)
    effects = band_effects(view, LOOSE)
    part = view.part
    tokens = part.rows[0].numel()
    found = np.zeros((len(LOOSE), 2, 2))
    shares = np.zeros((len(LOOSE), 2))
    for r, b, t in np.ndindex(*part.rows.shape):
        row, place = part.rows[r, b, t], part.places[r, b, t]
        action, advantage, old = place - row * 8, part.advantages[r, b], part.old_logprob[r, b, t]
        ratio = (view.logprob[row, action] - old).exp()
        exact, rule = (alignment(view.table[row], action, advantage, exact=flag) for flag in (True, False))
        for number, loose in enumerate(LOOSE):
            low, high = loose.bounds(old.exp().view(1), view.step)
            band = (1.2 < ratio <= 1 + high and advantage > 0) or (1 - low <= ratio < 0.8 and advantage < 0)
            tighter = (1 + high < ratio <= 1.2 and advantage > 0) or (0.8 <= ratio < 1 - low and advantage < 0)
            sign = int(band) - int(tighter)
            shares[number, r] += abs(sign) / tokens
            found[number, r] += sign * ratio.item() * np.array([exact.item(), rule.item()]) / tokens / 8
    assert (shares > 0).all()
    assert np.allclose(effects["share", ""], shares, atol=1e-14)
    assert np.allclose(effects["exact", "entropy"], found[:, :, 0], atol=1e-14)
    assert np.allclose(effects["rule", "entropy"], found[:, :, 1], atol=1e-14)
    assert np.abs(found).min() > 1e-7


def values_after(view, table):
    from dynclip.lab.tabular import entropy_of
    from dynclip.lab.world import success_of

    logprob = torch.log_softmax(table, -1)
    entropy = entropy_of(logprob).view(len(view.world.seeds), -1).mean(1)
    return entropy.numpy(), success_of(view.world.regime, logprob.exp(), view.world.good).numpy()


def test_first_order_effects_are_those_of_a_small_step():
    """Plain descent: one update with either bound from the same table, a thousandth of a step; both kinds of effect."""
    regime = replace(REGIME, optimizer="sgd", learning_rate=5.0)
    view = view_of(regime)
    small = replace(view.world, regime=replace(regime, learning_rate=5e-3, minibatches=1, epochs=1, problems=4))
    effects = band_effects(view, LOOSE)
    ends = []
    for chosen in (method("grpo", regime.steps), *LOOSE):
        table = view.table.clone()
        learn(small, chosen, table, Slots(*torch.zeros(2, *table.shape)), view.part, view.step)
        ends.append(values_after(view, table))
    for number in range(len(LOOSE)):
        for kind, place in (("entropy", 0), ("success", 1)):
            measured = 1000 * (ends[number + 1][place] - ends[0][place])
            assert measured == pytest.approx(effects["optimizer", kind][number], rel=2e-2, abs=1e-9)
            assert np.allclose(5.0 * effects["exact", kind], effects["optimizer", kind], atol=1e-14)
    assert np.abs(effects["optimizer", "entropy"]).max(1).min() > 1e-3


def test_adams_effect_divides_by_its_own_scale():
    view = view_of(REGIME)
    scaled = replace(view, slots=Slots(view.slots.first, 4 * view.slots.second, view.slots.count))
    once, twice = (band_effects(seen, LOOSE)["optimizer", "entropy"] for seen in (view, scaled))
    assert np.allclose(once, 2 * twice, rtol=1e-4) and np.abs(once).min() > 1e-8


def test_a_trial_batch_is_the_first_batch_of_the_real_run():
    regime = replace(REGIME, steps=1)
    trace, bands = follow(regime, (3, 4), every=1)
    for number, name in enumerate(LOOSER):
        other = run(regime, *ARMS[name][:1], (3, 4), ARMS[name][1])
        assert np.allclose(bands.entropy["batch"][number, :, 0], (other.entropy - trace.entropy)[:, 1], atol=1e-14)
        assert np.allclose(bands.success["batch"][number, :, 0], (other.success - trace.success)[:, 1], atol=1e-14)
    assert np.abs(bands.entropy["batch"]).max() > 1e-5
    plain = run(regime, "grpo", (3, 4))
    assert np.array_equal(plain.entropy, trace.entropy)  # being watched changes nothing


def test_arms_must_differ_in_their_bounds_alone():
    for name in ("cispo", "ent_reg", "gspo"):
        with pytest.raises(ValueError, match="expected methods that differ from GRPO in their bounds alone"):
            follow(REGIME, (0,), arms={"grpo": ("grpo", {}), name: (name, {})})


def trace_of(entropy, success):
    entropy, success = np.atleast_2d(entropy).astype(float), np.atleast_2d(success).astype(float)
    empty = np.zeros((len(entropy), entropy.shape[1] - 1))
    return Trace(entropy, success, *[empty] * 7, np.zeros((4, *empty.shape)))


def test_a_prediction_by_hand():
    """Entropy falls by 1 nat per unit of reward; the band adds −0.1 nats and +0.3 reward at each step."""
    success = np.linspace(0, 1, 21)
    trace = trace_of(2 - success, success)
    effect = np.full((1, 1, 20), -0.1), np.full((1, 1, 20), 0.3)
    bands = Bands(*({name: values for name in ("rule", "exact", "optimizer", "batch")} for values in effect), effect[0])
    assert predict(trace, bands, 0, "exact", "half") == (-1, pytest.approx(-1.0))
    assert predict(trace, bands, 0, "exact", "end") == (-1, pytest.approx(-2.0))
    # Half of the gain is made at step 10: −1 nat, less what 3 units of reward cost at −1 nat each.
    assert predict(trace, bands, 0, "exact", "success") == (1, pytest.approx(-1.0 + 3.0))
    assert half_gain(trace) == 10 and half_gain(trace_of(2 - success, -success)) is None
    sign, score = predict(trace_of(2 - success, -success), bands, 0, "exact", "success")
    assert sign == 0 and np.isnan(score)
    with pytest.raises(ValueError, match="given 'guess', 'half'"):
        predict(trace, bands, 0, "guess", "half")
    with pytest.raises(ValueError, match="given 'exact', 'later'"):
        predict(trace, bands, 0, "exact", "later")


def test_differences_by_hand():
    success = np.linspace(0, 1, 5)
    slow, fast = trace_of(2 - success, success), trace_of(2 - 2 * success, np.minimum(2 * success, 1))
    found = {where: differences({"grpo": slow, "x": fast}, where)["x"] for where in ("half", "end", "success")}
    assert found["half"] == pytest.approx([-0.5]) and found["end"] == pytest.approx([-1.0])
    assert found["success"] == pytest.approx([0.0])  # the same frontier, gone down faster
    assert np.isnan(differences({"grpo": slow, "x": trace_of(2 - success, -success)}, "success")["x"]).all()
    assert entropy_at(slow, np.array([0.375])) == pytest.approx([1.625])
    assert np.isnan(entropy_at(slow, np.array([1.5]))).all()


def test_what_counts_as_decided():
    assert summary(np.array([1.0, 2, 3, 4, np.nan]))[::2] == (2.5, 4)
    assert np.isnan(summary(np.array([1.0, 2, 3]))[0])
    assert decided(0.25, 0.1) == 1 and decided(-0.26, 0.1) == -1 and decided(0.24, 0.1) == 0 == decided(np.nan, 0.1)
    upper, lower = {"arm": "clip_higher", "exact": -0.1}, {"arm": "clip_lower", "exact": np.nan}
    assert [guess(upper, name) for name in ("paper", "lower", "exact")] == [1, -1, -1]
    assert [guess(lower, name) for name in ("paper", "exact")] == [-1, 0]


def test_the_grids_are_what_they_are_declared_to_be():
    assert len(factorial()) == 48 == len(set(factorial().values())) and len(regimes("train")) == 72
    assert drawn() == drawn() and len(set(drawn())) == 40
    assert not set(regimes("test")) & set(regimes("train"))
    assert {regime.optimizer for regime in drawn()} == {"adam", "sgd"}


def test_a_comparison_has_every_arm_at_every_place():
    facts, rows = compare(replace(REGIME, states=4, steps=8), range(4))
    assert [(row["where"], row["arm"]) for row in rows] == [(w, a) for w in ("half", "end", "success") for a in LOOSER]
    assert facts["entropy_start"] > 0 and facts["band clip_higher"] > 0
    assert all(np.isfinite(row["batch"]) and row["n"] == 4 for row in rows if row["where"] != "success")
