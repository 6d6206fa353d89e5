"""What designs that guess bring ahead, on many machines at once: the figures of `Prefetches` as arrays.

How much is right and how much is wasted no machine changes; how early it comes is read from the ends of the copies that
were needed and of the gates that named them, some machines at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.metrics.prefetches import Prefetches, RightCopies
from pregate.ask.capturing.capture import Captured
from pregate.ask.timing.captured_metrics import right_copies_of
from simulator.batched import batch
from simulator.batched.batch import Compiled

AHEAD = (
    "precision", "recall", "wasted_bytes", "early_s", "in_time", "n_read_ahead", "read_precision", "read_wasted_bytes",
)  # fmt: skip
"""Fields of `Prefetches` that a sweep has, as `prefetch_precision` and so on; NaN of a share of nothing."""

_MOST_ENDS = 1 << 22
"""Ends of ops that are kept at a time: 32 MiB."""


def ahead_of(found: Prefetches | None) -> dict[str, Any]:
    """The figures of one run by name; none of a design that guesses nothing."""
    if found is None:
        return {}
    values = {name: getattr(found, name) for name in AHEAD}
    return {f"prefetch_{name}": np.nan if value is None else float(value) for name, value in values.items()}


def ahead_on(captured: Captured, ready: Compiled, costs: Costs) -> dict[str, NDArray[Any]]:
    """The figures on FIFO machines by name, (n_machines,); none of a design that guesses nothing.

    `ready`: `captured` made ready; `costs` (n_works, n_machines).
    """
    right = right_copies_of(captured)
    if right is None:
        return {}
    n_machines = costs.duration_s.shape[1]
    plain = ahead_of(right.found)
    found = {name: np.full(n_machines, value) for name, value in plain.items()}
    found["prefetch_early_s"], found["prefetch_in_time"] = _times(right, ready, costs)
    return found


def _times(right: RightCopies, ready: Compiled, costs: Costs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How early right copies came, and which share in time, (n_machines,)."""
    n_machines = costs.duration_s.shape[1]
    at = np.unique(np.concatenate([right.copies, right.gates]))
    if not at.size:
        return right.times(np.zeros((n_machines, 0)), at)
    watching = batch.compile_schedule(ready.schedule, replace(ready.probes, step_ends=at))
    n_at_once = max(1, _MOST_ENDS // at.size)
    parts = []
    for first in range(0, n_machines, n_at_once):
        some = slice(first, first + n_at_once)
        mine = Costs(*(np.ascontiguousarray(values[:, some]) for values in (costs.issue_s, costs.duration_s)))
        parts.append(right.times(batch.evaluate(watching, mine).step_end_s, at))
    early_s, in_time = (np.concatenate(column) for column in zip(*parts, strict=True))
    return early_s, in_time
