"""What a policy may see when a gate has run, and what it may decide: fetches, and answers to what is missing.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from traces.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Chosen = NDArray[np.int16]
    """The experts of each token of a step at one layer: (n_tokens, top_k), -1 pads."""


@dataclass(frozen=True, slots=True)
class MissAction:
    """How an expert that is needed now and is not on the device is answered: where it is computed, at which precision.

    `place`: "device" fetches it into a slot, "host" computes it on the CPU, "nowhere" leaves it out. `bits`: a
    parameter as it is fetched and read, below the model's own; None: as the model stores it. `share`: of its hidden
    units that are fetched, to the nearest; the host computes the others. No cache keeps what is not whole. `instead`:
    the expert on the device that is executed for it. Raises `InvalidInput` for another place, for bits that are not
    above 0, a share outside 0 to 1, or either of what is not fetched.
    """

    place: str = "device"
    bits: float | None = None
    share: float = 1.0
    instead: int | None = None
    FETCH: ClassVar[MissAction]
    CPU: ClassVar[MissAction]
    SKIP: ClassVar[MissAction]

    def __post_init__(self) -> None:
        if self.place not in ("device", "host", "nowhere"):
            raise InvalidInput(f"place = {self.place!r}: a missing expert runs on the device, on the host or nowhere")
        if self.bits is not None and not (self.place == "device" and 0 < self.bits <= 64):
            raise InvalidInput(f"bits = {self.bits!r} on the {self.place}: above 0, at most 64, of what is fetched")
        if not (0 <= self.share <= 1) or (self.share < 1 and self.place != "device"):
            raise InvalidInput(f"share = {self.share!r} on the {self.place}: 0 to 1, of what is fetched")
        if self.instead is not None and (self.place != "device" or self.bits is not None or self.share < 1):
            raise InvalidInput(f"instead = {self.instead!r}: nothing is fetched or computed on the host then")


MissAction.FETCH = MissAction()
MissAction.CPU = MissAction("host")
MissAction.SKIP = MissAction("nowhere")


class Fetch(NamedTuple):
    """Start moving `experts` of MoE block `block` (of the same stack) to the device.

    `steps_ahead`: 0 for this forward pass, 1 for the next one, which may be of any block. `aside`: into a buffer beside
    the cache, which the expert enters only when its gate has named it. `to_host`: from storage into the cache of host
    memory above it and no further, at once; nothing where host memory holds every expert.
    """

    block: int
    experts: tuple[int, ...]
    steps_ahead: int = 0
    aside: bool = False
    to_host: bool = False


def _unknown(block: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class BlockView:
    """What is known when the gate of MoE block `block` has run.

    `active`: the experts this block executes, ascending, with `tokens` for each. `revealed(j)`: the experts
    of block j of this step if a gate has selected them already, else None. `resident(j, e)`: whether expert
    e of block j is on the device or on its way. `i_step`: forward pass. Of block j, None where no gate has selected yet
    or the trace does not say: `chosen(j)` what each token chose, (n_tokens, top_k), and `gate_weights(j)` the weights
    of that, float32. `predicted(j)`: what the policy's predictor expects of a later block, as `chosen`. `sequences`
    (n_tokens,): the request of each token. `brought`: experts of this block that were brought before its gate ran and
    are here or on their way, cached ones not counted.
    """

    i_step: int
    block: int
    n_blocks: int
    n_experts: int
    active: tuple[int, ...]
    tokens: tuple[int, ...]
    revealed: Callable[[int], tuple[int, ...] | None]
    resident: Callable[[int, int], bool]
    chosen: Callable[[int], Chosen | None] = _unknown
    gate_weights: Callable[[int], NDArray[np.float32] | None] = _unknown
    predicted: Callable[[int], Chosen | None] = _unknown
    sequences: NDArray[np.int32] | None = None
    brought: tuple[int, ...] = ()


class Buffers(NamedTuple):
    """Expert slots a policy needs at least, and how many let it overlap fully."""

    minimum: int
    full: int


def no_prefetch(view: BlockView) -> Sequence[Fetch]:
    """Bring nothing in ahead of its gate."""
    return ()


def fetch_misses(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Fetch whatever is missing."""
    return dict.fromkeys(missing, MissAction.FETCH)


def misses_on_host(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Have the host compute whatever is missing."""
    return dict.fromkeys(missing, MissAction.CPU)


Prefetch = Callable[[BlockView], Sequence[Fetch]]
"""What to start moving when a gate has run."""

OnMiss = Callable[[BlockView, Sequence[int]], Mapping[int, MissAction]]
"""What to do with needed experts that are not on the device: an answer for each of them."""


Predictor = Callable[[int, int, "Chosen", int], "Chosen"]
"""What is expected of a MoE layer before its gate runs: of a forward pass, a MoE layer (0 is the decoder's first), what
its gate will choose and the number of experts, as `chosen`. It stands for what a real predictor would have said: only
its errors are made up."""


class Decisions(NamedTuple):
    """The decisions of one run, which may remember what they have seen in it."""

    prefetch: Prefetch = no_prefetch
    on_miss: OnMiss = fetch_misses


class RunFacts(NamedTuple):
    """What is known when a run starts: the MoE blocks of each stack, the experts of a block, their bits a weight."""

    n_blocks: int
    n_encoder_blocks: int
    n_experts: int
    top_k: int
    expert_bits: float = 16.0
