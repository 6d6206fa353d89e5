"""The experts of one MoE block of a pass: what its gate names, and what is executed once misses are answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.policy import MissAction

__all__ = ["KnownUnions", "MoeBlock", "Union", "Unions", "unions_of"]

_SMALL_PASS = 512
"""Routing cells of a forward pass up to which lists are quicker than arrays."""


class Union(NamedTuple):
    """The experts of one (step, layer): distinct, ascending, with the tokens that each serves."""

    experts: tuple[int, ...]
    tokens: tuple[int, ...]

    def of(self) -> dict[int, int]:
        """The tokens of each expert."""
        return dict(zip(self.experts, self.tokens, strict=True))

    def without(self, experts: Collection[int]) -> Union:
        """The others than `experts`."""
        kept = [(e, n) for e, n in zip(self.experts, self.tokens, strict=True) if e not in experts]
        return Union(tuple(e for e, _ in kept), tuple(n for _, n in kept))


class Unions(Protocol):
    """The unions of the blocks of one forward pass, by block; some may be known only once their gate has run."""

    def __len__(self) -> int: ...

    def __getitem__(self, block: int, /) -> Union: ...

    def names_any(self, block: int) -> bool:
        """Whether the gate of `block` names an expert at all."""


class KnownUnions(list[Union]):
    """Those of a trace."""

    def names_any(self, block: int) -> bool:
        """Whether some token chooses an expert."""
        return bool(self[block].experts)


class MoeBlock(NamedTuple):
    """Block `i` of a stack, in `layer` of it, the MoE layer `moe_layer` of the model.

    `named` by its gate; `executed`: the same, or what takes the place of some; `how` misses are answered, by expert:
    those not in it are fetched whole.
    """

    i: int
    layer: int
    moe_layer: int
    named: Union
    executed: Union
    how: Mapping[int, MissAction]


def unions_of(experts: NDArray[np.int16], n_experts: int) -> KnownUnions:
    """The union of each layer of a step; `experts` (n_tokens, n_layers, top_k), -1 pads."""
    n_layers = experts.shape[1]
    if experts.size <= _SMALL_PASS:
        return KnownUnions(_union(row) for row in experts.swapaxes(0, 1).reshape(n_layers, -1).tolist())
    keys = experts.astype(np.int64) + np.arange(n_layers)[None, :, None] * n_experts
    counts = np.bincount(keys[experts >= 0], minlength=n_layers * n_experts).reshape(n_layers, n_experts)
    unions = KnownUnions()
    for row in counts:
        active = np.flatnonzero(row)
        unions.append(Union(tuple(active.tolist()), tuple(row[active].tolist())))
    return unions


def _union(chosen: list[int]) -> Union:
    """The union of what the tokens of one layer have chosen, -1 pads."""
    if len(chosen) == 1 and chosen[0] >= 0:
        return Union((chosen[0],), (1,))
    counts = Counter(chosen)
    counts.pop(-1, None)
    active = tuple(sorted(counts))
    return Union(active, tuple(counts[expert] for expert in active))
