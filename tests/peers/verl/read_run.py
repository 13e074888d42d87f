"""What verl makes of the overrides of runs: run inside .venv-verl with a list of lists of overrides on standard input.

Prints, for each, what verl reads from its configuration, or the error with which verl refuses it. With the argument
"data" it reads the run's data files and prints the prompts as its agent loop tokenizes them.
"""

import json
import sys
from contextlib import redirect_stdout

import torch
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils import tensordict_utils
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.workers.config import OptimizerConfig

from dynclip.methods.registry import method
from dynclip.verl import PolicyLossConfig
from dynclip.verl.trainer import check_settings


def read(overrides: list[str]) -> dict:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    validate_config(config, need_reference_policy(config), need_critic(config))
    name, options = check_settings(config)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert isinstance(actor.policy_loss, PolicyLossConfig) and isinstance(actor.optim, OptimizerConfig)
    score = get_custom_reward_fn(config)
    correction = omega_conf_to_dataclass(config.algorithm).rollout_correction
    return {
        "method": name,
        "options": {key: str(value) for key, value in method(name, 400, **options).options.items()},
        "needs": list(method(name, 400, **options).spec.needs),
        "loss_mode": actor.policy_loss.loss_mode,
        "entropy": actor.calculate_entropy,
        "updates": updates(config, actor),
        "critic": need_critic(config),
        "reference": need_reference_policy(config),
        "dual_clip": actor.clip_ratio_c,
        "aggregation": [actor.loss_agg_mode, actor.loss_scale_factor],
        "optimizer": [actor.optim.lr, actor.optim.weight_decay, actor.optim.clip_grad, actor.optim.lr_scheduler_type],
        "strategy": actor.engine.strategy,
        "offload": [actor.engine.param_offload, actor.engine.optimizer_offload],
        "dtypes": [actor.engine.model_dtype, actor.engine.dtype, rollout.dtype],
        "micro_batch": [actor.ppo_micro_batch_size_per_gpu, rollout.log_prob_micro_batch_size_per_gpu],
        "sampling": [rollout.n, rollout.temperature, rollout.top_p, rollout.top_k],
        "correction": [
            *(correction[key] for key in ("rollout_is", "rollout_is_threshold", "rollout_rs", "bypass_mode")),
            rollout.calculate_log_probs,
        ],
        "lengths": [rollout.prompt_length, rollout.response_length],
        "sampler": [rollout.name, rollout.tensor_model_parallel_size, rollout.gpu_memory_utilization],
        "seeds": [config.data.seed, actor.data_loader_seed, actor.engine.seed, rollout.seed],
        "steps": [config.trainer.total_training_steps, config.trainer.save_freq, config.trainer.test_freq],
        "keeps": sorted(build_checkpoint_callback(config).steps),
        "machines": [config.trainer.nnodes, config.trainer.n_gpus_per_node],
        "mode": config.trainer.v1.trainer_mode,
        "train_files": list(config.data.train_files),
        "model": config.actor_rollout_ref.model.path,
        "chat_template": config.actor_rollout_ref.model.custom_chat_template,
        "checkpoints": config.trainer.default_local_dir,
        "checkpointing": config.actor_rollout_ref.model.enable_gradient_checkpointing,
        "score": score(
            data_source="dapo", solution_str="so \\boxed{7}", ground_truth="7", extra_info={"index": 0, "id": "a"}
        ),
    }


def updates(config, actor) -> int:
    """How often one GPU's share of a rollout batch is updated on, by the iterator that verl's workers make."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    count = config.data.train_batch_size * config.actor_rollout_ref.rollout.n // gpus
    share = TensorDict({"row": torch.arange(count)}, batch_size=count)
    mini = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    assert mini % gpus == 0 and mini // gpus % actor.ppo_micro_batch_size_per_gpu == 0
    loader = {"shuffle": actor.shuffle}
    return sum(1 for _ in tensordict_utils.make_iterator(share, mini // gpus, actor.ppo_epochs, 0, loader))


def read_data(overrides: list[str]) -> dict:
    from verl.experimental.agent_loop.agent_loop import create_continuous_token_builder
    from verl.utils.dataset.rl_dataset import RLHFDataset

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    builder = create_continuous_token_builder(model.tokenizer, hf_model_type="qwen2")
    sets = {
        name: RLHFDataset(list(config.data[f"{name}_files"]), model.tokenizer, config.data) for name in ("train", "val")
    }
    first = sets["val"][0]
    return {
        "rows": {name: len(rows) for name, rows in sets.items()},
        "prompts": [
            builder._render_tokens(list(row["raw_prompt"]), add_generation_prompt=True) for row in sets["train"]
        ],
        "validation": [first["data_source"], first["__rollout_n__"], first["extra_info"]],
    }


def attempt(overrides: list[str]) -> dict:
    try:
        return read_data(overrides) if sys.argv[1:] == ["data"] else read(overrides)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # verl prints what it has checked
        found = [attempt(overrides) for overrides in json.load(sys.stdin)]
    print(json.dumps(found))
