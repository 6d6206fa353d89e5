"""The routing that a recording ran, as arrays beside its runs: synthetic routing changes when its generator does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import Section
from traces.routing import Provenance, RoutingTrace

_COLUMNS = ("experts", "sequence", "position", "phase", "step")
_MAYBE = ("gate_weights", "expert_bytes", "rejected", "popularity")


def routing_arrays(trace: RoutingTrace, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of `trace`, each called `name.column`, and what a reader is told of it beside them."""
    columns = {key: getattr(trace, key) for key in (*_COLUMNS, *_MAYBE)}
    arrays = {f"{name}.{key}": values for key, values in columns.items() if values is not None}
    origin = trace.provenance
    return arrays, {"n_experts": trace.n_experts, "model": origin.model, "source": origin.source, "note": origin.note}


def recorded_routing_of(section: Section, name: str, arrays: Mapping[str, NDArray[Any]]) -> RoutingTrace:
    """The trace that `routing_arrays` wrote, told of in `section`. Raises `InvalidFile` for one that is none."""
    n_experts = section.integer("n_experts", minimum=1)
    model, source, note = (section.text(key) for key in ("model", "source", "note"))
    section.done()
    found = {key: arrays[f"{name}.{key}"] for key in (*_COLUMNS, *_MAYBE) if f"{name}.{key}" in arrays}
    missing = [key for key in _COLUMNS if key not in found]
    if missing:
        raise InvalidFile(f"{section.where}: the routing has no {missing[0]}: run again")
    try:
        return RoutingTrace(**found, n_experts=n_experts, provenance=Provenance(model, source, note=note))
    except (InvalidInput, TypeError, ValueError) as error:
        raise InvalidFile(f"{section.where}: {error}") from None
