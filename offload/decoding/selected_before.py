"""Blocks of a pass whose experts the pass before has selected, brought in their order as slots allow.

Nothing here may know time.
"""

from __future__ import annotations

from offload.decoding.decoding_pass import DecodingPass
from offload.decoding.unions import Unions


class SelectedBefore:
    """The blocks of `unions` from `first_block` on. `first`: the MoE layer of the model that block 0 is.

    Blocks before them select for themselves and run first: one block is brought beside each of these, so that their
    own copies wait for no more, and slots for the largest of them stay free; all others follow the last of them.
    """

    def __init__(self, loop: DecodingPass, first: int, unions: Unions) -> None:
        self._loop, self._first, self._unions = loop, first, unions
        stack, start = loop.model.decoder, loop.model.pregated_from
        self.first_block = sum(layer < start for layer in stack.moe_layers) if start else 1
        self._next, self._on_way = self.first_block, 0

    def bring(self, i: int) -> None:
        """Start what comes before block `i`, the next to run."""
        own = [self._n_experts(block) for block in range(i, self.first_block)]
        last = min(self._next + 1, len(self._unions)) if own else len(self._unions)
        while self._next < last:
            on_way = self._on_way + self._n_experts(self._next)
            if own and on_way + max(own) > self._loop.memory.n_buffers:
                return
            at = self._first + self._next
            if self._loop.host_side.placed.kept[at] is None:
                self._loop.memory.bring(at, self._unions[self._next].experts, self._loop.i_step)
            self._next, self._on_way = self._next + 1, on_way

    def _n_experts(self, block: int) -> int:
        return len(self._unions[block].experts)
