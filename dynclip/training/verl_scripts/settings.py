"""A study's runs in verl 0.9.1: overrides of verl's Hydra configuration, and a launch script for each run.

With these overrides verl trains what `dynclip.training` trains with TRL: the same method and options, batches, updates,
optimizer, lengths, prompts and rewards. docs/peers.md says what differs. Nothing here imports verl. tests/peers
composes verl's own configuration with the overrides and reads the values back.
"""

import re
import shlex
from pathlib import Path

from dynclip.methods.registry import METHODS
from dynclip.methods.types import LOGIT_NEEDS, Line
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import write_atomic, write_json
from dynclip.studies.arms import Arm, arm
from dynclip.studies.execution import micro_batches
from dynclip.studies.scales import RunConfig, Scale
from dynclip.training.lifecycle import arm_config
from dynclip.training.verl_scripts.data import CHAT_TEMPLATES, check_prompts, write_data
from dynclip.training.verl_scripts.script import require_plain, script
from evals.benchmarks.loading import read_problems
from evals.benchmarks.registry import BENCHMARKS
from evals.engines.engine import load_tokenizer

VERL = "0.9.1"
AGGREGATION = {"token": "token-mean", "sequence": "seq-mean-token-mean", "fixed": "seq-mean-token-sum-norm"}
# verl adds the number of a sampler or worker to its seed: runs with neighbouring seeds must not share streams.
SEED_STRIDE = 1000
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"


def overrides(
    config: RunConfig, arm_name: str, seed: int, data_folder: Path, model: Path, out: Path, nodes: int = 1
) -> list[str]:
    """The arguments of `python -m verl.trainer.main_ppo` that train the arm with `seed`.

    `data_folder` has `write_data`'s parquet files, `model` is the base policy's folder, `out` gets checkpoints and
    logs. Each of the `nodes` machines has the scale's number of GPUs. Raises UserError for an arm or a scale that verl
    cannot run.
    """
    chosen, config = arm_config(config, arm_name)
    scale = config.scale
    if need := out_of_reach(chosen):
        raise UserError(f"{arm_name}: verl cannot run it: {need}; train it with `dynclip train`")
    settings = {
        **method_settings(chosen),
        **protocol_settings(scale, config.steps, seed),
        **machine_settings(scale, nodes),
        **data_settings(scale, data_folder),
        **validation_settings(scale),
        f"{MODEL}.path": str(model),
        f"{MODEL}.custom_chat_template": CHAT_TEMPLATES.get(scale.template),
        "trainer.project_name": f"dynclip-{config.name}",
        "trainer.experiment_name": f"{arm_name}-seed{seed}",
        "trainer.logger": ["console", "file"],
        "trainer.save_freq": save_every(config),
        "trainer.checkpoint_callback_class": "dynclip.training.verl_scripts.keep.KeepEvaluated",
        "+trainer.dynclip_keep": sorted(config.checkpoints.values()),
        "trainer.default_local_dir": str(out / "checkpoints"),
        "trainer.resume_mode": "auto",
        "hydra.run.dir": str(out / "hydra"),
    }
    return [f"{key}={as_hydra(value)}" for key, value in settings.items()]


def out_of_reach(chosen: Arm) -> str | None:
    """Why an arm does not run inside verl; None if it does."""
    if chosen.spec.name not in METHODS:
        return f"{chosen.spec.name} is a probe of a study, which dynclip.verl does not register"
    needs = [need for need in chosen.spec.needs if need in LOGIT_NEEDS]
    return f"{chosen.spec.name} needs full logits ({needs[0]}), and its workers return none" if needs else None


def method_settings(chosen: Arm) -> dict:
    """The method, all its options, and what makes verl load dynclip.verl."""
    method, options, needs = chosen.spec.name, chosen.all_options, chosen.spec.needs
    return {
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "dynclip_sync",
        f"{MODEL}.external_lib": "dynclip.verl",
        f"{ACTOR}.policy_loss._target_": "dynclip.verl.PolicyLossConfig",
        f"{ACTOR}.policy_loss.loss_mode": f"dynclip_{method}",
        **({f"+{ACTOR}.policy_loss.dynclip_options": options} if options else {}),
        f"{ACTOR}.calculate_entropy": bool({"entropy", "entropy_gradient"} & set(needs)),
    }


