"""An expert memory on a desk: two layers whose fetches and reads are asked for by hand."""

from __future__ import annotations

from offload.caches.residency import ResidentSet
from offload.ops import Lane, OpKind, Work
from offload.recorder import Part, Recorder, assemble
from offload.schedule import Schedule
from offload.slots.copies import Copies
from offload.slots.host_tier import HostTier, ReadWorks
from offload.slots.memory import ExpertMemory

FETCH = Work(OpKind.FETCH, copy_bytes=10, weight_bits=8.0)
STAGE = Work(OpKind.STAGE, copy_bytes=10, weight_bits=8.0)
DISK = Work(OpKind.DISK_READ, copy_bytes=10, weight_bits=8.0)
STREAMED, STAGED = Copies(FETCH, None), Copies(FETCH, STAGE)


class Desk:
    """An expert memory of two layers, which sit in layers 3 and 5 of the model; FFNs are asked for by hand."""

    def __init__(
        self, n_buffers: int, copies: Copies = STREAMED, cache: ResidentSet | None = None, in_runs: bool = False,
        disk: Work | None = None,
    ) -> None:  # fmt: skip
        self.recorder, self._parts = Recorder(), list[Part]()
        host = None if disk is None else HostTier(self.recorder, ReadWorks(disk), (3, 5), 1)
        self.memory = ExpertMemory(self.recorder, n_buffers, 10, copies, cache, (3, 5), in_runs, host)

    def ffn(self, layer: int, used: set[int] | None = None) -> int:
        """The experts of `layer` are read, by an op that waits for nothing."""
        reader = self.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
        self.memory.release(layer, reader, used)
        return reader

    def schedule(self) -> Schedule:
        """All ops so far; what happens later cannot change them any more."""
        self._parts.append(self.recorder.take())
        return assemble(self._parts)

    def rows(self) -> list[tuple[object, ...]]:
        """Kind, layer, expert, slot, the ops it waits for, and HBM taken of every op that is no FFN."""
        schedule = self.schedule()
        names = [OpKind(kind).name for kind in schedule.kind.tolist()]
        columns = (schedule.layer, schedule.expert, schedule.slot)
        return [
            (
                names[i],
                *(int(column[i]) for column in columns),
                schedule.deps(i).tolist(),
                int(schedule.hbm_acquired[i]),
            )
            for i in range(len(schedule))
            if names[i] != "EXPERTS"
        ]


def cache_of(n_slots: int, *warm: int) -> ResidentSet:
    """Two layers of six experts; `warm` of layer 0 are there from the start."""
    cache = ResidentSet(n_slots, "lru", n_layers=2, n_experts=6)
    cache.admit(0, warm)
    return cache
