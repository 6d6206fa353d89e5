"""What a run came to, by name: the fields that every result has. `offload.metrics` has their definitions.

Nothing is imported here that takes time, so that a wrong name is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a run took, virtual or real: the part that results have in common. Definitions in DESIGN's words.

    `decode_tokens_per_s`: tokens after those of the first forward pass that makes any, over the time after it.
    `written_back_bytes`: of experts that a cache let go, copied back to host memory.
    `stall_s`: the compute lane waits for a transfer. `exposed_transfer_fraction`: the share of the time in which
    experts move that passes in such waits.
    """

    moe_layer_latency_s: float
    tokens_per_s: float
    decode_tokens_per_s: float
    ttft_s: float
    tpot_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    makespan_s: float
    peak_hbm_bytes: int
    h2d_bytes: int
    written_back_bytes: int
    hit_rate: float
    stall_s: float
    stall_share: float
    exposed_transfer_fraction: float


METRICS = tuple(field.name for field in fields(Metrics))
"""The names of all metrics, in order."""

WHOLE_METRICS = tuple(field.name for field in fields(Metrics) if field.type == "int")
"""Those that are counted in whole numbers."""
