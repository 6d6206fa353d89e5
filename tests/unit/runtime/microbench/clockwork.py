"""A back end in virtual time, for what is timed on back ends, and the least that one can do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from offload.ops import Lane

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Action, Backend, Copy, DeviceBudget, Times  # noqa: E402
from runtime.programs.precedence import Order  # noqa: E402


class Clockwork:
    """A back end in virtual time: copies take bytes over the rate of their way, all else nothing."""

    name = "clockwork"

    def __init__(self, h2d_bytes_per_s: float, d2h_bytes_per_s: float) -> None:
        self.budget = DeviceBudget(None)
        self.rates = {Lane.H2D: h2d_bytes_per_s, Lane.D2H: d2h_bytes_per_s}
        self.ends: list[float] = []
        self.starts: list[float] = []
        self.free = dict.fromkeys(Lane, 0.0)

    def allocate(self, n_bytes: int, what: str) -> torch.Tensor:
        return torch.zeros(n_bytes, dtype=torch.uint8)

    allocate_host = allocate

    def upload(self, values: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values)

    def load(self, order: Order, actions: Sequence[Action | None]) -> None:
        self.order, self.actions = order, actions

    def issue(self, op: int) -> None:
        assert op == len(self.ends), "issued out of order"
        lane, action = Lane(self.order.lane[op]), self.actions[op]
        taken = action.n_bytes / self.rates[lane] if isinstance(action, Copy) else 0.0
        self.starts.append(max([self.free[lane], *(self.ends[dep] for dep in self.order.waits[op])]))
        self.ends.append(self.starts[-1] + taken)
        self.free[lane] = self.ends[-1]

    def wait(self, op: int) -> None:
        self.issue(op)

    def synchronise(self) -> None:
        pass

    def times(self) -> Times:
        return Times(np.array(self.starts), np.array(self.ends), {})

    def close(self) -> None:
        pass


def tiny(backend: Backend) -> Action:
    numbers = backend.allocate(64, "a few numbers")

    def kernel() -> None:
        numbers.add_(0)

    return kernel
