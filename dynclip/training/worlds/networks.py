"""Networks of R tiny policies side by side. Every weight has a leading dimension R, every product is a batched one.

A network is a description without state. Its weights are a dictionary name -> (R, ...). `inputs` of a forward pass are
tensors (R, B, ...), and the logits come back as (R, B, T, V), one row for each token of the completion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from dynclip.training.worlds.draws import here, normal

Weights = dict[str, torch.Tensor]


def linear(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`value` (R, B, ..., in) times `weight` (R, out, in), plus `bias` (R, out), as (R, B, ..., out)."""
    flat = value.reshape(len(weight), -1, value.shape[-1])
    if bias is None:
        out = torch.bmm(flat, weight.transpose(1, 2))
    else:
        out = torch.baddbmm(bias.unsqueeze(1), flat, weight.transpose(1, 2))
    return out.view(*value.shape[:-1], -1)


def embed(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows of `table` (R, V, D) at `ids` (R, ...), as (R, ..., D)."""
    replicas, size, width = table.shape
    places = ids + size * torch.arange(replicas).view(-1, *[1] * (ids.dim() - 1))
    return functional.embedding(places, table.reshape(-1, width))


@dataclass(frozen=True)
class PathNetwork:
    """An MLP on the present node, the goal and the number of moves made: the policy of the world `paths`.

    Three embeddings of width `width` are concatenated, then two hidden layers with GELU lead to the next node's logits.
    """

    nodes: int
    moves: int
    width: int
    hidden: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each weight of one policy."""
        width, hidden = self.width, self.hidden
        return {
            "node": (self.nodes, width), "goal": (self.nodes, width), "move": (self.moves, width),
            "first.weight": (hidden, 3 * width), "first.bias": (hidden,),
            "second.weight": (hidden, hidden), "second.bias": (hidden,),
            "head.weight": (self.nodes, hidden), "head.bias": (self.nodes,),
        }  # fmt: skip

    def start(self, generator: torch.Generator) -> Weights:
        """Random weights of one policy: embeddings N(0, 1/4), matrices N(0, 1/fan-in), biases 0."""
        found = {}
        for name, shape in self.shapes().items():
            if name.endswith("bias"):
                found[name] = torch.zeros(shape)
            else:
                deviation = 1 / math.sqrt(shape[1]) if name.endswith("weight") else 0.5
                found[name] = normal(shape, generator) * deviation
        return found

    def logits(self, weights: Weights, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(R, B, T, V) from `node` (R, B, T), `goal` and `move` (R, B, T)."""
        parts = [embed(weights[name], inputs[name]) for name in ("node", "goal", "move")]
        hidden = functional.gelu(linear(torch.cat(parts, -1), weights["first.weight"], weights["first.bias"]))
        hidden = functional.gelu(linear(hidden, weights["second.weight"], weights["second.bias"]))
        return linear(hidden, weights["head.weight"], weights["head.bias"])


@dataclass
class Cache:
    """Keys and values of the tokens seen so far: one tensor (rows, heads, length, head size) per layer."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


@dataclass(frozen=True)
class Transformer:
    """A decoder of the Qwen2 architecture with an output head of its own, equal to transformers' Qwen2ForCausalLM.

    Weights have Hugging Face's names. `inputs`: `ids` (R, B, L) and `attend` (R, B, L) bool, False at the padding on
    the left; `prompt` is the width of the padded prompts, so that the completion has T = L − prompt tokens.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    theta: float = 10000.0
    epsilon: float = 1e-6

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each weight of one policy, under Hugging Face's names."""
        found = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        square, inner = (self.hidden, self.hidden), self.intermediate
        for number in range(self.layers):
            layer = f"model.layers.{number}."
            for part in "qkv":
                found[f"{layer}self_attn.{part}_proj.weight"] = square
                found[f"{layer}self_attn.{part}_proj.bias"] = (self.hidden,)
            found[f"{layer}self_attn.o_proj.weight"] = square
            found[f"{layer}mlp.gate_proj.weight"] = found[f"{layer}mlp.up_proj.weight"] = (inner, self.hidden)
            found[f"{layer}mlp.down_proj.weight"] = (self.hidden, inner)
            found[f"{layer}input_layernorm.weight"] = (self.hidden,)
            found[f"{layer}post_attention_layernorm.weight"] = (self.hidden,)
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocabulary, self.hidden)}

    def start(self, generator: torch.Generator) -> Weights:
        """Random weights of one policy: matrices N(0, 1/columns), norms 1, biases 0.

        Hugging Face's 0.02 suits wide models; a tiny one learns several times as fast from this start.
        """
        found = {}
        for name, shape in self.shapes().items():
            if name.endswith("bias"):
                found[name] = torch.zeros(shape)
            elif "norm" in name:
                found[name] = torch.ones(shape)
            else:
                found[name] = normal(shape, generator) / math.sqrt(shape[1])
        return found

    def logits(self, weights: Weights, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(R, B, T, V): the logits of the T completion tokens."""
        ids, attend, prompt = inputs["ids"], inputs["attend"], inputs["prompt"]
        return self.head(weights, self.hidden_states(weights, ids[..., :-1], attend[..., :-1], 0, prompt - 1, None))

    def head(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (R, B, T, V) of hidden states (R, B, T, D)."""
        return linear(self.norm(hidden, weights["model.norm.weight"]), weights["lm_head.weight"])

    def norm(self, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm of `value` (R, B, T, D) with `weight` (R, D)."""
        scaled = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return scaled * weight.view(len(weight), *[1] * (value.dim() - 2), -1)

    def hidden_states(
        self, weights: Weights, ids: torch.Tensor, attend: torch.Tensor, position: int, first: int, cache: Cache | None
    ) -> torch.Tensor:
        """Hidden states (R, B, T − first, D) before the last norm, of the tokens `ids` (R, B, T) from the `first` on.

        `position` is that of the first token, `attend` (R, B, position + T) is False at padding. With a `cache` the
        tokens' keys and values are written to it, and earlier tokens are read from it.
        """
        hidden = embed(weights["model.embed_tokens.weight"], ids)
        replicas, batch, length = ids.shape
        mask = mask_of(attend, length).to(hidden.dtype)
        cosine, sine = self.rotation(position, length, hidden.dtype)
        for number in range(self.layers):
            layer = f"model.layers.{number}."
            normed = self.norm(hidden, weights[f"{layer}input_layernorm.weight"])
            if number == self.layers - 1:  # nobody reads the last layer's states of the tokens before `first`
                hidden, mask = hidden[:, :, first:], mask[:, :, first:]

            def project(part: str, value: torch.Tensor, layer: str = layer) -> torch.Tensor:
                name = f"{layer}self_attn.{part}_proj."
                out = linear(value, weights[f"{name}weight"], weights[f"{name}bias"])
                return out.view(replicas * batch, -1, self.heads, self.head_size).transpose(1, 2)

            offset = length - hidden.shape[2]
            query = rotate(project("q", normed[:, :, offset:]), cosine[offset:], sine[offset:])
            key, value = rotate(project("k", normed), cosine, sine), project("v", normed)
            if cache:
                end = position + length
                cache.keys[number][:, :, position:end] = key
                cache.values[number][:, :, position:end] = value
                key, value = cache.keys[number][:, :, :end], cache.values[number][:, :, :end]
            scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_size)
            mixed = torch.softmax(scores + mask.flatten(0, 1).unsqueeze(1), -1) @ value
            mixed = mixed.transpose(1, 2).reshape(replicas, batch, -1, self.hidden)
            hidden = hidden + linear(mixed, weights[f"{layer}self_attn.o_proj.weight"])
            normed = self.norm(hidden, weights[f"{layer}post_attention_layernorm.weight"])
            gate = functional.silu(linear(normed, weights[f"{layer}mlp.gate_proj.weight"]))
            inner = gate * linear(normed, weights[f"{layer}mlp.up_proj.weight"])
            hidden = hidden + linear(inner, weights[f"{layer}mlp.down_proj.weight"])
        return hidden

    def rotation(self, position: int, length: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine (length, head size) of the rotary embedding, the first half of the sine negated."""
        rates = 1 / self.theta ** (torch.arange(0, self.head_size, 2, dtype=torch.float32) / self.head_size)
        angles = torch.arange(position, position + length, dtype=torch.float32).unsqueeze(1) * rates
        cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
        return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)

    def empty_cache(self, rows: int, length: int, like: torch.Tensor) -> Cache:
        """A cache for `rows` sequences of up to `length` tokens."""
        shape = (rows, self.heads, length, self.head_size)
        return Cache(*([like.new_zeros(shape) for _ in range(self.layers)] for _ in range(2)))

    def sample(
        self,
        weights: Weights,
        prompts: torch.Tensor,
        attend: torch.Tensor,
        uniforms: torch.Tensor,
        end: int,
        logits: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Completions (R, P · G, T) at temperature 1, `end` (the end token) after the end token.

        `prompts` and `attend` (R, P, L) are padded on the left, `uniforms` (R, P · G, T) are the numbers in [0, 1) that
        draw the tokens. The G completions of a prompt follow one another and share one pass over the prompt. The logits
        (R, P · G, V) of each place are appended to `logits`; it ends where all completions have.
        """
        replicas, number, width = prompts.shape
        rows, length = uniforms.shape[1:]
        group = rows // number
        cache = self.empty_cache(replicas * number, width, weights["model.norm.weight"])
        hidden = self.hidden_states(weights, prompts, attend, 0, width - 1, cache)
        full = self.empty_cache(replicas * rows, width + length, hidden)
        for small, large in ((cache.keys, full.keys), (cache.values, full.values)):
            for part, whole in zip(small, large, strict=True):
                whole[:, :, :width] = part.repeat_interleave(group, 0)
        seen = functional.pad(attend.repeat_interleave(group, 1), (0, length), value=True)
        hidden = hidden.repeat_interleave(group, 1)
        tokens = torch.full((replicas, rows, length), end)
        finished = torch.zeros(replicas, rows, dtype=torch.bool)
        for place in range(length):
            scores = self.head(weights, hidden).squeeze(2).float()  # of weights in bfloat16 too
            if logits is not None:
                logits.append(scores)
            drawn = draw(scores, uniforms[..., place])
            tokens[..., place] = drawn.masked_fill(finished, end)
            finished |= drawn == end
            if place == length - 1 or finished.all():
                break
            at = width + place
            hidden = self.hidden_states(weights, tokens[..., place : place + 1], seen[..., : at + 1], at, 0, full)
        return tokens


def rotate(value: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of `value` (..., length, head size); the first half of `sine` is negated."""
    return torch.addcmul(value * cosine, value.roll(value.shape[-1] // 2, -1), sine)


def mask_of(attend: torch.Tensor, length: int) -> torch.Tensor:
    """What is added to the scores (R, B, length, keys) of the last `length` tokens: −∞ at later tokens and at padding.

    `attend` (R, B, keys). Padding attends to itself, which nobody reads.
    """
    keys = attend.shape[-1]
    places = torch.arange(keys)
    own = places[keys - length :].unsqueeze(1)
    seen = ((places <= own) & attend.unsqueeze(-2)) | (places == own)
    return torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)


def draw(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The tokens (...) that `uniforms` (...) in [0, 1) draw from `logits` (..., V): inverse distribution function."""
    total = torch.softmax(logits, -1).cumsum(-1)
    return (total < (uniforms * total[..., -1]).unsqueeze(-1)).sum(-1)


def stack(policies: Sequence[Weights]) -> Weights:
    """Weights of R policies with a leading dimension R."""
    return {name: here(torch.stack([policy[name] for policy in policies])) for name in policies[0]}


def gradient_norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm (R,) of each seed's gradient, from one tensor (R, ...) per parameter."""
    # Over the last dimension: over the first one, the order of additions would depend on the number of seeds.
    return torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients], 1).norm(dim=1)
