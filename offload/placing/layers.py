"""Layers of a decoder that a placement names: a range of them, or the last few of every group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from traces.errors import InvalidInput

_LAYERS = re.compile(r"(?P<low>\d{1,4})(?P<dash>-(?P<high>\d{1,4})?)?", re.ASCII)
_GROUPS = re.compile(r"(\d{1,4})/(\d{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LayerRange:
    """Layers `first` to `last` of the decoder, both included; `last` None: to its end."""

    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise InvalidInput(
                f"layers {self.first}-{self.last}: the first layer is 0, and no range ends before it starts"
            )

    def of(self, n_layers: int) -> range:
        """They, of a stack of `n_layers`. Raises `InvalidInput` where it has fewer."""
        if self.first >= n_layers:
            raise InvalidInput(f"layers from {self.first} on: there are {n_layers}, the last is {n_layers - 1}")
        if self.last is not None and self.last >= n_layers:
            said = f"layers {self.first}-{self.last}" if self.first else f"{self.last + 1} layers"
            everything = f"{self.first}- for the rest" if self.first else "leave the number out for all"
            raise InvalidInput(f"{said}: there are {n_layers}; {everything}")
        return range(self.first, n_layers if self.last is None else self.last + 1)

    def __str__(self) -> str:
        if self.last is None:
            return "" if not self.first else f":{self.first}-"
        return f":{self.last + 1}" if not self.first else f":{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class LayerGroups:
    """The last `n` layers of every `size` of the decoder, counted from its first; of a rest those that are there."""

    n: int
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.size:
            raise InvalidInput(
                f"layers {self.n}/{self.size}: of a group some are named, 1/{max(self.size, 2)} its last"
            )

    def of(self, n_layers: int) -> Sequence[int]:
        """They, of a stack of `n_layers`. Raises `InvalidInput` where there are none."""
        found = [layer for layer in range(n_layers) if layer % self.size >= self.size - self.n]
        if not found:
            raise InvalidInput(f"layers {self.n}/{self.size}: there are {n_layers}, of which none is named")
        return found

    def __str__(self) -> str:
        return f":{self.n}/{self.size}"


Layers = LayerRange | LayerGroups
EVERYWHERE = LayerRange()


def layers_named(words: list[str], text: str) -> Layers:
    """As `range_named`, and `["2/8"]`: the last two of every eight."""
    groups = _GROUPS.fullmatch(words[0]) if len(words) == 1 else None
    return range_named(words, text) if groups is None else LayerGroups(int(groups[1]), int(groups[2]))


def range_named(words: list[str], text: str) -> LayerRange:
    """`[]`: all; `["26"]`: the first 26; `["12-47"]`: those. Raises `InvalidInput`."""
    if not words:
        return EVERYWHERE
    match = _LAYERS.fullmatch(words[0])
    if match is None or len(words) > 1:
        raise InvalidInput(
            f"placement {text!r}: {':'.join(words)} is neither a number of layers (26) nor a range (12-47)"
        )
    if match["dash"] is not None:
        return LayerRange(int(match["low"]), None if match["high"] is None else int(match["high"]))
    if int(match["low"]) < 1:
        raise InvalidInput(f"placement {text!r}: 0 layers are no placement, leave the clause out")
    return LayerRange(0, int(match["low"]) - 1)
