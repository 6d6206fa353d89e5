"""A routing trace as events: the union of each (step, layer), as caches look it up and as gates say it. Flat arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offload.caches.gate_output import GateOutput
from traces.phase import Phase
from traces.routing import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class TraceEvents:
    """Event e looks `keys[ptr[e]:ptr[e + 1]]` up, in that order; a (step, layer) without experts is no event.

    tokens, scores: (n_lookups,), as of `GateOutput`. By event: `layer`; `i_step`, passes counted from 0; `n_tokens` of
    the pass; `begins`, whether none of its sequences was in the pass before; `decode`; `group`, rising by one with
    each pass that begins so. `sequence`: of the first token of the pass.
    """

    keys: NDArray[np.int64]
    tokens: NDArray[np.int64]
    scores: NDArray[np.float64]
    ptr: NDArray[np.int64]
    layer: NDArray[np.int64]
    i_step: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    begins: NDArray[np.bool_]
    decode: NDArray[np.bool_]
    group: NDArray[np.int64]
    sequence: NDArray[np.int64]
    n_layers: int
    n_experts: int
    top_k: int

    @property
    def n_lookups(self) -> int:
        """Experts looked up."""
        return len(self.keys)

    @property
    def event_of(self) -> NDArray[np.int64]:
        """The event of each lookup, (n_lookups,)."""
        return np.repeat(np.arange(len(self.layer)), np.diff(self.ptr))

    def one_by_one(self) -> TraceEvents:
        """Every lookup as an event of its own, as caches that evict between two experts of a layer see them."""
        of = self.event_of
        by_event = ("layer", "i_step", "n_tokens", "begins", "decode", "group", "sequence")
        return replace(self, ptr=np.arange(self.n_lookups + 1), **{name: getattr(self, name)[of] for name in by_event})

    def outputs(self, first: int, last: int) -> Iterator[GateOutput]:
        """What gates say in events `first` to `last`, the last left out."""
        for event in range(first, last):
            here = slice(self.ptr[event], self.ptr[event + 1])
            layer = int(self.layer[event])
            yield GateOutput(
                int(self.i_step[event]),
                layer,
                (self.keys[here] - layer * self.n_experts).tolist(),
                self.tokens[here].tolist(),
                self.scores[here].tolist(),
                int(self.n_tokens[event]),
                self.top_k,
                bool(self.begins[event]),
            )


def trace_events(trace: RoutingTrace, *, ascending: bool = False) -> TraceEvents:
    """The events of a trace, in order; the experts of one by their last appearance, token after token in rank order.

    That is what recency sees in published replays. `ascending`: by number instead, as schedules ask for them.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(trace.step)) + 1, [trace.n_tokens]])
    i_pass = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    n_layers, n_experts = trace.n_moe_layers, trace.n_experts
    place = (i_pass[:, None] * n_layers + np.arange(n_layers))[:, :, None] * n_experts  # [tokens, layers, 1]
    named = trace.experts >= 0
    found, inverse, tokens = np.unique((place + trace.experts)[named], return_inverse=True, return_counts=True)
    if trace.gate_weights is None:
        scores = tokens / trace.top_k
    else:
        weights = trace.gate_weights[named].astype(np.float64)
        scores = np.bincount(inverse.ravel(), weights=weights, minlength=len(found))
    event = found // n_experts
    if not ascending:
        last = np.empty(len(found), np.int64)
        last[inverse.ravel()] = np.arange(inverse.size)  # the last one written stays
        order = np.lexsort((last, event))
        found, tokens, scores = found[order], tokens[order], scores[order]
    ptr = np.concatenate([[0], np.flatnonzero(np.diff(event)) + 1, [len(found)]]).astype(np.int64)
    at = event[ptr[:-1]]
    of_pass, begins = at // n_layers, _begins(trace, starts)
    return TraceEvents(
        keys=found % (n_layers * n_experts),
        tokens=tokens.astype(np.int64),
        scores=scores,
        ptr=ptr,
        layer=at % n_layers,
        i_step=of_pass,
        n_tokens=np.diff(starts)[of_pass],
        begins=begins[of_pass],
        decode=(trace.phase[starts[:-1]] == Phase.DECODE)[of_pass],
        group=(np.cumsum(begins) - 1)[of_pass],
        sequence=trace.sequence[starts[:-1]].astype(np.int64)[of_pass],
        n_layers=n_layers,
        n_experts=n_experts,
        top_k=trace.top_k,
    )


def _begins(trace: RoutingTrace, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each pass whether none of its sequences was in the pass before."""
    found, before = np.ones(len(starts) - 1, np.bool_), set[int]()
    if len(starts) - 1 == trace.n_tokens:
        found[1:] = np.diff(trace.sequence) != 0
        return found
    for i in range(len(starts) - 1):
        now = set(trace.sequence[starts[i] : starts[i + 1]].tolist())
        found[i] = before.isdisjoint(now)
        before = now
    return found
