"""Schedules of small models, decoded with room for every expert that is needed at once."""

from __future__ import annotations

from offload.caches.residency import ResidentSet
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.policies import policy_named
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace


def schedule_of(
    model: ModelArchitecture, trace: RoutingTrace, policy: str, cache: ResidentSet | None = None, *,
    n_buffers: int | None = None, execution: str = "streams", disk: bool = False,
) -> Decoded:  # fmt: skip
    slots = 3 * model.n_experts if n_buffers is None else n_buffers
    steps, how = trace.steps(), EXECUTIONS[execution]
    return decode(model, steps, policy_named(policy), how, n_buffers=slots, cache=cache, disk=disk)
