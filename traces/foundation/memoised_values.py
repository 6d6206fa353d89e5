"""Values kept for who asks again: of the very same object, of an array that never changes, of the last keys."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class ByIdentity:
    """A key that is equal to that of the same object alone, and keeps it alive: contents are not compared."""

    one: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.one is other.one

    def __hash__(self) -> int:
        return id(self.one)


@dataclass(frozen=True, slots=True, eq=False)
class ByIdentities:
    """The same of objects in order: equal to that of the same objects in the same order."""

    each: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentities) and [*map(id, self.each)] == [*map(id, other.each)]

    def __hash__(self) -> int:
        return hash((*map(id, self.each),))


class KeptWithArray(Generic[Value]):
    """Values by read-only views of one array and a key. Nothing here keeps an array alive."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[Any], dict[Hashable, Value]]] = {}

    def __len__(self) -> int:
        """Arrays of which something is kept."""
        return len(self._kept)

    def of(self, views: Sequence[NDArray[Any]], key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `views` and `key`; made anew of views that may be written to, or of more than one array."""
        owner = _owner(views[0])
        if any(view.flags.writeable or _owner(view) is not owner for view in views):
            return make()
        found = self._kept.get(id(owner))
        if found is None or found[0]() is not owner:
            found = self._kept[id(owner)] = weakref.ref(owner, self._forget(id(owner))), {}
        cells = *((*_place(view), view.dtype.str) for view in views), key
        if cells not in found[1]:
            found[1][cells] = make()
        return found[1][cells]

    def _forget(self, owner: int) -> Callable[[weakref.ref[Any]], None]:
        def forget(gone: weakref.ref[Any]) -> None:
            if self._kept.get(owner, (None,))[0] is gone:
                del self._kept[owner]

        return forget


def _owner(view: NDArray[Any]) -> NDArray[Any]:
    return view.base if isinstance(view.base, np.ndarray) else view


def _place(view: NDArray[Any]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return view.__array_interface__["data"][0], view.shape, view.strides


class LatestValues(Generic[Value]):
    """The values asked for last, by key; their sizes sum to `most`, but the very last stays whatever its size."""

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        self._most, self._size, self._sum = most, size, 0
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()

    def of(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `key`, made where it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = self._kept[key] = make()
        self._sum += self._size(found)
        while self._sum > self._most and len(self._kept) > 1:
            self._sum -= self._size(self._kept.popitem(last=False)[1])
        return found

    def alike(self, is_alike: Callable[[Any], bool]) -> list[Value]:
        """Those that are kept by a key that `is_alike`."""
        return [value for key, value in self._kept.items() if is_alike(key)]

    def __len__(self) -> int:
        return len(self._kept)
