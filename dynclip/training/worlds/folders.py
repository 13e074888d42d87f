"""A tiny policy on disk: safetensors with checksums, and for language worlds a complete Hugging Face folder."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from dynclip.runtime.checkpoints import MANIFEST, writing
from dynclip.runtime.errors import UserError
from dynclip.studies.scales import Scale
from dynclip.training.worlds.networks import PathNetwork, Transformer, Weights

WEIGHTS, RECORD = "model.safetensors", "warm_start.json"
CONTEXT = 128  # positions that a language policy's configuration announces


def publish(target: Path, scale: Scale, network: PathNetwork | Transformer, weights: Weights, record: dict, tokenizer):
    """Write a base policy and its warm start's `record` to the folder `target`."""
    with writing(target) as aside:
        save_file({name: value.contiguous() for name, value in weights.items()}, aside / WEIGHTS, {"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
            ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            (aside / "config.json").write_text(json.dumps(configuration(network) | ends, indent=1))
            (aside / "generation_config.json").write_text(json.dumps(ends, indent=1))
        else:
            (aside / "config.json").write_text(json.dumps({"model_type": "dynclip_paths", **vars(network)}, indent=1))
        record |= {"parameters": sum(value.numel() for value in weights.values()), "scale": scale.name}
        (aside / RECORD).write_text(json.dumps(record, indent=1))


def configuration(network: Transformer) -> dict:
    """config.json of a language policy, as transformers' Qwen2Config reads it."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": network.vocabulary,
        "hidden_size": network.hidden,
        "intermediate_size": network.intermediate,
        "num_hidden_layers": network.layers,
        "num_attention_heads": network.heads,
        "num_key_value_heads": network.heads,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": network.epsilon,
        "rope_theta": network.theta,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "torch_dtype": "float32",
    }


def copy_with(base: Path, target: Path, weights: Weights) -> None:
    """Publish in `target` a policy with these weights and everything else of the folder `base`."""
    with writing(target) as aside:
        for file in base.iterdir():
            if file.is_file() and file.name not in (WEIGHTS, MANIFEST, RECORD):
                shutil.copyfile(file, aside / file.name)
        save_file({name: value.contiguous() for name, value in weights.items()}, aside / WEIGHTS, {"format": "pt"})


def load(folder: Path, network: PathNetwork | Transformer) -> Weights:
    """The weights of one policy. Raises UserError if they are not those of the scale's network."""
    weights = load_file(folder / WEIGHTS)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if shapes != network.shapes():
        raise UserError(
            f"{folder}: the weights are not those of this scale's policy; make it again with --forcerun warmup"
        )
    return weights
