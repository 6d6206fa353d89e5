"""What a trace asks of a cache: the experts of every forward pass, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from offload.decoding.choice_counts import choice_counts
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

_CELLS = 1 << 18
"""Routing cells (tokens x layers x top_k) looked through at a time, and experts counted, or one forward pass."""


def demands(model: ModelArchitecture, trace: RoutingTrace) -> Iterator[list[int]]:
    """The experts of every (step, layer) of the trace that has any, as keys, ascending."""
    n_keys = model.n_moe_layers * model.n_experts
    for keys in _asked(model, trace.experts, trace.step):
        ends = np.append(np.flatnonzero(np.diff(keys // model.n_experts)) + 1, len(keys)).tolist()
        named, last = (keys % n_keys).tolist(), 0
        for end in ends if named else ():
            yield named[last:end]
            last = end


def passes_that_ask(model: ModelArchitecture, trace: RoutingTrace, phase: Phase | None = None) -> NDArray[np.int64]:
    """(n_moe_layers, n_experts): in how many forward passes, of `phase` or of both, the trace asks for each expert."""
    n_keys = model.n_moe_layers * model.n_experts
    counts = np.zeros(n_keys, np.int64)
    of = slice(None) if phase is None else trace.phase == phase
    for keys in _asked(model, trace.experts[of], trace.step[of]):
        counts += np.bincount(keys % n_keys, minlength=n_keys)
    return counts.reshape(model.n_moe_layers, model.n_experts)


def _asked(
    model: ModelArchitecture, experts: NDArray[np.int16], step: NDArray[np.int32]
) -> Iterator[NDArray[np.int64]]:
    """The experts of every (step, layer), ascending, each (i_step * n_moe_layers + layer) * n_experts + expert.

    `experts`, (n_tokens, n_moe_layers, top_k), and `step`, (n_tokens,), as of a trace.
    """
    n_keys = model.n_moe_layers * model.n_experts
    edges = np.append(np.flatnonzero(np.diff(step, prepend=-1)), len(step))
    most, first = max(1, _CELLS // n_keys), 0
    while first < len(edges) - 1:  # whole passes, some hundred thousand counts at a time
        room = edges[first] + max(1, _CELLS // (model.n_moe_layers * experts.shape[2]))
        last = min(max(int(np.searchsorted(edges, room, side="right")) - 1, first + 1), first + most)
        start, stop = edges[first], edges[last]
        counts = choice_counts(experts[start:stop], model.n_experts, edges[first : last + 1] - start)
        yield np.flatnonzero(counts) + first * n_keys
        first = last
