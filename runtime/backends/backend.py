"""The seam between a schedule and a machine: memory pools, lanes that serve ops in issue order, events, one clock.

A back end knows no model and no policy. What it is given is ready: an op is an action on memory that exists already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offload.ops import Lane
from offload.slots.memory import CapacityExceeded
from runtime.backends.interruptions import Interruptions
from runtime.programs.precedence import Order
from traces.errors import PregateError


class LaneFailure(PregateError):
    """An op failed on the device; the message names it, the cause is chained. Nothing of the run is kept."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes to move between host and device: both (n,) of one dtype, contiguous, neither overlapping the other."""

    target: Tensor
    source: Tensor

    @property
    def n_bytes(self) -> int:
        """What crosses the link."""
        return self.source.nbytes


Action = Callable[[], int | None] | Copy
"""What an op does on its lane: a copy, or a function that returns the bytes it moved (None when it computes)."""


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """When each op ran, `start_s` and `end_s` (n_ops,) seconds from one zero, and the bytes that each lane moved.

    `interruptions`: of the threads of its lanes, None of a device that has none.
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    moved_bytes: Mapping[Lane, int]
    interruptions: Interruptions | None = None

    @property
    def ran_s(self) -> NDArray[np.float64]:
        """(n_ops,): how long each op ran, without what its thread was kept from running."""
        lasted_s = self.end_s - self.start_s
        return lasted_s if self.interruptions is None else np.maximum(lasted_s - self.interruptions.on_lane_s, 0.0)


class DeviceBudget:
    """HBM handed out so far, of at most `hbm_bytes` (None: whatever the device has)."""

    def __init__(self, hbm_bytes: int | None) -> None:
        self.hbm_bytes = hbm_bytes
        self.taken: dict[str, int] = {}

    def check(self, wanted: Mapping[str, int]) -> None:
        """Raise `CapacityExceeded` unless all of `wanted`, bytes by what for, would fit beside what is taken."""
        trial = DeviceBudget(self.hbm_bytes)
        trial.taken = dict(self.taken)
        for what, n_bytes in wanted.items():
            trial.take(n_bytes, what)

    def take(self, n_bytes: int, what: str) -> None:
        """Count `n_bytes` for `what`. Raises `CapacityExceeded` when they do not fit."""
        before = sum(self.taken.values())
        if self.hbm_bytes is not None and before + n_bytes > self.hbm_bytes:
            raise CapacityExceeded(
                f"{what}: {n_bytes / 1e9:.3f} GB do not fit, {before / 1e9:.3f} of {self.hbm_bytes / 1e9:.3f} GB of "
                f"HBM are taken: try a larger --hbm, a smaller batch or fewer expert slots",
                before + n_bytes,
            )
        self.taken[what] = self.taken.get(what, 0) + n_bytes


class Backend(Protocol):
    """A device for one run: allocate, load, then issue and wait in schedule order, synchronise, read the times, close.

    Every verb but `close` may raise `LaneFailure` once an op has failed. `close` is always called, also after an
    error or an interrupt: it stops the lanes, joins what runs and frees the pools; calling it again does nothing.
    """

    name: str
    budget: DeviceBudget

    def allocate(self, n_bytes: int, what: str) -> Tensor:
        """Zeroed device memory, (n_bytes,) uint8 beginning on a page, out of the HBM budget.

        Raises `CapacityExceeded`, saying `what` it was for, when the budget or the device is too small.
        """
        ...

    def allocate_host(self, n_bytes: int, what: str) -> Tensor:
        """Zeroed host memory, (n_bytes,) uint8 beginning on a page, that the device copies from and to by itself."""
        ...

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        """A small constant on the device, outside the budget: what forces the routing and checks the outcome."""
        ...

    def load(self, order: Order, actions: Sequence[Action | None]) -> None:
        """Make the lanes and the events that `order` needs for `actions`, one an op, None for what the host does.

        The clock starts with the first op issued. A device may run actions of the compute lane before that, or record
        and replay them: all they do must be on the device.
        """
        ...

    def open(self, most_ops: int, lanes: Iterable[Lane]) -> None:
        """As `load`, of ops that come one by one, at most so many and on these lanes: `add` each, then issue it."""
        ...

    def add(self, lane: Lane, waits: tuple[int, ...], action: Action | None) -> None:
        """The next op, what it waits for, and what it does."""
        ...

    def ended(self, op: int) -> None:
        """Block the caller until `op`, which was issued, has ended; this is no op of a schedule."""
        ...

    def issue(self, op: int) -> None:
        """Have the lane of `op` run its action once what it waits for has ended."""
        ...

    def wait(self, op: int) -> None:
        """Block the host, which runs `op`, until what it waits for has ended."""
        ...

    def synchronise(self) -> None:
        """Block until every op issued has ended."""
        ...

    def times(self) -> Times:
        """After `synchronise`."""
        ...

    def close(self) -> None:
        """Stop, join, free."""
        ...
