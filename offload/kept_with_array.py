"""What is made of an array that never changes, kept as long as that is: a trace is asked of in many placements."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeptWithArray"]

Value = TypeVar("Value")


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
