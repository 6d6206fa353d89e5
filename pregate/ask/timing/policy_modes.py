"""How a machine serves the copies of a policy that cuts them: its chunks, and what is needed now first; and what modes
ask of the figures of a machine.
"""

from __future__ import annotations

from dataclasses import replace

from hwmodels.figures import Figures, figures_of
from hwmodels.platform import Platform
from offload.policy import Policy
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput


def modes_of(policy: Policy, modes: Modes) -> Modes:
    """`modes`, and where `policy` names a chunk, links that serve by priority, chunk by chunk, and drop what is not
    needed after all.

    Raises `InvalidInput` where `modes` cut copies too, or share links.
    """
    if policy.chunk_bytes is None:
        return modes
    if modes.chunk_bytes is not None or modes.link == "shared":
        what = "chunk" if modes.chunk_bytes is not None else "shared"
        raise InvalidInput(f"policy {policy.name} says its chunks and who goes first: leave {what} out of the modes")
    return replace(modes, link="priority", chunk_bytes=policy.chunk_bytes, cancel=True)


def figures_under(modes: Modes, figures: Figures) -> Figures:
    """`figures` as `modes` price by them. Raises `InvalidInput` where nobody measured what they are about."""
    if modes.dram_shared:
        figures.require_contention()
    return figures.told_apart() if modes.beside_copies else figures


def modes_measured(hw: Platform) -> Modes:
    """What a fit of `hw` measured beyond FIFO lanes: kernels slowed by copies, or nothing."""
    return Modes(beside_copies=True) if hw.fit is not None and figures_of(hw).knows_beside_copies else FIFO
