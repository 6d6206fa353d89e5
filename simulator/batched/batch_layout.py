"""What code and kernel of many machines at once agree on: bits of an op's code, sums."""

from __future__ import annotations

from offload.ops import MOST_LANES

N_LANES = MOST_LANES

LANE_BITS, COUNT_BITS = 5, 3
"""Of an op's code: its lane, then how many arrivals of transfers and how many other ends it waits for, then flags."""
FIRST, LAST, STEP, MOVES, TAKES, GIVES, KEPT, WINDOW, DECIDES = (
    1 << (LANE_BITS + 2 * COUNT_BITS + i) for i in range(9)
)

MAKESPAN, MOE_LAYERS, STALL, MOVED, EXPOSED, CRITICAL, PEAK, BEGUN = range(8)
N_SUMS = 8
"""Sums of a machine; after them the work of each lane."""

OVERRUN = -1.0
"""A peak that was not found: more takes were as early as a give than the ring has room for."""
