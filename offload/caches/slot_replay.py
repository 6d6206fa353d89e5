"""Caches as policies have them, in slots, replayed over a trace without a schedule: hits, and what is left to Belady.

The rules are those of `offload.caches.residency`: an event is one (step, layer), looked up whole before anything
leaves; what finds no slot passes through. `replay_cache` replays them by a `ResidentSet`, the definition, or compiled
where the trace is large and the kernel knows the cache (`is_known`), hit for hit. What a static or hot cache holds is
there from the start, so that it may hit more than Belady, which begins empty (`offload.caches.ceiling` bounds both).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from compiled.when_it_pays import machine_code_pays
from offload.caches.eviction import Random
from offload.caches.ranks_by_gates import EPSILON, MRS_ALPHA
from offload.caches.ranks_by_use import LOOKUPS_A_SLOT
from offload.caches.residency import ResidentSet
from offload.caches.trace_events import TraceEvents
from offload.fast.kernels.draws_kernel import with_bits
from offload.fast.kernels.replay_slots_kernel import KINDS
from offload.policies import eviction_named
from offload.policy import Cache
from traces.errors import InvalidInput
from traces.statistics.popularity import PopularityProfile

_KERNEL = "offload.fast.kernels.replay_slots_kernel"

NEXT_USES = Kernel(_KERNEL, "next_uses", ("int64[1]",) * 5)
REPLAY_SLOTS = Kernel(
    _KERNEL, "replay_slots",
    (*["int64[1]"] * 3, "float64[1]", *["int64[1]"] * 4, "bool[1]", "int64[1]", "int64[1]", "bool[1]", *["int64"] * 5,
     "float64", "float64", "int64", "uint32[1]", *["int64[1]"] * 7, "float64[1]", "int64[1]", "float64[1]",
     *["int64[1]"] * 7, "bool[1]"),
    sources=("offload.fast.kernels.draws_kernel",),
)  # fmt: skip

SMALL_LOOKUPS = 30_000
"""Lookups up to which the definition is done before code would be compiled."""


@dataclass(frozen=True, slots=True)
class CacheReplay:
    """What one cache met. `hits`: (n_lookups,) bool, read-only, by event and expert, as `TraceEvents.keys`."""

    hits: NDArray[np.bool_] = field(repr=False, compare=False)
    n_slots: int
    n_hits: int
    n_decode_lookups: int
    n_decode_hits: int

    @property
    def n_lookups(self) -> int:
        """Experts looked up, one a (step, layer) that asks for it."""
        return len(self.hits)

    @property
    def hit_rate(self) -> float:
        """Hits over lookups, prefill included."""
        return self.n_hits / max(self.n_lookups, 1)

    @property
    def decode_hit_rate(self) -> float:
        """Hits over lookups of decode steps; 0 without any."""
        return self.n_decode_hits / max(self.n_decode_lookups, 1)


def is_known(cache: Cache) -> bool:
    """Whether the compiled replay knows the cache."""
    return cache.eviction in KINDS and cache.admit == "always"


def replay_cache(
    events: TraceEvents,
    cache: Cache,
    n_slots: int,
    *,
    cold: bool = False,
    popularity: PopularityProfile | None = None,
    seed: int = 0,
    compiled: bool | None = None,
) -> CacheReplay:
    """Replay `events` through `cache` with `n_slots`, whatever size it names.

    `cold`: it is emptied whenever none of a pass's sequences was in the pass before. `popularity`: what a static or a
    hot cache holds (None: what these events choose most). `compiled`: None takes the kernel for large traces. Raises
    `InvalidInput` for fewer slots than one, a warm cache, or where `compiled` asks for a cache that the kernel does
    not know.
    """
    if n_slots < 1:
        raise InvalidInput(f"{n_slots} slots are below 1: a cache of that size holds no expert")
    if cache.warm:
        raise InvalidInput(f"cache {cache.eviction}: a replay begins cold, leave :warm out")
    if compiled and not is_known(cache):
        raise InvalidInput(f"cache {cache.eviction}: the compiled replay does not know it")
    popular = _popular(events, cache, popularity)
    if compiled is None:
        kernels = NEXT_USES, REPLAY_SLOTS
        compiled = is_known(cache) and machine_code_pays(events.n_lookups, *kernels, compile_above=SMALL_LOOKUPS)
    hits = (_in_kernel if compiled else _in_python)(events, cache, n_slots, cold, popular, seed)
    hits.setflags(write=False)
    decode = np.repeat(events.decode, np.diff(events.ptr))
    return CacheReplay(hits, n_slots, int(hits.sum()), int(decode.sum()), int(hits[decode].sum()))


def _popular(events: TraceEvents, cache: Cache, popularity: PopularityProfile | None) -> list[tuple[int, int]]:
    """Layers and experts, the most popular first, where the cache holds such."""
    if not cache.holds_popular:
        return []
    popularity = cache.popularity or popularity
    if popularity is None:
        counts = np.bincount(events.keys, minlength=events.n_layers * events.n_experts)
        return [divmod(int(key), events.n_experts) for key in np.argsort(-counts, kind="stable") if counts[key]]
    here, there = (events.n_layers, events.n_experts), popularity.counts.shape
    if here != there:
        raise InvalidInput(f"popularity is of {there[0]} x {there[1]} experts, the trace of {here[0]} x {here[1]}")
    return popularity.hottest(popularity.counts.size)


def _in_python(
    events: TraceEvents, cache: Cache, n_slots: int, cold: bool, popular: list[tuple[int, int]], seed: int
) -> NDArray[np.bool_]:
    changes = (np.flatnonzero(np.diff(events.group)) + 1).tolist() if cold else []
    bounds = [0, *changes, len(events.layer)]
    rng, hits = np.random.default_rng(seed), list[bool]()
    for first, last in pairwise(bounds):
        eviction = eviction_named(cache.eviction, 0, partial(_asked, events, first, last))
        residents = ResidentSet(
            n_slots, (lambda: Random(rng)) if cache.eviction == "random" else eviction, per_layer=cache.per_layer,
            n_layers=events.n_layers, n_experts=events.n_experts, admit=cache.admit, budget=cache.budget,
        )  # fmt: skip
        if cache.eviction == "hot_lru":
            residents.hold(popular, cache.hot_share)
        for layer, expert in popular if cache.eviction == "static" else ():
            residents.admit(layer, [expert])
        for output in events.outputs(first, last):
            residents.gated(output)
            hits += [access.hit for access in residents.admit(output.layer, output.experts)]
    return np.array(hits, np.bool_)


def _asked(events: TraceEvents, first: int, last: int) -> list[list[int]]:
    """The keys of each event, for who may know the future."""
    return [events.keys[events.ptr[event] : events.ptr[event + 1]].tolist() for event in range(first, last)]


def _in_kernel(
    events: TraceEvents, cache: Cache, n_slots: int, cold: bool, popular: list[tuple[int, int]], seed: int
) -> NDArray[np.bool_]:
    n_keys, hits = events.n_layers * events.n_experts, np.zeros(events.n_lookups, np.bool_)
    each, n_larger = divmod(n_slots, events.n_layers)
    slots = np.array([n_slots])
    if cache.per_layer and events.n_layers > 1:
        slots = np.array([each + (layer < n_larger) for layer in range(events.n_layers)])
    share = 1.0 if cache.eviction == "static" else cache.hot_share if cache.eviction == "hot_lru" else 0.0
    held, left = np.zeros(n_keys, np.bool_), [int(n * share + 0.5) for n in slots.tolist()]
    for layer, expert in popular:
        pool = layer if len(slots) > 1 else 0
        if left[pool]:
            left[pool] -= 1
            held[layer * events.n_experts + expert] = True
    following = np.zeros(0, np.int64)
    if cache.eviction == "belady":
        group = events.group if cold else np.zeros_like(events.group)
        following = np.empty(events.n_lookups, np.int64)
        loaded(NEXT_USES)(events.ptr, events.keys, group, following, np.empty(n_keys, np.int64))
    budget, kind = n_slots if cache.budget is None else cache.budget, KINDS[cache.eviction]
    n_pools = len(slots)
    n_groups = n_pools if cache.eviction == "random" else events.n_layers
    room = max(n_slots if cache.eviction == "random" else n_keys, 1)

    def run(bits: NDArray[np.uint32], n_used: NDArray[np.int64]) -> None:
        place, mark, taken = np.full((3, n_keys), -1, np.int64)
        n_of, lowest, until = np.zeros((3, n_groups), np.int64)
        n_in, n_held, now, since = np.zeros((4, n_pools), np.int64)
        tie, last = np.zeros((2, n_keys), np.int64)
        rank, uses = np.zeros((2, n_keys))
        loaded(REPLAY_SLOTS)(
            events.ptr, events.keys, events.tokens, events.scores, following, events.layer, events.i_step,
            events.n_tokens, events.begins, events.group, slots, held, events.n_experts, events.top_k, kind, int(cold),
            budget, MRS_ALPHA, EPSILON, LOOKUPS_A_SLOT, bits, n_used, np.zeros(n_groups + 1, np.int64),
            np.empty(room, np.int64), place, n_of, lowest, until, rank, tie, uses, last, mark, n_in, n_held, now, since,
            taken, hits,
        )  # fmt: skip

    with_bits(seed, 2 * events.n_lookups + 16 if cache.eviction == "random" else 0, run)
    return hits
