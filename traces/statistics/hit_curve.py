"""Hits of an LRU at every capacity: a step function, of what lookups need (`traces.statistics.stack_distance`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from traces.errors import InvalidInput
from traces.routing import RoutingTrace
from traces.statistics.stack_distance import NEVER, size_by_layer, stack_distances


@dataclass(frozen=True, slots=True, eq=False)
class HitCurve:
    """Hits of an LRU at every capacity: a step function, exact everywhere. Arrays `(n_steps,)` int64, read-only.

    unit: "slots" or "bytes", of all layers together.
    capacities: ascending: the smallest one answered, then every one at which hits are gained.
    n_hits, n_hits_decode: lookups that hit from there on, all and those of decode steps.
    n_read: slots or bytes of what misses from there on, prefill included.
    """

    unit: str
    capacities: NDArray[np.int64]
    n_hits: NDArray[np.int64]
    n_hits_decode: NDArray[np.int64]
    n_read: NDArray[np.int64]
    n_lookups: int
    n_lookups_decode: int

    def __post_init__(self) -> None:
        for array in (self.capacities, self.n_hits, self.n_hits_decode, self.n_read):
            array.setflags(write=False)

    def hits(self, capacities: ArrayLike, *, decode_only: bool = False) -> NDArray[np.int64]:
        """Lookups that hit at `capacities`, a whole number or an array of them: int64 of the same shape.

        Raises `InvalidInput` for what is no whole number, and below the smallest capacity answered.
        """
        return (self.n_hits_decode if decode_only else self.n_hits)[self._step_at(capacities)]

    def hit_rate(self, capacities: ArrayLike, *, decode_only: bool = False) -> NDArray[np.float64]:
        """Hits over lookups, 0.0 without lookups: float64, otherwise as `hits`."""
        n_lookups = self.n_lookups_decode if decode_only else self.n_lookups
        return self.hits(capacities, decode_only=decode_only) / max(n_lookups, 1)

    def read(self, capacities: ArrayLike) -> NDArray[np.int64]:
        """Slots or bytes (`unit`) of all misses, prefill included; otherwise as `hits`."""
        return self.n_read[self._step_at(capacities)]

    def _step_at(self, capacities: ArrayLike) -> NDArray[np.intp]:
        asked = np.asarray(capacities)
        if asked.dtype.kind not in "iu" or int(asked.max(initial=0)) >= NEVER:
            raise InvalidInput(f"capacities {capacities!r}: give whole numbers of {self.unit} below {NEVER}")
        lowest, smallest = int(asked.min(initial=NEVER - 1)), int(self.capacities[0])
        if lowest < 0:
            raise InvalidInput(f"capacity = {lowest} {self.unit} is below 0: give 0 to keep nothing")
        if lowest < smallest:
            raise InvalidInput(
                f"capacity = {lowest} slots is below {smallest}, which the largest event needs: give at least that, "
                "or ask in bytes (1 byte an expert will do), where an event may overshoot"
            )
        return self.capacities.searchsorted(asked.astype(np.int64), side="right") - 1


def lru_curve(
    trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None = None, *, per_layer: bool = False
) -> HitCurve:
    """Hits of an event-atomic LRU over `trace` at every capacity; arguments and errors as for `stack_distances`.

    In bytes it equals `replay_residency`, policy "lru", or "layer" with `per_layer`, at every budget; in slots a
    `ResidentSet` at every capacity answered.
    """
    found = stack_distances(trace, expert_bytes, per_layer=per_layer)
    sizes = size_by_layer(trace, expert_bytes)
    hitting = np.flatnonzero(found.needed < NEVER)
    hitting = hitting[np.argsort(found.needed[hitting])]
    # One row before the lookups that hits nothing: the smallest capacity is a step even where none is gained.
    needed = np.append(found.smallest_capacity, np.maximum(found.needed[hitting], found.smallest_capacity))
    n_hits = np.flatnonzero(np.append(needed[1:] != needed[:-1], True))  # the last row of every step
    n_hits_decode = np.append(0, np.cumsum(found.decode[hitting], dtype=np.int64))[n_hits]
    n_found = np.append(0, np.cumsum(sizes[found.layer[hitting]]))[n_hits]
    n_looked_up = int(sizes @ np.bincount(found.layer, minlength=sizes.size))
    return HitCurve(
        unit="slots" if expert_bytes is None else "bytes",
        capacities=needed[n_hits],
        n_hits=n_hits,
        n_hits_decode=n_hits_decode,
        n_read=n_looked_up - n_found,
        n_lookups=found.needed.size,
        n_lookups_decode=int(np.count_nonzero(found.decode)),
    )
