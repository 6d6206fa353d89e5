"""The experts of one MoE block of a pass: what its gate names, and what is executed once misses are answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from offload.policy import MissAction

__all__ = ["MoeBlock", "Union"]


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
