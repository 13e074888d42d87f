"""A scale as TRL's GRPOConfig, and the settings that two runs must share to be compared."""

import os
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.runtime.hardware import detect
from dynclip.studies.execution import micro_batches, sharding_of
from dynclip.studies.scales import Execution, HubPolicy, RunConfig, Scale

# Aggregation of a scale -> TRL's loss_type. "dapo" divides the sum over a mini-batch's tokens by the mean number of
# tokens of the rollout batch's mini-batches (docs/peers.md).
LOSS_TYPES = {"token": "dapo", "sequence": "grpo", "fixed": "dr_grpo"}
PROTOCOL_FILE = "protocol.json"  # in a training's state: what `protocol` returned
SERVER = "DYNCLIP_VLLM_SERVER"  # address of a vLLM server (trl vllm-serve) that samples instead of the trainer's GPUs

# How `policy/entropy` is measured.
ENTROPY = "full vocabulary at the sampling temperature, of the sampling policy, mean over the rollout batch's tokens"


def world_size() -> int:
    """The number of processes of this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer_config(config: RunConfig, seed: int, state: Path, micro_batch: int | None = None):
    """TRL's configuration of a run: no KL term, a constant learning rate after its warm-up, several updates per rollout
    batch.

    The effective batch is that of the scale for any number of processes and any `micro_batch`. Raises UserError if the
    processes cannot share a mini-batch evenly.
    """
    import torch
    from trl import GRPOConfig

    scale: Scale = config.scale
    execution = scale.execution
    world = world_size()
    micro, passes = micro_batches(scale, world, micro_batch or execution.micro_batch)
    on_gpu = torch.cuda.is_available() and isinstance(scale.policy, HubPolicy)  # tiny policies are a CPU's work
    return GRPOConfig(
        output_dir=str(state),
        seed=seed,
        data_seed=seed,
        max_steps=config.steps * scale.updates_per_rollout,
        per_device_train_batch_size=micro,
        steps_per_generation=scale.minibatches * passes,
        num_iterations=scale.epochs,
        gradient_accumulation_steps=passes,
        num_generations=scale.group_size,
        max_completion_length=scale.max_completion,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        learning_rate=scale.learning_rate,
        lr_scheduler_type="constant_with_warmup" if scale.rate_warmup else "constant",
        warmup_steps=scale.rate_warmup * scale.updates_per_rollout,
        weight_decay=scale.weight_decay,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type=LOSS_TYPES[scale.aggregation],
        delta=scale.dual_clip,
        scale_rewards="group",
        save_strategy="steps",
        save_steps=scale.checkpoint_every * scale.updates_per_rollout,
        save_total_limit=None,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_gpu,
        bf16=execution.dtype == "bfloat16" and can_bfloat16(on_gpu),
        gradient_checkpointing=execution.checkpointing and sharding_of(execution) != "fsdp2",  # has its own
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        **sampler_options(scale),
        **sharding_options(scale.execution),
    )


def can_bfloat16(on_gpu: bool) -> bool:
    """Whether this hardware computes in bfloat16; otherwise float32 is used."""
    import torch

    return torch.cuda.is_bf16_supported() if on_gpu else detect().cpu_bf16


def sampler_options(scale: Scale) -> dict:
    """TRL's vLLM settings.

    Every method has the same correction for the difference between sampler and trainer, truncated importance sampling:
    each token's weight is min(π_trainer / π_sampler, 2).
    """
    execution = scale.execution
    if execution.sampler != "vllm":
        return {}
    options = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": execution.gpu_share,
        "vllm_tensor_parallel_size": execution.tensor_parallel,
        "vllm_enable_sleep_mode": execution.sleep,
        "vllm_max_model_length": (scale.max_prompt or 0) + scale.max_completion,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": 2.0,
    }
    if server := os.environ.get(SERVER):
        options |= {"vllm_mode": "server", "vllm_server_base_url": server, "vllm_enable_sleep_mode": False}
    return options


def sharding_options(execution: Execution) -> dict:
    """TRL's settings that shard weights, gradients and moments over the processes of a training. {} for one process."""
    sharding = sharding_of(execution)
    if sharding == "none":
        return {}
    if sharding == "fsdp2":
        settings = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "SHARDED_STATE_DICT"}
        return {"fsdp": True, "fsdp_config": settings | {"activation_checkpointing": execution.checkpointing}}
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        raise UserError("sharding=zero3 needs DeepSpeed, which is not in the lock: pip install deepspeed, or use fsdp2")
    return {
        "deepspeed": {
            "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
            "bf16": {"enabled": "auto"},
            "gradient_clipping": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "train_batch_size": "auto",
        }
    }


# `Scale.truncated` -> what it does with completions that the token limit cuts off.
TRUNCATED = {"counted": "graded as no answer, trained like the others"}
# Setting name shown in error messages -> GRPOConfig field. Runs that differ in one cannot be compared.
PROTOCOL = {
    "loss aggregation": "loss_type",
    "dual clip": "delta",
    "epochs per rollout batch": "num_iterations",
    "samples per prompt": "num_generations",
    "completion length": "max_completion_length",
    "sampling temperature": "temperature",
    "advantage scaling": "scale_rewards",
    "KL coefficient": "beta",
    "optimizer": "optim",
    "learning rate": "learning_rate",
    "learning-rate schedule": "lr_scheduler_type",
    "weight decay": "weight_decay",
    "gradient clip": "max_grad_norm",
}


def protocol(config: RunConfig, grpo_config) -> dict[str, str]:
    """Setting name -> value for all settings of a run that are not its method's.

    `grpo_config` is that of `trainer_config`. Runs that differ in one cannot be compared.
    """
    scale = config.scale
    settings = {name: str(getattr(grpo_config, field)) for name, field in PROTOCOL.items()}
    own_seed = grpo_config.data_seed == grpo_config.seed
    order = "TRL's sampler, seeded by the run's seed" if own_seed else f"data_seed {grpo_config.data_seed}"
    sampler = "transformers"
    if grpo_config.use_vllm:
        sampler = (
            f"vllm, {grpo_config.vllm_importance_sampling_mode} at {grpo_config.vllm_importance_sampling_clip_max:g}"
        )
    return settings | {
        "mini-batches per rollout batch": str(scale.minibatches),
        "completions per mini-batch": str(scale.completions // scale.minibatches),
        "learning-rate warm-up": f"{scale.rate_warmup} rollout steps",
        "truncated completions": TRUNCATED[scale.truncated],
        "trainer": scale.trainer,
        "data order": order,
        "entropy definition": ENTROPY,
        "prompt template": scale.template,
        "reward": scale.reward,
        "sampler": sampler,
        "precision": "bfloat16" if grpo_config.bf16 else "float32",
    }
