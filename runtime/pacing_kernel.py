"""Compiled loops of `runtime.pacing`; importing this module loads numba, so it is imported on first use only.

C functions are called by symbol, not through ctypes, else the compiled code could not be cached on disk. Being opaque
to the compiler, they also keep it from reading a flag once and for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from traces.compiled import njit

__all__ = ["copy", "spin"]

_address: Any = types.uintp
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.intc, types.uintp))
_nanosleep: Any = types.ExternalFunction("nanosleep", types.int32(types.uintp, types.uintp))
_memcpy: Any = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))
_LONGEST_SLEEP_NS = 100_000_000


@njit(nogil=True, cache=True)
def copy(
    target: int,
    source: int,
    n_bytes: int,
    chunk: int,
    first_ns: int,
    ns_per_byte: float,
    leaves_ns: int,
    stop: NDArray[np.int64],
    clock: int,
    timespec: NDArray[np.int64],
) -> None:
    """Chunk after chunk, none done before `first_ns` (0: at once) + bytes so far x `ns_per_byte`.

    `timespec` (2,) is scratch. Returns early once `stop[0]` is set.
    """
    done = 0
    while done < n_bytes and stop[0] == 0:
        size = min(chunk, n_bytes - done)
        _memcpy(_address(target + done), _address(source + done), _address(size))
        done += size
        if first_ns > 0:
            due = first_ns + int(done * ns_per_byte)
            left = 1
            while left > 0 and stop[0] == 0:
                _clock_gettime(clock, _address(timespec.ctypes.data))
                left = due - timespec[0] * 1_000_000_000 - timespec[1]
                if left > leaves_ns:
                    timespec[0], timespec[1] = 0, min(left - leaves_ns, _LONGEST_SLEEP_NS)
                    _nanosleep(_address(timespec.ctypes.data), _address(0))


@njit(nogil=True, cache=True)
def spin(flags: NDArray[np.int64], index: int, at_most_ns: int, clock: int, timespec: NDArray[np.int64]) -> bool:
    """Until `flags[index]` is not 0, for `at_most_ns` at most; whether it is. `timespec` (2,) is scratch."""
    _clock_gettime(clock, _address(timespec.ctypes.data))
    until = timespec[0] * 1_000_000_000 + timespec[1] + at_most_ns
    while flags[index] == 0:
        _clock_gettime(clock, _address(timespec.ctypes.data))
        if timespec[0] * 1_000_000_000 + timespec[1] > until:
            return False
    return True
