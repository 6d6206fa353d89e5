"""Hit rates of caches as policies have them, by pure replay: a row a cache and capacity, and what Belady would add."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offload.caches.ceiling import most_hits
from offload.caches.slot_replay import CacheReplay, replay_cache
from offload.caches.trace_events import TraceEvents, trace_events
from offload.policies import cache_named
from offload.policy import Cache
from pregate.ask.result_display import to_dataframe
from traces.errors import InvalidInput, check_least
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile, popularity_of, shared_popularity

if TYPE_CHECKING:
    import pandas as pd


_MIB = 1 << 20

_LAYERED = ["lru", "lfu", "lfu_decay", "lfru", "mrs", "activation", "least_stale", "fifo", "lifo", "random"]

CACHES = (
    *(f"{name}:per_layer" for name in [*_LAYERED, "hot_lru", "static", "belady"]),
    *(f"{name}:pooled" for name in ("lru", "lfu", "lfru", "activation", "least_stale", "belady")),
)
"""What is replayed where nobody names caches."""

CAPACITIES = ("0.125", "0.25", "0.5")
"""Shares of the experts of all layers."""


@dataclass(frozen=True, slots=True)
class CacheRow:
    """One cache at one capacity. Rates are hits over lookups; a lookup is one expert of one (step, layer).

    `to_belady`: what Belady with the same slots, pooled or not, hits beyond it; where the cache lets experts pass or
    begins filled, a Belady that need not keep what it was asked for and chooses what it begins with (`most_hits`).
    `worst_request`, `best_request`: the hit rates of single requests. `read_mib`: of all misses, None where nobody
    states the size of an expert.
    """

    cache: str
    capacity: str
    n_slots: int
    hit_rate: float
    decode_hit_rate: float
    to_belady: float
    worst_request: float
    best_request: float
    n_lookups: int
    n_misses: int
    read_mib: float | None


@dataclass(frozen=True, slots=True)
class CacheHits:
    """Rows, capacities outermost, and under which assumptions they were made."""

    rows: tuple[CacheRow, ...]
    n_requests: int
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[CacheRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-ready rows."""
        return [asdict(row) for row in self.rows]

    def to_dataframe(self) -> pd.DataFrame:
        """The same as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.to_dict())

    def to_csv(self) -> str:
        """The same as CSV."""
        out = io.StringIO()
        writer = csv.DictWriter(out, CacheRow.__dataclass_fields__, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_dict())
        return out.getvalue()


def cache_hits(
    trace: RoutingTrace,
    caches: Sequence[str | Cache] = CACHES,
    capacities: Sequence[str | float] = CAPACITIES,
    *,
    keep: bool = False,
    serial: bool = False,
    train: float | None = None,
    expert_bytes: int | Sequence[int] | None = None,
    seed: int = 0,
) -> CacheHits:
    """Replay `trace` through `caches`, each at each of `capacities`: a share of all experts (0.25), slots (64), or "k".

    "k" is what a token needs, `top_k` slots a layer. A cache that names its own size (`lru:0.1`) has that alone.
    Every request begins with an empty cache, or with `keep` finds what the one before left. `serial` looks experts up
    one by one, which is not what a layer does: published replays differ by it. `train`: the share of the requests, the
    first ones, that popular experts are counted on; all caches are then judged on the others. None counts on the trace
    itself. Raises `InvalidInput` or `UnknownName` for what cannot be replayed.
    """
    named = [cache if isinstance(cache, Cache) else cache_named(cache) for cache in caches]
    said = [
        cache if isinstance(cache, str) else f"{cache.eviction}{':per_layer' * cache.per_layer}" for cache in caches
    ]
    if not named or not capacities:
        raise InvalidInput("no caches or no capacities to replay: give at least one of each, such as lru and 0.25")
    check_least("seed", seed, 0)
    sizes = _sizes(trace, expert_bytes)
    popularity, judged = (shared_popularity(trace), trace) if train is None else _split(trace, train)
    events = trace_events(judged)
    events = events.one_by_one() if serial else events
    replays: dict[tuple[str, int], CacheReplay] = {}

    def replay(cache: Cache, n_slots: int) -> CacheReplay:
        key = repr(cache), n_slots
        if key not in replays:
            replays[key] = replay_cache(events, cache, n_slots, cold=not keep, popularity=popularity, seed=seed)
        return replays[key]

    ceilings: dict[tuple[int, bool, bool], float] = {}

    def ceiling(cache: Cache, n_slots: int) -> float:
        key = n_slots, cache.per_layer, cache.holds_popular
        if key not in ceilings:
            hits = most_hits(events, n_slots, per_layer=key[1], cold=not keep, filled=key[2])
            ceilings[key] = int(hits.sum()) / max(len(hits), 1)
        return ceilings[key]

    rows = []
    for capacity in capacities:
        for cache, name in zip(named, said, strict=True):
            own = cache.ratio if cache.ratio is not None else cache.n_slots
            if own is not None and capacity is not capacities[0]:
                continue
            n_slots = _slots(trace, capacity if own is None else own, name)
            plain = replace(cache, ratio=None, n_slots=None)
            if cache.holds_popular or cache.admit != "always" or cache.budget is not None:
                best = ceiling(cache, n_slots)
            else:
                best = replay(Cache("belady", per_layer=cache.per_layer), n_slots).hit_rate
            row = _row(events, name, str(capacity if own is None else own), replay(plain, n_slots), best, sizes)
            rows.append(row)
    held = any(cache.holds_popular and cache.popularity is None for cache in named) and trace.popularity is None
    return CacheHits(tuple(rows), int(events.group[-1]) + 1, tuple(_notes(events, judged, train, held, serial, keep)))


def _row(
    events: TraceEvents, name: str, capacity: str, found: CacheReplay, best: float, sizes: list[int] | None
) -> CacheRow:
    group, layer = (np.repeat(of, np.diff(events.ptr)) for of in (events.group, events.layer))
    rates = np.bincount(group, weights=found.hits) / np.bincount(group)
    misses = np.bincount(layer[~found.hits], minlength=events.n_layers)
    return CacheRow(
        cache=name,
        capacity=capacity,
        n_slots=found.n_slots,
        hit_rate=found.hit_rate,
        decode_hit_rate=found.decode_hit_rate,
        to_belady=best - found.hit_rate,
        worst_request=float(rates.min()),
        best_request=float(rates.max()),
        n_lookups=found.n_lookups,
        n_misses=int(misses.sum()),
        read_mib=None if sizes is None else float(misses @ np.array(sizes)) / _MIB,
    )


def _notes(
    events: TraceEvents, trace: RoutingTrace, train: float | None, held: bool, serial: bool, keep: bool
) -> Iterator[str]:
    n_groups, batch = int(events.group[-1]) + 1, trace.batch
    one, many = (
        ("request", "requests")
        if batch == 1
        else (f"batch of {batch} requests", f"batches of at most {batch} requests")
    )
    if n_groups == 1:
        yield f"1 {one}, with an empty cache at its start."
        yield f"Locality belongs to a prompt, its decoding and k: one {one.split()[0]} says little of another."
    else:
        yield f"{n_groups} {many}, " + (
            "one after the other through one cache." if keep else "each with an empty cache at its start."
        )
    if held:
        yield (
            "static and hot_lru hold what this trace chooses most, an oracle; --train 0.5 counts on other requests."
            if train is None
            else f"static and hot_lru hold what the first {train:g} of the requests chose most; judged on the others."
        )
    if serial:
        yield "Experts one by one: a layer asks for all of its experts at once and does not miss so."


def _split(trace: RoutingTrace, train: float) -> tuple[PopularityProfile, RoutingTrace]:
    """The popularity of the first sequences, and the others."""
    order = list(dict.fromkeys(trace.sequence.tolist()))
    n_first = int(train * len(order) + 0.5) if 0 < train < 1 else 0
    if not 0 < n_first < len(order):
        raise InvalidInput(
            f"train = {train:g} of {len(order)} sequences leaves none to count on or none to judge: give a share "
            f"between, of a trace with two sequences at least"
        )
    return popularity_of(trace.of_sequences(order[:n_first])), trace.of_sequences(order[n_first:])


def _slots(trace: RoutingTrace, capacity: str | float, name: str) -> int:
    """Slots of all layers together."""
    n_experts = trace.n_moe_layers * trace.n_experts
    if capacity == "k":
        return trace.n_moe_layers * trace.top_k
    try:
        is_count = isinstance(capacity, int) or (isinstance(capacity, str) and capacity.strip().isdigit())
        value = int(capacity) if is_count else float(capacity)
    except ValueError:
        value = 0
    if not (0 < value <= 1 if isinstance(value, float) else 1 <= value <= n_experts):
        raise InvalidInput(
            f"capacity = {capacity!r} of {name}: give a share of the experts (0.25), slots (1 to {n_experts}), or k"
        )
    return max(1, round(n_experts * value)) if isinstance(value, float) else value


def _sizes(trace: RoutingTrace, expert_bytes: int | Sequence[int] | None) -> list[int] | None:
    given: Sequence[int] | NDArray[np.int64] | int | None = trace.expert_bytes if expert_bytes is None else expert_bytes
    if given is None:
        return None
    sizes = [given] * trace.n_moe_layers if isinstance(given, int) else [int(size) for size in given]
    if len(sizes) != trace.n_moe_layers or min(sizes) < 1:
        raise InvalidInput(f"expert_bytes = {given!r}: one number above 0, or one a MoE layer, {trace.n_moe_layers}")
    return sizes
