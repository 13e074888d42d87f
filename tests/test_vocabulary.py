"""Chunked reductions over the vocabulary against the same on full logits."""

import pytest
import torch

from dynclip.methods.vocabulary import clamped_entropy, reduce_logits
from dynclip.regions import baseline


def head_and_hidden(rows=3, length=11, width=6, vocabulary=13, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, width, generator=generator, dtype=dtype).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(vocabulary, generator=generator, dtype=dtype).requires_grad_()
    return hidden, head, bias


@pytest.mark.parametrize("reduction", [baseline, lambda logits: clamped_entropy(logits, clamp=0.4)])
@pytest.mark.parametrize("chunk", [1, 5, 33, 1000])
def test_chunks_give_the_values_and_gradients_of_full_logits(reduction, chunk):
    hidden, head, bias = head_and_hidden()
    full = reduction((hidden @ head.T + bias) / 0.7)
    parts = reduce_logits(hidden, head, reduction, bias, temperature=0.7, chunk=chunk)
    assert parts.shape == (3, 11) and torch.allclose(parts, full)
    weights = torch.linspace(-1, 1, 33, dtype=torch.float64).view(3, 11)
    wanted = torch.autograd.grad((full * weights).sum(), (hidden, head, bias))
    for got, expected in zip(torch.autograd.grad((parts * weights).sum(), (hidden, head, bias)), wanted, strict=True):
        assert torch.allclose(got, expected)


def test_no_more_than_a_chunk_of_logits_exists_at_a_time():
    """Every tensor of V columns that the forward and backward passes make has at most `chunk` rows."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for value in made if isinstance(made, tuple | list) else (made,):
                if isinstance(value, torch.Tensor) and value.dim() and value.size(-1) == 13:
                    seen.append(value.numel() // 13)
            return made

    hidden, head, bias = head_and_hidden()
    with Watch():
        reduce_logits(hidden, head, baseline, bias, chunk=4).sum().backward()
    assert seen and max(seen) <= 6  # 4 rows of logits; the head's own gradient has V x D, seen as (D, V): 6 rows


def test_low_precision_hidden_states_are_reduced_in_float32():
    hidden, head, _ = head_and_hidden(dtype=torch.bfloat16)
    assert reduce_logits(hidden, head, baseline).dtype == torch.float32


def test_clamped_entropy_renormalises_the_likeliest_tokens():
    """Of (0.5, 0.3, 0.1, 0.1)-like logits the int(4 · 0.5) = 2 least likely go: entropy of (5/8, 3/8)."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log().requires_grad_()
    value = clamped_entropy(logits, clamp=0.5)
    p = torch.tensor([0.625, 0.375], dtype=torch.float64)
    assert value.item() == pytest.approx(-(p * p.log()).sum().item())
    grad = torch.autograd.grad(value, logits)[0]
    assert (grad[2:] == 0).all() and (grad[:2] != 0).all()
    assert clamped_entropy(logits, clamp=0.2).item() == pytest.approx(
        torch.distributions.Categorical(logits=logits).entropy().item()
    )
