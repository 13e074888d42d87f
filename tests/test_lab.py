"""The microscope: its gradient, its draws and its replicas against independent computations, and every method on it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynclip import METHODS, method
from dynclip.lab.tabular import Slots, Trace, descend, entropy_of, learn, run, stackable
from dynclip.lab.world import Regime, build, enumerate_actions, expected_advantages, sample, success_of

SMALL = Regime(states=8, actions=8, length=2, good=4, peak=1.0, problems=8, group=4, steps=4, epochs=2, minibatches=2)
# Actions of problems with one state, updates that the reader can follow: one step of plain descent.
PLAIN = replace(SMALL, length=1, minibatches=1, epochs=1, optimizer="sgd", learning_rate=1.0, steps=1)
DIFFERENT = Regime(states=8, actions=8, problems=8, group=4, steps=6, peak=1.0, learning_rate=0.3)


def fresh(world):
    return world.start.clone(), Slots(torch.zeros_like(world.start), torch.zeros_like(world.start))


def moved_by(regime, name, seeds=(0,), exact=False, good=None, **options):
    """(start, change of the table by one rollout batch, rollout, world)."""
    world = build(regime, seeds)
    world = world if good is None else replace(world, good=good(world.good))
    table, slots = fresh(world)
    rollout = (enumerate_actions if exact else sample)(world, torch.log_softmax(table, -1), 0)
    learn(world, method(name, regime.steps, **options), table, slots, rollout, 0)
    return world.start, table - world.start, rollout, world


def reinforce(start, rollout, world):
    """Mean over tokens of A (e_a − p), by loops over numbers; advantages (R, B) or (R, B, T)."""
    prob = torch.softmax(start, -1)
    total = torch.zeros_like(start)
    replicas, rows, length = rollout.rows.shape
    advantages = rollout.advantages if rollout.advantages.dim() == 3 else rollout.advantages.unsqueeze(-1)
    advantages = advantages.expand(rollout.rows.shape)
    for r in range(replicas):
        for b in range(rows):
            for t in range(length):
                row, place = int(rollout.rows[r, b, t]), int(rollout.places[r, b, t])
                total[row] -= advantages[r, b, t] * prob[row]
                total[row, place - row * start.shape[1]] += advantages[r, b, t]
    return total / (rows * length)


@pytest.mark.parametrize("name", ["grpo", "sapo", "cispo", "gspo", "kl_cov", "bandpo"])
@pytest.mark.parametrize("length", [1, 3])
def test_one_update_is_the_reinforce_gradient(name, length):
    """At ratio 1; a sum of the per-token losses over more tokens than a group's, and SAPO's gate has slope 1 there."""
    start, change, rollout, world = moved_by(replace(PLAIN, length=length), name)
    expected = reinforce(start, rollout, world)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(change, expected, atol=1e-14)


def test_without_a_bound_every_update_is_the_weighted_gradient():
    """Second update of an unclipped surrogate: REINFORCE with weight r."""
    regime = replace(PLAIN, epochs=2, learning_rate=20.0)
    start, change, rollout, world = moved_by(regime, "clip_higher", eps_low=1.0, eps_high=1e9)
    first = start + 20 * reinforce(start, rollout, world)
    ratio = (torch.log_softmax(first, -1) - torch.log_softmax(start, -1)).exp().view(-1)[rollout.places]
    assert (ratio - 1).abs().max() > 0.2
    weighted = replace(rollout, advantages=rollout.advantages.unsqueeze(-1) * ratio)
    assert torch.allclose(start + change, first + 20 * reinforce(first, weighted, world), atol=1e-12)


def test_with_epsilon_zero_only_tokens_on_the_wrong_side_of_one_move_on():
    """The first update, at ratio 1, is GRPO's whatever ε is. After it a token has a gradient only where its ratio went
    against its advantage: those on the advantage's side are clipped."""
    regime = replace(PLAIN, length=2, epochs=2, learning_rate=20.0)
    nothing = {"eps_low": 0.0, "eps_high": 0.0}
    _, once, *_ = moved_by(replace(regime, epochs=1), "grpo", **nothing)
    assert torch.equal(once, moved_by(replace(regime, epochs=1), "grpo")[1])
    start, twice, rollout, world = moved_by(regime, "grpo", **nothing)
    first = start + once
    ratio = (torch.log_softmax(first, -1) - torch.log_softmax(start, -1)).exp().view(-1)[rollout.places]
    advantages = rollout.advantages.unsqueeze(-1)
    against = (ratio - 1) * advantages < 0
    assert against.any() and (~against & (advantages != 0)).any()
    kept = replace(rollout, advantages=advantages * ratio * against)
    assert torch.allclose(twice, once + 20 * reinforce(first, kept, world), atol=1e-12)


