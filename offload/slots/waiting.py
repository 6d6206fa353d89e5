"""Experts that wait for a slot in HBM, first in first out. Nothing here may know time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from offload.policy import MissAction


class Waiting(NamedTuple):
    """An expert that waits for a slot, or `n` that one run brings. `cached`: its slot of the cache, -1 none; `how`: at
    which precision it is brought, and how much of it.
    """

    layer: int
    expert: int
    n: int
    cached: int
    hit: bool
    step: int
    how: MissAction

    def has(self, layer: int, expert: int) -> bool:
        """Whether it is, or one of the run is, `expert` of `layer`."""
        return self.layer == layer and self.expert <= expert < self.expert + self.n


class WaitingExperts:
    """The `queue` of them: whoever has slots takes from its left."""

    def __init__(self) -> None:
        self.queue: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self.queue)

    def has(self, layer: int, expert: int) -> bool:
        """Whether the expert waits."""
        return any(one.has(layer, expert) for one in self.queue)

    def absent(self, layer: int) -> list[int]:
        """The experts of `layer` that wait and that no cache had, in that order."""
        return [w.expert + i for w in self.queue if w.layer == layer and not w.hit for i in range(w.n)]

    def extend(self, entries: Iterable[Waiting]) -> None:
        """Stand last, in that order."""
        self.queue.extend(entries)

    def take_out(self, leaves: Callable[[Waiting], bool]) -> list[Waiting]:
        """Those that `leaves` says, who wait no more."""
        out = [one for one in self.queue if leaves(one)]
        for one in out:
            self.queue.remove(one)
        return out


def runs_of(experts: list[int], named: Collection[int]) -> list[tuple[int, int]]:
    """`experts` as (first, count) of those that follow one another, the `named` ones each alone."""
    first = experts[0] if experts else 0
    if experts == list(range(first, first + len(experts))):  # all of a block: cut it at what is named
        found, last = [], first + len(experts)
        for expert in sorted(named):
            if first <= expert < last:
                found += [(first, expert - first), (expert, 1)] if expert > first else [(expert, 1)]
                first = expert + 1
        return [*found, (first, last - first)] if last > first else found
    found = []
    for i, expert in enumerate(experts):
        joins = i > 0 and expert == experts[i - 1] + 1 and not {expert, expert - 1} & set(named)
        if joins:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((expert, 1))
    return found
