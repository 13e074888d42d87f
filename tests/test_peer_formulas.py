"""Methods against the formulas of their papers, written out token by token in plain numbers."""

import math

import pytest
import torch

from dynclip import TokenBatch, method


def batch(seed=0, rows=6, length=9, spread=0.7, **changes):
    """A batch of random probabilities below 1, both signs of A, and padding; its log-probabilities are leaves."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.rand(rows, length, generator=draw, dtype=torch.float64) * 0.98 + 0.01
    p = torch.sigmoid(torch.logit(q) + spread * torch.randn(rows, length, generator=draw, dtype=torch.float64))
    advantages = torch.randn(rows, generator=draw, dtype=torch.float64)
    mask = torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=draw)
    fields = {"advantages": advantages, "mask": mask, **changes}
    return TokenBatch(p.log().requires_grad_(), q.log(), **fields)


def slopes(chosen, tokens, step=0, **arguments):
    """∂(sum of token losses)/∂ln p, shape (B, T)."""
    output = chosen.loss(tokens, step, aggregation="fixed", length=1, **arguments)
    return torch.autograd.grad(output.loss * len(tokens.mask), tokens.logprob)[0]


def each_token(tokens):
    """(row, column, p, q, A) of every counted token."""
    p, q = tokens.logprob.detach().exp().tolist(), tokens.old_logprob.exp().tolist()
    advantages = tokens.advantages.tolist()
    for row, column in tokens.mask.nonzero().tolist():
        yield row, column, p[row][column], q[row][column], advantages[row]


@pytest.mark.parametrize("divergence", ["tv", "kl"])
@pytest.mark.parametrize(("cap", "square"), [(20.0, 0.0), (1.2, 0.0), (1e9, 1e-3)])
def test_dppo_masks_where_the_divergence_exceeds_delta_on_the_sides_of_ppo(divergence, cap, square):
    """arXiv 2602.04879: A r ∇ln p where A (r − 1) ≤ 0 or D ≤ δ, else nothing; the weight r at most `cap`."""
    delta, masked, capped = 0.05, 0, 0
    options = {"divergence": divergence, "delta": delta, "weight_cap": cap, "square": square}
    for seed in range(10):
        tokens = batch(seed)
        found = slopes(method("dppo", 10, **options), tokens)
        for row, column, p, q, a in each_token(tokens):
            kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
            inside = (abs(p - q) if divergence == "tv" else kl) <= delta
            kept = a * (p - q) <= 0 or inside
            wanted = -a * min(p / q, cap) * kept + 2 * square * math.log(p / q)
            assert found[row, column].item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
            masked, capped = masked + (not kept), capped + (p / q > cap)
        assert (found[~tokens.mask] == 0).all()
    assert masked > 20 and (capped > 20 or cap > 2)


def test_vespo_weighs_a_sequence_by_the_gamma_density_of_its_product_of_ratios():
    """arXiv 2602.10693: the slope is −φ A, φ = e^λ w^k e^(−λ w), (k, λ) = (2, 3) for A ≥ 0, else (3, 2)."""
    for seed in range(5):
        tokens = batch(seed, spread=0.3)
        found, products = slopes(method("vespo", 10), tokens), [1.0] * len(tokens.mask)
        for row, _, p, q, _ in each_token(tokens):
            products[row] *= p / q
        for row, column, _, _, a in each_token(tokens):
            k, rate = (2, 3) if a >= 0 else (3, 2)
            weight = math.exp(rate) * products[row] ** k * math.exp(-rate * products[row])
            assert found[row, column].item() == pytest.approx(-a * weight)


@pytest.mark.parametrize("bound", [0.4, 0.1])
def test_gmpo_has_the_gradient_of_the_geometric_mean(bound):
    """arXiv 2507.20673: over a response, −A exp(mean of ln r clipped on the side of A)."""
    for seed in range(5):
        tokens = batch(seed)
        output = method("gmpo", 10, log_low=bound, log_high=bound).loss(tokens, 0, aggregation="sequence")
        found = torch.autograd.grad(output.loss, tokens.logprob)[0]
        loss = 0.0
        for row, mask in enumerate(tokens.mask):
            ratio = (tokens.logprob[row] - tokens.old_logprob[row])[mask]
            a = tokens.advantages[row]
            kept = (
                torch.minimum(ratio, ratio.new_tensor(bound))
                if a > 0
                else torch.maximum(ratio, -ratio.new_tensor(bound))
            )
            loss = loss - a * kept.mean().exp() / len(tokens.mask)
        assert output.loss.item() == pytest.approx(loss.item())
        assert torch.allclose(found, torch.autograd.grad(loss, tokens.logprob)[0])


def test_dro_is_reinforce_with_a_quadratic_penalty():
    """∂/∂ln p of −A ln p + (β/2)(ln r)² is −A + β ln r."""
    tokens = batch(1)
    found = slopes(method("dro", 10, beta=0.7), tokens)
    for row, column, p, q, a in each_token(tokens):
        assert found[row, column].item() == pytest.approx(-a + 0.7 * math.log(p / q))


@pytest.mark.parametrize("entropy", [0.1, 0.5])
def test_stare_weighs_the_least_likely_tokens_of_good_responses_while_entropy_is_low(entropy):
    """arXiv 2606.19236, variant O1: 1.1 on the ⌈10 % of n⌉ tokens of smallest p among the n with A > 0, if H < 0.3."""
    for seed in range(5):
        tokens, chosen = batch(seed), method("stare", 10)
        chosen.observe(0, entropy)
        plain, found = slopes(method("grpo", 10), tokens), slopes(chosen, tokens)
        good = sorted((p, row, column) for row, column, p, _, a in each_token(tokens) if a > 0)
        rare = {(row, column) for _, row, column in good[: math.ceil(0.1 * len(good))]} if entropy < 0.3 else set()
        for row, column, *_ in each_token(tokens):
            factor = 1.1 if (row, column) in rare else 1.0
            assert found[row, column].item() == pytest.approx(factor * plain[row, column].item())


def test_cppo_is_its_algorithm_token_by_token():
    """arXiv 2606.10968, algorithm 1, with the binary D_t = |p − q| and δ_b = the 90 % quantile of D in [0.02, 0.04]."""
    delta, budget, least, by_prefix = 0.05, 0.02, 0.8, 0
    for seed in range(20):
        tokens = batch(seed, rows=4, length=20, spread=0.3)
        found = slopes(method("cppo", 10, delta=delta), tokens)
        for row, mask in enumerate(tokens.mask):
            mine = [each for each in each_token(tokens) if each[0] == row]
            moves = sorted(abs(p - q) for _, _, p, q, _ in mine)
            allowed = min(max(moves[round(0.9 * (len(moves) - 1))], budget), 2 * budget)
            total, weights = 0.0, 0.0
            for t, (_, column, p, q, a) in enumerate(mine):
                weight = 1 - (1 - least) / max(len(mine) - 1, 1) * t
                moved = weight * abs(p - q)
                kept = a * (p / q - 1) <= 0 or moved <= min(delta, delta + allowed * weights - total)
                by_prefix += not kept and moved <= delta
                assert found[row, column].item() == pytest.approx(-a * p / q * kept), (seed, row, column)
                total, weights = total + moved, weights + weight
            assert mask.sum() == len(mine)
    assert by_prefix > 5


def test_bapo_moves_its_bounds_until_good_tokens_carry_half_of_the_loss():
    """arXiv 2510.18927: l from 0.6 by 0.05 to 0.9, then u from 1.2 by 0.1 to 3, while P/(P + N) < 0.5; then PPO's.

    N counts max(r, l), so that a higher l never reaches the share: l goes to its end before u moves.
    """
    reached = set()
    for seed in range(30):
        tokens = batch(seed)
        found = slopes(method("bapo", 10), tokens)
        listed = [(p / q, a) for _, _, p, q, a in each_token(tokens)]
        low, high = 0.6, 1.2

        def short(low, high, listed=listed):
            good = sum(min(r, high) * a for r, a in listed if a > 0)
            return good < sum(max(r, low) * -a for r, a in listed if a < 0)

        while low < 0.9 and short(low, high):
            low = min(low + 0.05, 0.9)
        while high < 3 and short(low, high):
            high = min(high + 0.1, 3.0)
        reached.add((low, "moved" if high > 1.2 else "kept"))
        for row, column, p, q, a in each_token(tokens):
            silent = (a > 0 and p / q > high) or (a < 0 and p / q < low)
            assert found[row, column].item() == pytest.approx(0.0 if silent else -a * p / q)
    assert reached == {(0.6, "kept"), (0.9, "moved")}


def grouped_rewards():
    """(rewards, GRPO's advantages, means) of four groups of four responses, the last two all right and all wrong."""
    rewards = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    means = rewards.mean(1, keepdim=True)
    advantages = (rewards - means) / (rewards.std(1, keepdim=True) + 1e-4)
    return rewards.flatten(), advantages.flatten(), means.expand_as(rewards).flatten()


def prepared(chosen, step=0):
    _, advantages, means = grouped_rewards()
    tokens = batch(0, rows=16, advantages=advantages, success=means, group=torch.arange(16) // 4)
    return chosen.prepare(tokens, step).advantages[:, 0].tolist()


def test_maxrl_divides_by_the_mean_of_the_group():
    """arXiv 2602.02710: (R − m)/m, and 0 in a group of one outcome."""
    rewards, _, means = grouped_rewards()
    assert prepared(method("maxrl", 10)) == pytest.approx(((rewards - means) / means.clamp(min=1e-9)).tolist())


def test_entrocraft_trains_successes_above_its_band_and_failures_below():
    """arXiv 2604.26326: lo 0.6 → 0.4 and hi 0.7 → 0.5 over training, linear."""
    rewards, advantages, _ = grouped_rewards()
    sides = {1: rewards, -1: rewards - 1, 0: advantages}
    for step, entropy, side in ((0, 0.71, 1), (0, 0.65, 0), (0, 0.59, -1), (5, 0.61, 1), (5, 0.49, -1), (10, 0.45, 0)):
        chosen = method("entrocraft", 10)
        chosen.observe(step, entropy)
        assert chosen.controller.signal == side
        assert prepared(chosen, step) == pytest.approx(sides[side].tolist())


def test_repo_rescales_by_surprise_and_doubles_or_halves_its_strength():
    """arXiv 2603.11682 (second-hand): A (1 − ζ ln q) for A > 0, min(0, A (1 + ζ ln q)) for A < 0."""
    chosen = method("repo_r", 10, initial=0.4)
    for step, entropy in enumerate((1.0, 0.9, 1.1, 1.0)):  # the start, below, above, not below
        chosen.observe(step, entropy)
    assert chosen.controller.signal == pytest.approx(0.2)
    tokens = batch(3, spread=1.0)
    found = chosen.prepare(tokens, 4).advantages
    for row, column, _, q, a in each_token(tokens):
        wanted = a * (1 - 0.2 * math.log(q)) if a > 0 else min(0.0, a * (1 + 0.2 * math.log(q)))
        assert found[row, column].item() == pytest.approx(wanted)
    low = TokenBatch(*(torch.full((1, 1), -9.0) for _ in range(2)), torch.tensor([-1.0]), torch.ones(1, 1))
    assert chosen.prepare(low, 4).advantages.item() == 0


@pytest.mark.parametrize("entropies", [(1.0,), (1.0, 0.8, 0.8, 0.8), (1.0, 1.2, 1.2)])
def test_mimo_drops_tokens_on_both_sides_of_an_interval_for_each_sign(entropies):
    """arXiv 2610.11959 (second-hand): A r while ε_s^l ≤ r ≤ ε_s^h, s = sign A, else nothing; [0.2, 5] at the start.

    Ours: below the entropy's start each step multiplies ln ε of A > 0 by e^0.3 and divides that of A < 0, above it the
    other way.
    """
    chosen, dropped = method("mimo", 10, step=0.3), {}
    for step, entropy in enumerate(entropies):
        chosen.observe(step, entropy)
    moved = sum((entropy < entropies[0]) - (entropy > entropies[0]) for entropy in entropies)
    for seed in range(20):
        tokens = batch(seed, spread=2.5)
        found = slopes(chosen, tokens)
        for row, column, p, q, a in each_token(tokens):
            widened = math.exp(0.3 * moved if a > 0 else -0.3 * moved)
            kept = math.exp(-widened * math.log(5)) <= p / q <= math.exp(widened * math.log(5))
            assert found[row, column].item() == pytest.approx(-a * p / q * kept)
            dropped[a > 0, p > q] = dropped.get((a > 0, p > q), 0) + (not kept)
        assert (found[~tokens.mask] == 0).all()
    assert sum(dropped.values()) > 20 and (moved or all(dropped.values()))


def test_mimo_s_intervals_stay_around_one_and_within_their_limits():
    for entropies in ([1.0] + [0.1] * 100, [1.0] + [2.0] * 100):
        chosen = method("mimo", 200)
        for step, entropy in enumerate(entropies):
            chosen.observe(step, entropy)
            low, high = chosen.bounds(torch.ones(1, dtype=torch.float64), step)
            assert 0 < low < 1 and high > 0
        widest = math.exp(1.5) if entropies[1] < 1 else math.exp(-1.5)
        assert (1 + high).item() == pytest.approx(5**widest) and (1 - low).item() == pytest.approx(0.2 ** (1 / widest))


def test_rloo_subtracts_the_mean_of_the_other_rewards_and_clips_nothing():
    """arXiv 2402.14740: A_i = R_i − Σ_{j≠i} R_j/(G − 1); the slope is −A r at any ratio."""
    rewards, advantages, means = grouped_rewards()
    wanted = []
    for number in range(16):
        first = number - number % 4
        others = [rewards[j].item() for j in range(first, first + 4) if j != number]
        wanted.append(rewards[number].item() - sum(others) / 3)
    assert prepared(method("rloo", 10)) == pytest.approx(wanted)
    tokens = batch(0, rows=16, advantages=advantages, success=means, group=torch.arange(16) // 4, spread=2.5)
    found = slopes(method("rloo", 10), tokens)
    for row, column, p, q, _ in each_token(tokens):
        assert found[row, column].item() == pytest.approx(-wanted[row] * p / q)


def dropout_by_hand(surprisal, advantages):
    """The recentred advantages of one group, by the steps of arXiv 2610.11854; None where a response is left out."""
    size, mean = len(surprisal), sum(surprisal) / len(surprisal)
    part = [a * (s - mean) / size for a, s in zip(advantages, surprisal, strict=True)]
    kept = set(range(size))
    while sum(part[i] for i in kept) < -1e-9:
        kept.remove(min(kept, key=lambda i: part[i]))
    kept |= {i for i in range(size) if advantages[i] <= 0}
    weights = {i: math.exp(-surprisal[i]) for i in kept}
    centre = sum(weights[i] * advantages[i] for i in kept) / sum(weights.values())
    return [advantages[i] - centre if i in kept else None for i in range(size)]


def test_grpo_dropout_leaves_likely_successes_out_and_centres_the_rest():
    """Groups of unequal sizes whose rows are mixed: each is done as by hand, in the order of its own h."""
    counts = {"left out": 0, "whole": 0, "uniform": 0, "failures back": 0}
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        group = torch.randint(0, 4, (24,), generator=draw)
        rewards = torch.randint(0, 2, (24,), generator=draw).double()
        rewards[group == 3] = 1.0
        advantages = torch.zeros(24, dtype=torch.float64)
        for number in group.unique():
            rows = group == number
            if rows.sum() > 1:
                advantages[rows] = (rewards[rows] - rewards[rows].mean()) / (rewards[rows].std() + 1e-4)
        tokens = batch(seed, rows=24, advantages=advantages, group=10 * group + 7)
        found = method("grpo_dropout", 10).prepare(tokens, 0).advantages
        surprisal = [-row[keep].mean().item() for row, keep in zip(tokens.old_logprob, tokens.mask, strict=True)]
        for number in group.unique().tolist():
            rows = (group == number).nonzero()[:, 0].tolist()
            a, s = [advantages[i].item() for i in rows], [surprisal[i] for i in rows]
            wanted = dropout_by_hand(s, a)
            got = [found[i, 0].item() for i in rows]
            assert got == pytest.approx([value or 0.0 for value in wanted], abs=1e-9)
            weighted = sum(math.exp(-x) * y for x, y, w in zip(s, got, wanted, strict=True) if w is not None)
            assert weighted == pytest.approx(0, abs=1e-9)
            mean = sum(s) / len(s)
            lowest = min(range(len(s)), key=lambda i: a[i] * (s[i] - mean))
            counts["left out"] += None in wanted
            counts["whole"] += None not in wanted and any(a)
            counts["uniform"] += not any(a)
            counts["failures back"] += sum(x * y for x, y in zip(a, s, strict=True)) < -1e-9 and a[lowest] < 0
    assert min(counts.values()) > 5


def test_a_response_without_tokens_takes_no_part_in_its_group():
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    tokens = batch(1, rows=5, advantages=advantages, group=torch.zeros(5, dtype=torch.long))
    tokens.mask[4] = False
    fields = {name: value[:4] if isinstance(value, torch.Tensor) else value for name, value in vars(tokens).items()}
    chosen = method("grpo_dropout", 10)
    whole, rest = chosen.prepare(tokens, 0).advantages[:4], chosen.prepare(TokenBatch(**fields), 0).advantages
    assert torch.allclose(whole * tokens.mask[:4], rest * tokens.mask[:4])


def test_a_group_without_a_success_left_has_no_advantage_at_all():
    """The success is likelier than the mean, every failure less likely: exactly 0, not rounding with a sign."""
    draw = torch.Generator().manual_seed(0)
    old = -torch.rand(6, 5, generator=draw) - torch.tensor([[0.0], [2.0], [2.1], [2.2], [2.3], [2.4]])
    mask = torch.arange(5) < torch.tensor([[5], [1], [2], [3], [4], [5]])
    advantages = torch.tensor([2.0412, *[-0.40825] * 5])
    tokens = TokenBatch(old, old, advantages, mask, group=torch.zeros(6, dtype=torch.long))
    assert (method("grpo_dropout", 10).prepare(tokens, 0).advantages == 0).all()
