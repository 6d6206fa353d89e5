"""From a model, a machine's memory, a trace and a policy to a schedule: what is asked for, and what was written.

Of the machine only memory and the stack's execution matter here: one capture is replayed on every machine it fits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from hwmodels.start_up import miss_costs
from offload import metrics
from offload.decode import Decoded, decode
from offload.execution import Execution
from offload.footprint import MemoryPlan, Workload, host_bytes, measure_workload, plan_memory
from offload.gate_output import gate_output
from offload.memory import CapacityExceeded
from offload.miss_costs import MissCosts
from offload.placement import AS_DECIDED, Placed, place
from offload.policies import eviction_named, policy_named
from offload.policies.prefetch_all import whole_next_block
from offload.policies.pregate import SelectedAhead
from offload.policy import Cache, Policy, no_prefetch
from offload.prefetches import Prefetches, PrefetchTally, named_by
from offload.residency import ResidentSet
from offload.schedule import COLUMNS, VERSION
from offload.timeline import Timeline
from pregate.ask.fitting_placement import most_in_hbm
from pregate.ask.own_policy_checks import check_deterministic, check_sees_no_future, is_own
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace, Step

__all__ = [
    "Captured",
    "MachineMemory",
    "Request",
    "capture",
    "capture_request",
    "check_trace",
    "guesses",
    "memory_of",
    "metrics_of",
    "n_missing",
    "prefetches_of",
    "request",
    "resident_set",
    "watch_own_policy",
]


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """What a schedule needs to know of a machine: its memories, and what its software does with them.

    `reserve_bytes`: HBM that the software takes for itself; `dram_bytes` of the host called `host`; `way_out`: what to
    try where those are too few. `costs_of`: what a design that weighs the host against the link measures of a model
    there; None where nobody can tell.
    """

    hbm_bytes: int
    reserve_bytes: int
    dram_bytes: int
    host: str
    execution: Execution
    way_out: str = "--tier ssd, or --set host.dram_bytes=..."
    costs_of: Callable[[ModelArchitecture], MissCosts] | None = field(default=None, compare=False, repr=False)


def memory_of(hw: Platform) -> MachineMemory:
    """The memory of a platform."""
    machine = hw.machine
    return MachineMemory(
        int(machine.accelerator.hbm_bytes * hw.constants.get("memory_share", 1.0)),
        int(hw.constant("reserve_bytes")),
        machine.host.dram_bytes,
        machine.host.name,
        hw.execution,
        costs_of=lambda model: miss_costs(model, hw),
    )


@dataclass(frozen=True, slots=True)
class Request:
    """All that a schedule depends on."""

    model: ModelArchitecture
    trace: RoutingTrace
    policy: Policy
    execution: Execution
    expert_tier: str
    workload: Workload
    plan: MemoryPlan
    placed: Placed

    @property
    def key(self) -> str:
        """32 hex digits of the SHA-256 of all of it: equal keys give equal schedules, in this process.

        A function counts by where it is in memory; `pregate.ask.schedule_cache.lasting_key` is good for longer.
        """
        parts = (
            VERSION,
            self.model,
            self.trace.digest,
            self.policy,
            self.execution,
            self.expert_tier,
            self.plan,
            *self._placed,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @property
    def asked_machine(self) -> str:
        """What the policy was told of its machine, in words; empty where it asks nothing."""
        return "" if self.policy.costs is None else str(self.policy.costs)

    @property
    def output(self) -> str:
        """Whether what is computed is the model's own output: "exact", or "approximate"."""
        return "exact" if self.policy.is_exact else "approximate"

    @property
    def policy_source(self) -> str:
        """The file and digest of a user's own policy; empty for others."""
        source = self.policy.source
        return "" if source is None else f"{source.code.path} {source.code.digest}"

    @property
    def _placed(self) -> tuple[str, ...]:
        """The placement as far as it is not in the policy: which experts are kept."""
        kept = [sorted(experts) for experts in self.placed.kept if experts]
        return (repr(kept),) if kept else ()


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


def metrics_of(captured: Captured, timeline: Timeline, lookups: tuple[int, int] | None = None) -> dict[str, Any]:
    """Every field of `Metrics` by name, of a run of the schedule, virtual or real.

    `lookups`: experts looked up in decoding, and found, where a run counted them itself.
    """
    decoded = captured.decoded
    counted = (decoded.n_lookups, decoded.n_hits) if lookups is None else lookups
    return metrics.of_timeline(timeline, captured.trace, captured.workload.n_output_tokens, counted)


