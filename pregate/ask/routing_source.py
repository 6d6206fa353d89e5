"""Whether the routing of a prediction was recorded or made up, and what hit rates that lets one believe in."""

from __future__ import annotations

from collections.abc import Iterable

from pregate.ask.recorded_size import describe_size
from pregate.ask.simulation import SimulationResult
from traces.model.architecture import ModelArchitecture
from traces.recorded.dials import default_error, recorded_hit_rates
from traces.routing import RoutingTrace


def describe_routing(model: ModelArchitecture, trace: RoutingTrace, results: Iterable[SimulationResult]) -> str:
    """Where the routing is from; of a synthetic one with a cache, what an LRU of its size hits on recorded traces."""
    origin = trace.provenance
    if trace.routing == "recorded":
        size = describe_size(model, trace)
        return "; ".join(filter(None, (f"recorded ({origin.recorder}, {origin.source})", size)))
    whose = origin.note.partition(":")[0]
    words = f"synthetic ({whose}), so hit rates are assumed, not known"
    n_experts = model.n_moe_layers * model.n_experts
    n_slots = max((one.n_expert_slots for one in results if 0 < one.hit_rate < 1), default=0)
    if not 0 < n_slots < n_experts:  # no cache, or one that all fit
        return words
    share = n_slots / n_experts
    rates = recorded_hit_rates(share).values()
    hits = f"an LRU with {share:.0%} of the experts hits {min(rates):.0%} to {max(rates):.0%} on recorded traces"
    if whose != "default dials":
        return f"{words}: {hits}"
    return f"{words}: {hits}; default dials are up to {100 * default_error(share):.0f} points off these"
