"""A timeline as a trace event file, which ui.perfetto.dev and chrome://tracing open; or two, simulated over real.

One track a lane with a slice an op, and counters for HBM in use and for the queue of each copy lane. The format is
Google's "Trace Event Format": `ph` X is a slice, M metadata, C a counter, s and f the ends of an arrow; times are
microseconds. They are rounded to whole nanoseconds, which is what the viewer resolves, start and end each for itself:
so slices that touch still touch, and ops that do not overlap never do.

Queue of a copy lane: how many of its ops were released and have not ended. An op is released when its dependencies
and the last host op issued before it have ended. A timeline does not say when the host issued a copy, so the time
that issuing takes (microseconds) is not in it; a copy whose slot is still being read does not count as waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offload.lanes import kind_of_lane
from offload.ops import MOST_CARDS, Lane, OpKind
from offload.timeline import Timeline
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file

if TYPE_CHECKING:
    from hwmodels.platform import Platform


COPY_LANES = (Lane.H2D, Lane.D2H, Lane.DISK)
"""The lanes whose queues are counted."""

MISMATCH = 0.25
"""Share of the simulated time by which an op that took otherwise is a mismatch, from `LEAST_S` on."""
LEAST_S = 5e-6
MOST_LISTED = 100
"""Mismatches listed at the head of a file, the largest first; every one is coloured."""

_PID = 1
_LANE_NAMES = {
    Lane.HOST: "host",
    Lane.COMPUTE: "compute",
    Lane.H2D: "copy to device (H2D)",
    Lane.D2H: "copy to host (D2H)",
    Lane.DISK: "storage",
    Lane.CPU: "experts on the CPU",
}
_TRACKS = 100
"""Numbers of tracks that a process has."""

_OPS_AT_A_TIME = 1 << 16
"""Ops turned into text at a time, so that memory does not grow with the trace."""


def write_trace(timeline: Timeline, path: Path | str) -> None:
    """Write `timeline` to `path` as trace event JSON; a reader sees the old file or the whole new one.

    Slices in order of their start, named by kind, layer and expert; `args` has step, layer, expert, slot and bytes,
    without those that an op has not; an arrow from each copy to its use. Raises `InvalidFile` when the file cannot be
    written.
    """
    head = {"source": timeline.source, "schedule": timeline.schedule.digest, "ops": len(timeline.schedule)}
    _write(head, chain(_events(timeline), _flows(timeline, _PID)), path)


def write_comparison(simulated: Timeline, real: Timeline, path: Path | str) -> None:
    """Write two timelines of one schedule to `path`, a process each with the same tracks, arrows from copies to use.

    Ops whose real duration is a mismatch are coloured on both sides (`cname`) and say by how much (`args`); the largest
    are listed in `otherData`. Raises `InvalidInput` for timelines of two schedules, `InvalidFile` as `write_trace`.
    """
    head, sides = _compared("", simulated, real, _PID)
    _write(head, (event for side in sides for event in _side(*side)), path)


def write_comparisons(cases: Mapping[str, tuple[Timeline, Timeline]], path: Path | str) -> None:
    """`write_comparison` of several runs in one file: by name the simulated timeline and the real one below it.

    Raises `InvalidInput` for no run, and as `write_comparison`.
    """
    if not cases:
        raise InvalidInput("no run whose timelines were kept: nothing to compare")
    compared = [_compared(f"{name}, ", *pair, _PID + 2 * i) for i, (name, pair) in enumerate(cases.items())]
    heads = {"cases": {name: head for name, (head, _) in zip(cases, compared, strict=True)}}
    _write(heads, (event for _, sides in compared for side in sides for event in _side(*side)), path)


_Side = tuple[Timeline, int, str, NDArray[np.float64]]
"""A timeline, the number and the name of its process, and how much longer each op took for real."""


def _compared(name: str, simulated: Timeline, real: Timeline, pid: int) -> tuple[dict[str, Any], tuple[_Side, ...]]:
    """What is said of two timelines of one schedule, and their two sides."""
    here, there = simulated.schedule.digest, real.schedule.digest
    if here != there:
        raise InvalidInput(f"timelines of two schedules, {here} and {there}: only the same ops can be compared")
    error_s = mismatches(simulated, real)
    worst = np.argsort(-np.abs(error_s), kind="stable")[: min(MOST_LISTED, int(np.count_nonzero(error_s)))]
    head = {
        "simulated": simulated.source, "real": real.source, "schedule": here, "ops": len(simulated.schedule),
        "n_mismatches": int(np.count_nonzero(error_s)),
        "mismatches": [
            {"op": int(op), "name": _name(simulated, int(op)), "step": int(simulated.schedule.step[op]),
             "simulated_us": round(_span_s(simulated)[op] * 1e6, 3), "real_us": round(_span_s(real)[op] * 1e6, 3)}
            for op in worst.tolist()
        ],
    }  # fmt: skip
    sides = ((simulated, pid, f"{name}simulated", error_s), (real, pid + 1, f"{name}real", error_s))
    return head, sides


def _write(head: Mapping[str, Any], events: Iterator[str], path: Path | str) -> None:
    """A trace event file: what is said of it, then its events, a line each."""
    with whole_file(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{{"displayTimeUnit": "ns", "otherData": {json.dumps(head)}, "traceEvents": [\n')
        file.writelines(_separated(events))
        file.write("\n]}\n")


def simulated_again(real: Timeline, hw: Platform) -> Timeline:
    """What `hw` makes of the very ops of a run."""
    from hwmodels.cost import price
    from simulator.explain.critical_path import walk

    return walk(real.schedule, price(real.schedule.works, hw)).timeline


def mismatches(simulated: Timeline, real: Timeline) -> NDArray[np.float64]:
    """(n_ops,) seconds that each op took longer for real than simulated; 0 where it is no mismatch."""
    expected_s = _span_s(simulated)
    error_s = _span_s(real) - expected_s
    counts = np.abs(error_s) > np.maximum(MISMATCH * expected_s, LEAST_S)
    return np.where(counts, error_s, 0.0)


def _span_s(timeline: Timeline) -> NDArray[np.float64]:
    return timeline.end_s - timeline.start_s


def _side(timeline: Timeline, pid: int, side: str, error_s: NDArray[np.float64]) -> Iterator[str]:
    """The events of one of two timelines."""
    yield from _events(timeline, pid, f"{side}: {timeline.source}", error_s)
    yield from _flows(timeline, pid)


def _flows(timeline: Timeline, pid: int) -> Iterator[str]:
    """An arrow from every copy that an op of the device waits for to that op; where the host waits, to the op after."""
    schedule = timeline.schedule
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    waits = np.isin(schedule.lane[owner], (Lane.COMPUTE, Lane.HOST))
    used = (schedule.lane[schedule.dep] == Lane.H2D) & waits
    computes = np.append(np.flatnonzero(schedule.lane == Lane.COMPUTE), -1)
    users = computes[np.searchsorted(computes[:-1], owner[used])]
    pairs = [pair for pair in zip(schedule.dep[used].tolist(), users.tolist(), strict=True) if pair[1] >= 0]
    for i, (copy, use) in enumerate(pairs):
        for phase, op in (("s", copy), ("f", use)):
            ts, tid = int(_ns(timeline.start_s[op : op + 1])[0]) / 1000, _track(pid, int(schedule.lane[op]))
            bound = ', "bp": "e"' * (phase == "f")
            yield (
                f'{{"name": "copy to use", "cat": "flow", "ph": "{phase}"{bound}, "id": {(pid << 32) + i}, '
                f'"pid": {pid}, "tid": {tid}, "ts": {ts:.3f}}}'
            )


def _name(timeline: Timeline, op: int) -> str:
    """An op as its slice is called."""
    schedule = timeline.schedule
    kind, layer, expert = (int(getattr(schedule, name)[op]) for name in ("kind", "layer", "expert"))
    name = OpKind(kind).name.lower().replace("_", " ")
    return f"{name}{f' L{layer}' * (layer >= 0)}{f' E{expert}' * (expert >= 0)}"


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


def _events(
    timeline: Timeline, pid: int = _PID, title: str = "", error_s: NDArray[np.float64] | None = None
) -> Iterator[str]:
    """Every event as one line of JSON: names of the tracks, slices, counters."""
    side = f"pregate {pid}: {title}" if title else f"pregate: {timeline.source}"  # viewers order by name
    yield _metadata("process_name", _track(pid, 0), {"name": side}, pid)
    yield _metadata("process_sort_index", _track(pid, 0), {"sort_index": pid}, pid)
    lanes = np.unique(timeline.schedule.lane).tolist()
    kinds = [kind_of_lane(lane) for lane in lanes]
    for lane, kind in zip(lanes, kinds, strict=True):
        further = max(lane - len(Lane) + 1, 0)
        name = _LANE_NAMES[kind] + (f", card {further + 1}" if kinds.count(kind) > 1 else "")
        yield _metadata("thread_name", _track(pid, lane), {"name": name}, pid)
        yield _metadata("thread_sort_index", _track(pid, lane), {"sort_index": MOST_CARDS * kind + further}, pid)
    yield from _slices(timeline, pid, np.zeros(len(timeline.schedule)) if error_s is None else error_s)
    yield from _counter("HBM in use", "bytes", *_hbm_levels(timeline), pid)
    for lane in COPY_LANES:
        if lane in timeline.schedule.lane:
            yield from _counter(f"queue of {_LANE_NAMES[lane]}", "ops", *queue_depth(timeline, lane), pid)


def _track(pid: int, lane: int) -> int:
    """The number of a lane's track: never 0, which viewers take for the first track, nor that of a process."""
    return _TRACKS * pid + lane


