"""MoE blocks whose experts a placement has given a home: computed by the host, kept in HBM, or streamed for a prompt.

Nothing here may know time.
"""

from __future__ import annotations

from offload.decoding.decoding_pass import DecodingPass
from offload.decoding.expert_ffns import ExpertFfns
from offload.decoding.unions import MoeBlock, Union


def run_on_host(loop: DecodingPass, block: MoeBlock, gate: int) -> None:
    """A block of a layer that the host computes whole, `gate` having run there."""
    side, union = loop.host_side, block.named
    loop.count(len(union.experts), 0)
    if loop.pass_works.shared is not None:
        side.compute(loop.pass_works.shared, block.layer)
    side.experts(union.experts, union.tokens, block.layer, block.moe_layer, chosen_by=gate)


def run_at_home(loop: DecodingPass, ffns: ExpertFfns, block: MoeBlock, kept: frozenset[int], gate: int) -> None:
    """A block whose experts stay where they are: `kept` in HBM, others on the host, which a prompt may stream."""
    side, union, layer = loop.host_side, block.named, block.layer
    here = union.without([expert for expert in union.experts if expert not in kept]) if kept else Union((), ())
    away = union.without(here.experts) if kept else union
    loop.count(len(union.experts), len(here.experts))
    if side.streams_experts(loop.n_tokens):
        streamed = away.experts if loop.execution.streams_chosen else _held(loop.model.n_experts, kept)
        if streamed:
            side.stream_experts(streamed, layer, block.moe_layer, gate)
        ffns.run(block, union, side.take_waits())
        return
    if not away.experts:
        ffns.run(block, here, side.take_waits())
        return
    arrived = side.hand_over(gate, layer)
    if loop.execution.resident == "each" or loop.execution.host_computes:
        side.experts(away.experts, away.tokens, layer, block.moe_layer, arrived)
        ffns.run(block, here, side.take_waits())
        return
    if here.experts or loop.pass_works.shared is not None:  # the device's share runs beside the host's
        ffns.run(block, here, [])
    side.experts(away.experts, away.tokens, layer, block.moe_layer, arrived)


def _held(n_experts: int, kept: frozenset[int]) -> tuple[int, ...]:
    """The experts of a layer that the host holds."""
    return tuple(expert for expert in range(n_experts) if expert not in kept)
