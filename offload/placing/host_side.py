"""What one run does away from the accelerator: layers and experts on the host, and what streams through HBM.

Activations are on one side at a time. Where the sides change they cross the link, and the next op waits for them.
Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

from offload.decoding.work_rows import Works
from offload.execution import Execution
from offload.ops import Lane, OpKind, Work
from offload.placing.placed import Placed
from offload.placing.streamed_layers import LayerStreams, ZeroCopies, host_layer_bytes
from offload.recorder import Recorder
from offload.slots.host_tier import HostTier
from traces.model.architecture import ModelArchitecture

_WAIT = Work(OpKind.WAIT)
_BUSY = Work(OpKind.ISSUE, n_copies=0)
"""The issuing thread waits for what it computes itself: no time of its own."""

JOIN = Work(OpKind.JOIN, n_copies=0)
"""What kernels read of host memory is there."""

_CACHE = "keys and values"

_N_BUFFERS = 2
"""What one layer reads arrives while that of the layer before is read."""


class Hop(NamedTuple):
    """One op of what the host computes of an attention. `after`: which op it waits for, 0 the projection that comes
    before all of them, 1 the first of them.
    """

    lane: Lane
    what: Work
    after: int


def split_attention(what: Work, share: float) -> tuple[Work, Work]:
    """An attention as what is left of it, and the scores and values of `share` of its keys and values."""
    there = what._replace(flop=int(what.flop * share), hbm_bytes=int(what.hbm_bytes * share))
    return what._replace(flop=what.flop - there.flop, hbm_bytes=what.hbm_bytes - there.hbm_bytes), there


def scores_of(works: Works, what: Work) -> Work:
    """Of an attention what the host computes over a KV cache in its memory: scores and values."""
    return works.cpu_layer(what._replace(gemms=(), weight_bits=32.0))


def listed_cells(model: ModelArchitecture, n_bytes: int) -> int:
    """Tokens whose keys and values take so many bytes in one layer."""
    return n_bytes * model.decoder.n_layers // model.kv_bytes_per_token


def streams_experts(execution: Execution, model: ModelArchitecture, n_tokens: int) -> bool:
    """Whether a pass of `n_tokens` streams the experts that the host holds, instead of computing them there."""
    least = execution.stream_tokens
    if not least:
        return False
    return n_tokens * model.top_k >= least * model.n_experts if execution.stream_per_expert else n_tokens >= least


class _Loop(Protocol):
    """What the host's side needs of the loop that it is part of."""

    model: ModelArchitecture
    execution: Execution
    recorder: Recorder
    works: Works
    host_tier: HostTier | None
    i_step: int
    n_tokens: int

    def compute(self, what: Work, layer: int, after: Sequence[int] = ()) -> int:
        """An op of the compute stream."""


