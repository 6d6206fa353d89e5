"""Runs as they were recorded: the start and end of every op, so that a validation can be judged without its machine.

A recording holds what was measured and nothing that was predicted. Its schedules are written anew from the cases.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.quantity import ReadOnly
from offload.ops import Lane, OpKind
from offload.timeline import Timeline
from pregate.ask.capturing.capture import Captured
from pregate.ask.timing.captured_metrics import metrics_of
from pregate.validation.cases import CaseGroup
from pregate.validation.outcome import Measurement, OpTime
from pregate.validation.predictions import PreparedCase, op_times
from pregate.validation.runs.recorded_routing import recorded_routing_of, routing_arrays
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import Section
from traces.importers.files.arrays import npz_arrays, npz_names
from traces.routing import RoutingTrace

VERSION = 2
_ABOUT = "about"


@dataclass(frozen=True, slots=True, eq=False)
class RecordedCase:
    """The runs of a case that count: `start_ns`, `end_ns` (n_runs, n_ops) int64 from the first op of each.

    `n_buffers`, `n_cache_slots`: expert slots, transient ones and those of the cache. `link_bytes_per_s`: of a link
    that was imitated. `exact`, `output_digest`, `disturbances`, `load`, `interrupted`: as of
    `Measurement`. Raises `InvalidInput` for runs of several lengths, none, or an op that ends before it starts.
    """

    schedule_digest: str
    n_buffers: int
    n_cache_slots: int
    source: str
    link_bytes_per_s: float | None
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    exact: Mapping[str, int]
    output_digest: str
    disturbances: tuple[str, ...]
    load: float
    interrupted: float = 0.0

    def __post_init__(self) -> None:
        shape = self.start_ns.shape
        if len(shape) != 2 or not shape[0] or self.end_ns.shape != shape or np.any(self.end_ns < self.start_ns):
            raise InvalidInput(f"runs of shape {shape} with ends of shape {self.end_ns.shape} are no recording")


@dataclass(frozen=True, slots=True)
class Recording:
    """Cases by name, and how they came about; `stack`: the software that ran. `routings`: what was run, by the name of
    a group; of a group without one, what its workload makes today.
    """

    cases: Mapping[str, RecordedCase]
    stack: str
    machine: Mapping[str, Any]
    provenance: Mapping[str, str]
    routings: Mapping[str, RoutingTrace] = field(default_factory=lambda: ReadOnly({}))

    def has(self, group: CaseGroup) -> bool:
        """Whether all cases of a group were run."""
        return all(group.case_name(policy) in self.cases for policy in group.policies)

    def link_bytes_per_s(self, group: CaseGroup) -> float | None:
        """The link that a group was run on, where it was imitated."""
        return self.cases[group.case_name(group.policies[0])].link_bytes_per_s

    def slots(self, group: CaseGroup) -> dict[str, tuple[int, int]]:
        """The expert slots that the cases of a group were run with, as `prepare_cases` takes them."""
        cases = {name: self.cases[name] for name in map(group.case_name, group.policies)}
        return {name: (case.n_buffers, case.n_cache_slots) for name, case in cases.items()}

    def measure(self, group: Sequence[PreparedCase], drawn: Collection[str] = ()) -> list[Measurement]:
        """What was measured of the cases of a group.

        Raises `InvalidInput` for a case whose schedule is not the one that was run.
        """
        found = []
        for prepared in group:
            name, recorded = prepared.case.name, self.cases[prepared.case.name]
            digest = prepared.captured.decoded.schedule.digest
            if digest != recorded.schedule_digest:
                raise InvalidInput(
                    f"{name}: the schedule {digest} is not the one that was recorded, {recorded.schedule_digest}: "
                    f"run it again"
                )
            found.append(measurement_of(recorded, prepared.captured, name in drawn))
        return found


def measurement_of(recorded: RecordedCase, captured: Captured, drawn: bool) -> Measurement:
    """The metrics of the runs of a case; with the timeline of the middle one if `drawn`."""
    schedule = captured.decoded.schedule
    timelines = [
        Timeline(schedule, start * 1e-9, end * 1e-9, recorded.source)
        for start, end in zip(recorded.start_ns, recorded.end_ns, strict=True)
    ]
    lookups = recorded.exact["lookups"], recorded.exact["hits"]
    middle = sorted(timelines, key=lambda timeline: timeline.makespan_s)[(len(timelines) - 1) // 2]
    times = [op_times(timeline, captured.trace) for timeline in timelines]
    ops = {
        kind: OpTime(one.n, float(np.median([other[kind].total_s for other in times])))
        for kind, one in times[0].items()
    }
    return Measurement(
        runs=tuple(metrics_of(captured, one, lookups) for one in timelines),
        ops=ops,
        exact=recorded.exact,
        bound_s=achieved_bound_s(middle),
        output_digest=recorded.output_digest,
        disturbances=recorded.disturbances,
        timeline=middle if drawn else None,
        load=recorded.load,
        interrupted=recorded.interrupted,
    )


def achieved_bound_s(timeline: Timeline) -> float:
    """What no order of these very ops could beat, pass by pass, at the times they took.

    A pass fetches all it fetches. It waits for the first expert of its first MoE block, which nothing gates in advance,
    and computes the last of that block's experts when all have come, the others meanwhile. So it takes no less than
    max(fetches, compute + first fetch, compute - all but one of the block's experts + the block's fetches).
    """
    schedule = timeline.schedule
    took_s = timeline.end_s - timeline.start_s
    bound_s = 0.0
    for step in np.unique(schedule.step).tolist():
        mine = schedule.step == step
        compute_s = float(took_s[mine & (schedule.lane == Lane.COMPUTE)].sum())
        fetches = np.flatnonzero(mine & (schedule.kind == OpKind.FETCH))
        if not len(fetches):
            bound_s += compute_s
            continue
        in_block = mine & (schedule.layer == schedule.layer[fetches[0]])
        block_s = float(took_s[in_block & (schedule.kind == OpKind.FETCH)].sum())
        experts_s = took_s[in_block & (schedule.kind == OpKind.EXPERTS)]
        others_s = float(experts_s.sum() - experts_s.min(initial=np.inf)) if len(experts_s) else 0.0
        first_s = float(took_s[fetches[0]])
        bound_s += max(float(took_s[fetches].sum()), compute_s + first_s, compute_s - others_s + block_s)
    return bound_s


def save_recording(recording: Recording, path: Path) -> None:
    """Write a recording, an array a case: [run, start or length, op], starts as differences along a run.

    A reader sees the old file or the whole new one.
    """
    arrays: dict[str, NDArray[Any]] = {}
    told = []
    for i, (name, case) in enumerate(recording.cases.items()):
        apart = np.diff(case.start_ns, prepend=0, axis=1)
        arrays[f"case{i}"] = np.stack([apart, case.end_ns - case.start_ns], axis=1)
        told.append(
            {
                "name": name,
                "schedule": case.schedule_digest,
                "slots": [case.n_buffers, case.n_cache_slots],
                "source": case.source,
                "exact": dict(case.exact),
                "output": case.output_digest,
                "disturbances": list(case.disturbances),
                "load": case.load,
                "interrupted": case.interrupted,
                **({} if case.link_bytes_per_s is None else {"link_bytes_per_s": case.link_bytes_per_s}),
            }
        )
    routings = []
    for i, (group, trace) in enumerate(recording.routings.items()):
        columns, about_it = routing_arrays(trace, f"routing{i}")
        arrays |= columns
        routings.append({"group": group, **about_it})
    about = {
        "version": VERSION,
        "stack": recording.stack,
        "machine": dict(recording.machine),
        "provenance": dict(recording.provenance),
        "cases": told,
        "routings": routings,
    }
    arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_recording(path: Path) -> Recording:
    """Read a recording. Raises `InvalidFile`, naming the file and what is wrong with it."""
    found = npz_arrays(path, (_ABOUT,), tuple(npz_names(path)))
    try:
        about = json.loads(found.pop(_ABOUT).tobytes())
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: not a recording of runs ({error})") from None
    if not isinstance(about, dict):
        raise InvalidFile(f"{path}: expected a mapping, found {type(about).__name__}")
    return _read(Section(about, str(path)), found)


def _read(section: Section, arrays: Mapping[str, NDArray[Any]]) -> Recording:
    version = section.integer("version")
    if version != VERSION:
        raise InvalidFile(f"{section.where}: version {version}, this release reads {VERSION}: run again")
    stack, machine, provenance = section.text("stack"), section.section("machine"), section.section("provenance")
    described = {key: machine.take(key, optional=True) for key in machine.remaining()}
    texts = {key: provenance.text(key) for key in provenance.remaining()}
    cases = {}
    for i, raw in enumerate(section.items("cases")):
        where = f"{section.where}: cases[{i}]"
        if not isinstance(raw, dict) or f"case{i}" not in arrays:
            raise InvalidFile(f"{where} has no runs")
        one = Section(raw, where)
        name = one.text("name")
        cases[name] = _case(one, arrays[f"case{i}"])
    routings = {}
    for i, raw in enumerate(section.items("routings") if "routings" in section else ()):
        where = f"{section.where}: routings[{i}]"
        if not isinstance(raw, dict):
            raise InvalidFile(f"{where} is not a mapping")
        one = Section(raw, where)
        group = one.text("group")
        routings[group] = recorded_routing_of(one, f"routing{i}", arrays)
    section.done()
    return Recording(ReadOnly(cases), stack, ReadOnly(described), ReadOnly(texts), ReadOnly(routings))


def _case(section: Section, times: NDArray[Any]) -> RecordedCase:
    exact = section.section("exact")
    if times.dtype != np.int64 or times.ndim != 3 or times.shape[1] != 2:
        raise InvalidFile(f"{section.where}: runs are {times.dtype} of shape {times.shape}, not int64 (runs, 2, ops)")
    start = np.cumsum(times[:, 0], axis=1)
    link = section.number("link_bytes_per_s", minimum=1) if "link_bytes_per_s" in section else None
    slots = section.items("slots")
    if len(slots) != 2 or not all(type(n) is int and 0 <= n < 1 << 31 for n in slots):
        raise InvalidFile(f"{section.where}: slots = {slots}: two whole numbers, of buffers and of the cache")
    schedule, source, output = (section.text(name) for name in ("schedule", "source", "output"))
    counted = {key: exact.integer(key, minimum=0) for key in exact.remaining()}
    disturbances, load = section.items("disturbances"), section.number("load", minimum=0)
    interrupted = section.number("interrupted", minimum=0) if "interrupted" in section else 0.0
    section.done()
    try:
        return RecordedCase(
            schedule_digest=schedule,
            n_buffers=slots[0],
            n_cache_slots=slots[1],
            source=source,
            link_bytes_per_s=link,
            start_ns=start,
            end_ns=start + times[:, 1],
            exact=ReadOnly(counted),
            output_digest=output,
            disturbances=tuple(str(line) for line in disturbances),
            load=load,
            interrupted=interrupted,
        )
    except InvalidInput as error:
        raise InvalidFile(f"{section.where}: {error}") from None
