"""Experts that are on the device for the next FFN of their layer, or on their way. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from typing import NamedTuple


class Held(NamedTuple):
    """One expert on the device or on its way, or the `n` of a run. `ready`: the op to wait for before reading, -1 none.

    `slot` is where the FFN reads it, of a run the first; `transient`: as much HBM is given back after the read. `hit`:
    it was resident when it was first asked for. `passing`: ops `first` to `ready` bring it for one read only. `given`:
    the slot that a cache gave for it, or a slot whose HBM stays taken, which is then free after the read, -1 none.
    """

    expert: int
    n: int
    slot: int
    ready: int
    transient: bool
    hit: bool
    first: int
    passing: bool
    given: int = -1

    def any_of(self, needed: Container[int]) -> bool:
        """Whether it is needed, or one of the run is."""
        return any(self.expert + i in needed for i in range(self.n))

    @property
    def is_spare(self) -> bool:
        """Whether its slot is of no cache."""
        return self.transient or self.given == self.slot

    @property
    def frees(self) -> int:
        """The slot that is free after the read, of a run the first; -1 none."""
        return self.given if self.given >= 0 else self.slot if self.transient else -1


class ResidentExperts:
    """By layer and expert, and by layer with a run once, in the order in which they were granted slots."""

    def __init__(self) -> None:
        self._of: dict[int, dict[int, Held]] = {}
        self._once: dict[int, list[Held]] = {}

    def __iter__(self) -> Iterator[Held]:
        """All of every layer, a run once."""
        return (held for layer in self._once.values() for held in layer)

    @property
    def has_any(self) -> bool:
        """Whether an expert is held."""
        return any(self._of.values())

    def claimed(self, layer: int) -> dict[int, Held]:
        """The experts of `layer` that were brought for its next FFN."""
        return self._of.get(layer, {})

    def once(self, layer: int) -> Collection[Held]:
        """The same, a run once."""
        return self._once.get(layer, ())

    def has(self, layer: int, expert: int) -> bool:
        """Whether the expert was brought for the layer's next FFN."""
        return expert in self._of.get(layer, ())

    def arrivals(self, layer: int, experts: Iterable[int] | None = None) -> list[int]:
        """The copies that bring what is held for the layer's next FFN, ascending; of `experts` only, where given."""
        held = self._of.get(layer, {})
        holds: Iterable[Held] = self._once.get(layer, ()) if experts is None else (held[expert] for expert in experts)
        return sorted({h.ready for h in holds if h.ready >= 0})

    def n_transient(self, layer: int, experts: Iterable[int] | None = None) -> int:
        """Slots that are given back when what is held for the layer has been read."""
        held = self._of.get(layer, {})
        if experts is None:
            return sum(h.n for h in self._once.get(layer, ()) if h.transient)
        return sum(held[expert].transient for expert in experts)

    def open(self, layer: int) -> dict[int, Held]:
        """`claimed`, of a layer that is brought something."""
        self._once.setdefault(layer, [])
        return self._of.setdefault(layer, {})

    def add(self, layer: int, held: Held) -> None:
        """Hold one more, of a layer that is open."""
        self._once[layer].append(held)
        if held.n == 1:
            self._of[layer][held.expert] = held
        else:
            self._of[layer].update(dict.fromkeys(range(held.expert, held.expert + held.n), held))

    def replace(self, layer: int, held: Held, now: Held) -> None:
        """Hold the same expert otherwise."""
        self._of[layer][held.expert] = now
        self._once[layer] = [now if one is held else one for one in self._once[layer]]

    def remove(self, layer: int, held: Held) -> None:
        """Hold it no more."""
        self._once[layer].remove(held)
        for expert in range(held.expert, held.expert + held.n):
            del self._of[layer][expert]

    def pop(self, layer: int) -> Collection[Held]:
        """Hold nothing of a layer; returns what was held, a run once."""
        self._of.pop(layer, None)
        return self._once.pop(layer, ())
