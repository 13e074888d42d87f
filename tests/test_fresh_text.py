"""The measurement of κ and of neutral tokens on real text, with a tiny untrained model and a real tokenizer."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynclip import method
from dynclip.lab.fresh import rollouts, text
from dynclip.lab.fresh.rollouts import (
    LEAST,
    SCALE,
    Group,
    complete,
    describe,
    neutral_shares,
    of_tokens,
    packed,
    read,
)
from dynclip.lab.fresh.text_page import arrow, page
from dynclip.methods.types import TokenBatch
from dynclip.studies.architectures import SMOLLM2_135M
from dynclip.studies.scales import HubPolicy
from dynclip.training.hub_policy import random_model
from evals.benchmarks.problem import Problem
from evals.engines.transformers_engine import TransformersEngine
from evals.sampling.settings import Sampling

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "steering"
PROBLEMS = [
    Problem(
        f"p{n}", f"Ann has {n} apples and buys {n + 1} more. How many apples has she now?", str(2 * n + 1), 1, "apples"
    )
    for n in range(12)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Llama of SmolLM2's architecture at a tiny width, with a byte-level tokenizer and ChatML."""
    place = tmp_path_factory.mktemp("tiny")
    random_model(HubPolicy("tiny", SMOLLM2_135M), PROBLEMS, place)
    return place


@pytest.fixture
def engine(folder):
    return TransformersEngine.load(folder, dtype="float32")


def a_group(engine, rewards=(1.0, 0.0, 0.0, 1.0)) -> Group:
    prompt = "Ann has 3 apples."
    torch.manual_seed(1)
    ids = complete(engine, [prompt], len(rewards), 9)[0]
    ids[1] = ids[1][:4]
    given = tuple(engine.tokenizer(prompt)["input_ids"])
    return Group("p", given, tuple(map(tuple, ids)), rewards, (False,) * len(rewards), (False,) * len(rewards))


def test_packed_completions_have_the_log_probabilities_of_single_sequences(engine):
    group = a_group(engine)
    with torch.no_grad():
        together = of_tokens(read(engine.model, group), packed(group)[1])
        alone = []
        for completion in group.completions:
            logits = engine.model(torch.tensor([[*group.prompt, *completion]])).logits[0]
            places = torch.log_softmax(logits[len(group.prompt) - 1 : -1], -1)
            alone.append(of_tokens(places, torch.tensor(completion)))
    assert torch.allclose(together, torch.cat(alone), atol=1e-5) and len(together) == group.tokens


def test_completions_are_those_of_the_engine(engine):
    """The same random numbers give the same tokens, whether a prompt is read once or n times, and end where it ends."""
    texts = ["Ann has 3 apples.", "How many?"]
    torch.manual_seed(5)
    token = complete(engine, texts, 3, 4)[0][0][2]
    engine.ends = [token]  # a token that is drawn, so that some completions end early
    torch.manual_seed(5)
    ours = complete(engine, texts, 3, 1)
    torch.manual_seed(5)
    theirs, _ = engine.draw_ids(texts, [1, 1], 3, Sampling(1.0, 1.0, 0, 1), special_tokens=False)
    assert [row for group in ours for row in group] == theirs
    torch.manual_seed(5)
    longer = [row for group in complete(engine, texts, 3, 12) for row in group]
    assert {len(row) for row in longer} - {12} and all(token not in row[:-1] for row in longer)
    assert all(len(row) == 12 or row[-1] == token for row in longer)


def test_a_group_s_advantages_are_those_of_training():
    group = Group("p", (1,), ((2,),) * 4, (1.0, 0.0, 0.0, 0.0), (True,) * 4, (True,) * 4)
    deviation = math.sqrt(1 * 3 / (4 * 3)) + 1e-4
    assert group.advantages.tolist() == pytest.approx([0.75 / deviation, *[-0.25 / deviation] * 3])
    assert group.mixed and not replace(group, rewards=(1.0,) * 4).mixed


