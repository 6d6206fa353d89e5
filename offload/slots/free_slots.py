"""Transient slots of HBM that are free, those that have been free for longest first. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Sequence


class FreeSlots:
    """Slots 0 to `n` - 1 at first."""

    def __init__(self, n: int) -> None:
        self._slots = list(range(n))
        self._next = 0  # what is before is taken

    def __len__(self) -> int:
        return len(self._slots) - self._next

    def take(self, n: int = 1) -> int:
        """The first of the `n` slots that have been free for longest, which are free no more."""
        slot = self._slots[self._next]
        self._next += n
        if self._next > 1024:
            del self._slots[: self._next]
            self._next = 0
        return slot

    def take_each(self, n: int) -> list[int]:
        """The `n` slots that have been free for longest, which are free no more."""
        slots = self._slots[self._next : self._next + n]
        self.take(n)
        return slots

    def give(self, first: int, n: int = 1) -> None:
        """`n` slots from `first` on are free again."""
        self._slots.extend(range(first, first + n))

    def run_length(self, n: int, readers: Sequence[int]) -> int:
        """How many of `n` copies one run can bring: into slots that follow one another and were read last at once.

        `readers`: by slot, the op that read it last.
        """
        slots = self._slots[self._next : self._next + n]
        slot, reader = slots[0], readers[slots[0]]
        if slots == list(range(slot, slot + n)) and readers[slot : slot + n].count(reader) == n:
            return n
        for i, free in enumerate(slots):
            if free != slot + i or readers[free] != reader:
                return i
        return len(slots)
