"""The user's overrides: from values of the command line or of `--config` to a checked `RunConfig`."""

from dataclasses import replace

from dynclip.runtime.errors import UserError
from dynclip.studies.arms import arm
from dynclip.studies.scales import SCALES, SUITES, RunConfig, Scale, WorldPolicy
from evals.grading import REWARDS
from evals.sampling.prompts import TEMPLATES

AGGREGATIONS = ("token", "sequence", "fixed")
SHARDINGS = ("none", "fsdp2", "zero3")
SAMPLERS = ("transformers", "vllm")
DTYPES = ("float32", "bfloat16")
MAX_SEEDS = 1000
LARGEST_SEED = 2**32 - 1
TRAINERS = ("loop", "trl")
CORRECTIONS = ("ratio", "truncated", "none")


def resolve_all(scale="laptop", **overrides) -> tuple[RunConfig, ...]:
    """`resolve` for a scale, or for every scale of a suite, in its order. The overrides apply to each of them."""
    return tuple(resolve(name, **overrides) for name in SUITES.get(str(scale), (scale,)))


def resolve(
    scale="facts", methods=None, seeds=None, steps=None, updates=None, force=False, options=None, **settings
) -> RunConfig:
    """The study for the user's overrides, each None (the scale's own), a value, or a comma-separated string.

    `options`: METHOD:NAME=VALUE items; a method with options takes its own place in the list of methods. `settings`
    are those of SETTABLE. Raises UserError, one line, for an unknown name, a bad value, or a comparison of equal runs.
    """
    chosen = find_scale(str(scale))
    if updates is not None:
        chosen = replace(chosen, minibatches=1, epochs=_whole("updates", updates, 1))
    settings = {name: value for name, value in settings.items() if value is not None}
    chosen = with_settings(chosen, settings)
    names = with_options(_items("methods", methods, chosen.methods), options)
    names = _items("methods", [arm(name).name for name in names], ())
    arms = {name: arm(name) for name in names}
    numbers = _items("seeds", _spread(seeds), chosen.seeds)
    equal = [
        name for name, each in arms.items() if each.spec.on_policy_grpo and each.scale(chosen).updates_per_rollout == 1
    ]
    if len(equal) > 1 and not _true(force):
        raise UserError(
            f"updates=1: with one update per rollout batch every importance ratio is 1, so {', '.join(equal)} are the "
            "same run and their comparison is empty; use updates=2 or more, or force=1 to run it anyway"
        )
    total = chosen.steps if steps is None else _whole("steps", steps, 1)
    given = {"scale": chosen.name, "steps": total}
    if updates is not None:
        given["updates"] = chosen.updates_per_rollout
    if updates is not None or _true(force):
        given["force"] = 1
    return RunConfig(
        chosen, names, numbers, total, given | {name: str(value).strip() for name, value in settings.items()}
    )


def find_scale(name: str) -> Scale:
    """The scale of that name. Raises UserError for a suite, naming its scales, and for an unknown name."""
    if name in SUITES:
        raise UserError(
            f"{name} is a suite of the scales {', '.join(SUITES[name])}; name one of them, as in scale=facts"
        )
    if name not in SCALES:
        raise UserError(
            f"unknown scale {name!r}; the scales are: {', '.join(SCALES)}; the suites are: {', '.join(SUITES)}"
        )
    return SCALES[name]


def with_options(methods: tuple[str, ...], options: str | None) -> tuple[str, ...]:
    """The arms' names with `options`, METHOD:NAME=VALUE items separated by commas, added to them."""
    names = dict(zip(methods, methods, strict=True))
    for item in _items("options", options, ()):
        method, given, option = str(item).partition(":")
        if not given or "=" not in option:
            raise UserError(f"options: expected METHOD:NAME=VALUE, such as id:switch=0.35, given {item!r}")
        if method not in names:
            raise UserError(f"options: {method!r} is not among the methods of this study: {', '.join(methods)}")
        names[method] += f"@{option}"
    return tuple(names.values())


# Other settings that a user may change: of the scale, or of its execution.
SETTABLE = (
    "minibatches", "epochs", "aggregation", "dual_clip", "template", "reward", "trainer",
    "staleness", "mismatch", "correction",
    "nodes", "gpus", "processes", "sharding", "sampler", "dtype", "micro_batch",
)  # fmt: skip

# What `dynclip.training.loop` knows of the settings that it does not take as they are.
LOOP_KNOWS = {
    "nodes": ("1",), "gpus": ("0", "1"), "processes": ("1",), "sharding": ("none",), "sampler": ("transformers",),
    "dtype": ("float32",), "template": ("plain",), "micro_batch": (),
}  # fmt: skip

LOOP_ALONE = {"staleness": 0, "mismatch": "none", "correction": "ratio"}  # known to the loop alone, with the defaults


