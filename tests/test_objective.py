"""How a loss is put together: hand numbers, masks, extremes, precision, what it refuses."""

import json
from dataclasses import replace

import pytest
import torch
from softmax_policy import random_batch

from dynclip import METHODS, MethodSpec, TokenBatch, method
from dynclip.methods.bounds import constant
from dynclip.methods.objective import Method
from dynclip.methods.spec import separable
from dynclip.studies.probes import PROBES


def batch_at(ratios, advantages, q=0.5, mask=None, **kwargs):
    """One row of tokens with the given ratios p/q and advantages."""
    ratios, advantages = torch.tensor([ratios], dtype=torch.float64), torch.tensor([advantages], dtype=torch.float64)
    old = torch.full_like(ratios, q).log()
    logprob = (old + ratios.log()).requires_grad_()
    mask = torch.ones_like(ratios) if mask is None else torch.tensor([mask], dtype=torch.float64)
    return logprob, TokenBatch(logprob, old, advantages, mask, **kwargs)


def gradient(name, ratios, advantages, step=0, state=None, options=None, **kwargs):
    logprob, batch = batch_at(ratios, advantages, **kwargs)
    output = method(name, 10, **(options or {})).loss(batch, step, state)
    return torch.autograd.grad(output.loss, logprob)[0][0], output


def test_grpo_by_hand():
    """A = 1: ratio 1.5 is clipped to 1.2; A = −1: ratio 0.5 is clipped to 0.8; the others pass."""
    grad, output = gradient("grpo", [1.5, 1.1, 0.5, 0.9], [1.0, 1.0, -1.0, -1.0])
    assert output.per_token[0].tolist() == pytest.approx([-1.2, -1.1, 0.8, 0.9])
    assert output.loss.item() == pytest.approx((-1.2 - 1.1 + 0.8 + 0.9) / 4)
    assert grad.tolist() == pytest.approx([0.0, -1.1 / 4, 0.0, 0.9 / 4])
    assert output.metrics["clip/high_fraction"] == 0.25 and output.metrics["clip/low_fraction"] == 0.25
    assert output.metrics["policy/ratio_max"].item() == pytest.approx(1.5)


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


OPTIONAL = ("entropy", "old_entropy", "old_baseline", "clamped_entropy")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("junk", [0.0, 1e9, -1e9, float("nan"), float("inf")])
def test_masked_tokens_never_contribute_whatever_they_hold(name, junk):
    """The same batch with a padded column of junk in every input: same loss, same gradient, none at the padding."""

    def padded(value, filling):
        return torch.cat([value, torch.full((len(value), 1), filling, dtype=value.dtype)], 1)

    _, clean = random_batch(4, rows=3, length=6)
    advantages = clean.advantages[:, None].expand(3, 6)
    results = []
    for extra in (False, True):
        leaf = clean.logprob.detach().clone()
        fields = {"logprob": leaf, "old_logprob": clean.old_logprob, "advantages": advantages, "mask": clean.mask}
        fields |= {key: getattr(clean, key).detach().clone() for key in OPTIONAL}
        if extra:
            fields = {key: padded(value, 0.0 if key == "mask" else junk) for key, value in fields.items()}
        for key in ("logprob", "entropy", "clamped_entropy"):
            fields[key].requires_grad_()
        chosen = method(name, 10)
        chosen.observe(0, 0.05)
        output = chosen.loss(
            TokenBatch(**fields, success=clean.success, group=clean.group, draw_seed=1), 6, aggregation="sequence"
        )
        leaves = [fields[key] for key in ("logprob", "entropy", "clamped_entropy")]
        grads = torch.autograd.grad(output.loss, leaves, allow_unused=True)
        results.append((output, [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]))
    (expected, expected_grads), (output, grads) = results
    assert output.loss.item() == pytest.approx(expected.loss.item(), abs=1e-12)
    for wanted, got in zip(expected_grads, grads, strict=True):
        assert torch.allclose(got[:, :6], wanted, atol=1e-12) and (got[:, 6] == 0).all()
        assert (got[:, :6][clean.mask == 0] == 0).all()
    for key, value in expected.metrics.items():
        assert output.metrics[key].item() == pytest.approx(value.item(), abs=1e-12), key


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("aggregation", ["token", "sequence", "fixed"])
def test_extreme_ratios_and_empty_masks_stay_finite(name, aggregation):
    """r = e^±20 and r = 0 (underflow), one counted token, rows and batches without any."""
    logprob = torch.tensor([[-20.0, 0.0, -1.0, -1e4], [-1.0, -2.0, -3.0, -20.0]])
    old = torch.tensor([[0.0, -20.0, -1.0, -1.0], [-1.0, -2.0, -3.0, 0.0]])
    masks = (torch.ones(2, 4), torch.zeros(2, 4), torch.eye(2, 4), torch.tensor([[1.0] * 4, [0.0] * 4]))
    for mask in masks:
        for advantages in (torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 0.0])):
            leaf = logprob.clone().requires_grad_()
            entropies = {key: torch.full((2, 4), 0.7).requires_grad_() for key in OPTIONAL}
            batch = TokenBatch(
                leaf, old, advantages, mask, success=torch.tensor([0.0, 1.0]), group=torch.tensor([0, 0]), **entropies
            )
            chosen = method(name, 10)
            chosen.observe(0, 0.05)
            output = chosen.loss(batch, 5, aggregation=aggregation)
            grad = torch.autograd.grad(output.loss, leaf)[0]
            assert torch.isfinite(output.loss) and torch.isfinite(grad).all()
            assert all(torch.isfinite(value) for value in output.metrics.values())


