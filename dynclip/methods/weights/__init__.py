"""Token weights and advantage transforms, and the methods that use them. No gradient flows through either.

A function of `tokens` alone runs on every mini-batch. A function that also takes `total` runs once per rollout batch,
on the policy that sampled; `total` sums a tensor over all ranks. All return (B, T).
"""

import math
from collections.abc import Callable

import torch

from dynclip.methods import controllers
from dynclip.methods.bounds import CLIPPED, PPO, PPO_SOURCE, constant
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Tokens
from dynclip.regions import baseline

Total = Callable[[torch.Tensor], torch.Tensor]


def covariance(tokens: Tokens) -> torch.Tensor:
    """(A − mean A)(ln p − mean ln p) of each counted token, means over the mini-batch (arXiv 2505.22617)."""
    counted, logprob = tokens.counted, tokens.logprob.detach()
    count = counted.sum().clamp(min=1)
    centred = tokens.advantages - (tokens.advantages * counted).sum() / count
    return centred * (logprob - logprob.sum() / count) * counted


def clip_covariance(tokens: Tokens, *, share: float, cov_low: float, cov_high: float, at_least: int) -> torch.Tensor:
    """Clip-Cov (arXiv 2505.22617): 0 for a few random tokens whose covariance is in (cov_low, cov_high).

    They are drawn from the tokens that PPO does not clip, with a generator seeded by `draw_seed`:
    max(int(share · N), at_least) of them per mini-batch of N counted tokens.
    """
    covariances = covariance(tokens)
    with torch.no_grad():
        clipped = ((tokens.ratio > 1 + tokens.eps_high) & (tokens.advantages > 0)) | (
            (tokens.ratio < 1 - tokens.eps_low) & (tokens.advantages < 0)
        )
        eligible = (covariances > cov_low) & (covariances < cov_high) & tokens.mask & ~clipped
        places = eligible.flatten().nonzero().squeeze(-1)
        quota = min(max(int(share * int(tokens.mask.sum())), at_least), len(places))
        # A CPU generator: the same seed draws the same tokens on every device.
        generator = torch.Generator().manual_seed(tokens.draw_seed)
        drawn = places[torch.randperm(len(places), generator=generator)[:quota].to(places.device)]
        weight = torch.ones_like(covariances).flatten()
        weight[drawn] = 0.0
        return weight.view_as(covariances)


def entropy_sensitivity(
    tokens: Tokens, *, mapping: str, w_min: float, w_max: float, floor: float, power: int
) -> torch.Tensor:
    """STEER (arXiv 2510.10150): the more a token's update would change entropy, the smaller its weight.

    Ω = (A/q) p (1 − p)^power (ln p + H). mapping "exp": w = exp(−k |Ω|) with k = −ln(w_min)/max(max |Ω|, floor), at
    least w_min. mapping "linear": from w_max at the least |Ω| of the mini-batch to w_min at the greatest.
    Raises ValueError for another mapping.
    """
    if mapping not in ("exp", "linear"):
        raise ValueError(f"mapping: expected 'exp' or 'linear', given {mapping!r}")
    with torch.no_grad():
        logprob = tokens.logprob
        prob = logprob.exp()
        # (A/q) p is A r, which stays finite where q underflows.
        change = tokens.advantages * tokens.ratio * (1 - prob) ** power * (logprob + tokens.entropy)
        size = change.abs().masked_fill(~tokens.mask, 0.0)
        largest = size.max() if size.numel() else size.new_zeros(())
        if mapping == "exp":
            rate = -math.log(w_min) / largest.clamp(min=floor)
            return torch.exp(-rate * size).clamp(min=w_min, max=1.0)
        counted = size[tokens.mask]
        smallest = counted.min() if counted.numel() else largest
        return w_max - (size - smallest) / (largest - smallest).clamp(min=1e-12) * (w_max - w_min)


def positive_advantage(tokens: Tokens, *, schedule: str) -> torch.Tensor:
    """Positive-advantage reweighting (arXiv 2511.05993): λ for tokens with A > 0, 1 for the others.

    schedule "entropy": λ is the controller's signal. "stage": 0 in the first half of training, then linearly to 1.
    "linear": k/T. Raises ValueError for another schedule.
    """
    clock = tokens.clock
    progress = clock.step / clock.total_steps
    schedules = {"entropy": clock.state, "stage": max(0.0, 2 * progress - 1), "linear": progress}
    if schedule not in schedules:
        raise ValueError(f"schedule: expected one of {', '.join(map(repr, schedules))}, given {schedule!r}")
    ones = torch.ones_like(tokens.logprob, requires_grad=False)
    return torch.where(tokens.advantages > 0, schedules[schedule] * ones, ones)


