"""What was brought ahead of its gate: how much was needed, how early it came, what an oracle would have brought.

Read from a schedule with its times, whole or part by part, virtual or real. An expert is brought ahead where its copy
began its way before the gate of its layer had run; the next gate of that layer decides whether it was needed. What is
read ahead from storage into host memory alone is counted apart, by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.decoding.prompt_chunks import passes_of
from offload.execution import Execution
from offload.ops import OpKind, Work
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace


@dataclass(frozen=True, slots=True)
class Prefetches:
    """Experts brought ahead, in decode steps and prefill alike.

    `n_ahead`, `n_right`: brought ahead, and of them those that the gate then named. `n_missing`: named by a gate and
    not resident, which is what an oracle would have brought, `oracle_bytes` of them. `precision`: n_right / n_ahead;
    `recall`: n_right / n_missing. `wasted_bytes`: of what was brought and not named. `early_s`: from the end of a right
    one's copy to the end of the gate that names it, mean; below 0 where it comes after. `in_time`: share of the right
    ones that were there when their gate had run. `n_read_ahead`, `n_read_right`, `read_wasted_bytes`: the same of
    experts that were read into host memory and went no further then. Shares and means of nothing are None.
    """

    n_ahead: int
    n_right: int
    n_missing: int
    wasted_bytes: int
    oracle_bytes: int
    early_s: float | None
    in_time: float | None
    n_read_ahead: int
    n_read_right: int
    read_wasted_bytes: int

    @property
    def precision(self) -> float | None:
        """Of what was brought ahead, the share that was needed."""
        return self.n_right / self.n_ahead if self.n_ahead else None

    @property
    def recall(self) -> float | None:
        """Of what was needed and not resident, the share that was brought ahead."""
        return self.n_right / self.n_missing if self.n_missing else None

    @property
    def read_precision(self) -> float | None:
        """Of what was read ahead into host memory, the share that was needed."""
        return self.n_read_right / self.n_read_ahead if self.n_read_ahead else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"precision": self.precision, "recall": self.recall, "read_precision": self.read_precision}


@dataclass(slots=True)
class PrefetchTally:
    """Feed it the ops of a schedule in order, with their times, then read `found`.

    `named`: of every (step, layer of the model) the experts that its gate names, as `named_by` has it: of each part of
    a prompt, which begins where layers begin again. `right`: where given, the ends of each right copy and of its gate
    go there too.
    """

    named: Mapping[tuple[int, int], Sequence[frozenset[int]]]
    right: list[tuple[float, float]] | None = None
    _step: int = -1
    _layer: int = -1  # of the last gate
    _i_part: int = 0  # of the step
    _waiting: dict[int, list[tuple[int, float, int]]] = field(default_factory=dict)  # layer -> expert, end, bytes
    _begun_bytes: int = 0  # of an expert that comes matrix by matrix
    _n_ahead: int = 0
    _n_right: int = 0
    _n_in_time: int = 0
    _wasted_bytes: int = 0
    _early_s: float = 0.0
    _read: tuple[int, int, int] | None = (
        None  # layer, expert and bytes of a read ahead, until a copy takes it on or not
    )
    _read_waiting: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # layer -> expert, bytes
    _n_read_right: int = 0
    _n_read_wrong: int = 0
    _read_wasted_bytes: int = 0

    def feed(self, columns: Mapping[str, NDArray[Any]], works: tuple[Work, ...], end_s: NDArray[np.float64]) -> None:
        """The next ops; `columns` as of a schedule, `end_s` (n_ops,)."""
        kind, n_copies = columns["kind"], np.array([work.n_copies for work in works], np.int64)
        ahead = np.isin(kind, [OpKind.FETCH, OpKind.DISK_READ]) & (columns["priority"] > 0)
        of_interest = np.flatnonzero(ahead | (kind == OpKind.GATE))
        more = np.array([work.piece is not None and not work.piece.is_last for work in works], np.bool_)
        rows = zip(
            *(columns[name][of_interest].tolist() for name in ("kind", "step", "layer", "expert", "bytes")),
            n_copies[columns["cost"][of_interest]].tolist(), end_s[of_interest].tolist(),
            more[columns["cost"][of_interest]].tolist(), strict=True,
        )  # fmt: skip
        for what, step, layer, expert, n_bytes, n, end, is_begun in rows:
            self._settle_read(layer, expert if what == OpKind.FETCH else -1)
            if what == OpKind.DISK_READ:
                self._read = layer, expert, n_bytes
            elif what == OpKind.GATE:
                self._decide(step, layer, end)
            elif is_begun:
                self._begun_bytes += n_bytes
            else:
                each = (n_bytes + self._begun_bytes) // n
                self._begun_bytes = 0
                self._waiting.setdefault(layer, []).extend((expert + i, end, each) for i in range(n))

    def _settle_read(self, layer: int, expert: int) -> None:
        """A read is of the copy that follows it at once, of `expert` of `layer`; without one, of host memory alone."""
        if self._read is not None and self._read[:2] != (layer, expert):
            self._read_waiting.setdefault(self._read[0], []).append(self._read[1:])
        self._read = None

    def _decide(self, step: int, layer: int, gate_s: float) -> None:
        """The gate of a layer has run: what was brought for it was right or wrong."""
        self._i_part = 0 if step != self._step else self._i_part + (layer < self._layer)
        self._step, self._layer = step, layer
        named = self.named[step, layer][self._i_part] if (step, layer) in self.named else frozenset()
        for expert, end, n_bytes in self._waiting.pop(layer, ()):
            self._n_ahead += 1
            if expert in named:
                self._n_right += 1
                self._n_in_time += end <= gate_s
                self._early_s += gate_s - end
                if self.right is not None:
                    self.right.append((end, gate_s))
            else:
                self._wasted_bytes += n_bytes
        for expert, n_bytes in self._read_waiting.pop(layer, ()):
            self._n_read_right += expert in named
            self._n_read_wrong += expert not in named
            self._read_wasted_bytes += 0 if expert in named else n_bytes

    def found(self, n_missing: int, expert_bytes: int) -> Prefetches:
        """What was counted; `n_missing` experts of `expert_bytes` were named and not resident."""
        left = [n_bytes for waiting in self._waiting.values() for _, _, n_bytes in waiting]  # for no gate that ran
        self._settle_read(-1, -1)
        unread = [n_bytes for waiting in self._read_waiting.values() for _, n_bytes in waiting]
        n = self._n_right
        return Prefetches(
            self._n_ahead + len(left), self._n_right, n_missing, self._wasted_bytes + sum(left),
            n_missing * expert_bytes, self._early_s / n if n else None, self._n_in_time / n if n else None,
            self._n_read_right + self._n_read_wrong + len(unread), self._n_read_right,
            self._read_wasted_bytes + sum(unread),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class RightCopies:
    """What a schedule brings ahead before any clock: `found` counts, its times meaningless.

    copies, gates  (n_right,) int64: op of each copy that was needed, and of the gate that named it
    """

    found: Prefetches
    copies: NDArray[np.int64]
    gates: NDArray[np.int64]

    def times(
        self, end_s: NDArray[np.float64], at: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`early_s` and `in_time` of each machine, (n_machines,); NaN without a right copy.

        `end_s` (n_machines, n): the ends of the ops `at` (n,), ascending, which has all of them.
        """
        if not self.copies.size:
            none = np.full(len(end_s), np.nan)
            return none, none
        copied, gated = (end_s[:, np.searchsorted(at, ops)] for ops in (self.copies, self.gates))
        early_s = np.cumsum(gated - copied, axis=1)[:, -1] / self.copies.size  # one after the other, as a tally adds
        return early_s, np.count_nonzero(copied <= gated, axis=1) / self.copies.size


