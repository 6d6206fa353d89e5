"""Expert FFNs that read slots: what the host computes beside them, and slots given back once they are read.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.decoding.decoding_pass import DecodingPass
from offload.decoding.expert_ffns import ExpertFfns
from offload.decoding.unions import MoeBlock, Union
from offload.policy import MissAction
from offload.slots.memory import CapacityExceeded


class SlotReads:
    """Writes the FFNs of blocks whose experts were brought into slots.

    `hands_on`: slots are handed on inside a block, to experts that found none as others are done.
    """

    def __init__(self, loop: DecodingPass, ffns: ExpertFfns, hands_on: bool) -> None:
        self._loop, self._ffns, self._hands_on = loop, ffns, hands_on

    def run(self, block: MoeBlock, on_cpu: Sequence[int], gate: int) -> None:
        """The experts of a block, `on_cpu` on the host, all or a share of them, and the others on the device."""
        loop, memory, moe_layer = self._loop, self._loop.memory, block.moe_layer
        device, back = self._beside_host(block, on_cpu, gate)
        n_hits, device, begun = self._with_slots(block, device)
        loop.count(len(block.named.experts), n_hits)
        used = device.experts if self._hands_on else None
        held = memory.held.claimed(moe_layer)
        freed = loop.model.expert_bytes * memory.held.n_transient(moe_layer, used)
        waits = [*memory.held.arrivals(moe_layer, used), *back]
        ready = {expert: held[expert].ready for expert in device.experts}
        hits = frozenset(expert for expert in device.experts if held[expert].hit)
        last = self._ffns.run(block, device, waits, ready, hits, freed, begun)
        memory.release(moe_layer, last, used)

    def _beside_host(self, block: MoeBlock, on_cpu: Sequence[int], gate: int) -> tuple[Union, list[int]]:
        """What is left for the device when the host has its part, and the results of the host that this waits for."""
        loop, how = self._loop, block.how
        skipped = [expert for expert, action in how.items() if action.place == "nowhere"]
        device = block.executed.without(skipped) if skipped else block.executed
        if not on_cpu:
            return device, []
        tokens = block.executed.of()
        arrived = loop.host_side.hand_over(gate, block.layer)
        shares = [_host_share(how[expert]) for expert in on_cpu]
        n_tokens = [tokens[expert] for expert in on_cpu]
        loop.host_side.experts(on_cpu, n_tokens, block.layer, block.moe_layer, arrived, shares)
        whole = [expert for expert in on_cpu if how[expert].place == "host"]
        return device.without(whole), loop.host_side.take_waits()

    def _with_slots(self, block: MoeBlock, device: Union) -> tuple[int, Union, bool]:
        """Experts of `device` until all that are left have slots: how many were hits, what is left, and whether shared
        experts have run. Raises `CapacityExceeded` where slots are not handed on and do not suffice.
        """
        memory, held = self._loop.memory, self._loop.memory.held.claimed(block.moe_layer)
        named = frozenset(block.named.experts)
        n_hits = sum(expert in held and held[expert].hit for expert in device.experts if expert in named)
        if self._hands_on:
            if all(expert in held for expert in device.experts):
                return n_hits, device, False
            return self._until_all_fit(block, device)
        while not all(expert in held for expert in device.experts):
            if not memory.give_up_ahead(block.moe_layer):
                break
        if not all(expert in held for expert in device.experts):
            raise self._does_not_fit(block, device)
        return n_hits, device, False

    def _until_all_fit(self, block: MoeBlock, union: Union) -> tuple[int, Union, bool]:
        """Run experts as they arrive and hand their slots on, until those that are left all have one."""
        loop, memory, moe_layer = self._loop, self._loop.memory, block.moe_layer
        held, tokens, named = memory.held.claimed(moe_layer), union.of(), block.named.experts
        n_hits = 0
        self._ffns.shared(block)
        left = list(union.experts)
        while any(expert not in held for expert in left):
            here = [expert for expert in left if expert in held]
            if not here:
                if not (memory.give_up(moe_layer, left) or memory.give_up_ahead(moe_layer)):
                    raise self._does_not_fit(block, union)
                continue
            expert = min(here, key=lambda one: held[one].ready)
            n_hits += held[expert].hit and expert in named
            freed = loop.model.expert_bytes if held[expert].transient else 0
            own = (held[expert].ready,) if held[expert].ready >= 0 else ()
            pieces = memory.pieces(moe_layer, expert)
            memory.hand_on(moe_layer, expert, self._ffns.single(block, expert, tokens[expert], own, freed, pieces))
            left.remove(expert)
        n_hits += sum(held[expert].hit for expert in left if expert in named)
        return n_hits, union.without([expert for expert in union.experts if expert not in left]), True

    def _does_not_fit(self, block: MoeBlock, union: Union) -> CapacityExceeded:
        return CapacityExceeded(
            f"step {self._loop.i_step}, MoE layer {block.moe_layer}: {len(union.experts)} experts needed at once do "
            f"not fit {self._loop.memory.n_buffers} expert slots: free HBM or use a smaller batch"
        )


def _host_share(how: MissAction) -> float:
    """Of the hidden units of an expert, the share that the host computes."""
    return 1.0 if how.place == "host" else 1.0 - how.share
