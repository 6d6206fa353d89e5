"""A timeline as a trace event file, which ui.perfetto.dev and chrome://tracing open.

One track a lane with a slice an op, and counters for HBM in use and for the queue of each copy lane. The format is
Google's "Trace Event Format": `ph` X is a slice, M metadata, C a counter; times are microseconds. They are rounded to
whole nanoseconds, which is what the viewer resolves, start and end each for itself: so slices that touch still touch,
and ops that do not overlap never do.

Queue of a copy lane: how many of its ops were released and have not ended. An op is released when its dependencies
and the last host op issued before it have ended. A timeline does not say when the host issued a copy, so the time
that issuing takes (microseconds) is not in it; a copy whose slot is still being read does not count as waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane, OpKind
from offload.timeline import Timeline
from traces.whole_file import whole_file

__all__ = ["queue_depth", "write_trace"]

COPY_LANES = (Lane.H2D, Lane.D2H, Lane.DISK)
"""The lanes whose queues are counted."""

_PID = 1
_LANE_NAMES = {
    Lane.HOST: "host",
    Lane.COMPUTE: "compute",
    Lane.H2D: "copy to device (H2D)",
    Lane.D2H: "copy to host (D2H)",
    Lane.DISK: "storage",
    Lane.CPU: "experts on the CPU",
}
_OPS_AT_A_TIME = 1 << 16
"""Ops turned into text at a time, so that memory does not grow with the trace."""


def write_trace(timeline: Timeline, path: Path | str) -> None:
    """Write `timeline` to `path` as trace event JSON; a reader sees the old file or the whole new one.

    Slices in order of their start, named by kind, layer and expert; `args` has step, layer, expert, slot and bytes,
    without those that an op has not. Raises `InvalidFile` when the file cannot be written.
    """
    head = {"source": timeline.source, "schedule": timeline.schedule.digest, "ops": len(timeline.schedule)}
    with whole_file(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{{"displayTimeUnit": "ns", "otherData": {json.dumps(head)}, "traceEvents": [\n')
        file.writelines(_separated(_events(timeline)))
        file.write("\n]}\n")


def queue_depth(timeline: Timeline, lane: Lane) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times (n,) seconds, ascending and distinct, and the ops of `lane` that wait or run from each on, (n,) int64.

    See the module for when an op waits. The last depth is 0; empty arrays for a lane without ops.
    """
    mine = timeline.schedule.lane == lane
    released, ended = _released_s(timeline)[mine], timeline.end_s[mine]
    deltas = np.repeat(np.array([1, -1], dtype=np.int64), len(ended))
    return _accumulated(np.concatenate([released, ended]), deltas)


def _released_s(timeline: Timeline) -> NDArray[np.float64]:
    """When each op could start at the earliest, its lane aside: (n_ops,) seconds, never after its start."""
    schedule = timeline.schedule
    host_end_s = np.where(schedule.lane == Lane.HOST, timeline.end_s, 0.0)
    released = np.concatenate([[0.0], np.maximum.accumulate(host_end_s)])[: len(schedule)]
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    np.maximum.at(released, owner, timeline.end_s[schedule.dep])
    # Measured clocks of two lanes may disagree a little.
    earliest: NDArray[np.float64] = np.minimum(released, timeline.start_s)
    return earliest


def _accumulated(
    times_s: NDArray[np.float64], deltas: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A running sum in order of time, one value a distinct time."""
    order = np.argsort(times_s, kind="stable")
    times_s, levels = times_s[order], np.cumsum(deltas[order])
    last = np.append(np.diff(times_s) > 0, True)[: len(times_s)]
    return times_s[last], levels[last]


def _events(timeline: Timeline) -> Iterator[str]:
    """Every event as one line of JSON: names of the tracks, slices, counters."""
    yield _metadata("process_name", 0, {"name": f"pregate: {timeline.source}"})
    for lane in Lane:
        if lane in timeline.schedule.lane:
            yield _metadata("thread_name", lane, {"name": _LANE_NAMES[lane]})
            yield _metadata("thread_sort_index", lane, {"sort_index": int(lane)})
    yield from _slices(timeline)
    yield from _counter("HBM in use", "bytes", *_hbm_levels(timeline))
    for lane in COPY_LANES:
        if lane in timeline.schedule.lane:
            yield from _counter(f"queue of {_LANE_NAMES[lane]}", "ops", *queue_depth(timeline, lane))


def _metadata(name: str, tid: int, args: dict[str, str | int]) -> str:
    return json.dumps({"name": name, "ph": "M", "pid": _PID, "tid": tid, "args": args})


def _slices(timeline: Timeline) -> Iterator[str]:
    """The ops in order of their start."""
    schedule = timeline.schedule
    kinds = [kind.name.lower().replace("_", " ") for kind in OpKind]
    by_start = np.lexsort((timeline.end_s, timeline.start_s))
    for first in range(0, len(schedule), _OPS_AT_A_TIME):
        chosen = by_start[first : first + _OPS_AT_A_TIME]
        start_ns, end_ns = _ns(timeline.start_s[chosen]), _ns(timeline.end_s[chosen])
        columns = (
            start_ns, end_ns - start_ns, schedule.lane[chosen], schedule.kind[chosen], schedule.step[chosen],
            schedule.layer[chosen], schedule.expert[chosen], schedule.slot[chosen], schedule.bytes[chosen],
        )  # fmt: skip
        for start, span, lane, kind, step, layer, expert, slot, n_bytes in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            name, args = kinds[kind], f'"step": {step}'
            if layer >= 0:
                name, args = f"{name} L{layer}", f'{args}, "layer": {layer}'
            if expert >= 0:
                name, args = f"{name} E{expert}", f'{args}, "expert": {expert}'
            if slot >= 0:
                args += f', "slot": {slot}'
            if n_bytes:
                args += f', "bytes": {n_bytes}'
            yield (
                f'{{"name": "{name}", "cat": "{kinds[kind]}", "ph": "X", "pid": {_PID}, "tid": {lane}, '
                f'"ts": {start / 1000:.3f}, "dur": {span / 1000:.3f}, "args": {{{args}}}}}'
            )


def _hbm_levels(timeline: Timeline) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times and HBM bytes in use from each on; from 0 on what is in use throughout."""
    times_s, levels = timeline.hbm_events()
    static = timeline.schedule.static_bytes
    times_s, levels = np.concatenate([[0.0], times_s]), np.concatenate([[static], levels])
    return _accumulated(times_s, np.diff(levels, prepend=0))


def _counter(name: str, unit: str, times_s: NDArray[np.float64], levels: NDArray[np.int64]) -> Iterator[str]:
    for first in range(0, len(times_s), _OPS_AT_A_TIME):
        part = slice(first, first + _OPS_AT_A_TIME)
        for time_ns, level in zip(_ns(times_s[part]).tolist(), levels[part].tolist(), strict=True):
            yield (
                f'{{"name": "{name}", "ph": "C", "pid": {_PID}, "ts": {time_ns / 1000:.3f}, '
                f'"args": {{"{unit}": {level}}}}}'
            )


def _ns(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(times_s * 1e9).astype(np.int64)


def _separated(lines: Iterator[str]) -> Iterator[str]:
    """The lines with the commas of a JSON array between them."""
    for i, line in enumerate(lines):
        yield line if i == 0 else f",\n{line}"
