"""The sign-agreement finding: what is counted, over which tokens, with which intervals, and that the page says it."""

import copy
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainer import PROMPTS, model, tokenizer

from dynclip.lab.agreement import checkpoints
from dynclip.lab.agreement import measure as measuring
from dynclip.lab.agreement.command import main
from dynclip.lab.agreement.counts import Tokens, grid, join, marginals, ratios, summarise
from dynclip.lab.agreement.measure import group_advantages, load_prompts, measure, policy_tokens, random_tokens
from dynclip.lab.agreement.page import load, page, policy_table, random_table, render
from dynclip.regions import alignment
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256
from evals.benchmarks.problem import Problem
from evals.engines.transformers_engine import TransformersEngine

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results/reference/sign-agreement"
PROBLEMS = [Problem(str(i), text, "3", 1, "letters") for i, text in enumerate(PROMPTS[:3])]  # of different lengths


def tokens(term, baseline, cluster=None, prob=0.25, entropy=1.0, advantage=np.nan) -> Tokens:
    one = np.ones(len(term))
    return Tokens(
        prob * one,
        entropy * one,
        np.array(term, dtype=float),
        np.array(baseline, dtype=float),
        np.arange(len(term)) if cluster is None else np.array(cluster),
        advantage * one,
    )


@pytest.fixture(scope="module")
def policy():
    return TransformersEngine(model().eval(), tokenizer(), batch_size=4)


