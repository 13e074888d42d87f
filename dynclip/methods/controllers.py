"""Controllers: the state that a method keeps between rollout steps. Every checkpoint holds it.

`observe(step, entropy)` takes the mean token entropy (nats) of the policy that sampled rollout batch `step`, over the
whole batch. `signal` is then the `state` in the losses of that batch. A controller never sees a mini-batch, so its
behaviour does not depend on the size of mini-batches or the number of processes.
"""

from dataclasses import dataclass, fields


class Controller:
    """Base class. Options are dataclass fields. State is every attribute that `__post_init__` adds, with `signal`."""

    def state_dict(self) -> dict:
        options = {field.name for field in fields(self)}
        return {name: value for name, value in vars(self).items() if name not in options}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError when `state` was not written by a controller of this kind."""
        expected = set(self.state_dict())
        if set(state) != expected:
            raise ValueError(f"controller state: expected {sorted(expected)}, given {sorted(state)}")
        for name, value in state.items():
            setattr(self, name, value)


@dataclass
class Hysteresis(Controller):
    """OD's switch (arXiv 2602.09782): H ≤ τ_low loosens the upper bound, H > τ_high loosens the lower one.

    H_init is `initial_entropy` in nats; 0 takes the entropy of the first observation. τ_low = `fraction` · H_init and
    τ_high(k) = τ_low + (H_init − τ_low)(1 − k/T), a band that closes over training. Between the two the state stays.
    The paper leaves the state before the first trigger open. `initial_state` −1 means ε on both sides; 1 and 0 start
    with the upper or the lower bound loosened. Raises ValueError for another `initial_state` and a negative
    `initial_entropy`.
    """

    fraction: float
    total_steps: int
    initial_state: int = -1
    initial_entropy: float = 0.0

    def __post_init__(self):
        if self.initial_state not in (-1, 0, 1):
            raise ValueError(f"initial_state: expected -1, 0 or 1, given {self.initial_state!r}")
        if self.initial_entropy < 0:
            raise ValueError(f"initial_entropy: expected nats, or 0 for those observed, given {self.initial_entropy!r}")
        self.reference_entropy = self.initial_entropy or None
        self.signal = self.initial_state

    def observe(self, step: int, entropy: float) -> None:
        if self.reference_entropy is None:
            self.reference_entropy = entropy
        low = self.fraction * self.reference_entropy
        high = low + (self.reference_entropy - low) * (1 - step / self.total_steps)
        if entropy <= low:
            self.signal = 1
        elif entropy > high:
            self.signal = 0


@dataclass
class Relaxation(Controller):
    """The thermostat's k: k ← clip(k + δ sign(H* − H), 0, k_max), from 0 (MAI-Thinking-1 report, second-hand)."""

    total_steps: int
    target: float
    delta: float
    maximum: float

    def __post_init__(self):
        self.signal = 0.0

    def observe(self, step: int, entropy: float) -> None:
        sign = (entropy < self.target) - (entropy > self.target)
        self.signal = min(max(self.signal + self.delta * sign, 0.0), self.maximum)


@dataclass
class AdaptiveCoefficient(Controller):
    """Skywork's entropy coefficient (arXiv 2505.22312): c ← clip(c ± Δ), up while H < H*. It acts only while H < H*.

    As in the official code, the losses of a rollout batch use the coefficient that the previous batch decided.
    """

    total_steps: int
    target: float
    delta: float
    minimum: float
    maximum: float
    initial: float

    def __post_init__(self):
        self.coefficient = self.initial
        self.low = False
        self.signal = 0.0

    def observe(self, step: int, entropy: float) -> None:
        self.signal = self.coefficient if self.low else 0.0
        self.low = entropy < self.target
        moved = self.coefficient + (self.delta if self.low else -self.delta)
        self.coefficient = min(max(moved, self.minimum), self.maximum)


@dataclass
class TrackingCoefficient(Controller):
    """AER-style coefficient (arXiv 2510.10959): c ← clip(c + η (H* − H), 0, c_max), H* = `fraction` · H_init."""

    total_steps: int
    fraction: float
    eta: float
    maximum: float

    def __post_init__(self):
        self.initial_entropy: float | None = None
        self.signal = 0.0

    def observe(self, step: int, entropy: float) -> None:
        if self.initial_entropy is None:
            self.initial_entropy = entropy
        moved = self.signal + self.eta * (self.fraction * self.initial_entropy - entropy)
        self.signal = min(max(moved, 0.0), self.maximum)


