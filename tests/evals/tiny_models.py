"""A causal language model of a few thousand weights on disk, made in the test that needs it."""

from dataclasses import replace
from pathlib import Path

import torch

from dynclip.studies.scales import MINIATURE
from dynclip.training.tiny_policy import build_model, build_tokenizer

CHAT = "{% for m in messages %}({{ m['content'] }}){% endfor %}{% if add_generation_prompt %}={% endif %}"


def save_tiny(folder: Path, seed: int = 0, positions: int = 96, chat: str | None = None) -> Path:
    """An untrained Qwen2 with heads of 32, the smallest that vLLM's CPU build takes, and the laptop's tokenizer."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = chat
    model = build_model(replace(MINIATURE.policy, hidden=64, max_positions=positions), tokenizer, seed)
    with torch.no_grad():  # stronger than at initialisation: the text matters, and the likeliest token is clearly so
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight *= 15
        model.model.embed_tokens.weight *= 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
