"""Gates that choose for themselves on the device: which run where, what they say, and how the host comes to read it.

A block's gate lies in the block itself or some blocks before it; a design that guesses applies later gates to a block's
input as well. Every pass has buffers of its own, so that what was chosen can be read when the run is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.backends.backend import Backend, Copy
from runtime.model.bound_pass import BoundPass
from runtime.model.layers import Layers
from runtime.pregated.transformer import choose_experts
from runtime.programs.passes import Pass


class Guessing(NamedTuple):
    """Later gates on a block's input: of so many blocks `ahead`, `more` experts than a token chooses. None: (0, 0)."""

    ahead: int = 0
    more: int = 0


class OwnGates:
    """What the gates of one pass choose: for each MoE layer of the model a row of ids, then `guessing.ahead` guesses.

    A row is (n_tokens, top_k + more) int32, -1 where there is none; `weights` (n_moe_layers, n_tokens, top_k).
    """

    def __init__(
        self, backend: Backend, one: Pass, n_moe_layers: int, top_k: int, guessing: Guessing, dtype: torch.dtype
    ) -> None:
        self._top_k, self._guessing, n = top_k, guessing, one.n_tokens
        shape = n_moe_layers * (1 + guessing.ahead), n, top_k + guessing.more
        self.ids = backend.upload(np.full(shape, -1, dtype=np.int32))
        self.weights = backend.upload(np.zeros((n_moe_layers, n, top_k), dtype=np.float32)).to(dtype)
        self._host = backend.allocate_host(max(1, self.ids.numel()) * 4, "ids read back").view(torch.int32)
        self._host = self._host[: self.ids.numel()].view(shape).fill_(-2)

    def _row(self, moe_layer: int) -> int:
        return moe_layer * (1 + self._guessing.ahead)

    def choose(self, layers: Layers, bound: BoundPass, layer: int, gates: Sequence[tuple[int, int]]) -> None:
        """Enter the block of `layer` and run `gates` there, each a layer of the model and its MoE layer."""
        layers.enter(bound, layer)
        for of_layer, moe_layer in gates:
            choice = choose_experts(layers.gate_logits(bound, of_layer), self._top_k)
            self.ids[self._row(moe_layer), :, : self._top_k].copy_(choice.experts)
            self.weights[moe_layer].copy_(choice.weights)

    def guess(self, layers: Layers, bound: BoundPass, moe_layer: int, later: Sequence[int]) -> None:
        """What the gates of the layers `later` say of the block that was entered last, `moe_layer`, likeliest first."""
        width = self._top_k + self._guessing.more
        for i, of_layer in enumerate(later, 1):
            logits = layers.gate_logits(bound, of_layer)
            n = min(width, logits.shape[1])
            self.ids[self._row(moe_layer) + i, :, :n].copy_(logits.topk(n, dim=1).indices)

    def read_back(self, first: int, last: int, *, guesses: bool) -> Copy:
        """The copy to the host of the rows of MoE layers `first` to `last`, with the guesses of the last."""
        rows = slice(self._row(first), self._row(last) + 1 + (self._guessing.ahead if guesses else 0))
        return Copy(self._host[rows].view(-1), self.ids[rows].view(-1))

    def read(self, moe_layer: int) -> NDArray[np.int16]:
        """(n_tokens, top_k) of a layer, as it was read back."""
        return self._host[self._row(moe_layer), :, : self._top_k].numpy().astype(np.int16)

    def look(self, moe_layer: int) -> NDArray[np.int16]:
        """(n_tokens, top_k) as it is on the device, once the gate has ended."""
        return self.ids[self._row(moe_layer), :, : self._top_k].cpu().numpy().astype(np.int16)

    def guessed(self, moe_layer: int, i: int) -> NDArray[np.int16]:
        """(n_tokens, top_k + more) that was guessed at a layer of the `i`th after it, as it was read back."""
        return self._host[self._row(moe_layer) + i].numpy().astype(np.int16)

    def weights_of(self, moe_layer: int) -> NDArray[np.float32]:
        """(n_tokens, top_k) of a layer whose gate has ended."""
        return self.weights[moe_layer].float().cpu().numpy()