@pytest.mark.parametrize("name", METHODS)
def test_no_gradient_flows_through_what_only_decides(name):
    """The sampling policy's entropies, the group's success and, unless it is rewarded, the entropy are constants."""
    _, batch = random_batch(2)
    names = ["old_entropy", "old_baseline", "success"]
    names += [] if "entropy_gradient" in METHODS[name].needs else ["entropy"]
    leaves = {key: getattr(batch, key).detach().clone().requires_grad_() for key in names}
    output = method(name, 10).loss(TokenBatch(**{**vars(batch), **leaves}), 5)
    grads = torch.autograd.grad(output.loss, list(leaves.values()), retain_graph=True, allow_unused=True)
    assert grads == (None,) * len(names)
    weight = method(name, 10).prepare(batch, 0).weight
    assert weight is None or not weight.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_inputs_are_computed_in_float32(name):
    _, batch = random_batch(3)
    low = {
        key: value.detach().bfloat16().requires_grad_(value.requires_grad) if is_float(value) else value
        for key, value in vars(batch).items()
    }
    high = {
        key: value.detach().float().requires_grad_(value.requires_grad) if is_float(value) else value
        for key, value in low.items()
    }
    chosen = method(name, 10)
    chosen.observe(0, 0.05)
    got, wanted = chosen.loss(TokenBatch(**low), 6), chosen.loss(TokenBatch(**high), 6)
    assert got.loss.dtype == torch.float32 and torch.equal(got.loss, wanted.loss)
    assert torch.autograd.grad(got.loss, low["logprob"])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", METHODS)
def test_state_survives_a_round_trip_through_json(name):
    chosen, other = method(name, 10), method(name, 10)
    for step, entropy in enumerate((1.0, 0.9, 0.1, 0.15, 0.6)):
        chosen.observe(step, entropy)
    other.load_state_dict(json.loads(json.dumps(chosen.state_dict())))
    for step, entropy in enumerate((0.5, 0.05, 0.9), start=5):
        chosen.observe(step, entropy)
        other.observe(step, entropy)
        assert chosen.state_dict() == other.state_dict()
        _, batch = random_batch(step)
        assert torch.equal(chosen.loss(batch, step).loss, other.loss(batch, step).loss)


