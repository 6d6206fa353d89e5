"""`lru`, `lfu`: fetch on demand, into an expert cache that takes all the HBM that is left (vLLM's proposal)."""

from __future__ import annotations

from offload.policy import Cache, Policy


def lru() -> Policy:
    """The least recently used expert goes, pooled over the layers. `on_demand+lru:0.1` has a stated size instead."""
    return Policy("lru", cache=Cache("lru"))


def lfu() -> Policy:
    """The least frequently used expert goes, pooled over the layers."""
    return Policy("lfu", cache=Cache("lfu"))
