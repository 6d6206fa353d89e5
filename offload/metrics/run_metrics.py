"""Metrics of a timeline, virtual or real: the definitions of DESIGN.md, one function each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.lanes import computes
from offload.metrics.metric_names import METRICS, Metrics
from offload.ops import KINDS, TO_DEVICE, TRANSFERS, Lane, OpKind
from offload.timeline import Timeline
from traces.phase import Phase
from traces.routing import RoutingTrace

__all__ = [
    "METRICS",
    "Metrics",
    "Totals",
    "decode_steps",
    "exposed_s",
    "first_token_s",
    "gap_pairs",
    "mean_gap_s",
    "moe_layer_latency_s",
    "moe_layers",
    "moved_bytes",
    "of_timeline",
    "overlap_s",
    "stall_intervals",
    "stall_s",
    "step_end_s",
    "summed_up",
    "token_gaps_s",
    "tpot_s",
    "transfer_s",
    "ttft_s",
    "union_s",
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
    """Time to the first token of one timeline: see `first_token_s`."""
    return float(first_token_s(timeline.end_s[timeline.schedule.kind == OpKind.STEP]))


def tpot_s(timeline: Timeline, trace: RoutingTrace) -> dict[str, float]:
    """Time per output token of one timeline: mean, p50 and p99 of `token_gaps_s`. All 0.0 without a gap."""
    ends = timeline.schedule.kind == OpKind.STEP
    gaps = token_gaps_s(timeline.end_s[ends], *gap_pairs(trace, timeline.schedule.step[ends]))
    p50, p99 = _percentiles_s(gaps)
    return {"mean": float(mean_gap_s(gaps)), "p50": float(p50), "p99": float(p99)}


def first_token_s(step_end: NDArray[np.float64]) -> Any:
    """Time to the first token: when the first forward pass that makes one has ended; 0.0 without one.

    `step_end` (n_steps,), or (n_machines, n_steps): when those that make tokens ended.
    """
    return step_end.min(axis=-1) if step_end.shape[-1] else np.zeros(step_end.shape[:-1])


def token_gaps_s(
    step_end: NDArray[np.float64], gap_from: NDArray[np.int64], gap_to: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Times between a sequence's tokens, (..., n_gaps): `step_end` as of `first_token_s`, `gap_pairs` of the trace.

    A prefill that makes a token (no encoder) counts as the sequence's first.
    """
    return np.ascontiguousarray(step_end[..., gap_to] - step_end[..., gap_from])


def mean_gap_s(gaps: NDArray[np.float64]) -> Any:
    """Time per output token after a sequence's first: the mean of `token_gaps_s`; 0.0 without one."""
    return gaps.mean(axis=-1) if gaps.shape[-1] else np.zeros(gaps.shape[:-1])


def _percentiles_s(gaps: NDArray[np.float64]) -> Any:
    """The median and the 99th percentile of `token_gaps_s`; 0.0 without one."""
    return np.percentile(gaps, [50, 99], axis=-1) if gaps.shape[-1] else np.zeros((2, *gaps.shape[:-1]))


def moe_layer_latency_s(timeline: Timeline, steps: NDArray[np.int32]) -> float:
    """Device time of the whole layer that contains an MoE block, mean over MoE layers and `steps`.

    From the start of the layer's first op on the compute stream to the end of its last (PAPER.md: what the
    authors call MoE block latency); where the host computes a part of it, its ops and their way back count as those of
    the compute stream. 0.0 without an MoE layer.
    """
    schedule = timeline.schedule
    first, last = moe_layers(schedule.lane, schedule.kind, schedule.step, schedule.layer, steps)
    return float(np.mean(timeline.end_s[last] - timeline.start_s[first])) if len(first) else 0.0


