"""The placement that HBM has room for (`experts=cpu:fit`): attention first, then whole layers, the rest on the host.

In the order of Pipelined Sharding (MLSys 2026, its artifact's `llama-plan-builder.cpp`): attention, norms and KV cache
of as many layers as fit, the first ones; where all fit, the routed experts too of as many layers as fit, the first
ones. Layers whose attention has no room run on the host whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from offload.placing.layers import LayerRange
from offload.placing.placement import Placement
from offload.slots.memory import CapacityExceeded

_Planned = TypeVar("_Planned")


def most_in_hbm(
    placement: Placement, n_layers: int, planned: Callable[[Placement], _Planned]
) -> tuple[Placement, _Planned]:
    """`placement` with as much in HBM as `planned` accepts, and what that returns for it.

    `planned` raises `CapacityExceeded` for too much; so does this where nothing fits.
    """
    whole = _filled(placement, n_layers, 2 * n_layers)
    try:
        return whole, planned(whole)
    except CapacityExceeded:
        pass
    least = _filled(placement, n_layers, 0)
    found = least, planned(least)
    low, high = 1, 2 * n_layers - 1
    while low <= high:
        middle = (low + high) // 2
        candidate = _filled(placement, n_layers, middle)
        try:
            found = candidate, planned(candidate)
            low = middle + 1
        except CapacityExceeded:
            high = middle - 1
    return found


def _filled(placement: Placement, n_layers: int, n_parts: int) -> Placement:
    """`placement` with `n_parts` in HBM: the attention of a layer each, then the experts of a layer each."""
    n_attention, n_whole = min(n_parts, n_layers), max(n_parts - n_layers, 0)
    return replace(
        placement,
        fits=False,
        host_experts=LayerRange(n_whole) if n_whole < n_layers else None,
        host_layers=LayerRange(n_attention) if n_attention < n_layers else None,
    )
