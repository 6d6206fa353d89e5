"""What a schedule is written of, beside its steps: one value for both decode loops."""

from __future__ import annotations

from dataclasses import dataclass

from offload.caches.residency import ResidentSet
from offload.execution import Execution
from offload.placing.placed import Placed
from offload.policy import Policy
from offload.slots.host_tier import ReadThrough
from offload.slots.low_bit_copies import LowSlots
from traces.model.architecture import ModelArchitecture


@dataclass(frozen=True, slots=True, eq=False)
class DecodeJob:
    """Arguments as of `offload.decode.decode`."""

    model: ModelArchitecture
    policy: Policy
    execution: Execution
    n_buffers: int
    cache: ResidentSet | None
    disk: bool
    placed: Placed
    through: ReadThrough | None = None
    low: LowSlots | None = None
