"""The registry: what every entry promises, checked on every entry."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from softmax_policy import random_batch
from test_objective import gradient

import dynclip
from dynclip import METHODS, MethodSpec, method
from dynclip.methods.bounds import constant
from dynclip.methods.spec import piece_options

CLIPPED_BY_BOUNDS = [name for name, spec in METHODS.items() if set(spec.pieces) <= {"bounds", "controller"}]
THE_FIELD = [
    "grpo", "clip_higher", "clip_lower", "dynamic_upper", "dynamic_lower", "id", "did", "od", "ent_reg", "clip_cov",
    "kl_cov", "gspo", "sapo", "cispo", "ce_gppo", "gppo", "steer", "dcpo", "bandpo", "dppo", "clip_b", "clip_v", "par",
    "adaptive_entropy", "thermostat", "aer", "aent", "exchange", "high_entropy", "entropic",
    "vespo", "gmpo", "dro", "adapo", "repo_r", "stare", "cppo", "bapo", "maxrl", "entrocraft", "mimo",
    "rloo", "grpo_dropout",
]  # fmt: skip


# Settings under which a method acts on the few tokens of a test.
ACTING = {"clip_b": {"mu": 0.5}, "clip_v": {"mu": 0.5}}


def loss_and_gradient(name, step=0, seed=0, observed=(), **changes):
    chosen = method(name, 10, **ACTING.get(name, {}))
    for k, entropy in enumerate(observed):
        chosen.observe(k, entropy)
    logits, batch = random_batch(seed, **changes)
    output = chosen.loss(batch, step)
    return output, torch.autograd.grad(output.loss, logits)[0]


def test_the_whole_field_is_registered():
    assert sorted(METHODS) == sorted(THE_FIELD)


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_is_documented(name):
    spec = METHODS[name]
    assert spec.name == name and spec.title and spec.equation and spec.change.endswith(".")
    assert set(spec.sources) == set(spec.defaults), "an option without evidence, or evidence without an option"
    assert all(spec.sources.values()) and all(caveat.endswith(".") for caveat in spec.caveats)
    assert bool(spec.keeps) == bool(spec.controller)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_reaches_a_piece(name):
    """Changing an option changes the bounds, a loss, or what the controller does: none is decoration."""
    spec = METHODS[name]
    for option in set(spec.defaults) - {"reference", "detach"}:
        takers = [role for role, piece in spec.pieces.items() if option in piece_options(piece)]
        assert takers, option


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", [0, 4, 5, 6, 10])
def test_loss_and_gradient_are_finite_on_a_real_policy(name, step):
    for seed in range(3):
        output, gradient = loss_and_gradient(name, step, seed, observed=(0.6, 0.05, 0.3))
        assert torch.isfinite(output.loss) and torch.isfinite(gradient).all() and gradient.abs().sum() > 0
        assert all(torch.isfinite(value) and not value.requires_grad for value in output.metrics.values())


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if spec.on_policy_grpo])
@pytest.mark.parametrize("aggregation", ["token", "sequence", "fixed"])
def test_with_one_update_per_rollout_batch_it_is_grpo_exactly(name, aggregation):
    """At r = 1: loss and gradient equal GRPO's bit for bit, whatever the step and the controller's state."""
    for step, observed in ((0, ()), (3, (1.0, 0.9, 0.1)), (8, (0.2,))):
        results = []
        for which in ("grpo", name):
            chosen = method(which, 10)
            for k, entropy in enumerate(observed):
                chosen.observe(k, entropy)
            logits, batch = random_batch(step, drift=0.0, dtype=torch.float32)
            loss = chosen.loss(batch, step, aggregation=aggregation).loss
            results.append((loss, torch.autograd.grad(loss, logits)[0]))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", ["sapo", "cispo", "dppo", "vespo", "dro"])
def test_with_one_update_some_have_grpos_gradient_under_another_value(name):
    expected, gradient = loss_and_gradient("grpo", drift=0.0)
    output, ours = loss_and_gradient(name, drift=0.0)
    assert torch.allclose(ours, gradient, atol=1e-12) and not torch.isclose(output.loss, expected.loss)


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if not spec.on_policy_grpo])
def test_the_others_are_not_grpo_on_policy(name):
    """The registry's claim is neither too wide nor too narrow: these differ from GRPO at r = 1 in some state."""
    differs = False
    for seed in range(12):
        expected, _ = loss_and_gradient("grpo", 5, seed, drift=0.0, rows=8, length=40)
        for observed in ((1.0, 0.01, 0.01, 0.01), (0.6, 0.6)):
            output, _ = loss_and_gradient(name, 5, seed, observed, drift=0.0, rows=8, length=40)
            differs |= not torch.equal(output.loss, expected.loss)
    assert differs


