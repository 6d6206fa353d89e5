"""From a request to the schedule that was written: one capture is replayed on every machine it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hwmodels.platform import Platform
from offload.decode import Decoded, decode
from offload.placing.footprint import MemoryPlan
from offload.placing.workload import Workload
from offload.policy import Cache, Policy
from pregate.ask.capturing.machine_memory import MachineMemory
from pregate.ask.capturing.own_policy_checks import check_deterministic, check_sees_no_future, is_own
from pregate.ask.capturing.request import Request, request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.capturing.starting_host_cache import storage_of
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace, Step


@dataclass(frozen=True, slots=True)
class Captured:
    """A schedule with what is known of it before any clock: replayed on any machine it fits."""

    request: Request
    decoded: Decoded

    @property
    def model(self) -> ModelArchitecture:
        """The model."""
        return self.request.model

    @property
    def trace(self) -> RoutingTrace:
        """The trace."""
        return self.request.trace

    @property
    def policy(self) -> Policy:
        """The policy, cache included."""
        return self.request.policy

    @property
    def workload(self) -> Workload:
        """What the trace asks of memory."""
        return self.request.workload

    @property
    def plan(self) -> MemoryPlan:
        """The HBM granted."""
        return self.request.plan


def capture(
    model: ModelArchitecture,
    hw: Platform | MachineMemory,
    trace: RoutingTrace,
    policy: str | Policy,
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
) -> Captured:
    """Write the schedule that `simulate` prices. Raises as `request`."""
    return capture_request(request(model, hw, trace, policy, cache=cache, expert_tier=expert_tier))


def capture_request(asked: Request, *, compiled: bool | None = None) -> Captured:
    """Write the schedule of a request; `compiled` as of `offload.decode.DecodeStream`.

    A policy of a user's own is held to what it may do. Raises `CapacityExceeded` when the experts of one block do not
    fit, `InvalidInput` for such a policy that decides otherwise the second time, or knows what no gate revealed.
    """
    decoded = _decoded(asked, asked.policy, asked.trace.steps(), compiled)
    if is_own(asked.policy):
        check_deterministic(asked.policy, decoded, _decoded(asked, asked.policy, asked.trace.steps(), compiled))
        watch_own_policy(asked)
    return Captured(asked, decoded)


def watch_own_policy(asked: Request) -> None:
    """Raise `InvalidInput` where a user's own policy decides by what no gate has revealed, in the first steps."""
    if is_own(asked.policy):
        check_sees_no_future(
            asked.model, asked.policy, asked.trace.steps, lambda policy, steps: _decoded(asked, policy, steps, False)
        )


def _decoded(asked: Request, policy: Policy, steps: Iterator[Step], compiled: bool | None) -> Decoded:
    """The schedule of some steps, on the memory that was granted."""
    return decode(
        asked.model,
        steps,
        policy,
        asked.execution,
        n_buffers=asked.plan.n_buffers,
        cache=resident_set(asked),
        disk=asked.tier.on_disk,
        static_bytes=asked.plan.static_bytes,
        compiled=compiled,
        placed=asked.placed,
        through=storage_of(asked),
        low=asked.plan.low,
    )
