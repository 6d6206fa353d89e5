"""Micro-batches of one forward pass: layer by layer, what is fetched for a layer is used by all of them.

FlexGen's block schedule (Sheng et al., ICML 2023) and CGOPipe (MoE-Lightning, ASPLOS 2025): weights and experts of a
layer come once, then every micro-batch passes it, then the next layer. The attention of a micro-batch on the host runs
beside what the device does for others. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offload.host_side import HostSide
from offload.ops import Work
from offload.work_rows import Works
from traces.model.architecture import LayerStack
from traces.routing import Step

__all__ = ["MicroBatches", "micro_batches_of"]


class _Loop(Protocol):
    """What micro-batches need of the loop that they are part of."""

    host_side: HostSide
    works: Works
    n_tokens: int
    last_op: int

    def mix(self, what: Work, layer: int, on_host: bool, away: bool) -> None:
        """What mixes the tokens of a layer, where its keys and values are."""

    def compute(
        self, what: Work, layer: int, after: Sequence[int] = (), hbm_released: int = 0, expert: int = -1
    ) -> int:
        """An op of the compute stream."""

    def compute_each(self, works: Sequence[Work], layer: int, after: Sequence[int], expert: int) -> int:
        """An op of each of `works` in turn, none of which waits for the host; returns the last."""


def _tokens_of(experts: Sequence[NDArray[np.int16]], n_experts: int) -> list[list[list[int]]]:
    """By block and expert, the tokens that it serves of each micro-batch."""
    n_blocks = experts[0].shape[1]
    part = np.repeat(np.arange(len(experts)), [len(one) for one in experts])
    chosen = np.concatenate(experts)
    keys = (np.arange(n_blocks)[:, None] * n_experts + chosen) * len(experts) + part[:, None, None]
    counts = np.bincount(keys[chosen >= 0], minlength=n_blocks * n_experts * len(experts))
    found: list[list[list[int]]] = counts.reshape(n_blocks, n_experts, len(experts)).tolist()
    return found


def micro_batches_of(step: Step, n_sequences: int) -> list[Step]:
    """The micro-batches of a pass: `n_sequences` each (0: all), in the order in which sequences appear."""
    sequences, first, member = np.unique(step.sequence, return_index=True, return_inverse=True)
    if not n_sequences or len(sequences) <= n_sequences:
        return [step]
    place = np.empty(len(sequences), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(sequences))
    group = place[member.reshape(-1)] // n_sequences
    weights, parts = step.gate_weights, []
    for i in range(int(group.max()) + 1):
        mine = group == i
        part = replace(
            step, experts=step.experts[mine], sequence=step.sequence[mine], position=step.position[mine],
            gate_weights=None if weights is None else weights[mine],
        )  # fmt: skip
        parts.append(part)
    return parts


class MicroBatches:
    """One pass in micro-batches `parts`. `mixing`: of each the works that mix its tokens, by layer. `experts`: of each
    the experts of its tokens, (n_tokens, n_blocks, top_k), -1 pads.
    """

    def __init__(
        self,
        loop: _Loop,
        parts: Sequence[Step],
        mixing: Sequence[Sequence[Sequence[Work]]],
        experts: Sequence[NDArray[np.int16]],
        n_experts: int,
    ) -> None:
        self._loop, self._mixing = loop, mixing
        self._n_tokens = [len(part.experts) for part in parts]
        self._tokens = _tokens_of(experts, n_experts)
        self._waits: list[list[int]] = [[] for _ in parts]  # results of the host that a micro-batch waits for
        self._to_gate: list[int] = []  # micro-batches whose gate comes right before their experts
        self.gate = -1
        """The last gate of the block."""

    def mix(self, layer: int, kv: str) -> None:
        """What mixes the tokens of a layer, of one micro-batch after the other."""
        loop, side = self._loop, self._loop.host_side
        n_all = loop.n_tokens
        for i, works in enumerate(self._mixing):
            loop.n_tokens = self._n_tokens[i]  # what is handed over is of these
            for what in works[layer]:
                loop.mix(what, layer, False, True)
                self._waits[i] += side.take_waits()
                if kv == "stream":
                    side.cache_is_read(layer, loop.last_op)
        loop.n_tokens = n_all

    def dense(self, stack: LayerStack, layer: int) -> None:
        """The FFN of a layer without experts."""
        for i, n in enumerate(self._n_tokens):
            self._loop.compute(self._loop.works.dense(stack, n), layer, self._take(i))

    def gates(self, layer: int, now: bool) -> int:
        """The gates of a block: all of them `now`, or each when its experts are due. Returns the last one so far."""
        self._to_gate = list(range(len(self._n_tokens)))
        self.gate = -1
        if now:
            for i in range(len(self._n_tokens)):
                self._gate(i, layer)
        return self.gate

    def fused(
        self, block: int, experts: Sequence[int], with_shared: bool, layer: int, after: Sequence[int], freed: int
    ) -> int:
        """`experts` of a block as one op a micro-batch, shared experts in it; returns the last."""
        works, of_block = self._loop.works, self._tokens[block]
        by_part = zip(*(of_block[one] for one in experts), strict=True) if experts else [()] * len(self._n_tokens)
        made = []
        for n_tokens, counts in zip(self._n_tokens, by_part, strict=True):
            tokens, n_shared = tuple(n for n in counts if n), n_tokens if with_shared else 0
            made.append(works.grouped(n_shared, tokens) if tokens or n_shared else None)
        return self._issue(made, layer, after, freed, -1)

    def shared(self, block: int, layer: int) -> None:
        """Shared experts alone."""
        self._issue([self._loop.works.shared(n) for n in self._n_tokens], layer, (), 0, -1)

    def single(
        self, block: int, expert: int, what: Callable[[int], Work], layer: int, after: Sequence[int], freed: int
    ) -> int:
        """One expert as an op a micro-batch that asks for it; `what` of so many tokens."""
        counts = self._tokens[block][expert]
        made = {n: what(n) if n else None for n in set(counts)}
        return self._issue([made[n] for n in counts], layer, after, freed, expert)

    def _issue(self, made: Sequence[Work | None], layer: int, after: Sequence[int], freed: int, expert: int) -> int:
        """An op of each micro-batch that has a work; the last of them frees."""
        loop, begin, op = self._loop, 0, -1
        if not any(made):
            made = [*made[:-1], loop.works.grouped(0, ())]  # nothing to compute, and what to wait for
        last = max(i for i, what in enumerate(made) if what is not None)
        for i, what in enumerate(made):  # up to where gates and the host's results wait for none of them
            if not self._to_gate and not loop.host_side.waits:
                begin = i
                break
            if i in self._to_gate:
                self._gate(i, layer)
            if what is not None:
                op = loop.compute(what, layer, after, freed if i == last else 0, expert)
            begin = i + 1
        rest = [what for what in made[begin:last] if what is not None]
        if rest:
            op = loop.compute_each(rest, layer, after, expert)
        if last >= begin and (what := made[last]) is not None:
            op = loop.compute(what, layer, after, freed, expert)
        return op

    def _gate(self, i: int, layer: int) -> None:
        self._to_gate.remove(i)
        self.gate = self._loop.compute(self._loop.works.gate(self._n_tokens[i]), layer, self._take(i))

    def _take(self, i: int) -> list[int]:
        """What the next op of a micro-batch waits for, which then is no more."""
        waits, self._waits[i] = self._waits[i], []
        return waits
