"""`lru`, `lfu`, `lfru`: fetch on demand, into an expert cache that takes all the HBM that is left.

Differs: `lru` and `lfu` are pooled over layers; a cache of each layer, as in mixtral-offloading, is
`on_demand+lru:0.5:per_layer`.
"""

from __future__ import annotations

from offload.policy import Cache, Policy


def lru() -> Policy:
    """The least recently used expert goes, pooled over the layers. `on_demand+lru:0.1` has a stated size instead."""
    return Policy("lru", cache=Cache("lru"))


def lfu() -> Policy:
    """The least frequently used expert goes, pooled over the layers."""
    return Policy("lfu", cache=Cache("lfu"))


def lfru() -> Policy:
    """The expert of the fewest uses for its age goes, each layer by itself (vLLM's proposal, RFC 38256)."""
    return Policy("lfru", cache=Cache("lfru", per_layer=True))
