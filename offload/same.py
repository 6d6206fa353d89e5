"""A thing by what it is, not by what it equals: the key of what is kept for the things that were asked of last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Same"]


@dataclass(frozen=True, slots=True, eq=False)
class Same:
    """A thing that is equal to itself alone, and lives as long as this does."""

    one: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.one is other.one

    def __hash__(self) -> int:
        return id(self.one)
