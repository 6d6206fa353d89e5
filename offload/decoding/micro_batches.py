"""Micro-batches of one forward pass: layer by layer, what is fetched for a layer is used by all of them.

FlexGen's block schedule (Sheng et al., ICML 2023) and CGOPipe (MoE-Lightning, ASPLOS 2025): weights and experts of a
layer come once, then every micro-batch passes it, then the next layer. The attention of a micro-batch on the host runs
beside what the device does for others. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.decoding.choice_counts import choice_counts
from offload.decoding.work_rows import Works
from offload.ops import Lane, Work
from offload.placing.host_side import HostSide
from offload.policy import MissAction
from offload.recorder import Recorder
from traces.model.architecture import LayerStack
from traces.routing import Step

__all__ = ["MicroBatches", "micro_batches_of", "tokens_of"]


class _Loop(Protocol):
    """What micro-batches need of the loop that they are part of."""

    recorder: Recorder
    host_side: HostSide
    works: Works
    i_step: int
    last_op: int

    def split(self, what: Work) -> tuple[Work, Work]:
        """An attention as what the device and what the host computes of it."""


class _Mixing(NamedTuple):
    """What mixes the tokens of a layer, of one micro-batch after the other, `n_ops` each.

    `lane`, `rows`: (n_ops x n_mixers,). `n_after`, `counted`: how many ops each waits for, and these, counted from the
    first of all. `first`, `last`: of each mixer, counted so.
    `on_host`: the op of a mixer that the host's processor runs, -1 none.
    """

    lane: NDArray[np.int64]
    rows: NDArray[np.int64]
    n_ops: int
    n_after: NDArray[np.int64]
    counted: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    on_host: int


_UNKNOWN = -2
"""In a table of rows, where a work has none yet; -1 is no work."""


def tokens_of(step: Step, parts: Sequence[Step], first: int, n_blocks: int, n_experts: int) -> NDArray[np.int64]:
    """The tokens that each expert of `n_blocks` blocks from `first` on serves of each of the micro-batches `parts` of
    `step`, (n_blocks, n_experts, n_parts).
    """
    begins = np.cumsum([0, *(len(part.experts) for part in parts)])
    follow = np.may_share_memory(parts[0].experts, step.experts)  # as they lie in the pass, else gathered from it
    experts = step.experts if follow else np.concatenate([part.experts for part in parts])
    counts = choice_counts(experts[:, first : first + n_blocks], n_experts, begins)
    return np.ascontiguousarray(counts.transpose(1, 2, 0))


def micro_batches_of(step: Step, n_sequences: int) -> list[Step]:
    """The micro-batches of a pass: `n_sequences` each (0: all), in the order in which sequences appear."""
    if not n_sequences:
        return [step]
    begins = np.flatnonzero(np.diff(step.sequence, prepend=step.sequence[:1] - 1))
    seen = step.sequence[begins]
    if len(set(seen.tolist())) == len(seen):  # the tokens of a sequence follow one another
        edges = [*begins[::n_sequences].tolist(), len(step.sequence)]
        groups: list[Any] = [slice(*pair) for pair in pairwise(edges)]
    else:
        sequences, first, member = np.unique(step.sequence, return_index=True, return_inverse=True)
        place = np.empty(len(sequences), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(sequences))
        group = place[member.reshape(-1)] // n_sequences
        groups = [group == i for i in range(int(group.max()) + 1)]
    if len(groups) == 1:
        return [step]
    weights, rejected, parts = step.gate_weights, step.rejected, []
    for mine in groups:
        part = replace(
            step, experts=step.experts[mine], sequence=step.sequence[mine], position=step.position[mine],
            gate_weights=None if weights is None else weights[mine],
            rejected=None if rejected is None else rejected[mine],
        )  # fmt: skip
        parts.append(part)
    return parts


class MicroBatches:
    """One pass in micro-batches `parts`. `mixing`: of each the works that mix its tokens, by layer. `tokens`: as of
    `tokens_of`.

    The ops of all micro-batches are written at once: their shapes are alike, only works differ.
    """

    def __init__(
        self,
        loop: _Loop,
        parts: Sequence[Step],
        mixing: Sequence[Sequence[Sequence[Work]]],
        tokens: NDArray[np.int64],
    ) -> None:
        self._loop, self._mixing = loop, mixing
        self._n_tokens = [len(part.experts) for part in parts]
        self._tokens = tokens
        self._named = [tuple(np.flatnonzero(of_block.any(axis=1)).tolist()) for of_block in self._tokens]
        self._sorted = np.sort(self._tokens, axis=1).transpose(0, 2, 1)  # of each micro-batch, ascending
        self._fused: dict[tuple[int, tuple[int, ...]], int] = {}  # rows of fused experts
        self._is_uniform = all(all(one is of[0] for one in of) for of in mixing)
        self._made: dict[Any, _Mixing] = {}  # by the identities of the works
        self._singles: dict[MissAction, NDArray[np.int64]] = {}  # rows of one expert, by how many tokens it serves
        self._rows_of: dict[str, NDArray[np.int64]] = {}
        self._waits = np.zeros((len(parts), 0), np.int64)  # results of the host that a micro-batch waits for
        self._to_gate = False  # whether the gate of each comes right before its experts
        self.gate = -1
        """The last gate of the block."""

    def mix(self, layer: int, kv: str) -> None:
        """What mixes the tokens of a layer, of one micro-batch after the other."""
        loop, side = self._loop, self._loop.host_side
        mixing = self._mixers(layer, kv)
        if mixing is None:
            return
        base = loop.recorder.next_op
        first, last = mixing.first + base, mixing.last + base
        if kv == "stream":
            turns = side.turns_of_cache(last)
            after = np.stack([turns, first], axis=1)
            known = after >= 0
            n_after = known.ravel().astype(np.int64)
            self._write(mixing.lane, mixing.rows, n_after, after[known], layer, waiting=1)
        else:
            self._write(mixing.lane, mixing.rows, mixing.n_after, mixing.counted + base, layer)
        if kv == "host":
            self._waits = np.concatenate([self._waits, last.reshape(len(self._waits), -1)], axis=1)
            side.has_run(int(first[-1]) + mixing.on_host)
            loop.last_op = int(first[-1])
        else:
            loop.last_op = int(last[-1])

    def _mixers(self, layer: int, kv: str) -> _Mixing | None:
        """The ops of what mixes the tokens of a layer, made once of the layers that have the same; None none."""
        key: Any = ()
        if not self._is_uniform:
            key = tuple(id(what) for works in self._mixing for what in works[layer])
        mixing = self._made.get(key)
        if mixing is None:
            whats = [(what, n) for works, n in zip(self._mixing, self._n_tokens, strict=True) for what in works[layer]]
            if not whats:
                return None
            mixing = self._made[key] = self._mixing_of(whats, kv)
        return mixing

    def _mixing_of(self, whats: Sequence[tuple[Work, int]], kv: str) -> _Mixing:
        """The ops of mixers over so many tokens, where keys and values are as `kv` says."""
        loop, side, row = self._loop, self._loop.host_side, self._loop.recorder.row
        lanes, rows = [int(Lane.COMPUTE)], list[int]()
        after: tuple[int, ...] = ()
        for what, n_tokens in whats:
            if kv == "host":
                own, there = loop.split(what)
                hops = side.hops(there, n_tokens)
                lanes, after = [int(Lane.COMPUTE), *(hop.lane for hop in hops)], tuple(hop.after for hop in hops)
                rows += [row(own), *(row(hop.what) for hop in hops)]
            elif kv == "stream":
                lanes = [int(Lane.H2D), int(Lane.COMPUTE)]
                rows += [row(loop.works.stream(int(what.hbm_bytes * side.placed.kv_share))), row(what)]
            else:
                rows.append(row(what))
        n_ops, first = len(lanes), len(lanes) * np.arange(len(whats))
        return _Mixing(
            np.tile(np.array(lanes), len(whats)), np.array(rows), n_ops, np.tile([0, *[1] * len(after)], len(whats)),
            (first[:, None] + np.array(after, np.int64)).ravel(), first, first + n_ops - 1,
            lanes.index(Lane.CPU) if kv == "host" else -1,
        )  # fmt: skip

    def dense(self, stack: LayerStack, layer: int) -> None:
        """The FFN of a layer without experts."""
        self._after_waits(self._rows("dense", lambda n: self._loop.works.dense(stack, n)), layer)

    def gates(self, layer: int, now: bool) -> int:
        """The gates of a block: all of them `now`, or each when its experts are due. Returns the last one so far."""
        self._to_gate, self.gate = not now, -1
        if now:
            self.gate = self._after_waits(self._rows("gate", self._loop.works.gate), layer)
        return self.gate

    def fused(
        self, block: int, experts: Sequence[int], with_shared: bool, layer: int, after: Sequence[int], freed: int
    ) -> int:
        """`experts` of a block as one op a micro-batch, shared experts in it; returns the last."""
        if tuple(experts) == self._named[block]:
            counts = self._sorted[block]
        else:  # some run otherwise
            counts = np.sort(self._tokens[block, list(experts)].T.reshape(len(self._n_tokens), -1), axis=1)
        rows, known = [], self._fused
        for n_tokens, tokens in zip(self._n_tokens, map(tuple, counts.tolist()), strict=True):
            key = n_tokens if with_shared else 0, tokens
            row = known.get(key)
            if row is None:
                row = known[key] = self._fused_row(key[0], tuple(n for n in tokens if n))
            rows.append(row)
        return self._issue(np.array(rows), layer, after, freed, -1)

    def _fused_row(self, n_shared: int, tokens: tuple[int, ...]) -> int:
        """The row of experts that serve so many tokens each; it does not matter which of them serves how many."""
        loop = self._loop
        return loop.recorder.row(loop.works.grouped(n_shared, tokens)) if tokens or n_shared else -1

    def shared(self, block: int, layer: int) -> None:
        """Shared experts alone."""
        self._issue(self._rows("shared", self._loop.works.shared), layer, (), 0, -1)

    def single(
        self,
        block: int,
        expert: int,
        how: MissAction,
        layer: int,
        after: Sequence[int],
        freed: int,
        what: Callable[[int, MissAction], Work],
    ) -> int:
        """One expert as an op a micro-batch that asks for it; `what` of so many tokens, as its miss was answered."""
        rows = self._rows_of_single(block, expert, how, what)
        return self._issue(rows, layer, after, freed, expert)

    def singles(
        self,
        block: int,
        experts: Sequence[tuple[int, MissAction, Sequence[int]]],
        layer: int,
        freed: int,
        what: Callable[[int, MissAction], Work],
    ) -> int:
        """`single` of one expert after the other, each with how its miss was answered and the ops that it waits for;
        the last op, which is returned, frees.
        """
        if len(experts) > 1 and (self._to_gate or self._loop.host_side.waits):  # which the first op alone waits for
            (expert, how, after), *experts = experts
            self.single(block, expert, how, layer, after, 0, what)
        rows = np.stack([self._rows_of_single(block, expert, how, what) for expert, how, _ in experts])
        n_each = np.count_nonzero(rows >= 0, axis=1)
        if len(experts) == 1 or not n_each.all():
            for n_left, (expert, how, after) in zip(range(len(experts) - 1, -1, -1), experts, strict=True):
                op = self.single(block, expert, how, layer, after, 0 if n_left else freed, what)
            return op
        recorder, owner = self._loop.recorder, np.repeat(np.arange(len(experts)), n_each)
        n_waits = np.array([len(after) for _, _, after in experts])
        n_after = n_waits[owner]
        of_first = np.repeat((np.cumsum(n_waits) - n_waits)[owner] - (np.cumsum(n_after) - n_after), n_after)
        waits = np.array([op for _, _, after in experts for op in after], np.int64)
        first = recorder.issue_many(
            Lane.COMPUTE, rows[rows >= 0], n_after, waits[np.arange(len(of_first)) + of_first],
            step=self._loop.i_step, layer=layer, expert=np.array([expert for expert, _, _ in experts])[owner],
        )  # fmt: skip
        op = self._loop.last_op = first + len(owner) - 1
        if freed:
            recorder.release_after(op, freed)
        return op

    def _rows_of_single(
        self, block: int, expert: int, how: MissAction, what: Callable[[int, MissAction], Work]
    ) -> NDArray[np.int64]:
        """By micro-batch the row of one expert, -1 where it asks for no token."""
        counts, of = self._tokens[block, expert], self._singles.get(how)
        if of is None:
            of = self._singles[how] = np.full(max(self._n_tokens) + 1, _UNKNOWN)
            of[0] = -1
        rows: NDArray[np.int64] = of[counts]
        if rows.min() == _UNKNOWN:
            for n in set(counts[rows == _UNKNOWN].tolist()):
                of[n] = self._loop.recorder.row(what(n, how))
            rows = of[counts]
        return rows

    def _rows(self, name: str, make: Callable[[int], Work | None]) -> NDArray[np.int64]:
        """By micro-batch the row of `make` of its tokens, the same in every layer; -1 none."""
        found = self._rows_of.get(name)
        if found is None:
            found = self._rows_of[name] = self._rows_or_none([make(n) for n in self._n_tokens])
        return found

    def _rows_or_none(self, made: Sequence[Work | None]) -> NDArray[np.int64]:
        row = self._loop.recorder.row
        return np.array([-1 if what is None else row(what) for what in made])

    def _issue(self, rows: NDArray[np.int64], layer: int, after: Sequence[int], freed: int, expert: int) -> int:
        """An op of each micro-batch that has a row, its gate before it where that is due; the last frees.

        Returns the last.
        """
        loop, recorder = self._loop, self._loop.recorder
        has, n, first = rows >= 0, len(rows), recorder.next_op
        if not has.any():  # nothing to compute, and what to wait for
            rows = np.array([*rows[:-1], recorder.row(loop.works.grouped(0, ()))])
            has = rows >= 0
        if self._to_gate:
            self._to_gate = False
            gates, waits = self._rows("gate", loop.works.gate), self._take_waits()
            mask = np.stack([np.ones(n, np.bool_), has], axis=1)
            after_each = np.broadcast_to(np.array(after, np.int64), (n, len(after)))
            of_op = np.concatenate([np.ones(waits.shape, np.bool_), np.tile(has[:, None], len(after))], axis=1)
            n_after = np.tile([waits.shape[1], len(after)], (n, 1))[mask]
            deps = np.concatenate([waits, after_each], axis=1)[of_op]
            experts = np.tile([-1, expert], (n, 1))[mask]
            self._write(Lane.COMPUTE, np.stack([gates, rows], axis=1)[mask], n_after, deps, layer, experts)
            places = first - 1 + np.cumsum(mask).reshape(n, 2)
            self.gate, op = int(places[-1, 0]), int(places[has, 1][-1])
        else:
            rows = rows[has]
            self._write(Lane.COMPUTE, rows, None, np.array(after, np.int64), layer, expert)
            op = first + len(rows) - 1
        loop.last_op = recorder.next_op - 1
        if freed:
            recorder.release_after(op, freed)
        return op

    def _after_waits(self, rows: NDArray[np.int64], layer: int) -> int:
        """An op of each micro-batch, after what it waits for; returns the last."""
        waits = self._take_waits()
        self._write(Lane.COMPUTE, rows, np.full(len(rows), waits.shape[1]), waits.ravel(), layer)
        self._loop.last_op = self._loop.recorder.next_op - 1
        return self._loop.last_op

    def _write(
        self,
        lane: Lane | NDArray[np.int64],
        rows: NDArray[np.int64],
        n_after: NDArray[np.int64] | None,
        after: NDArray[np.int64],
        layer: int,
        expert: int | NDArray[np.int64] = -1,
        waiting: int = 0,
    ) -> None:
        """Ops of the pass, of which number `waiting` also waits for what the next op of the compute stream does."""
        loop = self._loop
        if loop.host_side.waits:
            if n_after is None:
                n_after, after = np.full(len(rows), len(after)), np.tile(after, len(rows))
            begin = int(n_after[:waiting].sum())
            end = begin + int(n_after[waiting])
            waits = sorted({*after[begin:end].tolist(), *loop.host_side.take_waits()})
            n_after, after = n_after.copy(), np.concatenate([after[:begin], waits, after[end:]])
            n_after[waiting] = len(waits)
        loop.recorder.issue_many(lane, rows, n_after, after, step=loop.i_step, layer=layer, expert=expert)

    def _take_waits(self) -> NDArray[np.int64]:
        """What the next op of each micro-batch waits for, (n, n_waits), which then is no more."""
        waits = self._waits
        self._waits = waits[:, :0]
        return waits
