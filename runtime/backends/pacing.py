"""The parts of the CPU back end that hold no interpreter lock: copies paced by a virtual link, and short spins.

Compiled on first use and cached. Times are nanoseconds of CLOCK_MONOTONIC, the clock of `now_ns`.
"""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import loaded
from runtime.backends.pacing_kernel import COPY, SPIN
from traces.errors import InvalidInput

CHUNK_BYTES = 256 << 10
"""A paced copy moves so many bytes at a time: small against an expert, large against the clock's resolution."""

_SLEEP_LEAVES_NS = 70_000
"""Sleep until this long before a deadline, then spin: timers without slack wake up late by a median of 33 us, p95 45 us
(two cores under KVM)."""

_PR_SET_TIMERSLACK = 29
"""From <linux/prctl.h>."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link that a copy thread imitates: chunks end no earlier than start + `latency_s` + bytes / `bytes_per_s`.

    `bytes_per_s` None: as fast as memory allows. Raises `InvalidInput` for a speed not above 0, a latency below 0.
    """

    bytes_per_s: float | None = None
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if self.bytes_per_s is not None and not 0 < self.bytes_per_s < float("inf"):
            raise InvalidInput(f"link bytes_per_s = {self.bytes_per_s}: it must be above 0, or None for unpaced")
        if not 0 <= self.latency_s < float("inf"):
            raise InvalidInput(f"link latency_s = {self.latency_s}: it must be 0 or above")


def now_ns() -> int:
    """The clock of every lane."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def without_timer_slack() -> None:
    """Have sleeps of the calling thread end when they should: Linux otherwise lets them run 50 us over."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


def paced_copy(target: int, source: int, n_bytes: int, start_ns: int, link: Link, stop: NDArray[np.int64]) -> None:
    """Copy `n_bytes` from address `source` to `target` as a link would that began at `start_ns`.

    A copy that began late catches up with the link. Returns early once `stop[0]` is set.
    """
    per_byte = 0.0 if link.bytes_per_s is None else 1e9 / link.bytes_per_s
    first_ns = start_ns + int(link.latency_s * 1e9) if link.latency_s or per_byte else 0
    loaded(COPY)(
        target, source, n_bytes, CHUNK_BYTES, first_ns, per_byte, _SLEEP_LEAVES_NS, stop, time.CLOCK_MONOTONIC
    )  # fmt: skip


def spin_until_set(flags: NDArray[np.int64], index: int, at_most_ns: int) -> bool:
    """Spin until `flags[index]` is not 0, for a while; whether it is."""
    return bool(loaded(SPIN)(flags, index, at_most_ns, time.CLOCK_MONOTONIC))
