"""Random numbers of a seed and a step. They come from generators on the CPU, so that every device gets the same."""

import contextlib
from collections.abc import Sequence

import torch

from dynclip.runtime.errors import UserError
from dynclip.runtime.seeds import derive_seed
from dynclip.studies.scales import Scale


def placed_for(scale: Scale) -> contextlib.AbstractContextManager:
    """A context in which new tensors are placed on the scale's device: the first GPU, or the CPU.

    Raises UserError if the scale asks for a GPU that torch does not see.
    """
    if not scale.execution.gpus:
        return contextlib.nullcontext()
    if not torch.cuda.is_available():
        raise UserError(f"{scale.name}: needs a CUDA GPU, and torch sees none; use gpus=0 for the CPU")
    return torch.device("cuda")


def here(value: torch.Tensor) -> torch.Tensor:
    """`value` on the device of the context."""
    return value.to(torch.get_default_device())


def generator(*key: int) -> torch.Generator:
    """The generator that belongs to a seed, a step and the like."""
    return torch.Generator().manual_seed(derive_seed(*key))


def permutation(count: int, *key: int) -> torch.Tensor:
    """The numbers 0 to count - 1 in random order."""
    return here(torch.randperm(count, generator=generator(*key), device="cpu"))


def uniform(shape: Sequence[int], *key: int) -> torch.Tensor:
    """Numbers in [0, 1)."""
    return here(torch.rand(*shape, generator=generator(*key), device="cpu"))


def integers(high: int, shape: Sequence[int], *key: int) -> torch.Tensor:
    """Whole numbers from 0 to high - 1."""
    return here(torch.randint(high, shape, generator=generator(*key), device="cpu"))


def normal(shape: Sequence[int], source: torch.Generator) -> torch.Tensor:
    """Standard normal numbers from `source`."""
    return here(torch.randn(shape, generator=source, device="cpu"))
