"""Work at rates that change, for `event_kernel`: what shares a resource, and when the first of it ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.events.event_state import D2H, FLOW, H2D, SHARED
from simulator.resources import LATENCY, TRANSFER, WHOLE


def begin(job: Any, s: Any, m: Any, i: int, here: int) -> bool:
    """The first piece of a chunk, or of the whole op on a shared link, begins; False when all of it takes no time."""
    row = job.cost[i]
    duration_s, link_s = job.duration_s[row], job.link_s[row]
    n_at_once = job.n_chunks[i] if job.link == SHARED else 1
    if here in (H2D, D2H) and link_s > 0:
        latency_s = max(duration_s - link_s, 0.0) * n_at_once
        lasts = _begin_piece(job, s, m, i, LATENCY, latency_s) or begin_transfer(job, s, m, i)
    else:
        lasts = _begin_piece(job, s, m, i, WHOLE, duration_s * n_at_once)
    if lasts:
        at = m.n_active
        while at > 0 and s.active[at - 1] > i:
            s.active[at] = s.active[at - 1]
            at -= 1
        s.active[at] = i
        m.n_active += 1
    return lasts


def begin_transfer(job: Any, s: Any, m: Any, i: int) -> bool:
    """After its latency the transfer of op `i` begins; False when it takes no time."""
    n_alone = 1 if job.link == SHARED else job.n_chunks[i]
    return _begin_piece(job, s, m, i, TRANSFER, job.link_s[job.cost[i]] / n_alone)


def _begin_piece(job: Any, s: Any, m: Any, i: int, piece: int, work_s: float) -> bool:
    """Work at a rate that is not known yet; False when it takes no time."""
    if not m.now_s + work_s > m.now_s:
        return False
    s.piece[i], s.remaining_s[i] = piece, work_s
    s.since_s[i], s.rate[i], s.finish_s[i] = m.now_s, 0.0, np.inf
    s.drawn[i] = job.drawn_by[piece, job.lane[i]]
    m.changed = 1
    return True


def share_rates(job: Any, s: Any, m: Any) -> None:
    """Give all work its rate, and account for that of which it is another than before."""
    m.changed = 0
    drawn = 0
    for k in range(m.n_active):
        s.shared_rate[k] = 1.0
        drawn |= s.drawn[s.active[k]]
    for resource in range(job.divided.size):
        if drawn >> resource & 1:
            if job.divided[resource]:
                _divide(job, s, m, resource)
            else:
                _slow_down(job, s, m, resource)
    first_s = np.inf
    for k in range(m.n_active):
        i, rate = s.active[k], s.shared_rate[k]
        if rate != s.rate[i]:
            s.remaining_s[i] = max(s.remaining_s[i] - (m.now_s - s.since_s[i]) * s.rate[i], 0.0)
            s.since_s[i], s.rate[i] = m.now_s, rate
            s.finish_s[i] = m.now_s + s.remaining_s[i] / rate
        first_s = min(first_s, s.finish_s[i])
    s.next_s[FLOW] = first_s


def _draw(job: Any, s: Any, i: int, resource: int) -> float:
    """What the piece of op `i` that is under way draws on a resource, 0 if it does not."""
    if s.drawn[i] >> resource & 1:
        return float(job.draw[resource, s.piece[i], job.cost[i]])
    return 0.0


def _slow_down(job: Any, s: Any, m: Any, resource: int) -> None:
    """If more than one lane draws on a resource, all that does keeps its share of its rate."""
    lanes = 0
    for k in range(m.n_active):
        if s.drawn[s.active[k]] >> resource & 1:
            lanes |= 1 << job.lane[s.active[k]]
    if lanes & (lanes - 1):
        for k in range(m.n_active):
            if s.drawn[s.active[k]] >> resource & 1:
                s.shared_rate[k] = s.shared_rate[k] * _draw(job, s, s.active[k], resource)


def _divide(job: Any, s: Any, m: Any, resource: int) -> None:
    """One resource, max-min fair: who demands more than `flow.max_min_level` gets that.

    The level is found as soon as none of those above it has enough with it.
    """
    n_beyond, least, most = 0, np.inf, 0.0
    for k in range(m.n_active):
        demand = _draw(job, s, s.active[k], resource) * s.shared_rate[k]
        s.demand[k] = demand
        if demand > 0:
            n_beyond += 1
            least, most = min(least, demand), max(most, demand)
    level = 1.0 / max(n_beyond, 1)
    if most <= level:
        return
    while least <= level:
        free, n_beyond, least = 1.0, 0, np.inf
        for k in range(m.n_active):
            if s.demand[k] <= level:
                free -= s.demand[k]
            else:
                n_beyond += 1
                least = min(least, s.demand[k])
        if n_beyond == 0:
            return
        if free / n_beyond <= level:
            break
        level = free / n_beyond
    for k in range(m.n_active):
        if s.demand[k] > level:
            s.shared_rate[k] = s.shared_rate[k] * level / s.demand[k]
