"""The event engine: every mode of `simulator.modes`, compiled, at hundreds of times the speed of `des`.

FIFO lanes have a loop of their own, which agrees with `des` bit for bit; all other modes run in `event_kernel`, which
does the arithmetic of `des_timed`. HBM is not checked. Both loops release the interpreter lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from hwmodels.cost import Costs
from offload.ops import Lane
from offload.schedule import Schedule
from offload.slots.copy_runs import Unrolled, unrolled
from offload.timeline import Timeline
from simulator.costs import check_costs, one_by_one
from simulator.events import event_state
from simulator.modes import FIFO, Modes, chunks, copied_bytes, require_one_card
from simulator.resources import demands_of
from traces.errors import InvalidInput

INDEX = Kernel(__name__, "_index", ("int8[1]", "int32[1]", *["int64[1]"] * 2, *["int32[1]"] * 3))
FIFO_LOOP = Kernel(
    __name__, "_fifo",
    ("int8[1]", "int32[1]", "int64[1]", "int32[1]", "int64[1]", "int32[1]", *["float64[1]"] * 4, "bool[1]",
     *["int32[1]"] * 2, "float64[1]", "int32[1]", "int64[1]"),
    sources=("offload.ops",),
)  # fmt: skip
TIMED_LOOP = Kernel(
    "simulator.events.event_kernel", "run",
    ("int8[1]", "int32[1]", "int64[1]", "int32[1]", "int8[1]", "int32[1]", *["float64[1]"] * 3,
     "int64[1]", *["int32[1]"] * 4, *["int64"] * 3, "int8[1]", "int64[2]", "float64[3]",
     "float64[1]", "float64[1]", "int8[1]", *["int32[1]"] * 4, "float64[1]", "int32[1]", "int64[1]", "int64[2]",
     "int64[1]", "int32[1]", "int8[1]", *["float64[1]"] * 4, "int32[1]", *["float64[1]"] * 2,
     "simulator.events.event_state:MACHINE[1]"),
    sources=("simulator.events.event_rates", "simulator.events.event_state", "simulator.resources", "offload.ops"),
)  # fmt: skip

_N_LANES = len(Lane)
_FLOWS = "remaining_s", "since_s", "rate", "finish_s", "shared_rate", "demand"
_Ints = NDArray[np.int32]
_Longs = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Times = tuple[_Floats, _Floats]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSchedule:
    """What the engine needs to know of a schedule on any machine. Made by `prepare`.

    `lane_op` (n_ops,) int32: the ops lane by lane, in order, lane l in `lane_ptr[l]:lane_ptr[l + 1]`. `cancels`: the
    first op that the end of each op cancels, -1 none, `next_cancelled` the next with the same, (n_ops,) int32.
    `unrolled`, `one_by_one`: where it has runs of copies, the schedule without them and what is known of that.
    """

    schedule: Schedule
    lane_ptr: _Longs
    lane_op: _Ints
    cancels: _Ints
    next_cancelled: _Ints
    unrolled: Unrolled | None = None
    one_by_one: PreparedSchedule | None = None


def prepare(schedule: Schedule) -> PreparedSchedule:
    """Sort `schedule` by lane and by what cancels it; about as long as simulating it once. Raises `InvalidInput` for a
    schedule of several cards.
    """
    n = len(schedule)
    require_one_card(schedule.lane)
    lane_ptr, lane_op = np.zeros(_N_LANES + 1, np.int64), np.empty(n, np.int32)
    cancels, following = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    at = np.empty(_N_LANES, np.int64)
    loaded(INDEX)(schedule.lane, schedule.cancelled_by, lane_ptr, at, lane_op, cancels, following)
    copies = unrolled(schedule)
    singly = None if copies is None else prepare(copies.schedule)
    return PreparedSchedule(schedule, lane_ptr, lane_op, cancels, following, copies, singly)


def simulate(
    schedule: Schedule, costs: Costs, modes: Modes = FIFO, prepared: PreparedSchedule | None = None
) -> Timeline:
    """Start and end of every op; `costs` and `modes` as for `des.simulate`, `prepared` what `prepare` made of it.

    Modes that choose between copies see runs of them one by one: the timeline is then of
    `offload.slots.copy_runs.unrolled`. Raises `InvalidInput` for times that are negative, not finite or of another
    length and for what was prepared of another schedule: compiled code would read past the end.
    """
    check_costs(schedule, costs)
    known = prepare(schedule) if prepared is None else prepared
    if known.schedule is not schedule and known.schedule != schedule:
        raise InvalidInput(f"prepared is of schedule {known.schedule.digest}, not {schedule.digest}: prepare this one")
    if known.unrolled is not None and known.one_by_one is not None and not modes.is_fifo:
        return simulate(known.unrolled.schedule, one_by_one(costs, known.unrolled), modes, known.one_by_one)
    if modes.is_fifo:
        return Timeline(schedule, *_run_fifo(known, costs), "event")
    start_s, end_s, copied = _run_timed(known, costs, modes)
    return Timeline(schedule, start_s, end_s, "event", copied)


def _run_fifo(prepared: PreparedSchedule, costs: Costs) -> _Times:
    s = prepared.schedule
    n = len(s)
    start_s, end_s, ended = np.empty(n), np.empty(n), np.zeros(n, dtype=np.bool_)
    waiter, next_waiter = np.full(n, -1, dtype=np.int32), np.empty(n, dtype=np.int32)
    next_s, busy = np.full(_N_LANES + 1, np.inf), np.full(_N_LANES, -1, dtype=np.int32)
    loaded(FIFO_LOOP)(
        s.lane, s.cost, s.dep_ptr, s.dep, prepared.lane_ptr, prepared.lane_op,
        *_floats(costs.issue_s, costs.duration_s), start_s, end_s, ended, waiter, next_waiter, next_s,
        busy, prepared.lane_ptr[:-1].copy(),
    )  # fmt: skip
    return start_s, end_s


def _run_timed(prepared: PreparedSchedule, costs: Costs, modes: Modes) -> tuple[_Floats, _Floats, _Longs | None]:
    """Start and end of every op under `modes`, and the bytes copied where copies may be cancelled, else None."""
    s = prepared.schedule
    n, n_links = len(s), len(s) if modes.link != "fifo" else 0
    n_chunks, draws = chunks(s, modes), demands_of(costs, modes)
    n_flows = n if draws.flowing else 0
    served = np.ones(n, dtype=np.int32) if modes.link == "shared" else n_chunks
    issue_s, duration_s, link_s = _floats(costs.issue_s, costs.duration_s, costs.link_s)
    job = event_state.Job(
        s.lane, s.cost, s.dep_ptr, s.dep, s.priority, s.cancelled_by,
        issue_s, duration_s, link_s, prepared.lane_ptr, prepared.lane_op, prepared.cancels, prepared.next_cancelled,
        n_chunks,
        {"fifo": event_state.FIFO, "shared": event_state.SHARED, "priority": event_state.PRIORITY}[modes.link],
        modes.cancel, draws.flowing, draws.divided, draws.drawn, draws.draw,
    )  # fmt: skip
    state = event_state.Run(
        start_s=np.empty(n),
        end_s=np.full(n, np.nan),
        state=np.zeros(n, dtype=np.int8),
        waiter=np.full(n, -1, dtype=np.int32),
        next_waiter=np.empty(n, dtype=np.int32),
        ending=np.empty(n, dtype=np.int32),
        n_left=served.copy(),
        next_s=np.full(event_state.N_SLOTS, np.inf),
        busy=np.full(len(Lane), -1, dtype=np.int32),
        head=prepared.lane_ptr[:-1].copy(),
        heap=np.empty((2, n_links), dtype=np.int64),
        n_heap=np.zeros(len(Lane), dtype=np.int64),
        active=np.empty(n_flows, dtype=np.int32),
        piece=np.empty(n_flows, dtype=np.int8),
        drawn=np.empty(n_flows, dtype=np.int32),
        machine=np.zeros(1, dtype=event_state.MACHINE),
        **{name: np.empty(n_flows) for name in _FLOWS},
    )
    loaded(TIMED_LOOP)(*job, *state)
    return state.start_s, state.end_s, copied_bytes(s, modes, served, state.n_left)


def _floats(*times: _Floats) -> list[_Floats]:
    return [np.ascontiguousarray(values, dtype=np.float64) for values in times]


def _index(
    lane: NDArray[np.int8], cancelled_by: _Ints, lane_ptr: _Longs, at: _Longs, lane_op: _Ints, cancels: _Ints,
    next_cancelled: _Ints,
) -> None:  # fmt: skip
    """The ops of each lane, in order, and of each op those that it cancels, as a chain of the next one cancelled.

    `lane_ptr` (n_lanes + 1,) zeros, `at` (n_lanes,) room, `cancels`, `next_cancelled` (n_ops,) -1.
    """
    n_ops = lane.size
    for i in range(n_ops):
        lane_ptr[lane[i] + 1] += 1
    for here in range(at.size):
        lane_ptr[here + 1] += lane_ptr[here]
        at[here] = lane_ptr[here]
    for i in range(n_ops):
        lane_op[at[lane[i]]] = i
        at[lane[i]] += 1
        by = cancelled_by[i]
        if by >= 0:
            next_cancelled[i] = cancels[by]
            cancels[by] = i


def _fifo(
    lane: NDArray[np.int8], cost: _Ints, dep_ptr: _Longs, dep: _Ints,
    lane_ptr: _Longs, lane_op: _Ints, issue_s: _Floats, duration_s: _Floats, start: _Floats, end: _Floats,
    ended: NDArray[np.bool_], waiter: _Ints, next_waiter: _Ints, next_s: _Floats, busy: _Ints, head: _Longs,
) -> None:  # fmt: skip
    """The clock goes from one end to the next; a lane is looked at when its bit is in `look`, the host first.

    The host issues ahead of the clock, up to its next own op: until an op is served, its `start` is when it is issued.
    A lane whose first op is not issued is in `starved`; an op that waits is listed with what it waits for.
    """
    n_ops = lane.size
    now, host_s, next_op, starved, look = 0.0, 0.0, 0, 0, (1 << _N_LANES) - 1
    while True:
        while look:
            here = 0
            while not look >> here & 1:
                here += 1
            look &= ~(1 << here)
            if busy[here] >= 0:
                continue
            if here == 0:
                while next_op < n_ops and lane[next_op] != 0:
                    host_s += issue_s[cost[next_op]]
                    start[next_op] = host_s
                    next_op += 1
                if next_op == n_ops:
                    continue
                i, begin_s = next_op, host_s
            else:
                if head[here] == lane_ptr[here + 1]:
                    continue
                i = lane_op[head[here]]
                if i >= next_op:
                    starved |= 1 << here
                    continue
                begin_s = start[i]
            k = dep_ptr[i + 1] - 1
            while k >= dep_ptr[i] and ended[dep[k]]:
                k -= 1
            if k >= dep_ptr[i]:
                next_waiter[i] = waiter[dep[k]]
                waiter[dep[k]] = i
                continue
            busy[here] = i
            begin_s = max(begin_s, now)
            start[i] = begin_s
            next_s[here] = begin_s + duration_s[cost[i]]
        now = min(next_s[0], next_s[1])
        for here in range(2, _N_LANES, 2):
            now = min(now, min(next_s[here], next_s[here + 1]))
        if now == np.inf:
            return
        for here in range(_N_LANES):
            i = busy[here]
            if i >= 0 and next_s[here] == now:
                end[i] = now
                ended[i] = True
                next_s[here] = np.inf
                busy[here] = -1
                look |= 1 << here
                if here == 0:
                    next_op, host_s, look, starved = next_op + 1, now, look | starved, 0
                else:
                    head[here] += 1
                j = waiter[i]
                while j >= 0:
                    look |= 1 << lane[j]
                    j = next_waiter[j]
