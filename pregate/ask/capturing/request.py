"""What a schedule is asked for: a model, a trace, a policy, and the memory that a machine grants them.

Of the machine only memory and the stack's execution matter here: one request stands for every machine it fits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from hwmodels.stacks.weight_formats import check_weights
from offload.cards.evened_experts import evened_experts
from offload.execution import Execution
from offload.placing.footprint import MemoryPlan, host_bytes, pass_bytes, plan_memory, with_low_slots
from offload.placing.placed import Placed, place
from offload.placing.placement import AS_DECIDED
from offload.placing.streamed_layers import check_over_link
from offload.placing.tiers import Tier
from offload.placing.workload import Workload, measure_workload
from offload.policies import policy_named
from offload.policy import Cache, Policy
from offload.schedule import VERSION
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.demands import passes_that_ask
from pregate.ask.capturing.fitting_placement import most_in_hbm
from pregate.ask.capturing.machine_memory import MachineMemory, memory_of, of_sharing_cards
from pregate.ask.capturing.several_cards import (
    check_sharing_cards,
    check_streamed_prompt,
    filled_bytes,
    groups_of_cards,
    workload_of_one_copy,
)
from pregate.ask.capturing.tier_names import tier_named
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.popularity import shared_popularity


@dataclass(frozen=True, slots=True)
class Request:
    """All that a schedule depends on. `n_left_out`: choices of tokens that the trace has no more: they do without."""

    model: ModelArchitecture
    trace: RoutingTrace
    policy: Policy
    execution: Execution
    expert_tier: str
    workload: Workload
    plan: MemoryPlan
    placed: Placed
    n_left_out: int = 0

    @property
    def key(self) -> str:
        """32 hex digits of the SHA-256 of all of it: equal keys give equal schedules, in this process.

        A function counts by where it is in memory; `pregate.ask.capturing.schedule_cache.lasting_key` is good for
        longer.
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
    def tier(self) -> Tier:
        """Where experts wait."""
        return tier_named(self.expert_tier)

    @property
    def asked_machine(self) -> str:
        """What the policy was told of its machine, in words; empty where it asks nothing."""
        return "" if self.policy.costs is None else str(self.policy.costs)

    @property
    def n_at_once(self) -> int:
        """Cards that compute at the same time: those that share a layer, or one of several that have whole layers."""
        return self.placed.n_cards // self.placed.turns if self.execution.shares_layers else 1

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
        """The placement as far as it is not in the policy: which experts are kept, and how many cards there are."""
        kept = [sorted(experts) for experts in self.placed.kept if experts]
        return ((repr(kept),) if kept else ()) + (str(self.placed.n_cards),)


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
    trace that is not the model's or has no decode steps, or weights that the stack of a platform does not read,
    `CapacityExceeded` when a memory is too small.
    """
    chosen = policy_named(policy) if isinstance(policy, str) else policy
    chosen = chosen.with_cache(cache)
    n_blocks = model.n_moe_layers - model.n_encoder_moe_layers
    if chosen.lookahead > n_blocks:
        raise InvalidInput(
            f"{chosen.name}: a gate selects {chosen.lookahead} MoE blocks ahead, the decoder of {model.name} has "
            f"{n_blocks}: look fewer ahead"
        )
    tier_named(expert_tier)
    if isinstance(hw, Platform):
        check_weights(model, hw.stack)
    trace, workload, n_left_out = _as_executed(model, trace, workload, chosen)
    if workload is None:
        check_trace(model, trace)
        workload = measure_workload(model, trace.steps())
    memory = hw if isinstance(hw, MachineMemory) else memory_of(hw)
    if chosen.placement.turns == 1:
        memory = of_sharing_cards(memory)
    if memory.execution.shares_layers:
        turns, groups, copies = groups_of_cards(chosen, memory)
        if turns > 1 and model.is_encoder_decoder:
            raise InvalidInput(f"{chosen.name}: layers of an encoder-decoder are not on several cards in turn here")
        model = sharded(model, memory.n_cards // (turns * copies), groups, copies)
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
        return replace(asked, n_left_out=n_left_out)
    return replace(_planned(model, memory, trace, chosen, expert_tier, workload), n_left_out=n_left_out)


def _as_executed(
    model: ModelArchitecture, trace: RoutingTrace, workload: Workload | None, policy: Policy
) -> tuple[RoutingTrace, Workload | None, int]:
    """The trace with what `policy` skips left out and what it drafts in, its workload as far as known, and how many
    choices of tokens are left out.
    """
    n_left_out = 0
    if policy.skipping is not None:
        check_trace(model, trace)
        given, trace = trace, policy.skipping.of(trace)
        n_left_out = int(np.count_nonzero(given.experts >= 0) - np.count_nonzero(trace.experts >= 0))
    if policy.speculation is not None:
        if trace.rejected is None:
            check_trace(model, trace)
            trace, workload = policy.speculation.of(trace), None
        if model.is_encoder_decoder and policy.speculation.draft is not None:
            raise InvalidInput(
                f"{policy.name}: the prompt of {model.name} is its encoder's, and a draft that is a decoder has not "
                f"read it: draft=none or draft=stated"
            )
    return trace, workload, n_left_out


def _planned(
    model: ModelArchitecture,
    memory: MachineMemory,
    trace: RoutingTrace,
    chosen: Policy,
    expert_tier: str,
    workload: Workload,
) -> Request:
    """The request with its memory granted. Raises `CapacityExceeded`."""
    popularity = _popularity(model, trace, chosen) if chosen.placement.goes_by_popularity else None
    placed = place(model, chosen.placement, popularity)
    turns, groups, copies = groups_of_cards(chosen, memory)
    placed = replace(placed, n_cards=memory.n_cards, expert_groups=groups, turns=turns, copies=copies)
    if chosen.placement.redundant is not None and popularity is not None and groups > 1:
        placed = replace(placed, held=evened_experts(popularity, groups, chosen.placement.redundant))
    held = workload if copies == 1 else workload_of_one_copy(model, trace, workload, copies)
    execution = chosen.placement.execution(memory.execution)
    check_over_link(chosen, execution, placed)
    tier, n_host_slots = tier_named(expert_tier), 0
    n_shares = placed.n_sharing if execution.shares_layers else 1
    if n_shares > 1 or turns > 1:
        check_sharing_cards(chosen, placed, tier, execution)
        check_streamed_prompt(model, chosen, execution, workload)
    takes_rest = memory.is_one and tier.takes_rest(model)
    if tier.on_disk:
        other_bytes = host_bytes(model, workload, chosen, placed, experts=False)
        n_host_slots = 0 if takes_rest else _host_slots(tier, model, memory, chosen, other_bytes)
        on_host = other_bytes + n_host_slots * tier.reads.expert_bytes(model)
    else:
        in_shares = host_bytes(model, workload, chosen, placed) - model.table_bytes
        on_host = n_shares * in_shares + model.table_bytes  # tables of n-grams are whole, for the cards of all shares
        _check_host_memory(model, memory, chosen, on_host)
    n_in_turn = turns if execution.shares_layers else memory.n_cards
    hbm_bytes = filled_bytes(model, held, chosen, placed, n_in_turn, turns * memory.hbm_bytes)
    left = memory.dram_bytes - on_host if memory.is_one else hbm_bytes
    try:
        plan = plan_memory(
            model,
            held,
            chosen,
            execution,
            hbm_bytes=min(hbm_bytes, left),
            reserve_bytes=turns * memory.reserve_bytes + (n_in_turn - 1) * pass_bytes(model, held, execution, placed),
            placed=placed,
        )
    except CapacityExceeded as error:
        if not (memory.is_one and left < error.needed_bytes):
            raise
        smaller = "an offloading policy" if chosen.resident else "a smaller cache"
        way_out = f"{smaller}, or fewer bits (--formats)" if tier.on_disk else memory.way_out
        beside = f" beside {on_host / 1e9:.1f} GB of the host," * (on_host > 0)
        raise CapacityExceeded(
            f"{chosen.name}: {model.name} takes {error.needed_bytes / 1e9:.1f} GB{beside} in one memory of "
            f"{memory.dram_bytes / 1e9:.1f} GB: try {way_out}",
            error.needed_bytes + on_host,
            "DRAM",
        ) from None
    plan = with_low_slots(plan, chosen, model)
    if takes_rest:
        in_hbm = plan.static_bytes + plan.n_slots * model.expert_bytes + plan.low_bytes
        n_host_slots = _host_slots(tier, model, memory, chosen, on_host + in_hbm)
    plan = replace(plan, n_host_slots=n_host_slots)
    return Request(model, trace, chosen, execution, expert_tier, workload, plan, placed)


def _popularity(model: ModelArchitecture, trace: RoutingTrace, policy: Policy) -> NDArray[np.float64]:
    """(n_moe_layers, n_experts): as counted elsewhere, or in the traffic that the trace is of, or in how many forward
    passes it asks for each expert.
    """
    counted = policy.popularity or shared_popularity(trace)
    if counted is not None:
        counted.check_model(model)
        return counted.counts
    return passes_that_ask(model, trace).astype(np.float64)


def _check_host_memory(model: ModelArchitecture, memory: MachineMemory, policy: Policy, needed: int) -> None:
    """What waits in DRAM fits there. Raises `CapacityExceeded` when the host has less."""
    if needed > memory.dram_bytes:
        what, take = ("the experts of ", "take") if policy.placement == AS_DECIDED else ("", "takes")
        raise CapacityExceeded(
            f"{policy.name}: {what}{model.name} {take} {needed / 1e9:.1f} GB of host memory, {memory.host} has "
            f"{memory.dram_bytes / 1e9:.1f} GB: try {memory.way_out}",
            needed,
            "DRAM",
        )


def _host_slots(tier: Tier, model: ModelArchitecture, memory: MachineMemory, policy: Policy, other_bytes: int) -> int:
    """Experts that host memory keeps above storage, beside `other_bytes` that it holds anyway.

    Raises `CapacityExceeded` where the host has less than both, `InvalidInput` for a stated cache of nothing.
    """
    n_slots = tier.n_slots(model, max(memory.dram_bytes - other_bytes, 0))
    needed = other_bytes + n_slots * tier.reads.expert_bytes(model)
    if needed > memory.dram_bytes:
        kept = f" with {n_slots} experts kept above storage" * (n_slots > 0)
        way_out = f"a smaller cache in --tier {tier.name}" if n_slots else "--set host.dram_bytes=..."
        raise CapacityExceeded(
            f"{policy.name}: {model.name}{kept} takes {needed / 1e9:.1f} GB of host memory, {memory.host} has "
            f"{memory.dram_bytes / 1e9:.1f} GB: try {way_out}",
            needed,
            "DRAM",
        )
    return n_slots
