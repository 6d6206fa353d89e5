"""Several cards that hold whole layers each: what is computed of a layer runs on the card that holds it.

A pass goes from card to card; the passes of a prompt follow each other through all of them, as the host issues them.
Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.cards.inserted_ops import InsertedOps, n_tokens_of, row_of
from offload.lanes import card_lane
from offload.ops import Lane, OpKind, Work
from offload.recorder import Part

_Ints = NDArray[np.int64]

_WAIT = Work(OpKind.WAIT)


def card_of_layers(n_layers: int, n_cards: int) -> _Ints:
    """The card of each layer, and of the head, which counts as a layer more: (n_layers + 1,).

    As llama.cpp splits a model over equal cards (src/llama-model.cpp, load_tensors: the first share that reaches beyond
    a layer).
    """
    return np.arange(n_layers + 1) * n_cards // (n_layers + 1)


def stage_of_layers(n_layers: int, n_stages: int) -> _Ints:
    """The same as vLLM splits a model over stages of a pipeline: as many layers each, of those left over one each from
    the last but one on backwards (vllm/distributed/utils.py: get_pp_indices).
    """
    each, rest = divmod(n_layers, n_stages)
    counts = np.full(n_stages, each)
    counts[n_stages - 1 - rest : n_stages - 1] += 1
    return np.append(np.repeat(np.arange(n_stages), counts), n_stages - 1)


class _Stays(NamedTuple):
    """What passes compute on one card after the other, a row each in order: `key` (n,) of pass and card, `first` and
    `last` op, whether it is `handed_on` by a card before, and the first pass that the host has `not_seen` to its end.
    """

    key: _Ints
    first: _Ints
    last: _Ints
    handed_on: NDArray[np.bool_]
    not_seen: _Ints


class LayersOnCards:
    """A schedule whose weights all stay in HBM, part by part, on several cards in place of one: of each layer and the
    head its `card`, (n_layers + 1,), ascending.

    The first op of a pass on a card waits for its last on the card before. Each card has `n_copies` of what the host
    hands to a pass, so that before a pass begins on a card the host waits for the pass so many before it to have ended
    there (llama.cpp, ggml/src/ggml-backend.cpp: ggml_backend_sched_compute_splits). A pass that makes tokens is waited
    for anyhow. Where a card `sends` activations of so many tokens, what it sends is an op of the next, and the host
    waits once, before a pass begins at all, for the pass so many before it to have ended on the last card (vLLM,
    vllm/v1/engine/core.py: step_with_batch_queue).
    """

    def __init__(self, card: _Ints, n_copies: int, sends: Callable[[int], Work] | None = None) -> None:
        self._n_layers, self._n_cards, self._n_copies = len(card) - 1, int(card.max()) + 1, n_copies
        self._card, self._sends = card, sends
        self._lane = np.array([card_lane(card) for card in range(self._n_cards)], np.int8)
        self._inserted = InsertedOps()
        self._n_passes = self._not_seen = 0
        self._key, self._end = np.zeros(0, np.int64), np.zeros(0, np.int64)  # of passes that are not seen to their end

    def parts(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts of a schedule of one card, each of whole passes, on several."""
        for part in parts:
            yield self._spread(part) if len(part) else self._inserted.as_it_is(part, self._end)

    def _spread(self, part: Part) -> Part:
        ops = np.flatnonzero(part.columns["lane"] == Lane.COMPUTE)
        place = np.where(part.columns["kind"][ops] == OpKind.DRAFT, 0, part.columns["layer"][ops]).astype(np.int64)
        place[place < 0] = self._n_layers  # the head
        stays = self._stays(ops, place)
        lane = part.columns["lane"].copy()
        lane[ops] = self._lane[self._card[place]]
        known = np.append(self._key, stays.key)
        begun, wanted = self._held(stays, known)
        handed, given = stays.first[stays.handed_on], stays.last[np.flatnonzero(stays.handed_on) - 1]
        before = np.sort(begun if self._sends is None else np.append(begun, handed))
        at, more = self._inserted.place(part, before)
        ends = np.append(self._end, at[stays.last])
        waits = more[np.isin(before, begun)]
        is_sent = np.isin(before, handed) & (self._sends is not None)
        costs, works = self._costs(part, before, is_sent)
        one = {
            "lane": np.where(is_sent, lane[before], Lane.HOST), "kind": np.where(is_sent, OpKind.SEND, OpKind.WAIT),
            "cost": costs, "step": part.columns["step"][before], "layer": part.columns["layer"][before], "expert": -1,
            "slot": -1, "bytes": np.array([work.copy_bytes for work in works], np.int64)[costs],
        }  # fmt: skip
        received = at[handed] if self._sends is None else more[is_sent]
        edges = (received, at[given]), (waits, ends[np.searchsorted(known, wanted)])
        later = known >= max(self._n_passes - self._n_copies, self._not_seen) * self._n_cards
        self._key, self._end = known[later], ends[later]
        return self._inserted.part(part, works, one, edges, lane=lane, live=self._end)

    def _held(self, stays: _Stays, known: _Ints) -> tuple[_Ints, _Ints]:
        """Ops that begin a stay for which the host waits first, and the stays (as keys) whose end it waits for."""
        wanted = stays.key - self._n_copies * self._n_cards
        if self._sends is not None:  # a pass begins once an earlier one has ended on the last card
            wanted = np.where(stays.handed_on, -1, wanted + self._n_cards - 1)
        held = (wanted >= stays.not_seen * self._n_cards) & np.isin(wanted, known)
        return stays.first[held], wanted[held]

    def _costs(self, part: Part, before: _Ints, is_sent: NDArray[np.bool_]) -> tuple[_Ints, tuple[Work, ...]]:
        """Rows of waits and of what is sent, each before an op of the part, and the works."""
        row, works = row_of(_WAIT, part.works)
        costs, rows = np.full(len(before), row, np.int64), dict[int, int]()
        for i in np.flatnonzero(is_sent).tolist():
            assert self._sends is not None
            n_tokens = n_tokens_of(part.works[part.columns["cost"][before[i]]])
            if n_tokens not in rows:
                rows[n_tokens], works = row_of(self._sends(n_tokens), works)
            costs[i] = rows[n_tokens]
        return costs, works

    def _stays(self, ops: _Ints, place: _Ints) -> _Stays:
        """What the passes of a part compute card by card: its `ops` (n,) in layers, heads behind the last, `place`."""
        starts = np.append(True, place[1:] < place[:-1])
        passes, card = self._n_passes + np.cumsum(starts) - 1, self._card[place]
        begins = np.flatnonzero(starts | np.append(True, card[1:] != card[:-1]))
        seen = passes[place == self._n_layers] + 1
        not_seen = np.append(self._not_seen, seen)[np.searchsorted(seen, passes[begins], "right")]
        self._n_passes, self._not_seen = int(passes[-1]) + 1, int(np.append(self._not_seen, seen)[-1])
        last = ops[np.append(begins[1:], len(ops)) - 1]
        return _Stays(passes[begins] * self._n_cards + card[begins], ops[begins], last, ~starts[begins], not_seen)
