"""How the completions of a mini-batch are shared by processes: plain arithmetic on a scale's `Execution`."""

from dynclip.runtime.errors import UserError
from dynclip.studies.scales import Execution, Scale


def processes_of(execution: Execution) -> int:
    """Processes of one training: one per GPU, or as many as asked for on a CPU."""
    return execution.processes or execution.nodes * max(1, execution.gpus)


def processes_here(execution: Execution) -> int:
    """Those of one training on one of its machines."""
    return processes_of(execution) // execution.nodes


def sharding_of(execution: Execution) -> str:
    """How its processes share weights and moments; one alone has all of them."""
    return execution.sharding if processes_of(execution) > 1 else "none"


def micro_batches(scale: Scale, world: int, most: int | None) -> tuple[int, int]:
    """(completions in one forward pass of one process, passes per update): the largest that divides a mini-batch.

    Raises UserError where the processes cannot share a mini-batch evenly.
    """
    minibatch = scale.completions // scale.minibatches
    if minibatch % world:
        raise UserError(
            f"{minibatch} completions of a mini-batch cannot be shared by {world} processes; set minibatches= or the "
            "number of GPUs so that they can"
        )
    share = minibatch // world
    micro = max(size for size in range(1, min(most or share, share) + 1) if share % size == 0)
    return micro, share // micro


def in_workers(execution: Execution) -> bool:
    """Whether a training runs in processes of its own: GPUs, a sampling engine or several processes."""
    return processes_of(execution) > 1 or execution.gpus > 0 or execution.sampler == "vllm"
