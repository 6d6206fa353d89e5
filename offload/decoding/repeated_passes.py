"""Passes of one token that decide nothing: written once, and again with another context and other experts.

Where all has a home, the ops of such a pass are those of the one before, counted on, but for what mixes the token with
its growing context, and which experts it chose. Which ops those are, nobody states: two passes are written by the loop
and compared, and only where everything that differs is explained, later ones are copied. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.decoding.work_rows import Works
from offload.execution import Execution
from offload.ops import Work
from offload.placing.host_side import HostSide, State
from offload.policy import Policy
from offload.recorder import EXPERT, LAYER, ROW, STEP, OpBlock, Recorder
from offload.slots.host_tier import HostTier
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

__all__ = ["RepeatedPasses", "may_repeat"]

_TRIES = 8
"""Passes that are compared, one after the other, until one repeats: no more are kept."""

Mixing = Sequence[Sequence[Work]]
"""What mixes the tokens of a pass, by layer."""

Place = tuple[int, int, int]
"""A layer, one of its mixers, and one of the works that may stand for that."""


class _Loop(Protocol):
    """What is needed of the loop whose passes these are."""

    model: ModelArchitecture
    recorder: Recorder
    host_side: HostSide
    host_tier: HostTier | None
    works: Works
    lookups: dict[Phase, list[int]]
    last_op: int

    @property
    def mixing(self) -> Mixing:
        """What mixes the tokens of the pass that was written last."""

    def run(self, step: Step, n_heads: int) -> None:
        """Write a pass."""

    def pass_by(self, step: Step) -> Mixing:
        """A decode pass that somebody else writes: what mixes its tokens."""

    def split(self, what: Work) -> tuple[Work, Work]:
        """An attention as what the device and what the host computes of it."""


class _Left(NamedTuple):
    """What a pass leaves behind, ops counted from its first; `n_lookups` and `n_hits` in it."""

    state: State
    last_op: int | None
    n_lookups: int
    n_hits: int


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """A pass: its `block` with dependencies counted from its first op, the work of each op, by layer and mixer the
    `candidates` that may stand for that, and what the pass left behind. `places`: of each op the place of its expert
    among all that the token chose, -1 none.
    """

    block: OpBlock
    works: list[Work]
    candidates: list[list[list[Work]]]
    places: NDArray[np.int64]
    left: _Left


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """What copies are made of: `one` of the passes, its `distinct` works, of each op the number of its work among these
    and those that vary, which stand in `varying` behind them.
    """

    one: _Written
    distinct: list[Work]
    numbers: NDArray[np.int64]
    varying: list[Place]


def may_repeat(loop: _Loop, policy: Policy, execution: Execution) -> bool:
    """Whether nothing is decided in the decode passes of a run, and nobody executes them as they are written."""
    plain = policy.resident and policy.speculation is None and policy.predictor is None and policy.start is None
    written = not loop.recorder.is_live and loop.host_tier is None and not execution.micro_sequences
    return plain and written and not loop.model.is_encoder_decoder


class RepeatedPasses:
    """The passes of one run."""

    def __init__(self, loop: _Loop) -> None:
        self._loop, self._n_tries = loop, _TRIES
        self._before: dict[Hashable, _Written | None] = {}
        self._forms: dict[Hashable, _Form] = {}
        kept = loop.host_side.placed.kept
        self._at_home = np.zeros((len(kept), loop.model.n_experts), np.bool_)
        for layer, experts in enumerate(kept):
            self._at_home[layer, sorted(experts or ())] = True
        self._block_of = np.full(loop.model.decoder.n_layers, -1)
        self._block_of[list(loop.model.decoder.moe_layers)] = np.arange(len(kept))

    def run(self, step: Step, n_heads: int) -> None:
        """A pass, copied where it repeats others."""
        loop = self._loop
        if not self._n_tries or step.phase != Phase.DECODE or len(step.experts) != 1 or step.experts.min() < 0:
            loop.run(step, n_heads)
            return
        experts = np.sort(step.experts[0], axis=1).astype(np.int64)
        homes = self._at_home[np.arange(len(experts))[:, None], experts].tobytes() if self._at_home.any() else b""
        key = n_heads, homes, loop.host_side.state(loop.recorder.next_op)
        form = self._forms.get(key)
        if form is not None:
            self._n_tries = _TRIES
            self._copy(form, step, experts)
            return
        self._n_tries -= 1
        written = self._write(step, n_heads, experts)
        if written is not None and (before := self._before.get(key)) is not None:
            form = _form(before, written)
            if form is not None:
                self._forms[key] = form
        self._before[key] = written if key not in self._before else None
        if not self._n_tries:  # experts of every pass lie elsewhere
            self._before.clear()

    def _write(self, step: Step, n_heads: int, experts: NDArray[np.int64]) -> _Written | None:
        """A pass as the loop writes it; None where it touches ops before it."""
        loop, recorder = self._loop, self._loop.recorder
        base, marks, counts = recorder.next_op, recorder.n_marks, tuple(loop.lookups[Phase.DECODE])
        loop.run(step, n_heads)
        block, works = recorder.since(base)
        if recorder.n_marks != marks:
            return None
        block = block._replace(after=block.after - base)
        of = experts[self._block_of[block.ops[:, LAYER]]]
        found = of == block.ops[:, EXPERT, None]
        has = block.ops[:, EXPERT] >= 0
        if not found[has].any(axis=1).all():
            return None
        places = np.where(has, self._block_of[block.ops[:, LAYER]] * experts.shape[1] + found.argmax(axis=1), -1)
        n_lookups, n_hits = (now - then for now, then in zip(loop.lookups[Phase.DECODE], counts, strict=True))
        last_op = loop.last_op - base if loop.last_op >= 0 else None
        left = _Left(loop.host_side.state(base), last_op, n_lookups, n_hits)
        return _Written(block, works, self._candidates(loop.mixing), places, left)

    def _candidates(self, mixing: Mixing) -> list[list[list[Work]]]:
        """By layer and mixer the works that may stand for it, in an order that is the same in every pass."""
        loop, placed = self._loop, self._loop.host_side.placed
        known: dict[tuple[int, bool], list[Work]] = {}

        def of(what: Work, on_host: bool) -> list[Work]:
            found = known.get((id(what), on_host))
            if found is None:
                found = [loop.works.cpu_layer(what)] if on_host else [what]
                if placed.kv == "host" and not on_host:
                    found = [*loop.split(what)]
                elif placed.kv == "stream" and not on_host:
                    found.append(loop.works.stream(int(what.hbm_bytes * placed.kv_share)))
                known[id(what), on_host] = found
            return found

        return [[of(what, layer in placed.host_layers) for what in whats] for layer, whats in enumerate(mixing)]

    def _copy(self, form: _Form, step: Step, experts: NDArray[np.int64]) -> None:
        loop, recorder, one = self._loop, self._loop.recorder, form.one
        base, candidates = recorder.next_op, self._candidates(loop.pass_by(step))
        works = [*form.distinct, *(candidates[layer][mixer][i] for layer, mixer, i in form.varying)]
        ops = one.block.ops.copy()
        ops[:, STEP], ops[:, ROW] = step.i_step, np.array([recorder.row(what) for what in works])[form.numbers]
        ops[:, EXPERT] = np.append(experts.ravel(), -1)[one.places]
        recorder.append(OpBlock(ops, one.block.n_after, one.block.after + base))
        loop.host_side.resume(one.left.state, base)
        loop.last_op = -1 if one.left.last_op is None else base + one.left.last_op
        counts = loop.lookups[Phase.DECODE]
        counts[0], counts[1] = counts[0] + one.left.n_lookups, counts[1] + one.left.n_hits


def _form(before: _Written, now: _Written) -> _Form | None:
    """What two passes have in common; None where they differ in more than contexts and experts."""
    alike = before.left == now.left and np.array_equal(before.places, now.places)
    alike = alike and np.array_equal(before.block.n_after, now.block.n_after)
    alike = alike and np.array_equal(before.block.after, now.block.after)
    same = [i for i in range(before.block.ops.shape[1]) if i not in (ROW, STEP, EXPERT)]
    if not alike or not np.array_equal(before.block.ops[:, same], now.block.ops[:, same]):
        return None
    rows: dict[Work, int] = {}
    varying: dict[Place, int] = {}
    numbers = []
    for layer, then, what in zip(now.block.ops[:, LAYER].tolist(), before.works, now.works, strict=True):
        place = _place(layer, then, what, before, now) if layer >= 0 else None
        if place is not None:
            numbers.append(-1 - varying.setdefault(place, len(varying)))
        elif then == what:
            numbers.append(rows.setdefault(what, len(rows)))
        else:
            return None
    found = np.array(numbers)
    return _Form(now, list(rows), np.where(found < 0, len(rows) - 1 - found, found), list(varying))


def _place(layer: int, then: Work, what: Work, before: _Written, now: _Written) -> Place | None:
    """The mixer of a layer that an op of both passes stands for, None none."""
    pairs: Any = zip(before.candidates[layer], now.candidates[layer], strict=True)
    for mixer, (old, new) in enumerate(pairs):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            if one == then and other == what:
                return layer, mixer, i
    return None