def test_adam_is_torchs():
    table = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine, slots = table.clone(), Slots(torch.zeros_like(table), torch.zeros_like(table))
    theirs = torch.nn.Parameter(table.clone())
    adam = torch.optim.Adam([theirs], lr=0.1)
    for number in range(12):
        gradient = torch.sin(theirs.detach() * number)
        descend(Regime(), mine, slots, gradient)
        theirs.grad = gradient
        adam.step()
    assert torch.allclose(mine, theirs, atol=1e-14) and not torch.allclose(mine, table, atol=0.1)


def test_advantages_are_those_of_the_trainer():
    world = build(SMALL, (0, 1))
    rollout = sample(world, torch.log_softmax(world.start, -1), 1)
    right = world.good.view(-1)[rollout.places].all(-1).double().view(2, SMALL.problems, SMALL.group).numpy()
    expected = (right - right.mean(-1, keepdims=True)) / (right.std(-1, ddof=1, keepdims=True) + 1e-4)
    assert np.allclose(rollout.advantages.view(2, SMALL.problems, -1), expected) and np.abs(expected).max() > 1
    assert np.allclose(rollout.success.view(2, SMALL.problems, -1), right.mean(-1, keepdims=True))


def test_samples_come_from_the_policy():
    regime = replace(PLAIN, problems=3000, states=2, peak=1.5)
    world = build(regime, (3,))
    logprob = torch.log_softmax(world.start, -1)
    rollout = sample(world, logprob, 0)
    counts = torch.bincount(rollout.places.flatten(), minlength=16).double().view(2, 8)
    drawn = counts.sum(1, keepdim=True)
    prob = logprob.exp()
    error = (prob * (1 - prob) / drawn).sqrt()
    assert ((counts / drawn - prob).abs() < 4.5 * error).all() and prob.max() > 0.3
    # Success is exact: the samples' mean lies around it.
    success = success_of(regime, prob, world.good).item()
    assert abs(rollout.success.mean().item() - success) < 4.5 * math.sqrt(0.25 / 12000) + 0.02


def test_success_of_sequences_is_the_mean_over_all_of_them():
    world = build(SMALL, (5,))
    prob = torch.softmax(world.start, -1)
    mass = (prob * world.good).sum(-1).tolist()
    pairs = [one * two for one in mass for two in mass]
    assert success_of(SMALL, prob, world.good).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)


def test_a_reward_and_its_opposite_cancel():
    """A symmetric reward: swapping right and wrong turns every advantage around, so that the two changes of the policy
    are opposite, and entropy has no drift on average to first order in the step."""
    regime = replace(PLAIN, peak=2.0, states=32, problems=32)
    _, change, *_ = moved_by(regime, "grpo")
    _, opposite, *_ = moved_by(regime, "grpo", good=lambda good: ~good)
    assert change.abs().max() > 1e-3 and torch.allclose(change, -opposite, atol=1e-15)


def test_entropy_does_not_drift_under_a_symmetric_reward():
    """Over worlds: half of the actions right, whichever; a small step from a peaked start. And from a uniform start,
    where entropy is greatest, it can only fall, by the square of the step."""
    regime = replace(PLAIN, peak=2.0, states=4, problems=8, learning_rate=1e-3)
    change = np.diff(run(regime, "grpo", seeds=range(400)).entropy)[:, 0]
    assert abs(change.mean()) < 3 * change.std(ddof=1) / 20 and change.std() > 1e-6
    uniform = replace(regime, peak=0.0, noise=0.0, learning_rate=0.1)
    small, large = (run(replace(uniform, learning_rate=lr), "grpo", range(20)).entropy for lr in (0.1, 0.2))
    fall, more = (math.log(8) - trace[:, 1] for trace in (small, large))
    assert (fall > 0).all() and more / fall == pytest.approx(4 * np.ones(20), rel=0.02)


