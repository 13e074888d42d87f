"""How the next token is drawn: temperature, then top-k, then top-p, then one uniform number per sequence.

Both engines use this on a CPU. There transformers and vLLM spend more time on drawing than on the model: they sort the
whole vocabulary for top-p and draw a random number for each of its tokens, also where top-k keeps twenty. Here the
candidates are selected first, and one is drawn by inverse CDF.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

DRAW_KEY = "dynclip_draw"  # of a vLLM request's extra_args, for vllm_draws


def draw(
    logits: "torch.Tensor", uniforms: "torch.Tensor", temperature: float, top_p: float, top_k: int
) -> "torch.Tensor":
    """One token for each row of `logits` (B, V), shape (B,), decided by `uniforms` (B,) in [0, 1).

    temperature > 0 divides the logits; `top_k` > 0 keeps that many of the likeliest; `top_p` < 1 keeps the smallest set
    of the likeliest whose probability, among those kept so far, reaches it (always at least one). Then token i is drawn
    where the cumulative probability, likeliest first, passes the row's uniform number. Tokens with logit −inf are never
    drawn. Raises ValueError for temperature ≤ 0: the likeliest token needs no draw.
    """
    import torch

    if temperature <= 0:
        raise ValueError(f"temperature: expected a number above 0, given {temperature}")
    scaled, tokens = logits, None
    if 0 < top_k < logits.shape[-1]:
        scaled, tokens = logits.topk(top_k, dim=-1)
    elif top_p < 1:
        scaled, tokens = logits.sort(dim=-1, descending=True)
    probability = (scaled.float() / temperature).softmax(dim=-1)
    if top_p < 1:
        before = probability.cumsum(dim=-1) - probability
        # The first place is always kept: rounding must not exclude the likeliest token.
        outside = (before >= top_p) & (torch.arange(scaled.shape[-1], device=scaled.device) > 0)
        probability = probability.masked_fill(outside, 0.0)
    # Float64: a float32 sum over a large vocabulary ends visibly short of 1, and its last tokens would be cut off.
    upper = probability.cumsum(dim=-1, dtype=torch.float64)
    # A number below 1 times the total stays below the total, so the token found has a probability above 0.
    place = torch.searchsorted(upper, (uniforms.double() * upper[:, -1]).unsqueeze(1), right=True)
    return (place if tokens is None else tokens.gather(1, place)).squeeze(1)


def uniform_numbers(seed: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), one for each token of a sample with this seed."""
    return np.random.default_rng(seed).random(count)
