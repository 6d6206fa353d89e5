"""What a point runs: the model as its axes have it, and the trace made for it or re-batched from a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pregate.routing_traces import load_trace, synthesize
from pregate.sweeps.axes import FORMATS, Axis
from traces.errors import InvalidInput, check_least
from traces.foundation.type_checks import check_fields
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile
from traces.synthesis.dials import Dials
from traces.transforms.rebatching import rebatch

_OF_SYNTHESIS = ("input_tokens", "output_tokens", "n_active")


@dataclass(frozen=True, slots=True)
class TraceRecipe:
    """How to make the trace of a point, where axes change the workload.

    Synthetic (`pregate.synthesize`) unless `path` names a recording. `batch`: None is 1, or a recording as it was
    recorded; "max" the largest that each point has memory for.
    Raises `InvalidInput` for a recording with what only a synthetic trace has.
    """

    input_tokens: int = 256
    output_tokens: int = 256
    batch: int | Literal["max"] | None = None
    seed: int = 0
    dials: Dials | None = None
    n_active: int | None = None
    path: str | Path | None = None
    popularity: PopularityProfile | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("input_tokens", 1), ("output_tokens", 1), ("batch", 1), ("seed", 0), ("n_active", 1)):
            value = getattr(self, name)
            if isinstance(value, str) and value != "max":
                raise InvalidInput(f"{name} = {value!r} is neither a number of sequences nor max")
            if value is not None and value != "max":
                check_least(name, value, least)
        made = (self.input_tokens, self.output_tokens, self.seed, self.dials, self.n_active)
        if self.path is not None and (made != (256, 256, 0, None, None) or self.popularity is not None):
            raise InvalidInput(
                f"{self.path} is a recording: token counts, seed, dials, popularity and n_active are of synthesis"
            )


def check_workload_axes(trace: RoutingTrace | TraceRecipe, axes: Mapping[str, Axis]) -> None:
    """Raise `InvalidInput` for an axis that a recording cannot follow, with the reason."""
    if isinstance(trace, TraceRecipe):
        for name, given in (("dials", trace.dials), ("a popularity", trace.popularity)):
            if given is not None and "n_active" in axes:
                raise InvalidInput(f"axis n_active forces the routing that {name} would draw: leave out one of the two")
        return
    for name in _OF_SYNTHESIS:
        if name in axes:
            raise InvalidInput(
                f"axis {name} needs a synthetic trace, this one of {trace.provenance.model} was recorded: leave the "
                f"axis out, or give the numbers of a synthetic workload (TraceRecipe, `workload:`)"
            )
    for batch in axes["batch"].values.tolist() if "batch" in axes else ():
        if batch > trace.n_sequences:
            raise InvalidInput(
                f"axis batch = {batch:g}: the trace of {trace.provenance.model} has {trace.n_sequences} sequences, at "
                f"most that many run side by side: a smaller batch, or a synthetic workload"
            )
    for top_k in axes["top_k"].values.tolist() if "top_k" in axes else ():
        if top_k != trace.top_k:
            raise InvalidInput(
                f"axis top_k = {top_k:g}: the trace of {trace.provenance.model} was recorded with {trace.top_k} "
                f"experts a token, and what other gates would have chosen is not in it: use a synthetic workload"
            )


def model_at(model: ModelArchitecture, choice: Mapping[str, Any]) -> ModelArchitecture:
    """The model with the formats and experts a token that a point chose. Raises `InvalidInput` for too many experts."""
    if "dtype" in choice:
        model = model.with_dtype(choice["dtype"])
    if "expert_dtype" in choice:
        model = model.with_expert_dtype(choice["expert_dtype"])
    formats = {key.partition(".")[2]: choice[key] for key in FORMATS if key in choice}
    if formats:
        model = model.with_formats(formats)
    return model.with_top_k(choice["top_k"]) if "top_k" in choice else model


def trace_at(trace: RoutingTrace | TraceRecipe, model: ModelArchitecture, choice: Mapping[str, Any]) -> RoutingTrace:
    """The trace of a point. Raises `InvalidInput` for counts that cannot be, as `pregate.synthesize`."""
    if isinstance(trace, RoutingTrace):
        return rebatch(trace, choice["batch"]) if "batch" in choice else trace
    return synthesize(
        model,
        choice.get("input_tokens", trace.input_tokens),
        choice.get("output_tokens", trace.output_tokens),
        choice.get("batch", trace.batch if isinstance(trace.batch, int) else 1),
        trace.seed,
        dials=trace.dials,
        n_active=choice.get("n_active", trace.n_active),
        popularity=trace.popularity,
    )


def fills_memory(trace: object, axes: Mapping[str, Axis]) -> bool:
    """Whether each point runs the largest batch that it has memory for. Raises `InvalidInput` for an axis of batches
    beside it.
    """
    largest = isinstance(trace, TraceRecipe) and trace.batch == "max"
    if largest and "batch" in axes:
        raise InvalidInput(
            "batch = max is solved for at every point, and axis batch gives it: leave out one of the two"
        )
    return largest


def as_source(
    trace: RoutingTrace | TraceRecipe | str | Path | None, model: ModelArchitecture
) -> RoutingTrace | TraceRecipe:
    """What `sweep` was given for a trace: recordings, of `model`, are read now, synthesis waits for its point."""
    if trace is None:
        return TraceRecipe()
    if isinstance(trace, str | Path):
        return load_trace(trace, model=model)
    if isinstance(trace, TraceRecipe) and trace.path is not None:
        return load_trace(trace.path, batch=None if trace.batch == "max" else trace.batch, model=model)
    return trace
