"""Memory of one training, per phase and per GPU, before anything is started.

Counted from the architecture, the execution, the longest sequences and the batch. Weights, moments and what autograd
keeps of a layer are exact for the pinned libraries (tests/test_memory.py holds them against real tensors); what CUDA,
NCCL and vLLM take for themselves are allowances, marked as such. A training on a CPU is counted the same way.
"""

import math
from dataclasses import dataclass, replace

from dynclip.runtime.hardware import GIB, VLLM_CPU_CACHE_GIB, Hardware
from dynclip.studies.architectures import Architecture
from dynclip.studies.execution import micro_batches, processes_here, processes_of, sharding_of
from dynclip.studies.scales import HubPolicy, Policy, Scale
from evals.benchmarks.families import VOCABULARY

SEQUENCES = 32  # of full length that a sampler should hold at once: with fewer vLLM interrupts and computes again
# Allowances, in bytes, not measured. GPU: CUDA's context, buffers of NCCL and cuBLAS, gaps between blocks. SAMPLER:
# vLLM's own activations for 4096 batched tokens, and its graphs. PROCESS: Python with torch and TRL.
GPU_ALLOWANCE, SAMPLER_ALLOWANCE, PROCESS_ALLOWANCE = 2 * GIB, 2 * GIB, int(1.5 * GIB)
# TRL 1.16 computes log-probabilities and entropies in tiles of tokens x vocabulary, never (batch, length, vocabulary):
# TOKEN_CHUNK_SIZE of trl/kernels/chunked_logprob.py, _CHUNKED_LOGPROB_CHUNK_SIZE of trl/trainer/utils.py.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
CPU_TILES = 8  # float32 tiles alive at once where Triton does not fold them in place: measured as peak memory


@dataclass(frozen=True)
class Item:
    """One part of a phase's memory: `size` in bytes on each GPU, and where the number comes from."""

    name: str
    size: int
    source: str


@dataclass(frozen=True)
class Phase:
    """What is in memory at once, on each GPU or in each process of a CPU."""

    name: str
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def architecture(policy: Policy | HubPolicy) -> Architecture:
    """What is trained: the hub's model, its rehearsal (random weights), or a tiny policy."""
    if isinstance(policy, Policy):
        words = len(VOCABULARY) + 2  # and padding and end, as in dynclip.training.tiny_policy
        shape = (policy.hidden, policy.layers, policy.heads, policy.heads, policy.intermediate, words)
        return Architecture("qwen2", *shape, policy.max_positions, tied=True, qkv_bias=True)
    full = policy.architecture
    if not policy.random:
        return full
    heads = full.heads // full.kv_heads
    tiny = {"hidden": 8 * heads, "heads": heads, "kv_heads": 1, "intermediate": 16 * heads, "layers": 2}
    return replace(full, **tiny, vocabulary=1024)


def length(scale: Scale) -> int:
    """Tokens of the longest sequence, prompt and completion."""
    if isinstance(scale.policy, Policy):
        return scale.policy.max_positions
    return (scale.max_prompt or 0) + scale.max_completion


