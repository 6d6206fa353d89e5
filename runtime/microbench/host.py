"""What the host pays: to issue an op, to wait for one, to synchronise; and what it takes from one op to the next.

An op here does next to nothing. What the host lane costs is the host's clock, what lanes take is theirs: kernels and
edges between lanes are timed with the lane held up first, so that its queue is full and the host is not what limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import numpy as np

from hwmodels.calibrate.measurements import Sample, sample_of
from offload.ops import Lane
from runtime.backend import Action, Backend, Copy
from runtime.microbench.lanes import Timed, timed

__all__ = ["host_samples"]

_LANES = (Lane.COMPUTE, Lane.H2D, Lane.D2H)

_LEAST, _MOST = 20, 400
"""Ops of a run."""

_EACH_S = 200e-6
"""More than an op of a run takes on any machine worth measuring, when their number is chosen."""

_N_RUNS = 16
"""Runs of so many ops, about."""

_HOLD_S = 20e-3
"""Longer than a host takes to issue all ops of a run."""

_HELD_BYTES = 4 << 20
"""A copy that lasts while the host goes to wait for it."""

_N_WAITS = 20
_N_SYNCHRONISED = 10


def host_samples(
    make: Callable[[], Backend],
    tiny: Callable[[Backend], Action],
    *,
    hold: Action | None = None,
    n: int = _MOST,
    budget_s: float = 2.0,
) -> list[Sample]:
    """Samples of the host's time: "issue" (lane, waits: of how many ops, found: the lane "busy" or "idle"), "wait"
    (on: "running", "ended"), "sync" (with nothing in flight); and of the lanes': "launch" (from the start of one kernel
    to the next), "edge" (from the end of an op to the end of the next, on the other of two lanes), with queue: "full",
    "as issued".

    `tiny`: a kernel that takes next to nothing, made on a back end. `hold`: keeps the compute lane busy for longer than
    the host takes to issue `n` ops; by default its thread sleeps, which a back end without one cannot: no queue is
    "full" then. Ops a run: `n`, or what fits `budget_s`, at least 20.
    """
    n = max(_LEAST, min(n, int(budget_s / _N_RUNS / _EACH_S)))
    held = hold if hold is not None else partial(time.sleep, _HOLD_S)
    states = [(lane, n_waits, idle) for lane in _LANES for n_waits in (0, 1) for idle in (False, True)]
    samples = [_issued(make, tiny, *state, n) for state in states]
    samples.append(_launches(make, tiny, None, n))
    samples += [full for full in (_launches(make, tiny, held, n),) if full.parameters["queue"] == "full"]
    samples += [_hops(make, tiny, other, held, n) for other in (Lane.H2D, Lane.D2H)]
    samples += _waited(make, tiny)
    samples.append(sample_of("sync", [_synchronised_s(make, tiny) for _ in range(_N_SYNCHRONISED)]))
    return samples


def _issued(
    make: Callable[[], Backend], tiny: Callable[[Backend], Action], lane: Lane, n_waits: int, idle: bool, n: int
) -> Sample:
    """Host time of each call. What ops wait for is an op of another lane that has ended; to find its lane idle, the
    host waits for each op before the next.
    """
    other = Lane.D2H if lane is Lane.COMPUTE else Lane.COMPUTE
    n_turn = 1 + idle
    with closing(make()) as backend:
        first, action = (_action(backend, tiny, one) for one in (other, lane))
        turns = [((0,) * n_waits, (2 + i * n_turn,))[:n_turn] for i in range(n)]
        run = timed(
            backend,
            [other, Lane.HOST, *[lane, Lane.HOST][:n_turn] * n],
            [first, None, *[action, None][:n_turn] * n],
            [(), (0,), *(waits for turn in turns for waits in turn)],
        )
    counted = run.issue_s[2::n_turn][n // 4 :]
    found = "idle" if idle else "busy"
    return sample_of("issue", counted.tolist(), lane=lane.name.lower(), waits=n_waits, found=found)


def _action(backend: Backend, tiny: Callable[[Backend], Action], lane: Lane) -> Action:
    if lane is Lane.COMPUTE:
        return tiny(backend)
    host, device = backend.allocate_host(64, "a few bytes"), backend.allocate(64, "a few bytes")
    return Copy(device, host) if lane is Lane.H2D else Copy(host, device)


def _launches(make: Callable[[], Backend], tiny: Callable[[Backend], Action], hold: Action | None, n: int) -> Sample:
    """One kernel after another in one lane."""
    with closing(make()) as backend:
        kernel = tiny(backend)
        run = timed(backend, [Lane.COMPUTE] * (1 + n), [kernel if hold is None else hold, *[kernel] * n])
    apart = np.diff(run.times.start_s[1:])[n // 4 :]
    return sample_of("launch", apart.tolist(), lane="compute", queue=_queue(run, hold is not None))


def _hops(make: Callable[[], Backend], tiny: Callable[[Backend], Action], other: Lane, hold: Action, n: int) -> Sample:
    """A kernel on one lane that waits for the last one on the other, and so on; both ways count the same."""
    n -= n % 2
    with closing(make()) as backend:
        here, there = tiny(backend), tiny(backend)
        lanes, actions = [Lane.COMPUTE, *[other, Lane.COMPUTE] * (n // 2)], [hold, *[there, here] * (n // 2)]
        run = timed(backend, lanes, actions, [(op - 1,) if op else () for op in range(n + 1)])
    ends_s = run.times.end_s[1 + n // 4 :]
    between = f"compute and {other.name.lower()}"
    return sample_of("edge", ((ends_s[2:] - ends_s[:-2]) / 2).tolist(), between=between, queue=_queue(run, True))


def _queue(run: Timed, held: bool) -> str:
    """Whether the first op lasted until the host had issued all: an op that the host itself sleeps in does not."""
    held_s = float(run.times.end_s[0] - run.times.start_s[0])
    return "full" if held and held_s > run.issue_s.sum() else "as issued"


def _waited(make: Callable[[], Backend], tiny: Callable[[Backend], Action]) -> Iterator[Sample]:
    """The host waits for a copy on its way, and once more now that it has ended.

    Times are those of the host lane, which begin when the host could go on.
    """
    with closing(make()) as backend:
        host = backend.allocate_host(_HELD_BYTES, "a copy to wait for")
        copy = Copy(backend.allocate(_HELD_BYTES, "a copy to wait for"), host)
        actions: list[Action | None] = [copy, None, None]
        waits = [wait for i in range(_N_WAITS) for wait in ((), (3 * i,), (3 * i,))]
        times = timed(backend, [Lane.H2D, Lane.HOST, Lane.HOST] * _N_WAITS, actions * _N_WAITS, waits).times
    taken = (times.end_s - times.start_s).reshape(_N_WAITS, 3)[1:]
    yield sample_of("wait", taken[:, 1].tolist(), on="running")
    yield sample_of("wait", taken[:, 2].tolist(), on="ended")


def _synchronised_s(make: Callable[[], Backend], tiny: Callable[[Backend], Action]) -> float:
    """Host time to synchronise once everything has ended."""
    with closing(make()) as backend:
        kernel = tiny(backend)
        return timed(backend, [Lane.COMPUTE, Lane.HOST], [kernel, None], [(), (0,)]).synchronise_s
