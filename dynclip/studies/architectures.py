"""Architectures of the language models that the GPU scales train: what their config.json says.

Memory and speed can be planned from these numbers before anything is downloaded, and a rehearsal builds a model of the
same architecture at a tiny width. The base policy of a run is checked against them when it is made.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer with grouped-query attention and a gated MLP. `kind` is config.json's model_type."""

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int  # longest sequence, tokens
    tied: bool  # input and output embeddings are one matrix
    qkv_bias: bool

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Number of weights."""
        kv = self.kv_heads * self.head_size
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv
        attention += self.qkv_bias * (self.hidden + 2 * kv)
        mlp = 3 * self.hidden * self.intermediate
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + mlp + 2 * self.hidden) + self.hidden

    def differences(self, config: dict) -> list[str]:
        """Where a config.json says something else, in words; empty if it is this architecture."""
        expected = {
            "model_type": self.kind,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
        }
        return [
            f"{name} {config.get(name)} instead of {value}"
            for name, value in expected.items()
            if config.get(name) != value
        ]


SMOLLM2_135M = Architecture("llama", 576, 30, 9, 3, 1536, 49152, 8192, tied=True, qkv_bias=False)
QWEN25_05B = Architecture("qwen2", 896, 24, 14, 2, 4864, 151936, 32768, tied=True, qkv_bias=True)
QWEN25_7B = Architecture("qwen2", 3584, 28, 28, 4, 18944, 152064, 131072, tied=False, qkv_bias=True)
QWEN25_MATH_7B = Architecture("qwen2", 3584, 28, 28, 4, 18944, 152064, 4096, tied=False, qkv_bias=True)