def guesses(policy: Policy) -> bool:
    """Whether a policy brings what may turn out not to be needed, by a guess and not simply all there is."""
    shipped = isinstance(policy.prefetch, SelectedAhead) or policy.prefetch in (no_prefetch, whole_next_block)
    return policy.predictor is not None or policy.start is not None or not shipped


def n_missing(decoded: Decoded) -> int:
    """Experts that gates named and that were not resident."""
    return decoded.n_lookups + decoded.n_prefill_lookups - decoded.n_hits - decoded.n_prefill_hits


def prefetches_of(captured: Captured, timeline: Timeline) -> Prefetches | None:
    """What a policy that guesses brought ahead in a run of its schedule, virtual or real; None of any other."""
    if not guesses(captured.policy):
        return None
    tally, schedule = PrefetchTally(named_by(captured.model, captured.trace)), timeline.schedule
    tally.feed({name: getattr(schedule, name) for name in COLUMNS}, schedule.works, timeline.end_s)
    return tally.found(n_missing(captured.decoded), captured.model.expert_bytes)


def check_trace(model: ModelArchitecture, trace: RoutingTrace) -> None:
    """Raise `InvalidInput` unless `trace` is one of `model` and makes tokens."""
    trace.check_model(model)
    if not np.any(trace.phase == Phase.DECODE):
        raise InvalidInput(
            f"the trace of {trace.provenance.model} has no decode steps: generate at least 2 tokens a sequence"
        )


def request(
    model: ModelArchitecture,
    hw: Platform | MachineMemory,
    trace: RoutingTrace,
    policy: str | Policy,
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
    workload: Workload | None = None,
) -> Request:
    """Plan the memory of `policy` on `hw`, of which only memory matters; writes no schedule yet, so it is cheap.

    `workload`: what `measure_workload` said of this model and trace, when it is known. Raises `InvalidInput` for a
    trace that is not the model's or has no decode steps, `CapacityExceeded` when a memory is too small.
    """
    chosen = policy_named(policy) if isinstance(policy, str) else policy
    chosen = chosen.with_cache(cache)
    n_blocks = model.n_moe_layers - model.n_encoder_moe_layers
    if chosen.lookahead > n_blocks:
        raise InvalidInput(
            f"{chosen.name}: a gate selects {chosen.lookahead} MoE blocks ahead, the decoder of {model.name} has "
            f"{n_blocks}: look fewer ahead"
        )
    if expert_tier not in ("dram", "ssd"):
        raise InvalidInput(f"expert tier = {expert_tier!r}: experts wait in dram or ssd")
    if workload is None:
        check_trace(model, trace)
        workload = measure_workload(model, trace.steps())
    memory = hw if isinstance(hw, MachineMemory) else memory_of(hw)
    if chosen.asks_machine and memory.costs_of is not None:
        chosen = chosen.on_machine(memory.costs_of(model))
    if chosen.placement.fits:
        _, asked = most_in_hbm(
            chosen.placement,
            model.decoder.n_layers,
            lambda placement: _planned(
                model, memory, trace, replace(chosen, placement=placement), expert_tier, workload
            ),
        )
        return asked
    return _planned(model, memory, trace, chosen, expert_tier, workload)


def _planned(
    model: ModelArchitecture,
    memory: MachineMemory,
    trace: RoutingTrace,
    chosen: Policy,
    expert_tier: str,
    workload: Workload,
) -> Request:
    """The request with its memory granted. Raises `CapacityExceeded`."""
    placed = place(model, chosen.placement, _popularity(model, trace, chosen) if chosen.placement.keeps else None)
    execution = chosen.placement.execution(memory.execution)
    if expert_tier == "dram":
        _check_host_memory(model, memory, chosen, host_bytes(model, workload, chosen, placed))
    plan = plan_memory(
        model,
        workload,
        chosen,
        execution,
        hbm_bytes=memory.hbm_bytes,
        reserve_bytes=memory.reserve_bytes,
        placed=placed,
    )
    return Request(model, trace, chosen, execution, expert_tier, workload, plan, placed)


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
        disk=asked.expert_tier == "ssd",
        static_bytes=asked.plan.static_bytes,
        compiled=compiled,
        placed=asked.placed,
    )


def _popularity(model: ModelArchitecture, trace: RoutingTrace, policy: Policy) -> NDArray[np.float64]:
    """(n_moe_layers, n_experts): in how many forward passes the trace asks for each expert, or as counted elsewhere."""
    if policy.popularity is not None:
        policy.popularity.check_model(model)
        return policy.popularity.counts
    counts = np.zeros(model.n_moe_layers * model.n_experts)
    for keys in _demands(model, trace):
        counts[keys] += 1
    return counts.reshape(model.n_moe_layers, model.n_experts)


