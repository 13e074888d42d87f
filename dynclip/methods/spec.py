"""A registry entry: the pieces of a method, its options, and what a reader should know about it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from dynclip.methods.types import NEEDS, Bound

ROLLOUT_NEEDS = ("old_entropy", "old_baseline", "group")  # `Method.prepare` reads them, once per rollout batch
ROLES = ("ratio", "bounds", "surrogate", "weights", "rollout_weights", "advantages", "extra", "reduction", "controller")
# Libraries whose losses and advantages were read for `MethodSpec.shipped` -> what was read.
LIBRARIES = {
    "TRL": "TRL 1.16.0",
    "verl": "verl 0.9.1",
    "SkyRL": "SkyRL at a956457 (August 2026)",
    "ms-swift": "ms-swift 4.6.0",
    "prime-rl": "prime-rl at 559b447 (August 2026)",
    "Trinity": "Trinity-RFT 0.6.0",
}


@dataclass(frozen=True)
class MethodSpec:
    """A method: its pieces, its options with their sources, and its description.

    A piece is a pure function. Its options are its keyword-only arguments. A piece that is None is GRPO's, or absent.
      bounds(q, clock) -> (eps_low, eps_high)       interval [1 − eps_low, 1 + eps_high] of the ratio
      ratio(log_ratio, logprob, mask) -> (B, T)     logarithm of the ratio that is bounded
      surrogate(tokens) -> (B, T)                   loss of every token
      weights(tokens) -> (B, T)                     factors of that loss, for every mini-batch
      rollout_weights(tokens, total) -> (B, T)      factors of that loss, once per rollout batch
      advantages(tokens, total) -> (B, T)           new advantages, once per rollout batch
      extra(tokens) -> (B, T)                       a term added to the loss
      reduction(logits) -> (...)                    the input that is computed from full logits (..., V)
      controller(total_steps=…)                     a class with `observe` and `signal`; its fields are its options

    `defaults`: the options. `evidence`: where each default comes from, or one text for all. `equation`: LaTeX.
    `change`: the difference from GRPO in one or two sentences, of which the first stands in the table of methods.
    `shipped`: entries of `LIBRARIES` that have the method. `needs`: entries of `NEEDS`. `observes`: the mean over the
    rollout batch that the controller takes, "entropy" or "clamped_entropy". `keeps`: the controller's state in words.
    `on_policy_grpo`: the method is GRPO exactly where all ratios are 1 (one update per rollout batch).
    `over_batch`: the loss of a token depends on other sequences, through a mean, a quantile, a quota or a draw.

    Raises ValueError for an option that no piece takes, a piece's option without a default, an unknown need or library.
    """

    name: str
    title: str
    arxiv: str
    bounds: Callable[..., tuple[Bound, Bound]]
    defaults: dict = field(default_factory=dict)
    evidence: dict[str, str] | str = ""
    equation: str = ""
    change: str = ""
    shipped: tuple[str, ...] = ()
    ratio: Callable | None = None
    surrogate: Callable | None = None
    weights: Callable | None = None
    rollout_weights: Callable | None = None
    advantages: Callable | None = None
    extra: Callable | None = None
    reduction: Callable | None = None
    controller: Callable | None = None
    needs: tuple[str, ...] = ()
    observes: str = "entropy"
    keeps: str = ""
    caveats: tuple[str, ...] = ()
    on_policy_grpo: bool = False
    over_batch: bool = False

    def __post_init__(self):
        taken = {"detach"} if "reference" in self.defaults else set()  # `Method` itself reads `detach`
        for role, piece in self.pieces.items():
            options = piece_options(piece)
            missing = sorted(name for name, required in options.items() if required and name not in self.defaults)
            if missing:
                raise ValueError(f"method {self.name!r}: its {role} takes {missing[0]!r}, which has no default")
            taken |= set(options)
        unused = sorted(set(self.defaults) - taken)
        if unused:
            raise ValueError(f"method {self.name!r}: option {unused[0]!r} is taken by none of its pieces")
        unknown = sorted(set(self.needs) - set(NEEDS))
        if unknown:
            raise ValueError(f"method {self.name!r}: needs {unknown[0]!r}, expected some of: {', '.join(NEEDS)}")
        unknown = sorted(set(self.shipped) - set(LIBRARIES))
        if unknown:
            raise ValueError(f"method {self.name!r}: shipped in {unknown[0]!r}, expected: {', '.join(LIBRARIES)}")

    @property
    def pieces(self) -> dict[str, Callable]:
        """Role -> piece, for the roles that this method names."""
        return {role: getattr(self, role) for role in ROLES if getattr(self, role) is not None}

    @property
    def sources(self) -> dict[str, str]:
        """Option -> where its default comes from."""
        return self.evidence if isinstance(self.evidence, dict) else dict.fromkeys(self.defaults, self.evidence)


def separable(spec: MethodSpec) -> bool:
    """Whether the loss of every token depends on its own sequence and the clock alone.

    Batches of several runs can then be stacked in one (`TokenBatch.runs`).
    """
    return not spec.over_batch


def piece_options(piece: Callable) -> dict[str, bool]:
    """The options of a piece, name -> whether it must be given: keyword-only arguments, or a controller's fields."""
    options = {}
    for name, parameter in inspect.signature(piece).parameters.items():
        if inspect.isclass(piece) or parameter.kind is parameter.KEYWORD_ONLY:
            options[name] = parameter.default is parameter.empty and name != "total_steps"
    return options
