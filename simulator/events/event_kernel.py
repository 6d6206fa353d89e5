"""The contract of `simulator.modes` as machine code: one loop over instants, and within each over ends and choices.

Written for `compiled`: all of it becomes part of `run`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.events.event_rates import begin, begin_transfer, share_rates
from simulator.events.event_state import (
    D2H,
    DONE,
    FIFO,
    FLOW,
    H2D,
    HOST,
    N_LANES,
    N_SLOTS,
    NEW,
    PAUSED,
    PRIORITY,
    READY,
    RUNNING,
    SHARED,
    WAITING,
    Job,
    Run,
)
from simulator.resources import LATENCY


def run(
    lane: Any, cost: Any, dep_ptr: Any, dep: Any, priority: Any, cancelled_by: Any,
    issue_s: Any, duration_s: Any, link_s: Any,
    lane_ptr: Any, lane_op: Any, cancels: Any, next_cancelled: Any, n_chunks: Any,
    link: int, cancel: bool, flowing: int, divided: Any, drawn_by: Any, draw: Any,
    start_s: Any, end_s: Any, state: Any, waiter: Any, next_waiter: Any, ending: Any, n_left: Any, next_s: Any,
    busy: Any, head: Any, heap: Any, n_heap: Any, active: Any, piece: Any,
    remaining_s: Any, since_s: Any, rate: Any, finish_s: Any, drawn: Any, shared_rate: Any, demand: Any,
    machine: Any,
) -> None:  # fmt: skip
    """Every op of a `Job`, as a `Run` goes; `start_s` and `end_s` are the result."""
    job = Job(
        lane, cost, dep_ptr, dep, priority, cancelled_by, issue_s, duration_s, link_s, lane_ptr, lane_op, cancels,
        next_cancelled, n_chunks, link, cancel, flowing, divided, drawn_by, draw,
    )  # fmt: skip
    s = Run(
        start_s, end_s, state, waiter, next_waiter, ending, n_left, next_s, busy, head, heap, n_heap, active, piece,
        remaining_s, since_s, rate, finish_s, drawn, shared_rate, demand, machine,
    )  # fmt: skip
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
            share_rates(job, s, m)
        now_s = s.next_s[0]
        for slot in range(1, N_SLOTS):
            now_s = min(now_s, s.next_s[slot])
        if now_s == np.inf:
            break
        m.now_s = now_s
        _ring(job, s, m)


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
            if s.finish_s[i] > m.now_s or (s.piece[i] == LATENCY and begin_transfer(job, s, m, i)):
                s.active[m.n_active] = i
                m.n_active += 1
            else:
                _end_later(s, m, i)


def _end_later(s: Any, m: Any, i: int) -> None:
    """Op `i`, or a chunk of it, ends now: before the host and the lanes choose."""
    s.ending[m.n_ending] = i
    m.n_ending += 1


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


def _is_cancelled(job: Any, s: Any, i: int) -> bool:
    by = job.cancelled_by[i]
    return bool(by >= 0 and s.state[by] == DONE)


def _drop(s: Any, m: Any, i: int) -> None:
    """Op `i` is cancelled while it is ready: it ends without its lane, or without the rest of its chunks."""
    if s.state[i] == READY:
        s.start_s[i] = m.now_s
    s.state[i] = DONE
    _end_later(s, m, i)


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


def _serve(job: Any, s: Any, m: Any, i: int, here: int) -> None:
    """Op `i` is served: all of it, or its next chunk. A shared link is free again at once."""
    if s.state[i] == READY:
        s.start_s[i] = m.now_s
    s.state[i] = RUNNING
    if job.flowing >> here & 1:
        lasts = begin(job, s, m, i, here)
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
    elif job.link == SHARED and here in (H2D, D2H):
        m.look |= 1 << here
    else:
        s.busy[here] = i


def _push(heap: Any, n: int, key: Any) -> None:
    """Into a heap of `n` keys."""
    at = n
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key


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
