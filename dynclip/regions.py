"""Entropy-sensitive regions: tokens of an update that raise the policy's entropy, and tokens that lower it.

For one token a sampled with advantage A from a softmax policy p = softmax(z), the gradients of L = A ln p_a and of the
entropy H with respect to the logits have the inner product (arXiv 2602.09782, derivation of the regions)

    ⟨∇L, ∇H⟩ = −A [ p_a (ln p_a + H) − B ],    B = Σ_x p_x² (ln p_x + H).

The paper keeps the first term. Its sign compares the surprisal −ln p_a with H, which splits the tokens into E1-E4.
B is never negative, so the paper's rule can err in one direction only (proof and counts: docs/regions.md).
"""

import torch


def classify(logprob: torch.Tensor, entropy: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Region of each token, an int tensor (B, T) of 1..4, or 0 where it has none.

    E1: A > 0, surprisal < H (entropy falls). E2: A > 0, surprisal > H (rises). E3: A < 0, surprisal < H (rises).
    E4: A < 0, surprisal > H (falls). 0: A = 0, or a surprisal equal to H, where the term is zero.
    `logprob` and `entropy` (nats) are (B, T); `advantages` is (B,) or (B, T).
    """
    if advantages.dim() == logprob.dim() - 1:
        advantages = advantages.unsqueeze(-1)
    region = torch.zeros_like(logprob, dtype=torch.long)
    for number, where in enumerate(members(logprob, entropy, advantages), 1):
        region = torch.where(where, number, region)
    return region


def members(logprob: torch.Tensor, entropy: torch.Tensor, advantages: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tokens of E1, E2, E3 and E4 as four boolean tensors (B, T). `advantages` is (B, 1) or (B, T)."""
    surprising, expected = -logprob > entropy, -logprob < entropy
    good, bad = advantages > 0, advantages < 0
    return good & expected, good & surprising, bad & expected, bad & surprising


def alignment(
    logits: torch.Tensor, actions: torch.Tensor, advantages: torch.Tensor, exact: bool = True
) -> torch.Tensor:
    """⟨∇_z L, ∇_z H⟩ of each position, (...): positive where the token's update raises entropy, to first order.

    `logits` (..., V), `actions` (...) long, `advantages` (...). `exact=False` leaves out the global baseline
    (`baseline`), as the paper does. Tokens of probability zero (also logit −inf) contribute their limit, zero. Float64
    stays float64; shorter types are computed in float32.
    """
    prob, term = _terms(logits)
    chosen = term.gather(-1, actions.unsqueeze(-1))
    if exact:
        # Σ_x p_x (chosen − term_x) is chosen − B. The subtraction would cancel all digits where p_a is close to 1.
        return -advantages * (prob * (chosen - term)).sum(-1)
    return -advantages * chosen.squeeze(-1)


def baseline(logits: torch.Tensor) -> torch.Tensor:
    """The global baseline B = Σ_x p_x² (ln p_x + H) of each position (nats): (..., V) in, (...) out.

    B is the mean of p_a (ln p_a + H) over a ~ p, and the covariance of p and ln p under p. It is zero where p is
    uniform on its support, else positive. Precision is as in `alignment`; log-probabilities may replace logits.
    In float32 rounding decides the sign of p_a (ln p_a + H) − B for p_a within 1e-7 of 1. The exact value is never
    negative for p_a ≥ 1/2 (docs/regions.md).
    """
    prob, term = _terms(logits)
    return (prob * term).sum(-1)


def _terms(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(p, p (ln p + H)), both (..., V), finite where the logits are finite or −inf."""
    logprob = torch.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    prob = logprob.exp()
    logprob = logprob.masked_fill(prob == 0, 0.0)  # 0 · −inf is NaN; the limit is 0
    entropy = -(prob * logprob).sum(-1, keepdim=True)
    return prob, prob * (logprob + entropy)
