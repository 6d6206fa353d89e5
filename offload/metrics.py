"""Metrics of a timeline, virtual or real: the definitions of DESIGN.md, one function each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.ops import TRANSFERS, Lane, OpKind
from offload.timeline import Timeline
from traces.routing import Phase, RoutingTrace

__all__ = [
    "decode_steps",
    "h2d_bytes",
    "moe_layer_latency_s",
    "of_timeline",
    "stall_intervals",
    "stall_s",
    "step_end_s",
    "tpot_s",
    "transfer_s",
    "ttft_s",
]


def decode_steps(trace: RoutingTrace) -> NDArray[np.int32]:
    """The forward passes of the decode phase, in order, (n,) int32."""
    return np.unique(trace.step[trace.phase == Phase.DECODE])


def step_end_s(timeline: Timeline) -> dict[int, float]:
    """When each forward pass that makes tokens has ended, host bookkeeping included, by step."""
    schedule = timeline.schedule
    last = schedule.kind == OpKind.STEP
    return dict(zip(schedule.step[last].tolist(), timeline.end_s[last].tolist(), strict=True))


def ttft_s(timeline: Timeline) -> float:
    """Time to the first token: the end of the first forward pass that makes one."""
    return min(step_end_s(timeline).values(), default=0.0)


def tpot_s(timeline: Timeline, trace: RoutingTrace) -> dict[str, float]:
    """Time per output token after a sequence's first: mean, p50, p99 of the gaps between its tokens.

    A prefill that makes a token (no encoder) counts as the sequence's first. All 0.0 without a gap.
    """
    ends = step_end_s(timeline)
    makes = np.array([step in ends for step in trace.step.tolist()])
    pairs = np.unique(np.stack([trace.sequence[makes], trace.step[makes]]), axis=1)
    end_s = np.array([ends[step] for step in pairs[1].tolist()])
    gaps = np.diff(end_s)[np.diff(pairs[0]) == 0]
    if not gaps.size:
        return {"mean": 0.0, "p50": 0.0, "p99": 0.0}
    p50, p99 = np.percentile(gaps, [50, 99])
    return {"mean": float(gaps.mean()), "p50": float(p50), "p99": float(p99)}


def moe_layer_latency_s(timeline: Timeline, steps: NDArray[np.int32]) -> float:
    """Device time of the whole layer that contains an MoE block, mean over MoE layers and `steps`.

    From the start of the layer's first op on the compute stream to the end of its last (PAPER.md: what the
    authors call MoE block latency). 0.0 without an MoE layer.
    """
    schedule = timeline.schedule
    chosen = np.flatnonzero((schedule.lane == Lane.COMPUTE) & (schedule.layer >= 0) & np.isin(schedule.step, steps))
    if not chosen.size:
        return 0.0
    key = schedule.step[chosen].astype(np.int64) * (int(schedule.layer.max()) + 1) + schedule.layer[chosen]
    layers, index = np.unique(key, return_inverse=True)
    start = np.full(len(layers), np.inf)
    end = np.zeros(len(layers))
    np.minimum.at(start, index, timeline.start_s[chosen])
    np.maximum.at(end, index, timeline.end_s[chosen])
    moe = np.zeros(len(layers), dtype=bool)
    moe[index[schedule.kind[chosen] == OpKind.GATE]] = True
    return float(np.mean((end - start)[moe])) if moe.any() else 0.0


def h2d_bytes(timeline: Timeline) -> int:
    """Bytes that crossed the link to the device."""
    schedule = timeline.schedule
    return int(schedule.bytes[schedule.kind == OpKind.FETCH].sum())


def transfer_s(timeline: Timeline) -> float:
    """Time in which experts were being moved: the union of all copies and storage reads."""
    moving = np.isin(timeline.schedule.kind, TRANSFERS)
    return _covered(timeline.start_s[moving], timeline.end_s[moving])


def stall_intervals(timeline: Timeline) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end (n,) seconds of each wait of the compute lane for a transfer.

    Of the idle time before an op that reads transferred experts: the part before the last of its transfers
    has landed.
    """
    schedule = timeline.schedule
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    transfers = np.isin(schedule.kind, TRANSFERS)[schedule.dep]
    arrivals = np.zeros(len(schedule))
    np.maximum.at(arrivals, owner[transfers], timeline.end_s[schedule.dep[transfers]])
    compute = np.flatnonzero(schedule.lane == Lane.COMPUTE)
    free = np.concatenate([[0.0], timeline.end_s[compute][:-1]])
    until = np.minimum(timeline.start_s[compute], arrivals[compute])
    waits = until > free
    return free[waits], until[waits]


def stall_s(timeline: Timeline) -> float:
    """Time the compute lane waited for a transfer: the sum of `stall_intervals`."""
    begin_s, end_s = stall_intervals(timeline)
    return float((end_s - begin_s).sum())


def of_timeline(
    timeline: Timeline, trace: RoutingTrace, n_output_tokens: int, lookups: tuple[int, int]
) -> dict[str, Any]:
    """Every metric by its name in a result, virtual or real; `lookups`: experts looked up in decoding, and found."""
    tpot, makespan_s = tpot_s(timeline, trace), timeline.makespan_s
    stalled_s, moving_s = stall_s(timeline), transfer_s(timeline)
    n_lookups, n_hits = lookups
    return {
        "moe_layer_latency_s": moe_layer_latency_s(timeline, decode_steps(trace)),
        "tokens_per_s": n_output_tokens / makespan_s,
        "ttft_s": ttft_s(timeline),
        "tpot_s": tpot["mean"],
        "tpot_p50_s": tpot["p50"],
        "tpot_p99_s": tpot["p99"],
        "makespan_s": makespan_s,
        "peak_hbm_bytes": timeline.peak_hbm_bytes,
        "h2d_bytes": h2d_bytes(timeline),
        "hit_rate": n_hits / n_lookups if n_lookups else 0.0,
        "stall_s": stalled_s,
        "stall_share": stalled_s / makespan_s,
        "exposed_transfer_fraction": stalled_s / moving_s if moving_s else 0.0,
    }


def _covered(start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> float:
    """Length of the union of intervals."""
    if not start_s.size:
        return 0.0
    order = np.argsort(start_s)
    start, end = start_s[order], np.maximum.accumulate(end_s[order])
    reach = np.concatenate([[start[0]], end[:-1]])
    return float(np.maximum(end - np.maximum(start, reach), 0.0).sum())
