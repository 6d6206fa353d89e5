"""`on_demand`: select, fetch the active experts, wait, run (Accelerate, MoE-OnDemand)."""

from __future__ import annotations

from offload.policy import Policy


def on_demand() -> Policy:
    """The gate is conventional and nothing is prefetched."""
    return Policy("on_demand")