def test_one_update_per_batch_makes_the_clipping_methods_one_run():
    regime = replace(SMALL, minibatches=1, epochs=1, steps=6)
    reference = run(regime, "grpo", (7,))
    assert reference.entropy.std() > 0
    for name, spec in METHODS.items():
        trace = run(regime, name, (7,))
        same = np.array_equal(trace.entropy, reference.entropy) and np.array_equal(trace.success, reference.success)
        if spec.on_policy_grpo:
            assert same, name
    assert not np.array_equal(run(regime, "ent_reg", (7,), {"coefficient": 0.1}).entropy, reference.entropy)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs(name):
    """Four steps of four updates: finite, within the simplex, and not the start."""
    trace = run(SMALL, name, seeds=(0, 1))
    assert trace.entropy.shape == trace.success.shape == (2, 5)
    assert trace.clip_low.shape == trace.signal.shape == (2, 4) and trace.regions.shape == (4, 2, 4)
    for key in ("entropy", "success", "clip_low", "clip_high", "eps_low", "token_entropy", "regions", "signal"):
        assert np.isfinite(getattr(trace, key)).all(), key
    assert (trace.entropy >= 0).all() and (trace.entropy <= math.log(8)).all() and trace.entropy.std() > 1e-4
    assert (trace.regions.sum(0) <= 1 + 1e-12).all() and (trace.agreement <= 1).all()


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if stackable(spec)])
def test_seeds_side_by_side_are_the_seeds_alone(name):
    together = run(SMALL, name, seeds=(0, 3, 4))
    for place, seed in enumerate((0, 3, 4)):
        alone = run(SMALL, name, seeds=(seed,))
        for key in Trace.__dataclass_fields__:
            one, many = getattr(alone, key), getattr(together, key)
            assert np.allclose(one[..., 0, :], many[..., place, :], rtol=1e-9, atol=1e-11, equal_nan=True), key


def test_which_methods_take_seeds_side_by_side():
    assert {"grpo", "id", "did", "gspo", "ent_reg"} <= {name for name, spec in METHODS.items() if stackable(spec)}
    alone = {"od", "thermostat", "clip_cov", "kl_cov", "steer", "high_entropy", "exchange", "clip_b", "entropic", "aer"}
    assert not any(stackable(METHODS[name]) for name in alone)


@pytest.mark.parametrize("name", ["grpo", "id", "clip_cov", "clip_v", "exchange", "od", "aent", "steer"])
def test_the_step_is_the_gradient_of_the_methods_own_loss(name, monkeypatch):
    """Against `LossOutput.loss` and `LossOutput.metrics` of the same calls, for every mini-batch of a run."""
    from dynclip.methods.objective import Method

    real, seen = Method.loss, []

    def spied(self, batch, step, *arguments, **options):
        output = real(self, batch, step, *arguments, **options)
        seen.append((output.loss.item(), output.per_token.mean().item(), output.metrics))
        return output

    monkeypatch.setattr(Method, "loss", spied)
    trace = run(DIFFERENT, name, (2,))
    assert len(seen) == DIFFERENT.steps * DIFFERENT.updates
    assert all(loss == pytest.approx(mean, abs=1e-12) for loss, mean, _ in seen)
    for key, metric in (("clip_low", "clip/low_fraction"), ("clip_high", "clip/high_fraction")):
        by_update = np.array([float(metrics[metric]) for *_, metrics in seen]).reshape(DIFFERENT.steps, -1)
        assert getattr(trace, key)[0] == pytest.approx(by_update.mean(1), abs=1e-12)
    assert name == "clip_cov" or trace.clip_low.max() > 0.02
    eps = np.array([float(metrics.get("clip/eps_high_mean", math.inf)) for *_, metrics in seen])
    assert trace.eps_high[0] == pytest.approx(eps.reshape(DIFFERENT.steps, -1).mean(1))


