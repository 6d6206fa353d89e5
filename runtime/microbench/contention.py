"""Copies beside kernels, and beside the host's processor: how much slower each is than alone, in the same memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import Tensor

from hwmodels.calibrate.measurements import Sample, sample_of
from offload.ops import Lane
from runtime.backends.backend import Action, Backend, Copy
from runtime.backends.cpu import CpuBackend
from runtime.memory import TYPES
from runtime.microbench.lanes import timed

_ROWS, _COLUMNS = 2048, 2048
_COPY_BYTES = 8 << 20
_POOL_BYTES = 256 << 20
_N = 60
_NAMES = {Lane.COMPUTE: "gemv", Lane.CPU: "cpu", Lane.H2D: "h2d", Lane.D2H: "readback"}
_READBACK_BYTES = 64


def contention_samples(make: Callable[[], Backend], dtype: str, *, hold: Action | None = None) -> list[Sample]:
    """Samples "contention": a GEMV of the device or of the host and a copy to the device, alone and beside each other.

    Parameters: of ("gemv", "cpu", "h2d", "readback"), beside ("nothing" or another of these), n_bytes. What the host
    multiplies lies in its memory, in fp32. A back end that computes nothing there leaves "cpu" out, and reads a few
    bytes back instead, which cross the link of the copies. `hold`: keeps the compute lane busy while the host issues.
    """
    other = Lane.CPU if _computes_on_host(make) else Lane.D2H
    together = [(Lane.COMPUTE,), (Lane.H2D,), (Lane.COMPUTE, Lane.H2D), (other,), (other, Lane.H2D)]
    samples = []
    for lanes in together:
        samples += _together(
            make, "fp32" if Lane.CPU in lanes else dtype, lanes, hold if lanes[0] is Lane.COMPUTE else None
        )
    return samples


def _computes_on_host(make: Callable[[], Backend]) -> bool:
    with closing(make()) as backend:
        return isinstance(backend, CpuBackend)


def _together(
    make: Callable[[], Backend], dtype: str, lanes: tuple[Lane, ...], hold: Action | None = None
) -> list[Sample]:
    backend = make()
    made = {lane: _actions(backend, lane, dtype) for lane in lanes}
    actions = [action for pair in zip(*made.values(), strict=True) for action in pair]
    held: list[Action] = [] if hold is None else [hold]
    waits = [tuple(range(len(held))) if lane is not Lane.COMPUTE else () for lane in lanes] * _N
    busy = [Lane.COMPUTE for _ in held], [() for _ in held]
    times = timed(backend, [*busy[0], *lanes * _N], [*held, *actions], [*busy[1], *waits]).times
    start_s, end_s = times.start_s[len(held) :], times.end_s[len(held) :]
    durations = end_s - start_s
    ends = [float(end_s[i :: len(lanes)].max()) for i in range(len(lanes))]
    samples = []
    for i, lane in enumerate(lanes):
        mine = slice(i, None, len(lanes))
        both = end_s[mine] <= min(ends)  # while the other lane was busy too
        others = [_NAMES[other] for other in lanes if other is not lane]
        of_copy = {Lane.H2D: _COPY_BYTES, Lane.D2H: _READBACK_BYTES}
        n_bytes = of_copy.get(lane, _ROWS * _COLUMNS * TYPES[dtype].itemsize)
        taken = durations[mine][both][2:].tolist() or durations[mine][:1].tolist()  # a slow link is one copy long
        samples.append(
            sample_of("contention", taken, of=_NAMES[lane], beside=others[0] if others else "nothing", n_bytes=n_bytes)
        )
    return samples


def _actions(backend: Backend, lane: Lane, dtype: str) -> Sequence[Action]:
    if lane is Lane.H2D:
        host, device = (take(_POOL_BYTES, "copies") for take in (backend.allocate_host, backend.allocate))
        parts = [slice(at, at + _COPY_BYTES) for at in range(0, _POOL_BYTES, _COPY_BYTES)]
        return [Copy(device[parts[i % len(parts)]], host[parts[i % len(parts)]]) for i in range(_N)]
    if lane is Lane.D2H:
        few = backend.allocate_host(_READBACK_BYTES, "copies"), backend.allocate(_READBACK_BYTES, "copies")
        return [Copy(*few)] * _N
    kind = TYPES[dtype]
    allocate = backend.allocate_host if lane is Lane.CPU else backend.allocate
    matrices = allocate(_POOL_BYTES, "matrices").view(kind).uniform_(-0.1, 0.1)
    matrices = matrices[: len(matrices) // (_ROWS * _COLUMNS) * _ROWS * _COLUMNS].view(-1, _ROWS, _COLUMNS)
    vector = allocate(_COLUMNS * kind.itemsize, "vector").view(kind).view(1, -1)
    out = allocate(_ROWS * kind.itemsize, "result").view(kind).view(1, -1)
    return [partial(_multiply, vector, matrices[i % len(matrices)].t(), out) for i in range(_N)]


def _multiply(vector: Tensor, matrix: Tensor, out: Tensor) -> None:
    torch.mm(vector, matrix, out=out)
