"""Host memory above storage while a schedule is written: what is read for a use, and what it keeps.

What the device has not is looked up here, all of one (step, layer) at once. What host memory has is used where it lies;
what it has not is read into a slot, once all that used the expert before it have, or where no slot can be had into a
buffer for one use. Where reads are filed, each lands in a buffer of its own and is copied from there. Nothing here may
know time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from offload.caches.residency import ResidentSet
from offload.ops import Lane, OpKind, ReadRounds, Work
from offload.placing.tiers import Reads
from offload.recorder import Recorder
from offload.work import expert_copy_work
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

HostEvents = list[tuple[int, tuple[int, ...]]]
"""What was looked up in host memory: a MoE layer and its experts, event by event."""


@dataclass(frozen=True, slots=True)
class ReadWorks:
    """What reading one expert asks of storage: `n_reads` of at most `largest` bytes, `depth` at a time. `filing`: what
    copying it within host memory asks, None where it is used as it landed.
    """

    whole: Work
    n_reads: int = 1
    largest: int = 0
    depth: int = 1
    mapped: bool = False
    is_plain: bool = True
    filing: Work | None = None

    def nth(self, n_before: int) -> Work:
        """The read of an expert that `n_before` experts of its event are read before: the rounds that it begins."""
        if self.is_plain:
            return self.whole
        begun, then = (-(-n * self.n_reads // self.depth) for n in (n_before, n_before + 1))
        return self.whole._replace(reading=ReadRounds(then - begun, self.largest))


def read_works(model: ModelArchitecture, reads: Reads) -> ReadWorks:
    """What `reads` of one expert of `model` ask."""
    pieces = reads.pieces(model)
    whole = expert_copy_work(model, OpKind.DISK_READ)._replace(copy_bytes=sum(pieces))
    filing = whole._replace(kind=OpKind.FILE) if reads.filed else None
    if replace(reads, filed=False).is_whole:
        return ReadWorks(whole, filing=filing)
    return ReadWorks(whole, len(pieces), max(pieces), reads.depth, reads.mapped, is_plain=False, filing=filing)


@dataclass(slots=True)
class _Event:
    """Experts of one (step, layer) that are looked up together. `n_read`: of them, those whose read is written."""

    n_read: int = 0


@dataclass(slots=True)
class _Asked:
    """An expert that was looked up and is not used yet. `slot`: -1 where none could be had."""

    slot: int
    event: _Event


@dataclass(slots=True)
class _Slot:
    """What fills a slot, -1 before the start, and the last op of each lane that has used it since."""

    filled: int = -1
    users: dict[Lane, int] = field(default_factory=dict)


class HostTier:
    """Writes the reads of storage. `cache`: what host memory keeps, None nothing. `places`: the layer of the model, by
    MoE layer. `n_buffers`: for what it does not keep, each used again once what was read into it has been used. `log`:
    what is looked up is told there. `lookups`, `hits`: experts so far, decoding and prompts alike.
    """

    def __init__(
        self,
        recorder: Recorder,
        works: ReadWorks,
        places: Sequence[int],
        n_buffers: int,
        cache: ResidentSet | None = None,
        log: HostEvents | None = None,
    ) -> None:
        self._recorder, self._works, self._places, self._cache, self._log = recorder, works, places, cache, log
        n_buffers = 1 if works.mapped else max(n_buffers, works.depth)
        self._passed = deque([-1] * n_buffers, maxlen=n_buffers)  # by buffer, who used it last, the oldest first
        self._landed = deque([-1] * max(n_buffers, works.depth), maxlen=max(n_buffers, works.depth))  # so, by filing
        self._slots: dict[int, _Slot] = {}
        self._asked: dict[tuple[int, int], _Asked] = {}
        self._unread: set[tuple[int, int]] = set()  # resident as the cache has it, their read not written yet
        self._pinned: set[int] = set()
        self._last_use = -1
        self.lookups = 0
        self.hits = 0

    def live_ops(self) -> set[int]:
        """The ops that a later op may have to wait for."""
        held = {op for slot in self._slots.values() for op in (slot.filled, *slot.users.values())}
        return {op for op in (*held, *self._passed, *self._landed, self._last_use) if op >= 0}

    def ask(self, layer: int, experts: Sequence[int]) -> None:
        """One event: `experts` of MoE layer `layer` are needed from here, in this order; those asked for already are
        not of it.
        """
        experts = [expert for expert in experts if (layer, expert) not in self._asked]
        if not experts:
            return
        if self._log is not None:
            self._log.append((layer, tuple(experts)))
        event = _Event()
        self.lookups += len(experts)
        if self._cache is None:
            for expert in experts:
                self._asked[layer, expert] = _Asked(-1, event)
            return
        for access in self._cache.admit(layer, experts, self._pinned):
            key = layer, access.expert
            self.hits += access.hit
            self._asked[key] = _Asked(access.slot, event)
            if access.slot >= 0:
                self._pinned.add(self._number(key))
                if not access.hit:
                    self._unread.add(key)

    def read_ahead(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Have `experts` of MoE layer `layer` here before anything asks for them, those that the cache lets in.

        Nothing holds them there until they are asked for. Raises `InvalidInput` where host memory keeps nothing.
        """
        experts = [expert for expert in experts if (layer, expert) not in self._asked]
        if not experts:
            return
        if self._log is not None:
            self._log.append((layer, tuple(experts)))
            if self._cache is None:
                return
        if self._cache is None or self._works.mapped:
            what = "reads as it is touched" if self._works.mapped else "keeps nothing"
            raise InvalidInput(
                f"reads experts ahead into host memory, which {what}: give it a cache (--tier ssd+lru:8GiB), "
                f"or leave dram= out"
            )
        event = _Event()
        for access in self._cache.admit(layer, experts, self._pinned):
            if access.slot >= 0 and not access.hit:
                self._fill((layer, access.expert), access.slot, event, step, -1, 1)

    def drop(self, layer: int, expert: int) -> None:
        """An expert that was asked for is not used after all."""
        key = layer, expert
        if self._asked.pop(key, None) is not None and self._cache is not None:
            self._pinned.discard(self._number(key))
            if key in self._unread:
                self._unread.remove(key)
                self._cache.forget(layer, expert)

    def is_kept(self, layer: int, expert: int) -> bool:
        """Whether an expert that was asked for has a slot here, which outlives its use."""
        return self._asked[layer, expert].slot >= 0

    def in_order(self, layer: int, experts: Sequence[int]) -> list[int]:
        """`experts` that were asked for, in the order in which they are best used: those first that are here."""
        if self._works.mapped:
            return list(experts)
        return sorted(experts, key=lambda expert: self._must_read(layer, expert))

    def _must_read(self, layer: int, expert: int) -> bool:
        return self._asked[layer, expert].slot < 0 or (layer, expert) in self._unread

    def read(self, layer: int, expert: int, step: int, after: int = -1, priority: int = 0) -> int:
        """Have an expert here, whose read may begin once op `after` has run; returns what its use waits for, -1 none.

        `use` follows. One that nobody asked for is asked for alone.
        """
        key = layer, expert
        if key not in self._asked:
            self.ask(layer, (expert,))
        asked = self._asked[key]
        if asked.slot >= 0 and key not in self._unread:
            return self._slots[asked.slot].filled if asked.slot in self._slots else -1
        self._unread.discard(key)
        return self._fill(key, asked.slot, asked.event, step, after, priority)

    def _fill(self, key: tuple[int, int], slot: int, event: _Event, step: int, after: int, priority: int) -> int:
        """Read expert `key` into `slot`, -1 a buffer for one use, once who used that has; returns the last op of it."""
        layer, expert = key
        before = self._slots.get(slot, _Slot())
        target = {self._passed[0]} if slot < 0 else {*before.users.values()} or {before.filled}
        work, filing = self._works.nth(event.n_read), self._works.filing
        event.n_read += 1
        waits = {after, *(target if filing is None else {self._landed[0]})}
        if self._works.mapped:
            waits.add(self._last_use)
        op = self._recorder.issue(
            Lane.DISK, work, sorted(waits - {-1}), step=step, layer=self._places[layer], expert=expert,
            slot=slot if filing is None else -1, priority=priority,
        )  # fmt: skip
        if filing is not None:
            op = self._recorder.issue(
                Lane.CPU, filing, sorted({op, *target} - {-1}), step=step, layer=self._places[layer], expert=expert,
                slot=slot,
            )  # fmt: skip
            self._landed.append(op)
        if slot >= 0:
            self._slots[slot] = _Slot(op)
        return op

    def use(self, layer: int, expert: int, lane: Lane, op: int) -> None:
        """Op `op` on `lane` takes the expert from here."""
        key = layer, expert
        asked = self._asked.pop(key)
        self._last_use = op
        if asked.slot < 0:
            self._passed.append(op)
            return
        self._slots.setdefault(asked.slot, _Slot()).users[lane] = op
        self._pinned.discard(self._number(key))

    def _number(self, key: tuple[int, int]) -> int:
        assert self._cache is not None
        return key[0] * self._cache.n_experts + key[1]


class ReadThrough(NamedTuple):
    """Storage as a run reads it. `cache`: what host memory keeps, None nothing; `log`: where lookups are told."""

    reads: Reads = Reads()
    cache: ResidentSet | None = None
    log: HostEvents | None = None

    @property
    def is_plain(self) -> bool:
        """Whether an expert is one read of its own bytes, nothing is kept, and nobody listens."""
        return self.reads.is_whole and self.cache is None and self.log is None

    def most_places(self, n_host_buffers: int) -> int:
        """Experts that host memory holds at once: those it keeps, those that pass through, those that are not filed."""
        kept = 0 if self.cache is None else self.cache.capacity
        passing = max(n_host_buffers, self.reads.depth)
        return kept + passing * (2 if self.reads.filed else 1)

    def tier(self, model: ModelArchitecture, recorder: Recorder, places: Sequence[int], n_buffers: int) -> HostTier:
        """Made anew for a run; a cache goes on from what it holds."""
        return HostTier(recorder, read_works(model, self.reads), places, n_buffers, self.cache, self.log)
