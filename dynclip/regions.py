"""Entropy-sensitive regions: which tokens of an update raise and which lower the policy's entropy.

For one token a sampled with advantage A from a softmax policy p = softmax(z), the gradients of L = A ln p_a and of the
entropy H with respect to the logits have the inner product (arXiv 2602.09782, derivation of the regions)

    ⟨∇L, ∇H⟩ = −A [ p_a (ln p_a + H) − Σ_x p_x² (ln p_x + H) ].

The paper keeps the first term: its sign is that of the surprisal −ln p_a against H, which splits tokens into E1-E4.
"""

import torch


def classify(logprob: torch.Tensor, entropy: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Region of each token, an int tensor (B, T) of 1..4, or 0 where it has none.

    E1: A > 0, surprisal < H (entropy falls); E2: A > 0, surprisal > H (rises); E3: A < 0, surprisal < H (rises);
    E4: A < 0, surprisal > H (falls). 0: no advantage, or surprisal equal to H, where the term is exactly zero.
    `logprob` and `entropy` (nats) are (B, T); `advantages` is (B,) or (B, T).
    """
    if advantages.dim() == logprob.dim() - 1:
        advantages = advantages.unsqueeze(-1)
    surprising, expected = -logprob > entropy, -logprob < entropy
    good, bad = advantages > 0, advantages < 0
    region = torch.zeros_like(logprob, dtype=torch.long)
    for number, where in enumerate((good & expected, good & surprising, bad & expected, bad & surprising), 1):
        region = torch.where(where, number, region)
    return region


def alignment(
    logits: torch.Tensor, actions: torch.Tensor, advantages: torch.Tensor, exact: bool = True
) -> torch.Tensor:
    """⟨∇_z L, ∇_z H⟩ per position: positive where the update of this token raises entropy, to first order.

    `logits` (..., V), `actions` (...) long, `advantages` (...). `exact=False` leaves out the global baseline
    Σ_x p_x² (ln p_x + H), as the paper does. Probabilities that underflow to zero contribute their limit, zero.
    """
    logprob = torch.log_softmax(logits, dim=-1)
    prob = logprob.exp()
    plogp = torch.where(prob > 0, prob * logprob, torch.zeros_like(prob))
    entropy = -plogp.sum(-1, keepdim=True)
    term = plogp + prob * entropy  # p (ln p + H)
    chosen = term.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    baseline = (prob * term).sum(-1) if exact else 0.0
    return -advantages * (chosen - baseline)
