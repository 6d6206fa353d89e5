"""Micro-batches of one forward pass: layer by layer, what is fetched for a layer is used by all of them.

FlexGen's block schedule (Sheng et al., ICML 2023) and CGOPipe (MoE-Lightning, ASPLOS 2025): weights and experts of a
layer come once, then every micro-batch passes it, then the next layer. The attention of a micro-batch on the host runs
beside what the device does for others. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.decoding.choice_counts import choice_counts
from offload.decoding.work_rows import Works
from offload.ops import Work
from offload.placing.host_side import HostSide
from offload.policy import MissAction
from offload.recorder import Recorder
from traces.model.architecture import LayerStack
from traces.routing import Step


class _Loop(Protocol):
    """What micro-batches need of the loop that they are part of."""

    recorder: Recorder
    host_side: HostSide
    works: Works
    i_step: int

    def split(self, what: Work) -> tuple[Work, Work]:
        """An attention as what the device and what the host computes of it."""

    def compute(
        self, what: Work, layer: int, after: Sequence[int] = (), hbm_released: int = 0, expert: int = -1
    ) -> int:
        """An op of the compute stream."""


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
        part = Step(
            step.i_step, step.phase, step.experts[mine], step.sequence[mine], step.position[mine],
            None if weights is None else weights[mine], None if rejected is None else rejected[mine],
        )  # fmt: skip
        parts.append(part)
    return parts


class MicroBatches:
    """One pass in micro-batches `parts`. `mixing`: of each the works that mix its tokens, by layer. `tokens`: as of
    `tokens_of`.
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
        self._tokens: list[list[list[int]]] = tokens.tolist()
        self._waits: list[list[int]] = [[] for _ in parts]  # results of the host that its next op waits for
        self._to_gate = False  # whether the gate of each comes right before its experts
        self.gate = -1
        """The last gate of the block."""

    def mix(self, layer: int, kv: str) -> None:
        """What mixes the tokens of a layer, of one micro-batch after the other."""
        loop, side = self._loop, self._loop.host_side
        for part, works in enumerate(self._mixing):
            for what in works[layer]:
                if kv == "host":
                    own, there = loop.split(what)
                    projected = loop.compute(own, layer)
                    self._waits[part].append(side.run_hops(there, layer, projected, self._n_tokens[part]))
                elif kv == "stream":
                    copy = side.copy_cache(int(what.hbm_bytes * side.placed.kv_share), layer)
                    side.has_read_cache(loop.compute(what, layer, (copy,)))
                else:
                    loop.compute(what, layer)

    def dense(self, stack: LayerStack, layer: int) -> None:
        """The FFN of a layer without experts."""
        for part, n_tokens in enumerate(self._n_tokens):
            self._after_waits(part, self._loop.works.dense(stack, n_tokens), layer)

    def gates(self, layer: int, now: bool) -> int:
        """The gates of a block: all of them `now`, or each when its experts are due. Returns the last one so far."""
        self._to_gate, self.gate = not now, -1
        if now:
            for part in range(len(self._n_tokens)):
                self._gate(part, layer)
        return self.gate

    def _gate(self, part: int, layer: int) -> None:
        self.gate = self._after_waits(part, self._loop.works.gate(self._n_tokens[part]), layer)

    def fused(
        self, block: int, experts: Sequence[int], with_shared: bool, layer: int, after: Sequence[int], freed: int
    ) -> int:
        """`experts` of a block as one op a micro-batch, shared experts in it; returns the last."""
        works, chosen = self._loop.works, [self._tokens[block][expert] for expert in experts]
        made: list[Work | None] = []
        for part, n_tokens in enumerate(self._n_tokens):
            n_shared = n_tokens if with_shared else 0
            served = tuple(sorted(of[part] for of in chosen if of[part]))  # whichever of them serves how many
            made.append(works.grouped(n_shared, served) if served or n_shared else None)
        return self._issue(made, layer, after, freed, -1)

    def shared(self, layer: int) -> None:
        """Shared experts alone."""
        self._issue([self._loop.works.shared(n_tokens) for n_tokens in self._n_tokens], layer, (), 0, -1)

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
        made = [what(n_tokens, how) if n_tokens else None for n_tokens in self._tokens[block][expert]]
        return self._issue(made, layer, after, freed, expert)

    def _issue(self, made: list[Work | None], layer: int, after: Sequence[int], freed: int, expert: int) -> int:
        """An op of each micro-batch that has one, its gate before it where that is due; the last frees.

        Returns the last.
        """
        loop, op = self._loop, -1
        if all(what is None for what in made):  # nothing to compute, and what to wait for
            made = [*made[:-1], loop.works.grouped(0, ())]
        last = max(part for part, what in enumerate(made) if what is not None)
        for part, what in enumerate(made):
            if self._to_gate:
                self._gate(part, layer)
            if what is not None:
                op = loop.compute(what, layer, after, freed if part == last else 0, expert)
        self._to_gate = False
        return op

    def _after_waits(self, part: int, what: Work, layer: int) -> int:
        """An op of a micro-batch, after what the host has computed for it."""
        waits, self._waits[part] = self._waits[part], []
        return self._loop.compute(what, layer, waits)
