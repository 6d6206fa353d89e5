"""Expert maps (FineMoE): past tokens whose paths through the layers so far are nearest say which experts come.

A map is what one token chose at every layer. Likeness of two is the share of experts that they have in common over the
layers that have run. Of the design the search by prompt embeddings is left out: traces have none. Where it reads the
nearest map's whole gate distribution, which traces seldom have, the nearest few vote, by their likeness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.predictors.guesser import Before, Chosen, Scores, one_hot

CAPACITY = 1024
"""Maps that are kept; beyond it the oldest go."""

N_NEAREST = 16
"""Maps that vote."""


class ExpertMaps:
    """The nearest `n_nearest` of at most `capacity` maps vote for their experts, by their likeness to the power 4."""

    def __init__(self, n_layers: int, n_experts: int, capacity: int = CAPACITY, n_nearest: int = N_NEAREST) -> None:
        self._n_layers, self._n_experts, self._capacity, self._n_nearest = n_layers, n_experts, capacity, n_nearest
        self._maps: NDArray[np.int16] | None = None  # (capacity, n_layers, top_k)
        self._n_kept = self._next = 0
        self._seen: list[Chosen | None] = []
        self._n_tokens = 0
        self._common = np.zeros((0, 0), np.float32)

    def begin(self, before: Before) -> None:
        """A pass begins: no layer has run."""
        self._seen, self._n_tokens = [None] * self._n_layers, len(before.group)
        self._common = np.zeros((self._n_tokens, self._n_kept), np.float32)

    def saw(self, layer: int, chosen: Chosen) -> None:
        """Count the experts of this layer that each map has in common with each token."""
        self._seen[layer] = chosen
        if self._maps is None or not self._n_kept:
            return
        hot, kept = one_hot(chosen, self._n_experts), self._maps[: self._n_kept, layer]
        if self._n_tokens <= 16:
            hot = np.concatenate([hot, np.zeros((len(hot), 1), np.float32)], axis=1)  # what -1 reads
            self._common += hot[:, kept].sum(axis=2)
        else:
            self._common += hot @ one_hot(kept, self._n_experts).T

    def scores(self, layer: int) -> Scores:
        """The votes of the nearest maps for the experts of `layer`."""
        found = np.zeros((self._n_tokens, self._n_experts + 1), np.float32)
        if self._maps is None or not self._n_kept:
            return found[:, :-1]
        n = min(self._n_nearest, self._n_kept)
        nearest = np.argpartition(-self._common, n - 1, axis=1)[:, :n]
        likeness = np.take_along_axis(self._common, nearest, axis=1)
        weight = (likeness / np.maximum(likeness.max(axis=1, keepdims=True), 1e-9)) ** 4
        chosen = self._maps[nearest, layer]  # (n_tokens, n, top_k)
        rows = np.broadcast_to(np.arange(self._n_tokens)[:, None, None], chosen.shape)
        np.add.at(found, (rows, chosen), np.broadcast_to(weight[:, :, None], chosen.shape))
        return found[:, :-1]

    def learn(self) -> None:
        """Keep the maps of this pass; of a long one the newest, the oldest kept go."""
        if any(chosen is None for chosen in self._seen) or not self._n_tokens:
            return
        maps = np.stack([chosen for chosen in self._seen if chosen is not None], axis=1)
        if self._maps is None:
            self._maps = np.full((self._capacity, *maps.shape[1:]), -1, np.int16)
        step = -(-len(maps) // self._capacity)  # every so many, so that a long pass is kept from all over
        for one in maps[::step]:
            self._maps[self._next] = one
            self._next = (self._next + 1) % self._capacity
            self._n_kept = min(self._n_kept + 1, self._capacity)