def high_entropy(tokens: Tokens, *, quantile: float) -> torch.Tensor:
    """80/20 (arXiv 2506.01939): 1 for the top `quantile` of the mini-batch's tokens by entropy, 0 for the others."""
    with torch.no_grad():
        counted = tokens.entropy[tokens.mask]
        if not counted.numel():
            return torch.zeros_like(tokens.entropy)
        # How many are at or above the (1 − quantile)-quantile. torch.quantile refuses more than 2²⁴ values.
        above = len(counted) - math.ceil((1 - quantile) * (len(counted) - 1))
        threshold = counted.topk(above, sorted=False).values.min()
        return ((tokens.entropy >= threshold) & tokens.mask).to(tokens.entropy.dtype)


def moments(values: torch.Tensor, mask: torch.Tensor, total: Total) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation of the counted values over all ranks, two scalars."""
    count = total(mask.sum().to(values.dtype)).clamp(min=1)
    mean = total((values * mask).sum()) / count
    return mean, (total(((values - mean) ** 2 * mask).sum()) / count).sqrt()


def discriminator(tokens: Tokens) -> torch.Tensor:
    """S = q (ln q + H) of the policy that sampled; negative where a token's surprisal exceeds the entropy."""
    return tokens.old_logprob.exp() * (tokens.old_logprob + tokens.old_entropy)


def clip_batch(tokens: Tokens, total: Total, *, mu: float) -> torch.Tensor:
    """Clip_B (arXiv 2602.03392): 0 for tokens with A < 0 whose S is more than μ deviations below the batch's mean."""
    score = discriminator(tokens)
    mean, deviation = moments(score, tokens.mask, total)
    return ((tokens.advantages >= 0) | (score - mean >= -mu * deviation)).to(score.dtype)


def clip_vocabulary(tokens: Tokens, total: Total, *, mu: float, share: float, at_least: int) -> torch.Tensor:
    """Clip_V (arXiv 2602.03392): 0 for tokens with A < 0 whose S is far below its own expectation E_x[S].

    D = E_x[S] − S with E_x[S] = Σ_x p_x² (ln p_x + H), the token's `old_baseline`. Tokens with D > μ std(D) are
    dropped, the greatest D first, at most max(int(share · N), at_least) of the rank's N tokens.
    """
    gap = (tokens.old_baseline - discriminator(tokens)).masked_fill(~tokens.mask, 0.0)
    _, deviation = moments(gap, tokens.mask, total)
    dropped = (tokens.advantages < 0) & (gap > mu * deviation) & tokens.mask
    quota = min(max(int(share * int(tokens.mask.sum())), at_least), int(dropped.sum()))
    weight = torch.ones_like(gap).flatten()
    weight[gap.masked_fill(~dropped, -math.inf).flatten().topk(quota).indices] = 0.0
    return weight.view_as(gap)


def exchange(tokens: Tokens, total: Total, *, shaping: str, alpha: float, gamma: float, slope: float) -> torch.Tensor:
    """Entropy-performance exchange (arXiv 2508.02260): more advantage for fluent responses or for late tokens.

    shaping "perplexity": A (1 − α z) with the response's mean surprisal z, standardised over the rollout batch.
    "position": A + sign(A) γ σ(slope · u) with the token's relative position u ∈ (0, 1].
    Raises ValueError for another shaping.
    """
    mask, advantages = tokens.mask, tokens.advantages
    length = mask.sum(-1, keepdim=True).clamp(min=1)
    if shaping == "perplexity":
        surprisal = -(tokens.old_logprob * mask).sum(-1, keepdim=True) / length
        mean, deviation = moments(surprisal, mask.any(-1, keepdim=True), total)
        return (advantages * (1 - alpha * (surprisal - mean) / deviation.clamp(min=1e-6))).expand_as(mask)
    if shaping == "position":
        position = mask.cumsum(-1).to(tokens.logprob.dtype) / length
        return advantages + advantages.sign() * gamma * torch.sigmoid(slope * position)
    raise ValueError(f"shaping: expected 'perplexity' or 'position', given {shaping!r}")