class HostSide:
    """The host's part of a run. `waits`: what the next op of the compute stream waits for."""

    def __init__(self, loop: _Loop, placed: Placed) -> None:
        self._loop, self.placed = loop, placed
        self.waits: list[int] = []
        self._is_here = False  # whether activations are on the host
        self._arrived: int = -1  # the copy that brought them
        self._last = -1  # the last op of the host's processor
        self._before = -1  # the last op on the accelerator before this layer
        self._streamed: dict[int, int] = {}  # layer of this pass -> the copy of its weights
        self._readers: dict[str, list[int]] = {}  # what is streamed -> by buffer, the op that read it last
        self._in_use: dict[int, list[str]] = {}  # layer -> what of it has a buffer
        self._host_weights = host_layer_bytes(loop.model, loop.execution, placed)
        self._streams = LayerStreams(loop.model, placed)
        self._slot_readers = [-1] * (self._streams.ahead or 0)  # by buffer of layers that come ahead
        rows = loop.execution.zero_copy_rows
        self._zero_copies = ZeroCopies(loop.model, placed, rows) if placed.zero_copies else None

    def live_ops(self) -> list[int]:
        """The ops that a later op may have to wait for."""
        readers = chain(*self._readers.values(), self._slot_readers)
        return [op for op in (*readers, self._last, *self.waits) if op >= 0]

    def take_waits(self) -> list[int]:
        """What the next op of the compute stream waits for, which then is no more."""
        waits, self.waits = self.waits, []
        return waits

    def streams_experts(self, n_tokens: int) -> bool:
        """Whether a pass of `n_tokens` streams the experts that the host holds, instead of computing them there."""
        return streams_experts(self._loop.execution, self._loop.model, n_tokens)

    def computes(self, layer: int) -> bool:
        """Whether the host computes a layer in this pass: one that it has, and that the pass does not stream."""
        return layer in self.placed.host_layers and not self._streams_layers

    @property
    def _streams_layers(self) -> bool:
        """Whether this pass streams whole layers of the host."""
        return self._loop.execution.streams_layers and self.streams_experts(self._loop.n_tokens)

    def enter(self, layer: int, last_op: int) -> None:
        """A layer begins: its activations cross over if they are on the other side.

        `last_op`: the last op of this pass on the accelerator, -1 none.
        """
        self._before = last_op
        on_host = self.computes(layer)
        if on_host != self._is_here:
            if on_host:
                self._arrived = self.hand_over(last_op, layer) if last_op >= 0 else -1
            else:
                self.waits.append(self._return((self._last,), layer))
            self._is_here = on_host
        sizes, ahead = self._streams.n_bytes, self._streams.ahead
        if ahead is None and layer in sizes:
            for one in (layer, layer + 1):  # the next while this one computes
                if one in sizes and one not in self._streamed:
                    self._streamed[one] = self._stream("weights", sizes[one], one)
        elif ahead is not None and layer == 0:
            for i in range(ahead):
                self._copy_ahead(i)
        if ahead == 0 and layer in sizes:
            self._copy_ahead(self._streams.order.index(layer), last_op)
        if layer in sizes:
            self.waits.append(self._streamed[layer])
        elif layer in self.placed.host_layers and not on_host:
            self.waits.append(self._stream("weights", self._host_weights[layer], layer, (last_op,)))

    def _copy_ahead(self, i: int, after: int = -1) -> None:
        """The `i`-th layer of those that are streamed, once what its buffer held, or op `after`, has been read."""
        loop, layer = self._loop, self._streams.order[i]
        if self._slot_readers:
            after = self._slot_readers[i % len(self._slot_readers)]
        what, waits = loop.works.stream(self._streams.n_bytes[layer]), (after,) if after >= 0 else ()
        self._streamed[layer] = loop.recorder.issue(Lane.H2D, what, waits, step=loop.i_step, layer=layer)

    def leave(self, layer: int, last_op: int) -> None:
        """A layer of the accelerator has been issued up to `last_op`: what it streamed has been read by then."""
        for what in self._in_use.pop(layer, ()):
            self._readers[what] = [*self._readers[what][1:], last_op]
        if self._slot_readers and layer in self._streams.n_bytes:
            i, n = self._streams.order.index(layer), len(self._slot_readers)
            self._slot_readers[i % n] = last_op
            if i + n < len(self._streams.order):
                self._copy_ahead(i + n)

    def end_pass(self, last_op: int) -> bool:
        """The last layer is done, `last_op` the last on the accelerator: whether the head runs on the host. Activations
        are where it does.
        """
        self._streamed.clear()
        n_layers = self._loop.model.decoder.n_layers
        if not self._is_here and len(self.placed.host_layers) == n_layers:
            self._arrived, self._is_here = self.hand_over(last_op, n_layers - 1), True
        if self._is_here and len(self.placed.host_layers) < n_layers:
            self.waits.append(self._return((self._last,), n_layers - 1))
            self._is_here = False
        stays, self._is_here = self._is_here, False
        return stays

    def read_mixing(self, layer: int, after: int) -> None:
        """What mixes the tokens of a layer, which has been issued behind op `after` (-1 none), reads its weights."""
        if self._zero_copies is not None:
            self._read(*self._zero_copies.mixing(layer, self._loop.n_tokens), layer, after)

    def read_ffn(self, layer: int, after: int, tokens: Sequence[int] = ()) -> None:
        """The same of the FFN of a layer, whose routed experts serve so many `tokens` each."""
        if self._zero_copies is not None:
            n_blocks = sum(map(self._zero_copies.blocks, tokens))
            n_experts = sum(n > 0 for n in tokens)
            self._read(*self._zero_copies.ffn(layer, self._loop.n_tokens, n_experts, n_blocks), layer, after)

    def _read(self, n_bytes: int, n_in_blocks: int, layer: int, after: int) -> None:
        """Kernels just issued read so many bytes over the link while they compute, and end with both."""
        if n_bytes:
            loop, waits = self._loop, (after,) if after >= 0 else ()
            read = loop.recorder.issue(
                Lane.H2D, loop.works.zero_copy(n_bytes, n_in_blocks), waits, step=loop.i_step, layer=layer
            )
            loop.compute(JOIN, layer, (read,))

    def compute(self, what: Work, layer: int) -> int:
        """An op of a layer, by the host's processor."""
        after = (self._arrived,) if self._arrived >= 0 else ()
        self._arrived = -1
        return self._issue(self._loop.works.cpu_layer(what), layer, after)

    def experts(
        self,
        experts: Sequence[int],
        tokens: Sequence[int],
        layer: int,
        moe_layer: int,
        arrived: int = -1,
        shares: Sequence[float] = (),
        chosen_by: int = -1,
    ) -> None:
        """Experts that the host computes; the next op of the compute stream waits for their results.

        `arrived`: the hand-over of their activations; -1 where those are on the host already. `shares`: of the hidden
        units of each, what is computed here; all where none are given. `chosen_by`: the gate, where nothing arrives:
        what is read of storage is known by then. What has to be read is computed last.
        """
        host, whats = self._loop.host_tier, self._whats(tokens, shares)
        if host is not None:
            self._experts_of_storage(host, dict(zip(experts, whats, strict=True)), layer, moe_layer, arrived, chosen_by)
        else:
            after = (arrived,) if arrived >= 0 else ()
            for expert, what in zip(experts, whats, strict=True):
                self._issue(what, layer, after, expert)
                after = ()
        if arrived >= 0:
            self.waits.append(self._return((self._last,), layer))

    def _whats(self, tokens: Sequence[int], shares: Sequence[float]) -> list[Work]:
        """The work of each of several experts, a share of it where `shares` are given."""
        works = self._loop.works
        of = {n_tokens: works.cpu_expert(n_tokens) for n_tokens in set(tokens)}
        whole = [of[n_tokens] for n_tokens in tokens]
        if not shares:
            return whole
        return [works.part(what, share) for what, share in zip(whole, shares, strict=True)]

    def _experts_of_storage(
        self, host: HostTier, whats: Mapping[int, Work], layer: int, moe_layer: int, arrived: int, chosen_by: int
    ) -> None:
        """Experts above storage: what has to be read is computed last."""
        after: tuple[int, ...] = (arrived,)
        host.ask(moe_layer, list(whats))
        for expert in host.in_order(moe_layer, list(whats)):
            read = host.read(moe_layer, expert, self._loop.i_step, max(arrived, chosen_by))
            op = self._issue(whats[expert], layer, tuple(sorted({*after, read} - {-1})), expert)
            host.use(moe_layer, expert, Lane.CPU, op)
            after = ()

    def stream_experts(self, experts: Sequence[int], layer: int, moe_layer: int, gate: int) -> None:
        """Experts of the host through a buffer, for a prompt; the next op of the compute stream waits for them."""
        loop, host = self._loop, self._loop.host_tier
        after = {"gate": (gate,), "attention": (self._before,), "layer before": ()}[loop.execution.streams_from]
        if host is not None:
            host.ask(moe_layer, experts)
            begin = after[0] if after else -1
            after = (*after, *(host.read(moe_layer, expert, loop.i_step, begin) for expert in experts))
        n_bytes = loop.works.stream_experts(len(experts)).copy_bytes
        self.waits.append(self._stream("experts", n_bytes, layer, after))
        for expert in experts if host is not None else ():
            assert host is not None
            host.use(moe_layer, expert, Lane.H2D, self.waits[-1])

    def scores(self, what: Work) -> Work:
        """Of an attention what the host computes over a KV cache in its memory: scores and values."""
        return scores_of(self._loop.works, what)

    def hops(self, scores: Work, n_tokens: int) -> list[Hop]:
        """Scores and values over a KV cache in host memory, queries, keys and values being handed over."""
        works = self._loop.works
        down, back = Hop(Lane.D2H, works.handover(n_tokens), 0), works.back(n_tokens)
        if self._loop.execution.host_computes:
            on_host = [Hop(Lane.HOST, _WAIT, 1), Hop(Lane.CPU, scores, 2), Hop(Lane.HOST, _BUSY, 3)]
            return [down, *on_host, Hop(Lane.H2D, back, 3)]
        return [down, Hop(Lane.CPU, scores, 1), Hop(Lane.H2D, back, 2)]

    def attend(self, scores: Work, layer: int, projected: int) -> None:
        """The ops of `hops`, after op `projected`; the next op of the compute stream waits for the last."""
        self.waits.append(self.run_hops(scores, layer, projected, self._loop.n_tokens))

    def run_hops(self, scores: Work, layer: int, projected: int, n_tokens: int) -> int:
        """The ops of `hops` over so many tokens, after op `projected`; returns the last."""
        loop, ops = self._loop, [projected]
        for lane, what, after in self.hops(scores, n_tokens):
            ops.append(loop.recorder.issue(lane, what, (ops[after],), step=loop.i_step, layer=layer))
            if lane is Lane.CPU:
                self._last = ops[-1]
        return ops[-1]

    def stream_cache(self, n_bytes: int, layer: int) -> None:
        """Keys and values of a layer through a buffer; its attention waits for them."""
        loop = self._loop
        if loop.execution.gathers_cells:
            gather = loop.works.gather(listed_cells(loop.model, n_bytes))
            loop.recorder.issue(Lane.HOST, gather, step=loop.i_step, layer=layer)
        self.waits.append(self._stream(_CACHE, n_bytes, layer))

    def stream_own_cache(self, n_bytes: int, layer: int, after: int) -> None:
        """Keys and values of a layer of the host that this pass streams, once op `after` has run."""
        self.waits.append(self._stream(_CACHE, n_bytes, layer, (after,)))

    def copy_cache(self, n_bytes: int, layer: int) -> int:
        """Keys and values of one micro-batch into the next buffer, once what was there has been read."""
        free = self._readers.setdefault(_CACHE, [-1] * _N_BUFFERS)[0]
        waits = (free,) if free >= 0 else ()
        what = self._loop.works.stream(n_bytes)
        return self._loop.recorder.issue(Lane.H2D, what, waits, step=self._loop.i_step, layer=layer)

    def has_read_cache(self, reader: int) -> None:
        """Op `reader` has read what was copied last."""
        self._readers[_CACHE] = [*self._readers[_CACHE][1:], reader]

    def _stream(self, what: str, n_bytes: int, layer: int, after: Sequence[int] = ()) -> int:
        """`n_bytes` of a layer into the next buffer for `what`, once what was there has been read; returns the copy."""
        loop = self._loop
        readers = self._readers.setdefault(what, [-1] * _N_BUFFERS)
        ahead = sum(what in used for used in self._in_use.values())  # buffers that layers not yet left hold
        self._in_use.setdefault(layer, []).append(what)
        free = readers[ahead]
        waits = sorted({op for op in (*after, free) if op >= 0})
        return loop.recorder.issue(Lane.H2D, loop.works.stream(n_bytes), waits, step=loop.i_step, layer=layer)

    def _issue(self, what: Work, layer: int, after: Sequence[int], expert: int = -1) -> int:
        loop = self._loop
        self._last = loop.recorder.issue(Lane.CPU, what, after, step=loop.i_step, layer=layer, expert=expert)
        return self._last

    def hand_over(self, after: int, layer: int) -> int:
        """Activations to the host, once op `after` has run; returns what its processor waits for."""
        loop = self._loop
        down = loop.recorder.issue(
            Lane.D2H, loop.works.handover(loop.n_tokens), (after,), step=loop.i_step, layer=layer
        )
        if loop.execution.host_computes:
            return loop.recorder.issue(Lane.HOST, _WAIT, (down,), step=loop.i_step, layer=layer)
        return down

    def _return(self, after: Sequence[int], layer: int) -> int:
        """Activations from the host; returns what the accelerator waits for."""
        loop = self._loop
        if loop.execution.host_computes:
            loop.recorder.issue(Lane.HOST, _BUSY, after, step=loop.i_step, layer=layer)
        return loop.recorder.issue(Lane.H2D, loop.works.back(loop.n_tokens), after, step=loop.i_step, layer=layer)
