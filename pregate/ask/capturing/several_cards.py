"""Designs of several cards: which layers, experts and sequences each card has, and what no engine does on several."""

from __future__ import annotations

from dataclasses import replace

from offload.cards.all_reduces import OF_ONE_CARD
from offload.cards.copied_attention import sequences_of_copies
from offload.execution import Execution
from offload.placing.footprint import largest_layer_bytes
from offload.placing.host_side import streams_experts
from offload.placing.placed import Placed
from offload.placing.tiers import Tier
from offload.placing.workload import Workload, measure_workload
from offload.policy import Policy
from offload.policy_parts.decisions import misses_on_host
from offload.policy_parts.miss_costs import AsksMachine
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.machine_memory import MachineMemory
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace


def filled_bytes(
    model: ModelArchitecture, workload: Workload, policy: Policy, placed: Placed, n_in_turn: int, hbm_bytes: int
) -> int:
    """What whole layers can fill of the `hbm_bytes` of several cards together: they leave less than one layer's of each
    card but the last.

    Raises `InvalidInput` for a policy that moves experts, which no engine does on several, and `CapacityExceeded` where
    no card holds a layer.
    """
    if n_in_turn == 1:
        return hbm_bytes
    if not policy.resident:
        raise InvalidInput(
            f"{policy.name}: experts that are moved are of one card; several take layers in turn: --policies gpu_only, "
            f"gpu_only@experts=cpu:N, gpu_only@layers=cpu:N"
        )
    a_layer, of_card = largest_layer_bytes(model, workload, placed), hbm_bytes // n_in_turn
    if a_layer >= of_card:
        raise CapacityExceeded(
            f"{policy.name}: a layer or the head of {model.name} takes {a_layer / 1e9:.1f} GB with its keys "
            f"and values, one of {n_in_turn} cards has {of_card / 1e9:.1f} GB: try fewer bits (--formats), a smaller "
            f"batch or cards with more memory"
        )
    return hbm_bytes - (n_in_turn - 1) * a_layer


def groups_of_cards(policy: Policy, memory: MachineMemory) -> tuple[int, int, int]:
    """Of cards that share layers: groups that have layers in turn, groups that hold whole experts (1: a share of each)
    and copies of attention.

    Raises `InvalidInput` where these are no equal groups, where cards do not share layers, or where anything is not in
    their HBM.
    """
    placement = policy.placement
    turns, stated, copies = placement.turns or 1, placement.expert_groups, placement.copies
    for n, clause in ((turns, f"turns={turns}"), (copies, f"copies={copies}")):
        if n > 1:
            _check_together(policy, memory, clause)
            if memory.n_cards % n:
                raise InvalidInput(
                    f"{policy.name}: {memory.n_cards} cards are no {n} equal groups: take a number that divides them"
                )
    if turns > 1 and copies > 1:
        raise InvalidInput(f"{policy.name}: copies of attention with layers in turn cannot be said: leave one out")
    if stated is None:
        return turns, 1, copies
    _check_together(policy, memory, "experts=whole")
    return turns, stated or memory.n_cards // turns, copies


def workload_of_one_copy(model: ModelArchitecture, trace: RoutingTrace, workload: Workload, n_copies: int) -> Workload:
    """Of several copies of attention what that with the most sequences has: of `trace`, and of all for which memory is
    planned its part of the sequences.
    """
    own = measure_workload(model, (sequences_of_copies(step, n_copies)[0] for step in trace.steps()))
    n_running = -(-workload.n_running // n_copies)
    n_cached = -(-workload.n_cached_tokens * n_running // max(workload.n_running, 1))
    return replace(
        own,
        n_cached_tokens=max(own.n_cached_tokens, n_cached),
        n_context=max(own.n_context, workload.n_context),
        n_running=max(own.n_running, n_running),
    )


def _check_together(policy: Policy, memory: MachineMemory, clause: str) -> None:
    """Raise `InvalidInput` where `clause` is of cards that share layers, all weights of them in HBM, and these not."""
    placement = policy.placement
    if memory.n_cards == 1 or not memory.execution.shares_layers or memory.execution.may_share_layers:
        here = "is one card" if memory.n_cards == 1 else "each has whole layers, or a share of each expert"
        raise InvalidInput(
            f"{policy.name}: {clause} is of several cards that share layers, and here {here}: --hardware '4x NAME' "
            f"--stack vllm"
        )
    moved = placement.streams or placement.zero_copies or placement.kv != "device" or placement.micro_sequences
    if moved or placement.host_layers or placement.host_experts or not policy.resident:
        raise InvalidInput(
            f"{policy.name}: with {clause} all weights, keys and values stay in HBM here: gpu_only@{clause}"
        )


def check_sharing_cards(policy: Policy, placed: Placed, tier: Tier, execution: Execution) -> None:
    """Raise `InvalidInput` for what is of one card where several share every layer."""
    whole = policy.on_miss is misses_on_host or any(one is not None for one in placed.kept)
    asks = isinstance(policy.on_miss, AsksMachine)
    if asks or placed.kv == "host" or placed.host_layers or (whole and not execution.first_hands_over):
        raise InvalidInput(f"{policy.name}: {OF_ONE_CARD}")
    brought = placed.streamed_layers or placed.streamed_experts or placed.zero_copies or placed.kv == "stream"
    if execution.may_share_layers and (brought or not policy.resident):
        raise InvalidInput(
            f"{policy.name}: no engine that shares layers where it is told to brings weights, keys or values to its "
            f"cards: take gpu_only@turns=1, with experts=cpu where they do not fit, or --stack vllm"
        )
    if tier.on_disk:
        raise InvalidInput(f"--tier {tier.name}: storage is read for one card, and several share every layer here")
    if policy.speculation is not None and policy.speculation.draft is not None:
        raise InvalidInput(
            f"{policy.name}: a model that drafts is of one card, and several share every layer here: draft=none or "
            f"draft=stated"
        )


def check_streamed_prompt(model: ModelArchitecture, policy: Policy, execution: Execution, workload: Workload) -> None:
    """Raise `InvalidInput` where a prompt streams experts of the host in an engine whose cards share layers if told to:
    which of them computes those is not known.
    """
    n_tokens = min(workload.n_tokens, execution.micro_batch or workload.n_tokens)
    on_host = policy.placement.host_experts is not None
    if on_host and execution.may_share_layers and streams_experts(execution, model, n_tokens):
        raise InvalidInput(
            f"{policy.name}: a prompt that streams experts of the host to cards that share every layer cannot be said: "
            f"add stream=never, or leave turns=1 out"
        )
