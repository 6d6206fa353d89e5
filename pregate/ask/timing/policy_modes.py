"""How a machine serves the copies of a policy that cuts them: its chunks, and what is needed now first."""

from __future__ import annotations

from dataclasses import replace

from offload.policy import Policy
from simulator.modes import Modes
from traces.errors import InvalidInput

__all__ = ["modes_of"]


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
