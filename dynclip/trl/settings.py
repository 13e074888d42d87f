"""Settings of TRL, and models, that `DynClipTrainer` refuses: a comparison of methods would not mean what it says."""

import logging

from transformers import GenerationConfig
from trl import GRPOTrainer

from dynclip.methods.objective import Method

SUPPORTED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
# Fields of a model's configuration by which its logits are more than hidden states times the output head.
LOGIT_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
# Fields of a generation_config that change no rollout.
HARMLESS_DEFAULTS = {
    "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length",
    "use_cache", "cache_implementation", "cache_config", "return_dict_in_generate", "output_attentions",
    "output_hidden_states", "output_scores", "output_logits", "disable_compile",
}  # fmt: skip
logger = logging.getLogger(__name__)


def slices_and_updates(trainer: GRPOTrainer, allow_on_policy: bool) -> tuple[int, int]:
    """(mini-batches that a rollout batch is used as, optimizer steps it leads to).

    Raises ValueError where an update would straddle two rollout batches, and for one update unless `allow_on_policy`.
    """
    args = trainer.args
    # TRL counts a sampled batch once per `steps_per_generation` slice and reuses it `num_iterations` times.
    slices, accumulation = args.steps_per_generation * trainer.num_iterations, args.gradient_accumulation_steps
    if slices % accumulation:
        raise ValueError(
            f"steps_per_generation x num_iterations = {slices} must be a multiple of "
            f"gradient_accumulation_steps = {accumulation}: else an update would straddle two rollout batches"
        )
    updates = slices // accumulation
    if updates == 1 and not allow_on_policy:
        raise ValueError(
            "one update per rollout batch: every importance ratio is 1 and no clipping method can act. "
            "Set steps_per_generation > gradient_accumulation_steps, or allow_on_policy=True to do it anyway"
        )
    if args.save_strategy == "steps" and args.save_steps % updates:
        logger.warning(
            "save_steps=%s is no multiple of the %s updates per rollout batch: such checkpoints lie inside a batch "
            "and cannot be resumed",
            args.save_steps,
            updates,
        )
    return slices, updates


def refuse_overlapping_options(trainer: GRPOTrainer) -> None:
    """Raises ValueError for options of TRL that would change the loss beside the method."""
    bounds = (trainer.epsilon_low, trainer.epsilon_high)
    loss_types = f"loss_type={trainer.loss_type!r}: expected one of {SUPPORTED_LOSS_TYPES}"
    conflicts = {
        loss_types: trainer.loss_type not in SUPPORTED_LOSS_TYPES,
        "importance_sampling_level='sequence' is a method of its own": trainer.importance_sampling_level != "token",
        "beta (KL penalty)": trainer.beta != 0.0,
        "top_entropy_quantile < 1": trainer.top_entropy_quantile < 1.0,
        "entropy_coef or use_adaptive_entropy": trainer._entropy_bonus_enabled,
        "off_policy_mask_threshold": trainer.off_policy_mask_threshold is not None,
        "router auxiliary loss": trainer.aux_loss_enabled,
        "epsilon or epsilon_high (dynclip_options has the bounds)": bounds != (0.2, 0.2),
        "delta <= 1 (a dual clip of r beyond 1)": trainer.args.delta is not None and trainer.args.delta <= 1,
        "a vision-language model (only token ids reach the loss)": trainer._is_vlm,
    }
    for name, conflict in conflicts.items():
        if conflict:
            raise ValueError(f"DynClipTrainer does not take {name}: the loss is the dynclip method's alone")


def refuse_split_groups(chosen: Method, completions: int, group: int) -> None:
    """Raises ValueError where a method compares the completions of a group and one process does not have them all.

    `completions`: of a rollout batch on one process. `group`: completions of a prompt.
    """
    if "group" in chosen.needs and completions % group:
        raise ValueError(
            f"method {chosen.name!r} compares the completions of a group: expected a multiple of num_generations = "
            f"{group} on each process, given per_device_train_batch_size x steps_per_generation = {completions}"
        )


def drop_generation_defaults(trainer: GRPOTrainer) -> None:
    """Remove what would change the rollouts from the generation_config of the model, and say so in one warning.

    `generate` takes from it what TRL's settings leave open, a repetition penalty for example. Then the rollouts would
    be no samples of the policy whose log-probabilities the losses compare.
    """
    defaults = getattr(trainer.accelerator.unwrap_model(trainer.model), "generation_config", None)
    if trainer.use_vllm or defaults is None:  # TRL gives vLLM all sampling parameters
        return
    given = {name for name, value in trainer.generation_kwargs.items() if value is not None}
    dropped = {
        name: value
        for name, value in defaults.to_diff_dict().items()
        if name not in given | HARMLESS_DEFAULTS and not name.startswith("_")
    }
    for name in dropped:
        setattr(defaults, name, getattr(GenerationConfig(), name, None))
    if dropped:
        logger.warning(
            "the model's generation_config would change the rollouts and is ignored: %s; pass what you want in "
            "GRPOConfig(generation_kwargs=...)",
            ", ".join(f"{name}={value}" for name, value in dropped.items()),
        )


def refuse_rescaled_logits(chosen: Method, config) -> None:
    """Raises ValueError where a method needs full logits and the model (`config`) changes them after its output head.

    The trainer computes full logits from hidden states and the output head alone.
    """
    for name in LOGIT_SCALES if chosen.spec.reduction else ():
        if getattr(config.get_text_config(), name, None) not in (None, 1.0):
            raise ValueError(
                f"method {chosen.name!r} needs full logits, which this model changes after its output head "
                f"(config.{name}): expected a model without it"
            )
