"""Rollouts of a policy that is not the one that trains: stale weights, other numbers, and the correction for it."""

from dataclasses import replace

import pytest
import torch
from test_company import killed, miniature, published, study, undisturbed  # noqa: F401  (fixtures)

from dynclip.methods.objective import Method
from dynclip.runtime.errors import UserError
from dynclip.studies.arms import ARMS, MISMATCH_METHODS, STALE, arm, study_runs, trainable
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import SCALES
from dynclip.training.company import protocol, train_company
from dynclip.training.loop import Loop
from dynclip.training.worlds import folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.sampler import CAP, Sampler
from dynclip.training.worlds.tasks import task_of
from evals.benchmarks.loading import read_problems

SEEDS = (0, 1)


@pytest.fixture
def loop(study):  # noqa: F811
    """A function: a loop of `seeds` with settings of the scale replaced."""
    config, folder = study
    problems = read_problems(folder / "data" / "train.jsonl")

    def made(seeds=SEEDS, name="grpo", options=None, **settings):
        scale = replace(config.scale, learning_rate=0.02, **settings)
        bases = {seed: folder / "base" / f"seed{seed}" for seed in seeds}
        task = task_of(scale, seeds, bases, problems)
        weights = stack([folders.load(base, task.network) for base in bases.values()])
        return Loop(scale, [Method(arm(name).spec, config.steps, options or {}) for _ in seeds], seeds, task, weights)

    return made


def copy(weights):
    return {name: value.detach().clone() for name, value in weights.items()}


def logprob(loop, weights, rollout):
    """Log-probabilities (R, B, T) of the rollout's tokens, from whole passes."""
    with torch.no_grad():
        logits = loop.task.network.logits(weights, rollout.inputs)
    return torch.log_softmax(logits, -1).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)


def watched(loop):
    """A list of every later step: weights of the trainer and the sampler, the rollout, what the losses were given."""
    seen, prepare, choose = [], loop.prepare, loop.sampler.weights

    def choosing(weights, k):
        chosen = choose(weights, k)
        seen.append({"weights": copy(weights), "sampler": copy(chosen)})
        return chosen

    def preparing(rollout, k, correction=None):
        batch = prepare(rollout, k, correction)
        seen[-1] |= {"rollout": rollout, "batch": dict(batch)}
        return batch

    loop.sampler.weights, loop.prepare = choosing, preparing
    return seen


@pytest.mark.parametrize("age", [1, 2])
@pytest.mark.parametrize("correction", ["ratio", "truncated", "none"])
def test_stale_rollouts_are_drawn_by_the_weights_of_that_many_steps_ago(loop, age, correction):
    training = loop(staleness=age, correction=correction)
    seen = watched(training)
    rows = [training.step() for _ in range(5)]
    for k, each in enumerate(seen):
        rollout, mask, batch = each["rollout"], each["rollout"].mask, each["batch"]
        sampler = logprob(training, seen[max(0, k - age)]["weights"], rollout)
        trainer = logprob(training, each["weights"], rollout)
        drawn = training.task.rollout(seen[max(0, k - age)]["weights"], k)
        assert torch.equal(drawn.tokens, rollout.tokens) and torch.equal(drawn.rewards, rollout.rewards)
        old = sampler if correction == "ratio" else trainer
        assert torch.allclose(batch["old_logprob"][mask], old[mask], atol=1e-5)
        if correction == "truncated":
            expected = (trainer - sampler).exp().clamp(max=2.0)
            assert torch.allclose(batch["weight"][mask], expected[mask], atol=1e-4)
        else:
            assert "weight" not in batch
        apart = [(trainer - sampler)[r][mask[r]].abs() for r in range(2)]
        found = [row["sampler/logprob_difference_mean"] for row in rows[k]]
        assert found == pytest.approx([each.mean().item() for each in apart], abs=1e-5)
        assert (max(found) < 1e-5) == (k == 0)
        largest = [row["sampler/logprob_difference_max"] for row in rows[k]]
        assert largest == pytest.approx([each.max().item() for each in apart], abs=1e-4)


def test_the_weight_is_cut_at_two_and_the_share_of_cut_tokens_is_logged(loop):
    training = loop(mismatch="0.9", correction="truncated")
    seen = watched(training)
    rows = training.step()
    (each,) = seen
    weight, mask = each["batch"]["weight"], each["rollout"].mask
    assert weight[mask].max() == CAP == 2.0
    share = [float((weight[r][mask[r]] == CAP).float().mean()) for r in range(2)]
    assert [row["sampler/capped_fraction"] for row in rows] == pytest.approx(share) and min(share) > 0


