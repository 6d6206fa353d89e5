"""CUDA graphs: every section of a layer that the compute stream runs, captured as a graph before the clock starts.

A section is an op: attention, a gate, one expert. Passes differ in context and in the tokens of each expert, but a run
knows them all beforehand, so each section of each pass has a graph of its own. A serving engine shares graphs between
passes, at the price of contexts padded to what was captured.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from traces.foundation.gc_pause import gc_paused


def capture_graphs(api: Any, stream: Any, actions: Mapping[int, Callable[[], Any]]) -> dict[int, Callable[[], None]]:
    """What replays each of `actions`, by op, in the order they are given; `api`: the module that has graphs.

    All run once as they are, so that libraries choose kernels and take workspaces, then are captured, then replayed
    once, since a first launch uploads the graph. What a section computes is made from what ran before it, so none of
    that shows in a run that begins at the beginning. Temporaries share one pool: replays follow one another as captures
    did. A graph holds addresses only: whoever replays it keeps what its action works on. Raises `RuntimeError` as the
    framework does.
    """
    with api.stream(stream):
        for action in actions.values():
            action()
        api.synchronize()
        api.empty_cache()  # what the framework has kept is of no use to a pool of graphs
        gc.collect()
        pool = api.graph_pool_handle()
        with gc_paused():  # garbage may be memory whose release no capture survives
            replays = {op: _captured(api, pool, action) for op, action in actions.items()}
        for replay in replays.values():
            replay()
    api.synchronize()
    return replays


def _captured(api: Any, pool: Any, action: Callable[[], Any]) -> Callable[[], None]:
    """What replays one action."""
    graph = api.CUDAGraph()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        action()
    except BaseException:
        with suppress(RuntimeError):  # of the capture, which the first error has ended
            graph.capture_end()
        raise
    graph.capture_end()
    replay: Callable[[], None] = graph.replay
    return replay
