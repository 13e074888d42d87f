"""Processes, sharding and micro-batches of a training, computed from a scale's `Execution`."""

from dynclip.runtime.errors import UserError
from dynclip.studies.scales import Execution, Scale


def processes_of(execution: Execution) -> int:
    """Processes of one training on all its machines."""
    return execution.processes or execution.nodes * max(1, execution.gpus)


def processes_here(execution: Execution) -> int:
    """Processes of one training on one machine."""
    return processes_of(execution) // execution.nodes


def sharding_of(execution: Execution) -> str:
    """How the processes share weights and optimizer moments; a single process does not share."""
    return execution.sharding if processes_of(execution) > 1 else "none"


def micro_batches(scale: Scale, world: int, limit: int | None) -> tuple[int, int]:
    """(completions in one forward pass of one process, passes per update).

    The micro-batch is the largest divisor of a process's share that is at most `limit`. Raises UserError if `world`
    processes cannot share a mini-batch evenly.
    """
    minibatch = scale.completions // scale.minibatches
    if minibatch % world:
        raise UserError(
            f"{minibatch} completions of a mini-batch cannot be shared by {world} processes; set minibatches= or the "
            "number of GPUs so that they can"
        )
    share = minibatch // world
    micro = max(size for size in range(1, min(limit or share, share) + 1) if share % size == 0)
    return micro, share // micro


def in_workers(execution: Execution) -> bool:
    """Whether a training needs worker processes: for several processes, GPUs or vLLM."""
    return processes_of(execution) > 1 or execution.gpus > 0 or execution.sampler == "vllm"
