"""`hybrid_schedule`: a block's experts are scheduled on host, device and link before any begins (HybriMoE, DAC 2025).

The cache lets go whom gates have scored least of late; `hybrid_schedule+lru` needs no scores, and is what cards try.

Differs: the host never computes what is resident; nothing is brought ahead; experts that no token chose score 0.
"""

from __future__ import annotations

from offload.answers.list_schedule import ListScheduled
from offload.policy import Cache, Policy


def hybrid_schedule() -> Policy:
    """Beside a score-aware cache in all HBM that is left."""
    return Policy("hybrid_schedule", on_miss=ListScheduled(), cache=Cache("mrs"))
