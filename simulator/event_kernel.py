"""The contract of `simulator.modes` as machine code: one loop over instants, and within each over ends and choices.

numba is imported with this module: import it on first use. All of it is inlined into `run`, so that it stays one file:
numba's cache notices changes of no other. Compiled without reference counts (`_nrt=False`), because counting those of
two tuples of arrays costs 1,800 ns an op, the simulation itself 30. So nothing is allocated here: the caller owns the
arrays of `Job` and `Run` and keeps them alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from offload.ops import Lane
from traces.compiled import njit

__all__ = ["FIFO", "MACHINE", "N_SLOTS", "PRIORITY", "SHARED", "Job", "Run", "run"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

FIFO, SHARED, PRIORITY = range(3)
"""How the links serve copies."""
NEW, WAITING, READY, PAUSED, RUNNING, DONE = range(6)
"""What an op is: not issued, waiting for dependencies, could start, between two chunks, in service, ended."""
LATENCY, ALONE, TRANSFER, SHARING = range(4)
"""What a piece of work is: the latency before a transfer, the last of an op at its own rate, a transfer at its own or
at its share of the link."""
HOST, COMPUTE, H2D, D2H, CPU = (int(lane) for lane in (Lane.HOST, Lane.COMPUTE, Lane.H2D, Lane.D2H, Lane.CPU))
N_LANES = len(Lane)
FLOW = N_LANES
N_SLOTS = N_LANES + 1
"""Things that happen next: one a lane, and the first end of all work at rates that change."""


def _compiled(function: _Function) -> _Function:
    return cast(_Function, njit(cache=True, **_OPTIONS)(function))


def _inlined(function: _Function) -> _Function:
    return cast(_Function, njit(inline="always", **_OPTIONS)(function))


class Job(NamedTuple):
    """What is run, read only: columns of the schedule (n,), costs (n_works,), `event.Prepared`, and the modes."""

    lane: Any
    cost: Any
    dep_ptr: Any  # [n + 1]
    dep: Any  # [n_deps]
    priority: Any
    cancelled_by: Any
    issue_s: Any
    duration_s: Any
    link_s: Any
    hbm_s: Any
    crossed_s: Any
    contended: Any
    lane_ptr: Any  # [N_LANES + 1]
    lane_op: Any  # [n], ops lane by lane
    cancels: Any  # [n] the first op that the end of an op cancels, -1 none; then `next_cancelled`
    next_cancelled: Any
    n_chunks: Any  # [n]
    link: int
    hbm_shared: bool
    cancel: bool
    both_ways: bool
    dram_shared: bool


class Run(NamedTuple):
    """The state of a run. Of what only some modes need the arrays are short in all others."""

    start_s: Any  # [n] float64, result
    end_s: Any  # [n] float64, result
    state: Any  # [n] int8
    waiter: Any  # [n] int32, the first op that waits for this one, -1 none; then `next_waiter`
    next_waiter: Any
    ending: Any  # [n] int32, stack of ops, or chunks of ops, that end now
    n_left: Any  # [n] int32, chunks
    next_s: Any  # [N_SLOTS] float64, when a lane's chunk ends; of the host also when it has issued an op
    busy: Any  # [N_LANES] int32, the op that a lane serves, -1 none
    head: Any  # [N_LANES] int64, place in `lane_op` of the first op that has not ended
    heap: Any  # [2, n] int64, ready ops of H2D and D2H, least (priority, index) first, unless they are FIFO
    n_heap: Any  # [N_LANES] int64
    active: Any  # [n] int32, ops with work at a rate that changes, ascending
    piece: Any  # [n] int8, which piece of it that is
    remaining_s: Any  # [n] float64, as of `since_s`, at a rate of 1
    since_s: Any  # [n] float64
    rate: Any  # [n] float64
    finish_s: Any  # [n] float64
    demand: Any  # [n] float64, share of the HBM bandwidth at a rate of 1
    machine: Any  # [1] MACHINE


MACHINE = np.dtype(
    [
        ("now_s", "f8"),
        ("host_s", "f8"),  # the host is free
        ("op", "i8"),  # what the host comes to next
        ("issuing", "i8"),  # the last op whose issue cost was taken
        ("look", "i8"),  # bits of the lanes for which something has changed
        ("n_ending", "i8"),
        ("n_active", "i8"),
        ("changed", "i8"),  # whether rates may have
    ]
)


@_compiled
def run(job: Any, s: Any) -> None:
    """Every op of `job`; `s.start_s` and `s.end_s` are the result."""
    m = s.machine[0]
    m.look = (1 << N_LANES) - 1
    m.issuing = -1
    while True:
        while m.n_ending > 0 or m.look != 0:
            if m.n_ending > 0:
                _end(job, s, m)
            elif m.look & 1:
                _go_on(job, s, m)
            else:
                _choose(job, s, m)
        if m.changed:
            _share(job, s, m)
        now_s = s.next_s[0]
        for slot in range(1, N_SLOTS):
            now_s = min(now_s, s.next_s[slot])
        if now_s == np.inf:
            break
        m.now_s = now_s
        _ring(job, s, m)


@_inlined
def _ring(job: Any, s: Any, m: Any) -> None:
    """Everything that is due now ends; after its latency a transfer begins."""
    for here in range(N_LANES):
        if s.next_s[here] == m.now_s:
            s.next_s[here] = np.inf
            m.look |= 1 << here
            if s.busy[here] >= 0:
                _end_later(s, m, s.busy[here])
    if s.next_s[FLOW] == m.now_s:
        n_active, m.n_active, m.changed = m.n_active, 0, 1
        for k in range(n_active):
            i = s.active[k]
            if s.finish_s[i] > m.now_s or (s.piece[i] == LATENCY and _begin_transfer(job, s, m, i)):
                s.active[m.n_active] = i
                m.n_active += 1
            else:
                _end_later(s, m, i)


@_inlined
def _end_later(s: Any, m: Any, i: int) -> None:
    """Op `i`, or a chunk of it, ends now: before the host and the lanes choose."""
    s.ending[m.n_ending] = i
    m.n_ending += 1


@_inlined
def _end(job: Any, s: Any, m: Any) -> None:
    """The last of what ends now has ended: what waited for it goes on, and what it makes pointless is dropped."""
    m.n_ending -= 1
    i = s.ending[m.n_ending]
    here = job.lane[i]
    m.look |= 1 << here
    if s.busy[here] == i:
        s.busy[here] = -1
    if s.state[i] == RUNNING:
        s.n_left[i] -= 1
        if s.n_left[i] > 0:
            _ready(job, s, m, i, PAUSED)
            return
    s.end_s[i] = m.now_s
    s.state[i] = DONE
    j = s.waiter[i]
    while j >= 0:
        following = s.next_waiter[j]
        _admit(job, s, m, j)
        j = following
    if job.cancel:
        j = job.cancels[i]
        while j >= 0:
            m.look |= 1 << job.lane[j]
            if s.state[j] == READY or s.state[j] == PAUSED:
                _drop(s, m, j)
            j = job.next_cancelled[j]


@_inlined
def _admit(job: Any, s: Any, m: Any, i: int) -> None:
    """Op `i`, issued, waits for the last of its dependencies that has not ended, or is ready."""
    for k in range(job.dep_ptr[i + 1] - 1, job.dep_ptr[i] - 1, -1):
        j = job.dep[k]
        if s.state[j] != DONE:
            s.next_waiter[i] = s.waiter[j]
            s.waiter[j] = i
            s.state[i] = WAITING
            return
    _ready(job, s, m, i, READY)


@_inlined
def _ready(job: Any, s: Any, m: Any, i: int, state: int) -> None:
    """Op `i` could start (`READY`), or go on with its next chunk (`PAUSED`), or is dropped when it is cancelled."""
    s.state[i] = state
    here = job.lane[i]
    if job.cancel and _is_cancelled(job, s, i):
        _drop(s, m, i)
        return
    m.look |= 1 << here
    if job.link != FIFO and here in (H2D, D2H):
        key = np.int64(i)
        if job.link == PRIORITY:
            key |= np.int64(job.priority[i]) << 32
        _push(s.heap[here - H2D], s.n_heap[here], key)
        s.n_heap[here] += 1


@_inlined
def _is_cancelled(job: Any, s: Any, i: int) -> bool:
    by = job.cancelled_by[i]
    return bool(by >= 0 and s.state[by] == DONE)


@_inlined
def _drop(s: Any, m: Any, i: int) -> None:
    """Op `i` is cancelled while it is ready: it ends without its lane, or without the rest of its chunks."""
    if s.state[i] == READY:
        s.start_s[i] = m.now_s
    s.state[i] = DONE
    _end_later(s, m, i)


@_inlined
def _go_on(job: Any, s: Any, m: Any) -> None:
    """The host: issues the ops in order, and runs its own unless they are cancelled, until it has to wait."""
    m.look &= ~1
    while m.op < job.lane.size and m.host_s <= m.now_s and m.n_ending == 0:
        i = m.op
        if job.lane[i] != HOST:
            if m.issuing != i:
                m.issuing = i
                m.host_s = m.now_s + job.n_chunks[i] * job.issue_s[job.cost[i]]
                if m.host_s > m.now_s:
                    s.next_s[HOST] = m.host_s
                    return
            _admit(job, s, m, i)
            m.op += 1
            continue
        if s.state[i] == NEW:
            _admit(job, s, m, i)
        if s.state[i] == DONE or (job.cancel and s.state[i] == WAITING and _is_cancelled(job, s, i)):
            m.op += 1
        elif s.state[i] == READY:
            _serve(job, s, m, i, HOST)
            m.host_s = s.next_s[HOST] if s.busy[HOST] == i else m.now_s
            return
        else:
            return
    m.look |= m.n_ending > 0


@_inlined
def _choose(job: Any, s: Any, m: Any) -> None:
    """The lowest lane for which something has changed serves its next op, if it is free and has one."""
    here = 1
    while not m.look >> here & 1:
        here += 1
    m.look &= ~(1 << here)
    if s.busy[here] >= 0:
        return
    i = -1
    if job.link != FIFO and here in (H2D, D2H):
        while i < 0 and s.n_heap[here] > 0:
            s.n_heap[here] -= 1
            i = _pop(s.heap[here - H2D], s.n_heap[here]) & 0xFFFFFFFF
            if s.state[i] == DONE:
                i = -1
    else:
        i = _first(job, s, here)
    if i >= 0:
        _serve(job, s, m, i, here)


@_inlined
def _first(job: Any, s: Any, here: int) -> int:
    """The first op of a FIFO lane that has neither ended nor is cancelled, or -1 while that is not ready."""
    at, end = s.head[here], job.lane_ptr[here + 1]
    while at < end:
        i = job.lane_op[at]
        if s.state[i] == DONE or (job.cancel and s.state[i] < READY and _is_cancelled(job, s, i)):
            at += 1
        else:
            break
    s.head[here] = at
    if at < end and (s.state[job.lane_op[at]] == READY or s.state[job.lane_op[at]] == PAUSED):
        return int(job.lane_op[at])
    return -1


@_inlined
def _serve(job: Any, s: Any, m: Any, i: int, here: int) -> None:
    """Op `i` is served: all of it, or its next chunk. A shared link is free again at once."""
    if s.state[i] == READY:
        s.start_s[i] = m.now_s
    s.state[i] = RUNNING
    on_link = here in (H2D, D2H)
    shares = on_link and (job.link == SHARED or job.both_ways)
    shares = shares or (job.dram_shared and here in (H2D, CPU))
    if shares or (job.hbm_shared and (on_link or here == COMPUTE)):
        lasts = _begin(job, s, m, i, here)
    else:
        row, n_chunks = job.cost[i], job.n_chunks[i]
        chunk_s = job.duration_s[row]
        if n_chunks > 1:
            chunk_s = max(chunk_s - job.link_s[row], 0.0) + job.link_s[row] / n_chunks
        lasts = m.now_s + chunk_s > m.now_s
        if lasts:
            s.next_s[here] = m.now_s + chunk_s
    if not lasts:
        _end_later(s, m, i)
    elif on_link and job.link == SHARED:
        m.look |= 1 << here
    else:
        s.busy[here] = i


@_inlined
def _begin(job: Any, s: Any, m: Any, i: int, here: int) -> bool:
    """The first piece of a chunk, or of the whole op on a shared link, begins; False when all of it takes no time."""
    row = job.cost[i]
    duration_s, link_s = job.duration_s[row], job.link_s[row]
    n_at_once = job.n_chunks[i] if job.link == SHARED else 1
    if here in (H2D, D2H) and link_s > 0:
        latency_s = max(duration_s - link_s, 0.0) * n_at_once
        lasts = _begin_piece(s, m, i, LATENCY, latency_s, 0.0) or _begin_transfer(job, s, m, i)
    else:
        demand = job.hbm_s[row] / duration_s if job.hbm_shared and duration_s > 0 else 0.0
        lasts = _begin_piece(s, m, i, ALONE, duration_s * n_at_once, demand)
    if lasts:
        at = m.n_active
        while at > 0 and s.active[at - 1] > i:
            s.active[at] = s.active[at - 1]
            at -= 1
        s.active[at] = i
        m.n_active += 1
    return lasts


@_inlined
def _begin_transfer(job: Any, s: Any, m: Any, i: int) -> bool:
    row = job.cost[i]
    demand = job.hbm_s[row] / job.link_s[row] if job.hbm_shared else 0.0
    if job.link == SHARED:
        return _begin_piece(s, m, i, SHARING, job.link_s[row], demand)
    return _begin_piece(s, m, i, TRANSFER, job.link_s[row] / job.n_chunks[i], demand)


@_inlined
def _begin_piece(s: Any, m: Any, i: int, piece: int, work_s: float, demand: float) -> bool:
    """Work at a rate that is not known yet; False when it takes no time."""
    if not m.now_s + work_s > m.now_s:
        return False
    s.piece[i], s.remaining_s[i], s.demand[i] = piece, work_s, demand
    s.since_s[i], s.rate[i], s.finish_s[i] = m.now_s, 0.0, np.inf
    m.changed = 1
    return True


@_inlined
def _share(job: Any, s: Any, m: Any) -> None:
    """Give all work its rate, and account for that of which it is another than before."""
    m.changed = 0
    n_h2d, n_d2h, to_device, to_host, on_cpu = 0, 0, False, False, False
    for k in range(m.n_active):
        i = s.active[k]
        if s.piece[i] == SHARING:
            if job.lane[i] == H2D:
                n_h2d += 1
            else:
                n_d2h += 1
        if s.piece[i] >= TRANSFER:
            to_device = to_device or job.lane[i] == H2D
            to_host = to_host or job.lane[i] == D2H
        on_cpu = on_cpu or job.lane[i] == CPU
    crossing = 1.0 if job.both_ways and to_device and to_host else 0.0
    reading = 1.0 if job.dram_shared and to_device and on_cpu else 0.0
    link_rate = (1.0 / max(n_h2d, 1), 1.0 / max(n_d2h, 1), crossing, reading)
    level = _level(job, s, m, link_rate) if job.hbm_shared else np.inf
    first_s = np.inf
    for k in range(m.n_active):
        i = s.active[k]
        rate = _link_rate(job, s, i, link_rate)
        demand = s.demand[i] * rate
        if demand > level:
            rate = rate * level / demand
        if rate != s.rate[i]:
            s.remaining_s[i] = max(s.remaining_s[i] - (m.now_s - s.since_s[i]) * s.rate[i], 0.0)
            s.since_s[i], s.rate[i] = m.now_s, rate
            s.finish_s[i] = m.now_s + s.remaining_s[i] / rate
        first_s = min(first_s, s.finish_s[i])
    s.next_s[FLOW] = first_s


@_inlined
def _link_rate(job: Any, s: Any, i: int, link_rate: tuple[float, float, float, float]) -> float:
    rate = 1.0
    if s.piece[i] == SHARING:
        rate = link_rate[0] if job.lane[i] == H2D else link_rate[1]
    if link_rate[2] > 0 and s.piece[i] >= TRANSFER:
        rate = rate * (job.link_s[job.cost[i]] / job.crossed_s[job.cost[i]])
    if link_rate[3] > 0 and (job.lane[i] == CPU or (job.lane[i] == H2D and s.piece[i] >= TRANSFER)):
        rate = rate * job.contended[job.cost[i]]
    return rate


@_inlined
def _level(job: Any, s: Any, m: Any, link_rate: tuple[float, float, float, float]) -> float:
    """The most HBM bandwidth that any op gets: `flow.max_min_level`."""
    level = 0.0
    while True:
        free, n_beyond = 1.0, 0
        for k in range(m.n_active):
            i = s.active[k]
            demand = s.demand[i] * _link_rate(job, s, i, link_rate)
            if demand <= level:
                free -= demand
            else:
                n_beyond += 1
        if n_beyond == 0:
            return np.inf
        if free / n_beyond <= level:
            return level
        level = free / n_beyond


@_inlined
def _push(heap: Any, n: int, key: Any) -> None:
    """Into a heap of `n` keys."""
    at = n
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key


@_inlined
def _pop(heap: Any, n: int) -> int:
    """The least key of a heap of `n` + 1."""
    least, key = heap[0], heap[n]
    at, down = 0, 1
    while down < n:
        if down + 1 < n and heap[down + 1] < heap[down]:
            down += 1
        if heap[down] >= key:
            break
        heap[at] = heap[down]
        at, down = down, 2 * down + 1
    heap[at] = key
    return int(least)
