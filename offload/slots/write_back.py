"""Experts that a cache lets go, copied back to host memory before others take their slots.

The released code of Eliseev and Mazur swaps: what is loaded goes into a spare buffer, what it takes the place of goes
back to host memory, and its buffer is the next spare (dvmazur/mixtral-offloading, src/expert_cache.py, `_swap`).
Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Mapping

from offload.ops import Work
from offload.slots.copies import CopyWriter, Target


class WriteBacks:
    """Writes experts back. `residents`: slot -> (layer, expert) that a warm cache holds at the start."""

    def __init__(self, writer: CopyWriter, work: Work, residents: Mapping[int, tuple[int, int]]) -> None:
        self._writer, self._work = writer, work
        self._content = dict(residents)
        self._written: dict[tuple[int, int], int] = {}  # expert -> the op that wrote it back last

    def live_ops(self) -> tuple[int, ...]:
        """The ops that a later fetch may have to wait for."""
        return tuple(self._written.values())

    def last_of(self, layer: int, expert: int) -> int:
        """The op that wrote an expert back last, which a fetch of it waits for; -1 none."""
        return self._written.get((layer, expert), -1)

    def keep(self, slot: int, layer: int, expert: int) -> None:
        """A cache keeps an expert in `slot`."""
        self._content[slot] = layer, expert

    def give(self, slot: int, step: int, filled: int, reader: int) -> int:
        """Write back what the cache kept in `slot`, filled by one op and read last by another; returns the copy."""
        layer, expert = self._content.pop(slot)
        target = Target(layer, expert, slot, step, reader, False, False)
        op = self._written[layer, expert] = self._writer.write_back(self._work, target, filled)
        return op
