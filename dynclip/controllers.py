"""State that a method keeps between rollout steps: fed by `observe`, read as a signal, saved in every checkpoint."""

from dataclasses import dataclass


@dataclass
class Hysteresis:
    """OD's switch (arXiv 2602.09782): entropy falls to τ_low → loosen the upper bound; rises above τ_high → the lower.

    H_init is the entropy at the first observation. τ_low = `fraction` · H_init and
    τ_high(k) = τ_low + (H_init − τ_low)(1 − k/T): a band that closes over training. Between the two the state is kept.
    The paper leaves the state before the first trigger open; here it is −1, which means ε on both sides.
    """

    fraction: float
    total_steps: int
    initial_entropy: float | None = None
    signal: int = -1

    def observe(self, step: int, entropy: float) -> None:
        """Take the mean token entropy (nats) of the policy that sampled rollout batch `step`."""
        if self.initial_entropy is None:
            self.initial_entropy = entropy
        low = self.fraction * self.initial_entropy
        high = low + (self.initial_entropy - low) * (1 - step / self.total_steps)
        if entropy <= low:
            self.signal = 1
        elif entropy > high:
            self.signal = 0

    def state_dict(self) -> dict:
        return {"initial_entropy": self.initial_entropy, "signal": self.signal}

    def load_state_dict(self, state: dict) -> None:
        self.initial_entropy, self.signal = state["initial_entropy"], state["signal"]