@dataclass
class BandCoefficient(Controller):
    """AEnt's coefficient (arXiv 2509.03493): c ← clip(c − η [min(0, H − H_low) + max(0, H − H_high)], c_min, c_max).

    H is the clamped entropy.
    """

    total_steps: int
    initial: float
    band: tuple[float, float]
    eta: float
    minimum: float
    maximum: float

    def __post_init__(self):
        self.signal = self.initial

    def observe(self, step: int, entropy: float) -> None:
        low, high = self.band
        moved = self.signal - self.eta * (min(0.0, entropy - low) + max(0.0, entropy - high))
        self.signal = min(max(moved, self.minimum), self.maximum)


@dataclass
class PositiveWeight(Controller):
    """The weight λ of positive advantages (arXiv 2511.05993): λ ← clip(λ ± Δ, 0, 1), down while H < H*, else up."""

    total_steps: int
    target: float
    delta: float
    initial: float

    def __post_init__(self):
        self.signal = self.initial

    def observe(self, step: int, entropy: float) -> None:
        move = -self.delta if entropy < self.target else self.delta
        self.signal = min(max(self.signal + move, 0.0), 1.0)


@dataclass
class ProportionalIntegral(Controller):
    """EntroPIC's α (arXiv 2511.15248): clip(K_p e + K_i Σ e, −1, 1) with e = H − H* and the sum over earlier errors."""

    total_steps: int
    target: float
    proportional: float
    integral: float

    def __post_init__(self):
        self.accumulated = 0.0
        self.signal = 0.0

    def observe(self, step: int, entropy: float) -> None:
        error = entropy - self.target
        alpha = self.proportional * error + self.integral * self.accumulated
        self.signal = min(max(alpha, -1.0), 1.0)
        self.accumulated += error


@dataclass
class GatedWeight(Controller):
    """STARE's W (arXiv 2606.19236): 1 unless H < H*. W ← clip(W ± step, 1, maximum), up while H < H*."""

    total_steps: int
    target: float
    weight: float
    step: float
    maximum: float

    def __post_init__(self):
        self.strength = self.signal = self.weight

    def observe(self, step: int, entropy: float) -> None:
        sign = (entropy < self.target) - (entropy > self.target)
        if self.step:
            self.strength = min(max(self.strength + self.step * sign, 1.0), self.maximum)
        self.signal = self.strength if entropy < self.target else 1.0


@dataclass
class EntropyBand(Controller):
    """Entrocraft's side (arXiv 2604.26326): 1 where H > hi(k), −1 where H < lo(k), else 0. Both are linear in k/T."""

    total_steps: int
    lower: tuple[float, float]
    upper: tuple[float, float]

    def __post_init__(self):
        self.signal = 0

    def observe(self, step: int, entropy: float) -> None:
        progress = step / self.total_steps
        low, high = (start + (end - start) * progress for start, end in (self.lower, self.upper))
        self.signal = (entropy > high) - (entropy < low)


@dataclass
class TowardsStart(Controller):
    """A signal that rises while H < H_init, the entropy first observed, and falls above, within [minimum, maximum]."""

    total_steps: int
    initial: float
    minimum: float
    maximum: float

    def __post_init__(self):
        self.initial_entropy: float | None = None
        self.signal = self.initial

    def observe(self, step: int, entropy: float) -> None:
        if self.initial_entropy is None:
            self.initial_entropy = entropy
            return
        self.signal = min(max(self.moved(entropy), self.minimum), self.maximum)

    def moved(self, entropy: float) -> float:
        """The next signal before it is cut."""
        raise NotImplementedError


@dataclass
class DoublingStrength(TowardsStart):
    """REPO-R's ζ (arXiv 2603.11682, second-hand): doubled while H < H_init, else halved."""

    def moved(self, entropy: float) -> float:
        return self.signal * (2 if entropy < self.initial_entropy else 0.5)


@dataclass
class SteppedTowardsStart(TowardsStart):
    """ADAPO's ε⁺ (arXiv 2603.11682, second-hand) and the shift of MiMo's masks: ± step, up while H < H_init."""

    step: float

    def moved(self, entropy: float) -> float:
        sign = (entropy < self.initial_entropy) - (entropy > self.initial_entropy)
        return self.signal + self.step * sign
