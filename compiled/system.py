"""What a kernel asks of the C library: the bytes of a copy, the time, a pause.

They are opaque to the compiler, so memory that another thread writes is read again after each of them.
What stands here is what each call means.
"""

from __future__ import annotations

import ctypes
import time


def copy_bytes(target: int, source: int, n_bytes: int) -> None:
    """Copy from one address to another; the two ranges are apart."""
    ctypes.memmove(int(target), int(source), int(n_bytes))


def clock_ns(clock: int) -> int:
    """What the clock of that number says, in nanoseconds (POSIX `clock_gettime`)."""
    return time.clock_gettime_ns(int(clock))


def sleep_ns(duration: int) -> None:
    """Pause for so many nanoseconds, below a second (POSIX `nanosleep`)."""
    time.sleep(int(duration) * 1e-9)
