"""A tiny tokenizer, model, data set and TRL trainer on the CPU, for the tests of the TRL adapter.

`python tests/tiny_trainer.py` prints the SHA-256 of the final weights of five methods. A change that claims to alter no
result can be checked with it: PYTHONPATH=<checkout of another commit> runs the same on that commit's code.
"""

import hashlib
import itertools
import tempfile

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig

from dynclip.trl import DynClipTrainer

VOCABULARY, PROMPT, COMPLETION, BATCH = 20, 5, 7, 4
LETTERS = "".join(map(chr, range(97, 97 + VOCABULARY - 2)))
# Prompts of different lengths, so that there is padding; all distinct, so that a row's prompt names its group.
PROMPTS = ["".join(letters)[: 3 + i % 3] for i, letters in enumerate(itertools.permutations("abcde"))][:16]


def tokenizer():
    """One token per letter."""
    raw = Tokenizer(models.WordLevel({x: i for i, x in enumerate(["<pad>", "<eos>", *LETTERS])}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def model():
    """Two layers, tied embeddings; weights large enough for token entropies to differ (uniform would be 3.0 nats)."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
            bos_token_id=None, initializer_range=0.15,
        )
    )  # fmt: skip


def early_letters(completions, **_):
    """A reward that varies within every group: the share of a completion's letters in the first half of LETTERS."""
    half = set(LETTERS[: len(LETTERS) // 2])
    return [sum(letter in half for letter in text) / max(1, len(text)) for text in completions]


def trainer(cls, folder, config=None, policy=None, **kwargs):
    """A trainer of class `cls` of `policy`; `config`: options of TRL's GRPOConfig, `kwargs`: arguments of the class."""
    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": BATCH, "steps_per_generation": 2,
        "num_generations": BATCH, "max_completion_length": COMPLETION, "max_steps": 8, "use_cpu": True, "bf16": False,
        "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "report_to": [], "disable_tqdm": True,
        "dataloader_pin_memory": False, "save_strategy": "no", "logging_steps": 1, "lr_scheduler_type": "constant",
    }  # fmt: skip
    built = cls(
        model=policy or model(), processing_class=tokenizer(), reward_funcs=early_letters,
        args=GRPOConfig(**{**defaults, **(config or {})}),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]), **kwargs,
    )  # fmt: skip
    built.state.max_steps = built.args.max_steps  # what `train` sets; losses are also asked for without it
    return built


class Rows(TrainerCallback):
    """Takes the metrics row of every rollout step, as the project's recorder does."""

    def __init__(self):
        self.rows, self.trainer = [], None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "train_runtime" not in logs and state.global_step % self.trainer.updates_per_rollout == 0:
            self.rows.append(self.trainer.take_row())


def train(folder, method, options=None, rollout_steps=2, resume=None, **config):
    """(trainer, rows) after `rollout_steps` rollout steps of four updates each, at a rate that moves the ratios."""
    rows = Rows()
    config = {"num_iterations": 2, "max_steps": 4 * rollout_steps, "learning_rate": 1e-2, **config}
    built = trainer(DynClipTrainer, folder, config, dynclip_method=method, dynclip_options=options, callbacks=[rows])
    rows.trainer = built
    built.train(resume_from_checkpoint=resume)
    return built, rows.rows


def random_inputs(scorer, seed, drift=0.5):
    """A mini-batch as TRL's buffer holds it: padded prompts and completions, rows of 0 to COMPLETION counted tokens.

    Old log-probabilities are the model's own moved by `drift` standard normals, so that ratios leave 1 on both sides.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(COMPLETION + 1, (BATCH,), generator=generator)
    mask = (torch.arange(COMPLETION) < lengths[:, None]).int()
    prompt_mask = torch.ones(BATCH, PROMPT, dtype=torch.long)
    prompt_mask[:, 0] = torch.randint(2, (BATCH,), generator=generator)
    inputs = {
        "prompt_ids": torch.randint(2, VOCABULARY, (BATCH, PROMPT), generator=generator),
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(2, VOCABULARY, (BATCH, COMPLETION), generator=generator),
        "completion_mask": mask,
        "advantages": torch.randn(BATCH, generator=generator),
        "num_items_in_batch": mask.sum() * 2 + 3,
    }
    logprob, _ = score(scorer, inputs)
    return inputs | {
        "old_per_token_logps": logprob + drift * torch.randn(BATCH, COMPLETION, generator=generator),
        # Factors that only some runs have; `_compute_loss` reads them where it is told to.
        "importance_sampling_ratio": 0.5 + torch.rand(BATCH, COMPLETION, generator=generator),
        "tool": torch.randint(2, (BATCH, COMPLETION), generator=generator),
    }


@torch.no_grad()
def score(instance, inputs):
    """(logprob, entropy) of a mini-batch's completion tokens under the trainer's model, each (B, T), by TRL's pass."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    return instance._get_per_token_logps_and_entropies(
        instance.model, ids, attention, inputs["completion_ids"].size(1), compute_entropy=True
    )[:2]


def loss_and_gradients(instance, inputs):
    """What one mini-batch gives: the loss, and the gradient of every parameter."""
    instance.model.zero_grad()
    instance.model.train()
    instance.current_gradient_accumulation_steps = instance.args.gradient_accumulation_steps
    loss = instance._compute_loss(instance.model, dict(inputs))
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in instance.model.parameters()]


def gaps(found, expected):
    """The largest absolute differences of two results of `loss_and_gradients`: (of the loss, of the gradients)."""
    return (
        (found[0] - expected[0]).abs().item(),
        max((a - b).abs().max().item() for a, b in zip(found[1], expected[1], strict=True)),
    )


def report(record_property, method, batches, differences):
    """Writes what a test compared into pytest's report; `docs.generate.peers_table` makes a table of it."""
    loss, gradient = map(max, zip(*differences, strict=True))
    for name, value in {"method": method, "batches": batches, "loss": loss, "gradient": gradient}.items():
        record_property(name, value)


def weights_sha256(instance):
    """Digest of the trainer's weights, by name."""
    found = hashlib.sha256()
    for name, value in sorted(instance.model.state_dict().items()):
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    for method_name in ("grpo", "clip_higher", "id", "did", "od"):
        with tempfile.TemporaryDirectory() as scratch:
            print(method_name, weights_sha256(train(scratch, method_name, rollout_steps=4)[0]), flush=True)
