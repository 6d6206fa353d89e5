"""`gpu_only`: every expert resident in HBM, the upper bound; refused where HBM is too small."""

from __future__ import annotations

from offload.policy import Buffers, Policy


def gpu_only() -> Policy:
    """Nothing moves."""
    return Policy("gpu_only", resident=True, buffers=lambda n_active, n_experts: Buffers(0, 0))
