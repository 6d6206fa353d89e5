"""The seam of a policy: what it may see when a gate has run, and what it may decide.

A policy is a composition of independent choices, each a plain function or value. It knows no device and no
clock. DECISIONS.md shows how every published axis of offloading is expressed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

from traces.errors import InvalidInput

__all__ = ["BlockView", "Buffers", "Cache", "Fetch", "MissAction", "Policy", "fetch_misses", "no_prefetch"]


class MissAction(Enum):
    """What to do with an expert that is needed now and is not on the device."""

    FETCH = "fetch"
    CPU = "cpu"


class Fetch(NamedTuple):
    """Start moving `experts` of MoE block `block` (of the same stack) to the device."""

    block: int
    experts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlockView:
    """What is known when the gate of MoE block `block` has run.

    `active`: the experts this block executes, ascending, with `tokens` for each. `revealed(j)`: the experts
    of block j of this step if a gate has selected them already, else None. `resident(j, e)`: whether expert
    e of block j is on the device or on its way. `i_step`: forward pass.
    """

    i_step: int
    block: int
    n_blocks: int
    n_experts: int
    active: tuple[int, ...]
    tokens: tuple[int, ...]
    revealed: Callable[[int], tuple[int, ...] | None]
    resident: Callable[[int, int], bool]


class Buffers(NamedTuple):
    """Expert slots a policy needs at least, and how many let it overlap fully."""

    minimum: int
    full: int


@dataclass(frozen=True, slots=True)
class Cache:
    """An expert cache in HBM beside the transient buffers.

    Capacity: `n_slots` experts, or `ratio` of the decoder's experts (`round(layers x experts x ratio)`, at
    least 1), or with neither all the HBM that is left. `eviction`: a name of `offload.eviction`; `per_layer`: split
    evenly over the layers. `warm`: the cache has served one such request before. Raises `InvalidInput` on a ratio
    outside (0, 1], fewer slots than one, or both.
    """

    eviction: str = "lru"
    ratio: float | None = None
    n_slots: int | None = None
    per_layer: bool = False
    warm: bool = False

    def __post_init__(self) -> None:
        if self.ratio is not None and self.n_slots is not None:
            raise InvalidInput("a cache has a ratio (0..1] or a number of slots, not both: lru:0.1")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise InvalidInput(f"cache ratio = {self.ratio:g} is outside (0, 1]")
        if self.n_slots is not None and self.n_slots < 1:
            raise InvalidInput(f"cache slots = {self.n_slots} is below 1: leave the cache out instead")

    def capacity(self, n_layers: int, n_experts: int) -> int | None:
        """Slots for `n_layers` MoE layers of `n_experts`; None: what is left."""
        if self.n_slots is not None or self.ratio is None:
            return self.n_slots
        return max(1, round(n_layers * n_experts * self.ratio))


def no_prefetch(view: BlockView) -> Sequence[Fetch]:
    """Bring nothing in ahead of its gate."""
    return ()


def fetch_misses(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Fetch whatever is missing."""
    return dict.fromkeys(missing, MissAction.FETCH)


def _active_only(n_active: int, n_experts: int) -> Buffers:
    return Buffers(n_active, n_active)


@dataclass(frozen=True, slots=True)
class Policy:
    """An offloading policy as a composition of choices.

    `resident`: every expert stays in HBM. `lookahead`: how many blocks ahead a gate selects exactly (the
    activation level of Pre-gated MoE; 0 is the conventional gate). `prefetch`: what to start moving when a
    gate has run, always the executed step's later blocks. `on_miss`: what to do with needed experts that
    are not there. `buffers(n_active, n_experts)`: slots needed, `n_active` being the largest union of one
    event. `needs_ids`: whether a prefetch waits until the host has read the selected ids. `encoder`: whether
    an encoder runs on demand, as in the released code, or under this policy.
    """

    name: str
    resident: bool = False
    lookahead: int = 0
    prefetch: Callable[[BlockView], Sequence[Fetch]] = no_prefetch
    on_miss: Callable[[BlockView, Sequence[int]], Mapping[int, MissAction]] = fetch_misses
    buffers: Callable[[int, int], Buffers] = _active_only
    needs_ids: bool = True
    encoder: Literal["on_demand", "same"] = "on_demand"
    cache: Cache | None = None

    def __post_init__(self) -> None:
        if self.lookahead < 0:
            raise InvalidInput(f"lookahead = {self.lookahead} is below 0")
        if self.resident and self.cache is not None:
            raise InvalidInput(f"{self.name} keeps every expert in HBM: it takes no cache")
