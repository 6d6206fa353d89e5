"""What the host pays to issue an op that does next to nothing, and a device from one such kernel to the next.

What an op costs its host is the host's clock, what kernels take is their lane's: they are timed with the lane held up
first, so that its queue is full and the host is not what limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np

from hwmodels.calibrate.measurements import Sample, sample_of
from offload.ops import Lane
from runtime.backends.backend import Action, Backend, Copy
from runtime.microbench.lanes import Timed, timed

_LANES = (Lane.COMPUTE, Lane.H2D)

_LEAST, _MOST = 20, 200
"""Ops of a run. With their events they fill a device's queue, of some thousand commands, no further than that: a host
that waits for room in it is not ahead (LOG.md, 2026-11-29).
"""

_EACH_S = 200e-6
"""More than an op of a run takes on any machine worth measuring, when their number is chosen."""

_N_RUNS = 3
"""Runs of so many ops."""

_HOLD_S = 20e-3
"""Longer than a host takes to issue all ops of a run."""


def host_samples(
    make: Callable[[], Backend],
    tiny: Callable[[Backend], Action],
    *,
    hold: Action | None = None,
    n: int = _MOST,
    budget_s: float = 0.5,
) -> list[Sample]:
    """Samples "issue", host time by lane of an op that waits for none and finds its lane busy, and "launch", from the
    start of one kernel to the next with a queue that is full. What the constants `launch_s`, `copy_issue_s` and
    `kernel_s` of a fit are.

    `tiny`: a kernel that takes next to nothing, made on a back end. `hold`: keeps the compute lane busy for longer than
    the host takes to issue `n` ops; by default its thread sleeps, which a back end without one cannot: no queue is
    "full" then, and there is no "launch". Ops a run: `n`, or what fits `budget_s`, at least 20.
    """
    n = max(_LEAST, min(n, int(budget_s / _N_RUNS / _EACH_S)))
    held = hold if hold is not None else partial(time.sleep, _HOLD_S)
    samples = [_issued(make, tiny, lane, n) for lane in _LANES]
    launches = _launches(make, tiny, held, n)
    return samples if launches is None else [*samples, launches]


def _issued(make: Callable[[], Backend], tiny: Callable[[Backend], Action], lane: Lane, n: int) -> Sample:
    """Host time of each call."""
    with closing(make()) as backend:
        run = timed(backend, [lane] * n, [_action(backend, tiny, lane)] * n)
    return sample_of("issue", run.issue_s[n // 4 :].tolist(), lane=lane.name.lower(), waits=0, found="busy")


def _action(backend: Backend, tiny: Callable[[Backend], Action], lane: Lane) -> Action:
    if lane is Lane.COMPUTE:
        return tiny(backend)
    return Copy(backend.allocate(64, "a few bytes"), backend.allocate_host(64, "a few bytes"))


def _launches(make: Callable[[], Backend], tiny: Callable[[Backend], Action], hold: Action, n: int) -> Sample | None:
    """One kernel after another in one lane; None where the host had not issued all before the first began."""
    with closing(make()) as backend:
        kernel = tiny(backend)
        run = timed(backend, [Lane.COMPUTE] * (1 + n), [hold, *[kernel] * n])
    if not _is_full(run):
        return None
    apart = np.diff(run.times.start_s[1:])[n // 4 :]
    return sample_of("launch", apart.tolist(), lane="compute", queue="full")


def _is_full(run: Timed) -> bool:
    """Whether the first op lasted until the host had issued all: an op that the host itself sleeps in does not."""
    held_s = float(run.times.end_s[0] - run.times.start_s[0])
    return held_s > float(run.issue_s.sum())