def test_clipped_tokens_are_counted_by_probability():
    old = torch.tensor([[0.05, 0.3, 0.7, 0.95]]).log()
    moved = torch.tensor([[0.3, -0.4, 0.1, 0.3]])
    rise = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    counts = text.clipped(method("grpo", 1), TokenBatch(old + moved, old, rise, torch.ones_like(old)))
    assert list(counts.values()) == [[4, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_the_updates_move_tokens_along_their_advantage(engine):
    groups = [replace(a_group(engine), problem=str(n)) for n in range(4)]
    sampled, places = describe(engine.model, groups, 8)
    assert len(places) == 8 and all(place.exp().sum() == pytest.approx(1, abs=1e-4) for place in places)
    tokens = sum(group.tokens for group in groups)
    start = {name: value.clone() for name, value in engine.model.state_dict().items()}
    steps = {}
    for rate in (0.0, 2e-4, 4e-4):
        engine.model.load_state_dict(start)
        result = text.train(engine.model, groups, sampled, tokens, rate, text.Progress("updates", 16))
        assert len(result["norms"]) == 16 and result["clipped"]["4"]["all"][0] == 4 * tokens
        if rate:
            steps[rate] = text.summary(result, sampled, 4)
        else:
            assert max(abs(value) for row in result["moved"]["4"] for value in row) < 1e-5
    assert steps[4e-4]["own"] > 1.3 * steps[2e-4]["own"] > 0
    low, high = steps[2e-4]["interval"]
    assert low <= steps[2e-4]["own"] + 1e-9 and steps[2e-4]["own"] <= high + 1e-9
    assert 0 < steps[2e-4]["explained"] < 1


def test_kappa_is_found_where_the_movement_is_the_definition(engine):
    sampled, _ = describe(engine.model, [a_group(engine)] * 3, 3)
    moved = torch.cat([3 * 0.02 * each.advantages * each.slope for each in sampled])
    step = text.own_step(moved, sampled, 3)
    assert step["own"] == pytest.approx(0.02, rel=1e-4) and step["explained"] == pytest.approx(1)


def synthetic_groups(count: int = 40) -> list[Group]:
    """Token 7 makes a completion right nine times in ten, against one in ten; tokens 20 to 49 have no effect."""
    rng = np.random.default_rng(3)
    groups = []
    for number in range(count):
        has = rng.random(8) < 0.5
        right = rng.random(8) < np.where(has, 0.9, 0.1)
        rows = tuple(tuple([1, *rng.integers(20, 50, 6).tolist()] + [7] * int(own)) for own in has)
        groups.append(Group(str(number), (0,), rows, tuple(right.astype(float).tolist()), (True,) * 8, (True,) * 8))
    return [group for group in groups if group.mixed]


def test_a_decisive_token_is_found_and_neutral_ones_are_not():
    groups = synthetic_groups()
    entropies = [[0.5 if token == 7 else 1.0 for row in group.completions for token in row] for group in groups]
    found = neutral_shares(groups, entropies, lambda token: token == 7)
    assert found["least_p"][0]["token"] == 7 and found["least_p"][0]["mean"] > 0.4
    assert found["shares"]["digits and operators"]["BH"] == {"decided": 1, "tokens": 0.0, "entropy": 0.0}
    words = found["shares"]["words and punctuation"]
    assert words["types"] == 31 and words["BH"]["decided"] <= 1 and words["5 %"]["tokens"] > 0.8
    sevens = sum(row.count(7) for group in groups for row in group.completions)
    every = sum(group.tokens for group in groups)
    if not words["BH"]["decided"]:
        assert found["shares"]["all"]["BH"]["tokens"] == pytest.approx(1 - sevens / every)
        assert found["shares"]["all"]["BH"]["entropy"] == pytest.approx(1 - 0.5 * sevens / (every - 0.5 * sevens))


def test_neutral_types_are_distinguishable_as_often_as_chance_says():
    rng = np.random.default_rng(0)
    groups = []
    for number in range(20):
        rows = tuple(tuple(rng.integers(0, 400, 20).tolist()) for _ in range(8))
        groups.append(
            Group(str(number), (0,), rows, tuple(rng.permutation([1.0] * 3 + [0.0] * 5)), (True,) * 8, (True,) * 8)
        )
    found = neutral_shares(groups, [[1.0] * group.tokens for group in groups], lambda token: False)
    share = found["shares"]["all"]["5 %"]["decided"] / found["shares"]["all"]["types"]
    assert 0.02 < share < 0.09 and found["shares"]["all"]["BH"]["decided"] == 0
    assert found["shares"]["digits and operators"]["5 %"]["tokens"] is None and LEAST > 1


@pytest.mark.parametrize("reward", ["correct", "coin"])
def test_a_killed_call_goes_on_and_gives_the_same_numbers(folder, tmp_path, monkeypatch, reward):
    # An untrained policy earns nothing, so a coin grades it here.
    coin = np.random.default_rng(0)
    monkeypatch.setattr(
        rollouts, "rewards", lambda name, texts, golds, problems: coin.integers(0, 2, len(texts)).astype(float).tolist()
    )
    monkeypatch.setattr(rollouts, "SCALE", replace(SCALE, max_completion=6, max_prompt=None))
    monkeypatch.setattr(text, "PLACES", 4)  # the tiny model's distributions are flat, and long for the predictor
    monkeypatch.setattr(text, "TEXT_ARMS", ("grpo", "dynamic_upper"))
    first = text.measure(str(folder), PROBLEMS, 4, 8, 0, reward, tmp_path)
    (parts,) = (tmp_path / "parts-text").iterdir()
    assert {file.name for file in parts.iterdir()} == {"rollouts.json", "updates-1e-6.json", "updates-5e-6.json"}
    if reward == "correct":
        assert first["batch"]["right"] == pytest.approx(np.mean(first["batch"]["rewards"]))
    (parts / "updates-5e-6.json").unlink()
    again = text.measure(str(folder), PROBLEMS, 4, 8, 0, reward, tmp_path)
    assert again["settings"] == first["settings"] and again["neutral"] == first["neutral"]
    assert list(first["settings"]) == ["1e-6, 1", "1e-6, 4", "5e-6, 1", "5e-6, 4"]
    assert all(abs(score) < 1e-9 for score in first["settings"]["1e-6, 1"]["scores"].values())
    assert set(first["batch"]["problems"]) <= {problem.id for problem in PROBLEMS}
    assert page(json.loads(json.dumps(first))) == page(first)


def test_too_few_mixed_groups_are_one_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text, "obtain", lambda entry: (PROBLEMS, {}))
    monkeypatch.setattr(rollouts, "SCALE", replace(SCALE, max_completion=2, max_prompt=None))
    assert text.main(["--model", str(folder), "--out", str(tmp_path), "--prompts", "4", "--groups", "4"]) == 2
    assert "0 of 4 prompts have right and wrong answers" in capsys.readouterr().err
    assert text.main(["--out", str(tmp_path), "--page"]) == 2
    assert f"{tmp_path} has no text.json" in capsys.readouterr().err
    assert text.main(["--out", str(tmp_path), "--groups", "3"]) == 2
    assert "expected 4 <= groups <= prompts" in capsys.readouterr().err


def test_the_committed_page_is_made_from_the_committed_numbers():
    found = json.loads((REFERENCE / "text.json").read_text())
    assert page(found) == (REFERENCE / "text.md").read_text()


def test_arrows():
    assert [arrow(score) for score in (1e-3, -1e-3, 0.0, 1e-15)] == ["↑", "↓", "=", "="]
