"""Values that were asked for last, as many as there is room for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["Latest"]

Value = TypeVar("Value")


class Latest(Generic[Value]):
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
