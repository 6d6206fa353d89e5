"""Residency replay at machine speed: a trace as flat arrays, prepared once, replayed by budget and policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace

__all__ = ["FlatTrace"]


class FlatTrace:
    """The lookups of a trace, in order. `decode`: (n_lookups,) bool, whether each is of a decode step."""

    def __init__(self, trace: RoutingTrace) -> None:
        from offload.fast import replay_kernel

        self._kernel, self._n_experts = replay_kernel, trace.n_experts
        edges = np.flatnonzero(np.diff(trace.step)) + 1
        starts = np.concatenate([[0], edges])
        bounds = np.append(starts, trace.n_tokens).astype(np.int64)
        self._ptr, step_of, self._keys, self._recent = replay_kernel.batches(trace.experts, bounds, trace.n_experts)
        phases = trace.phase[starts] == Phase.DECODE
        self.decode: NDArray[np.bool_] = np.repeat(phases[step_of], np.diff(self._ptr))
        self._following = np.zeros(0, np.int64)

    def replay(
        self, policy: str, budget_bytes: int, sizes: Sequence[int], seed: int
    ) -> tuple[NDArray[np.bool_], int, int]:
        """Whether each lookup hit, bytes read and the most resident after a batch: `offload.caches.replay`, bit for
        bit.

        Raises `InvalidInput` for sizes whose sum over the trace is beyond 64 bits.
        """
        kernel, per_layer = self._kernel, policy in ("layer", "layerlfu")
        kind = {
            "lru": kernel.LRU, "layer": kernel.LRU, "lfu": kernel.LFU, "layerlfu": kernel.LFU,
            "belady": kernel.BELADY, "random": kernel.RANDOM,
        }[policy]  # fmt: skip
        if max(sizes) * max(len(self._keys), 1) >= 1 << 63:
            raise InvalidInput(f"expert_bytes = {max(sizes)}: {len(self._keys)} lookups may read more than 2^63 bytes")
        if kind == kernel.BELADY and not self._following.size:
            self._following = kernel.next_uses(self._ptr, self._keys, len(sizes) * self._n_experts)
        hits = np.zeros(len(self._keys), dtype=np.bool_)
        budget = min(budget_bytes, (1 << 63) - 1) // (len(sizes) if per_layer else 1)
        read, peak = kernel.replay(
            self._ptr, self._keys, self._recent, self._following, np.array(sizes, np.int64), self._n_experts, kind,
            per_layer, budget, np.random.default_rng(seed), hits,
        )  # fmt: skip
        return hits, int(read), int(peak)