METHODS = (
    MethodSpec(
        name="clip_cov",
        title="Clip-Cov",
        arxiv="2505.22617",
        bounds=constant,
        over_batch=True,
        weights=clip_covariance,
        defaults={"eps_low": 1.0, "eps_high": 1.0, "share": 2e-4, "cov_low": 1.0, "cov_high": 5.0, "at_least": 1},
        evidence="official code",
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=0\ \text{{for a few of}}\ "
        r"\{c_l<(A_t-\bar A)(\ln p_t-\overline{\ln p})<c_h\}",
        change="A few tokens of high covariance lose their gradient. The covariance is of A and ln p.",
        shipped=("verl", "SkyRL"),
        caveats=(
            "PPO's clipping is practically off in the official settings (ε = 1). verl leaves it at the run's 0.2.",
            "Covariance and quota are the mini-batch's. At least one token is dropped: small mini-batches lose more.",
            "It acts even with one update per rollout batch.",
        ),
    ),
    MethodSpec(
        name="steer",
        title="STEER",
        arxiv="2510.10150",
        bounds=constant,
        over_batch=True,
        weights=entropy_sensitivity,
        needs=("entropy",),
        defaults={
            "eps_low": 0.2,
            "eps_high": 0.28,
            "mapping": "exp",
            "w_min": 0.8,
            "w_max": 1.2,
            "floor": 0.02,
            "power": 1,
        },
        evidence={
            "eps_low": "official scripts",
            "eps_high": "official scripts",
            "mapping": "official scripts: one for each",
            "w_min": "official scripts; the paper's is said to be 0.7",
            "w_max": "official scripts, mapping='linear'",
            "floor": "official code; not in the paper",
            "power": "official code: p (1 − p), though a variable's name suggests p (1 − p)²",
        },
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=e^{{-k|\Omega_t|}},\ "
        r"\Omega_t=\tfrac{A_t}{q_t}p_t(1-p_t)(\ln p_t+H_t)",
        change="A token that would change entropy more weighs less.",
        caveats=("max |Ω| is the mini-batch's, so weights depend on its composition.",),
    ),
    MethodSpec(
        name="clip_b",
        title="Clip_B",
        arxiv="2602.03392",
        bounds=constant,
        over_batch=True,
        rollout_weights=clip_batch,
        needs=("old_entropy",),
        defaults={**PPO, "mu": 2.5},
        evidence={**PPO_SOURCE, "mu": "official code"},
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=0\ \text{{if}}\ A_t<0,\ S_t-\bar S<-\mu\,\sigma_S,\ "
        r"S_t=q_t(\ln q_t+H_t)",
        change="Surprising tokens with A < 0 are left out. Those are outliers of the rollout batch.",
        shipped=("Trinity",),
        caveats=(
            "The statistics are the rollout batch's where the trainer calls `prepare`, else the mini-batch's.",
            "The official code also leaves the dropped tokens out of the loss's denominator.",
        ),
    ),
    MethodSpec(
        name="clip_v",
        title="Clip_V",
        arxiv="2602.03392",
        bounds=constant,
        over_batch=True,
        rollout_weights=clip_vocabulary,
        reduction=baseline,
        needs=("old_entropy", "old_baseline"),
        defaults={**PPO, "mu": 8.5, "share": 1e-4, "at_least": 1},
        evidence={
            **PPO_SOURCE,
            "mu": "official configuration (the class default is 2.0)",
            "share": "official code",
            "at_least": "official code",
        },
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=0\ \text{{if}}\ A_t<0,\ \mathbb E_x[S_x]-S_t>\mu\,\sigma",
        change="As Clip_B, against the token's own expectation. The expectation is over the vocabulary.",
        shipped=("Trinity",),
        caveats=("It needs full logits of the sampling policy: an extra pass over the vocabulary per rollout batch.",),
    ),
    MethodSpec(
        name="par",
        title="PAR",
        arxiv="2511.05993",
        bounds=constant,
        weights=positive_advantage,
        controller=controllers.PositiveWeight,
        defaults={**PPO, "schedule": "entropy", "target": 0.2, "delta": 0.05, "initial": 0.0},
        evidence={
            **PPO_SOURCE,
            "schedule": "the paper's best variant",
            **dict.fromkeys(("target", "delta", "initial"), "second-hand, from the paper"),
        },
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=\lambda\ \text{{if}}\ A_t>0,\ \text{{else}}\ 1",
        change="Tokens with A > 0 count λ ≤ 1, moved by entropy. "
        "λ falls while entropy is below a target and rises above it.",
        keeps="the weight λ",
        caveats=("λ starts at 0: the first steps learn from failures only.",),
    ),
    MethodSpec(
        name="exchange",
        title="Entropy-performance exchange",
        arxiv="2508.02260",
        bounds=constant,
        over_batch=True,
        advantages=exchange,
        defaults={**PPO, "shaping": "perplexity", "alpha": 0.01, "gamma": 0.1, "slope": 1.0},
        evidence={
            **PPO_SOURCE,
            "shaping": "paper: two variants",
            **dict.fromkeys(("alpha", "gamma", "slope"), "unverified: not found in public text"),
        },
        equation=r"A_t(1-\alpha z),\ z:\text{standardised log-perplexity};\quad\text{or}\quad "
        r"A_t+\mathrm{sign}(A_t)\,\gamma\,\sigma(\cdot)",
        change="Fluent responses or late tokens get more advantage. `shaping` says which: `perplexity` or `position`.",
        caveats=("The standardisation is over the rollout batch. Whether the paper's is over groups is not known.",),
    ),
    MethodSpec(
        name="high_entropy",
        title="80/20",
        arxiv="2506.01939",
        bounds=constant,
        over_batch=True,
        weights=high_entropy,
        needs=("entropy",),
        defaults={**PPO, "quantile": 0.2},
        evidence={**PPO_SOURCE, "quantile": "paper"},
        equation=rf"w_t\cdot{CLIPPED},\quad w_t=\mathbb 1[H_t\ \text{{in the top }}20\,\%]",
        change="Only the fifth of highest entropy is trained. The quantile is over the tokens of a mini-batch.",
        shipped=("TRL", "ms-swift"),
        caveats=("As in the paper the loss is divided by all tokens, so the step shrinks with the share trained.",),
    ),
)
