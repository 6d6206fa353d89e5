"""Work at rates that change, for `event_kernel`: what shares a link, HBM or DRAM, and when the first of it ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.event_state import ALONE, CPU, D2H, FLOW, H2D, LATENCY, SHARED, SHARING, TRANSFER

__all__ = ["begin", "begin_transfer", "share_rates"]


def begin(job: Any, s: Any, m: Any, i: int, here: int) -> bool:
    """The first piece of a chunk, or of the whole op on a shared link, begins; False when all of it takes no time."""
    row = job.cost[i]
    duration_s, link_s = job.duration_s[row], job.link_s[row]
    n_at_once = job.n_chunks[i] if job.link == SHARED else 1
    if here in (H2D, D2H) and link_s > 0:
        latency_s = max(duration_s - link_s, 0.0) * n_at_once
        lasts = _begin_piece(s, m, i, LATENCY, latency_s, 0.0) or begin_transfer(job, s, m, i)
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


def begin_transfer(job: Any, s: Any, m: Any, i: int) -> bool:
    """After its latency the transfer of op `i` begins; False when it takes no time."""
    row = job.cost[i]
    demand = job.hbm_s[row] / job.link_s[row] if job.hbm_shared else 0.0
    if job.link == SHARED:
        return _begin_piece(s, m, i, SHARING, job.link_s[row], demand)
    return _begin_piece(s, m, i, TRANSFER, job.link_s[row] / job.n_chunks[i], demand)


def _begin_piece(s: Any, m: Any, i: int, piece: int, work_s: float, demand: float) -> bool:
    """Work at a rate that is not known yet; False when it takes no time."""
    if not m.now_s + work_s > m.now_s:
        return False
    s.piece[i], s.remaining_s[i], s.demand[i] = piece, work_s, demand
    s.since_s[i], s.rate[i], s.finish_s[i] = m.now_s, 0.0, np.inf
    m.changed = 1
    return True


def share_rates(job: Any, s: Any, m: Any) -> None:
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


def _link_rate(job: Any, s: Any, i: int, link_rate: tuple[float, float, float, float]) -> float:
    rate = 1.0
    if s.piece[i] == SHARING:
        rate = link_rate[0] if job.lane[i] == H2D else link_rate[1]
    if link_rate[2] > 0 and s.piece[i] >= TRANSFER:
        rate = rate * (job.link_s[job.cost[i]] / job.crossed_s[job.cost[i]])
    if link_rate[3] > 0 and (job.lane[i] == CPU or (job.lane[i] == H2D and s.piece[i] >= TRANSFER)):
        rate = rate * job.contended[job.cost[i]]
    return rate


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
