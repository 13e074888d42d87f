"""The result files of a study, by the jobs that make them. All lie under results/<scale>/."""

from dynclip.runtime.checkpoints import MANIFEST
from dynclip.runtime.errors import UserError
from dynclip.studies.scales import RunConfig, WorldPolicy

BASE = "base"  # in the place of a method: the policy before training
FORMATS = {"scores": "json", "samples": "parquet"}

Place = tuple[str, int | str, str]  # method, seed, label of the checkpoint


def is_world(config: RunConfig) -> bool:
    """Whether the policies are those of a synthetic world: one of each seed, all evaluated in one job."""
    return isinstance(config.scale.policy, WorldPolicy)


def base_seeds(config: RunConfig) -> tuple[int, ...]:
    """The seeds of the base policies: those of the study in a synthetic world, else 0 for the only one."""
    return config.seeds if is_world(config) else (0,)


def base_places(config: RunConfig) -> list[Place]:
    """The base policies as places of scores."""
    return [(BASE, seed, "final") for seed in base_seeds(config)]


def base_folder(config: RunConfig, seed) -> str:
    """The folder, under results/<scale>/, of the base policy that a training with `seed` starts from."""
    return f"base/seed{seed}" if is_world(config) else "base"


def base_file(config: RunConfig, seed) -> str:
    """The manifest of the base policy that a training with `seed` starts from."""
    return f"results/{config.name}/{base_folder(config, seed)}/{MANIFEST}"


def base_files(config: RunConfig) -> list[str]:
    """The manifest of every base policy of the study."""
    return [base_file(config, seed) for seed in base_seeds(config)]


def model_of(config: RunConfig, wildcards) -> str:
    """The manifest of the checkpoint that an evaluation of one run reads."""
    if wildcards.method == BASE:
        return base_file(config, wildcards.seed)
    step = config.checkpoints.get(wildcards.checkpoint)
    if step is None:
        raise UserError(f"unknown checkpoint {wildcards.checkpoint!r}; this study has: {', '.join(config.checkpoints)}")
    return f"results/{config.name}/runs/{wildcards.method}/seed{wildcards.seed}/checkpoints/step{step}/{MANIFEST}"


def models_of(config: RunConfig, method: str) -> list[str]:
    """The manifests of all checkpoints of an arm, which one evaluation of a synthetic world reads."""
    return [
        f"results/{config.name}/runs/{method}/seed{seed}/checkpoints/step{step}/{MANIFEST}"
        for seed in config.seeds
        for step in sorted(config.checkpoints.values())
    ]


def company_runs(config: RunConfig) -> list[str]:
    """What one training of all seeds leaves, with the wildcard {method}."""
    steps = [f"checkpoints/step{step}/{MANIFEST}" for step in sorted(config.checkpoints.values())]
    return [
        f"results/{config.name}/runs/{{method}}/seed{seed}/{name}"
        for seed in config.seeds
        for name in ("metrics.jsonl", "run.json", *steps)
    ]


def company_scores(config: RunConfig, kind: str) -> list[str]:
    """The "scores" or "samples" that one evaluation of a synthetic world leaves, with the wildcard {method}."""
    return scored(config, [("{method}", seed, label) for seed in config.seeds for label in config.checkpoints], kind)


def base_scores(config: RunConfig, kind: str) -> list[str]:
    """The "scores" or "samples" of the base policies."""
    return scored(config, base_places(config), kind)


def scored(config: RunConfig, places: list[Place], kind: str = "scores") -> list[str]:
    """The files of (method, seed, checkpoint) on every benchmark."""
    return [
        f"results/{config.name}/{kind}/{method}/seed{seed}/{checkpoint}/{benchmark}.{FORMATS[kind]}"
        for method, seed, checkpoint in places
        for benchmark in config.scale.benchmarks
    ]


def run_files(config: RunConfig) -> list[str]:
    """metrics.jsonl and run.json of every run of the study."""
    return [
        f"results/{config.name}/runs/{method}/seed{seed}/{name}"
        for method in config.methods
        for seed in config.seeds
        for name in ("metrics.jsonl", "run.json")
    ]


def score_files(config: RunConfig) -> list[str]:
    """The score file of every evaluated checkpoint on every benchmark, the untrained base policies first."""
    places = [(method, seed, c) for method in config.methods for seed in config.seeds for c in config.checkpoints]
    return scored(config, base_places(config) + places)


def launch_files(config: RunConfig) -> list[str]:
    """verl's launch script of every run of the study."""
    return [f"results/{config.name}/verl/{method}/seed{seed}.sh" for method in config.methods for seed in config.seeds]