def test_aggregation_is_the_runs():
    logprob, old = torch.zeros(2, 3), torch.zeros(2, 3)
    batch = TokenBatch(logprob, old, torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 0, 0], [1.0, 1, 1]]))
    grpo = method("grpo", 10)
    assert grpo.loss(batch, 0, aggregation="sequence").loss.item() == -2.0
    assert grpo.loss(batch, 0, aggregation="token").loss.item() == -10 / 4
    assert grpo.loss(batch, 0, aggregation="fixed").loss.item() == pytest.approx(-10 / 6)
    assert grpo.loss(batch, 0, aggregation="fixed", length=5).loss.item() == -10 / 10


def test_dual_clip_bounds_the_loss_of_magnified_negatives_and_silences_them():
    """A = −1: r = 5 costs 5 without, c = 3 with; A > 0 and r < c are untouched."""
    for name in ("grpo", "id", "ce_gppo"):
        logprob, batch = batch_at([5.0, 2.9, 1.1], [-1.0, -1.0, 1.0])
        output = method(name, 10).loss(batch, 3, dual_clip=3.0)
        assert output.per_token[0].tolist() == pytest.approx([3.0, 2.9, -1.1])
        assert torch.autograd.grad(output.loss, logprob)[0][0].tolist() == pytest.approx([0.0, 2.9 / 3, -1.1 / 3])
    logprob, batch = batch_at([5.0], [-1.0])
    assert torch.equal(method("sapo", 10).loss(batch, 3, dual_clip=3.0).loss, method("sapo", 10).loss(batch, 3).loss)


def test_preparing_once_uses_the_statistics_of_the_whole_rollout_batch():
    chosen = method("clip_b", 10, mu=0.5)
    _, rollout = random_batch(5, rows=8)
    whole = chosen.prepare(rollout, 0)
    assert whole.prepared and set(whole.weight.unique().tolist()) == {0.0, 1.0}
    half = {key: value[:4] if isinstance(value, torch.Tensor) else value for key, value in vars(whole).items()}
    assert torch.equal(
        chosen.loss(TokenBatch(**half), 0).per_token,
        method("grpo", 10).loss(TokenBatch(**half), 0).per_token,
    )  # method grpo takes the same weights: they are the batch's by now
    alone = {**half, "weight": None, "prepared": False}
    assert not torch.equal(chosen.loss(TokenBatch(**alone), 0).loss, chosen.loss(TokenBatch(**half), 0).loss)


