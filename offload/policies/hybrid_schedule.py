"""`hybrid_schedule`: a block's experts are scheduled on host, device and link before any begins (HybriMoE, DAC 2025).

Left out: the host never computes what is resident. The cache is an LRU, since scores are not in most traces; the
paper's is `hybrid_schedule+mrs`.
"""

from __future__ import annotations

from offload.answers.list_schedule import ListScheduled
from offload.policy import Cache, Policy

__all__ = ["hybrid_schedule"]


def hybrid_schedule() -> Policy:
    """Beside a cache of what was used last."""
    return Policy("hybrid_schedule", on_miss=ListScheduled(), cache=Cache("lru"))
