"""One forward pass of the decode loop, as the rooms that write its MoE blocks see it. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from offload.decoding.micro_batches import MicroBatches
from offload.decoding.work_rows import Works
from offload.execution import Execution
from offload.ops import Lane, OpKind, Work
from offload.placing.host_side import HostSide
from offload.policy import Fetch
from offload.recorder import Recorder
from offload.slots.host_tier import HostTier
from offload.slots.memory import ExpertMemory
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase

HOST_WAITS = Work(OpKind.WAIT)
"""The host blocks until something is done."""

STEP = Work(OpKind.STEP)
"""What ends a pass that makes tokens."""

FIRST_STEP = Work(OpKind.STEP, n_entries=1)
"""The same of the prompt whose kernels nothing has launched before."""

SCHEDULE = Work(OpKind.SCHEDULE)
"""What decides on a pass, by a host that does so while the pass before computes."""


class PassWorks(NamedTuple):
    """The works that every layer of a forward pass shares."""

    gate: Work
    readback: Work
    dense: Work
    shared: Work | None


class DecodingPass(Protocol):
    """What blocks need of the loop that they are part of: one forward pass of it."""

    model: ModelArchitecture
    execution: Execution
    recorder: Recorder
    memory: ExpertMemory
    host_side: HostSide
    host_tier: HostTier | None
    works: Works
    pass_works: PassWorks
    lookups: dict[Phase, list[int]]
    next_step: list[Fetch]
    micro: MicroBatches | None
    i_step: int
    phase: Phase
    n_tokens: int
    n_changed: int
    new_request: bool
    last_op: int

    def compute(
        self, what: Work, layer: int, after: Sequence[int] = (), hbm_released: int = 0, expert: int = -1
    ) -> int:
        """An op of the compute stream."""

    def host(self, what: Work, after: Sequence[int], layer: int) -> int:
        """An op of the issuing thread."""

    def count(self, n_lookups: int, n_hits: int) -> None:
        """Experts looked up, and found resident."""


def read_back(loop: DecodingPass, gate: int, layer: int, behind: Sequence[int] = ()) -> int:
    """The host waits for the ids that op `gate` has selected, copied `behind` other ops; returns the wait."""
    after = sorted({gate, *behind}) if behind else (gate,)
    ids = loop.recorder.issue(Lane.D2H, loop.pass_works.readback, after, step=loop.i_step, layer=layer)
    return loop.host(HOST_WAITS, (ids,), layer)
