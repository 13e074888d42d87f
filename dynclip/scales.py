"""What a scale trains and what a study runs: plain data, no configuration file.

Every number of a scale is here, once. `resolve` turns the user's few overrides into a checked `Study`.
"""

from dataclasses import dataclass, replace

from dynclip.errors import UserError


@dataclass(frozen=True)
class Warmup:
    """Supervised warm start of a tiny policy: stops at the first check that lands inside the target window."""

    batch: int
    learning_rate: float
    error_rate: float  # share of worked steps that are wrong in the supervised traces: what RL can unlearn
    max_steps: int
    check_every: int
    pass_at_1: tuple[float, float] = (0.30, 0.45)  # at temperature 1, on training problems
    pass_at_8_min: float = 0.85
    seed: int = 0


@dataclass(frozen=True)
class Policy:
    """A Qwen2-architecture model trained from nothing inside the pipeline."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int
    warmup: Warmup


@dataclass(frozen=True)
class Scale:
    """One size of the study. A rollout step samples `prompts_per_step` x `group_size` completions and updates the
    policy `minibatches` x `epochs` times on them."""

    name: str
    title: str
    policy: Policy
    train_set: str
    benchmark_kind: str  # every benchmark of the registry with this kind is evaluated
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    prompts_per_step: int
    group_size: int
    minibatches: int
    epochs: int
    learning_rate: float
    max_completion: int  # tokens
    checkpoint_every: int  # rollout steps between resumable states
    early_fraction: float  # share of training at which an extra checkpoint is evaluated (pass@k early against late)
    thresholds: float  # factor on every clipping threshold of every method; 1 is the methods' own
    threads: int  # torch threads of one training: part of the result, since it fixes the order of float additions

    @property
    def updates_per_rollout(self) -> int:
        return self.minibatches * self.epochs

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of the benchmarks that every checkpoint of this scale is scored on."""
        from evals.benchmarks import BENCHMARKS

        return tuple(name for name, entry in BENCHMARKS.items() if entry.kind == self.benchmark_kind)


@dataclass(frozen=True)
class Study:
    """A scale with the user's overrides: what one `snakemake` call produces under results/<scale>/."""

    scale: Scale
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    options: dict  # of methods; empty in the default study
    overrides: str  # command-line words that make the same scale, steps and updates again

    @property
    def name(self) -> str:
        return self.scale.name

    @property
    def checkpoints(self) -> dict[str, int]:
        """Evaluated checkpoints: label -> rollout step, early first."""
        early = round(self.scale.early_fraction * self.steps)
        return ({f"step{early}": early} if 0 < early < self.steps else {}) | {"final": self.steps}


# Batch, learning rate and factor are what the search of dynclip.regime took (results/reference/laptop-regime): with the
# methods' own thresholds hardly 1.5 % of a tiny policy's tokens are clipped.
LAPTOP = Scale(
    name="laptop",
    title="a tiny policy and generated arithmetic, on a CPU",
    policy=Policy(
        hidden=64, layers=3, heads=4, intermediate=256, max_positions=96,
        warmup=Warmup(batch=128, learning_rate=3e-3, error_rate=0.15, max_steps=3000, check_every=100),
    ),
    train_set="laptop_train",
    benchmark_kind="generated",
    methods=("grpo", "clip_higher", "id", "did", "od"),
    seeds=(0, 1, 2, 3, 4),
    steps=30,
    prompts_per_step=16, group_size=8, minibatches=4, epochs=2,
    learning_rate=1.5e-4,
    max_completion=48,
    checkpoint_every=10,
    early_fraction=0.3,
    thresholds=0.125,
    threads=1,
)  # fmt: skip

MINIATURE = replace(
    LAPTOP,
    name="miniature",
    title="every rule of the laptop scale in about a minute: for tests, its numbers mean nothing",
    policy=Policy(
        hidden=32, layers=1, heads=2, intermediate=64, max_positions=96,
        # Any policy will do: the window is wide open, so that the warm start stops at its first check.
        warmup=Warmup(
            batch=64, learning_rate=3e-3, error_rate=0.2, max_steps=60, check_every=60,
            pass_at_1=(0.0, 1.0), pass_at_8_min=0.0,
        ),
    ),
    methods=("grpo", "od"),
    seeds=(0, 1),
    steps=6,
    prompts_per_step=4, group_size=4, minibatches=2, epochs=2,
    checkpoint_every=2,
)  # fmt: skip

SCALES: dict[str, Scale] = {scale.name: scale for scale in (LAPTOP, MINIATURE)}


def resolve(scale="laptop", methods=None, seeds=None, steps=None, updates=None, force=False) -> Study:
    """The study for the user's overrides, each None (the scale's own), a value, or a comma-separated string.

    Raises UserError, one line naming the unknown item and the valid ones, or a comparison that cannot show anything.
    """
    from dynclip.methods import find
    from dynclip.studies import arm

    chosen = SCALES.get(str(scale))
    if chosen is None:
        raise UserError(f"unknown scale {str(scale)!r}; the scales are: {', '.join(SCALES)}")
    if updates is not None:
        chosen = replace(chosen, minibatches=1, epochs=_whole("updates", updates, 1))
    names = _items("methods", methods, chosen.methods)
    arms = {name: arm(name) for name in names}
    numbers = _items("seeds", _spread(seeds), chosen.seeds)
    equal = [
        name
        for name, each in arms.items()
        if find(each.method).on_policy_grpo and each.scale(chosen).updates_per_rollout == 1
    ]
    if len(equal) > 1 and not _true(force):
        raise UserError(
            f"updates=1: with one update per rollout batch every importance ratio is 1, so {', '.join(equal)} are the "
            "same run and their comparison is empty; use updates=2 or more, or force=1 to run it anyway"
        )
    total = chosen.steps if steps is None else _whole("steps", steps, 1)
    words = [f"--scale {chosen.name}", f"--steps {total}"]
    words += [f"--updates {chosen.updates_per_rollout} --force"] if updates is not None else []
    return Study(chosen, names, numbers, total, {}, " ".join(words))


def _spread(seeds) -> list[int] | None:
    """Seed numbers of "0,1", "0-4", a number or a list."""
    if seeds is None:
        return None
    numbers = []
    for item in _items("seeds", seeds, ()):
        first, dash, last = str(item).partition("-")
        if first and dash:
            numbers += range(_whole("seeds", first, 0), _whole("seeds", last, 0) + 1)
        else:
            numbers.append(_whole("seeds", item, 0))
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
