"""The trainer mode `dynclip_sync`: verl's synchronous trainer plus step count and controller state."""

import json
from pathlib import Path
from types import ModuleType

import torch
from omegaconf import OmegaConf

from dynclip.methods.objective import Method
from dynclip.methods.registry import METHODS, method
from dynclip.methods.types import TokenBatch
from dynclip.runtime.files import write_json
from dynclip.verl.losses import CONTEXT, PREFIX, STATE_FILE, TRAINER_MODE, logger, method_options, refuse_logit_needs


class DynClipUpdates:
    """What `dynclip_sync` adds to verl's synchronous trainer: a mixin before it, on the driver.

    The rollout step is k = `global_steps` − 1, from 0 to `total_training_steps` − 1. Raises ValueError at construction
    for an unknown method or option, and for settings under which the method lacks an input.
    """

    def __init__(self, config):
        actor = config.actor_rollout_ref.actor
        self._dynclip_name, self._dynclip_options = check_settings(config)
        self._dynclip_method: Method | None = None
        if config.data.train_batch_size <= actor.ppo_mini_batch_size and actor.ppo_epochs == 1:
            logger.warning(
                "one update per rollout batch: every importance ratio is 1 and clipping cannot act; set "
                "actor_rollout_ref.actor.ppo_mini_batch_size below data.train_batch_size"
            )
        super().__init__(config)

    def _build_replay_buffer(self):
        # verl takes every mode but "sync" for asynchronous: another replay buffer, one prompt per fetch, in-flight
        # prompts in checkpoints.
        self.trainer_mode = "sync"
        return super()._build_replay_buffer()

    @property
    def dynclip_method(self) -> Method:
        """The run's method with its controller. It exists once the number of steps is known."""
        if self._dynclip_method is None:
            self._dynclip_method = method(self._dynclip_name, self.total_training_steps, **self._dynclip_options)
        return self._dynclip_method

    def _update_actor(self, batch, metrics):
        run, step = self.dynclip_method, self.global_steps - 1
        if run.controller:
            run.observe(step, self._mean_entropy(batch, metrics))
            metrics["actor/clip/state"] = float(run.controller.signal)
        batch = self._prepare(batch, step)
        batch.extra_info[CONTEXT] = {
            "step": step,
            "total_steps": run.total_steps,
            "state": float(run.controller.signal) if run.controller else None,
            "prepared": True,
        }
        return super()._update_actor(batch, metrics)

    def _mean_entropy(self, batch, metrics) -> float | None:
        """Mean token entropy, nats, of the policy that sampled; None if no token counts."""
        # verl aggregates its own number as the loss, so that it is a mean over tokens for "token-mean" alone. It is 0
        # where no token counts.
        if self.config.actor_rollout_ref.actor.loss_agg_mode == "token-mean" and metrics["actor/entropy"]:
            return float(metrics["actor/entropy"])
        data = self._fetch(batch, "entropy", "response_mask").to_padded_tensor()
        mask = data["response_mask"] != 0
        return float((data["entropy"] * mask).sum() / mask.sum()) if mask.any() else None

    def _prepare(self, batch, step: int):
        """Decide what the method decides once per rollout batch, and add it to the batch's fields for the workers."""
        from verl.workers.utils.padding import response_to_nested

        run, spec = self.dynclip_method, self.dynclip_method.spec
        chosen = {"advantages": spec.advantages, "weight": spec.rollout_weights}
        success = self._group_success(batch) if "success" in spec.needs else None
        fields = {} if success is None else {f"{PREFIX}success": success}
        if any(chosen.values()):
            names = ["old_log_probs", "advantages", "response_mask"]
            data = self._fetch(batch, *names, *(["entropy"] if "old_entropy" in spec.needs else []))
            nested_mask, data = data["response_mask"], data.to_padded_tensor()
            whole = TokenBatch(
                logprob=data["old_log_probs"],
                old_logprob=data["old_log_probs"],
                advantages=data["advantages"],
                mask=data["response_mask"],
                old_entropy=data.get("entropy"),
                success=success,
                group=self._groups(batch) if "group" in spec.needs else None,
            )
            prepared = run.prepare(whole, step)
            for name, piece in chosen.items():
                if piece:
                    fields[f"{PREFIX}{name}"] = response_to_nested(getattr(prepared, name), nested_mask)
        return put_fields(batch, fields) if fields else batch

    def _group_success(self, batch) -> torch.Tensor:
        """(B,) mean reward, before any KL penalty, of the prompt's responses."""
        group = self._groups(batch)
        reward = torch.stack([scores.sum() for scores in self._fetch(batch, "rm_scores")["rm_scores"].unbind()])
        total, size = (torch.zeros_like(reward).index_add(0, group, x) for x in (reward, torch.ones_like(reward)))
        return (total / size)[group]

    def _groups(self, batch) -> torch.Tensor:
        """(B,) number of the prompt of each response, from 0."""
        uids = self._fetch(batch, "uid")["uid"]
        prompts = {uid: number for number, uid in enumerate(dict.fromkeys(uids))}
        return torch.tensor([prompts[uid] for uid in uids])

    def _fetch(self, batch, *names: str):
        import transfer_queue

        return transfer_queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))

    def _save_checkpoint(self):
        # Before verl's own files: verl writes its marker of a complete checkpoint last.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        run = self.dynclip_method
        state = {"method": run.name, "total_steps": run.total_steps, "state": run.state_dict()}
        write_json(folder / STATE_FILE, state)
        super()._save_checkpoint()

    def _load_checkpoint(self):
        super()._load_checkpoint()
        if self.global_steps == 0 or not self.dynclip_method.controller:
            return
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        path = folder / STATE_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: not found, expected the state of method {self._dynclip_name!r}; the checkpoint was not "
                f"written with trainer.v1.trainer_mode={TRAINER_MODE}: set trainer.resume_mode=disable"
            )
        saved = json.loads(path.read_text())
        if saved["method"] != self._dynclip_name:
            raise ValueError(f"{path}: state of method {saved['method']!r}, expected {self._dynclip_name!r}")
        self.dynclip_method.load_state_dict(saved["state"])


