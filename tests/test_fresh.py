"""The policy with contexts that do not recur, its predictor, and the grid's command."""

import dataclasses
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dynclip import METHODS, method
from dynclip.lab.fresh import measure as measuring
from dynclip.lab.fresh.__main__ import main
from dynclip.lab.fresh.drift import advantage_law, predict, push
from dynclip.lab.fresh.grids import ARMS, CENTRE, OWN, VARIATIONS, mapped, regimes
from dynclip.lab.fresh.language import CELLS, LANGUAGE_ARMS, probe
from dynclip.lab.fresh.language import SEEDS as LANGUAGE_SEEDS
from dynclip.lab.fresh.measure import measure, measure_grid
from dynclip.lab.fresh.page import accuracy, page
from dynclip.lab.fresh.world import FreshRegime, own_slope, run, start
from dynclip.studies.scales import WORDED
from dynclip.training.loop import Loop
from dynclip.training.worlds import folders, tasks
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.tasks import task_of
from dynclip.training.worlds.warm_start import warm_start
from evals.benchmarks.worlds import generate

SMALL = FreshRegime(positions=4, neutral=3, actions=8, right=4, problems=8, group=4, minibatches=2, epochs=2, steps=3)
COIN = FreshRegime(positions=12, neutral=12, actions=16, problems=32, epochs=3, own=0.3, steps=30)


def bounds_of(name, **options):
    return lambda q: method(name, 10, **options).bounds(q, 0)


