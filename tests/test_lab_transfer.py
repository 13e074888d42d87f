"""The trial of one batch on a language model: what it changes, what it measures, and what is said of it."""

import math

import pytest
import torch
from tiny_trainer import PROMPTS, early_letters, model, tokenizer

from dynclip.lab import transfer
from dynclip.lab.transfer import held_against, mean_entropy, page, trial
from evals.stats import difference


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def ends(checkpoint, arm, tmp_path, seed=0):
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    return trial(checkpoint, arm, seed, rows, early_letters, tmp_path / arm).state_dict()


def test_a_trial_is_the_same_twice_and_another_bound_changes_the_last_batch_alone(checkpoint, tmp_path, monkeypatch):
    grpo, again, looser = (ends(checkpoint, arm, tmp_path) for arm in ("grpo", "grpo", "upper_0.4"))
    assert all(torch.equal(grpo[name], again[name]) for name in grpo)
    assert any(not torch.equal(grpo[name], looser[name]) for name in grpo)
    # With the last batch taken away nothing of the arm is left.
    monkeypatch.setattr(transfer, "BEFORE", 1)
    late = ends(checkpoint, "upper_0.4", tmp_path)
    assert any(not torch.equal(late[name], looser[name]) for name in late)


def test_entropy_is_that_of_the_tokens_of_the_responses_alone(checkpoint):
    policy, words = model().eval(), tokenizer()
    pairs = [("abc", "defg"), ("a", "bc")]
    total, count = 0.0, 0
    for prompt, response in pairs:
        tokens = words(prompt + response, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprob = torch.log_softmax(policy(tokens).logits[0], -1)
        entropy = -(logprob.exp() * logprob).sum(-1)
        total += float(entropy[len(prompt) - 1 : -1].sum())
        count += len(response)
    assert mean_entropy(policy, words, pairs) == pytest.approx(total / count, rel=1e-5)


def gap(arm, values, where="entropy at half time"):
    return difference(values, dict.fromkeys(values, 0.0), (arm, "grpo"), where, unit="nats")


def test_agreement_counts_where_both_are_decided():
    seeds = range(5)
    up, down = ({s: sign * (0.1 + 0.001 * s) for s in seeds} for sign in (1, -1))
    noise = {s: 0.01 * (-1) ** s for s in seeds}
    found = {"clip_higher": up, "dynamic_upper": down, "clip_lower": noise}
    gaps = [gap("clip_higher", up), gap("dynamic_upper", up), gap("clip_lower", down), gap("clip_lower", up, "reward")]
    rows = held_against(found, gaps)
    assert [row["agrees"] for row in rows] == [True, False, None] and len(rows) == 3
    text = page(rows)
    assert "Both decided: 2 rows, the same sign in 1." in text and text.count("\n| ") >= 3
    assert all(math.isfinite(row["trial_low"]) for row in rows)
