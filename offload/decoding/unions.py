"""The experts of one MoE block of a pass: what its gate names, and what is executed once misses are answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.decoding.choice_counts import choice_counts
from offload.policy import MissAction

_SMALL_PASS = 512
"""Routing cells of a forward pass up to which lists are quicker than arrays."""

_CELLS = 1 << 15
"""Routing cells after which it is asked again whether all experts are named."""


class Union(NamedTuple):
    """The experts of one (step, layer): distinct, ascending, with the tokens that each serves."""

    experts: tuple[int, ...]
    tokens: tuple[int, ...]

    def of(self) -> dict[int, int]:
        """The tokens of each expert."""
        return dict(zip(self.experts, self.tokens, strict=True))

    def without(self, experts: Collection[int]) -> Union:
        """The others than `experts`."""
        gone = frozenset(experts)
        kept = [(e, n) for e, n in zip(self.experts, self.tokens, strict=True) if e not in gone]
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
    unions = KnownUnions()
    for row in tokens_by_expert(experts, n_experts):
        active = np.flatnonzero(row)
        unions.append(Union(tuple(active.tolist()), tuple(row[active].tolist())))
    return unions


def tokens_by_expert(experts: NDArray[np.int16], n_experts: int) -> NDArray[np.int64]:
    """How many tokens each expert of each layer serves, (n_layers, n_experts); `experts` as of `unions_of`."""
    counts: NDArray[np.int64] = choice_counts(experts, n_experts, np.array([0, len(experts)], np.int64))[0]
    return counts


def most_distinct(experts: NDArray[np.int16], n_experts: int) -> int:
    """Most distinct experts that one layer of a step names; `experts` as of `unions_of`."""
    most, counts = 0, np.zeros((experts.shape[1], n_experts), np.int64)
    n_tokens = max(1, _CELLS // max(1, experts[:1].size))
    for begin in range(0, len(experts), n_tokens):
        counts += tokens_by_expert(experts[begin : begin + n_tokens], n_experts)
        most = int(np.count_nonzero(counts, axis=1).max(initial=0))
        if most == n_experts:
            break
    return most


def _union(chosen: list[int]) -> Union:
    """The union of what the tokens of one layer have chosen, -1 pads."""
    if len(chosen) == 1 and chosen[0] >= 0:
        return Union((chosen[0],), (1,))
    counts = Counter(chosen)
    counts.pop(-1, None)
    active = tuple(sorted(counts))
    return Union(active, tuple(counts[expert] for expert in active))
