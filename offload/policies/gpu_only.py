"""`gpu_only`: every expert resident in HBM, the upper bound; refused where HBM is too small."""

from __future__ import annotations

from offload.policy import Buffers, Policy


def gpu_only() -> Policy:
    """Nothing moves."""
    return Policy("gpu_only", resident=True, buffers=_none)


def _none(n_active: int, n_experts: int) -> Buffers:
    return Buffers(0, 0)