def _metadata(name: str, tid: int, args: dict[str, str | int], pid: int) -> str:
    return json.dumps({"name": name, "ph": "M", "pid": pid, "tid": tid, "args": args})


def _slices(timeline: Timeline, pid: int, error_s: NDArray[np.float64]) -> Iterator[str]:
    """The ops in order of their start; of mismatches a colour, green where the real one was quicker."""
    schedule = timeline.schedule
    kinds = [kind.name.lower().replace("_", " ") for kind in OpKind]
    by_start = np.lexsort((timeline.end_s, timeline.start_s))
    for first in range(0, len(schedule), _OPS_AT_A_TIME):
        chosen = by_start[first : first + _OPS_AT_A_TIME]
        start_ns, end_ns = _ns(timeline.start_s[chosen]), _ns(timeline.end_s[chosen])
        columns = (
            start_ns, end_ns - start_ns, _track(pid, 0) + schedule.lane[chosen].astype(np.int64), schedule.kind[chosen],
            schedule.step[chosen], schedule.layer[chosen], schedule.expert[chosen], schedule.slot[chosen],
            schedule.bytes[chosen], error_s[chosen],
        )  # fmt: skip
        for start, span, track, kind, step, layer, expert, slot, n_bytes, error in zip(
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
            colour = ""
            if error:
                args += f', "real_minus_simulated_us": {error * 1e6:.3f}'
                colour = f'"cname": "{"terrible" if error > 0 else "good"}", '
            yield (
                f'{{"name": "{name}", "cat": "{kinds[kind]}", "ph": "X", {colour}"pid": {pid}, "tid": {track}, '
                f'"ts": {start / 1000:.3f}, "dur": {span / 1000:.3f}, "args": {{{args}}}}}'
            )


def _hbm_levels(timeline: Timeline) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times and HBM bytes in use from each on; from 0 on what is in use throughout."""
    times_s, levels = timeline.hbm_events()
    static = timeline.schedule.static_bytes
    times_s, levels = np.concatenate([[0.0], times_s]), np.concatenate([[static], levels])
    return _accumulated(times_s, np.diff(levels, prepend=0))


def _counter(name: str, unit: str, times_s: NDArray[np.float64], levels: NDArray[np.int64], pid: int) -> Iterator[str]:
    for first in range(0, len(times_s), _OPS_AT_A_TIME):
        part = slice(first, first + _OPS_AT_A_TIME)
        for time_ns, level in zip(_ns(times_s[part]).tolist(), levels[part].tolist(), strict=True):
            yield (
                f'{{"name": "{name}", "ph": "C", "pid": {pid}, "ts": {time_ns / 1000:.3f}, '
                f'"args": {{"{unit}": {level}}}}}'
            )


def _ns(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(times_s * 1e9).astype(np.int64)


def _separated(lines: Iterator[str]) -> Iterator[str]:
    """The lines with the commas of a JSON array between them."""
    for i, line in enumerate(lines):
        yield line if i == 0 else f",\n{line}"
