"""Residency replay at machine speed: a trace as flat arrays, prepared once, replayed by budget and policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from offload.fast.kernels.draws_kernel import with_bits
from offload.fast.kernels.replay_kernel import BELADY, LFU, LRU, RANDOM
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace

_KERNEL = "offload.fast.kernels.replay_kernel"

BATCHES = Kernel(
    _KERNEL, "batches",
    ("int16[3]", "int64[1]", "int64", "int64[1]", "int64[1]", "int32[1]", "int32[1]", "int64[1]"), returns=True,
)  # fmt: skip
NEXT_USES = Kernel(_KERNEL, "next_uses", ("int64[1]", "int32[1]", "int64[1]", "int64[1]"))
REPLAY = Kernel(
    _KERNEL, "replay",
    ("int64[1]", "int32[1]", "int32[1]", "int64[1]", "int64[1]", *["int64"] * 4, "uint32[1]", "int64[1]", "int32[1]",
     *["int64[1]"] * 8, "int32[1]", "int64[1]", "int64[1]", "bool[1]", "int64[1]"),
    sources=("offload.fast.kernels.draws_kernel",),
)  # fmt: skip

KERNELS = BATCHES, NEXT_USES, REPLAY
_KINDS = {"lru": LRU, "layer": LRU, "lfu": LFU, "layerlfu": LFU, "belady": BELADY, "random": RANDOM}


class FlatTrace:
    """The lookups of a trace, in order. `decode`: (n_lookups,) bool, whether each is of a decode step."""

    def __init__(self, trace: RoutingTrace) -> None:
        self._n_experts, n_layers = trace.n_experts, trace.n_moe_layers
        edges = np.flatnonzero(np.diff(trace.step)) + 1
        starts = np.concatenate([[0], edges])
        bounds = np.append(starts, trace.n_tokens).astype(np.int64)
        experts, n_events = np.ascontiguousarray(trace.experts), len(starts) * n_layers
        ptr, step_of = np.zeros(n_events + 1, np.int64), np.zeros(n_events, np.int64)
        keys, recent = np.empty((2, experts.size), np.int32)
        mark = np.full(n_layers * trace.n_experts, -1, np.int64)
        n = loaded(BATCHES)(experts, bounds, trace.n_experts, ptr, step_of, keys, recent, mark)
        self._ptr, step_of = ptr[: n + 1], step_of[:n]
        self._keys, self._recent = keys[: ptr[n]], recent[: ptr[n]]
        phases = trace.phase[starts] == Phase.DECODE
        self.decode: NDArray[np.bool_] = np.repeat(phases[step_of], np.diff(self._ptr))
        self._following = np.zeros(0, np.int64)

    def replay(
        self, policy: str, budget_bytes: int, sizes: Sequence[int], seed: int
    ) -> tuple[NDArray[np.bool_], int, int]:
        """Whether each lookup hit, (n_lookups,), bytes read and the most resident after a batch, bit for bit those of
        `offload.caches.budget_replay`.

        Raises `InvalidInput` for sizes whose sum over the trace is beyond 64 bits.
        """
        kind, per_layer = _KINDS[policy], policy in ("layer", "layerlfu")
        if max(sizes) * max(len(self._keys), 1) >= 1 << 63:
            raise InvalidInput(f"expert_bytes = {max(sizes)}: {len(self._keys)} lookups may read more than 2^63 bytes")
        n_keys, n_lookups = len(sizes) * self._n_experts, len(self._keys)
        if kind == BELADY and not self._following.size:
            self._following = np.empty(n_lookups, np.int64)
            loaded(NEXT_USES)(self._ptr, self._keys, self._following, np.full(n_keys, len(self._ptr) - 1, np.int64))
        hits, found = np.zeros(n_lookups, dtype=np.bool_), np.zeros(2, np.int64)
        n_pools = len(sizes) if per_layer else 1
        budget = min(budget_bytes, (1 << 63) - 1) // n_pools

        def run(bits: NDArray[np.uint32], n_used: NDArray[np.int64]) -> None:
            place, mark, (uses, now, born) = *np.full((2, n_keys), -1, np.int64), np.zeros((3, n_keys), np.int64)
            loaded(REPLAY)(
                self._ptr, self._keys, self._recent, self._following, np.array(sizes, np.int64), self._n_experts, kind,
                int(per_layer), budget, bits, n_used, np.empty(n_keys, np.int32), np.empty(n_keys, np.int64), place,
                np.zeros(n_pools, np.int64), np.zeros(n_pools, np.int64), uses, now, born, mark,
                np.empty(n_keys, np.int32), np.arange(n_keys + n_pools), np.arange(n_keys + n_pools), hits, found,
            )  # fmt: skip

        with_bits(seed, 2 * n_lookups + 16 if kind == RANDOM else 0, run)
        return hits, int(found[0]), int(found[1])
