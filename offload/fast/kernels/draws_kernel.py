"""Whole numbers at random for kernels, the same ones that `numpy.random.Generator.integers` draws one by one.

NumPy multiplies 32 random bits by the bound and takes what is above them, drawing again where that would not be even
(D. Lemire, Fast random integer generation in an interval, ACM Trans. Model. Comput. Simul. 29(1), 2019). The bits are
drawn beforehand, so that a kernel needs no generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 32) - 1


def drawn_below(bits: Any, n_used: Any, n: int) -> int:
    """A number from 0 to `n` - 1. `bits` uint32; `n_used` (1,): how many were taken so far, more than there are where
    they did not suffice.
    """
    if n <= 1:
        return 0
    found = _taken(bits, n_used) * n
    while (found & _MASK) < n and (found & _MASK) < (_MASK - n + 1) % n and n_used[0] < bits.size:
        found = _taken(bits, n_used) * n
    return found >> 32


def _taken(bits: Any, n_used: Any) -> int:
    """The next 32 bits."""
    at = n_used[0]
    n_used[0] = at + 1
    if at < bits.size:
        return int(bits[at])
    return 0


def with_bits(seed: int, n: int, run: Callable[[NDArray[np.uint32], NDArray[np.int64]], None]) -> None:
    """`run` with the bits of a generator of `seed`, `n` at first and twice as many until they suffice."""
    while True:
        bits, n_used = np.random.default_rng(seed).integers(0, 1 << 32, n, np.uint32), np.zeros(1, np.int64)
        run(bits, n_used)
        if n_used[0] <= n:
            return
        n *= 2
