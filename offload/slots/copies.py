"""The copies that bring experts into slots of HBM, written hop by hop into a recorder.

Which slot, and which op read it last, is decided in `offload.slots.memory`. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from offload.ops import Lane, OpKind, Work
from offload.policy import MissAction
from offload.recorder import Recorder
from offload.slots.copy_runs import run_work
from offload.slots.host_tier import HostTier


class Copies(NamedTuple):
    """What moving one expert costs, by stage of its way: link, within HBM (None: not taken).

    `pieces`: its way over the link matrix by matrix; none: whole. `write_back`: back to host memory when a cache lets
    it go (None: it is forgotten, for host memory has kept it). `n_at_once`: experts that one copy brings, those of a
    layer; 0: one. `sized`: a copy as the experts of a MoE layer are stored; None: as those of every layer are.
    """

    fetch: Work
    stage: Work | None
    pieces: tuple[Work, ...] = ()
    write_back: Work | None = None
    n_at_once: int = 0
    sized: Callable[[Work, int], Work] | None = None


class Target(NamedTuple):
    """Where a copy puts an expert. `slot`: -1 is the staging area; `reader`: the op that read the slot last, -1 none.

    `fills`: the slot holds nothing that HBM was taken for. `ahead`: the expert is brought before its gate has run.
    """

    layer: int
    expert: int
    slot: int
    step: int
    reader: int
    fills: bool
    ahead: bool


class CopyWriter:
    """Writes what brings one expert, or a run of them: a read of storage, a copy over the link, one within HBM.

    `places`: the layer of the model, by MoE layer. `host`: where experts come from, None out of host memory, which has
    all of them.
    """

    def __init__(
        self, recorder: Recorder, copies: Copies, expert_bytes: int, places: Sequence[int], host: HostTier | None
    ) -> None:
        self._recorder, self._copies, self._expert_bytes, self._places = recorder, copies, expert_bytes, places
        self._host = host
        self._run_works: dict[int, tuple[Work, Work | None, Work]] = {}

    def fetch(self, to: Target, how: MissAction, written: int = -1) -> tuple[int, int]:
        """One expert over the link, out of storage if it lives there; `how`: at which precision, and how much of it.

        `written`: the op that wrote it back to host memory last, -1 none. Returns the first and the last op of it that
        bring it for this use alone, which follow one another, matrix by matrix where these are copies of their own.
        """
        read, first, last, end, host = -1, -1, -1, 0, self._host
        if host is not None:
            read = host.read(to.layer, to.expert, to.step, priority=int(to.ahead))
            if not host.is_kept(to.layer, to.expert):
                first = read
        for i, work in enumerate(self._copies.pieces or (self._copies.fetch,)):
            begin, end = end, end + work.copy_bytes
            if how.bits is not None or how.share < 1:
                size = _reduced(end, work, how) - _reduced(begin, work, how)
                bits = work.weight_bits if how.bits is None else how.bits
                work = work._replace(copy_bytes=size, weight_bits=bits)
            last = self._copy(Lane.H2D, work, to._replace(fills=False) if i else to, to.reader, read, written)
            first = last if first < 0 else first
        if host is not None:
            host.use(to.layer, to.expert, Lane.H2D, last)
        return first, last

    def fetch_each(
        self, layer: int, experts: Sequence[int], step: int, slots: Sequence[int], readers: Sequence[int], ahead: bool
    ) -> int:
        """`fetch` one expert after the other out of host memory, whole, into slots that hold nothing that HBM was taken
        for; returns the first op.
        """
        fetch = self._sized(self._copies.fetch, layer)
        return self._recorder.issue_each(
            Lane.H2D, fetch, readers, experts, slots, step=step, layer=self._places[layer],
            hbm_acquired=self._expert_bytes, priority=int(ahead),
        )  # fmt: skip

    def pieces(self, ready: int) -> tuple[int, ...]:
        """The copies of the matrices of an expert that is there after op `ready`, all of them; none: it came whole."""
        n = len(self._copies.pieces)
        return tuple(range(ready - n + 1, ready + 1)) if ready >= 0 else ()

    def write_back(self, work: Work, of: Target, filled: int) -> int:
        """One expert out of a slot to host memory, once op `filled` has brought it, and it was read."""
        return self._copy(Lane.D2H, work, of, filled, of.reader)

    def stage(self, work: Work, to: Target, landed: int) -> int:
        """One expert within HBM, once op `landed` has brought it there."""
        return self._copy(Lane.H2D, work, to, landed, to.reader)

    def fetch_run(self, to: Target, n: int) -> tuple[int, int]:
        """`n` experts from that of `to` on, into as many slots from its on, by one op a hop; the first and last."""
        fetch, stage, issue = self._works_of_run(n)
        if stage is None:
            first = ready = self._copy(Lane.H2D, fetch, to, to.reader, -1)
        else:
            first = self._copy(Lane.H2D, fetch, to._replace(slot=-1, fills=False), -1, -1)
            ready = self._copy(Lane.H2D, stage, to, first, to.reader)
        self._recorder.issue(Lane.HOST, issue, step=to.step, layer=self._places[to.layer])
        return first, ready

    def _works_of_run(self, n: int) -> tuple[Work, Work | None, Work]:
        """The copies of a run of `n`, and what the host does to issue all but the first of each."""
        found = self._run_works.get(n)
        if found is None:
            stage = None if self._copies.stage is None else run_work(self._copies.stage, n)
            n_more = (n - 1) * (1 if stage is None else 2)
            found = run_work(self._copies.fetch, n), stage, Work(OpKind.ISSUE, n_copies=n_more)
            self._run_works[n] = found
        return found

    def _sized(self, work: Work, layer: int) -> Work:
        """A copy as the experts of `layer` are stored."""
        return work if self._copies.sized is None else self._copies.sized(work, layer)

    def _copy(self, lane: Lane, work: Work, to: Target, one: int, other: int, third: int = -1) -> int:
        """Issue one copy after ops `one`, `other` and `third` (-1 none); it takes HBM where it fills."""
        if one > other:
            one, other = other, one
        after = () if other < 0 else ((other,) if one < 0 or one == other else (one, other))
        if third >= 0:
            after = tuple(sorted({*after, third}))
        return self._recorder.issue(
            lane, self._sized(work, to.layer), after, step=to.step, layer=self._places[to.layer], slot=to.slot,
            expert=-1 if self._copies.n_at_once else to.expert,
            hbm_acquired=self._expert_bytes * max(work.n_copies, self._copies.n_at_once) if to.fills else 0,
            priority=int(to.ahead),
        )  # fmt: skip


def _reduced(n_bytes: int, work: Work, how: MissAction) -> int:
    """Of the first `n_bytes` of an expert, what is fetched at fewer bits, or of a share of it."""
    if how.bits is not None:
        n_bytes = int(n_bytes * how.bits / work.weight_bits)
    return int(n_bytes * how.share) if how.share < 1 else n_bytes
