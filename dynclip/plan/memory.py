"""Memory of one training of a language model on each GPU, or in each process on a CPU, before anything is started.

The parts are counted from the architecture, the longest sequences and the batch. Weights, gradients and moments are
exact. Activations are within 10 % of what autograd keeps. The memory of CUDA, NCCL and vLLM themselves is a fixed
allowance.
"""

import math
from dataclasses import replace

from dynclip.runtime.hardware import GIB, VLLM_CPU_CACHE_GIB, Gpu, Hardware
from dynclip.studies.architectures import Architecture
from dynclip.studies.execution import micro_batches, processes_here, processes_of, sharding_of
from dynclip.studies.scales import HubPolicy, Scale

WIDTH = {"bfloat16": 2, "float32": 4}  # bytes of a number
SEQUENCES = 32  # full-length sequences that vLLM should hold at once: with fewer it preempts and recomputes
# Allowances in bytes, not measured. GPU: CUDA context, buffers of NCCL and cuBLAS, fragmentation. SAMPLER: vLLM's
# activations for 4096 batched tokens, and its graphs. PROCESS: Python with torch and TRL.
GPU_ALLOWANCE, SAMPLER_ALLOWANCE, PROCESS_ALLOWANCE = 2 * GIB, 2 * GIB, int(1.5 * GIB)
# TRL 1.16 computes log-probabilities and entropies in tiles of tokens x vocabulary, never (batch, length, vocabulary):
# TOKEN_CHUNK_SIZE of trl/kernels/chunked_logprob.py, _CHUNKED_LOGPROB_CHUNK_SIZE of trl/trainer/utils.py.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
CPU_TILES = 8  # float32 tiles alive at once without Triton: measured as peak memory


def is_large(scale: Scale) -> bool:
    """Whether the scale trains a language model of the hub at its full width."""
    return isinstance(scale.policy, HubPolicy) and not scale.policy.random


def architecture(policy: HubPolicy) -> Architecture:
    """What is trained: the hub's model, or its rehearsal with random weights."""
    full = policy.architecture
    if not policy.random:
        return full
    heads = full.heads // full.kv_heads
    tiny = {"hidden": 8 * heads, "heads": heads, "kv_heads": 1, "intermediate": 16 * heads, "layers": 2}
    return replace(full, **tiny, vocabulary=1024)


def length(scale: Scale) -> int:
    """Tokens of the longest sequence, prompt and completion."""
    return (scale.max_prompt or 0) + scale.max_completion


def micro_batch(scale: Scale) -> int:
    """Completions of one pass. Raises UserError where the processes cannot share a mini-batch."""
    return micro_batches(scale, processes_of(scale.execution), scale.execution.micro_batch)[0]


def cache_bytes(shape: Architecture, width: int = 2) -> int:
    """Keys and values of one token, at `width` bytes a number."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * width


def activation_bytes(shape: Architecture, width: int) -> int:
    """What autograd keeps of one layer per token, in bytes: bfloat16 autocast of float32 weights (width 2) or float32
    (4), with scaled-dot-product attention."""
    # Per hidden unit: both norms keep their input and normalised input in float32 (16 bytes), the projections their
    # inputs (10 or 8), attention its queries, keys, values and output.
    per_hidden = 16 + (10 if width == 2 else 8) + 4 * width
    return per_hidden * shape.hidden + 4 * width * shape.intermediate


def sampler_bytes(scale: Scale) -> int:
    """Bytes of the sampling engine on each GPU: its weights, the KV cache and its own buffers."""
    execution, shape, tokens = scale.execution, architecture(scale.policy), length(scale)
    rows = -(-scale.completions // processes_of(execution))
    if execution.sampler != "vllm":  # the trainer's own float32 model samples the whole batch at once
        return rows * tokens * cache_bytes(shape, 4)
    width, split = WIDTH[execution.dtype], execution.tensor_parallel
    weights = shape.parameters * width // split
    if not execution.gpus:
        return weights + int(VLLM_CPU_CACHE_GIB * GIB) + PROCESS_ALLOWANCE
    sequences = min(SEQUENCES, rows * split)
    return weights + sequences * tokens * (cache_bytes(shape, width) // split) + SAMPLER_ALLOWANCE


def trainer_bytes(scale: Scale) -> int:
    """Bytes that the trainer always holds on each GPU: float32 weights, AdamW's two moments, the process itself."""
    allowance = GPU_ALLOWANCE if scale.execution.gpus else PROCESS_ALLOWANCE
    return 12 * architecture(scale.policy).parameters // _shards(scale) + allowance