def moe_layers(
    lane: NDArray[np.int8],
    kind: NDArray[np.int8],
    step: NDArray[np.int32],
    layer: NDArray[np.int16],
    steps: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last compute op, (n_layers,) each, of every MoE layer of `steps`; columns (n_ops,) as of a schedule.

    What the host computes, and its way back, counts as the compute stream's.
    """
    on_host = (lane == Lane.CPU) & ~_TRANSFERS[kind]
    counts = computes(lane) | on_host | (kind == OpKind.RETURN)
    chosen = np.flatnonzero(counts & (layer >= 0))
    chosen = chosen[np.isin(step[chosen], steps)]
    if not chosen.size:
        return chosen, chosen
    key = step[chosen].astype(np.int64) * (int(layer.max()) + 1) + layer[chosen]
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    last = np.zeros(len(first), dtype=np.int64)
    last[index] = np.arange(len(chosen))  # of several the last is kept
    moe = np.zeros(len(first), dtype=np.bool_)
    moe[index[(kind[chosen] == OpKind.GATE) | (kind[chosen] == OpKind.CPU_EXPERT)]] = True
    return chosen[first[moe]], chosen[last[moe]]


_TRANSFERS = np.isin(list(OpKind), TRANSFERS)
"""Whether ops of each kind are transfers."""

_COUNTED = {
    "h2d_bytes": np.isin(list(OpKind), TO_DEVICE),
    "written_back_bytes": np.array([row.puts == "host" for row in KINDS.values()]),
}
"""By metric, whether it counts the bytes of each kind of op."""


def moved_bytes(kind: NDArray[np.int8], n_bytes: NDArray[np.int64]) -> dict[str, int]:
    """By metric, the bytes of ops, (n_ops,) both, that it counts: those to the device, and those of experts that a
    cache let go, back to host memory.
    """
    return {name: int(n_bytes[counted[kind]].sum()) for name, counted in _COUNTED.items()}


def transfer_s(timeline: Timeline) -> float:
    """Time in which experts were being moved: the union of all copies and storage reads."""
    moving = _TRANSFERS[timeline.schedule.kind]
    return union_s(timeline.start_s[moving], timeline.end_s[moving])


def stall_intervals(timeline: Timeline) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end (n,) seconds of each wait of the compute lane for a transfer.

    Of the idle time before an op that reads transferred experts: the part before the last of its transfers
    has landed.
    """
    schedule = timeline.schedule
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    transfers = _TRANSFERS[schedule.kind][schedule.dep]
    arrivals = np.zeros(len(schedule))
    np.maximum.at(arrivals, owner[transfers], timeline.end_s[schedule.dep[transfers]])
    compute = np.flatnonzero(schedule.lane == Lane.COMPUTE)
    free = np.concatenate([[0.0], timeline.end_s[compute][:-1]])
    until = np.minimum(timeline.start_s[compute], arrivals[compute])
    waits = until > free
    return free[waits], until[waits]


_Intervals = tuple[NDArray[np.float64], NDArray[np.float64]]


def stall_s(timeline: Timeline, stalls: _Intervals | None = None) -> float:
    """Time the compute lane waited for a transfer: the sum of `stall_intervals`, which may be at hand."""
    begin_s, end_s = stall_intervals(timeline) if stalls is None else stalls
    return float((end_s - begin_s).sum())


def exposed_s(timeline: Timeline, stalls: _Intervals | None = None) -> float:
    """Time in which experts moved while the compute lane waited for a transfer: at most `transfer_s`, or `stall_s`."""
    moving = _TRANSFERS[timeline.schedule.kind]
    moves = timeline.start_s[moving], timeline.end_s[moving]
    return overlap_s(moves, stall_intervals(timeline) if stalls is None else stalls)


def overlap_s(
    moving: tuple[NDArray[np.float64], NDArray[np.float64]], stalls: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> float:
    """How long it is within one of `moving` and one of `stalls`: starts and ends (n,); stalls do not overlap."""
    if not moving[0].size or not stalls[0].size:
        return 0.0
    order = np.argsort(moving[0], kind="stable")
    start, end = moving[0][order], np.maximum.accumulate(moving[1][order])
    start = np.maximum(start, np.concatenate([[start[0]], end[:-1]]))
    end = np.maximum(start, end)
    edges, moved_s = np.stack([start, end], axis=1).ravel(), np.cumsum(end - start)
    until_s = np.stack([np.concatenate([[0.0], moved_s[:-1]]), moved_s], axis=1).ravel()
    begin_s, finish_s = (np.interp(times, edges, until_s) for times in stalls)
    return float((finish_s - begin_s).sum())


def n_first_tokens(trace: RoutingTrace, steps: NDArray[np.int32]) -> int:
    """Tokens that the first of `steps` makes, those that make tokens: one a sequence, or those not rejected."""
    if not steps.size:
        return 0
    first = trace.step == steps[0]
    if trace.rejected is not None and trace.phase[first][0] == Phase.DECODE:
        return int(np.count_nonzero(~trace.rejected[first]))
    if trace.unfinished is not None:
        first &= ~trace.unfinished
    return np.unique(trace.sequence[first]).size


class Totals(NamedTuple):
    """What an interpreter saw of a run: numbers, or (n_machines,) of many machines; definitions as of the functions.

    `moved`: bytes by metric (`moved_bytes`), those of a cancelled copy before it was.
    """

    makespan_s: Any
    moe_layer_latency_s: Any
    stall_s: Any
    exposed_s: Any
    transfer_s: Any
    peak_hbm_bytes: Any
    moved: dict[str, int]


def summed_up(
    trace: RoutingTrace,
    steps: NDArray[np.int32],
    step_end: NDArray[np.float64],
    seen: Totals,
    *,
    n_output_tokens: int,
    lookups: tuple[int, int],
) -> dict[str, Any]:
    """Every field of `Metrics` by name, from what an interpreter saw of one machine or many.

    `steps` (n_steps,): those that make tokens; `step_end` (n_steps,) or (n_machines, n_steps): when they ended. The
    values that are returned are numbers or (n_machines,). `lookups`: experts looked up in decoding, and found.
    """
    zero = np.zeros(step_end.shape[:-1])
    ttft_s, gaps = first_token_s(step_end), token_gaps_s(step_end, *gap_pairs(trace, steps))
    p50, p99 = _percentiles_s(gaps)
    decode_s = step_end.max(axis=-1) - ttft_s if steps.size else zero
    n_decoded = n_output_tokens - n_first_tokens(trace, steps)
    exposed_s = np.minimum(seen.exposed_s, seen.transfer_s)  # rounding may differ
    found = {
        "moe_layer_latency_s": seen.moe_layer_latency_s,
        "tokens_per_s": n_output_tokens / seen.makespan_s,
        "decode_tokens_per_s": _share(np.full_like(zero, n_decoded), decode_s),
        "ttft_s": ttft_s,
        "tpot_s": mean_gap_s(gaps),
        "tpot_p50_s": p50,
        "tpot_p99_s": p99,
        "makespan_s": seen.makespan_s,
        "peak_hbm_bytes": seen.peak_hbm_bytes,
        **seen.moved,
        "hit_rate": lookups[1] / lookups[0] if lookups[0] else 0.0,
        "stall_s": seen.stall_s,
        "stall_share": seen.stall_s / seen.makespan_s,
        "exposed_transfer_fraction": _share(exposed_s, seen.transfer_s),
    }
    return found if step_end.ndim > 1 else {name: np.asarray(value).item() for name, value in found.items()}


def of_timeline(
    timeline: Timeline, trace: RoutingTrace, n_output_tokens: int, lookups: tuple[int, int]
) -> dict[str, Any]:
    """Every metric by its name in a result, virtual or real; `lookups`: experts looked up in decoding, and found."""
    schedule, ends = timeline.schedule, timeline.schedule.kind == OpKind.STEP
    stalls = stall_intervals(timeline)
    seen = Totals(
        makespan_s=timeline.makespan_s,
        moe_layer_latency_s=moe_layer_latency_s(timeline, decode_steps(trace)),
        stall_s=stall_s(timeline, stalls),
        exposed_s=exposed_s(timeline, stalls),
        transfer_s=transfer_s(timeline),
        peak_hbm_bytes=timeline.peak_hbm_bytes,
        moved=moved_bytes(schedule.kind, timeline.moved_bytes),
    )
    made = schedule.step[ends], timeline.end_s[ends]
    return summed_up(trace, *made, seen, n_output_tokens=n_output_tokens, lookups=lookups)


def gap_pairs(trace: RoutingTrace, steps: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in `steps` (those that make tokens) between whose ends a sequence makes one token, after the first behind
    each of its prompts.

    Of several tokens that a pass makes of a draft's, all but the first come at once: from its end to its end.
    """
    order = np.argsort(steps)
    makes = np.isin(trace.step, steps)
    if trace.unfinished is not None:
        makes &= ~trace.unfinished
    if trace.rejected is not None:
        makes &= ~trace.rejected
    turn = np.searchsorted(steps, trace.step[makes], sorter=order)  # which of `steps` by time
    made = np.unique(trace.sequence[makes].astype(np.int64) * max(len(steps), 1) + turn)
    sequence, turn = np.divmod(made, max(len(steps), 1))
    same = (np.diff(sequence) == 0) & np.isin(steps[order], decode_steps(trace))[turn[1:]]
    if trace.rejected is None:
        return order[turn[:-1][same]], order[turn[1:][same]]
    decoded = trace.step[makes & (trace.phase == Phase.DECODE)]
    n_made = np.bincount(np.searchsorted(steps, decoded, sorter=order), minlength=len(steps))
    n_sequences = np.bincount(turn, minlength=len(steps))
    at_once = np.repeat(order, np.maximum(n_made - n_sequences, 0))
    return np.append(order[turn[:-1][same]], at_once), np.append(order[turn[1:][same]], at_once)


def _share(part: Any, whole: Any) -> Any:
    """part / whole, and 0 of nothing."""
    some = np.asarray(whole) > 0
    return np.where(some, part / np.where(some, whole, 1.0), 0.0)


def union_s(start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> float:
    """Seconds in the union of intervals, (n,) each."""
    if not start_s.size:
        return 0.0
    order = np.argsort(start_s, kind="stable")
    start, end = start_s[order], np.maximum.accumulate(end_s[order])
    reach = np.concatenate([[start[0]], end[:-1]])
    return float(np.maximum(end - np.maximum(start, reach), 0.0).sum())