def protocol_settings(scale: Scale, steps: int, seed: int) -> dict:
    """What all compared runs share: batches, updates, optimizer, loss, sampling, lengths, seeds.

    Raises UserError if a mini-batch is no whole number of prompts, because verl counts prompts.
    """
    if scale.prompts_per_step % scale.minibatches:
        raise UserError(
            f"minibatches={scale.minibatches}: verl cuts mini-batches by prompts, and it does not divide the "
            f"{scale.prompts_per_step} prompts of a step; use a divisor of that"
        )
    corrected = scale.execution.sampler == "vllm"
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": True,
        "algorithm.use_kl_in_reward": False,
        "algorithm.filter_groups.enable": False,
        # As in `trl_run.config.sampler_options`: each token's weight is π_trainer / π_sampler, at most 2.
        "algorithm.rollout_correction.rollout_is": "token" if corrected else None,
        "algorithm.rollout_correction.rollout_is_threshold": 2.0,
        "algorithm.rollout_correction.rollout_rs": None,
        "algorithm.rollout_correction.bypass_mode": False,
        "data.train_batch_size": scale.prompts_per_step,
        f"{ROLLOUT}.n": scale.group_size,
        f"{ACTOR}.ppo_mini_batch_size": scale.prompts_per_step // scale.minibatches,
        f"{ACTOR}.ppo_epochs": scale.epochs,
        f"{ACTOR}.shuffle": True,  # TRL shuffles a rollout batch's completions before it cuts mini-batches
        f"{ACTOR}.optim.lr": scale.learning_rate,
        f"{ACTOR}.optim.lr_scheduler_type": "constant",
        f"{ACTOR}.optim.lr_warmup_steps_ratio": 0.0,
        f"{ACTOR}.optim.weight_decay": scale.weight_decay,
        f"{ACTOR}.optim.betas": [0.9, 0.999],
        f"{ACTOR}.optim.clip_grad": 1.0,  # the one that verl's FSDP engine reads
        f"{ACTOR}.grad_clip": 1.0,
        f"{ACTOR}.use_kl_loss": False,
        f"{ACTOR}.entropy_coeff": 0,
        f"{ACTOR}.clip_ratio_c": scale.dual_clip,
        f"{ACTOR}.loss_agg_mode": AGGREGATION[scale.aggregation],
        f"{ACTOR}.loss_scale_factor": scale.max_completion if scale.aggregation == "fixed" else None,
        f"{ROLLOUT}.temperature": 1.0,
        f"{ROLLOUT}.top_p": 1.0,
        f"{ROLLOUT}.top_k": -1,
        f"{ROLLOUT}.calculate_log_probs": corrected,
        "data.max_response_length": scale.max_completion,
        "data.seed": seed,
        f"{ACTOR}.data_loader_seed": SEED_STRIDE * seed,
        f"{ACTOR}.fsdp_config.seed": SEED_STRIDE * seed,
        f"{ROLLOUT}.seed": SEED_STRIDE * seed,
        "trainer.total_training_steps": steps,
        "trainer.total_epochs": steps,  # an epoch has at least one step, so this is never the limit
        "reward.custom_reward_function.path": "pkg://dynclip.training.verl_scripts.reward",
        "reward.custom_reward_function.name": "compute_score",
        "+reward.custom_reward_function.reward_kwargs.reward": scale.reward,
        "reward.reward_manager.name": "naive",
    }


def machine_settings(scale: Scale, nodes: int) -> dict:
    """How `nodes` machines execute the run. Raises UserError if the scale's numbers do not divide."""
    execution = scale.execution
    gpus = execution.gpus * nodes
    if not gpus:
        raise UserError(f"{scale.name}: its trainings take no GPU, and verl needs one; ask for a scale that does")
    if execution.gpus % execution.tensor_parallel:
        raise UserError(
            f"{scale.name}: tensor_parallel={execution.tensor_parallel} does not divide {execution.gpus} GPUs a machine"
        )
    micro_batch = micro_batches(scale, gpus, execution.micro_batch)[0]
    return {
        "trainer.nnodes": nodes,
        "trainer.n_gpus_per_node": execution.gpus,
        f"{ACTOR}.strategy": "fsdp2",
        f"{ACTOR}.fsdp_config.model_dtype": "fp32",
        f"{ACTOR}.fsdp_config.dtype": execution.dtype,
        # Trainer and sampler take turns on a GPU: each gives its memory back while the other works.
        f"{ACTOR}.fsdp_config.param_offload": execution.sleep,
        f"{ACTOR}.fsdp_config.optimizer_offload": execution.sleep,
        f"{ROLLOUT}.free_cache_engine": execution.sleep,
        f"{ACTOR}.use_dynamic_bsz": False,
        f"{ACTOR}.ppo_micro_batch_size_per_gpu": micro_batch,
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": micro_batch,
        f"{MODEL}.enable_gradient_checkpointing": execution.checkpointing,
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.dtype": execution.dtype,
        f"{ROLLOUT}.tensor_model_parallel_size": execution.tensor_parallel,
        f"{ROLLOUT}.gpu_memory_utilization": execution.gpu_share,
    }


