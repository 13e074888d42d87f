"""What a method is: the pieces it is composed of, its options, and what a reader should know about it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from dynclip.methods.surrogate import ppo_min, token_ratio
from dynclip.methods.types import NEEDS, Bound

ROLLOUT_NEEDS = ("old_entropy", "old_baseline")  # looked at once per rollout batch, by `prepare`
ROLES = (
    "ratio", "bounds", "surrogate", "weights", "rollout_weights", "advantages", "extra", "reduction", "controller",
)  # fmt: skip


@dataclass(frozen=True)
class MethodSpec:
    """A registry entry: the pieces, the options with their evidence, and what a reader should know.

    Pieces, each a pure function that names the options it takes as keyword arguments (those not given are GRPO's):
    `bounds(q, clock) -> (eps_low, eps_high)`; `ratio(log_ratio, logprob, mask) -> log ratio`; `surrogate(tokens)`,
    `weights(tokens)` and `extra(tokens)` -> (B, T); `rollout_weights(tokens, total)` and `advantages(tokens, total)`
    -> (B, T), once per rollout batch; `reduction(logits) -> (...)`, which gives the input that is made from full
    logits; `controller(total_steps=…)` with `observe` and `signal`.

    `evidence` says for each option where its default comes from. `needs` lists entries of `NEEDS`. `observes` is what
    the controller is fed: "entropy" or "clamped_entropy", the mean of either over the rollout batch; `keeps` names its
    state. `on_policy_grpo`: with one update per rollout batch (all ratios 1) the method is GRPO exactly.
    Raises ValueError for an option that no piece takes, or a piece whose option has no default.
    """

    name: str
    title: str
    arxiv: str
    bounds: Callable[..., tuple[Bound, Bound]]
    defaults: dict = field(default_factory=dict)
    evidence: dict[str, str] | str = ""
    equation: str = ""
    change: str = ""
    ratio: Callable = token_ratio
    surrogate: Callable = ppo_min
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

    def __post_init__(self):
        taken = {"detach"} if "reference" in self.defaults else set()
        for role in self.pieces:
            names = piece_options(getattr(self, role))
            missing = sorted(name for name, required in names.items() if required and name not in self.defaults)
            if missing:
                raise ValueError(f"method {self.name!r}: its {role} takes {missing[0]!r}, which has no default")
            taken |= set(names)
        unused = sorted(set(self.defaults) - taken)
        if unused:
            raise ValueError(f"method {self.name!r}: option {unused[0]!r} is taken by none of its pieces")
        unknown = sorted(set(self.needs) - set(NEEDS))
        if unknown:
            raise ValueError(f"method {self.name!r}: needs {unknown[0]!r}, expected some of: {', '.join(NEEDS)}")

    @property
    def pieces(self) -> tuple[str, ...]:
        """The roles that this method fills."""
        return tuple(role for role in ROLES if getattr(self, role) is not None)


def piece_options(piece: Callable) -> dict[str, bool]:
    """The options of a piece: name -> whether it must be given. Options are keyword-only; a controller's are fields."""
    found = {}
    for name, parameter in inspect.signature(piece).parameters.items():
        if inspect.isclass(piece) or parameter.kind is parameter.KEYWORD_ONLY:
            found[name] = parameter.default is parameter.empty and name != "total_steps"
    return found
