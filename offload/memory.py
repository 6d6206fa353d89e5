"""Expert slots in HBM while a schedule is written: transient buffers, and an optional cache beside them.

Capacity is a dependency: a copy into a slot waits for the last reader of what the slot held. Slots are
equal-sized and granted first-in first-out, so an earlier block never waits for a later one. Nothing here may
know time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.residency import Access, ResidentSet
from offload.runs import run_work
from traces.errors import PregateError

__all__ = ["CapacityExceeded", "ExpertMemory", "Held"]


class CapacityExceeded(PregateError):
    """A memory cannot hold what a policy needs; the message has the numbers and the way out.

    `needed_bytes`: how much of `memory` ("HBM" or "DRAM") would do, 0 where it is not known.
    """

    def __init__(self, message: str, needed_bytes: int = 0, memory: str = "HBM") -> None:
        super().__init__(message)
        self.needed_bytes, self.memory = needed_bytes, memory


@dataclass(frozen=True, slots=True)
class Held:
    """One expert on the device or on its way. `ready`: the op to wait for before reading it, -1 none.

    `slot` is where the FFN reads it; `transient`: the slot is given back after the read. `hit`: it was
    resident when it was first asked for. `passing`: ops `first` to `ready` bring it for one read only.
    """

    slot: int
    ready: int
    transient: bool
    hit: bool
    first: int
    passing: bool


class Copies(NamedTuple):
    """What moving one expert costs, by stage of its way: storage, link, within HBM (None: not taken)."""

    disk: Work | None
    fetch: Work
    stage: Work | None


class _Waiting(NamedTuple):
    """An expert that waits for a slot. `alone`: its copy is an op of its own, not part of a run; `bits`: of a parameter
    as it is brought, None as it is stored.
    """

    layer: int
    access: Access
    step: int
    alone: bool
    bits: float | None = None


class ExpertMemory:
    """Grants slots and writes the copies that fill them into a recorder.

    Slots 0..n_buffers-1 are transient, the cache's follow. With `copies.stage`, experts are copied within HBM
    from where the link put them (a cache slot, or a staging area outside the count, as Eq. 1 of the paper
    has it) into a buffer; without, they are read where they landed. With `copies.disk`, every fetch is
    preceded by a read into the single pinned host buffer, unpipelined. `in_runs`: copies that nobody waits for one by
    one become runs (`offload.runs`). `warm_bytes`: what a cache that has residents already holds of HBM.
    """

    def __init__(
        self,
        recorder: Recorder,
        n_buffers: int,
        expert_bytes: int,
        copies: Copies,
        cache: ResidentSet | None,
        places: Sequence[int],
        in_runs: bool = False,
    ) -> None:
        self.n_buffers, self.cache, self.copies = n_buffers, cache, copies
        self._recorder, self._expert_bytes, self._places = recorder, expert_bytes, places
        self._free = deque(range(n_buffers))
        self._reader: dict[int, int] = {}  # slot -> the op that read it last
        warm = cache.slots_in_use if cache is not None else ()
        self.warm_bytes = len(warm) * expert_bytes
        self._filled = dict.fromkeys((n_buffers + slot for slot in warm), -1)  # cache slot -> op that filled it
        self._held: dict[int, dict[int, Held]] = {}  # layer -> expert -> where
        self._waiting: deque[_Waiting] = deque()
        self._in_runs = in_runs and copies.disk is None
        self._pinned: set[int] = set()
        self._pinned_by_layer: dict[int, list[int]] = {}
        self._last_fetch = -1
        self.gated_layer = -1
        """The layer whose gate has run last: its experts are needed now, others are brought ahead."""

    def live_ops(self) -> set[int]:
        """The ops that a later op may have to wait for."""
        held = (h.ready for experts in self._held.values() for h in experts.values())
        return {op for op in (*self._reader.values(), *self._filled.values(), *held, self._last_fetch) if op >= 0}

    @property
    def holds_ahead(self) -> bool:
        """Whether an expert is held or waits for an FFN to come."""
        return bool(self._waiting) or any(self._held.values())

    def has(self, layer: int, expert: int) -> bool:
        """Whether the expert is on the device, on its way or waiting for a slot."""
        return expert in self._held.get(layer, ()) or (self.cache is not None and (layer, expert) in self.cache)

    def claimed(self, layer: int) -> dict[int, Held]:
        """The experts of `layer` that were brought for its next FFN."""
        return self._held.get(layer, {})

    def claimed_or_waiting(self, layer: int, expert: int) -> bool:
        """Whether the expert was brought for the layer's next FFN, a slot granted or not."""
        return expert in self._held.get(layer, ()) or any(
            entry.layer == layer and entry.access.expert == expert for entry in self._waiting
        )

    def bring(
        self,
        layer: int,
        experts: Iterable[int],
        step: int,
        named: Container[int] | None = None,
        bits: Mapping[int, float] | None = None,
    ) -> None:
        """Bring `experts` of `layer` for its next FFN, as soon as slots allow; one event for the cache.

        `named`: those that the gate of the layer will name in this step; the copies of the others may become runs.
        `bits`: of those brought below their stored precision, of a parameter.
        """
        self._held.setdefault(layer, {})
        new = [expert for expert in dict.fromkeys(experts) if not self.claimed_or_waiting(layer, expert)]
        if self.cache is None:
            accesses = [Access(expert, False, -1) for expert in new]
        else:
            accesses = list(self.cache.admit(layer, new, self._pinned))
            pins = [layer * self.cache.n_experts + access.expert for access in accesses if access.slot >= 0]
            self._pinned.update(pins)
            self._pinned_by_layer.setdefault(layer, []).extend(pins)
        apart = named is None or not self._in_runs
        self._waiting.extend(
            _Waiting(
                layer,
                access,
                step,
                apart or (named is not None and access.expert in named),
                None if bits is None else bits.get(access.expert),
            )
            for access in accesses
        )
        self._grant()

    def cancel(self, layer: int, needed: Container[int], by: int) -> None:
        """The end of op `by` tells that of the prefetches of `layer` only the `needed` were right.

        What a cache keeps is brought all the same.
        """
        for expert, held in self._held.get(layer, {}).items():
            if held.passing and expert not in needed:
                for op in range(held.first, held.ready + 1):
                    self._recorder.cancel(op, by)

    def drop_waiting(self, layer: int, needed: Container[int]) -> None:
        """The gate of `layer` has run: what still waits for a slot and is not `needed` is not brought after all."""
        dropped = [e for e in self._waiting if e.layer == layer and e.access.expert not in needed]
        for entry in dropped:
            self._waiting.remove(entry)
            access = entry.access
            if self.cache is not None and access.slot >= 0 and not access.hit:
                self.cache.forget(layer, access.expert)
        self._grant()

    def release(self, layer: int, reader: int, used: Container[int]) -> None:
        """The FFN of `layer` is issued as op `reader`: its transient slots are free once that has run.

        Experts outside `used` were brought for nothing; their slots are free once their copy has ended.
        """
        for expert, held in self._held.pop(layer, {}).items():
            reader_here = reader if expert in used or held.ready < 0 else held.ready
            self._reader[held.slot] = max(reader_here, self._reader.get(held.slot, -1))
            if held.transient:
                self._free.append(held.slot)
                if expert not in used:
                    self._recorder.release_after(held.ready, self._expert_bytes)
        self._pinned.difference_update(self._pinned_by_layer.pop(layer, ()))
        self._grant()

    def _grant(self) -> None:
        """Place who waits, in order, until the first for whom there is no slot."""
        while self._waiting:
            layer, access, step, _, bits = self._waiting[0]
            transient = self.copies.stage is not None or access.slot < 0
            if transient and not self._free:
                return
            n = self._run_length()
            first = self._waiting.popleft()
            if n == 1:
                self._held[layer][access.expert] = self._place(layer, access, step, transient, bits)
            else:
                for _ in range(n - 1):
                    self._waiting.popleft()
                self._place_run(first, n)

    def _run_length(self) -> int:
        """How many of those who wait are brought by one run, from the first: experts and slots that follow."""
        first, n = self._waiting[0], 1
        if first.alone or first.access.hit or first.access.slot >= 0:
            return n
        buffer, reader = self._free[0], self._reader.get(self._free[0], -1)
        for entry, slot in zip(islice(self._waiting, 1, None), islice(self._free, 1, None), strict=False):
            access, follows = entry.access, (first.access.expert + n, buffer + n)
            same = entry.layer == first.layer and entry.step == first.step and not entry.alone
            if not same or access.hit or access.slot >= 0 or (access.expert, slot) != follows:
                break
            if self._reader.get(slot, -1) != reader:
                break
            n += 1
        return n

    def _place_run(self, entry: _Waiting, n: int) -> None:
        """`n` experts from that of `entry` on into as many free slots, by one op a hop."""
        layer, expert, step, stage = entry.layer, entry.access.expert, entry.step, self.copies.stage
        buffers = [self._free.popleft() for _ in range(n)]
        waits = self._reader.get(buffers[0], -1)
        target = -1 if stage is not None else buffers[0]
        first = ready = self._copy(
            Lane.H2D, run_work(self.copies.fetch, n), layer, expert, target, step, (waits if stage is None else -1,)
        )
        if stage is not None:
            ready = self._copy(Lane.H2D, run_work(stage, n), layer, expert, buffers[0], step, (first, waits))
        n_more = (n - 1) * (1 if stage is None else 2)
        self._recorder.issue(Lane.HOST, Work(OpKind.ISSUE, n_copies=n_more), step=step, layer=self._places[layer])
        self._last_fetch = first
        held = self._held[layer]
        for i, buffer in enumerate(buffers):
            held[expert + i] = Held(buffer, ready, True, False, first, True)

    def _place(self, layer: int, access: Access, step: int, transient: bool, bits: float | None) -> Held:
        buffer = self._free.popleft() if transient else -1
        cached = self.n_buffers + access.slot if access.slot >= 0 else -1
        stage = self.copies.stage
        ready = self._filled.get(cached, -1)
        first, passing = ready, not access.hit and cached < 0
        if not access.hit:
            target = cached if cached >= 0 else (-1 if stage is not None else buffer)
            first, ready = self._fetch(layer, access.expert, target, step, bits)
            if cached >= 0:
                self._filled[cached] = ready
        if stage is None:
            return Held(cached if cached >= 0 else buffer, ready, transient, access.hit, first, passing)
        ready = self._copy(Lane.H2D, stage, layer, access.expert, buffer, step, (ready, self._reader.get(buffer, -1)))
        if cached >= 0:
            self._reader[cached] = ready
        return Held(buffer, ready, True, access.hit, first, passing)

    def _fetch(self, layer: int, expert: int, slot: int, step: int, bits: float | None) -> tuple[int, int]:
        """One expert over the link into `slot` (-1: the staging area), out of storage if it lives there.

        Returns the first and the last op of it, which follow one another.
        """
        waits, read = [self._reader.get(slot, -1)], -1
        if self.copies.disk is not None:
            read = self._copy(Lane.DISK, self.copies.disk, layer, expert, -1, step, (self._last_fetch,))
            waits.append(read)
        fetch = self.copies.fetch
        if bits is not None:
            fetch = fetch._replace(copy_bytes=int(fetch.copy_bytes * bits / fetch.weight_bits), weight_bits=bits)
        self._last_fetch = self._copy(Lane.H2D, fetch, layer, expert, slot, step, waits)
        return (self._last_fetch if read < 0 else read), self._last_fetch

    def _copy(self, lane: Lane, work: Work, layer: int, expert: int, slot: int, step: int, waits: Iterable[int]) -> int:
        """Issue one copy; it takes HBM when it fills a transient slot, or a cache slot for the first time."""
        fills = slot >= 0 and (slot < self.n_buffers or slot not in self._filled)
        return self._recorder.issue(
            lane,
            work,
            sorted({op for op in waits if op >= 0}),
            step=step,
            layer=self._places[layer],
            expert=expert,
            slot=slot,
            hbm_acquired=self._expert_bytes * work.n_copies if fills else 0,
            priority=0 if layer == self.gated_layer else 1,
        )
