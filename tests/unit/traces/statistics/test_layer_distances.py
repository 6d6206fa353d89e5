"""Distances of one layer's lookups without compiled code: a list of recency is the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.small_models import MODELS, routing
from traces.routing import RoutingTrace
from traces.statistics import stack_distance
from traces.statistics.stack_distance import NEVER, layer_distances
from traces.transforms.rebatching import rebatch

TRACE = routing(MODELS["decoder-only"])


def sequences_apart(trace: RoutingTrace, n_tokens: int) -> RoutingTrace:
    """The same tokens, one a step, `n_tokens` of each sequence in a row."""
    index = np.arange(trace.n_tokens, dtype=np.int32)
    return replace(trace, sequence=index // n_tokens, position=index % n_tokens, step=index)


def by_recency(trace: RoutingTrace, layer: int, cold: bool) -> list[int]:
    """What every lookup needs: 0 if the event before used it, else the experts used since its last use, and itself."""
    recent: list[int] = []  # the latest first
    before: set[int] = set()
    needed, sequence = [], -1
    for step in range(int(trace.step.max()) + 1):
        here = np.flatnonzero(trace.step == step)
        chosen = [int(e) for e in trace.experts[here, layer].ravel() if e >= 0]
        now = int(trace.sequence[here[0]])
        if cold and now != sequence:
            recent, before = [], set()
        sequence = now
        for expert in sorted(set(chosen)):
            depth = recent.index(expert) + 1 if expert in recent else NEVER
            needed.append(0 if expert in before else depth)
        for expert in chosen:
            recent = [expert, *(other for other in recent if other != expert)]
        before = set(chosen)
    return needed


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("cells", [1, 40, 90, 200, 1 << 20])
@pytest.mark.parametrize("n_tokens", [1, 3, 7])
def test_every_lookup_needs_what_a_list_of_recency_says(
    n_tokens: int, cells: int, cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many events are counted at a time, and whether or not a pool is emptied between sequences."""
    monkeypatch.setattr(stack_distance, "_CELLS", cells)
    trace = sequences_apart(TRACE, n_tokens)
    for layer in range(trace.n_moe_layers):
        found = layer_distances(trace, layer, cold_each_sequence=cold).tolist()
        assert found == by_recency(trace, layer, cold)


def test_a_pool_is_kept_between_sequences_unless_said_otherwise() -> None:
    trace = sequences_apart(TRACE, 3)
    assert layer_distances(trace, 0).tolist() == by_recency(trace, 0, False) != by_recency(trace, 0, True)


@pytest.mark.parametrize("cells", [1, 40, 90, 1 << 20])
def test_steps_of_several_tokens_touch_in_their_order(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps are counted at a time, of one token or of several."""
    monkeypatch.setattr(stack_distance, "_CELLS", cells)
    assert layer_distances(TRACE, 0).tolist() == by_recency(TRACE, 0, False)
    for seed in range(4):
        wide = rebatch(routing(MODELS["decoder-only"], batch=3, seed=seed), 3)
        for layer in range(wide.n_moe_layers):
            assert layer_distances(wide, layer).tolist() == by_recency(wide, layer, False)


def test_a_layer_that_no_token_reached_has_no_lookups() -> None:
    experts = TRACE.experts.copy()
    experts[:, -1] = -1
    nothing = replace(TRACE, experts=experts)
    for cold in (False, True):
        assert layer_distances(nothing, TRACE.n_moe_layers - 1, cold_each_sequence=cold).tolist() == []
