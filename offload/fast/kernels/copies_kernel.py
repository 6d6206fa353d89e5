"""Ops and copies of experts as machine code, as `offload.slots.copies` writes them, for `decode_kernel`.

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.kernel_layout import (
    BASE,
    BLOCK_BITS,
    CANCELLED_BY,
    COST,
    COST_DISK,
    COST_FETCH,
    DEP_END,
    DEPS,
    DISK,
    EARLIER_FETCH,
    EXPERT,
    EXPERT_BYTES,
    FILLED,
    HBM_ACQUIRED,
    HBM_RELEASED,
    IN_BLOCK,
    LANE,
    LAST_FETCH,
    LAST_OP,
    LAYER,
    LOCAL,
    N_BUFFERS,
    N_WAITS,
    NONE,
    PLACE,
    PRIORITY,
    READER,
    ROW_OF,
    ROWS,
    SLOT,
    STEP,
    USED,
    WAITS,
)
from offload.ops import Lane

_H2D = int(Lane.H2D)
_COMPUTE = int(Lane.COMPUTE)
_DISK = int(Lane.DISK)


def after(d: Any, w: Any, op: int) -> None:
    """The next op waits for `op`."""
    d[w[DEPS]] = op
    w[DEPS] += 1


def issue(o: Any, w: Any, r: Any, lane: int, cost: int, step: int, layer: int, expert: int, slot: int) -> int:
    """Append one op, which waits for what `after` named since the last; returns its index."""
    i = w[LOCAL]
    row = r[r[ROW_OF] + cost]
    if row < 0:
        row = w[ROWS]
        r[r[ROW_OF] + cost] = row
        r[r[USED] + row] = cost
        w[ROWS] = row + 1
    ops, at = o[i >> BLOCK_BITS], i & IN_BLOCK
    ops[LANE, at], ops[COST, at], ops[STEP, at], ops[LAYER, at] = lane, row, step, layer
    ops[EXPERT, at], ops[SLOT, at] = expert, slot
    ops[HBM_ACQUIRED, at], ops[HBM_RELEASED, at], ops[PRIORITY, at], ops[CANCELLED_BY, at] = 0, 0, 0, -1
    ops[DEP_END, at] = w[DEPS]
    w[LOCAL] = i + 1
    return w[BASE] + i


def after_sorted(d: Any, w: Any, begin: int, op: int) -> None:
    """Put `op` in its place among what the next op waits for, from `begin` on in `d`, unless it is there."""
    at = w[DEPS]
    while at > begin and d[at - 1] > op:
        at -= 1
    if at > begin and d[at - 1] == op:
        return
    for i in range(w[DEPS], at, -1):
        d[i] = d[i - 1]
    d[at] = op
    w[DEPS] += 1


def compute(o: Any, d: Any, w: Any, r: Any, cost: int, step: int, layer: int, expert: int) -> int:
    """An op of the compute stream, which also waits for what comes from the host."""
    if w[N_WAITS]:
        begin, last = 0, w[LOCAL] - 1
        if last >= 0:
            begin = o[last >> BLOCK_BITS, DEP_END, last & IN_BLOCK]
        for i in range(w[N_WAITS]):
            after_sorted(d, w, begin, w[w[WAITS] + i])
        w[N_WAITS] = 0
    w[LAST_OP] = issue(o, w, r, _COMPUTE, cost, step, layer, expert, NONE)
    return w[LAST_OP]


def copy(o: Any, d: Any, w: Any, r: Any, lane: int, cost: int, layer: int, expert: int, slot: int, step: int,
         first: int, second: int, needed: int) -> int:  # fmt: skip
    """One copy, after ops `first` and `second` (-1 none)."""
    low, high = min(first, second), max(first, second)
    if low >= 0 and low != high:
        after(d, w, low)
    if high >= 0:
        after(d, w, high)
    op = issue(o, w, r, lane, cost, step, r[r[PLACE] + layer], expert, slot)
    i = op - w[BASE]
    ops, at = o[i >> BLOCK_BITS], i & IN_BLOCK
    if slot >= 0 and (slot < r[N_BUFFERS] or w[w[FILLED] + slot] == -2):
        ops[HBM_ACQUIRED, at] = r[EXPERT_BYTES]
    ops[PRIORITY, at] = 0 if layer == needed else 1
    return op


def fetch(o: Any, d: Any, w: Any, r: Any, layer: int, expert: int, slot: int, step: int, needed: int) -> int:
    """One expert over the link; returns the first op of it, the last is `LAST_FETCH`."""
    reader = w[w[READER] + slot] if slot >= 0 else NONE
    read = NONE
    if r[DISK]:
        emptied = w[LAST_FETCH] if r[DISK] == 1 else w[EARLIER_FETCH]
        read = copy(o, d, w, r, _DISK, r[COST_DISK], layer, expert, NONE, step, emptied, NONE, needed)
    op = copy(o, d, w, r, _H2D, r[r[COST_FETCH] + layer], layer, expert, slot, step, reader, read, needed)
    w[EARLIER_FETCH], w[LAST_FETCH] = w[LAST_FETCH], op
    return read if read >= 0 else op
