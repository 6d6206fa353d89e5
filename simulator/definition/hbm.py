"""HBM as a SimPy `Container` that can never be overdrawn: a schedule that tries is a bug and is refused."""

from __future__ import annotations

import simpy

from offload.schedule import Schedule
from offload.slots.memory import CapacityExceeded
from traces.errors import InvalidInput


class Hbm:
    """The bytes of HBM in use while a schedule runs, its static bytes included.

    Raises `CapacityExceeded` when more is in use before the first op than there is.
    """

    def __init__(self, env: simpy.Environment, schedule: Schedule, capacity_bytes: int) -> None:
        self.static_bytes = schedule.static_bytes
        if self.static_bytes > capacity_bytes:
            raise CapacityExceeded(
                f"{self.static_bytes} bytes are in use before the first op, HBM has {capacity_bytes}"
            )
        self.acquired, self.released = schedule.hbm_acquired.tolist(), schedule.hbm_released.tolist()
        self.store = simpy.Container(env, capacity=capacity_bytes, init=self.static_bytes)

    def take(self, i: int) -> None:
        """Op `i` starts. Raises `CapacityExceeded` when it takes more than is free."""
        if not self.acquired[i]:
            return
        if self.store.level + self.acquired[i] > self.store.capacity:
            raise CapacityExceeded(
                f"op {i} takes {self.acquired[i]} bytes of HBM, {self.store.level} of {self.store.capacity} are in use"
            )
        self.store.put(self.acquired[i])

    def give_back(self, i: int) -> None:
        """Op `i` ends. Raises `InvalidInput` when it gives back more than ops have taken."""
        if not self.released[i]:
            return
        taken = self.store.level - self.static_bytes
        if self.released[i] > taken:
            raise InvalidInput(f"op {i} gives back {self.released[i]} bytes of HBM, ops have taken {taken}")
        self.store.get(self.released[i])
