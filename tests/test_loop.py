"""The stacked loop: equal to TRL's trainer for every method, the same alone and beside others, killed and resumed."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from trl.trainer import grpo_trainer

from dynclip import METHODS
from dynclip.methods.objective import Method
from dynclip.studies.overrides import resolve
from dynclip.training import loop as loop_module
from dynclip.training.loop import Loop
from dynclip.training.trl_run.config import trainer_config
from dynclip.training.worlds import folders
from dynclip.training.worlds.networks import stack
from dynclip.training.worlds.tasks import Rollout, Vocabulary, network_of
from dynclip.training.worlds.tokenizer import build_tokenizer
from dynclip.trl.trainer import DynClipTrainer
from evals.benchmarks.worlds import WORLDS, generate

STEPS = 3
# Options under which methods that would be GRPO on so few and so small steps do something.
ACTING = {
    "adaptive_entropy": {"target": 9.0, "delta": 0.01, "maximum": 1.0},
    "aer": {"fraction": 2.0, "maximum": 1.0},
    "aent": {"initial": 0.1, "maximum": 1.0},
    "clip_b": {"mu": 0.1},
    "clip_v": {"mu": 0.1},
    "stare": {"target": 9.0},
    "entropic": {"threshold": 0.05},
}
NOT_COMPARED = ("time/", "sys/", "policy/entropy_after", "train/tokens")


@pytest.fixture(scope="module")
def config():
    """The miniature scale with a rate that moves ratios beyond the bounds, trained through TRL."""
    config = resolve("miniature", trainer="trl", steps=STEPS)
    return replace(config, scale=replace(config.scale, learning_rate=0.02))


@pytest.fixture(scope="module")
def base(config, tmp_path_factory):
    """A policy with random weights, as a folder."""
    folder = tmp_path_factory.mktemp("loop") / "base"
    tokenizer = build_tokenizer(WORLDS["facts"])
    network = network_of(config.scale.policy, len(tokenizer))
    weights = network.start(torch.Generator().manual_seed(0))
    folders.publish(folder, config.scale, network, weights, {}, tokenizer)
    return folder


def odd_length(completions, **_):
    """A reward that random policies earn about half of the time."""
    return [float(len(text) % 2) for text in completions]


def exact_norm(self, hidden):
    """RMSNorm in the precision of its input."""
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


class Recorder:
    """Takes from TRL's trainer what it sampled, its rewards, and the order in which it cut mini-batches."""

    def __init__(self, trainer, monkeypatch):
        self.rollouts, self.orders, self.rewards = [], [], []
        calculate = trainer._calculate_rewards

        def rewards_of(*args, **kwargs):
            self.rewards.append(calculate(*args, **kwargs))
            return self.rewards[-1]

        def shuffled(batch):
            order = torch.randperm(len(batch["completion_ids"]))
            self.orders.append(order)
            self.rollouts.append({name: value for name, value in batch.items() if torch.is_tensor(value)})
            permuted = {k: v[order] if torch.is_tensor(v) and v.dim() else v for k, v in batch.items()}
            return {k: [v[i] for i in order] if isinstance(v, list) else v for k, v in permuted.items()}

        monkeypatch.setattr(trainer, "_calculate_rewards", rewards_of)
        monkeypatch.setattr(grpo_trainer, "shuffle_sequence_dict", shuffled)


class Replay:
    """A task that hands out what TRL sampled."""

    neutral = None

    def __init__(self, network, recorder):
        self.network, self.recorder = network, recorder

    def rollout(self, weights, step):
        batch = self.recorder.rollouts[step]
        attend = torch.cat([batch["prompt_mask"], torch.ones_like(batch["completion_ids"])], 1).bool()
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        inputs = {"ids": ids[None], "attend": attend[None], "prompt": batch["prompt_ids"].shape[1]}
        tokens, mask = batch["completion_ids"][None], batch["completion_mask"][None].bool()
        rewards = self.recorder.rewards[step].sum(1)[None]
        logits = self.network.logits(weights, inputs).unbind(2)
        return Rollout(inputs, tokens, logits, mask, rewards, torch.zeros_like(rewards, dtype=torch.bool))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_as_in_trl(name, config, base, tmp_path, monkeypatch):
    options = ACTING.get(name, {})
    # In float32, the precision of Hugging Face's norm, rounding decides the first steps of Adam: compare in float64.
    monkeypatch.setattr(Qwen2RMSNorm, "forward", exact_norm)
    tokenizer = AutoTokenizer.from_pretrained(base)
    problems = generate("facts", 40, 3, held_out=False)
    trainer = DynClipTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64),
        processing_class=tokenizer,
        reward_funcs=odd_length,
        args=trainer_config(config, 0, tmp_path),
        train_dataset=Dataset.from_list([{"prompt": problem.problem} for problem in problems]),
        dynclip_method=name,
        dynclip_options=options,
    )
    # Hugging Face gives no gradient to the padding's embedding; a policy with random weights samples that token.
    trainer.model.model.embed_tokens.padding_idx = None
    recorder = Recorder(trainer, monkeypatch)
    rows = []
    updates = config.scale.updates_per_rollout

    class Rows(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            if state.global_step % updates == 0 and len(rows) < state.global_step // updates:
                rows.append(trainer.take_row())

    trainer.add_callback(Rows())
    trainer.train()

    vocabulary, _ = Vocabulary.load(base)
    network = network_of(config.scale.policy, len(vocabulary.pieces))
    weights = {key: value.double() for key, value in stack([folders.load(base, network)]).items()}
    monkeypatch.setattr(loop_module, "shuffle", lambda seeds, k, count: recorder.orders[k][None])
    ours = Loop(config.scale, [Method(METHODS[name], STEPS, options)], [0], Replay(network, recorder), weights)
    for step, theirs in enumerate(rows):
        mine = ours.step()[0]
        for key, value in theirs.items():
            if not key.startswith(NOT_COMPARED):
                assert mine[key] == pytest.approx(value, rel=1e-5, abs=1e-6), (step, key)
    trained = dict(trainer.model.named_parameters())
    moved = 0.0
    for key, value in ours.weights.items():
        torch.testing.assert_close(value.detach()[0], trained[key].detach(), rtol=1e-5, atol=1e-6)
        moved = max(moved, (value.detach()[0] - weights[key][0]).abs().max().item())
    assert len(rows) == STEPS and moved > 1e-3