@pytest.mark.parametrize("name", CLIPPED_BY_BOUNDS)
@pytest.mark.parametrize("step", [0, 4, 6, 10])
@pytest.mark.parametrize("entropies", [(), (1.0, 0.9), (1.0, 0.1), (0.1, 0.1, 0.1)])
def test_exactly_the_tokens_beyond_their_own_bound_lose_their_gradient(name, step, entropies):
    """A token is silent iff A > 0 and r > 1 + ε⁺(q), or A < 0 and r < 1 − ε⁻(q), in every state of its controller."""
    chosen = method(name, 10)
    for k, entropy in enumerate(entropies):
        chosen.observe(k, entropy)
    state = chosen.controller.signal if chosen.controller else None
    ratios = [0.3, 0.6, 0.69, 0.74, 0.79, 0.81, 1.0, 1.19, 1.21, 1.27, 1.3, 1.35, 1.6, 3.0]
    for advantage in (1.0, -1.0, 0.0):
        grad, _ = gradient(name, ratios, [advantage] * len(ratios), step, state)
        low, high = method(name, 10).bounds(torch.tensor([0.5], dtype=torch.float64), step, state)
        for ratio, g in zip(ratios, grad.tolist(), strict=True):
            silent = advantage == 0 or (ratio > 1 + high if advantage > 0 else ratio < 1 - low)
            assert (g == 0) == bool(silent), (advantage, ratio)


def test_the_clipping_methods_are_those_it_says():
    assert set(CLIPPED_BY_BOUNDS) == {
        "grpo", "clip_higher", "clip_lower", "dynamic_upper", "dynamic_lower", "id", "did", "od", "dcpo", "bandpo",
        "thermostat", "adapo",
    }  # fmt: skip


def entry(**changes):
    return MethodSpec(**{"name": "x", "title": "X", "arxiv": "", "bounds": constant, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"defaults": {"eps_low": 0.2}}, "method 'x': its bounds takes 'eps_high', which has no default"),
        ({"defaults": {"eps_low": 0.2, "eps_high": 0.2, "epss": 1}}, "option 'epss' is taken by none of its pieces"),
        ({"defaults": {"eps_low": 0.2, "eps_high": 0.2}, "needs": ("logits",)}, "needs 'logits', expected some of"),
    ],
)
def test_an_entry_that_does_not_fit_its_pieces_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        entry(**changes)


def test_the_core_imports_torch_and_nothing_else():
    """Followed from the registry through the project's own imports."""
    root = Path(dynclip.__file__).parent.parent
    pending, seen, foreign = ["dynclip.methods.registry"], set(), set()
    while pending:
        module = pending.pop()
        path = root.joinpath(*module.split(".")).with_suffix(".py")
        if module in seen or not path.exists():
            continue
        seen.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            pending += [name for name in names if name.startswith("dynclip.")]
            foreign |= {name.split(".")[0] for name in names} - {"dynclip"} - sys.stdlib_module_names
    assert foreign == {"torch"} and len(seen) > 8