def _check_host_memory(model: ModelArchitecture, memory: MachineMemory, policy: Policy, needed: int) -> None:
    """What waits in DRAM fits there. Raises `CapacityExceeded` when the host has less."""
    if needed > memory.dram_bytes:
        what = "the experts of " * (policy.placement == AS_DECIDED)
        raise CapacityExceeded(
            f"{policy.name}: {what}{model.name} take {needed / 1e9:.1f} GB of host memory, {memory.host} has "
            f"{memory.dram_bytes / 1e9:.1f} GB: try {memory.way_out}",
            needed,
            "DRAM",
        )


def resident_set(asked: Request) -> ResidentSet | None:
    """The cache of a policy: a warm one has seen the whole request before, a static one holds what is popular."""
    model, spec = asked.model, asked.policy.cache
    if spec is None:
        return None
    n_runs = 2 if spec.warm else 1
    residents = ResidentSet(
        asked.plan.n_cache_slots,
        eviction_named(
            spec.eviction,
            model.n_encoder_moe_layers * model.n_experts,
            lambda: (keys for _ in range(n_runs) for keys in _demands(asked.model, asked.trace)),
        ),
        per_layer=spec.per_layer,
        n_layers=model.n_moe_layers,
        n_experts=model.n_experts,
        admit=spec.admit,
        budget=spec.budget,
    )
    if spec.eviction == "static":
        for layer, expert in _most_asked_for(asked, spec):
            residents.admit(layer, [expert])
    elif spec.eviction == "hot_lru":
        residents.hold(_most_asked_for(asked, spec), spec.hot_share)
    if spec.warm and spec.eviction != "static":
        _warm(residents, asked)
    return residents


def _warm(residents: ResidentSet, asked: Request) -> None:
    """Have a cache serve the whole request once."""
    n_experts, sequences = residents.n_experts, set[int]()
    for step in asked.trace.steps() if residents.watches_gates else ():
        now = set(step.sequence.tolist())
        for layer in range(residents.n_layers):
            weights = None if step.gate_weights is None else step.gate_weights[:, layer]
            said = gate_output(step.i_step, layer, step.experts[:, layer], weights, sequences.isdisjoint(now))
            if said.experts:
                residents.gated(said)
                residents.admit(layer, said.experts)
        sequences = now
    for keys in () if residents.watches_gates else _demands(asked.model, asked.trace):
        residents.admit(keys[0] // n_experts, [key % n_experts for key in keys])


def _most_asked_for(asked: Request, spec: Cache) -> Iterator[tuple[int, int]]:
    """Layers and experts, the most popular first: as counted elsewhere, or else in the trace itself."""
    if spec.popularity is not None:
        spec.popularity.check_model(asked.model)
        yield from spec.popularity.hottest(spec.popularity.counts.size)
        return
    uses = Counter(key for keys in _demands(asked.model, asked.trace) for key in keys)
    for key, _ in sorted(uses.items(), key=lambda item: (-item[1], item[0])):
        yield divmod(key, asked.model.n_experts)


_CELLS = 1 << 18
"""Routing cells (tokens x layers x top_k) looked through at a time, or one forward pass."""


def _demands(model: ModelArchitecture, trace: RoutingTrace) -> Iterator[list[int]]:
    """The experts of every (step, layer) of the trace that has any, as keys, ascending."""
    n_layers, n_experts = model.n_moe_layers, model.n_experts
    begins = np.append(True, np.diff(trace.step) != 0)
    i_pass, edges = np.cumsum(begins), np.append(np.flatnonzero(begins), trace.n_tokens)
    start = 0
    while start < trace.n_tokens:  # whole passes, some hundred thousand cells at a time
        room = start + max(1, _CELLS // (n_layers * trace.top_k))
        stop = int(edges[max(np.searchsorted(edges, room, side="right") - 1, np.searchsorted(edges, start) + 1)])
        experts = trace.experts[start:stop]
        first = (i_pass[start:stop, None] * n_layers + np.arange(n_layers)) * n_experts  # (n_tokens, n_layers)
        keys = np.unique((first[:, :, None] + experts)[experts >= 0])
        ends = np.append(np.flatnonzero(np.diff(keys // n_experts)) + 1, len(keys)).tolist()
        named, last = (keys % (n_layers * n_experts)).tolist(), 0
        for end in ends if named else ():
            yield named[last:end]
            last = end
        start = stop
