"""A step of training on a CPU with verl's own parts: configuration, queue, driver, worker, losses, checkpoints.

The rollout batch is random tokens; from there on everything runs as in a real step (cpu_worker.py says what stands in
for what). The weights after the step must be those of a plain loop over the same mini-batches with `Method.loss`.
"""

import json

import pytest
import torch
from cpu_worker import WorkerGroup, cpu_worker, rollouts, tiny_model
from launch import actor_of, compose_run, configure

from dynclip.methods.registry import METHODS, method
from dynclip.methods.types import LOGIT_NEEDS, TokenBatch
from dynclip.runtime.seeds import derive_seed
from dynclip.verl import losses as adapter

ROWS, GROUPS, MINI, MICRO, RATE, STEPS = 32, 8, 8, 2, 0.2, 4


@pytest.fixture(scope="module")
def queue(ray_folder):
    """verl's TransferQueue, in a Ray of this test's own."""
    import ray
    import transfer_queue

    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20, _temp_dir=ray_folder
    )
    transfer_queue.init(compose_run().transfer_queue)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield transfer_queue
    torch.distributed.destroy_process_group()
    transfer_queue.close()
    ray.shutdown()


class Loader:
    """The data loader's part in a checkpoint."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def make_trainer(config, mode=adapter.TRAINER_MODE):
    """verl's trainer of that mode around one CPU worker, at the first step of four."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    trainer = get_trainer_cls(mode)(config=config)
    trainer.actor_rollout_wg = WorkerGroup(cpu_worker(actor_of(config), RATE, MICRO))
    trainer.global_steps, trainer.total_training_steps, trainer.train_dataloader = 1, STEPS, Loader()
    return trainer


