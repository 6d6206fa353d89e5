"""What a schedule needs to know of a machine: its memories, and what its software does with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hwmodels.platform import Platform
from hwmodels.start_up import miss_costs
from offload.execution import Execution
from offload.policy_parts.miss_costs import MissCosts
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

_MORE_DRAM = "--tier ssd, or --set host.dram_bytes=..."
_OF_ONE_MEMORY = "fewer bits (--formats), or --tier ssd"
"""What to try where the host has too little, and where host and accelerator share one memory."""


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """What a schedule needs to know of a machine: its memories, and what its software does with them.

    `reserve_bytes`: HBM that the software takes for itself; `dram_bytes` of the host called `host`; `way_out`: what to
    try where those are too few. `costs_of`: what a design that weighs the host against the link measures of a model
    there; None where nobody can tell. `n_cards`: cards whose memory that is together, whole layers on each; where they
    share every layer (`execution.shares_layers`), the memory of one.
    `is_one`: HBM is a part of those `dram_bytes`, as host and accelerator share one memory.
    """

    hbm_bytes: int
    reserve_bytes: int
    dram_bytes: int
    host: str
    execution: Execution
    way_out: str = _MORE_DRAM
    costs_of: Callable[[ModelArchitecture], MissCosts] | None = field(default=None, compare=False, repr=False)
    n_cards: int = 1
    is_one: bool = False


def memory_of(hw: Platform) -> MachineMemory:
    """The memory of a platform."""
    machine, n_cards = hw.machine, hw.machine.n_cards
    n_in_turn = 1 if hw.execution.shares_layers else n_cards
    return MachineMemory(
        n_in_turn * int(machine.accelerator.hbm_bytes * hw.constants.get("memory_share", 1.0)),
        n_in_turn * int(hw.constant("reserve_bytes")),
        machine.host.dram_bytes,
        machine.host.name,
        hw.execution,
        way_out=_OF_ONE_MEMORY if machine.has_one_memory else _MORE_DRAM,
        costs_of=lambda model: miss_costs(model, hw),
        n_cards=n_cards,
        is_one=machine.has_one_memory,
    )


def of_sharing_cards(memory: MachineMemory) -> MachineMemory:
    """`memory` where the cards of an engine that has them take turns are told to share every layer: that of one card.

    Raises `InvalidInput` for an engine that has no such way.
    """
    if memory.n_cards == 1 or memory.execution.shares_layers:
        return memory
    if not memory.execution.may_share_layers:
        raise InvalidInput(
            f"turns=1: cards that share every layer are no way of {memory.execution.name}: leave turns out, they have "
            f"whole layers each"
        )
    execution = replace(memory.execution, shares_layers=True, first_hands_over=True)
    n = memory.n_cards
    return replace(
        memory, hbm_bytes=memory.hbm_bytes // n, reserve_bytes=memory.reserve_bytes // n, execution=execution
    )
