"""Digests of everything that decides the result of a training run. A run whose digests have changed starts over."""

from pathlib import Path

from dynclip.runtime import checkpoints
from dynclip.runtime.files import sha256
from dynclip.runtime.provenance import code_digest, digest
from dynclip.studies.arms import Arm
from dynclip.studies.scales import RunConfig, Scale


def method_digest(arm: Arm) -> str:
    """Digest of an arm's method: its options and the code of its functions."""
    parts = {"name": arm.spec.name, "options": arm.all_options}
    for role in arm.spec.pieces:
        function = getattr(arm.spec, role)
        parts[role] = code_digest(f"{function.__module__}:{function.__name__}")
    return digest(parts)


def fingerprint(config: RunConfig, arm: Arm, seed: int, base: Path, data: Path) -> dict[str, str]:
    """Name -> digest, or value, of each part that decides a run's result. Messages name the parts that changed.

    `study` and `arm` are those of `dynclip.training.lifecycle.arm_config`.
    """
    scale = config.scale
    return {
        "method": method_digest(arm),
        "seed": str(seed),
        "steps": str(config.steps),
        "settings": digest({name: getattr(scale, name) for name in SETTINGS}),
        "base model": checkpoints.weights_sha256(base),
        "sampler and precision": f"{scale.execution.sampler}, {scale.execution.dtype}",
        "data": sha256(data),
        "code": code_digest(*shared_code(scale)),
    }


SETTINGS = (
    "prompts_per_step", "group_size", "minibatches", "epochs", "learning_rate", "max_completion", "early_fraction",
    "rate_warmup", "threads", "max_prompt", "max_level", "repeats", "weight_decay", "aggregation", "dual_clip",
    "template", "reward", "truncated", "trainer", "staleness", "mismatch", "correction",
)  # fmt: skip


# Code of every training through TRL: trainer, loss, reward.
SHARED_CODE = (
    "dynclip.training.trl_run.session:run_trainer",
    "dynclip.training.trl_run.config:trainer_config",
    "dynclip.trl.trainer:DynClipTrainer",
    "dynclip.methods.objective:Method",
    "evals.grading:grade_many",
)
# Code of every training in the loop; the world's own is added to it.
LOOP_CODE = (
    "dynclip.training.company:train",
    "dynclip.training.loop:Loop",
    "dynclip.methods.objective:Method",
    "evals.grading:grade_many",
)


def shared_code(scale: Scale) -> tuple[str, ...]:
    """The entry points of the code that all trainings of a scale share."""
    if scale.trainer == "trl":
        return SHARED_CODE
    task = "PathTask" if scale.policy.world == "paths" else "LanguageTask"
    network = "PathNetwork" if scale.policy.world == "paths" else "Transformer"
    world = f"evals.benchmarks.worlds.{scale.policy.world}:WORLD"
    places = (f"dynclip.training.worlds.tasks:{task}", f"dynclip.training.worlds.networks:{network}", world)
    return LOOP_CODE + places