def right_copies(
    columns: Mapping[str, NDArray[Any]],
    works: tuple[Work, ...],
    named: Mapping[tuple[int, int], Sequence[frozenset[int]]],
    n_missing: int,
    expert_bytes: int,
) -> RightCopies:
    """The copies of a whole schedule that brought what was needed; arguments as of `PrefetchTally`."""
    tally = PrefetchTally(named, [])
    tally.feed(columns, works, np.arange(len(columns["kind"]), dtype=np.float64))
    pairs = np.array(tally.right, np.float64).reshape(-1, 2).astype(np.int64)
    return RightCopies(tally.found(n_missing, expert_bytes), pairs[:, 0], pairs[:, 1])


def named_by(
    model: ModelArchitecture, trace: RoutingTrace, execution: Execution
) -> dict[tuple[int, int], list[frozenset[int]]]:
    """By (step, layer of the stack that it runs through) the experts that a gate names, of each pass of the step."""
    n_encoder = model.n_encoder_moe_layers
    found: dict[tuple[int, int], list[frozenset[int]]] = {}
    for step in trace.steps():
        encoding = model.encoder is not None and step.phase == Phase.PREFILL
        stack = model.encoder if encoding and model.encoder is not None else model.decoder
        first = 0 if encoding else n_encoder
        for part, _ in passes_of(step, model, execution):
            for block, layer in enumerate(stack.moe_layers):
                chosen = part.experts[:, first + block]
                found.setdefault((step.i_step, layer), []).append(frozenset(chosen[chosen >= 0].tolist()))
    return found
