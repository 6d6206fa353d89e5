"""From the end of one kernel to the end of the next, each with a record of its own or several with one, alone and with
copies to the device under way.

An op of the compute lane ends with the record of an event, which is how it is timed and how others wait for it. What
that takes beside copies is the difference between the two; what it takes whatever the kernel does, that of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hwmodels.calibrate.measurements import Sample, sample_of
from offload.ops import Lane
from runtime.backends.backend import Action, Backend, Copy
from runtime.memory import TYPES
from runtime.microbench.lanes import copies_under_way, timed

EACH, SEVERAL = 1, 8
"""Kernels a record."""

_COLUMNS = 2048
_N_COPIES = 8
_LEAST = 4
"""Kernels beside copies that are worth a sample."""


def record_samples(
    make: Callable[[], Backend],
    dtype: str,
    *,
    sizes: tuple[int, ...],
    copy_bytes: int,
    n: int = 64,
    hold: Action | None = None,
) -> list[Sample]:
    """Samples "record": time a kernel. Parameters: n_bytes that the kernel, a GEMV, reads, one of `sizes`; kernels a
    record, `EACH` or `SEVERAL`; beside ("nothing" or "h2d").

    `n`: records of a run; `copy_bytes`: of each of the copies beside them, which are all issued first. `hold`: keeps
    the compute lane busy while the host issues all of it, and the copies wait for it too. Some 3 s on a device whose
    host pins 64 MiB in 30 ms: an estimate, none has run it.
    """
    samples = []
    for n_bytes in sizes:
        for kernels in (EACH, SEVERAL):
            for beside in (False, True):
                taken_s = _taken_s(make, dtype, n_bytes, kernels, n, copy_bytes if beside else 0, hold)
                if len(taken_s) >= _LEAST:
                    told = "h2d" if beside else "nothing"
                    samples.append(sample_of("record", taken_s, n_bytes=n_bytes, kernels=kernels, beside=told))
    return samples


def _taken_s(
    make: Callable[[], Backend], dtype: str, n_bytes: int, kernels: int, n: int, copy_bytes: int, hold: Action | None
) -> list[float]:
    """Seconds a kernel from one record to the next; those beside copies, where there are any."""
    with closing(make()) as backend:
        held: list[Action] = [] if hold is None else [hold]
        copies = [_copy(backend, copy_bytes)] * _N_COPIES if copy_bytes else []
        action = partial(_several, _gemv(backend, dtype, n_bytes), kernels)
        lanes = [Lane.COMPUTE] * len(held) + [Lane.H2D] * len(copies) + [Lane.COMPUTE] * n
        after_hold = tuple(range(len(held)))
        waits = [()] * len(held) + [after_hold] * len(copies) + [()] * n
        times = timed(backend, lanes, [*held, *copies, *[action] * n], waits).times
    end_s = times.end_s[-n:]
    taken_s = np.diff(end_s) / kernels
    if copies:
        taken_s = taken_s[copies_under_way(lanes, times)[-n:][1:]]
    found: list[float] = taken_s.tolist()
    return found


def _copy(backend: Backend, n_bytes: int) -> Copy:
    return Copy(backend.allocate(n_bytes, "copies"), backend.allocate_host(n_bytes, "copies"))


def _gemv(backend: Backend, dtype: str, n_bytes: int) -> Callable[[], None]:
    kind = TYPES[dtype]
    rows = max(n_bytes // (_COLUMNS * kind.itemsize), 1)
    matrix, vector, out = (
        backend.allocate(size * kind.itemsize, what).view(kind).view(shape)
        for size, what, shape in (
            (rows * _COLUMNS, "a matrix", (rows, _COLUMNS)),
            (_COLUMNS, "a vector", (1, _COLUMNS)),
            (rows, "a result", (1, rows)),
        )
    )
    return partial(_multiply, vector, matrix.t(), out)


def _multiply(vector: Tensor, matrix: Tensor, out: Tensor) -> None:
    torch.mm(vector, matrix, out=out)


def _several(kernel: Callable[[], None], n: int) -> None:
    for _ in range(n):
        kernel()