def with_settings(scale: Scale, settings: dict) -> Scale:
    """`scale` with some of SETTABLE replaced. Raises UserError for an unknown name or value."""
    choices = {
        "aggregation": AGGREGATIONS, "template": tuple(TEMPLATES), "reward": tuple(REWARDS),
        "sharding": SHARDINGS, "sampler": SAMPLERS, "dtype": DTYPES, "trainer": TRAINERS, "correction": CORRECTIONS,
    }  # fmt: skip
    for name, value in settings.items():
        if name not in SETTABLE:
            raise UserError(f"unknown setting {name!r}; the settings are: {', '.join(SETTABLE)}")
        if name in choices:
            if value not in choices[name]:
                raise UserError(f"{name}: unknown {value!r}; valid are: {', '.join(choices[name])}")
        elif name == "dual_clip":
            value = _dual_clip(value)
        elif name == "mismatch":
            value = _mismatch(value)
        else:
            value = _whole(name, value, 0 if name in ("gpus", "staleness") else 1)
        if hasattr(scale, name):
            scale = replace(scale, **{name: value})
        else:
            scale = replace(scale, execution=replace(scale.execution, **{name: value}))
    if scale.completions % scale.minibatches:
        raise UserError(
            f"minibatches={scale.minibatches}: does not divide the {scale.completions} completions of a step"
        )
    if scale.trainer == "loop" and not isinstance(scale.policy, WorldPolicy):
        raise UserError(f"trainer=loop: for the synthetic worlds; {scale.name} trains a hub policy, use trainer=trl")
    for name in settings if scale.trainer == "loop" else ():
        known = LOOP_KNOWS.get(name)
        if known is not None and str(settings[name]) not in known:
            only = f"knows {name}={' and '.join(known)} alone" if known else f"has no {name}"
            raise UserError(f"{name}={settings[name]}: trainer=loop {only}; leave it out, or use trainer=trl")
    own = [f"{name}={getattr(scale, name)}" for name in LOOP_ALONE if getattr(scale, name) != LOOP_ALONE[name]]
    if scale.trainer == "trl" and own:
        raise UserError(
            f"{', '.join(own)}: trainer=trl samples with the policy that it trains; leave it out, or take a synthetic "
            "world, such as scale=paths"
        )
    if scale.trainer == "trl" and not scale.has_language_policy:
        raise UserError(f"trainer=trl: for language models; the policy of {scale.name} is none, use trainer=loop")
    if scale.execution.sharding == "fsdp2" and not scale.execution.gpus:
        raise UserError("sharding=fsdp2: for GPUs; accelerate leaves the processes of a CPU unsharded")
    processes, nodes = scale.execution.processes, scale.execution.nodes
    if processes and processes % nodes:
        raise UserError(f"processes={processes}: cannot be shared evenly by nodes={nodes} machines")
    return scale


def _dual_clip(given) -> float | None:
    if str(given).lower() == "none":
        return None
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not value > 1:
        raise UserError(f"dual_clip: expected a number above 1, or none, given {given!r}")
    return value


def _mismatch(given) -> str:
    text = str(given).lower()
    if text in ("none", "bfloat16"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UserError(
            f"mismatch: expected none, bfloat16, or the relative noise on each weight between 0 and 1, given {given!r}"
        )
    return f"{value:g}"


def _spread(seeds) -> list[int] | None:
    """Seed numbers of "0,1", "0-4", a number or a list."""
    if seeds is None:
        return None
    numbers = []
    for item in _items("seeds", seeds, ()):
        first, dash, last = str(item).partition("-")
        if first and dash:
            numbers += range(_whole("seeds", first, 0), _whole("seeds", last, 0) + 1)[: MAX_SEEDS + 1]
        else:
            numbers.append(_whole("seeds", item, 0))
        if len(numbers) > MAX_SEEDS:
            raise UserError(
                f"seeds: at most {MAX_SEEDS} of them, more in {seeds!r}; give a smaller range, such as 0-19"
            )
    if unusable := [number for number in numbers if number > LARGEST_SEED]:
        raise UserError(f"seeds: expected numbers up to {LARGEST_SEED}, given {unusable[0]}")
    return numbers


def _items(what: str, given, default: tuple) -> tuple:
    if given is None:
        return default
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    items = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not items or any(item == "" for item in items):
        raise UserError(f"{what}: expected a comma-separated list, given {given!r}; the default is {default}")
    doubled = sorted({str(item) for item in items if items.count(item) > 1})
    if doubled:
        raise UserError(f"{what}: {doubled[0]!r} is listed twice")
    return items


def _whole(what: str, given, least: int) -> int:
    try:
        value = int(str(given))
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"{what}: expected whole numbers from {least}, such as {what}={least + 2}, given {given!r}")
    return value


def _true(value) -> bool:
    return str(value).lower() in {"1", "true", "yes"}
