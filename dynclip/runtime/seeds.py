"""Seeds for random draws that depend on where a run is, not on what was drawn before."""

import numpy as np


def derive_seed(*numbers: int) -> int:
    """A seed of 63 bits from numbers such as (seed, step, rank): other numbers give an unrelated seed.

    Each number is at least 0 and below 2**32, and every caller gives a fixed count of them. Raises ValueError for a
    negative number. Source: numpy's SeedSequence.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
