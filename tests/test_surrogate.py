"""The gradient of every surrogate: which tokens have none, by the advantage's sign and the ratio's side."""

import math

import pytest
import torch
from test_objective import gradient

# Ratios below, inside and above [0.8, 1.2] (beyond GSPO's tiny interval in any case), N = 1 token a row.
BELOW, INSIDE, ABOVE = 0.5, 1.1, 1.5


def slope(name, ratio, advantage, **options):
    """d loss / d ln p of a single token with q = 0.5."""
    return gradient(name, [ratio], [advantage], options=options)[0].item()


@pytest.mark.parametrize(
    ("name", "positive", "negative"),
    [
        # d loss/d ln p at r = 0.5, 1.1, 1.5 for A = 1 and A = −1
        ("grpo", (-0.5, -1.1, 0.0), (0.0, 1.1, 1.5)),
        ("kl_cov", (-0.5, -1.1, -1.5), (0.5, 1.1, 1.5)),
        ("ce_gppo", (-0.5, -1.1, -1.2), (0.75 * 0.8, 1.1, 1.5)),
        ("gppo", (-0.5, -1.1, -1.28), (0.8, 1.1, 1.5)),
        ("cispo", (-0.5, -1.1, -1.5), (0.5, 1.1, 1.5)),
        (
            "vespo",
            (-0.25 * math.exp(1.5), -1.21 * math.exp(-0.3), -2.25 * math.exp(-1.5)),
            (0.125 * math.e, 1.331 * math.exp(-0.2), 3.375 / math.e),
        ),
        ("gmpo", (-0.5, -1.1, 0.0), (0.0, 1.1, 1.5)),
        (
            "dro",
            (-1 + math.log(0.5), -1 + math.log(1.1), -1 + math.log(1.5)),
            (1 + math.log(0.5), 1 + math.log(1.1), 1 + math.log(1.5)),
        ),
        ("dppo", (-0.5, -1.1, 0.0), (0.0, 1.1, 1.5)),  # |p − q| = 0.25, 0.05, 0.25 against δ = 0.15
    ],
)
def test_slopes_by_hand(name, positive, negative):
    options = {"coefficient": 1e-12} if name == "kl_cov" else {}
    silent = tuple(math.log(r) for r in (BELOW, INSIDE, ABOVE)) if name == "dro" else (0.0, 0.0, 0.0)
    for advantage, wanted in ((1.0, positive), (-1.0, negative), (0.0, silent)):
        got = [slope(name, ratio, advantage, **options) for ratio in (BELOW, INSIDE, ABOVE)]
        assert got == pytest.approx(wanted, abs=1e-9)


def test_a_sequence_ratio_silences_the_whole_sequence_or_none_of_it():
    """GSPO: ln s is the mean ln r. Tokens at r = 1.5 and 1/1.5 have s = 1 and keep A s/T each; at 1.5 twice, none."""
    grad, output = gradient("gspo", [1.5, 1 / 1.5], [1.0, 1.0])
    assert grad.tolist() == pytest.approx([-0.5, -0.5]) and output.metrics["policy/ratio_max"].item() == pytest.approx(
        1
    )
    assert gradient("gspo", [1.5, 1.5], [1.0, 1.0])[0].tolist() == [0.0, 0.0]
    assert gradient("gspo", [1.5, 1.5], [-1.0, -1.0])[0].tolist() == pytest.approx([0.75, 0.75])


def test_a_sequence_ratio_has_the_gradient_of_the_sequences_own_ratio():
    """Averaged over a sequence, GSPO-token's gradient is that of exp(mean ln r) with r as a function of ln p."""
    leaf = torch.tensor([-1.0, -0.7, -2.0], dtype=torch.float64).requires_grad_()
    old = torch.tensor([-1.1, -0.9, -1.8], dtype=torch.float64)
    wanted = torch.autograd.grad(-torch.exp((leaf - old).mean()) * 0.7, leaf)[0]
    ratios = torch.exp(leaf.detach() - old).tolist()
    got = gradient("gspo", ratios, [0.7] * 3, options={"eps_low": 1.0, "eps_high": 9.0})[0]
    assert torch.allclose(got, wanted)


def test_sapos_gate_is_grpos_slope_at_one_and_fades_on_both_sides():
    """f'(r) r = 4 σ(1 − σ) r with σ = σ(τ (r − 1)): 1 at r = 1, less than r elsewhere; τ 1.05 for A ≤ 0."""
    assert slope("sapo", 1.0, 1.0) == pytest.approx(-1.0) and slope("sapo", 1.0, -1.0) == pytest.approx(1.0)
    for ratio in (BELOW, ABOVE, 3.0):
        for advantage, tau in ((1.0, 1.0), (-1.0, 1.05)):
            gate = 1 / (1 + torch.exp(torch.tensor(-tau * (ratio - 1), dtype=torch.float64)).item())
            assert slope("sapo", ratio, advantage) == pytest.approx(-advantage * 4 * gate * (1 - gate) * ratio)


def test_cispo_weighs_by_the_clipped_ratio_on_both_signs():
    assert slope("cispo", 7.0, 1.0) == pytest.approx(-5.0) and slope("cispo", 7.0, -1.0) == pytest.approx(5.0)


def test_a_kept_gradient_survives_a_ratio_that_underflows():
    """CE-GPPO at r = 0: the clipped token keeps β (1 − ε⁻) |A|."""
    leaf = torch.tensor([[-1e4]], requires_grad=True)
    from dynclip import TokenBatch, method

    batch = TokenBatch(leaf, torch.tensor([[-1.0]]), torch.tensor([-1.0]), torch.ones(1, 1))
    grad = torch.autograd.grad(method("ce_gppo", 10).loss(batch, 0).loss, leaf)[0]
    assert grad.item() == pytest.approx(0.75 * 0.8)
