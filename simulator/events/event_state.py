"""What `event_kernel` runs and what it keeps meanwhile: arrays that the caller owns and keeps alive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from offload.ops import Lane

FIFO, SHARED, PRIORITY = range(3)
"""How the links serve copies."""
NEW, WAITING, READY, PAUSED, RUNNING, DONE = range(6)
"""What an op is: not issued, waiting for dependencies, could start, between two chunks, in service, ended."""
HOST, H2D, D2H = int(Lane.HOST), int(Lane.H2D), int(Lane.D2H)
N_LANES = len(Lane)
FLOW = N_LANES
N_SLOTS = N_LANES + 1
"""Things that happen next: one a lane, and the first end of all work at rates that change."""


class Job(NamedTuple):
    """What is run, read only: columns of the schedule (n,), costs (n_works,), what was prepared, and the modes."""

    lane: Any
    cost: Any
    dep_ptr: Any  # [n + 1]
    dep: Any  # [n_deps]
    priority: Any
    cancelled_by: Any
    issue_s: Any
    duration_s: Any
    link_s: Any
    lane_ptr: Any  # [N_LANES + 1]
    lane_op: Any  # [n], ops lane by lane
    cancels: Any  # [n] the first op that the end of an op cancels, -1 none; then `next_cancelled`
    next_cancelled: Any
    n_chunks: Any  # [n]
    link: int
    cancel: bool
    flowing: int  # the bits of `resources.Demands.flowing`; then its arrays
    divided: Any  # [n_resources]
    drawn_by: Any  # [3, N_LANES]
    draw: Any  # [n_resources, 3, n_works]


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
    piece: Any  # [n] int8, which piece of it that is: `resources`' WHOLE, TRANSFER or LATENCY
    remaining_s: Any  # [n] float64, as of `since_s`, at a rate of 1
    since_s: Any  # [n] float64
    rate: Any  # [n] float64
    finish_s: Any  # [n] float64
    drawn: Any  # [n] int32, what that draws on: bits of resources
    shared_rate: Any  # [n] float64, by place in `active`: the rate being worked out; then the demand of one resource
    demand: Any
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