@pytest.mark.parametrize("name", ["clip_b", "clip_v", "exchange"])
def test_two_ranks_decide_as_one(name):
    """`total` sums over ranks: two halves with it give the rows of the whole."""
    options = {"clip_b": {"mu": 0.5}, "clip_v": {"mu": 0.5, "share": 1.0}, "exchange": {"alpha": 0.5}}[name]
    chosen = method(name, 10, **options)
    _, rollout = random_batch(6, rows=8)
    whole = chosen.prepare(rollout, 0)
    halves = [
        TokenBatch(**{k: v[part] if isinstance(v, torch.Tensor) else v for k, v in vars(rollout).items()})
        for part in (slice(0, 4), slice(4, 8))
    ]
    sums: list[list[torch.Tensor]] = [[], []]
    results = [None, None]
    for _ in range(4):  # each pass knows one more of the sums that the other half contributed
        for rank in (0, 1):
            calls = []

            def total(value, rank=rank, calls=calls):
                calls.append(value)
                known = sums[1 - rank]
                return value + (known[len(calls) - 1] if len(calls) <= len(known) else 0)

            results[rank] = chosen.prepare(halves[rank], 0, total=total)
            sums[rank] = calls
    for field in ("weight", "advantages"):
        got = [getattr(part, field) for part in results]
        if got[0] is not None:
            assert torch.allclose(torch.cat(got), getattr(whole, field), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"old_logprob": torch.zeros(2, 4)}, r"old_logprob: expected shape \(2, 3\)"),
        ({"mask": torch.zeros(3)}, r"mask: expected shape \(2, 3\)"),
        ({"advantages": torch.zeros(3)}, r"advantages: expected shape \(2,\) or \(2, 3\)"),
        ({"logprob": torch.zeros(3)}, r"logprob: expected shape \(B, T\)"),
        ({"entropy": torch.zeros(2, 1)}, r"entropy: expected shape"),
        ({"success": torch.zeros(2, 3)}, r"success: expected shape \(2,\)"),
        ({"group": torch.zeros(3, dtype=torch.long)}, r"group: expected shape \(2,\)"),
        ({"group": torch.zeros(2)}, "group: expected whole numbers, given torch.float32"),
        ({"runs": 3}, "runs: expected a number that divides the 2 sequences, given 3"),
        ({"neutral": torch.zeros(2, 1)}, "neutral: expected shape"),
        ({"advantages": torch.tensor([1.0, float("nan")])}, "advantages: expected finite numbers, given NaN"),
        ({"advantages": torch.full((2, 3), float("inf"))}, "infinity at 6 counted tokens"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, words):
    good = {"logprob": torch.zeros(2, 3), "old_logprob": torch.zeros(2, 3), "advantages": torch.zeros(2)}
    with pytest.raises(ValueError, match=words):
        TokenBatch(**{**good, "mask": torch.ones(2, 3), **change})


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if spec.needs])
def test_a_missing_input_is_named_with_what_it_is(name):
    _, batch = random_batch(0)
    for need in METHODS[name].needs:
        field = need.removesuffix("_gradient")
        bare = TokenBatch(**{**vars(batch), field: None})
        with pytest.raises(ValueError, match=rf"{field}: method '{name}' needs it \(.*\); given None"):
            method(name, 10).loss(bare, 0)
        if need in ("entropy_gradient", "clamped_entropy"):
            detached = TokenBatch(**{**vars(batch), field: getattr(batch, field).detach()})
            with pytest.raises(ValueError, match=f"{field}: method '{name}' differentiates it"):
                method(name, 10).loss(detached, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: method("idd", 10), "unknown method 'idd'; the methods are: grpo"),
        (lambda b: method("id", 10, slope=1), "unknown option 'slope'; it has: detach, eps, lower"),
        (lambda b: method("grpo", 10, slope=1), "it has: eps_high, eps_low"),
        (lambda b: method("id", 10, phase2="maybe"), "phase2: expected 'formula' or 'prose', given 'maybe'"),
        (lambda b: method("id", 0), "total_steps: expected at least 1"),
        (lambda b: method("grpo", 10, eps_low=1.5), "expected bounds 0 <= eps_low <= 1"),
        (lambda b: method("grpo", 10, eps_high=-0.1), "eps_high >= 0 for every probability"),
        (lambda b: method("id", 10, reference="new"), "reference: expected 'old' or 'current', given 'new'"),
        (lambda b: method("id", 10, detach=False), "detach=False needs reference='current'"),
        (lambda b: method("od", 10, initial_state=2), "initial_state: expected -1, 0 or 1, given 2"),
        (lambda b: method("od", 10, initial_entropy=-0.1), "initial_entropy: expected nats"),
        (lambda b: method("bandpo", 10, divergence="js"), "divergence: expected 'tv', 'chi2' or 'kl'"),
        (lambda b: method("dppo", 10, divergence="chi2"), "divergence: expected 'tv' or 'kl', given 'chi2'"),
        (lambda b: method("id", 10).bounds(torch.ones(1), 11), r"step: expected 0 to 10 \(total_steps\), given 11"),
        (lambda b: method("id", 10).loss(b, 11), "step: expected 0 to 10"),
        (lambda b: method("id", 10).loss(b, -1), "given -1"),
        (lambda b: method("grpo", 10).loss(b, 0, aggregation="mean"), "aggregation: expected one of"),
        (lambda b: method("grpo", 10).loss(b, 0, length=5), "length: only aggregation 'fixed' takes one"),
        (lambda b: method("grpo", 10).loss(b, 0, dual_clip=0.5), "dual_clip: expected a number above 1"),
        (lambda b: method("steer", 10, mapping="log").loss(b, 0), "mapping: expected 'exp' or 'linear'"),
        (
            lambda b: method("par", 10, schedule="x").loss(b, 0),
            "schedule: expected one of 'entropy', 'stage', 'linear'",
        ),
        (lambda b: method("exchange", 10, shaping="x").loss(b, 0), "shaping: expected 'perplexity' or 'position'"),
        (lambda b: method("od", 10).observe(0, float("nan")), "entropy: expected a finite number of nats, given nan"),
        (lambda b: method("od", 10).load_state_dict({"k": 1}), "controller state: expected"),
    ],
)
def test_bad_input_is_named(call, words):
    _, batch = random_batch(0)
    with pytest.raises(ValueError, match=words):
        call(batch)