@pytest.mark.parametrize("token", [0, 3])
def test_the_own_step_is_a_token_s_slope_along_its_own_gradient(token):
    logits = torch.tensor([1.0, 0.3, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    logprob = torch.log_softmax(logits, -1)
    (slope,) = torch.autograd.grad(logprob[token], logits)
    assert own_slope(logprob.detach(), torch.tensor(token)).item() == pytest.approx((slope @ slope).item())


def test_the_first_log_ratio_is_kappa_times_advantage_times_slope():
    """One mini-batch, one epoch: the own step of every token is the definition of κ."""
    regime = replace(COIN, minibatches=1, epochs=1, steps=1, learning_rate=0.0)
    trace = run(regime, "grpo", seeds=range(4))
    logprob = torch.log_softmax(start(regime)[0], -1)
    slope = float((logprob.exp() * own_slope(logprob.expand(16, -1), torch.arange(16))).sum())
    values, weights = advantage_law(8, 0.5)
    size = float((weights * values.abs()).sum() / weights[values != 0].sum())
    assert trace.own_step.mean() == pytest.approx(0.3 * size * slope, rel=0.03)


def test_one_epoch_gives_every_bound_the_same_run():
    """The ratio is 1 at a token's only update, apart from what the shared logits moved before it."""
    regime = replace(SMALL, minibatches=1, epochs=1)
    base = run(regime, "grpo", seeds=(0, 1))
    other = run(regime, "dynamic_upper", seeds=(0, 1))
    assert np.array_equal(base.entropy, other.entropy) and base.clip_low.max() == 0


def test_a_seed_is_the_same_alone_and_beside_others():
    together, alone = run(SMALL, "id", seeds=(3, 4)), run(SMALL, "id", seeds=(4,))
    assert np.allclose(together.entropy[1], alone.entropy[0], atol=1e-5)


def test_recurring_problems_keep_what_they_learned():
    """With all problems recurring and no shared learning, decisive tokens still learn; fresh ones do not."""
    learns = {}
    for recurring in (0, 8):
        regime = replace(SMALL, recurring=recurring, learning_rate=0.0, steps=12)
        trace = run(regime, "grpo", seeds=range(3))
        learns[recurring] = (trace.success[:, -1] - trace.success[:, 0]).mean()
    assert learns[0] == pytest.approx(0, abs=1e-6) and learns[8] > 0.1


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_runs_or_says_why_not(name):
    needs = METHODS[name].needs
    if "entropy_gradient" in needs or "clamped_entropy" in needs:
        with pytest.raises(ValueError, match="differentiates the entropy"):
            run(SMALL, name)
        return
    trace = run(SMALL, name, seeds=(0, 1))
    assert trace.entropy.shape == (2, 4) and np.isfinite(trace.entropy).all()
    assert np.abs(trace.entropy[:, -1] - trace.entropy[:, 0]).max() > 0


@pytest.mark.parametrize(("fields", "text"), [
    ({"neutral": 5}, "neutral: expected at most 4, given 5"),
    ({"own": -1.0}, "own: expected a finite number of at least 0, given -1.0"),
    ({"own": math.nan}, "own: expected a finite number"),
    ({"minibatches": 3}, "minibatches: expected a divisor of the 8 problems, given 3"),
    ({"optimizer": "lion"}, "optimizer: expected one of adam, sgd, given 'lion'"),
    ({"steps": 2.5}, "steps: expected a whole number of at least 1, given 2.5"),
])  # fmt: skip
def test_bad_settings_are_named(fields, text):
    with pytest.raises(ValueError) as error:
        replace(SMALL, **fields)
    assert text in str(error.value)


@pytest.mark.parametrize("success", [0.1, 0.5])
@pytest.mark.parametrize("group", [4, 8])
def test_the_law_of_advantages_is_that_of_sampled_groups(group, success):
    values, weights = advantage_law(group, success)
    assert weights.sum() == pytest.approx(1) and (weights * values).sum() == pytest.approx(0, abs=1e-12)
    rewards = (torch.rand(50_000, group, generator=torch.Generator().manual_seed(0)) < success).double()
    sampled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    for power in (2, 3):
        assert (weights * values**power).sum() == pytest.approx((sampled**power).mean().item(), abs=0.03)


@pytest.mark.parametrize(("own", "epochs"), [(0.0, 4), (0.7, 1)])
def test_without_own_movement_there_is_no_drift(own, epochs):
    logprob = torch.log_softmax(start(COIN)[0], -1)
    mean, variance = push(logprob, own, advantage_law(8, 0.5), bounds_of("grpo"), epochs)
    assert mean.abs().max() < 1e-12 and variance.min() > 0


def test_the_push_is_the_mean_gradient_of_sampled_tokens():
    """Against the policy itself: the first step of plain descent on the shared logits, averaged over many tokens."""
    regime = replace(COIN, minibatches=1, optimizer="sgd", learning_rate=1e-4, steps=1, positions=40, neutral=40)
    moved = []
    run(replace(regime, steps=2), "grpo", range(24), watch=lambda step, state, *_: moved.append(state.shared.clone()))
    change = (moved[1] - moved[0]).double().mean((0, 1)) / (1e-4 * regime.epochs)
    logprob = torch.log_softmax(start(regime)[0], -1)
    mean, variance = push(logprob, regime.own, advantage_law(8, 0.5), bounds_of("grpo"), regime.epochs)
    error = (variance / (24 * 40 * 256)).sqrt()
    assert ((change - mean).abs() < 5 * error).all()
    assert (mean.abs() > 5 * error).any()


@pytest.mark.parametrize("arm", ["dynamic_upper", "dynamic_lower", "upper_steep"])
def test_the_predicted_curves_are_those_of_the_policy(arm):
    name, options = ARMS[arm]
    effects = []
    for which, given in ((name, options), ("grpo", {})):
        trace = run(COIN, which, range(6), given)
        effects.append((trace.entropy_neutral[:, -1].mean(), float(predict(COIN, which, given)[-1])))
    measured, predicted = (a - b for a, b in zip(*effects, strict=True))
    assert np.sign(measured) == np.sign(predicted) and 0.5 < measured / predicted < 2


def test_the_effect_turns_round_where_one_step_overshoots():
    """Derived in drift.py: κ far above the bound, the looser upper bound lowers entropy and the lower one raises it."""
    for own, sign in ((0.3, 1), (1.0, -1)):
        regime = replace(COIN, own=own)
        end = {arm: float(predict(regime, *ARMS[arm])[-1]) for arm in ("grpo", "dynamic_upper", "dynamic_lower")}
        assert sign * (end["dynamic_upper"] - end["grpo"]) > 0.01 > sign * (end["dynamic_lower"] - end["grpo"])


def test_the_grids_are_what_they_were_declared_to_be():
    assert len(mapped()) == len(OWN) * len(VARIATIONS) and mapped()["centre: 10 of 12 tokens neutral", 0.3] == CENTRE
    drawn = regimes("test")
    assert len(drawn) == 40 and len(set(drawn)) == 40 and not set(drawn) & set(regimes("train"))
    assert drawn == regimes("test")


def test_a_killed_grid_goes_on_where_it_stopped(tmp_path, monkeypatch):
    some = [SMALL, replace(SMALL, own=1.0)]
    monkeypatch.setattr(measuring, "regimes", lambda grid: some)
    measure_grid("test", tmp_path, 1)
    kept = (tmp_path / "parts-test" / "0.json").stat().st_mtime_ns
    (tmp_path / "parts-test" / "1.json").unlink()
    before = (tmp_path / "cells-test.csv").read_bytes()
    measure_grid("test", tmp_path, 1)
    assert (tmp_path / "parts-test" / "0.json").stat().st_mtime_ns == kept
    assert (tmp_path / "cells-test.csv").read_bytes() == before


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """rate -> the loop of two untrained policies in the world `worded`, with tokens that no reward depends on."""
    quick = replace(WORDED.policy.warm_start, pass_at_1=0.0, check_every=1)
    scale = replace(
        WORDED, policy=replace(WORDED.policy, warm_start=quick), prompts_per_step=8, minibatches=2, epochs=2
    )
    problems, folder = generate("worded", 60, 1, held_out=False), tmp_path_factory.mktemp("base")
    base = {seed: folder / f"seed{seed}" for seed in (0, 1)}
    warm_start(scale, problems, base, lambda text: None)

    def loop(rate: float) -> Loop:
        own = replace(scale, learning_rate=rate, rate_warmup=0)
        task = task_of(own, (0, 1), base, problems)
        weights = stack([folders.load(place, task.network) for place in base.values()])
        return Loop(own, [method("grpo", 4) for _ in base], (0, 1), task, weights)

    return loop


def test_a_probe_measures_the_own_step_and_leaves_the_run_alone(language, monkeypatch):
    # An untrained policy earns nothing, so a coin grades it.
    coin = np.random.default_rng(0).integers(0, 2, 1000).astype(float)
    monkeypatch.setattr(tasks, "graded_once", lambda reward, texts, golds: coin[: len(texts)].tolist())
    found = {rate: language(rate) for rate in (0.0, 2e-4, 4e-4)}
    before = {name: value.clone() for name, value in found[4e-4].weights.items()}
    probes = {rate: probe(loop) for rate, loop in found.items()}
    assert all(torch.equal(value, found[4e-4].weights[name]) for name, value in before.items())
    assert found[4e-4].done == 0 and not found[4e-4].optimizer.state
    assert probes[0.0]["own"] == pytest.approx(0, abs=1e-6) and probes[4e-4]["own"] > 1.3 * probes[2e-4]["own"] > 0
    assert probes[4e-4]["scores"]["grpo"] == 0 and set(probes[4e-4]["scores"]) == set(LANGUAGE_ARMS)


REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "steering"


COMMITTED = [file.stem.removeprefix("cells-") for file in sorted(REFERENCE.glob("cells-*.csv"))]


def committed() -> dict[str, pd.DataFrame]:
    return {part: pd.read_csv(REFERENCE / f"cells-{part}.csv") for part in COMMITTED}


def test_the_committed_page_is_made_from_the_committed_cells():
    cells = committed()
    found = page(
        {grid: cells[grid] for grid in ("train", "test")},
        *(cells.get(part) for part in ("language", "curves", "sizes")),
    )
    assert found == (REFERENCE / "README.md").read_text()


def test_the_committed_cells_are_those_of_the_declared_grids():
    cells = committed()
    for grid in ("train", "test"):
        declared = regimes(grid)
        assert sorted(set(cells[grid]["regime"])) == list(range(len(declared)))
        for number, rows in cells[grid].groupby("regime"):
            assert set(rows["arm"]) == set(ARMS) - {"grpo"} and set(rows["n"]) <= {0, *range(4, 9)}
            for field in dataclasses.fields(declared[number]):
                assert set(rows[f"regime.{field.name}"]) == {getattr(declared[number], field.name)}
    assert set(cells["language"]["cell"]) == set(CELLS) and set(cells["language"]["n"]) == {len(LANGUAGE_SEEDS)}


def test_the_predictions_are_made_from_the_regime_and_grpo_s_reward_alone():
    """Committed predictions, computed again; the reward of these regimes is a coin's, so no run is needed."""
    rows = committed()["test"]
    rows = rows[(rows["where"] == "end") & (rows["regime.neutral"] == rows["regime.positions"])]
    declared = regimes("test")
    assert len(rows) >= 14
    for row in rows.iloc[::5].to_dict("records"):
        regime = declared[row["regime"]]
        ends = [float(predict(regime, *ARMS[arm])[-1]) for arm in (row["arm"], "grpo")]
        assert ends[0] - ends[1] == pytest.approx(row["predicted"], rel=1e-3, abs=1e-4)


def test_the_document_states_the_committed_numbers():
    cells, text = committed()["test"], (REFERENCE.parents[2] / "docs" / "steering.md").read_text()
    ends = cells[cells["where"] == "end"]
    for predictor in ("predicted", "large", "trial", "paper"):
        share, low, high = accuracy(ends, predictor)[0]
        assert f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in text, predictor


def test_accuracy_by_hand():
    """Undecided rows and rows without a prediction do not count; "large" leaves out what is below 0.01 nats."""
    cells = pd.DataFrame(
        [
            {"regime": 0, "arm": "dynamic_upper", "sign": 1, "predicted": 0.2, "trial": -1.0},
            {"regime": 0, "arm": "dynamic_lower", "sign": 1, "predicted": 0.005, "trial": 1.0},
            {"regime": 1, "arm": "no_clip", "sign": -1, "predicted": 0.02, "trial": -1.0},
            {"regime": 1, "arm": "clip_lower", "sign": 0, "predicted": -0.2, "trial": -1.0},
            {"regime": 2, "arm": "clip_lower", "sign": -1, "predicted": math.nan, "trial": -1.0},
        ]
    )
    shares = {name: accuracy(cells, name) for name in ("predicted", "large", "trial", "paper", "up", "down")}
    assert {name: (pytest.approx(found[0][0], abs=1e-5), found[1]) for name, found in shares.items()} == {
        "predicted": (2 / 3, 3), "large": (1 / 2, 2), "trial": (2 / 3, 3), "paper": (1 / 2, 2), "up": (2 / 3, 3),
        "down": (1 / 3, 3),
    }  # fmt: skip
    assert accuracy(cells[cells["sign"] == 0], "up") == ([None, None, None], 0)


def test_a_page_without_cells_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--page", "--out", str(tmp_path)])
    assert f"{tmp_path} has no cells-train.csv; run without --page to measure it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--processes", "0", "--out", str(tmp_path)])
    assert "--processes: expected at least 1, given 0" in capsys.readouterr().err


def test_the_command_makes_the_committed_page_and_the_figures(tmp_path):
    for part in COMMITTED:
        shutil.copy(REFERENCE / f"cells-{part}.csv", tmp_path)
    assert main(["--page", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_bytes() == (REFERENCE / "README.md").read_bytes()
    for name in ("map", "predictor", "curves"):
        assert (tmp_path / f"fresh-{name}.svg").stat().st_size > 10_000


def test_cells_have_all_arms_and_places():
    rows = measure(SMALL, range(4))
    assert {(row["arm"], row["where"]) for row in rows} == {
        (arm, where) for arm in list(ARMS)[1:] for where in ("half", "end", "success")
    }
    assert all(math.isfinite(row["predicted"]) for row in rows if row["where"] != "success")
    assert all(field.name in {key.removeprefix("regime.") for key in rows[0]} for field in dataclasses.fields(SMALL))
