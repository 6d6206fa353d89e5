"""Storage as a run reads it, and what host memory above it holds when the run begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream
from offload.policies import eviction_named
from offload.policy import Cache
from offload.slots.host_tier import HostEvents, ReadThrough
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.starting_cache import resident_set
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.statistics.popularity import shared_popularity


def storage_of(asked: Request) -> ReadThrough | None:
    """Storage as a run of a request reads it; None where no experts are there.

    What the device asks of host memory does not depend on what that holds: a `belady` cache is told that future, a
    `static` one holds what is asked for most in it, or by the counts that it was given, and a warm one has served it
    before. Raises `InvalidInput` for an eviction that looks at gates.
    """
    tier, spec = asked.tier, asked.tier.cache
    if not tier.on_disk or spec is None:
        return ReadThrough(tier.reads) if tier.on_disk else None
    if spec.holds_popular and spec.popularity is None:
        spec = replace(spec, popularity=shared_popularity(asked.trace))
    future = _rehearsed(asked) if knows_run(spec) else []
    cache = _residents(spec, asked.model, asked.plan.n_host_slots, future)
    if cache.watches_gates and spec.eviction != "belady":
        raise InvalidInput(
            f"tier {tier.name!r}: cache {spec.eviction} looks at gates, which host memory is not told: take lru, lfu, "
            f"fifo, lifo, random, static or belady"
        )
    return ReadThrough(tier.reads, cache)


def knows_run(spec: Cache) -> bool:
    """Whether a cache of host memory is told, before a run, what the device will ask for in it."""
    return spec.warm or spec.eviction == "belady" or (spec.holds_popular and spec.popularity is None)


def _rehearsed(asked: Request) -> HostEvents:
    """What the device asks of host memory in a run."""
    found: HostEvents = []
    parts = DecodeStream(
        asked.model,
        asked.trace.steps(),
        asked.policy,
        asked.execution,
        n_buffers=asked.plan.n_buffers,
        cache=resident_set(asked),
        disk=True,
        placed=asked.placed,
        through=ReadThrough(asked.tier.reads, None, found),
    )
    for _ in parts:
        pass
    return found


def _residents(spec: Cache, model: ModelArchitecture, n_slots: int, future: HostEvents) -> ResidentSet:
    n_experts, n_runs = model.n_experts, 2 if spec.warm else 1
    found = ResidentSet(
        n_slots,
        eviction_named(
            spec.eviction,
            model.n_encoder_moe_layers * n_experts,
            lambda: (
                [layer * n_experts + expert for expert in experts] for _ in range(n_runs) for layer, experts in future
            ),
        ),
        per_layer=spec.per_layer,
        n_layers=model.n_moe_layers,
        n_experts=n_experts,
        admit=spec.admit,
        budget=spec.budget,
    )
    if spec.eviction == "static":
        for layer, expert in _most_asked_for(spec, model, future):
            found.admit(layer, [expert])
    elif spec.eviction == "hot_lru":
        found.hold(_most_asked_for(spec, model, future), spec.hot_share)
    for layer, experts in future if spec.warm and spec.eviction != "static" else ():
        found.admit(layer, experts)
    return found


def _most_asked_for(spec: Cache, model: ModelArchitecture, future: HostEvents) -> Iterator[tuple[int, int]]:
    """Layers and experts, the most popular first: as counted elsewhere, or else what the device will ask for."""
    if spec.popularity is not None:
        spec.popularity.check_model(model)
        yield from spec.popularity.hottest(spec.popularity.counts.size)
        return
    uses = Counter((layer, expert) for layer, experts in future for expert in experts)
    for key, _ in sorted(uses.items(), key=lambda item: (-item[1], item[0])):
        yield key