def test_the_correction_multiplies_the_weights_of_the_method(loop):
    training = loop(name="clip_b", options={"mu": 0.1})
    with torch.no_grad():
        rollout = training.task.rollout(training.weights, 0)
    rollout = replace(rollout, rewards=torch.arange(rollout.rewards.numel()).view(rollout.rewards.shape) % 2.0)
    alone = training.prepare(rollout, 0)["weight"]
    assert alone.unique().tolist() == [0.0, 1.0], "clip_b leaves tokens out"
    correction = torch.rand(alone.shape)
    assert torch.equal(training.prepare(rollout, 0, correction)["weight"], alone * correction)


def test_bfloat16_samples_in_bfloat16_and_grades_as_ever(loop):
    training = loop(mismatch="bfloat16", correction="truncated")
    weights = training.sampler.weights(training.weights, 0)
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    rollout = training.task.rollout(weights, 0)
    assert {each.dtype for each in rollout.logits} == {torch.float32}
    row = training.step()[0]
    assert 0 < row["sampler/logprob_difference_mean"] < 0.1


def test_noise_is_relative_drawn_for_each_step_and_the_same_alone(loop):
    both, alone = loop(mismatch="0.1"), loop(seeds=(1,), mismatch="0.1")
    first, again, later = (both.sampler.weights(both.weights, step) for step in (0, 0, 1))
    single = alone.sampler.weights(alone.weights, 0)
    for name, value in both.weights.items():
        assert torch.equal(first[name], again[name]) and torch.equal(first[name][1:], single[name])
        if value.any():
            assert not torch.equal(first[name], later[name]) and not torch.equal(first[name][0], first[name][1])
    table = first["model.embed_tokens.weight"] / both.weights["model.embed_tokens.weight"] - 1
    assert table.std().item() == pytest.approx(0.1, rel=0.1) and abs(table.mean().item()) < 0.01


@pytest.mark.parametrize("correction", ["ratio", "truncated", "none"])
def test_without_staleness_and_mismatch_every_correction_is_the_same_training(loop, correction):
    plain, other = loop(), loop(correction=correction)
    for _ in range(2):
        plain.step(), other.step()
    assert all(torch.equal(plain.weights[name], other.weights[name]) for name in plain.weights)


def test_a_killed_stale_training_goes_on_to_the_same_bits(study, killed):  # noqa: F811
    config, folder = study
    stale = replace(config, scale=replace(config.scale, staleness=3, learning_rate=0.02))
    train_company(stale, "od", SEEDS, folder)
    whole = {seed: published(folder, "od", seed) for seed in SEEDS}
    (folder / "runs").rename(folder / "whole")
    killed(train_company, stale, "od", SEEDS, folder)
    train_company(stale, "od", SEEDS, folder)
    assert {seed: published(folder, "od", seed) for seed in SEEDS} == whole
    (folder / "runs").rename(folder / "resumed")
    train_company(config, "od", SEEDS, folder)
    assert published(folder, "od", 0) != whole[0]


def test_at_most_that_many_earlier_weights_are_kept():
    sampler = Sampler(replace(SCALES["paths"], staleness=2), (0,))
    chosen = [float(sampler.weights({"w": torch.full((1, 1), float(k))}, k)["w"]) for k in range(5)]
    assert chosen == [0, 0, 0, 1, 2] and len(sampler.past) == 2


def test_runs_of_different_samplers_cannot_be_compared():
    plain, stale = resolve("paths"), resolve("paths", staleness=4, correction="truncated")
    different = {name for name, value in protocol(plain).items() if protocol(stale)[name] != value}
    assert different == {"sampler"}
    assert protocol(stale)["sampler"] == "4 rollout steps old, mismatch none, correction truncated"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"staleness": "-1"}, "staleness: expected whole numbers from 0"),
        ({"mismatch": "2"}, "mismatch: expected none, bfloat16, or the relative noise on each weight between 0 and 1"),
        ({"mismatch": "nan"}, "mismatch: expected none, bfloat16"),
        ({"correction": "tis"}, "correction: unknown 'tis'; valid are: ratio, truncated, none"),
        ({"trainer": "trl", "staleness": 2}, "staleness=2: trainer=trl samples with the policy that it trains"),
    ],
)
def test_a_wrong_setting_is_one_line(given, words):
    with pytest.raises(UserError) as error:
        resolve("facts", **given)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_the_studies_of_other_samplers_are_for_the_loop():
    assert arm(f"grpo_stale{STALE[-1]}").scale(SCALES["paths"]).staleness == STALE[-1]
    assert ARMS[f"{MISMATCH_METHODS[0]}_noise_truncated"].settings == {"mismatch": "0.1", "correction": "truncated"}
    for name in ("staleness", "mismatch"):
        assert trainable(SCALES["paths"], name) and not trainable(SCALES["workstation"], name)
        with pytest.raises(UserError, match=f"{name}: trainer=trl samples with the policy that it trains"):
            study_runs(resolve("workstation"), [name])
