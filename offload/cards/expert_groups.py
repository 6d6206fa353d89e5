"""Whole experts on cards that share the rest of every layer (expert parallelism): each computes those that it holds.

Every card has all tokens, as attention is shared by heads, and what each has of the experts is added up over all cards
(vLLM without `-dp`: model_executor/layers/fused_moe/layer.py; SGLang without an all-to-all backend alike). So the sum
waits for the card that takes longest. Nothing here may know time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from offload.cards.copied_attention import sequences_of_copies
from offload.cards.evened_experts import served_by_held
from offload.cards.inserted_ops import InsertedOps
from offload.decoding.choice_counts import choice_counts
from offload.decoding.prompt_chunks import passes_of
from offload.execution import Execution
from offload.ffn_work import experts_work
from offload.lanes import card_lane
from offload.ops import MOST_CARDS, OpKind, Work
from offload.recorder import Part
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.layer_models import models_by_layer
from traces.routing import Step

_Ints = NDArray[np.int64]

_MOST = 1 << 62
"""What numbers of 64 bits hold."""


def experts_of_groups(n_experts: int, n_groups: int) -> _Ints:
    """Where the experts of each group begin, and all end, (n_groups + 1,): in order, as many each, the first one more
    where they are no multiple (vLLM: determine_expert_map, `linear`).
    """
    each, rest = divmod(n_experts, n_groups)
    return np.append(0, np.cumsum(np.full(n_groups, each) + (np.arange(n_groups) < rest)))


def most_experts(n_experts: int, n_groups: int) -> int:
    """Experts of a layer that a group holds at most."""
    return -(-n_experts // n_groups)


class ExpertsOnCards:
    """A schedule of cards that share every layer, part by part, with experts of each group of cards in place of all.

    Those of the first group stay on their lane; one op for each other group is on a lane of its own, beside it: issued
    by the host of that card (`Work.n_copies` 0), it starts when the first may, and the next op of the first waits for
    all. `seen` has to be asked for the steps that the schedule is of. Raises `InvalidInput` for more groups than lanes,
    or than experts. `n_turns`: lanes that layers are on in turn, of which each has groups of its own. `n_copies` of
    attention have sequences of their own, and experts serve those of all; `n_tokens` of all in each pass that was seen.
    `held`: by MoE layer the experts of the groups, as of `Placed`.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        execution: Execution,
        n_groups: int,
        n_turns: int,
        n_copies: int,
        held: Sequence[Sequence[int]] = (),
    ) -> None:
        self._model, self._execution, self._n, self._n_turns = model, execution, n_groups, n_turns
        models = models_by_layer(model)
        self._models = list({id(one): one for one in models}.values())
        places = {id(one): i for i, one in enumerate(self._models)}
        self._form_of = np.array([places[id(one)] for one in models])  # by layer, which of the models it is stored as
        if n_groups > model.n_experts or n_groups * n_turns > MOST_CARDS:
            raise InvalidInput(
                f"experts=whole: {model.n_experts} experts of {n_turns} turns on {n_groups} groups of cards: at most "
                f"{MOST_CARDS} groups in all turns, each with an expert of every layer"
            )
        self._held = np.array(held, np.int64)
        self._bounds = experts_of_groups(self._held.shape[1] if len(self._held) else model.n_experts, self._n)
        self._n_copies = n_copies
        self._passes = deque[tuple[NDArray[np.int16], int]]()
        self.n_tokens = deque[int]()
        self._inserted = InsertedOps()

    def seen(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps of the first copy, of which the passes are kept until their ops come by, with tokens of all."""
        for step in steps:
            copies = sequences_of_copies(step, self._n_copies)
            passes = [[one.experts for one, _ in passes_of(own, self._model, self._execution)] for own in copies]
            for at_once in zip_longest(*passes, fillvalue=step.experts[:0]):
                experts = at_once[0] if len(at_once) == 1 else np.concatenate(at_once)
                self._passes.append((experts, len(at_once[0])))
                if self._n_copies > 1:
                    self.n_tokens.append(len(experts))
            yield copies[0]

    def parts(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts, each of whole passes, with an op of experts for each group."""
        for part in parts:
            ops = np.flatnonzero(part.columns["kind"] == OpKind.EXPERTS)
            yield self._grouped(part, ops) if len(ops) else self._inserted.as_it_is(part)

    def _grouped(self, part: Part, ops: _Ints) -> Part:
        costs, works = self._works(part, ops)
        columns = {**part.columns, "cost": part.columns["cost"].copy()}
        columns["cost"][ops] = costs[:, 0]
        part, costs = _of_used(replace(part, columns=columns, works=works), costs[:, 1:])
        n = self._n - 1
        before = np.repeat(ops + 1, n)
        at, more = self._inserted.place(part, before)
        turn_of = {card_lane(turn): turn for turn in range(self._n_turns)}
        turns = np.array([turn_of[lane] for lane in part.columns["lane"][ops].tolist()])
        lane_of = np.array([card_lane(card) for card in range(self._n_turns, self._n_turns * self._n)], np.int8)
        one = {
            "lane": lane_of.reshape(self._n_turns, n)[turns].ravel(), "kind": OpKind.EXPERTS, "cost": costs,
            "step": np.repeat(part.columns["step"][ops], n), "layer": np.repeat(part.columns["layer"][ops], n),
            "expert": -1, "slot": -1,
        }  # fmt: skip
        earlier, later = _beside(part.columns["lane"], ops)
        edges = (more, np.repeat(at[earlier], n)), (np.repeat(at[later], n), more)
        return self._inserted.part(part, part.works, one, edges)

    def _works(self, part: Part, ops: _Ints) -> tuple[_Ints, tuple[Work, ...]]:
        """What each group computes in place of each of `ops`, (n_ops, n_groups) rows of the works, and these."""
        n_blocks, works = len(self._model.decoder.moe_layers), list(part.works)
        passes, own_tokens = zip(*(self._passes.popleft() for _ in range(len(ops) // n_blocks)), strict=True)
        begins = np.cumsum([0, *map(len, passes)])
        counts = choice_counts(np.concatenate(passes), self._model.n_experts, begins).reshape(len(ops), -1)
        cost, form = part.columns["cost"][ops].astype(np.int64), self._form_of[part.columns["layer"][ops]]
        # as `experts_work` has them, of the experts of all groups: a kernel is chosen by the tokens of the pass
        n_tokens = np.maximum(-(-counts.sum(axis=1) // self._model.top_k), counts.max(axis=1))
        about = np.column_stack([cost, form, n_tokens, np.repeat(own_tokens, n_blocks)])
        if len(self._held):
            counts = served_by_held(counts, np.tile(self._held, (len(ops) // n_blocks, 1)))
        rows = np.empty((len(ops), self._n), np.int64)
        for group in range(self._n):
            own = np.sort(counts[:, self._bounds[group] : self._bounds[group + 1]], axis=1)
            asked = np.hstack([about, own])
            first, of = _alike(asked)
            rows[:, group] = of + len(works)
            for row, i, *tokens in asked[first].tolist():
                works.append(self._work(self._models[i], part.works[row], tokens, group))
        return rows, tuple(works)

    def _work(self, model: ModelArchitecture, whole: Work, tokens: Sequence[int], group: int) -> Work:
        """Of the op `whole` the experts of one group, and shared ones. `tokens` of all copies and of this one, and
        those that each expert serves, 0 where it serves none.
        """
        n_tokens, n_own, *served = tokens
        own = experts_work(model, [n for n in served if n], n_own, whole.slots_bytes, fused=True)
        fused = own.fused and own.fused._replace(n_tokens=n_tokens)
        return own._replace(fused=fused, n_copies=0 if group else 1)


def _alike(rows: _Ints) -> tuple[_Ints, _Ints]:
    """The first of each of the different `rows` (n, k), of 0 and above, and of each row which of these it is, (n,):
    columns are folded into one number a row, which sorts faster than rows do.
    """
    key, size = np.zeros(len(rows), np.int64), 1
    for column in rows.T:
        top = int(column.max(initial=0)) + 1
        if size * top > _MOST:
            _, key = np.unique(key, return_inverse=True)
            size = int(key.max(initial=0)) + 1
        key, size = key * top + column, size * top
    _, first, of = np.unique(key, return_index=True, return_inverse=True)
    return first, of.ravel()


def _of_used(part: Part, more: _Ints) -> tuple[Part, _Ints]:
    """`part` and the rows of `more` ops, these in one row of numbers, with no works but theirs."""
    cost = part.columns["cost"]
    used, row = np.unique(np.concatenate([cost.astype(np.int64), more.ravel()]), return_inverse=True)
    columns = {**part.columns, "cost": row[: len(cost)].astype(cost.dtype)}
    works = tuple(part.works[i] for i in used.tolist())
    return replace(part, columns=columns, works=works), row[len(cost) :]


def _beside(lane: NDArray[np.int8], ops: _Ints) -> tuple[_Ints, _Ints]:
    """Of each of `ops` the op before it on its lane, and that after it."""
    earlier, later = np.empty_like(ops), np.empty_like(ops)
    for one in np.unique(lane[ops]).tolist():
        mine, queue = lane[ops] == one, np.flatnonzero(lane == one)
        at = np.searchsorted(queue, ops[mine])
        earlier[mine], later[mine] = queue[at - 1], queue[at + 1]
    return earlier, later
