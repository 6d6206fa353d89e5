"""Several cards that share every layer: what each has computed of it is added up over all of them.

Cards that do the same work at the same time are one here: the schedule is that of one card, which has its share of
each layer (`traces.model.tensor_parallel`). Nothing here may know time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from offload.cards.inserted_ops import InsertedOps, n_tokens_of, row_of
from offload.ops import Lane, OpKind, Work
from offload.recorder import Part
from offload.work import activation_row_bytes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

_Ints = NDArray[np.int64]

OF_ONE_CARD = (
    "what the host computes of a layer is handed over by one card, and several share it here: leave out experts=cpu, "
    "layers=cpu and kv=cpu, take weights to the cards (experts=zerocopy, weights=stream), or fetch what is missing "
    "(on_demand, pregate)"
)
"""Why nothing of a layer that several cards share is computed by the host, and the way out."""

_MIXING = (OpKind.SELF_ATTENTION, OpKind.CROSS_ATTENTION)
_FFN = (OpKind.GATE, OpKind.EXPERTS, OpKind.DENSE_FFN)


class AllReduces:
    """A schedule of a card's share of `model`, with the sums over `n_cards` put in, part by part.

    They are ops of the compute stream: one of the embeddings as a pass begins, one after what mixes the tokens of a
    layer, one after its FFN; the logits are put together behind the head (vLLM: model_executor/layers/linear.py,
    RowParallelLinear; layers/vocab_parallel_embedding.py; layers/logits_processor.py). Where the first card
    `hands_over`, what the host computes of experts is whole, and comes back to that card before the sum.
    """

    def __init__(self, model: ModelArchitecture, n_cards: int, hands_over: bool = False) -> None:
        self._model, self._n_cards, self._hands_over = model, n_cards, hands_over
        self._inserted = InsertedOps()

    def parts(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts of a card's schedule, each of whole passes, with the sums in them.

        Raises `InvalidInput` where the host computes what no card hands over: each would have it to itself.
        """
        handed = (OpKind.CPU_EXPERT,) if self._hands_over else ()
        for part in parts:
            if np.any((part.columns["lane"] == Lane.CPU) & ~np.isin(part.columns["kind"], handed)):
                raise InvalidInput(OF_ONE_CARD)
            yield self._summed(part) if len(part) else self._inserted.as_it_is(part)

    def _summed(self, part: Part) -> Part:
        columns, works = part.columns, tuple(_whole(work, self._n_cards) for work in part.works)
        heads = np.flatnonzero(columns["kind"] == OpKind.HEAD)
        (behind, of_layers), begins = _sums(part)
        returns = np.flatnonzero(columns["kind"] == OpKind.RETURN)
        back = np.searchsorted(of_layers, returns) - 1  # the sums that these come before
        np.maximum.at(behind, back, returns + 1)
        before, of = np.concatenate([behind, heads + 1, begins]), np.concatenate([of_layers, heads, begins])
        rows = {}
        for row, is_head in {*zip(columns["cost"][of].tolist(), np.isin(of, heads).tolist(), strict=True)}:
            made = _all_gather_work if is_head else _all_reduce_work
            rows[row], works = row_of(made(self._model, n_tokens_of(part.works[row]), self._n_cards), works)
        order = np.argsort(before, kind="stable")
        before, of = before[order], of[order]
        now, at = self._inserted.place(part, before)
        cost = np.array([rows[row] for row in columns["cost"][of].tolist()], np.int64)
        one = {
            "lane": Lane.COMPUTE, "kind": OpKind.ALL_REDUCE, "cost": cost, "expert": -1, "slot": -1,
            "step": columns["step"][of], "layer": columns["layer"][of],
            "bytes": np.array([work.copy_bytes for work in works], np.int64)[cost],
        }  # fmt: skip
        is_gather = np.isin(of, heads)
        instead = dict(zip(of[is_gather].tolist(), at[is_gather].tolist(), strict=True))
        waits = at[np.argsort(order)[back]], now[returns]
        return self._inserted.part(part, works, one, (waits,), instead=instead)


def _sums(part: Part) -> tuple[tuple[_Ints, _Ints], _Ints]:
    """Before which ops of a part activations of a layer are added up, and for each an op over as many tokens; and the
    first op of each pass.
    """
    ops = np.flatnonzero(part.columns["lane"] == Lane.COMPUTE)
    kind, layer = part.columns["kind"][ops], part.columns["layer"][ops].astype(np.int64)
    of_ffn = np.isin(kind, _FFN)
    told = of_ffn | np.isin(kind, _MIXING)  # what waits for reads of host memory is of what came before it
    of_ffn = of_ffn[np.maximum.accumulate(np.where(told, np.arange(len(ops)), 0))]
    new = np.append(True, (np.diff(layer) != 0) | (of_ffn[:-1] & ~of_ffn[1:]))  # what is computed of a layer
    half = np.flatnonzero(new | np.append(True, of_ffn[1:] != of_ffn[:-1]))  # of its mixing, or of its FFN
    of_layer = layer[half] >= 0
    ends = np.append(half[1:], len(ops)) - 1
    begins = half[of_layer & np.append(True, _begins(layer[half], of_ffn[half]))]
    return (ops[ends[of_layer]] + 1, ops[half[of_layer]]), ops[begins]


def _begins(layer: _Ints, of_ffn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the halves of layers after the first, (n - 1,), which begin a pass: its first layer, after a later one."""
    after_head = layer[:-1] < 0
    again = (layer[1:] == layer[:-1]) & of_ffn[:-1] & ~of_ffn[1:]
    found: NDArray[np.bool_] = after_head | (layer[1:] < layer[:-1]) | again
    return found


def _whole(work: Work, n_cards: int) -> Work:
    """An expert of the host with the hidden units of all cards in place of one card's; any other work as it is."""
    if work.kind is not OpKind.CPU_EXPERT:
        return work
    up, down = work.gemms
    return work._replace(gemms=(up._replace(n=up.n * n_cards), down._replace(k=down.k * n_cards)))


def _all_reduce_work(model: ModelArchitecture, n_tokens: int, n_cards: int) -> Work:
    """The activations of `n_tokens`, added up over cards; `copy_bytes`: of what each of them has."""
    return Work(OpKind.ALL_REDUCE, copy_bytes=activation_row_bytes(model) * n_tokens, n_entries=n_cards)


def _all_gather_work(model: ModelArchitecture, n_tokens: int, n_cards: int) -> Work:
    """Logits of `n_tokens`, of whose vocabulary each card has a part (`model`), put together: the second half of a sum
    over cards, by its bytes.
    """
    logits_bytes = n_tokens * model.vocab_size * n_cards * model.stored_activation_dtype.bytes_per_param
    return Work(OpKind.ALL_REDUCE, copy_bytes=math.ceil(logits_bytes / 2), n_entries=n_cards)
