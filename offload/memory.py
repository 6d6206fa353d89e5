"""Expert slots in HBM while a schedule is written: transient buffers, and an optional cache beside them.

Capacity is a dependency: a copy into a slot waits for the last reader of what the slot held. Slots are
equal-sized and granted first-in first-out, so an earlier block never waits for a later one. Nothing here may
know time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from offload.copies import Copies, CopyWriter, Target
from offload.host_tier import HostTier, ReadWorks
from offload.low_copies import LowCopies
from offload.policy import MissAction
from offload.recorder import Recorder
from offload.residency import Access, ResidentSet, count_slots
from offload.write_back import WriteBacks
from traces.errors import PregateError

__all__ = ["CapacityExceeded", "ExpertMemory", "Held"]


_WHOLE = MissAction.FETCH


class CapacityExceeded(PregateError):
    """A memory cannot hold what a policy needs; the message has the numbers and the way out.

    `needed_bytes`: how much of `memory` ("HBM" or "DRAM") would do, 0 where it is not known.
    """

    def __init__(self, message: str, needed_bytes: int = 0, memory: str = "HBM") -> None:
        super().__init__(message)
        self.needed_bytes, self.memory = needed_bytes, memory


class Held(NamedTuple):
    """One expert on the device or on its way, or the `n` of a run. `ready`: the op to wait for before reading, -1 none.

    `slot` is where the FFN reads it, of a run the first; `transient`: as much HBM is given back after the read. `hit`:
    it was resident when it was first asked for. `passing`: ops `first` to `ready` bring it for one read only. `given`:
    the slot that a cache gave for it, or a slot whose HBM stays taken, which is then free after the read, -1 none.
    """

    expert: int
    n: int
    slot: int
    ready: int
    transient: bool
    hit: bool
    first: int
    passing: bool
    given: int = -1

    def any_of(self, needed: Container[int]) -> bool:
        """Whether it is needed, or one of the run is."""
        return any(self.expert + i in needed for i in range(self.n))

    @property
    def is_spare(self) -> bool:
        """Whether its slot is of no cache."""
        return self.transient or self.given == self.slot

    @property
    def frees(self) -> int:
        """The slot that is free after the read, of a run the first; -1 none."""
        return self.given if self.given >= 0 else self.slot if self.transient else -1


class _Waiting(NamedTuple):
    """An expert that waits for a slot, or `n` that one run brings. `cached`: its slot of the cache, -1 none; `how`: at
    which precision it is brought, and how much of it.
    """

    layer: int
    expert: int
    n: int
    cached: int
    hit: bool
    step: int
    how: MissAction


class ExpertMemory:
    """Grants slots and writes the copies that fill them into a recorder.

    Slots 0..n_buffers-1 are transient, the cache's follow; a cache that takes an expert over from a transient slot
    gives its own for it. With `copies.stage`, experts are copied within HBM
    from where the link put them (a cache slot, or a staging area outside the count, as Eq. 1 of the paper
    has it) into a buffer; without, they are read where they landed. `host`: where experts come from; without one, with
    `copies.disk`, each is read into one of `n_host_buffers` of host memory.
    `in_runs`: copies that nobody waits for one by one become runs (`offload.runs`). `warm_bytes`: what a cache that has
    residents already holds of HBM.
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
        n_host_buffers: int = 1,
        host: HostTier | None = None,
    ) -> None:
        if host is None and copies.disk is not None:
            host = HostTier(recorder, ReadWorks(copies.disk), places, n_host_buffers)
        self._host = host
        self.n_buffers, self.cache, self.copies = n_buffers, cache, copies
        self._recorder, self._expert_bytes = recorder, expert_bytes
        self._writer = CopyWriter(recorder, copies, expert_bytes, places, host)
        self._free = list(range(n_buffers))  # first in, first out, from `_next_free` on
        self._next_free = 0
        self._reader = [-1] * count_slots(n_buffers, cache)  # slot -> the op that read it last
        warm = cache.slots_in_use if cache is not None else ()
        self.warm_bytes = len(warm) * expert_bytes
        self._write_backs: WriteBacks | None = None
        self._static: frozenset[int] = frozenset()  # slots whose HBM is taken throughout
        if copies.write_back is not None and cache is not None:
            places_of = {n_buffers + slot: divmod(key, cache.n_experts) for slot, key in cache.residents.items()}
            self._write_backs = WriteBacks(self._writer, copies.write_back, places_of)
            self._static = frozenset(places_of)
        self._home = list(range(n_buffers, len(self._reader)))  # slot of the cache -> slot
        self._filled = dict.fromkeys((n_buffers + slot for slot in warm), -1)  # of the cache's slots, by which op
        self._held: dict[int, dict[int, Held]] = {}  # layer -> expert -> where
        self._holds: dict[int, list[Held]] = {}  # layer -> the same, a run once
        self._beside: dict[int, set[int]] = {}  # layer -> experts that were brought aside
        self._waiting: deque[_Waiting] = deque()
        self._in_runs = in_runs and copies.disk is None and copies.write_back is None
        self._pinned: set[int] = set()
        self._pinned_by_layer: dict[int, list[int]] = {}
        self.low: LowCopies | None = None
        self.gated_layer = -1
        """The layer whose gate has run last: its experts are needed now, others are brought ahead."""

    def live_ops(self) -> set[int]:
        """The ops that a later op may have to wait for."""
        held = (h.ready for holds in self._holds.values() for h in holds)
        host = {*(self._host.live_ops() if self._host else ()), *(self.low.filled.values() if self.low else ())}
        written = () if self._write_backs is None else self._write_backs.live_ops()
        return {op for op in (*self._reader, *self._filled.values(), *held, *host, *written) if op >= 0}

    @property
    def holds_ahead(self) -> bool:
        """Whether an expert is held or waits for an FFN to come."""
        return bool(self._waiting) or any(self._held.values())

    def has(self, layer: int, expert: int) -> bool:
        """Whether the expert is on the device, on its way or waiting for a slot."""
        return expert in self._held.get(layer, ()) or (self.cache is not None and (layer, expert) in self.cache)

    def has_or_awaits(self, layer: int, expert: int) -> bool:
        """Whether the expert is on the device, on its way or waiting for a slot, for its next FFN or in the cache."""
        return self.has(layer, expert) or self.claimed_or_waiting(layer, expert)

    def brought(self, layer: int) -> tuple[int, ...]:
        """The experts of `layer` that were sent for ahead of its next FFN and that no cache had, in that order."""
        held = [expert for expert, one in self._held.get(layer, {}).items() if not one.hit]
        waiting = [w.expert + i for w in self._waiting if w.layer == layer and not w.hit for i in range(w.n)]
        return (*held, *waiting)

    def claimed(self, layer: int) -> dict[int, Held]:
        """The experts of `layer` that were brought for its next FFN."""
        return self._held.get(layer, {})

    def arrivals(self, layer: int, experts: Iterable[int] | None = None) -> list[int]:
        """The copies that bring what is held for the layer's next FFN, ascending; of `experts` only, where given."""
        held = self._held.get(layer, {})
        holds: Iterable[Held] = self._holds.get(layer, ()) if experts is None else (held[expert] for expert in experts)
        return sorted({h.ready for h in holds if h.ready >= 0})

    def pieces(self, layer: int, expert: int) -> tuple[int, ...]:
        """The copies that bring the matrices of an expert for the layer's next FFN; none: it came whole, or earlier."""
        held = self._held[layer][expert]
        return () if held.hit or not self.copies.pieces else self._writer.pieces(held.ready)

    def n_transient(self, layer: int, experts: Iterable[int] | None = None) -> int:
        """Slots that are given back when what is held for the layer has been read."""
        held = self._held.get(layer, {})
        if experts is None:
            return sum(h.n for h in self._holds.get(layer, ()) if h.transient)
        return sum(held[expert].transient for expert in experts)

    def claimed_or_waiting(self, layer: int, expert: int) -> bool:
        """Whether the expert was brought for the layer's next FFN, a slot granted or not."""
        if expert in self._held.get(layer, ()):
            return True
        return any(w.layer == layer and w.expert <= expert < w.expert + w.n for w in self._waiting)

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
        held = self._held.setdefault(layer, {})
        self._holds.setdefault(layer, [])
        new = list(dict.fromkeys(experts))
        if held or self._waiting:
            new = [expert for expert in new if not self.claimed_or_waiting(layer, expert)]
        if aside:
            self._beside.setdefault(layer, set()).update(new)
        if self.cache is None:
            self._ask_host(layer, new)
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
                    self._waiting.extend(_Waiting(layer, a.expert, 1, a.slot, a.hit, step, _WHOLE) for a in group)
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
            self._held.setdefault(layer, {})[one.expert] = held
            self._holds.setdefault(layer, []).append(held)
        return {one.expert for one in found}

    def aside(self, layer: int) -> list[int]:
        """The experts of `layer` that were brought aside and hold a slot."""
        held = self._held.get(layer, {})
        return [expert for expert in held if expert in self._beside.get(layer, ())]

    def _adopt(self, layer: int, access: Access, step: int) -> None:
        """The cache keeps an expert where it was brought beside it, and gives the slot it would have gone to."""
        if access.slot < 0:
            return
        held, before = self._held[layer][access.expert], self._home[access.slot]
        if self._write_backs is not None and before in self._filled:
            self._give_back(before, step)
            now = held._replace(transient=False, passing=False)
        else:
            now = held._replace(transient=before in self._filled, passing=False, given=before)
            self._filled.pop(before, None)
        self._filled[held.slot], self._home[access.slot] = held.ready, held.slot
        if self._write_backs is not None:
            self._write_backs.keep(held.slot, layer, access.expert)
        self._held[layer][access.expert] = now
        self._holds[layer] = [now if one is held else one for one in self._holds[layer]]

    def _queue(
        self, layer: int, experts: list[int], step: int, named: Collection[int] | None, how: Mapping[int, MissAction]
    ) -> None:
        """Let `experts`, which no cache keeps, wait for slots: in runs where nobody waits for them one by one, and all
        of a layer at once where one copy brings them.
        """
        if self.copies.n_at_once:
            if experts:
                self._waiting.append(_Waiting(layer, 0, self.copies.n_at_once, -1, False, step, _WHOLE))
            return
        if named is None or not self._in_runs:
            self._waiting.extend(_Waiting(layer, one, 1, -1, False, step, how.get(one, _WHOLE)) for one in experts)
            return
        for first, n in _runs(experts, named):
            own = how.get(first, _WHOLE) if n == 1 else _WHOLE
            self._waiting.append(_Waiting(layer, first, n, -1, False, step, own))

    def cancel(self, layer: int, needed: Container[int], by: int) -> None:
        """The end of op `by` tells that of the prefetches of `layer` only the `needed` were right.

        What a cache keeps is brought all the same.
        """
        for held in self._holds.get(layer, ()):
            if held.passing and not held.any_of(needed):
                for op in range(held.first, held.ready + 1):
                    self._recorder.cancel(op, by)

    def drop_waiting(self, layer: int, needed: Container[int]) -> None:
        """The gate of `layer` has run: what still waits for a slot and is not `needed` is not brought after all."""
        if not self._waiting:
            return
        dropped = [w for w in self._waiting if w.layer == layer and not any(w.expert + i in needed for i in range(w.n))]
        for entry in dropped:
            self._waiting.remove(entry)
            self._drop(entry)
            if self.cache is not None and entry.cached >= 0 and not entry.hit:
                self.cache.forget(layer, entry.expert)
        self._grant()

    def release(self, layer: int, reader: int, used: Container[int] | None) -> None:
        """The FFN of `layer` is issued as op `reader`: its transient slots are free once that has run.

        Experts outside `used` (None: all are used) were brought for nothing; their slots are free once their copy has
        ended.
        """
        self._held.pop(layer, None)
        self._beside.pop(layer, None)
        readers = self._reader
        for held in self._holds.pop(layer, ()):
            in_use = used is None or held.expert in used
            last, slot = reader if in_use or held.ready < 0 else held.ready, held.slot
            if last == reader:  # the newest op of all
                readers[slot : slot + held.n] = [reader] * held.n
            else:
                readers[slot : slot + held.n] = [max(last, before) for before in readers[slot : slot + held.n]]
            if held.frees >= 0:
                if held.frees != slot:
                    readers[held.frees] = max(last, readers[held.frees])
                self._free.extend(range(held.frees, held.frees + held.n))
                if not in_use and held.transient:
                    self._recorder.release_after(held.ready, self._expert_bytes * held.n)
        if self._pinned:
            self._pinned.difference_update(self._pinned_by_layer.pop(layer, ()))
        self._grant()

    def hand_on(self, layer: int, expert: int, reader: int) -> None:
        """The FFN of one expert of `layer` is issued as op `reader`: its slot goes to who waits, once that has run."""
        held = self._held[layer].pop(expert)
        self._holds[layer].remove(held)
        self._reader[held.slot] = reader
        if held.frees >= 0:
            self._reader[held.frees] = reader
            self._free.append(held.frees)
        self._grant()

    def give_up(self, layer: int, needed: Container[int]) -> bool:
        """Take the slots of what `layer` holds and does not need, once the copies have ended; whether it had any."""
        held = self._held[layer]
        wrong = [one for one in self._holds[layer] if one.is_spare and not one.any_of(needed)]
        for one in wrong:
            self._holds[layer].remove(one)
            for i in range(one.n):
                del held[one.expert + i]
                self._reader[one.slot + i] = max(one.ready, self._reader[one.slot + i])
                self._free.append(one.slot + i)
            if one.transient:
                self._recorder.release_after(one.ready, self._expert_bytes * one.n)
        self._grant()
        return bool(wrong)

    def give_up_ahead(self, layer: int) -> bool:
        """Take the slots of what was guessed for the layer furthest on, for `layer` needs them now; whether it had any.

        Guesses that wait for slots go first, all of them.
        """
        aside = {(other, expert) for other, experts in self._beside.items() if other != layer for expert in experts}
        waiting = [w for w in self._waiting if (w.layer, w.expert) in aside and w.cached < 0]
        for entry in waiting:
            self._waiting.remove(entry)
            self._drop(entry)
        for other in sorted({other for other, _ in aside}, reverse=True):
            guessed = [h for h in self._holds.get(other, ()) if h.is_spare and (other, h.expert) in aside]
            if guessed:
                kept = {e for e in self._held[other] if not any(h.expert <= e < h.expert + h.n for h in guessed)}
                return self.give_up(other, kept)
        self._grant()
        return bool(waiting)

    def _ask_host(self, layer: int, experts: list[int]) -> None:
        """What the device has not is looked up in host memory, as one event."""
        if self._host is not None:
            self._host.ask(layer, experts)

    def _drop(self, entry: _Waiting) -> None:
        """What `entry` waits for is not brought after all."""
        for i in range(entry.n if self._host is not None and not entry.hit else 0):
            assert self._host is not None
            self._host.drop(entry.layer, entry.expert + i)

    def _grant(self) -> None:
        """Place who waits, in order, until the first for whom there is no slot."""
        waiting = self._waiting
        while waiting:
            entry = waiting[0]
            transient = self.copies.stage is not None or entry.cached < 0 or self._swaps(entry)
            if transient and self._next_free == len(self._free):
                return
            waiting.popleft()
            n = 1 if entry.n == 1 else self._run_length(entry.n)
            if n < entry.n:
                waiting.appendleft(entry._replace(expert=entry.expert + n, n=entry.n - n))
            held = self._place(entry, transient) if n == 1 else self._place_run(entry, n)
            self._holds[entry.layer].append(held)
            if n == 1:
                self._held[entry.layer][entry.expert] = held
            else:
                self._held[entry.layer].update(dict.fromkeys(range(entry.expert, entry.expert + n), held))

    def _run_length(self, n: int) -> int:
        """How many of `n` copies one run can bring: into slots that follow one another and were read last at once."""
        readers, buffers = self._reader, self._free[self._next_free : self._next_free + n]
        slot, reader = buffers[0], readers[buffers[0]]
        if buffers == list(range(slot, slot + n)) and readers[slot : slot + n].count(reader) == n:
            return n
        for i, buffer in enumerate(buffers):
            if buffer != slot + i or readers[buffer] != reader:
                return i
        return len(buffers)

    def _place_run(self, entry: _Waiting, n: int) -> Held:
        """`n` experts from that of `entry` on into as many free slots."""
        buffer = self._take(n)
        target = self._target(entry, buffer)
        first, ready = (
            self._writer.fetch(target, _WHOLE) if self.copies.n_at_once else self._writer.fetch_run(target, n)
        )
        return Held(entry.expert, n, buffer, ready, True, False, first, True)

    def _take(self, n: int) -> int:
        """The first of the `n` slots that have been free for longest, which are free no more."""
        slot = self._free[self._next_free]
        self._next_free += n
        if self._next_free > 1024:
            del self._free[: self._next_free]
            self._next_free = 0
        return slot

    def _place(self, entry: _Waiting, transient: bool) -> Held:
        """One expert into its slot of the cache or into a free one, or from the cache into a free one to be read."""
        buffer = self._take(1) if transient else -1
        if self._write_backs is not None and self._swaps(entry):
            self._give_back(self._home[entry.cached], entry.step)
            self._home[entry.cached], transient = buffer, False
        cached = self._home[entry.cached] if entry.cached >= 0 else -1
        ready = self._filled.get(cached, -1)
        first, passing = ready, not entry.hit and cached < 0
        stage = self.copies.stage
        if not entry.hit:
            slot = cached if cached >= 0 else (-1 if stage is not None else buffer)
            back = self._write_backs
            written = -1 if back is None else back.last_of(entry.layer, entry.expert)
            first, ready = self._writer.fetch(self._target(entry, slot), entry.how, written)
            if cached >= 0:
                self._filled[cached] = ready
                if back is not None:
                    back.keep(cached, entry.layer, entry.expert)
        if stage is None:
            slot = cached if cached >= 0 else buffer
            given = slot if transient and slot in self._static else -1
            return Held(entry.expert, 1, slot, ready, transient and given < 0, entry.hit, first, passing, given)
        ready = self._writer.stage(stage, self._target(entry, buffer), ready)
        if cached >= 0:
            self._reader[cached] = ready
        return Held(entry.expert, 1, buffer, ready, True, entry.hit, first, passing)

    def _swaps(self, entry: _Waiting) -> bool:
        """Whether an expert takes the place in the cache of one that is written back: it goes to a spare slot."""
        back = self._write_backs is not None and not entry.hit and entry.cached >= 0
        return back and self._home[entry.cached] in self._filled

    def _give_back(self, slot: int, step: int) -> None:
        """Write back what the cache kept in `slot`, which is free after that."""
        assert self._write_backs is not None
        op = self._write_backs.give(slot, step, self._filled.pop(slot), self._reader[slot])
        if slot not in self._static:
            self._recorder.release_after(op, self._expert_bytes)
        self._reader[slot] = op
        self._free.append(slot)

    def _target(self, entry: _Waiting, slot: int) -> Target:
        """Where the expert of `entry` goes: HBM is taken for a transient slot, and for a cache slot the first time."""
        fills = slot >= 0 and slot not in self._filled and slot not in self._static
        reader = self._reader[slot] if slot >= 0 else -1
        return Target(entry.layer, entry.expert, slot, entry.step, reader, fills, entry.layer != self.gated_layer)


def _runs(experts: list[int], named: Collection[int]) -> list[tuple[int, int]]:
    """`experts` as (first, count) of those that follow one another, the `named` ones each alone."""
    first = experts[0] if experts else 0
    if experts == list(range(first, first + len(experts))):  # all of a block: cut it at what is named
        found, last = [], first + len(experts)
        for expert in sorted(named):
            if first <= expert < last:
                found += [(first, expert - first), (expert, 1)] if expert > first else [(expert, 1)]
                first = expert + 1
        return [*found, (first, last - first)] if last > first else found
    found = []
    for i, expert in enumerate(experts):
        joins = i > 0 and expert == experts[i - 1] + 1 and not {expert, expert - 1} & set(named)
        if joins:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((expert, 1))
    return found
