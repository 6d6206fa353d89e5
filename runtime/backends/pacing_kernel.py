"""Compiled loops of `runtime.backends.pacing`: they hold no interpreter lock while they copy, wait and spin."""

from __future__ import annotations

from typing import Any

from compiled.machine_code import Kernel
from compiled.system import clock_ns, copy_bytes, sleep_ns

_LONGEST_SLEEP_NS = 100_000_000


def copy(
    target: int,
    source: int,
    n_bytes: int,
    chunk: int,
    first_ns: int,
    ns_per_byte: float,
    leaves_ns: int,
    stop: Any,
    clock: int,
) -> None:
    """Chunk after chunk, none done before `first_ns` (0: at once) + bytes so far x `ns_per_byte`.

    Returns early once `stop[0]` (int64) is set.
    """
    done = 0
    while done < n_bytes and stop[0] == 0:
        size = min(chunk, n_bytes - done)
        copy_bytes(target + done, source + done, size)
        done += size
        if first_ns > 0:
            due = first_ns + int(done * ns_per_byte)
            left = 1
            while left > 0 and stop[0] == 0:
                left = due - clock_ns(clock)
                if left > leaves_ns:
                    sleep_ns(min(left - leaves_ns, _LONGEST_SLEEP_NS))


def spin(flags: Any, index: int, at_most_ns: int, clock: int) -> int:
    """Until `flags[index]` (int64) is not 0, for `at_most_ns` at most; 1 if it is, else 0."""
    until = clock_ns(clock) + at_most_ns
    while flags[index] == 0:
        if clock_ns(clock) > until:
            return 0
    return 1


COPY = Kernel(
    __name__,
    "copy",
    ("int64", "int64", "int64", "int64", "int64", "float64", "int64", "int64[1]", "int64"),
)
SPIN = Kernel(__name__, "spin", ("int64[1]", "int64", "int64", "int64"), returns=True)
