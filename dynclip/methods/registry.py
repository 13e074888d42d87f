"""The registry: every method under comparison. Each entry stands in the file of its piece; this file collects them.

To add a method, write its function and its entry in `bounds`, `surrogate`, `weights` or `extras`, or in a module of
their folders. Training, workflow, tables, figures and docs/methods.md read `METHODS`.
"""

import itertools

from dynclip.methods import bounds, extras, surrogate, weights
from dynclip.methods.objective import Method
from dynclip.methods.spec import MethodSpec
from dynclip.methods.surrogate import balance, divergence, masks, smooth
from dynclip.methods.weights import gates, groups

# The order of tables and figures. A method that is not named here comes last.
ORDER = (
    *("grpo", "clip_higher", "clip_lower", "dynamic_upper", "dynamic_lower", "id", "did", "od", "ent_reg"),
    *("adaptive_entropy", "aer", "aent", "clip_cov", "kl_cov", "gspo", "sapo", "cispo", "ce_gppo", "gppo", "steer"),
    *("dcpo", "bandpo", "dppo", "clip_b", "clip_v", "par", "thermostat", "exchange", "high_entropy", "entropic"),
    *("vespo", "gmpo", "dro", "adapo", "repo_r", "stare", "cppo", "bapo", "maxrl", "entrocraft"),
    *("mimo", "rloo", "grpo_dropout"),
)
METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in sorted(
        itertools.chain.from_iterable(
            module.METHODS
            for module in (bounds, surrogate, divergence, smooth, balance, masks, weights, gates, groups, extras)
        ),
        key=lambda spec: ORDER.index(spec.name) if spec.name in ORDER else len(ORDER),
    )
}


def find(name: str) -> MethodSpec:
    """The entry of a method. Raises ValueError, naming the methods, for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; the methods are: {', '.join(METHODS)}")
    return METHODS[name]


def method(chosen: str | MethodSpec, total_steps: int, **options) -> Method:
    """A method for a run of `total_steps` rollout batches, its defaults overridden by `options`.

    `chosen` is a name of METHODS or your own MethodSpec. Raises ValueError for an unknown name or option, naming the
    valid ones.
    """
    return Method(find(chosen) if isinstance(chosen, str) else chosen, total_steps, options)