def train_step(trainer, queue, seed=0):
    """What `PPOTrainer._step_once` does after the rollout. Returns the step's metrics and the rollout batch."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils

    fields = rollouts(ROWS, GROUPS, seed)
    prompts = fields.pop("uid")
    data = TensorDict(fields, batch_size=ROWS)
    tensordict_utils.assign_non_tensor_stack(data, "uid", prompts)
    keys = [f"{prompt}_{row}_0" for row, prompt in enumerate(prompts)]
    batch = queue.kv_batch_put(keys=keys, partition_id="train", fields=data, tags=[{} for _ in keys])
    batch.extra_info["temperature"] = 1.0
    metrics = {}
    batch = trainer._compute_old_log_prob(batch, metrics)
    batch = trainer._compute_advantage(batch, metrics)
    batch = trainer._update_actor(batch, metrics)
    queue.kv_clear(keys=keys, partition_id="train")
    return metrics, fields | {"uid": prompts}


def padded(nested) -> torch.Tensor:
    return torch.nested.to_padded_tensor(nested, 0)


def plain_step(run, fields, step: int, seed: int = 42):
    """The same step without verl: one model, one loop, `Method.prepare` once and `Method.loss` per micro-batch."""
    model = tiny_model()
    ids, mask = padded(fields["input_ids"]), padded(fields["response_mask"]) != 0
    prompt = ids.size(1) - mask.size(1)

    def forward(rows):
        # Attention is causal and padding is on the right, so that it changes nothing before it.
        logits = torch.log_softmax(model(input_ids=ids[rows]).logits[:, prompt - 1 : -1], dim=-1)
        logprob = logits.gather(-1, ids[rows, prompt:].unsqueeze(-1)).squeeze(-1)
        return logprob, -(logits.exp() * logits).sum(-1)

    with torch.no_grad():
        old, old_entropy = forward(slice(None))
    rewards = padded(fields["rm_scores"]).sum(-1).view(GROUPS, -1)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)).flatten()
    success = rewards.mean(1, keepdim=True).expand_as(rewards).flatten()
    if run.controller:
        run.observe(step, float((old_entropy * mask).sum() / mask.sum()))
    whole = TokenBatch(
        old, old, advantages.unsqueeze(1) * mask, mask, old_entropy=old_entropy, success=success,
        group=torch.arange(ROWS) // (ROWS // GROUPS),
    )  # fmt: skip
    whole = run.prepare(whole, step)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    number = 0
    for first in range(0, ROWS, MINI):
        optimizer.zero_grad()
        for start in range(first, first + MINI, MICRO):
            rows = slice(start, start + MICRO)
            logprob, entropy = forward(rows)
            counted = int(mask[rows].sum(1).max())  # verl pads a micro-batch to its own longest response
            tokens = TokenBatch(
                logprob[:, :counted], old[rows, :counted], whole.advantages[rows, :counted], mask[rows, :counted],
                entropy=entropy[:, :counted], success=success[rows], prepared=True,
                weight=None if whole.weight is None else whole.weight[rows, :counted],
                draw_seed=derive_seed(seed, step, number),
            )  # fmt: skip
            per_token = run.loss(tokens, step, dual_clip=3.0).per_token
            ((per_token * tokens.mask).sum() / mask[first : first + MINI].sum()).backward()
            number += 1
        optimizer.step()
    return model


# Every method that runs inside verl, with options under which its own piece acts on a batch of this size.
CHECKED = {name: {} for name, spec in METHODS.items() if not set(spec.needs) & LOGIT_NEEDS.keys()} | {
    "ent_reg": {"coefficient": 0.3},
    "adaptive_entropy": {"initial": 0.3, "maximum": 1.0, "target": 9.0},
    "aer": {"eta": 1.0, "fraction": 9.0, "maximum": 1.0, "solved": 0.6},
    "clip_cov": {"share": 0.3, "cov_low": 0.0},
    "kl_cov": {"share": 0.1},
    "clip_b": {"mu": 0.1},
    "exchange": {"alpha": 0.3},
    "par": {"initial": 0.4},
    "entropic": {"threshold": 0.1},
    "stare": {"share": 0.5, "weight": 3.0, "target": 9.0},
    "entrocraft": {"lower": [8.0, 8.0], "upper": [9.0, 9.0]},
}


def largest_gap(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("name", CHECKED)
def test_a_step_of_verl_gives_the_weights_of_a_plain_loop(queue, name, monkeypatch):
    monkeypatch.setattr(adapter, "_draws", adapter.DrawCounter())  # as in a process of the run's own
    trainer = make_trainer(configure(name, CHECKED[name]))
    plain = method(name, STEPS, **CHECKED[name])
    for run in (trainer.dynclip_method, plain):
        run.observe(0, 1.0)
    trainer.global_steps = 2
    metrics, fields = train_step(trainer, queue)
    trained = trainer.actor_rollout_wg.worker.actor.engine.module
    gap = largest_gap(trained, plain_step(plain, fields, step=1))
    from_grpo = largest_gap(trained, plain_step(method("grpo", STEPS), fields, step=1))
    moved = largest_gap(trained, tiny_model())
    print(f"{name}: weights moved by {moved:.1e}, {gap:.1e} from the plain loop's, {from_grpo:.1e} from GRPO's")
    assert gap < 5e-5 * moved and (from_grpo > 0.1 * moved or name == "grpo")  # in float32
    assert ("actor/clip/state" in metrics) == (METHODS[name].controller is not None)


def test_the_registered_grpo_is_verls_vanilla_to_the_last_bit(queue):
    config = configure("grpo")
    ours = make_trainer(config)
    train_step(ours, queue)
    config = compose_run(["actor_rollout_ref.actor.policy_loss.loss_mode=vanilla", "trainer.v1.trainer_mode=sync"])
    theirs = make_trainer(config, "sync")
    train_step(theirs, queue)
    pairs = zip(*(t.actor_rollout_wg.worker.actor.engine.module.parameters() for t in (ours, theirs)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_step_total_and_state_travel_with_the_batch(queue):
    trainer = make_trainer(configure("thermostat"))
    for step in range(3):
        trainer.global_steps = step + 1
        metrics, _ = train_step(trainer, queue, seed=step)
        entry = trainer.actor_rollout_wg.batches[-1].extra_info[adapter.CONTEXT]
        assert (entry["step"], entry["total_steps"]) == (step, STEPS)
        assert entry["state"] == metrics["actor/clip/state"] == trainer.dynclip_method.controller.signal
    for part in trainer.actor_rollout_wg.batches[-1].chunk(2):  # as verl splits it over data-parallel ranks
        assert part.extra_info[adapter.CONTEXT] == entry
    assert trainer.trainer_mode == "sync" and type(trainer.replay_buffer).__name__ == "ReplayBuffer"


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "token-sum"])
def test_a_controller_sees_the_mean_token_entropy_whatever_the_aggregation(queue, aggregation):
    trainer = make_trainer(configure("od", actor_rollout_ref__actor__loss_agg_mode=aggregation))
    metrics, fields = train_step(trainer, queue)
    reference = method("od", STEPS)
    plain_step(reference, fields, step=0)
    seen = trainer.dynclip_method.controller.reference_entropy
    assert seen == pytest.approx(reference.controller.reference_entropy, rel=1e-5)
    if aggregation == "token-sum":
        assert metrics["actor/entropy"] > 10 * seen  # verl's own number is a sum then


def test_the_controllers_state_is_in_verls_checkpoints(queue, tmp_path):
    where = {"trainer__default_local_dir": str(tmp_path)}
    trainer = make_trainer(configure("thermostat", {"target": 9.0}, **where))
    for trainer.global_steps in (1, 2):
        train_step(trainer, queue)
    trainer._save_checkpoint()
    saved = json.loads((tmp_path / "global_step_2" / adapter.STATE_FILE).read_text())
    assert saved == {"method": "thermostat", "total_steps": STEPS, "state": {"signal": 0.5}}

    resumed = make_trainer(configure("thermostat", {"target": 9.0}, **where))
    resumed._load_checkpoint()
    assert resumed.global_steps == 2 and resumed.dynclip_method.controller.signal == 0.5
    named = {"trainer__resume_mode": "resume_path", "trainer__resume_from_path": f"{tmp_path}/global_step_2"}
    resumed = make_trainer(configure("thermostat", **named))
    resumed._load_checkpoint()
    assert resumed.dynclip_method.controller.signal == 0.5

    other = make_trainer(configure("od", **where))
    with pytest.raises(ValueError, match=r"dynclip\.json: state of method 'thermostat', expected 'od'"):
        other._load_checkpoint()
    (tmp_path / "global_step_2" / adapter.STATE_FILE).unlink()
    resumed = make_trainer(configure("thermostat", **where))
    with pytest.raises(FileNotFoundError, match=r"global_step_2/dynclip\.json: not found.*resume_mode=disable"):
        resumed._load_checkpoint()
    stateless = make_trainer(configure("id", **where))
    stateless._load_checkpoint()
    assert stateless.global_steps == 2


def test_without_a_checkpoint_training_starts_at_the_beginning(tmp_path, queue):
    trainer = make_trainer(configure("thermostat", trainer__default_local_dir=str(tmp_path)))
    trainer._load_checkpoint()
    assert trainer.global_steps == 0
