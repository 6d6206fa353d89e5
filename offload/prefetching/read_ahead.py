"""Experts on storage are read into host memory further ahead than they are brought to the device.

What is read so stays in the cache above storage until it is asked for, or has to go. Without storage nothing is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offload.policy_parts.decisions import BlockView, Fetch, Prefetch
from offload.prefetching.selected_ahead import SelectedAhead
from traces.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ReadsAhead:
    """What `device` brings to the device, then what `host` names out of storage into host memory."""

    device: Prefetch
    host: Prefetch

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """The fetches of both."""
        later = (fetch._replace(aside=False, to_host=True) for fetch in self.host(view))
        return [*self.device(view), *later]


@dataclass(frozen=True, slots=True)
class WholeBlocksAhead:
    """All experts of the block `ahead` on; the first block also those between."""

    ahead: int

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """A fetch a block."""
        first = 1 if view.block == 0 else view.block + self.ahead
        blocks = range(first, min(view.block + self.ahead, view.n_blocks - 1) + 1)
        return [Fetch(block, tuple(range(view.n_experts))) for block in blocks]


def selected_ahead(lookahead: int, dram: int) -> Prefetch:
    """What gates have selected: `lookahead` blocks ahead to the device, `dram` ahead into host memory; 0: not there."""
    selected = SelectedAhead(lookahead)
    return ReadsAhead(selected, SelectedAhead(dram)) if dram else selected


def said_dram(name: str, ahead: int, dram: int) -> str:
    """The name of policy `name` that brings `ahead` blocks ahead to the device and reads `dram` ahead into host memory;
    0: it does not. Raises `InvalidInput` where that is no further.
    """
    if dram and dram <= ahead:
        raise InvalidInput(
            f"{name}:dram={dram}: experts go to the device {ahead} ahead, storage is read for later blocks: give more"
        )
    return f"{name}:dram={dram}" if dram else name
