"""A training whose completions vLLM samples in the same process: python vllm_program.py FOLDER [stale].

Prints one JSON line: per rollout step the mean and maximum of |log π_sampler − log π_trainer| over tokens, in float32.
With `stale` the sampler keeps the weights it started with.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": sys.argv[2],
}

import torch
from tiny_trainer import PROMPTS, early_letters, tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

from dynclip.trl.trainer import DynClipTrainer


def main(folder: Path, stale: bool) -> None:
    torch.manual_seed(0)
    letters = tokenizer()
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(letters), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
            bos_token_id=None, initializer_range=0.15,
        )
    ).save_pretrained(folder / "base")  # fmt: skip
    letters.save_pretrained(folder / "base")
    from datasets import Dataset

    trainer = DynClipTrainer(
        model=Qwen2ForCausalLM.from_pretrained(folder / "base", dtype=torch.float32),
        processing_class=letters,
        reward_funcs=early_letters,
        args=GRPOConfig(
            output_dir=str(folder), per_device_train_batch_size=8, steps_per_generation=2, num_generations=4,
            gradient_accumulation_steps=1, num_iterations=2, max_completion_length=12, max_steps=12, learning_rate=5e-3,
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], disable_tqdm=True, save_strategy="no",
            logging_steps=1, lr_scheduler_type="constant", dataloader_pin_memory=False, top_k=0, use_vllm=True,
            vllm_mode="colocate", vllm_max_model_length=32, vllm_importance_sampling_mode="token_truncate",
            vllm_importance_sampling_clip_max=2.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        dynclip_method="id",
    )  # fmt: skip
    if stale:
        trainer.vllm_generation.sync_weights = lambda: None
    trainer.train()
    names = ("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max")
    steps = [[row[name] for name in names] for row in trainer.state.log_history if names[0] in row]
    moved = sum(row.get("grad_norm", 0) > 0 for row in trainer.state.log_history)
    print("RESULT " + json.dumps({"differences": steps, "updates": moved}), flush=True)
    os._exit(0)  # vLLM's process group and torch's dissolve each other at exit


if __name__ == "__main__":
    main(Path(sys.argv[1]), "stale" in sys.argv)