def test_a_method_of_ones_own_needs_no_more_than_a_bounds_function():
    """README's example, on a loss: an interval that closes over training."""

    def closing(q, clock, *, eps):
        width = eps * (1 - clock.step / clock.total_steps)
        return width, width

    own = Method(MethodSpec("closing", "Closing interval", "", closing, {"eps": 0.4}, "an example"), 10, {})
    _, batch = random_batch(1)
    same = Method(MethodSpec("fixed", "", "", constant, {"eps_low": 0.2, "eps_high": 0.2}), 10, {})
    assert torch.equal(own.loss(batch, 5).loss, same.loss(batch, 5).loss)


@pytest.mark.parametrize("name", METHODS)
def test_no_tensor_is_larger_than_the_tokens(name):
    """Forward and backward: nothing of the size of a vocabulary, whatever the method."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for value in made if isinstance(made, tuple | list) else (made,):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return made

    _, batch = random_batch(0)
    fields = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in vars(batch).items()}
    for key in ("logprob", "entropy", "clamped_entropy"):
        fields[key] = fields[key].clone().requires_grad_()
    batch = TokenBatch(**fields)
    with Watch():
        method(name, 10).loss(batch, 5).loss.backward()
    assert 0 < largest <= batch.logprob.numel()


def stacked(*batches):
    """The batches as one batch of several runs."""
    fields = {
        key: torch.cat([getattr(batch, key) for batch in batches]) if isinstance(value, torch.Tensor) else value
        for key, value in vars(batches[0]).items()
    }
    return TokenBatch(**{**fields, "runs": len(batches)})


STATES = {"od": (1, 0), "thermostat": (0.0, 1.5), "par": (0.2, 0.9)}  # of two runs; another signal is a coefficient


@pytest.mark.parametrize("spec", [*METHODS.values(), *PROBES.values()], ids=lambda spec: spec.name)
def test_runs_side_by_side_are_the_runs_alone_unless_the_method_mixes_sequences(spec):
    """Two runs with states of their own: per-token losses, metrics and gradients. The others differ in some batch."""
    chosen, differs = Method(spec, 10, {"mu": 0.5} if "mu" in spec.defaults else {}), False
    states = STATES["od"] if spec.name == "od_mean" else STATES.get(spec.name, (0.1, 0.3))
    for seed in range(8):
        batches = [replace(random_batch(2 * seed + i, rows=8, length=40)[1], draw_seed=seed) for i in range(2)]
        if not separable(spec):
            whole = replace(stacked(*batches), runs=1)
            alone = torch.cat([chosen.loss(batch, 6, states[0]).per_token for batch in batches])
            differs |= not torch.allclose(chosen.loss(whole, 6, states[0]).per_token, alone, atol=1e-12)
            continue
        together = stacked(*batches)
        output = chosen.loss(together, 6, torch.tensor(states, dtype=torch.float64).repeat_interleave(8).unsqueeze(1))
        for run, (batch, state) in enumerate(zip(batches, states, strict=True)):
            expected = chosen.loss(batch, 6, state)
            assert torch.allclose(output.per_token.chunk(2)[run], expected.per_token, rtol=0, atol=1e-12)
            assert output.metrics.keys() == expected.metrics.keys()
            for name, value in expected.metrics.items():
                assert output.metrics[name].shape == (2,)
                assert output.metrics[name][run].item() == pytest.approx(value.item(), abs=1e-12), name
            assert output.live_ratio[run] == expected.live_ratio
    if separable(spec):
        return
    assert differs
    with pytest.raises(ValueError, match=f"runs: method '{spec.name}' takes statistics over its batch, which must be"):
        chosen.loss(stacked(*batches), 6)


def test_a_tensor_of_states_gives_od_s_bounds_of_each_run():
    q = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    od = method("od", 10)
    found = od.bounds(q, 4, torch.tensor([[-1.0], [0.0], [1.0]]))
    for row, state in enumerate((-1, 0, 1)):
        for bound, expected in zip(found, od.bounds(q[row], 4, state), strict=True):
            assert torch.equal(bound[row], expected)


def test_the_smallest_ratio_and_the_tokens_outside_with_any_advantage():
    """Bounds 0.8 and 1.2: one token below with A > 0, one above with A < 0, one inside; padding does not count."""
    _, batch = batch_at([0.5, 1.5, 1.1, 1.3], [1.0, -1.0, 1.0, 1.0], mask=[1.0, 1.0, 1.0, 0.0])
    metrics = method("grpo", 10).loss(batch, 0).metrics
    assert metrics["clip/outside_fraction"].item() == pytest.approx(2 / 3)
    assert metrics["clip/low_fraction"] == metrics["clip/high_fraction"] == 0
    assert metrics["policy/ratio_min"].item() == pytest.approx(0.5)
    _, batch = batch_at([1.5, 1.3, 0.1], [1.0, 1.0, 1.0], mask=[1.0, 1.0, 0.0])
    assert method("grpo", 10).loss(batch, 0).metrics["policy/ratio_min"].item() == pytest.approx(1.3)


def test_clipped_shares_of_neutral_tokens_and_of_the_others():
    """Two neutral tokens, one of them clipped above; three decisive ones, one of them clipped below."""
    neutral = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    _, batch = batch_at([1.5, 1.0, 0.5, 1.0, 1.1], [1.0, 1.0, -1.0, 1.0, 1.0], neutral=neutral)
    metrics = method("grpo", 10).loss(batch, 0).metrics
    names = [f"clip/{side}_fraction_{kind}" for side in ("low", "high") for kind in ("neutral", "decisive")]
    assert [metrics[name].item() for name in names] == pytest.approx([0, 1 / 3, 0.5, 0])


@pytest.mark.parametrize(
    ("ratios", "advantages", "dual_clip", "expected"),
    [
        ([1e5, 1.1], [1.0, 1.0], None, 1.1),  # clipped above
        ([1e5, 1.1], [0.0, -1.0], None, 1.1),  # without advantage
        ([1e5, 1.1], [-1.0, 1.0], None, 1e5),  # nothing bounds a token with A < 0 from above
        ([1e5, 2.0], [-1.0, -1.0], 3.0, 2.0),  # but a dual clip
        ([float("nan"), 1.0], [-1.0, 1.0], 3.0, float("inf")),
        ([1e5], [0.0], None, 0.0),
    ],
)
def test_the_largest_ratio_of_a_live_token(ratios, advantages, dual_clip, expected):
    _, batch = batch_at(ratios, advantages)
    assert method("grpo", 10).loss(batch, 0, dual_clip=dual_clip).live_ratio.item() == pytest.approx(expected)
