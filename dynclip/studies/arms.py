"""The studies: which arms each compares. An arm is one line of a comparison: a method with its options.

A method of the registry is an arm under its own name. Other arms of the studies are defined here and named by what
differs. A user's arm is named by its options, such as `id@switch=0.35`, see `dynclip.studies.method_options`. Every
study is a target of the workflow (`snakemake --cores all phase_ratio`) at any scale. An arm that several studies share
is trained once, under results/<scale>/runs/<arm>/.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache

from dynclip.methods.registry import METHODS
from dynclip.methods.spec import MethodSpec
from dynclip.methods.types import Line
from dynclip.runtime.errors import UserError
from dynclip.studies.method_options import SEPARATOR, format_options, parse_options, try_options
from dynclip.studies.probes import PROBES, REGIONS
from dynclip.studies.scales import THE_FIVE, RunConfig, Scale


@dataclass(frozen=True)
class Arm:
    """A method (or probe) with options. `settings` replace those of the scale, by the names of its fields."""

    name: str
    spec: MethodSpec
    options: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def scale(self, scale: Scale) -> Scale:
        """The scale as this arm trains at it."""
        return replace(scale, **self.settings)

    @property
    def all_options(self) -> dict:
        """The method's defaults with this arm's options in their place."""
        return {**self.spec.defaults, **self.options}


@dataclass(frozen=True)
class Study:
    """A comparison: the question and the arms, compared with grpo or, without it, with the first.

    seeds: how many of the scale's seeds. evaluated: whether checkpoints are scored on benchmarks as well. figures:
    names of `dynclip.report.figures` that the page shows besides its own. ranked: whether the arms are ranked. signs:
    whether the region rule is checked on the baseline's tokens. groups: the arms that may be compared with each other;
    needed where arms differ in the number of updates per rollout batch.
    """

    name: str
    title: str
    question: str
    arms: tuple[str, ...]
    seeds: int = 6
    evaluated: bool = False
    figures: tuple[str, ...] = ()
    ranked: bool = False
    signs: bool = False
    groups: tuple[tuple[str, ...], ...] = ()


UPDATES = {1: (1, 1), 4: (4, 1), 16: (4, 4)}  # updates per rollout batch -> minibatches, epochs
LEAK = {"reference": "current", "detach": False}  # a clipped token keeps a gradient through its own threshold
PHASES = (0.3, 0.4, 0.6)  # φ; 0.5 is the method itself
STALE = (1, 4, 16)  # rollout steps between the policy that samples and the one that trains
STALE_METHODS = ("grpo", "clip_higher", "did", "dppo", "cispo", "gspo", "no_clip")
# Name -> how the sampler's numbers differ, and what the loss does about it.
MISMATCHES = {
    f"{name}{ending}": {"mismatch": mismatch, "correction": correction}
    for name, mismatch in (("bfloat16", "bfloat16"), ("noise", "0.1"))
    for ending, correction in (("", "none"), ("_truncated", "truncated"), ("_ratio", "ratio"))
}
MISMATCH_METHODS = ("grpo", "clip_higher", "did")


def updated(number: int) -> tuple[str, ...]:
    """The methods compared at that many updates per rollout batch.

    At one update the five have to be the same run, and RLOO is the control without clipping.
    """
    return (*THE_FIVE, "rloo") if number == 1 else ("grpo", "clip_higher", "id")


def _arm(name: str, method: str, *more) -> Arm:
    return Arm(name, METHODS.get(method) or PROBES[method], *more)


def _special() -> dict[str, Arm]:
    arms = [
        _arm("upper_0.4", "clip_higher", {"eps_high": 0.4}),
        _arm("lower_0.4", "clip_lower", {"eps_low": 0.4}),
        _arm("no_clip", "clip_higher", {"eps_low": 1.0, "eps_high": 1e9}),
        *(_arm(f"{name}_mean", f"{name}_mean") for name in ("dynamic_upper", "dynamic_lower", "id", "did", "od")),
        *(_arm(f"{name}_phase{phase}", name, {"switch": phase}) for name in ("id", "did") for phase in PHASES),
        *(_arm(f"{name}_prose", name, {"phase2": "prose"}) for name in ("id", "did")),
        _arm("id_reversed", "id_reversed"),
        _arm("id_leak", "id", LEAK),
        # Readings of the paper in public recipes. One does not detach, takes phase 2 from the text, and starts OD with
        # the lower bound loosened. The other fixes H_init at 0.5 nats and cuts ε to [0.05, 0.6], which H, M and 0.2 are
        # within.
        *(_arm(f"{name}_recipe", name, {"phase2": "prose", **LEAK}) for name in ("id", "did")),
        _arm("od_recipe", "od", {"initial_state": 0, **LEAK}),
        _arm("od_fixed_start", "od", {"initial_entropy": 0.5}),
        _arm("upper_steep", "dynamic_upper", {"upper": Line(-0.5, 0.5)}),
        _arm("upper_high", "dynamic_upper", {"upper": Line(-0.25, 0.7)}),
        _arm("upper_tilt2", "dynamic_upper_mean", {"tilt": 2.0}),
        _arm("upper_tilt_back", "dynamic_upper_mean", {"tilt": -1.0}),
        _arm("lower_tilt2", "dynamic_lower_mean", {"tilt": 2.0}),
        _arm("lower_tilt_back", "dynamic_lower_mean", {"tilt": -1.0}),
        _arm("lower_steep", "dynamic_lower", {"lower": Line(-0.26, 0.3)}),
        _arm("lower_high", "dynamic_lower", {"lower": Line(-0.13, 0.5)}),
    ]
    for split in ("surprisal", "probability"):
        for region in REGIONS:
            arms.append(_arm(f"only_{region}_{split}", "region_gradient", {"region": region, "split": split}))
    for region in REGIONS:
        options = {"region": region, "split": "probability"}
        arms.append(_arm(f"wide_{region}_probability", "region_clip", options))
    for number, (minibatches, epochs) in UPDATES.items():
        for name in updated(number):
            settings = {"minibatches": minibatches, "epochs": epochs}
            arms.append(_arm(f"{name}_updates{number}", name, {}, settings))
    for age in STALE:
        arms += _changed(STALE_METHODS, f"stale{age}", {"staleness": age}, arms)
    for name, settings in MISMATCHES.items():
        arms += _changed(MISMATCH_METHODS, name, settings, arms)
    return {arm.name: arm for arm in arms}


def _changed(names: Iterable[str], ending: str, settings: dict, defined: Iterable[Arm]) -> list[Arm]:
    """The methods, or arms of `defined`, called `names` under other settings of the scale."""
    known = {arm.name: arm for arm in defined}
    bases = [known.get(name) or _arm(name, name) for name in names]
    return [replace(base, name=f"{base.name}_{ending}", settings=settings) for base in bases]


ARMS: dict[str, Arm] = {name: Arm(name, spec) for name, spec in METHODS.items()} | _special()


def _named(*conditions: Callable[[str], bool]) -> tuple[str, ...]:
    return tuple(name for name in ARMS if any(condition(name) for condition in conditions))


def _by_ending(names: Iterable[str], endings: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}{ending}" for ending in endings for name in names)


STALE_ENDINGS = ("", *(f"_stale{age}" for age in STALE))
MISMATCH_ENDINGS = ("", *(f"_{name}" for name in MISMATCHES))
_ENTRIES = (
    Study(
        "collapse", "Entropy collapse", "Do entropy and gradient norm fall under GRPO?", ("grpo",),
        figures=("entropy", "grad_norm", "regions"),
    ),
    Study(
        "regions", "One region at a time",
        "Does training, or a wider clip, in one region move entropy as the region's sign says?",
        ("grpo", *_named(lambda name: name.startswith(("only_E", "wide_E")))), signs=True,
    ),
    Study(
        "thresholds", "Dynamic against fixed thresholds",
        "Does a bound that falls with the probability move entropy more than a constant one of the same looseness?",
        (
            "grpo", "clip_higher", "upper_0.4", "dynamic_upper", "dynamic_upper_mean", "upper_tilt2", "upper_tilt_back",
            "upper_steep", "clip_lower", "lower_0.4", "dynamic_lower", "dynamic_lower_mean", "lower_tilt2",
            "lower_tilt_back", "lower_steep", "dppo", "no_clip",
        ),
    ),
    Study(
        "curves", "Training curves", "How do entropy, reward and clipping run under each method?", THE_FIVE, seeds=20,
        figures=("entropy", "reward", "clip_fraction", "bounds", "entropy_reward", "grad_norm", "regions"),
    ),
    Study(
        "main_table", "Benchmarks", "Which method solves more at the end?", THE_FIVE, seeds=20, evaluated=True,
        figures=("scores",),
    ),
    Study(
        "pass_at_k", "pass@K", "Does the gap to GRPO grow with K, early and at the end?", THE_FIVE, seeds=20,
        evaluated=True, figures=("pass_at_k",),
    ),
    Study(
        "phase_ratio", "Where the phases switch", "Is the switch at half of training the best one?",
        ("grpo", "id", "did", *_named(lambda name: "_phase" in name)),
    ),
    Study(
        "ablations", "Ablations", "Which part of the schedules matters?",
        (
            "grpo", "id", "did", "od", "id_mean", "did_mean", "od_mean", "id_prose", "did_prose", "id_reversed",
            "id_leak", "id_recipe", "did_recipe", "od_recipe", "od_fixed_start", "dynamic_upper", "upper_steep",
            "upper_high", "dynamic_lower", "lower_steep", "lower_high",
        ),
    ),
    Study(
        "updates", "Updates per rollout batch", "Do the methods differ at 1, 4 and 16 updates per rollout batch?",
        _named(lambda name: "_updates" in name),
        groups=tuple(tuple(f"{name}_updates{number}" for name in updated(number)) for number in UPDATES),
    ),
    Study(
        "staleness", "Stale rollouts",
        "Which methods survive rollouts of a policy that is 1, 4 or 16 rollout steps old?",
        _by_ending(STALE_METHODS, STALE_ENDINGS), evaluated=True,
        groups=tuple(_by_ending(STALE_METHODS, [ending]) for ending in STALE_ENDINGS),
    ),
    Study(
        "mismatch", "A sampler that computes otherwise",
        "What do a sampler in bfloat16 or with noisy weights, and the correction for it, change?",
        _by_ending(MISMATCH_METHODS, MISMATCH_ENDINGS), evaluated=True,
        groups=tuple(_by_ending(MISMATCH_METHODS, [ending]) for ending in MISMATCH_ENDINGS),
    ),
    Study(
        "cost", "Cost", "What does each method cost per rollout step?", THE_FIVE,
    ),
    Study(
        "field", "The field", "How do all methods compare under one protocol?", tuple(METHODS), ranked=True,
    ),
)  # fmt: skip

STUDIES: dict[str, Study] = {study.name: study for study in _ENTRIES}


@cache
def arm(name: str) -> Arm:
    """The arm of that name: a method, an arm of a study, or either with options, such as `id@switch=0.35`.

    The arm's own name is the canonical spelling. Raises UserError naming the valid methods, options or values.
    """
    base, *items = name.split(SEPARATOR)
    if base not in ARMS:
        special = ", ".join(each for each in ARMS if each not in METHODS)
        raise UserError(f"unknown method {base!r}; the methods are: {', '.join(METHODS)}; arms of studies: {special}")
    chosen = ARMS[base]
    options = parse_options(base, chosen.all_options, items)
    if not options:
        return chosen
    try_options(base, chosen.spec, {**chosen.options, **options})
    return replace(chosen, name=f"{base}{SEPARATOR}{format_options(options)}", options={**chosen.options, **options})


def find_study(name: str) -> Study:
    """The study of that name. Raises UserError naming the valid ones."""
    if name not in STUDIES:
        raise UserError(f"unknown study {name!r}; the studies are: {', '.join(STUDIES)}")
    return STUDIES[name]


def trainable(scale: Scale, name: str) -> bool:
    """Whether the scale's trainer knows the settings of the study's arms: only the loop can change its sampler."""
    own = {setting for each in find_study(name).arms for setting in arm(each).settings}
    return scale.trainer == "loop" or not own & {"staleness", "mismatch"}


def study_runs(config: RunConfig, names: Iterable[str]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """(runs to train, those of them whose checkpoints are scored) of the named studies: each once, as (arm, seed).

    Raises UserError for an unknown study and for one that the scale cannot train.
    """
    trained: dict[tuple[str, int], bool] = {}
    for spec in map(find_study, names):
        if not trainable(config.scale, spec.name):
            raise UserError(
                f"{spec.name}: trainer={config.scale.trainer} samples with the policy that it trains; take a synthetic "
                "world, such as scale=paths"
            )
        for run in ((arm, seed) for arm in spec.arms for seed in config.seeds[: spec.seeds]):
            trained[run] = trained.get(run, False) or spec.evaluated
    return list(trained), [run for run, evaluated in trained.items() if evaluated]
