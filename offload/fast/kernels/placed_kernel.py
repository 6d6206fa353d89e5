"""Blocks whose experts have a home as machine code, for `decode_kernel`: `offload.decoding.placed_blocks`.

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.ffns_kernel import run_ffns
from offload.fast.kernels.host_kernel import compute_on_host, experts_on_host, hand_over, stream, take_waits, wait_for
from offload.fast.kernels.kernel_layout import (
    BEFORE,
    COST_CPU,
    COST_SHARED,
    COST_SINGLE,
    COST_STREAM,
    CPU_GATE,
    CPU_SHARED,
    EXPERTS,
    FROM_ATTENTION,
    FROM_GATE,
    FROM_LAYER_BEFORE,
    FUSED_AT_HOME,
    HITS,
    HOST_COMPUTES,
    HOST_COST,
    HOST_EXPERT,
    I_STEP,
    IN_USE,
    KEPT,
    LOOKUPS,
    N_BLOCKS,
    N_EXPERTS,
    N_ON_HOST,
    NONE,
    OF_LAYER,
    PARTS,
    PHASE,
    STREAMS,
    STREAMS_FROM,
    UNION_EXPERT,
    UNION_PTR,
)


def _leave_to_host(w: Any, r: Any, low: int, high: int, moe_layer: int, all_stay: int) -> int:
    """Leave to the host what of entries `low` to `high` of the unions is not kept in HBM, in `HOST_EXPERT`; the others
    move together unless `all_stay`. Returns where these end.
    """
    w[N_ON_HOST], to = 0, low
    for at in range(low, high):
        expert = r[r[UNION_EXPERT] + at]
        if r[r[KEPT] + moe_layer * r[N_EXPERTS] + expert] == 0:
            w[w[HOST_EXPERT] + w[N_ON_HOST]] = expert
            w[w[HOST_COST] + w[N_ON_HOST]] = r[r[COST_CPU] + at]
            w[N_ON_HOST] += 1
        elif all_stay:
            to += 1
        else:
            r[r[UNION_EXPERT] + to] = expert
            if r[FUSED_AT_HOME] == 0:
                r[r[COST_SINGLE] + to] = r[r[COST_SINGLE] + at]
            to += 1
    return to


def _n_held(r: Any, moe_layer: int) -> int:
    """Experts of a layer that the host holds."""
    n = 0
    for expert in range(r[N_EXPERTS]):
        if r[r[KEPT] + moe_layer * r[N_EXPERTS] + expert] == 0:
            n += 1
    return n


def run_at_home(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, block: int, layer: int, moe_layer: int,
                gate: int) -> None:  # fmt: skip
    """A block whose experts stay where they are: kept in HBM, others on the host, which a prompt may stream."""
    u = t * r[N_BLOCKS] + block
    low, high, step = r[r[UNION_PTR] + u], r[r[UNION_PTR] + u + 1], r[r[I_STEP] + t]
    streams = r[r[STREAMS] + t]
    to = _leave_to_host(w, r, low, high, moe_layer, streams)
    w[LOOKUPS + 2 * r[r[PHASE] + t]] += high - low
    w[HITS + 2 * r[r[PHASE] + t]] += to - low
    if w[N_ON_HOST] == 0 or streams:
        n_streamed = w[N_ON_HOST]
        if streams and r[STREAMS_FROM] != FROM_GATE:
            n_streamed = _n_held(r, moe_layer)
        if n_streamed:
            begins = gate
            if r[STREAMS_FROM] == FROM_ATTENTION:
                begins = w[BEFORE]
            elif r[STREAMS_FROM] == FROM_LAYER_BEFORE:
                begins = NONE
            cost = r[r[COST_STREAM] + moe_layer * (r[N_EXPERTS] + 1) + n_streamed]
            wait_for(w, stream(o, d, w, r, EXPERTS, 0, cost, step, layer, begins))
            w[w[IN_USE] + EXPERTS] = 1
        run_ffns(o, d, x, w, r, t, block, low, high, layer, moe_layer, take_waits(w), 0, False, 1)
        return
    arrived = hand_over(o, d, w, r, t, gate, layer)
    if r[FUSED_AT_HOME] == 0 or r[HOST_COMPUTES]:
        wait_for(w, experts_on_host(o, d, w, r, t, layer, arrived))
        run_ffns(o, d, x, w, r, t, block, low, to, layer, moe_layer, take_waits(w), 0, False, 1)
    else:
        if to > low or r[r[COST_SHARED] + r[r[PARTS] + t]] >= 0:  # the device's share runs beside the host's
            run_ffns(o, d, x, w, r, t, block, low, to, layer, moe_layer, 0, 0, False, 1)
        wait_for(w, experts_on_host(o, d, w, r, t, layer, arrived))


def run_block_on_host(o: Any, d: Any, w: Any, r: Any, t: int, block: int, layer: int) -> int:
    """A block of a layer that the host computes whole; returns its gate."""
    u, part, step = t * r[N_BLOCKS] + block, r[r[PARTS] + t], r[r[I_STEP] + t]
    low, high = r[r[UNION_PTR] + u], r[r[UNION_PTR] + u + 1]
    gate = compute_on_host(o, d, w, r, r[r[CPU_GATE] + part], step, layer)
    w[LOOKUPS + 2 * r[r[PHASE] + t]] += high - low
    shared = r[r[CPU_SHARED] + r[r[OF_LAYER] + layer] + part]
    if shared >= 0:
        compute_on_host(o, d, w, r, shared, step, layer)
    for at in range(low, high):
        w[w[HOST_EXPERT] + at - low], w[w[HOST_COST] + at - low] = r[r[UNION_EXPERT] + at], r[r[COST_CPU] + at]
    w[N_ON_HOST] = high - low
    experts_on_host(o, d, w, r, t, layer, NONE)
    return gate
