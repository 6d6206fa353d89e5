"""The expert cache that a run starts with: empty, warmed by the same request, or full of what is popular."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from offload.caches.gate_output import gate_output
from offload.caches.residency import ResidentSet
from offload.policies import eviction_named
from offload.policy import Cache
from pregate.ask.capturing.demands import demands
from pregate.ask.capturing.request import Request
from traces.statistics.popularity import shared_popularity


def resident_set(asked: Request) -> ResidentSet | None:
    """The cache of a policy: a warm one has seen the whole request before, a static one holds what is popular."""
    model, spec = asked.model, asked.policy.cache
    if spec is None:
        return None
    n_runs = 2 if spec.warm else 1
    residents = ResidentSet(
        asked.plan.n_cache_slots,
        eviction_named(
            spec.eviction,
            model.n_encoder_moe_layers * model.n_experts,
            lambda: (keys for _ in range(n_runs) for keys in demands(asked.model, asked.trace)),
        ),
        per_layer=spec.per_layer,
        n_layers=model.n_moe_layers,
        n_experts=model.n_experts,
        admit=spec.admit,
        budget=spec.budget,
    )
    if spec.eviction == "static":
        residents.fill(_most_asked_for(asked, spec))
    elif spec.eviction == "hot_lru":
        residents.hold(_most_asked_for(asked, spec), spec.hot_share)
    if spec.warm and spec.eviction != "static":
        _warm(residents, asked)
    return residents


def _warm(residents: ResidentSet, asked: Request) -> None:
    """Have a cache serve the whole request once."""
    n_experts, sequences = residents.n_experts, set[int]()
    for step in asked.trace.steps() if residents.watches_gates else ():
        now = set(step.sequence.tolist())
        for layer in range(residents.n_layers):
            weights = None if step.gate_weights is None else step.gate_weights[:, layer]
            said = gate_output(step.i_step, layer, step.experts[:, layer], weights, sequences.isdisjoint(now))
            if said.experts:
                residents.gated(said)
                residents.admit(layer, said.experts)
        sequences = now
    for keys in () if residents.watches_gates else demands(asked.model, asked.trace):
        residents.admit(keys[0] // n_experts, [key % n_experts for key in keys])


def _most_asked_for(asked: Request, spec: Cache) -> Iterator[tuple[int, int]]:
    """Layers and experts, the most popular first: as counted elsewhere, or in the traffic that the trace is of, or else
    in the trace itself.
    """
    counted = spec.popularity or shared_popularity(asked.trace)
    if counted is not None:
        counted.check_model(asked.model)
        yield from counted.hottest(counted.counts.size)
        return
    uses = Counter(key for keys in demands(asked.model, asked.trace) for key in keys)
    for key, _ in sorted(uses.items(), key=lambda item: (-item[1], item[0])):
        yield divmod(key, asked.model.n_experts)
