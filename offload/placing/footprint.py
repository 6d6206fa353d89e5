"""HBM before the first expert: weights outside experts, KV cache, workspace; and what is left for expert slots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from offload.cards.expert_groups import most_experts
from offload.execution import Execution
from offload.own_policies.policy_calls import ask
from offload.placing.placed import Placed, place
from offload.placing.streamed_layers import LayerStreams, experts_away
from offload.placing.workload import Workload
from offload.policy import Buffers, Policy
from offload.slots.low_bit_copies import LowSlots
from offload.slots.memory import CapacityExceeded
from traces.errors import InvalidInput
from traces.model.architecture import Attention, ModelArchitecture
from traces.model.layer_bytes import head_bytes, layer_weight_bytes
from traces.model.layer_models import layer_expert_bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """HBM of a policy: `static_bytes` throughout, then `n_buffers` transient expert slots and `n_cache_slots`.

    `n_host_slots`: experts that host memory keeps above storage. `low`: slots for copies of fewer bits, None none, in
    `low_bytes` of HBM.
    """

    static_bytes: int
    n_buffers: int
    n_cache_slots: int
    n_host_slots: int = 0
    low: LowSlots | None = None
    low_bytes: int = 0

    @property
    def n_low_slots(self) -> int:
        """Slots for copies of fewer bits."""
        return 0 if self.low is None else self.low.n

    @property
    def n_slots(self) -> int:
        """Expert slots of both kinds."""
        return self.n_buffers + self.n_cache_slots


def plan_memory(
    model: ModelArchitecture,
    workload: Workload,
    policy: Policy,
    execution: Execution,
    *,
    hbm_bytes: int,
    reserve_bytes: int,
    placed: Placed | None = None,
) -> MemoryPlan:
    """Grant a policy as many expert slots as it can use and HBM can hold. `placed`: its placement of the model.

    Raises `CapacityExceeded`, naming both sizes and the way out, when even the least does not fit.
    """
    placed = place(model, policy.placement) if placed is None else placed
    static = _static_bytes(model, workload, execution, placed) + reserve_bytes
    if policy.speculation is not None and policy.speculation.draft is not None:
        static += _draft_bytes(policy.speculation.draft, workload)
    if policy.resident:
        n_here = most_experts(model.n_experts + placed.n_redundant, placed.expert_groups)
        resident = [n_here if kept is None else 0 for kept in placed.kept]
        needed = static + _bytes_of(model, resident) - experts_away(model, placed)
        if needed > hbm_bytes:
            told = _too_small(policy.name, needed, hbm_bytes, "an offloading policy")
            raise CapacityExceeded(told, needed, there_bytes=hbm_bytes)
        return MemoryPlan(needed, 0, 0)
    stated = policy.cache.capacity(_cached_layers(model, placed), model.n_experts) if policy.cache else 0
    n_cache = stated or 0
    minimum, full = _buffers(model, workload, policy, execution)
    needed = static + (n_cache + minimum) * model.expert_bytes
    n_fit = (hbm_bytes - static) // model.expert_bytes - n_cache
    if n_fit < minimum:
        way_out = "a smaller --cache" if n_cache else "a smaller batch or a larger --hbm"
        raise CapacityExceeded(_too_small(policy.name, needed, hbm_bytes, way_out), needed, there_bytes=hbm_bytes)
    if stated is None:
        n_cache = min(max(n_fit - full, 0), placed.n_decided * model.n_experts)
    n_buffers = min(full, n_fit)
    return MemoryPlan(
        static, n_buffers - n_buffers % model.n_experts if policy.granularity == "layer" else n_buffers, n_cache
    )


def _buffers(model: ModelArchitecture, workload: Workload, policy: Policy, execution: Execution) -> Buffers:
    """Transient slots. Where slots are handed on, one at least, and as decode steps use: prompts pass through them.

    A second slot lets the copy of an expert run beside the FFN of the one before.
    """
    n_active, n_experts = workload.n_active, model.n_experts
    largest = max(n_active, workload.n_encoder_active)
    if policy.hands_slots_on(execution):
        full = _asked(policy, workload.n_decode_active or n_active, n_experts).full
        return Buffers(_asked(policy, 1, n_experts).minimum, max(full, min(2, largest)))
    wanted = _asked(policy, largest if policy.encoder == "same" else n_active, n_experts)
    return Buffers(*(max(size, workload.n_encoder_active) for size in wanted))


def _asked(policy: Policy, n_active: int, n_experts: int) -> Buffers:
    """The slots that a policy asks for. Raises `InvalidInput` where it answers something else."""
    asked: Any = ask(policy.name, "buffers", policy.buffers, n_active, n_experts)
    sizes = asked if isinstance(asked, tuple) else ()
    if len(sizes) != 2 or not all(isinstance(size, Integral) for size in sizes) or not 0 <= sizes[0] <= sizes[1]:
        raise InvalidInput(
            f"policy {policy.name}: buffers({n_active}, {n_experts}) returned {asked!r}, not Buffers(minimum, full), "
            f"both 0 or above"
        )
    if policy.granularity != "layer":
        return Buffers(*sizes)
    most = max(2, policy.lookahead + 1)  # layers at once: that which runs, and those that are brought ahead
    return Buffers(n_experts, n_experts * max(1, min(most, math.ceil(sizes[1] / max(n_active, 1)))))


def with_low_slots(plan: MemoryPlan, policy: Policy, model: ModelArchitecture) -> MemoryPlan:
    """`plan` with the share of its cache that a policy keeps for copies of fewer bits; together no larger.

    Raises `InvalidInput` where those would not be of fewer.
    """
    if not policy.low_share or policy.cache is None:
        return plan
    if policy.granularity != "expert":
        raise InvalidInput(f"{policy.name} keeps copies of whole experts in fewer bits: leave granularity= out")
    stored, bits = model.expert_dtype.bits, policy.low_bits
    bits = stored / 4 if bits is None else bits
    if bits >= stored:
        raise InvalidInput(f"{policy.name} keeps copies of {bits:g} bits, {model.name} stores {stored:g}: give fewer")
    each = max(1, int(model.expert_bytes * bits / stored))
    n = min(
        int(plan.n_cache_slots * policy.low_share * model.expert_bytes) // each, model.n_moe_layers * model.n_experts
    )
    if not n:
        return plan
    n_cache = plan.n_cache_slots - math.ceil(n * each / model.expert_bytes)
    return replace(plan, n_cache_slots=n_cache, low=LowSlots(n, bits, policy.cache), low_bytes=n * each)


def _cached_layers(model: ModelArchitecture, placed: Placed) -> int:
    """A cache's ratio is of the decoder's experts that move, as in the released Pre-gated MoE (eval_all.py)."""
    return max(placed.n_decided - model.n_encoder_moe_layers, 0)


def host_bytes(
    model: ModelArchitecture, workload: Workload, policy: Policy, placed: Placed, experts: bool = True
) -> int:
    """What a policy and a placement keep in host memory: `experts` unless on storage, layers, keys and values, and
    tables of n-grams, wherever the rest is.

    An offloading policy keeps every expert there that it may move; experts that stay in HBM are not kept twice.
    """
    moved = 0 if policy.resident else model.n_experts
    n_experts = [moved if kept is None else model.n_experts - len(kept) for kept in placed.kept]
    away = placed.host_layers | placed.streamed_layers | placed.zero_copy_weights
    weights = layer_weight_bytes(model) if away else ()
    keys = _kv_bytes(model, workload, placed.host_layers)
    if placed.kv != "device":
        others = (layer for layer in range(model.decoder.n_layers) if layer not in placed.host_layers)
        keys += int(_kv_bytes(model, workload, others) * placed.kv_share)
    routed = (_bytes_of(model, n_experts) + experts_away(model, placed)) * experts
    return routed + sum(_away(weights, placed, layer) for layer in away) + keys + model.table_bytes


def _static_bytes(model: ModelArchitecture, workload: Workload, execution: Execution, placed: Placed) -> int:
    """Weights outside experts, KV cache at its largest, and activations of the largest forward pass.

    What the placement keeps on the host is not among them; buffers for what is streamed are, one matrix of a layer's
    experts where a prompt streams those, keys and values of one layer where it streams whole ones, and the experts kept
    beside others of the host.
    """
    layers = range(model.decoder.n_layers)
    here = [layer for layer in layers if layer not in placed.host_layers]
    kv = _kv_bytes(model, workload, here)
    if placed.kv != "device":
        kv -= int(kv * placed.kv_share)
    if placed.kv == "stream":
        largest = max((_kv_bytes(model, workload, (layer,)) for layer in here), default=0)
        kv += 2 * math.ceil(int(largest * placed.kv_share) * _share_of_micro_batch(workload, execution))
    streams = 0 < execution.stream_tokens <= _tokens_of_pass(workload, execution)
    if streams and execution.streams_layers:
        kv += max((_kv_bytes(model, workload, (layer,)) for layer in placed.host_layers), default=0)
    kv += workload.n_running * model.state_bytes_per_sequence
    kv += workload.n_memory_tokens * model.cross_kv_bytes_per_token
    if execution.splits_expert_buffer:
        kv = max(kv, model.n_experts * model.expert_bytes // 2)
    experts = _bytes_of(model, [len(kept or ()) for kept in placed.kept])
    if placed.n_decided < model.n_moe_layers and streams:
        homes = zip(layer_expert_bytes(model), placed.kept, strict=True)
        largest = max(n_bytes for n_bytes, kept in homes if kept is not None)
        experts += model.n_experts * largest // model.n_expert_matrices
    buffers = LayerStreams(model, placed).buffer_bytes
    weights = model.non_expert_bytes - _weights_away(model, placed)
    return weights + buffers + kv + pass_bytes(model, workload, execution, placed) + experts


def pass_bytes(model: ModelArchitecture, workload: Workload, execution: Execution, placed: Placed) -> int:
    """Activations of the largest forward pass, which each card has that a pass goes through.

    A token: 14 rows of d_model (residual, norms, Q, K, V and their transposed copies, attention and FFN outputs,
    permuted inputs), two FFN hidden rows, and the scores where the stack stores them. Those of one chunk, of a stack
    that passes a prompt in chunks; of one that keeps few inside a layer, two rows between layers for the others. With
    several copies of attention a row of each token of the others is gathered beside those of one.
    """
    element = model.stored_activation_dtype.bytes_per_param
    n_tokens = _tokens_of_pass(workload, execution)
    hidden = max(model.d_ff_expert * model.top_k, *(stack.d_ff_dense for stack in model.stacks))
    scores = workload.n_context * model.decoder.attention.n_heads if execution.stores_scores else 0
    n_inside = min(n_tokens, execution.workspace_tokens) if execution.workspace_tokens else n_tokens
    n_inside = min(n_inside, math.ceil(n_tokens * _share_of_micro_batch(workload, execution)))
    inside = n_inside * ((13 + placed.copies) * model.d_model + 2 * hidden + scores)
    return int((inside + (n_tokens - n_inside) * 2 * model.d_model) * element)


def largest_layer_bytes(model: ModelArchitecture, workload: Workload, placed: Placed) -> int:
    """What the largest layer of the decoder has in HBM, or the head: weights, experts, keys and values."""
    weights, experts = layer_weight_bytes(model), layer_expert_bytes(model)
    n_here = most_experts(model.n_experts + placed.n_redundant, placed.expert_groups)
    found = [
        0 if layer in placed.host_layers else weights[layer] + _kv_bytes(model, workload, (layer,))
        for layer in range(model.decoder.n_layers)
    ]
    for block, layer in enumerate(model.decoder.moe_layers):
        at = model.n_encoder_moe_layers + block
        kept = placed.kept[at]
        found[layer] += experts[at] * (n_here if kept is None else len(kept))
    return max(head_bytes(model), *found)


def _tokens_of_pass(workload: Workload, execution: Execution) -> int:
    return min(workload.n_tokens, execution.micro_batch) if execution.micro_batch else workload.n_tokens


def _bytes_of(model: ModelArchitecture, n_experts: Sequence[int]) -> int:
    """Bytes of so many experts of each MoE layer, (n_moe_layers,)."""
    return sum(n * each for n, each in zip(n_experts, layer_expert_bytes(model), strict=True))


def _draft_bytes(draft: ModelArchitecture, workload: Workload) -> int:
    """HBM of a draft throughout: all of its weights, keys and values of as many tokens as the model's, states."""
    weights = draft.non_expert_bytes + draft.n_moe_layers * draft.n_experts * draft.expert_bytes
    states = workload.n_running * draft.state_bytes_per_sequence
    return weights + _kv_bytes(draft, workload, range(draft.decoder.n_layers)) + states