def update_bytes(scale: Scale, micro: int) -> int:
    """Bytes that an update adds: gradients, weights in the pass's precision, activations, tiles of the output head."""
    execution, shape, tokens = scale.execution, architecture(scale.policy), length(scale)
    width, shards = WIDTH[execution.dtype], _shards(scale)
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    layers = shape.parameters - embeddings
    added = 4 * shape.parameters // shards  # gradients
    if shards > 1:  # gathered weights: embeddings and their gradient, two layers and one gradient
        added += width * (2 * embeddings + 3 * layers // shape.layers)
        if execution.sharding == "zero3" and width == 2:
            added += width * shape.parameters // shards
    else:
        if processes_of(execution) > 1:  # DDP's buckets: a second copy of the gradients
            added += 4 * shape.parameters
        if width == 2:  # autocast's copies of the layers' weights
            added += 2 * layers
    per_token = shape.layers * activation_bytes(shape, width)
    if execution.checkpointing:  # float32 inputs of all layers, and the activations of one
        per_token = 4 * shape.hidden * shape.layers + activation_bytes(shape, width)
    added += micro * tokens * per_token
    scored = micro * (scale.max_completion if execution.gpus else tokens)  # on a GPU the completions alone are scored
    tile = min(scored, TILE_TOKENS) * min(TILE_VOCABULARY, shape.vocabulary)
    head = tile * (width if execution.gpus else 4 * CPU_TILES)
    return added + head + 4 * shape.vocabulary * shape.hidden + 8 * scored * shape.hidden


def phases(scale: Scale, micro: int | None = None) -> dict[str, int]:
    """Bytes of the rollout and of the update on each GPU, or in each process on a CPU, at `micro` completions a pass
    (default: the scale's). The sampler keeps its memory during the update unless it sleeps."""
    trainer, sampler = trainer_bytes(scale), sampler_bytes(scale)
    update = trainer + update_bytes(scale, micro or micro_batch(scale))
    if scale.execution.sampler == "vllm" and not scale.execution.sleep:
        update += sampler
    return {"rollout": trainer + sampler, "update": update}


def needed(scale: Scale, micro: int | None = None) -> int:
    """Bytes that each GPU must have, or that a CPU machine must have for all processes of one training.

    vLLM takes `gpu_share` of a GPU, whatever its size: the sampler must fit in that share, the trainer in the rest.
    """
    execution, memory = scale.execution, phases(scale, micro)
    if not execution.gpus:
        return max(memory.values()) * processes_here(execution)
    if execution.sampler != "vllm":
        return max(memory.values())
    sampler, rest = sampler_bytes(scale), 1 - execution.gpu_share
    update = memory["update"] if execution.sleep else (memory["update"] - sampler) / rest
    return math.ceil(max(sampler / execution.gpu_share, trainer_bytes(scale) / rest, update))


def as_computed(scale: Scale, machine: Hardware) -> Scale:
    """The scale in the precision of this machine: float32 on a CPU without bfloat16 instructions."""
    if scale.execution.gpus or machine.cpu_bf16:
        return scale
    return replace(scale, execution=replace(scale.execution, dtype="float32"))


def fits(scale: Scale, machine: Hardware) -> str | None:
    """None, or one line that says why no training of the scale can run on `machine`, at any micro-batch."""
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


def usable_gpus(scale: Scale, machine: Hardware) -> list[Gpu]:
    """The GPUs that compute in the scale's precision."""
    return [gpu for gpu in machine.gpus if gpu.bf16 or scale.execution.dtype != "bfloat16"]


def _shards(scale: Scale) -> int:
    """Parts into which weights, gradients and moments are split."""
    return 1 if sharding_of(scale.execution) == "none" else processes_of(scale.execution)