def data_settings(scale: Scale, folder: Path) -> dict:
    """The files that verl reads, and the rows that it leaves out."""
    limit = {} if scale.max_prompt is None else {"data.max_prompt_length": scale.max_prompt}
    return {
        "data.train_files": [str(folder / "train.parquet")],
        "data.val_files": [str(folder / f"{name}.parquet") for name in scale.benchmarks],
        **limit,
        "data.filter_overlong_prompts": True,
        "data.truncation": "error",
        "data.shuffle": True,
    }


def validation_settings(scale: Scale) -> dict:
    """Validation is off, because `dynclip evaluate` scores the checkpoints.

    With `trainer.test_freq` verl samples as that command does. The column `__rollout_n__` of a benchmark's file holds
    the number of samples.
    """
    sampling = BENCHMARKS[scale.benchmarks[0]].sampling
    return {
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        f"{ROLLOUT}.val_kwargs.do_sample": sampling.temperature > 0,
        f"{ROLLOUT}.val_kwargs.temperature": sampling.temperature,
        f"{ROLLOUT}.val_kwargs.top_p": sampling.top_p,
        f"{ROLLOUT}.val_kwargs.top_k": sampling.top_k or -1,
    }


def save_every(config: RunConfig) -> int:
    """Steps between checkpoints: at most the scale's number, and a divisor of the early evaluated step.

    verl saves the last step in any case.
    """
    limit = config.scale.checkpoint_every
    early = [step for step in config.checkpoints.values() if step < config.steps]
    return max(steps for steps in range(1, limit + 1) if early[0] % steps == 0) if early else limit


def as_hydra(value) -> str:
    """A value as a Hydra override. Strings that Hydra would read as another type are quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Line):
        return as_hydra([value.slope, value.intercept])
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_hydra, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_hydra(item)}' for key, item in value.items())}}}"
    keywords = ("null", "true", "false", "inf", "nan")
    if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]*", value) and value.lower() not in keywords:
        return value
    # A backslash stands for itself unless a quote follows it.
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), value) + '"'


def write_launch(config: RunConfig, folder: Path, nodes: int = 1) -> list[Path]:
    """Write verl's data into `folder`/verl/data, and verl/<arm>/seed<k>.sh with its record seed<k>.json for each run.

    `folder` is results/<scale>, with its data. Returns the paths of the scripts. Raises UserError for missing data and
    for a scale that verl cannot run. If verl cannot run some arms, it raises after the scripts of the others are
    written.
    """
    folder = folder.resolve()
    require_plain(folder)
    home, model = folder / "verl", folder / "base"
    refused = {name: need for name in config.methods if (need := out_of_reach(arm(name)))}
    for name in config.methods:  # before anything is written
        protocol_settings(arm(name).scale(config.scale), config.steps, 0)
        machine_settings(arm(name).scale(config.scale), nodes)
    files = write_data(config, folder / "data", home / "data")
    if (model / "tokenizer_config.json").is_file():
        check_prompts(read_problems(folder / "data" / "train.jsonl")[:20], config.scale.template, load_tokenizer(model))
    scripts = []
    for name in config.methods:
        for seed in config.seeds if name not in refused else ():
            out = home / name / f"seed{seed}"
            words = overrides(config, name, seed, home / "data", model, out, nodes)
            path = write_atomic(out.with_suffix(".sh"), script(config, name, seed, nodes, words, model, out, VERL))
            path.chmod(0o755)
            write_json(out.with_suffix(".json"), record(config, name, seed, nodes, words, files, model))
            scripts.append(path)
    if refused:
        raise UserError(
            f"verl cannot run {', '.join(refused)}: {'; '.join(dict.fromkeys(refused.values()))}; train them with "
            f"`dynclip train`. The other {len(scripts)} runs are written: {home}"
        )
    return scripts


def record(config: RunConfig, name: str, seed: int, nodes: int, words: list[str], files: dict, model: Path) -> dict:
    """The record of a run: what it is launched with."""
    chosen, config = arm_config(config, name)
    return {
        "engine": f"verl {VERL}",
        "scale": config.name,
        "method": name,
        "entry": chosen.spec.name,
        "options": {key: str(value) for key, value in chosen.all_options.items()},
        "seed": seed,
        "steps": config.steps,
        "updates_per_rollout": config.scale.updates_per_rollout,
        "checkpoints": sorted(config.checkpoints.values()),
        "template": config.scale.template,
        "base": str(model),
        "nodes": nodes,
        "gpus_per_node": config.scale.execution.gpus,
        "data": files,
        "command": ["python", "-m", "verl.trainer.main_ppo", *words],
        "overrides": words,
        "study": shlex.split(config.overrides),
    }