def test_what_is_measured_is_the_alignment_of_the_package(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(9, 30, generator=generator)
    actions = torch.randint(30, (9, 4), generator=generator)
    prob, entropy, term, level = (part.reshape(9, 4) for part in measure(logits, actions))
    wide = logits.double().unsqueeze(1).expand(9, 4, 30)
    assert np.allclose(-term, alignment(wide, actions, torch.ones(9, 4), exact=False), atol=1e-14)
    assert np.allclose(level - term, alignment(wide, actions, torch.ones(9, 4)), atol=1e-14)
    assert np.allclose(prob, torch.softmax(logits.double(), -1).gather(1, actions), atol=1e-14)
    assert np.allclose(entropy, torch.distributions.Categorical(logits=logits.double()).entropy()[:, None], atol=1e-14)
    monkeypatch.setattr(measuring, "CHUNK", 60)  # two rows at a time
    assert all(
        np.array_equal(a, b.flatten())
        for a, b in zip(measure(logits, actions), (prob, entropy, term, level), strict=True)
    )


def test_opposite_signs_are_wrong_and_zeros_are_ties():
    found = tokens([0.3, 0.1, -0.1, 0.0, 0.2, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2, 0.0])
    assert found.wrong.tolist() == [False, True, False, False, False, False]
    assert found.tie.tolist() == [False, False, False, True, True, True]


def test_a_summary_by_hand():
    found = summarise(tokens([0.3, 0.1, -0.1, 0.0], [0.2, 0.2, 0.2, 0.2], cluster=[0, 0, 1, 1]))
    assert (found["tokens"], found["clusters"], found["ties"]) == (4, 2, 1)
    assert found["agree"][0] == pytest.approx(2 / 3, abs=1e-6)
    assert found["agree_weighted"][0] == pytest.approx((0.1 + 0.3) / (0.1 + 0.1 + 0.3))
    assert (found["agree_expected"][0], found["agree_surprising"][0]) == (0.5, 1.0)
    assert found["tokens_expected"] == 2 and found["tokens_surprising"] == 1
    assert found["expected"][0] == 0.5
    assert found["mean_term"][0] == pytest.approx(0.075) and found["mean_exact"][0] == pytest.approx(-0.125)
    assert found["agree_p < 0.3"] == found["agree"] and found["agree_p ≥ 0.7"] == [None, None, None]
    assert "agree_E1" not in found and "change_rule" not in found


def test_regions_come_from_the_advantages():
    """p = 0.25 has surprisal 1.386: expected where H = 2, surprising where H = 1."""
    signs = np.array([1, 1, -1, -1, 0])
    found = replace(
        tokens([0.1, -0.1, 0.1, -0.1, 0.1], [0.2] * 5),
        entropy=np.array([2.0, 1, 2, 1, 2]),
        advantage=2.0 * signs,
    )
    summary = summarise(found)
    assert [summary[f"tokens_E{n}"] for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert [summary[f"agree_E{n}"][0] for n in (1, 2, 3, 4)] == [0, 1, 0, 1]
    assert summary["change_rule"][0] == pytest.approx(np.mean(-2 * signs * [0.1, -0.1, 0.1, -0.1, 0.1]))
    assert summary["change_exact"][0] == pytest.approx(np.mean(-2 * signs * [-0.1, -0.3, -0.1, -0.3, -0.1]))
    assert summary["change_baseline"][0] == pytest.approx(summary["change_rule"][0] - summary["change_exact"][0])


def test_intervals_spread_over_clusters_not_over_tokens():
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(40), 5)
    right = (rng.random((200, 1)) < np.repeat(rng.random(40), 5)[:, None]).astype(float)
    [(value, low, high)] = ratios(right, np.ones((200, 1)), cluster)
    assert value == pytest.approx(right.mean(), abs=1e-6) and low < value < high
    # The same tokens ten times over are no more evidence; were they independent, they would be.
    many = np.repeat(right, 10, axis=0)
    assert ratios(many, np.ones_like(many), np.repeat(cluster, 10)) == [[value, low, high]]
    [(_, narrow_low, narrow_high)] = ratios(many, np.ones_like(many), np.arange(2000))
    assert narrow_high - narrow_low < 0.5 * (high - low)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """120 samples of 60 clusters with a true mean of one half: 95 % intervals miss it in about 6 of them."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(120):
        right = (rng.random(300) < np.repeat(rng.random(60), 5)).astype(float)[:, None]
        [(_, low, high)] = ratios(right, np.ones((300, 1)), np.repeat(np.arange(60), 5))
        missed += not low <= 0.5 <= high
    assert 1 <= missed <= 14


def test_intervals_use_their_own_generator():
    right, cluster = np.array([[1.0], [0.0], [1.0]]), np.arange(3)
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    assert ratios(right, np.ones((3, 1)), cluster) == ratios(right, np.ones((3, 1)), cluster)
    assert np.random.get_state()[1].tolist() == before
    assert ratios(right, np.zeros((3, 1)), cluster) == [[None, None, None]]


def test_bins_hold_every_token_once():
    found = random_tokens("zipf", (0.5, 3.0), 64, "policy", states=50, each=8, seed=3)
    found = join([found, tokens([0.0, 0.1], [0.1, 0.1])])
    counts, wrong = grid(found)
    assert counts.sum() == len(found.prob) - 2 == 400 and wrong.sum() == found.wrong.sum()
    rows = marginals(found)
    assert [row[0] for row in rows["by_p"]] == counts.sum(1).tolist()
    assert [row[0] for row in rows["by_entropy"]] == counts.sum(0).tolist()
    share = 1 - wrong.sum(0) / np.maximum(counts.sum(0), 1)
    assert [row[1] for row in rows["by_entropy"] if row[0]] == pytest.approx(share[counts.sum(0) > 0], abs=1e-6)


@pytest.mark.parametrize("family", ["gaussian", "zipf"])
@pytest.mark.parametrize("vocabulary", [8, 1024])
def test_random_tokens_come_from_their_own_policy(family, vocabulary):
    found = random_tokens(family, (1.0, 1.0), vocabulary, "policy", states=200, each=16, seed=4)
    assert len(found.prob) == 3200 and len(np.unique(found.cluster)) == 200
    assert np.array_equal(found.term, random_tokens(family, (1.0, 1.0), vocabulary, "policy", 200, 16, 4).term)
    summary = summarise(found)
    # Drawn from the policy, p (ln p + H) − B has mean zero: four standard errors around it.
    assert abs(summary["mean_exact"][0]) < summary["mean_exact"][2] - summary["mean_exact"][1]
    assert summary["agree_surprising"] == [1.0, 1.0, 1.0] and summary["agree"][0] < 0.95
    even = random_tokens(family, (1.0, 1.0), vocabulary, "uniform", states=200, each=16, seed=4)
    assert even.prob.mean() == pytest.approx(1 / vocabulary, rel=0.15) and found.prob.mean() > 1.5 * even.prob.mean()


def test_mixed_scales_differ_between_states():
    found = random_tokens("gaussian", (0.5, 8.0), 64, "policy", states=300, each=1, seed=5)
    assert found.entropy.min() < 0.3 and found.entropy.max() > 3.9


def test_a_policys_tokens_are_scored_under_the_text_before_them(policy, monkeypatch):
    """Against one plain forward pass of each whole sequence: no padding, no shift by one, nothing after the end."""
    drawn, draw_ids = [], policy.draw_ids

    def spied(texts, *given):
        found = draw_ids(texts, *given)
        drawn.extend(zip([text for text in texts for _ in range(2)], found[0], strict=True))
        return found

    monkeypatch.setattr(policy, "draw_ids", spied)
    found = policy_tokens(policy, PROBLEMS, samples=2, length=6, seed=7)
    assert [text for text, _ in drawn] == [problem.problem for problem in PROBLEMS for _ in range(2)]
    expected, clusters = [], []
    for number, (text, completion) in enumerate(drawn):
        ids = policy.tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = policy.model(torch.tensor([ids + completion])).logits[0].double()
        logprob = torch.log_softmax(logits, -1)[len(ids) - 1 : -1]
        expected += logprob.gather(1, torch.tensor(completion)[:, None])[:, 0].exp().tolist()
        clusters += [number // 2] * len(completion)
    assert found.prob.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.cluster.tolist() == clusters and set(clusters) == {0, 1, 2}
    again = policy_tokens(policy, PROBLEMS, samples=2, length=6, seed=7)
    assert again.prob.tolist() == found.prob.tolist() and drawn[: len(drawn) // 2] == drawn[len(drawn) // 2 :]


def test_policies_are_sampled_at_temperature_one(policy):
    """Only then is the mean surprisal of the samples the mean entropy; a peaked policy shows it."""
    scaled = copy.deepcopy(policy.model)
    with torch.no_grad():
        scaled.model.norm.weight.mul_(8)
    peaked = TransformersEngine(scaled, policy.tokenizer, batch_size=300)
    found = policy_tokens(peaked, PROBLEMS, samples=100, length=8, seed=3)
    gap = -np.log(found.prob) - found.entropy
    assert found.entropy.mean() < 2.0 < np.log(20)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap)) < 0.2


def test_group_advantages_by_hand():
    texts = [r"\boxed{3}", r"\boxed{4}", r"\boxed{5}", r"\boxed{3}"]
    scale = np.sqrt(1 / 3) + 1e-4
    three = PROBLEMS[0]
    assert group_advantages(three, texts) == pytest.approx(np.array([1, -1, -1, 1]) / 2 / scale)
    assert group_advantages(replace(three, answer="9"), texts).tolist() == [0, 0, 0, 0]
    assert np.isnan(group_advantages(three, texts[:1])).all()


def write_prompts(path: Path) -> None:
    """A data file with the manifest that `dynclip data` writes beside it."""
    path.write_text("".join(json.dumps(asdict(problem)) + "\n" for problem in PROBLEMS))
    manifest = {"files": {path.name: {"rows": len(PROBLEMS), "sha256": sha256(path)}}}
    path.with_name("manifest.json").write_text(json.dumps(manifest))


def test_two_commands_make_the_page(policy, tmp_path, monkeypatch):
    # tests/evals must not stand for the package of that name, whose code is part of the recorded digest.
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "evals", raising=False)
    policy.model.save_pretrained(tmp_path / "tiny")
    policy.tokenizer.save_pretrained(tmp_path / "tiny")
    write_prompts(tmp_path / "prompts.jsonl")
    out = tmp_path / "out"
    assert main(["--out", str(out), "--states", "4", "--each", "2"]) == 0
    given = ["--model", str(tmp_path / "tiny"), "--prompts", str(tmp_path / "prompts.jsonl"), "--samples", "2"]
    assert main(["--out", str(out), *given, "--length", "6", "--name", "A tiny policy"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "random.json", "random.csv", "a-tiny-policy.json", "a-tiny-policy.csv", "README.md", "agreement.png",
        "agreement.svg",
    }  # fmt: skip
    found = json.loads((out / "a-tiny-policy.json").read_text())
    assert found["settings"]["prompts"] == "prompts.jsonl" and found["settings"]["model"] == "tiny"
    assert found["settings"]["weights_sha256"] == sha256(tmp_path / "tiny" / "model.safetensors")
    assert str(tmp_path) not in "".join(path.read_text() for path in out.iterdir() if path.suffix != ".png")
    policies, random, bins = load(out)
    assert (out / "README.md").read_text() == page(policies, random)
    assert "A tiny policy" in policy_table(policies) and "| zipf 3 |" in random_table(random, "uniform")
    assert render(policies, bins)["png"] == (out / "agreement.png").read_bytes()
    assert b"<dc:date>" not in (out / "agreement.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "anywhere"], "--model and --prompts: expected both or neither"),
        (["--model", "no such model", "--prompts", "x.jsonl"], "no such model: no such folder, and not a hub id"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys):
    assert main(["--out", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("paths", "scale paths: expected a language policy, but its policy reads nodes of a graph; use facts"),
        ("laptob", "unknown scale 'laptob'; the scales are: paths, facts"),
    ],
)
def test_scales_without_a_language_policy_are_refused(scale, said, tmp_path, capsys):
    assert checkpoints.main(["--scale", scale, "--seeds", "0", "--out", str(tmp_path / "signs.json")]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1 and not list(tmp_path.iterdir())


def test_prompts_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl is missing"):
        load_prompts(str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match=r"--prompts gsm9k: expected a \.jsonl file or a benchmark: .*gsm8k"):
        load_prompts("gsm9k")


def test_the_committed_page_is_that_of_the_committed_numbers():
    policies, random, _ = load(REFERENCE)
    assert (REFERENCE / "README.md").read_text() == page(policies, random)
    text = (ROOT / "docs/regions.md").read_text()
    assert policy_table(policies) in text and random_table(random, "policy") in text
    for policy in policies:
        assert policy["agree_surprising"] == [1.0, 1.0, 1.0] and policy["agree_p ≥ 0.7"] == [1.0, 1.0, 1.0]
        assert policy["mean_exact"][1] <= 0 <= policy["mean_exact"][2]
    assert all(source["agree_surprising"][0] == 1 for source in random["sources"])