def _share_of_micro_batch(workload: Workload, execution: Execution) -> float:
    """Of the sequences that run at once, those that a layer computes together."""
    return min(1.0, execution.micro_sequences / workload.n_running) if execution.micro_sequences else 1.0


def _weights_away(model: ModelArchitecture, placed: Placed) -> int:
    """Weights outside the routed experts that are not in HBM."""
    layers = placed.host_layers | placed.streamed_layers | placed.zero_copy_weights
    away = 0
    if layers:
        weights = layer_weight_bytes(model)
        away = sum(_away(weights, placed, layer) for layer in layers)
    if len(placed.host_layers) == model.decoder.n_layers:
        away += head_bytes(model)
    return max(min(away, model.non_expert_bytes), 0)


def _away(weights: Sequence[int], placed: Placed, layer: int) -> int:
    """Of the weights of a layer on the host, streamed or read there, what is not in HBM."""
    shared = layer in placed.streamed_layers or layer in placed.zero_copy_weights
    return int(weights[layer] * placed.streamed_share) if shared else weights[layer]


def _kv_bytes(model: ModelArchitecture, workload: Workload, layers: Iterable[int]) -> int:
    """The KV cache of some of the decoder's layers at its largest: one with a window keeps no more than that of each
    sequence.
    """
    elements = 0
    for mixer in map(model.decoder.mixer, layers):
        if isinstance(mixer, Attention):
            kept = workload.n_cached_tokens
            if mixer.window:
                kept = min(kept, mixer.window * workload.n_running)
            elements += kept * mixer.entry_elements
            if mixer.compression:
                elements += workload.n_cached_tokens * mixer.kv_elements_per_token
    return math.ceil(elements * model.stored_kv_dtype.bytes_per_param)


def _too_small(name: str, needed: int, hbm_bytes: int, way_out: str) -> str:
    return f"{name} needs {needed / 1e9:.1f} GB of HBM, there are {hbm_bytes / 1e9:.1f} GB: try {way_out}"
