"""Copies of attention on groups of cards, each with sequences of its own, which share the experts (data parallelism).

All copies do the same at the same time where their sequences are alike; that with the most is the one that is written.
Before the experts of a layer the activations of all are put together, after them each gets back the sums of its own
(vLLM: distributed/device_communicators/all2all.py, all-gather and reduce-scatter). Nothing here may know time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offload.cards.inserted_ops import InsertedOps, row_of
from offload.ops import OpKind, Work
from offload.recorder import Part
from offload.work import activation_row_bytes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import Step

_Ints = NDArray[np.int64]


def sequences_of_copies(step: Step, n_copies: int) -> list[Step]:
    """A step as each of `n_copies` has it, the first with the most: sequence after sequence, one for each in turn.

    Copies without any are left out. Raises `InvalidInput` where sequences differ in their tokens or contexts: then it
    is not known which copy the others wait for.
    """
    if n_copies == 1:
        return [step]
    sequences, of, counts = np.unique(step.sequence, return_inverse=True, return_counts=True)
    longest = np.zeros(len(sequences), np.int64)
    np.maximum.at(longest, of, step.position)
    if len({*zip(counts.tolist(), longest.tolist(), strict=True)}) > 1:
        raise InvalidInput(
            f"copies={n_copies}: step {step.i_step} has sequences of several lengths, so that copies of attention are "
            f"not alike: take sequences as long as each other"
        )
    weights, rejected, found = step.gate_weights, step.rejected, list[Step]()
    for copy in range(min(n_copies, len(sequences))):
        mine = of.ravel() % n_copies == copy
        found.append(
            replace(
                step,
                experts=step.experts[mine],
                sequence=step.sequence[mine],
                position=step.position[mine],
                gate_weights=None if weights is None else weights[mine],
                rejected=None if rejected is None else rejected[mine],
                unfinished=None if step.unfinished is None else step.unfinished[mine],
            )
        )
    return found


class Exchanges:
    """A schedule of one copy, part by part, with what is exchanged around the experts of each layer: ops of its compute
    stream, as long as half a sum over the copies by their bytes. `n_tokens` of all copies in each pass, in order.
    """

    def __init__(self, model: ModelArchitecture, n_copies: int, n_tokens: deque[int]) -> None:
        self._n_blocks, self._n_copies, self._n_tokens = len(model.decoder.moe_layers), n_copies, n_tokens
        self._row_bytes = activation_row_bytes(model)
        self._logits_bytes = math.ceil(model.n_experts * model.stored_activation_dtype.bytes_per_param)
        self._inserted = InsertedOps()

    def parts(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts, each of whole passes, with two exchanges a layer with experts."""
        for part in parts:
            yield self._exchanged(part, np.flatnonzero(part.columns["kind"] == OpKind.EXPERTS))

    def _exchanged(self, part: Part, ops: _Ints) -> Part:
        works, costs = part.works, list[int]()
        for _ in range(len(ops) // self._n_blocks):
            n_tokens = self._n_tokens.popleft()
            gathered, works = row_of(self._half_a_sum(n_tokens * (self._row_bytes + self._logits_bytes)), works)
            scattered, works = row_of(self._half_a_sum(n_tokens * self._row_bytes), works)
            costs += [gathered, scattered] * self._n_blocks
        of = np.repeat(ops, 2)
        self._inserted.place(part, of + np.tile([0, 1], len(ops)))
        cost = np.array(costs, np.int64)
        one = {
            "lane": part.columns["lane"][of], "kind": OpKind.ALL_REDUCE, "cost": cost, "expert": -1, "slot": -1,
            "step": part.columns["step"][of], "layer": part.columns["layer"][of],
            "bytes": np.array([work.copy_bytes for work in works], np.int64)[cost],
        }  # fmt: skip
        return self._inserted.part(part, works, one, ())

    def _half_a_sum(self, n_bytes: int) -> Work:
        return Work(OpKind.ALL_REDUCE, copy_bytes=math.ceil(n_bytes / 2), n_entries=self._n_copies)