def test_expected_advantages_by_counting():
    up, down = expected_advantages(torch.tensor([0.3], dtype=torch.float64), 4)
    chance = {k: math.comb(3, k) * 0.3**k * 0.7 ** (3 - k) for k in range(4)}
    for mine, found in ((1, up), (0, down)):
        expected = 0.0
        for k, weight in chance.items():
            rewards = np.array([mine, *([1] * k), *([0] * (3 - k))], dtype=float)
            expected += weight * (mine - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_exact_mode_is_the_mean_of_sampled_batches():
    """One update from the same start on the same states: the mean of 400 sampled changes lies around the exact one."""
    regime = replace(PLAIN, peak=1.5, problems=4, states=4)
    _, expected, _, world = moved_by(regime, "grpo", exact=True)
    table, changes = world.start, []
    rng = np.random.default_rng(0)
    for _ in range(400):
        drawn = replace(world, uniforms=torch.from_numpy(rng.random(tuple(world.uniforms.shape))))
        now, slots = fresh(world)
        rollout = sample(drawn, torch.log_softmax(table, -1), 0)
        learn(drawn, method("grpo", 1), now, slots, rollout, 0)
        changes.append(now - table)
    changes = torch.stack(changes)
    error = changes.std(0) / 20
    visited = error > 0
    score = ((changes.mean(0) - expected)[visited] / error[visited]).abs()
    assert visited.sum() >= 16 and score.max() < 4.5 and score.mean() < 1.1
    assert (expected[~visited] == 0).all()


def test_an_exact_run_shows_what_sampled_runs_scatter_around():
    """With plain descent; Adam divides by √v̂, in which sampled runs have noise that exact ones lack."""
    regime = replace(SMALL, length=1, steps=10, problems=32, learning_rate=0.3, optimizer="sgd")
    exact, sampled = run(regime, "id", range(12), exact=True), run(regime, "id", range(12))
    gap = (sampled.entropy - exact.entropy)[:, -1]
    assert abs(gap.mean()) < 0.1 * abs(np.diff(exact.entropy[:, [0, -1]]).mean())
    assert np.isfinite(exact.clip_low).all() and exact.success.std() > 0


def test_common_random_numbers(monkeypatch):
    """The first batch of two methods is the same; so is that of a longer run, and that of a seed among others."""
    first = {}
    for label, name, regime, seeds in (
        ("grpo", "grpo", SMALL, (5,)),
        ("cispo", "cispo", SMALL, (5,)),
        ("long", "grpo", replace(SMALL, steps=9), (5,)),
        ("among", "grpo", SMALL, (5, 6)),
    ):
        seen = []
        run(regime, name, seeds, watch=lambda view, seen=seen: seen.append(view.rollout))
        first[label] = seen[0]
    for label in ("cispo", "long", "among"):
        for key in ("places", "old_logprob", "advantages"):
            assert torch.equal(getattr(first[label], key)[0], getattr(first["grpo"], key)[0]), label
    other = build(SMALL, (6,))
    assert not torch.equal(other.start, build(SMALL, (5,)).start)


def test_peaks_and_good_sets_are_where_they_were_asked_for():
    for where, chance in (("good", 1.0), ("bad", 0.0)):
        world = build(replace(SMALL, peak=9.0, peak_at=where, states=40), (0,))
        assert (world.good.sum(1) == 4).all()
        assert world.good.gather(1, world.start.argmax(1, keepdim=True)).double().mean() == chance
    anywhere = build(replace(SMALL, peak=9.0, states=400), (0,))
    share = anywhere.good.gather(1, anywhere.start.argmax(1, keepdim=True)).double().mean()
    assert abs(share - 0.5) < 0.1
    flat = build(replace(SMALL, peak=0.0, noise=0.0), (0,))
    assert torch.allclose(entropy_of(torch.log_softmax(flat.start, -1)), torch.tensor(math.log(8), dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"states": 0}, "states: expected a whole number of at least 1, given 0"),
        ({"actions": -3}, "actions: .* given -3"),
        ({"group": 1}, "group: .* at least 2, given 1"),
        ({"steps": 1.5}, "steps: .* given 1.5"),
        ({"good": 17}, "good: expected at most the 16 actions, given 17"),
        ({"minibatches": 3}, "minibatches: expected a divisor of the 32 problems, given 3"),
        ({"learning_rate": -0.1}, "learning_rate: .* given -0.1"),
        ({"noise": math.nan}, "noise: expected a finite number"),
        ({"peak_at": "left"}, "peak_at: expected one of good, bad, any, given 'left'"),
        ({"optimizer": "lion"}, "optimizer: expected one of adam, sgd, given 'lion'"),
    ],
)
def test_a_regime_that_is_none_is_refused_by_name(change, said):
    with pytest.raises(ValueError, match=said):
        Regime(**change)


def test_bad_runs_are_refused_by_name():
    with pytest.raises(ValueError, match="unknown method 'grop'; the methods are: grpo"):
        run(SMALL, "grop")
    with pytest.raises(ValueError, match="method 'grpo': unknown option 'eps'"):
        run(SMALL, "grpo", options={"eps": 0.1})
    with pytest.raises(ValueError, match="seeds: expected at least one"):
        run(SMALL, "grpo", seeds=())
    with pytest.raises(ValueError, match=r"exact: expected problems of one state \(length 1\), given length 2"):
        run(SMALL, "grpo", exact=True)
    for name in ("clip_cov", "exchange", "aer"):
        with pytest.raises(ValueError, match=f"exact: method '{name}' takes statistics over a sampled batch"):
            run(replace(SMALL, length=1), name, exact=True)
