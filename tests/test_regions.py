"""The region rule and its exact counterpart against automatic differentiation."""

import pytest
import torch

from dynclip.regions import alignment, classify


def autograd_alignment(logits, action, advantage):
    z = logits.clone().requires_grad_()
    logprob = torch.log_softmax(z, -1)
    objective = torch.autograd.grad(advantage * logprob[action], z, retain_graph=True)[0]
    entropy = torch.autograd.grad(-(logprob.exp() * logprob).sum(), z)[0]
    return objective @ entropy


@pytest.mark.parametrize("vocabulary", [2, 5, 50])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_exact_alignment_is_the_inner_product_of_the_two_gradients(vocabulary, scale):
    generator = torch.Generator().manual_seed(vocabulary)
    for _ in range(20):
        logits = scale * torch.randn(vocabulary, generator=generator, dtype=torch.float64)
        action = int(torch.randint(vocabulary, (), generator=generator))
        for advantage in (1.3, -0.7, 0.0):
            got = alignment(logits, torch.tensor(action), torch.tensor(advantage, dtype=torch.float64))
            assert got.item() == pytest.approx(autograd_alignment(logits, action, advantage).item(), abs=1e-12)


def test_the_uniform_policy_is_a_tie_everywhere():
    logits = torch.zeros(3, 4, dtype=torch.float64)
    actions, advantages = torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.float64)
    assert alignment(logits, actions, advantages).abs().max() < 1e-15


def test_certain_and_impossible_tokens_give_finite_values():
    logits = torch.tensor([[1e4, 0.0, -1e4]] * 2, dtype=torch.float64)
    values = alignment(logits, torch.tensor([0, 2]), torch.ones(2, dtype=torch.float64))
    assert torch.isfinite(values).all() and values.abs().max() < 1e-12


def test_regions_by_hand():
    """H = 1 nat: p = 0.9 is expected (surprisal 0.105), p = 0.1 surprising (2.303)."""
    logprob = torch.tensor([[0.9, 0.1, 0.9, 0.1, 0.9]]).log()
    entropy = torch.ones(1, 5)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 0.0]])
    assert classify(logprob, entropy, advantages).tolist() == [[1, 2, 3, 4, 0]]
    assert classify(torch.tensor([[-1.0]]), torch.ones(1, 1), torch.ones(1)).tolist() == [[0]]  # a tie


def test_the_region_is_the_sign_of_the_approximate_alignment():
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(500, 6, generator=generator, dtype=torch.float64)
    actions = torch.randint(6, (500,), generator=generator)
    advantages = torch.randn(500, generator=generator, dtype=torch.float64)
    logprobs = torch.log_softmax(logits, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    chosen = logprobs.gather(1, actions[:, None])[:, 0]
    region = classify(chosen[None], entropy[None], advantages[None])[0]
    raises = alignment(logits, actions, advantages, exact=False) > 0
    assert torch.equal(raises, (region == 2) | (region == 3))