def cache_bytes(shape: Architecture, width: int = 2) -> int:
    """Keys and values of one token, at `width` bytes a number."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * width


def kept_bytes(shape: Architecture, tokens: int, width: int) -> int:
    """What autograd keeps of one layer per token, in bytes, for sequences of `tokens` with padding: bfloat16 autocast
    of float32 weights (width 2) or float32 (4). With scaled-dot-product attention, which keeps no score.

    Both norms keep their input and the normalised input in float32; in bfloat16 the five projections that read a norm
    each keep a copy of their own. The mask of the padding is kept at `width` bytes a number.
    """
    norms = 16 * shape.hidden + (10 if width == 2 else 8) * shape.hidden + 8
    attention = 4 * width * shape.hidden + 4 * shape.heads + width * tokens
    return norms + attention + 4 * width * shape.intermediate


def minibatch_share(scale: Scale) -> int:
    """Completions of a mini-batch that one process works on."""
    return scale.completions // scale.minibatches // processes_of(scale.execution)


def micro_batch(scale: Scale) -> int:
    """Completions of one pass. Raises UserError where the processes cannot share a mini-batch."""
    return micro_batches(scale, processes_of(scale.execution), scale.execution.micro_batch)[0]


def sampler_items(scale: Scale) -> list[Item]:
    """What the sampling engine holds on each GPU."""
    execution, shape, tokens = scale.execution, architecture(scale.policy), length(scale)
    width, rows = _width(execution.dtype), -(-scale.completions // processes_of(scale.execution))
    if execution.sampler != "vllm":  # the trainer's own float32 model samples the whole batch at once
        size = rows * tokens * cache_bytes(shape, 4)
        return [Item("KV cache", size, f"{rows} sequences x {tokens} tokens x {_kib(cache_bytes(shape, 4))}, float32")]
    split = f" / {execution.tensor_parallel} GPUs" if execution.tensor_parallel > 1 else ""
    per_token = cache_bytes(shape, width) // execution.tensor_parallel
    if execution.gpus:
        count = min(SEQUENCES, rows * execution.tensor_parallel)
        cache = count * tokens * per_token
        held = f"{count} sequences x {tokens} tokens x {_kib(per_token)}, {execution.dtype}"
        room = Item("sampler's own", SAMPLER_ALLOWANCE, "activations, graphs: an allowance")
    else:
        cache, held = (
            int(VLLM_CPU_CACHE_GIB * GIB),
            f"fixed, {int(VLLM_CPU_CACHE_GIB * GIB / per_token)} tokens x {_kib(per_token)}",
        )
        room = Item("sampler's own", PROCESS_ALLOWANCE, "the engine: an allowance")
    weights = shape.parameters * width // execution.tensor_parallel
    return [
        Item("sampler's weights", weights, f"{_parameters(shape)} x {width} bytes{split}, {execution.dtype}"),
        Item("KV cache", cache, held),
        room,
    ]


def parked_items(scale: Scale) -> list[Item]:
    """What the trainer holds on each GPU at all times: AdamW's state and the float32 weights it works on."""
    shape, shards = architecture(scale.policy), _shards(scale)
    split = f" / {shards} {_places(scale)}" if shards > 1 else ""
    allowance, what = GPU_ALLOWANCE, "CUDA, NCCL, gaps: an allowance"
    if not scale.execution.gpus:
        allowance, what = PROCESS_ALLOWANCE, "Python, torch, TRL: an allowance"
    return [
        Item("weights", 4 * shape.parameters // shards, f"{_parameters(shape)} x 4 bytes{split}, float32 master"),
        Item("moments", 8 * shape.parameters // shards, f"{_parameters(shape)} x 2 x 4 bytes{split}, AdamW"),
        Item("process", allowance, what),
    ]


def update_items(scale: Scale, micro: int) -> list[Item]:
    """What an update adds: gradients, weights in the pass's precision, activations, the output head's tiles."""
    execution, shape, tokens = scale.execution, architecture(scale.policy), length(scale)
    width, shards, world = _width(execution.dtype), _shards(scale), processes_of(scale.execution)
    split = f" / {shards} {_places(scale)}" if shards > 1 else ""
    layer = (shape.parameters - _tables(shape) - shape.hidden) // shape.layers
    items = [
        Item("gradients", 4 * shape.parameters // shards, f"{_parameters(shape)} x 4 bytes{split}, float32"),
    ]
    if shards == 1 and world > 1:
        items.append(Item("DDP buckets", 4 * shape.parameters, "a second copy of the gradients for their exchange"))
    if shards > 1:
        gathered = 2 * _tables(shape) + 3 * layer
        gathered += shape.parameters // shards if execution.sharding == "zero3" and width == 2 else 0
        what = f"embeddings and their gradient, two layers and one gradient x {width} bytes"
        items.append(Item("gathered weights", width * gathered, what))
    elif width == 2:
        items.append(Item("bfloat16 copies", 2 * shape.layers * layer, "of the layers' weights, made by autocast"))
    kept, rows = kept_bytes(shape, tokens, width), micro * tokens
    if execution.checkpointing:
        size = rows * (4 * shape.hidden * shape.layers + kept)
        what = f"{micro} x {tokens} tokens x ({shape.layers} layers' inputs in float32 + {_kib(kept)} of one layer)"
    else:
        size = rows * shape.layers * kept
        what = f"{micro} x {tokens} tokens x {shape.layers} layers x {_kib(kept)}"
    items.append(Item("activations", size, what))
    # On a GPU the completion's tokens alone are scored, elsewhere every token.
    scored = micro * (scale.max_completion if execution.gpus else tokens)
    down, across = min(scored, TILE_TOKENS), min(TILE_VOCABULARY, shape.vocabulary)
    head = down * across * (width if execution.gpus else 4 * CPU_TILES)
    head += 4 * shape.vocabulary * shape.hidden + 8 * scored * shape.hidden
    what = f"a tile of {down} x {across} logits, the head's gradient and the hidden states' in float32"
    return [*items, Item("output head", head, what)]


def phases(scale: Scale, micro: int | None = None) -> tuple[Phase, Phase]:
    """(rollout, update) on each GPU, or in each process of a CPU, at `micro` completions a pass (default: the scale's).

    Without `sleep` the sampler keeps its memory during the update; the trainer's weights and moments never leave. The
    pass that scores the rollout batch keeps no activations and is smaller than an update.
    """
    parked, sampler = parked_items(scale), sampler_items(scale)
    update = parked + update_items(scale, micro or micro_batch(scale))
    if scale.execution.sampler == "vllm" and not scale.execution.sleep:
        update.append(Item("sampler", sum(item.size for item in sampler), "keeps what it has: no sleep"))
    return Phase("rollout", tuple(parked + sampler)), Phase("update", tuple(update))


def needed(scale: Scale, micro: int | None = None) -> int:
    """Bytes that each GPU must have, or a CPU machine for all processes of a training, for the scale to run as it is.

    On a GPU vLLM takes its share of whatever there is (`gpu_share`): what it needs must fit in that share, and the
    trainer in the rest.
    """
    execution = scale.execution
    rollout, update = phases(scale, micro)
    if not execution.gpus:
        return max(rollout.size, update.size) * processes_here(execution)
    if execution.sampler != "vllm":
        return max(rollout.size, update.size)
    sampler, rest = sum(item.size for item in sampler_items(scale)), 1 - execution.gpu_share
    trained = update.size if execution.sleep else (update.size - sampler) / rest
    return math.ceil(max(sampler / execution.gpu_share, (rollout.size - sampler) / rest, trained))


def largest_micro_batch(scale: Scale, memory: float) -> int:
    """The most completions of one pass, up to the execution's own, with which the scale fits in `memory` bytes (of each
    GPU, or of a CPU machine); 0 if not even one does."""
    share, most = minibatch_share(scale), micro_batch(scale)
    return max((m for m in range(1, most + 1) if share % m == 0 and needed(scale, m) <= memory), default=0)


def as_computed(scale: Scale, machine: Hardware) -> Scale:
    """The scale with the precision that this machine computes it in: a CPU without bfloat16 instructions: float32."""
    if scale.execution.gpus or machine.cpu_bf16:
        return scale
    return replace(scale, execution=replace(scale.execution, dtype="float32"))


def fits(scale: Scale, machine: Hardware) -> str | None:
    """None, or in one line why no training of the scale can run on `machine`, at whatever micro-batch."""
    execution = scale.execution
    least = needed(as_computed(scale, machine), 1)
    size = f"about {math.ceil(least / GIB)} GiB"
    if not execution.gpus:
        if least <= machine.memory_gib * GIB:
            return None
        return f"needs {size} of memory, this machine has {machine.memory_gib:.0f} GiB"
    count = execution.gpus
    wanted = f"needs {execution.nodes} machines with " if execution.nodes > 1 else "needs "
    wanted += f"{count} GPU of {size}" if count == 1 else f"{count} GPUs of {size} each"
    if not machine.gpus:
        return f"{wanted}, this machine has none"
    if execution.dtype == "bfloat16" and not any(gpu.bf16 for gpu in machine.gpus):
        return f"{wanted} with bfloat16, {machine.gpus[0].name} has none (compute capability 8.0 and up has)"
    if sum(gpu.memory_gib * GIB >= least for gpu in usable_gpus(scale, machine)) >= count:
        return None
    return f"{wanted}, this machine has {' + '.join(f'{gpu.name} {gpu.memory_gib:.0f} GiB' for gpu in machine.gpus)}"


def usable_gpus(scale: Scale, machine: Hardware) -> list:
    """The GPUs that compute in the scale's precision, largest first."""
    able = [gpu for gpu in machine.gpus if gpu.bf16 or scale.execution.dtype != "bfloat16"]
    return sorted(able, key=lambda gpu: gpu.memory_gib, reverse=True)


def _shards(scale: Scale) -> int:
    """Parts that weights, gradients and moments are cut into."""
    return 1 if sharding_of(scale.execution) == "none" else processes_of(scale.execution)


def _places(scale: Scale) -> str:
    return "GPUs" if scale.execution.gpus else "processes"


def _width(dtype: str) -> int:
    return {"bfloat16": 2, "float32": 4}[dtype]


def _tables(shape: Architecture) -> int:
    """Parameters of the embedding and, where it is a matrix of its own, the output head."""
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2)


def _parameters(shape: Architecture) -> str:
    return f"{shape.parameters / 1e6:,.1f} M parameters"


def _kib(size: int) -> str:
    return f"{size / 1024:.4g} KiB"
