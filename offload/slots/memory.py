"""Expert slots in HBM while a schedule is written: transient buffers, and an optional cache beside them.

Capacity is a dependency: a copy into a slot waits for the last reader of what the slot held. Slots are
equal-sized and granted first-in first-out, so an earlier block never waits for a later one. Nothing here may
know time.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import groupby

from offload.caches.residency import Access, ResidentSet, count_slots
from offload.policy import MissAction
from offload.recorder import Recorder
from offload.slots.cache_slots import CacheSlots
from offload.slots.copies import Copies, CopyWriter, Target
from offload.slots.free_slots import FreeSlots
from offload.slots.host_tier import HostTier
from offload.slots.low_bit_copies import LowCopies
from offload.slots.resident_experts import Held, ResidentExperts
from offload.slots.waiting import Waiting, WaitingExperts, runs_of
from traces.errors import PregateError

_WHOLE = MissAction.FETCH


class CapacityExceeded(PregateError):
    """A memory cannot hold what a policy needs; the message has the numbers and the way out.

    `needed_bytes`: how much of `memory` ("HBM" or "DRAM") would do, 0 where it is not known. `there_bytes`: what of it
    can be filled, 0 where it is not known.
    """

    def __init__(self, message: str, needed_bytes: int = 0, memory: str = "HBM", there_bytes: int = 0) -> None:
        super().__init__(message)
        self.needed_bytes, self.memory, self.there_bytes = needed_bytes, memory, there_bytes


class ExpertMemory:
    """Grants slots and writes the copies that fill them into a recorder.

    Slots 0..n_buffers-1 are transient, the cache's follow; a cache that takes an expert over from a transient slot
    gives its own for it. With `copies.stage`, experts are copied within HBM
    from where the link put them (a cache slot, or a staging area outside the count, as Eq. 1 of the paper
    has it) into a buffer; without, they are read where they landed. `host`: where experts come from, None out of
    host memory, which has all of them.
    `in_runs`: copies that nobody waits for one by one become runs (`offload.slots.copy_runs`). `warm_bytes`: what a
    cache that has residents already holds of HBM.
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
        host: HostTier | None = None,
    ) -> None:
        self._host = host
        self.n_buffers, self.cache, self.copies = n_buffers, cache, copies
        self._recorder, self._expert_bytes = recorder, expert_bytes
        self._writer = CopyWriter(recorder, copies, expert_bytes, places, host)
        self._free = FreeSlots(n_buffers)
        self._reader = [-1] * count_slots(n_buffers, cache)  # slot -> the op that read it last
        self._kept = CacheSlots(self._writer, copies, cache, n_buffers, len(self._reader))
        self.warm_bytes = self._kept.n_warm * expert_bytes
        self.held = ResidentExperts()
        self._beside: dict[int, set[int]] = {}  # layer -> experts that were brought aside
        self._waiting = WaitingExperts()
        self._in_runs = in_runs and host is None and copies.write_back is None
        plain = cache is None and host is None and copies.stage is None and not (copies.pieces or copies.n_at_once)
        self._fetches_each = plain and not recorder.is_live
        self._pinned: set[int] = set()
        self._pinned_by_layer: dict[int, list[int]] = {}
        self.low: LowCopies | None = None
        self.gated_layer = -1
        """The layer whose gate has run last: its experts are needed now, others are brought ahead."""

    def live_ops(self) -> set[int]:
        """The ops that a later op may have to wait for."""
        held = (held.ready for held in self.held)
        host = {*(self._host.live_ops() if self._host else ()), *(self.low.filled.values() if self.low else ())}
        return {op for op in (*self._reader, *self._kept.live_ops(), *held, *host) if op >= 0}

    @property
    def holds_ahead(self) -> bool:
        """Whether an expert is held or waits for an FFN to come."""
        return bool(self._waiting) or self.held.has_any

    def has(self, layer: int, expert: int) -> bool:
        """Whether the expert is on the device, on its way or waiting for a slot."""
        return self.held.has(layer, expert) or (self.cache is not None and (layer, expert) in self.cache)

    def has_or_awaits(self, layer: int, expert: int) -> bool:
        """Whether the expert is on the device, on its way or waiting for a slot, for its next FFN or in the cache."""
        return self.has(layer, expert) or self.claimed_or_waiting(layer, expert)

    def brought(self, layer: int) -> tuple[int, ...]:
        """The experts of `layer` that were sent for ahead of its next FFN and that no cache had, in that order."""
        held = [expert for expert, one in self.held.claimed(layer).items() if not one.hit]
        return (*held, *self._waiting.absent(layer))

    def pieces(self, layer: int, expert: int) -> tuple[int, ...]:
        """The copies that bring the matrices of an expert for the layer's next FFN; none: it came whole, or earlier."""
        held = self.held.claimed(layer)[expert]
        return () if held.hit or not self.copies.pieces else self._writer.pieces(held.ready)

    def claimed_or_waiting(self, layer: int, expert: int) -> bool:
        """Whether the expert was brought for the layer's next FFN, a slot granted or not."""
        return self.held.has(layer, expert) or self._waiting.has(layer, expert)

    def bring(
        self,
        layer: int,
        experts: Iterable[int],
        step: int,
        named: Collection[int] | None = None,
        how: Mapping[int, MissAction] | None = None,
        aside: bool = False,
        adopts: Collection[int] = (),
    ) -> None:
        """Bring `experts` of `layer` for its next FFN, as soon as slots allow; one event for the cache.

        `named`: those that the gate of the layer will name in this step; the copies of the others may become runs.
        `how`: of those not brought whole as they are stored. `aside`: beside the cache, which has no part in it, unless
        experts are copied within HBM for every read.
        `adopts`: experts brought aside that the gate has named, which are of the event too.
        """
        held = self.held.open(layer)
        new = list(dict.fromkeys(experts))
        if held or self._waiting:
            new = [expert for expert in new if not self.claimed_or_waiting(layer, expert)]
        if aside:
            self._beside.setdefault(layer, set()).update(new)
        if self.cache is None:
            self._ask_host(layer, new)
            alone = named is None or not self._in_runs
            if self._fetches_each and alone and not (how or self._waiting) and 0 < len(new) <= len(self._free):
                self._place_each(layer, new, step)
                return
            self._queue(layer, new, step, named, how or {})
        elif aside and self.copies.stage is None:
            absent = [one for one in new if (layer, one) not in self.cache]
            self._ask_host(layer, absent)
            self._queue(layer, absent, step, named, how or {})
        else:
            event = sorted([*new, *adopts]) if adopts else new
            accesses = self.cache.admit(layer, event, self._pinned)
            pins = [layer * self.cache.n_experts + access.expert for access in accesses if access.slot >= 0]
            self._pinned.update(pins)
            self._pinned_by_layer.setdefault(layer, []).extend(pins)
            for access in accesses if adopts else ():
                if access.expert in adopts:
                    self._adopt(layer, access, step)
            accesses = tuple(access for access in accesses if access.expert not in adopts) if adopts else accesses
            self._ask_host(layer, [access.expert for access in accesses if not access.hit])
            for passing, group in groupby(accesses, lambda access: access.slot < 0):
                if passing:
                    self._queue(layer, [access.expert for access in group], step, named, how or {})
                else:
                    self._waiting.extend(Waiting(layer, a.expert, 1, a.slot, a.hit, step, _WHOLE) for a in group)
        self._grant()

    def keeps_low(self, residents: ResidentSet, bits: float, places: Sequence[int]) -> None:
        """Have `residents` keep copies of `bits` a parameter too, in slots of their own size behind all others."""
        fetch, first = self.copies.fetch, len(self._reader)
        self._reader += [-1] * residents.capacity
        less = fetch._replace(copy_bytes=int(fetch.copy_bytes * bits / fetch.weight_bits), weight_bits=bits)
        self.low = LowCopies(self._recorder, bits, less, residents, places, first, self._reader, {})

    def bring_low(self, layer: int, experts: Sequence[int], step: int) -> set[int]:
        """Have `experts` of `layer` in fewer bits for its next FFN; returns those that found a slot."""
        found = self.low.bring(layer, experts, step) if self.low is not None and experts else []
        for one in found:
            held = Held(one.expert, 1, one.slot, one.ready, False, one.hit, one.ready, False)
            self.held.open(layer)
            self.held.add(layer, held)
        return {one.expert for one in found}

    def aside(self, layer: int) -> list[int]:
        """The experts of `layer` that were brought aside and hold a slot."""
        return [expert for expert in self.held.claimed(layer) if expert in self._beside.get(layer, ())]

    def _adopt(self, layer: int, access: Access, step: int) -> None:
        """The cache keeps an expert where it was brought beside it, and gives the slot it would have gone to."""
        if access.slot < 0:
            return
        held, kept = self.held.claimed(layer)[access.expert], self._kept
        before = kept.at[access.slot]
        if kept.swaps(access.slot):
            self._give_back(before, step)
            now = held._replace(transient=False, passing=False)
        else:
            now = held._replace(transient=before in kept.filled, passing=False, given=before)
            kept.filled.pop(before, None)
        kept.fill(held.slot, held.ready, layer, access.expert)
        kept.at[access.slot] = held.slot
        self.held.replace(layer, held, now)

    def _queue(
        self, layer: int, experts: list[int], step: int, named: Collection[int] | None, how: Mapping[int, MissAction]
    ) -> None:
        """Let `experts`, which no cache keeps, wait for slots: in runs where nobody waits for them one by one, and all
        of a layer at once where one copy brings them.
        """
        if self.copies.n_at_once:
            first = [(0, self.copies.n_at_once)] if experts else []
        elif named is None or not self._in_runs:
            first = [(expert, 1) for expert in experts]
        else:
            first = runs_of(experts, named)
        self._waiting.extend(
            Waiting(layer, expert, n, -1, False, step, how.get(expert, _WHOLE) if n == 1 else _WHOLE)
            for expert, n in first
        )

    def cancel(self, layer: int, needed: Container[int], by: int) -> None:
        """The end of op `by` tells that of the prefetches of `layer` only the `needed` were right.

        What a cache keeps is brought all the same.
        """
        for held in self.held.once(layer):
            if held.passing and not held.any_of(needed):
                for op in range(held.first, held.ready + 1):
                    self._recorder.cancel(op, by)

    def drop_waiting(self, layer: int, needed: Container[int]) -> None:
        """The gate of `layer` has run: what still waits for a slot and is not `needed` is not brought after all."""
        if not self._waiting:
            return
        for entry in self._waiting.take_out(
            lambda w: w.layer == layer and not any(w.expert + i in needed for i in range(w.n))
        ):
            self._drop(entry)
            if self.cache is not None and entry.cached >= 0 and not entry.hit:
                self.cache.forget(layer, entry.expert)
        self._grant()

    def release(self, layer: int, reader: int, used: Container[int] | None) -> None:
        """The FFN of `layer` is issued as op `reader`: its transient slots are free once that has run.

        Experts outside `used` (None: all are used) were brought for nothing; their slots are free once their copy has
        ended.
        """
        self._beside.pop(layer, None)
        readers = self._reader
        for held in self.held.pop(layer):
            in_use = used is None or held.expert in used
            last, slot = reader if in_use or held.ready < 0 else held.ready, held.slot
            if last == reader:  # the newest op of all
                readers[slot : slot + held.n] = [reader] * held.n
            else:
                readers[slot : slot + held.n] = [max(last, before) for before in readers[slot : slot + held.n]]
            if held.frees >= 0:
                if held.frees != slot:
                    readers[held.frees] = max(last, readers[held.frees])
                self._free.give(held.frees, held.n)
                if not in_use and held.transient:
                    self._recorder.release_after(held.ready, self._expert_bytes * held.n)
        if self._pinned:
            self._pinned.difference_update(self._pinned_by_layer.pop(layer, ()))
        self._grant()

    def hand_on(self, layer: int, expert: int, reader: int) -> None:
        """The FFN of one expert of `layer` is issued as op `reader`: its slot goes to who waits, once that has run."""
        held = self.held.claimed(layer)[expert]
        self.held.remove(layer, held)
        self._reader[held.slot] = reader
        if held.frees >= 0:
            self._reader[held.frees] = reader
            self._free.give(held.frees)
        self._grant()

    def give_up(self, layer: int, needed: Container[int]) -> bool:
        """Take the slots of what `layer` holds and does not need, once the copies have ended; whether it had any."""
        wrong = [one for one in self.held.once(layer) if one.is_spare and not one.any_of(needed)]
        for one in wrong:
            self.held.remove(layer, one)
            for slot in range(one.slot, one.slot + one.n):
                self._reader[slot] = max(one.ready, self._reader[slot])
            self._free.give(one.slot, one.n)
            if one.transient:
                self._recorder.release_after(one.ready, self._expert_bytes * one.n)
        self._grant()
        return bool(wrong)

    def give_up_ahead(self, layer: int) -> bool:
        """Take the slots of what was guessed for the layer furthest on, for `layer` needs them now; whether it had any.

        Guesses that wait for slots go first, all of them.
        """
        aside = {(other, expert) for other, experts in self._beside.items() if other != layer for expert in experts}
        waiting = self._waiting.take_out(lambda w: (w.layer, w.expert) in aside and w.cached < 0)
        for entry in waiting:
            self._drop(entry)
        for other in sorted({other for other, _ in aside}, reverse=True):
            guessed = [h for h in self.held.once(other) if h.is_spare and (other, h.expert) in aside]
            if guessed:
                kept = {e for e in self.held.claimed(other) if not any(h.expert <= e < h.expert + h.n for h in guessed)}
                return self.give_up(other, kept)
        self._grant()
        return bool(waiting)

    def _ask_host(self, layer: int, experts: list[int]) -> None:
        """What the device has not is looked up in host memory, as one event."""
        if self._host is not None:
            self._host.ask(layer, experts)

    def _drop(self, entry: Waiting) -> None:
        """What `entry` waits for is not brought after all."""
        for i in range(entry.n if self._host is not None and not entry.hit else 0):
            assert self._host is not None
            self._host.drop(entry.layer, entry.expert + i)

    def _grant(self) -> None:
        """Place who waits, in order, until the first for whom there is no slot."""
        waiting, free, add = self._waiting.queue, self._free, self.held.add
        while waiting:
            entry = waiting[0]
            transient = self.copies.stage is not None or entry.cached < 0 or self._swaps(entry)
            if transient and not free:
                return
            waiting.popleft()
            n = 1 if entry.n == 1 else free.run_length(entry.n, self._reader)
            if n < entry.n:
                waiting.appendleft(entry._replace(expert=entry.expert + n, n=entry.n - n))
            add(entry.layer, self._place(entry, transient) if n == 1 else self._place_run(entry, n))

    def _place_each(self, layer: int, experts: Sequence[int], step: int) -> None:
        """As `_queue` and `_grant`, of experts that are brought whole while nobody waits and all find slots."""
        slots = self._free.take_each(len(experts))
        readers = [self._reader[slot] for slot in slots]
        first = self._writer.fetch_each(layer, experts, step, slots, readers, layer != self.gated_layer)
        for op, (expert, slot) in enumerate(zip(experts, slots, strict=True), first):
            self.held.add(layer, Held(expert, 1, slot, op, True, False, op, True))

    def _place_run(self, entry: Waiting, n: int) -> Held:
        """`n` experts from that of `entry` on into as many free slots."""
        buffer = self._free.take(n)
        target = self._target(entry, buffer)
        first, ready = (
            self._writer.fetch(target, _WHOLE) if self.copies.n_at_once else self._writer.fetch_run(target, n)
        )
        return Held(entry.expert, n, buffer, ready, True, False, first, True)

    def _place(self, entry: Waiting, transient: bool) -> Held:
        """One expert into its slot of the cache or into a free one, or from the cache into a free one to be read."""
        kept, stage = self._kept, self.copies.stage
        buffer = self._free.take() if transient else -1
        if kept.writes_back and self._swaps(entry):
            self._give_back(kept.at[entry.cached], entry.step)
            kept.at[entry.cached], transient = buffer, False
        cached = kept.at[entry.cached] if entry.cached >= 0 else -1
        ready = kept.filled.get(cached, -1)
        first, passing = ready, not entry.hit and cached < 0
        if not entry.hit:
            slot = cached if cached >= 0 else (-1 if stage is not None else buffer)
            written = kept.written(entry.layer, entry.expert) if kept.writes_back else -1
            first, ready = self._writer.fetch(self._target(entry, slot), entry.how, written)
            if cached >= 0:
                kept.fill(cached, ready, entry.layer, entry.expert)
        if stage is None:
            slot = cached if cached >= 0 else buffer
            given = slot if transient and slot in kept.static else -1
            return Held(entry.expert, 1, slot, ready, transient and given < 0, entry.hit, first, passing, given)
        ready = self._writer.stage(stage, self._target(entry, buffer), ready)
        if cached >= 0:
            self._reader[cached] = ready
        return Held(entry.expert, 1, buffer, ready, True, entry.hit, first, passing)

    def _swaps(self, entry: Waiting) -> bool:
        """Whether an expert takes the place in the cache of one that is written back."""
        return not entry.hit and entry.cached >= 0 and self._kept.swaps(entry.cached)

    def _give_back(self, slot: int, step: int) -> None:
        """Write back what the cache kept in `slot`, which is free after that."""
        op = self._kept.write_back(slot, step, self._reader[slot])
        if slot not in self._kept.static:
            self._recorder.release_after(op, self._expert_bytes)
        self._reader[slot] = op
        self._free.give(slot)

    def _target(self, entry: Waiting, slot: int) -> Target:
        """Where the expert of `entry` goes."""
        reader = self._reader[slot] if slot >= 0 else -1
        fills, ahead = self._kept.takes_hbm(slot), entry.layer != self.gated_layer
        return Target(entry.layer, entry.expert, slot, entry.step, reader, fills, ahead)