def put_fields(batch, fields: dict):
    """Write fields of the whole rollout batch into verl's TransferQueue; returns the batch's metadata with them."""
    import transfer_queue
    from tensordict import TensorDict

    written = transfer_queue.kv_batch_put(
        keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch))
    )
    written.extra_info.update(batch.extra_info)
    return written


def check_settings(config) -> tuple[str, dict]:
    """(method, options) of a run's configuration. Raises ValueError for settings that cannot work."""
    actor = config.actor_rollout_ref.actor
    mode = actor.policy_loss.loss_mode
    if mode.removeprefix(PREFIX) not in METHODS or not mode.startswith(PREFIX):
        raise ValueError(
            f"policy_loss.loss_mode={mode}: trainer_mode={TRAINER_MODE} expects one of "
            f"{', '.join(PREFIX + name for name in METHODS)}"
        )
    name = mode.removeprefix(PREFIX)
    refuse_logit_needs(name)
    given = actor.policy_loss.get("dynclip_options") or {}
    options = method_options(name, OmegaConf.to_container(given, resolve=True) if given else {})
    spec = method(name, 1, **options).spec
    current = {"entropy", "entropy_gradient"} & set(spec.needs)
    if current and not (actor.calculate_entropy or actor.entropy_coeff):
        raise ValueError(
            f"{mode}: needs the current policy's entropy; set actor_rollout_ref.actor.calculate_entropy=True"
        )
    correction = config.algorithm.get("rollout_correction") or {}
    if correction.get("bypass_mode") and (spec.controller or "old_entropy" in spec.needs):
        raise ValueError(
            f"{mode}: needs the sampling policy's entropy, which verl skips with "
            "algorithm.rollout_correction.bypass_mode=True; set it to False"
        )
    return name, options


def register_sync_trainer(trainer_sync: ModuleType) -> None:
    """`trainer.v1.trainer_mode=dynclip_sync`."""
    from verl.trainer.ppo.v1.trainer_base import register_trainer

    bases = (DynClipUpdates, trainer_sync.PPOTrainerSync)
    register_trainer(TRAINER_MODE)(type("DynClipTrainerSync", bases, {"__module__": __name__}))
