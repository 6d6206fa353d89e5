"""State and plan of the compiled decode loop as the arrays that `decode_kernel` reads, laid out by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offload.caches.residency import ResidentSet, count_slots
from offload.fast.kernels import kernel_layout as layout
from traces.model.architecture import ModelArchitecture


def words(n_words: int, values: Mapping[str, int], tables: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """One array: words by name, then the tables one after the other, where each begins in the word of its name."""
    words = np.zeros(n_words, np.int64)
    for name, value in values.items():
        words[getattr(layout, name)] = value
    begin = n_words
    for name, table in tables.items():
        words[getattr(layout, name)] = begin
        begin += table.size
    return np.concatenate([words, *(table.ravel().astype(np.int64, copy=False) for table in tables.values())])


def memory(
    model: ModelArchitecture, n_buffers: int, cache: ResidentSet | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Experts and words of empty slots, or of a cache that has residents."""
    n_layers, n_keys = model.n_moe_layers, model.n_moe_layers * model.n_experts
    n_slots = count_slots(n_buffers, cache)
    n_pools = 1 if cache is None else cache.n_pools
    x = np.zeros((n_keys + n_pools, layout.N_EXPERT_COLUMNS), np.int64)
    x[:, layout.HELD_SLOT], x[:, layout.SLOT_OF] = -2, -1
    x[:, layout.NEWER] = x[:, layout.OLDER] = np.arange(n_keys + n_pools)
    filled, spare = np.full(n_slots, -2, np.int64), [0]
    spare_top, spare_from = np.zeros(n_pools, np.int64), np.zeros(n_pools, np.int64)
    for pool, now in enumerate([] if cache is None else cache.pools()):
        spare_from[pool], spare_top[pool] = len(spare), len(now.free)
        spare += [*now.free, *([0] * len(now.slots))]
        ring = [n_keys + pool, *now.order, n_keys + pool]  # from the first to go to the last
        x[ring[:-1], layout.NEWER], x[ring[1:], layout.OLDER] = ring[1:], ring[:-1]
        for key, slot in now.slots.items():
            x[key, layout.SLOT_OF], filled[n_buffers + slot] = slot, -1
        x[list(now.counts), layout.COUNT] = list(now.counts.values())
        x[n_keys + pool, layout.LAST_IN] = now.last_in
    queue, scratch = np.zeros(n_keys + 1, np.int64), np.zeros(model.n_experts + 4, np.int64)
    values = {"LAST_FETCH": -1, "EARLIER_FETCH": -1, "FREE_N": n_buffers, "N_KEYS": n_keys}
    values |= dict.fromkeys(("LAST_OP", "ARRIVED", "HOST_LAST", "BEFORE", "STREAMED_NEXT"), -1)
    values |= {"FREE_SIZE": max(n_buffers, 1), "QUEUE_SIZE": n_keys + 1}
    tables = {
        "READER": np.full(n_slots, -1, np.int64),
        "FILLED": filled,
        "FREE": np.arange(max(n_buffers, 1)),
        **dict.fromkeys(("QUEUE_LAYER", "QUEUE_EXPERT", "QUEUE_SLOT", "QUEUE_HIT", "QUEUE_STEP"), queue),
        **dict.fromkeys(("N_HELD", "N_PINS"), np.zeros(n_layers, np.int64)),
        "SPARE": np.array(spare, np.int64),
        "SPARE_TOP": spare_top,
        "SPARE_FROM": spare_from,
        **dict.fromkeys(("WANTED", "ARRIVALS", "ORDER", "NEEDED", "NAMED"), scratch),
        **dict.fromkeys(("MISSES", "ON_HOST", "HOST_EXPERT", "HOST_COST"), scratch),
        "COPIED": np.zeros(max(stack.n_layers for stack in model.stacks), np.int64),
        "WAITS": np.zeros(8 + 4 * max(stack.n_layers for stack in model.stacks), np.int64),
        "BUFFERS": np.full(6, -1, np.int64),
        "SLOT_READERS": np.full(max(stack.n_layers for stack in model.stacks), -1, np.int64),
        "IN_USE": np.zeros(3, np.int64),
    }
    return x, words(layout.N_WORDS, values, tables)
