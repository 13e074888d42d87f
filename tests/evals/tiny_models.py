"""A causal language model of a few thousand weights on disk, made in the test that needs it."""

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from dynclip.training.worlds.tokenizer import build_tokenizer
from evals.benchmarks.worlds import WORLDS

THINK = "{{ messages[0]['content'] }}<think>"  # a chat template that begins the thinking
CHAT = "{% for m in messages %}({{ m['content'] }}){% endfor %}{% if add_generation_prompt %}={% endif %}"


def tiny_tokenizer():
    """The tokenizer of `worded`, whose pieces include those of `facts`."""
    return build_tokenizer(WORLDS["worded"])


def tiny_model(tokenizer, seed: int = 0, hidden: int = 64, heads: int = 2, positions: int = 96) -> Qwen2ForCausalLM:
    """An untrained Qwen2 of one layer."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    # Saved with the model, because `generate` reads its defaults here.
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def save_tiny(
    folder: Path, seed: int = 0, positions: int = 96, chat: str | None = None, tags: tuple[str, ...] = ()
) -> Path:
    """An untrained Qwen2 with heads of 32, the smallest that vLLM's CPU build takes, and `tiny_tokenizer`.

    tags: tokens to add to the vocabulary.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(tags))
    tokenizer.chat_template = chat
    model = tiny_model(tokenizer, seed, positions=positions)
    with torch.no_grad():  # stronger than at initialisation: the text matters, and the likeliest token is clearly so
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight *= 15
        model.model.embed_tokens.weight *= 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
