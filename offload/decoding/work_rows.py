"""The works of a model made once each, and numbers for those that a part of a schedule may have."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload import ffn_work, work
from offload.ops import OpKind, Work
from offload.policy_parts.granularity import matrix_works
from offload.slots.copy_runs import run_work
from traces.foundation.memoised_values import ByIdentity
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.model.layer_models import models_by_layer, models_by_moe_layer

_Ints = NDArray[np.int64]

_FLOP = Work._fields.index("flop")
"""The first of two fields that a context is in; bytes of HBM follow."""

_MOST_WORKS = 1 << 16
"""Works of one model that are kept for the next schedule."""


def works_of(model: ModelArchitecture, slots_bytes: int) -> Works:
    """The works of a model that is asked of again and again, in one placement after the other: kept from schedule to
    schedule, up to `_MOST_WORKS`.
    """
    found = _latest(ByIdentity(model), slots_bytes)
    if found.n_made > _MOST_WORKS:
        _latest.cache_clear()
        found = _latest(ByIdentity(model), slots_bytes)
    return found


@lru_cache(4)
def _latest(model: ByIdentity, slots_bytes: int) -> Works:
    return Works(model.one, slots_bytes)


class Works:
    """The works of a model by what they depend on, each made once. `slots_bytes`: of all slots of experts.

    Of a model whose layers are not all stored alike they are those of its layers' mean, and `at` has those of a layer.
    """

    def __init__(self, model: ModelArchitecture, slots_bytes: int) -> None:
        self._model, self._slots_bytes = model, slots_bytes
        models = models_by_layer(model)
        distinct = {id(one): one for one in models}
        self._each = tuple(None if one is model else Works(one, slots_bytes) for one in distinct.values())
        self.form_of = tuple(list(distinct).index(id(one)) for one in models)
        """By layer of the decoder, which of `each` it has; by MoE layer, those of an encoder first."""
        self.moe_form_of = (0,) * model.n_encoder_moe_layers + tuple(self.form_of[i] for i in model.decoder.moe_layers)
        self._moe_models = models_by_moe_layer(model)
        self._made: dict[Hashable, Work] = {}
        self._pieces: dict[Work, tuple[Work, ...]] = {}
        self._rates: dict[int, work.ContextRates] = {}
        self._grouped = ffn_work.GroupedExperts(model, slots_bytes)

    @property
    def each(self) -> tuple[Works, ...]:
        """Those of layers that are stored alike, each once. Nothing here holds itself, so that works which nobody asks
        for any more are given back at once.
        """
        return tuple(self if one is None else one for one in self._each)

    @property
    def n_made(self) -> int:
        """Works so far."""
        return len(self._made) + sum(one.n_made for one in self._each if one is not None)

    @property
    def model(self) -> ModelArchitecture:
        """What they are works of."""
        return self._model

    def at(self, layer: int) -> Works:
        """Those of a layer; of all of an encoder, whose layers are alike, these."""
        return self if len(self._each) == 1 else self._each[self.form_of[layer]] or self

    def _once(self, key: Hashable, make: Callable[[], Work]) -> Work:
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def self_attention(
        self,
        stack: LayerStack,
        n_tokens: int,
        kv_tokens: int,
        pairs: int,
        n_sequences: int = 1,
        made_moves: float = 0.0,
    ) -> Work:
        """Only its GEMMs are kept: in a long sequence every step has a context of its own."""
        if made_moves and work.decompresses(stack.attention):  # one of its GEMMs is over the context
            return self._once(
                ("made", id(stack), n_tokens, kv_tokens, pairs, n_sequences, made_moves),
                lambda: work.self_attention_work(
                    self._model, stack, n_tokens, kv_tokens, pairs, n_sequences=n_sequences, made_moves=made_moves
                ),
            )
        alike = self._once(
            ("self", id(stack), n_tokens, n_sequences),
            lambda: work.self_attention_work(self._model, stack, n_tokens, 0, 0, n_sequences=n_sequences),
        )
        return self._of_context(alike, stack, kv_tokens, pairs)

    def self_attentions(self, stack: LayerStack, keys: Sequence[tuple[int, int, int, int, bool]]) -> list[Work]:
        """`self_attention` of each of `keys`: its arguments in order. Of many that are alike but for a context."""
        found: list[Work] = []
        alike: tuple[int, int] | None = None
        for n_tokens, kv_tokens, pairs, n_sequences, decompressed in keys:
            if decompressed or alike != (n_tokens, n_sequences):
                found.append(self.self_attention(stack, n_tokens, kv_tokens, pairs, n_sequences, decompressed))
                alike = None if decompressed else (n_tokens, n_sequences)
            else:
                found.append(self._of_context(found[-1], stack, kv_tokens, pairs))
        return found

    def cross_attention(self, stack: LayerStack, n_tokens: int, memory: int, fresh: int, n_sequences: int = 1) -> Work:
        """The same: `memory` encoder outputs read, `fresh` of them projected now."""
        alike = self._once(
            ("cross", id(stack), n_tokens, fresh, n_sequences),
            lambda: work.cross_attention_work(self._model, stack, n_tokens, 0, fresh, n_sequences=n_sequences),
        )
        return self._of_context(alike, stack, memory, memory)

    def _of_context(self, alike: Work, stack: LayerStack, kv_tokens: int, pairs: int) -> Work:
        """`alike` over a context: what it reads of the KV cache and the arithmetic of its scores."""
        rates = self._rates.get(id(stack))
        if rates is None:
            rates = self._rates[id(stack)] = work.attention_rates(self._model, stack.attention)
        context = pairs * rates.flop_per_pair, rates.moved_bytes(kv_tokens)
        return tuple.__new__(Work, (*alike[:_FLOP], *context, *alike[_FLOP + 2 :]))  # a third of what `_replace` takes

    def gate(self, n_tokens: int) -> Work:
        """The gate over `n_tokens`."""
        return self._once(("gate", n_tokens), lambda: work.gate_work(self._model, n_tokens))

    def readback(self, n_tokens: int) -> Work:
        """The ids that `n_tokens` have selected."""
        return self._once(("ids", n_tokens), lambda: work.readback_work(n_tokens * self._model.top_k))

    def sort(self, n_tokens: int) -> Work:
        """The rows of `n_tokens` sorted by expert on the host."""
        return self._once(("sort", n_tokens), lambda: work.sort_work(self._model, n_tokens))

    def gather(self, n_cells: int) -> Work:
        """Cells of the KV cache listed on the host."""
        return self._once(("gather", n_cells), lambda: work.gather_work(n_cells))

    def mask(self, n_entries: int) -> Work:
        """Which keys each token of a pass may attend to, found on the host."""
        return self._once(("mask", n_entries), lambda: work.mask_work(n_entries))

    def dense(self, stack: LayerStack, n_tokens: int) -> Work:
        """The FFN of a layer without experts."""
        return self._once(("dense", stack, n_tokens), lambda: ffn_work.dense_ffn_work(self._model, stack, n_tokens))

    def head(self, n_tokens: int) -> Work:
        """The LM head over `n_tokens`."""
        return self._once(("head", n_tokens), lambda: work.head_work(self._model, n_tokens))

    def shared(self, n_tokens: int) -> Work | None:
        """Shared experts alone, None for no tokens."""
        if not n_tokens:
            return None
        return self._once(("shared", n_tokens), lambda: ffn_work.experts_work(self._model, (), n_tokens))

    def single(self, n_tokens: int) -> Work:
        """One expert alone."""
        return self._once(("single", n_tokens), lambda: self._experts((n_tokens,), 0, fused=False))

    def grouped(self, n_shared: int, tokens: tuple[int, ...]) -> Work:
        """Several experts of a block in one op, one entry of `tokens` each, and shared ones over `n_shared` tokens."""
        return self._once(("grouped", n_shared, tokens), lambda: self._experts(tokens, n_shared, fused=True))

    def grouped_runs(self, numbers: bytes) -> Work:
        """The same, of int64 `numbers`: of `n_shared`, then of runs: tokens that some experts serve each and how many
        experts these are, ascending, again and again.
        """
        found = self._made.get(numbers)
        if found is None:
            n_shared, *runs = memoryview(numbers).cast("q").tolist()
            found = self._made[numbers] = self._grouped.of(n_shared, runs[::2], runs[1::2])
        return found

    def _experts(self, tokens: tuple[int, ...], n_shared: int, *, fused: bool) -> Work:
        return ffn_work.experts_work(self._model, tokens, n_shared, self._slots_bytes, fused=fused)

    def cpu_expert(self, n_tokens: int) -> Work:
        """One expert, computed by the host."""
        return self._once(("cpu expert", n_tokens), lambda: work.cpu_expert_work(self._model, n_tokens))

    def cpu_layer(self, what: Work) -> Work:
        """An op of a layer, computed by the host."""
        return self._once(("cpu layer", what), lambda: work.cpu_layer_work(self._model, what))

    def part(self, what: Work, share: float) -> Work:
        """A share of the hidden units of one expert, computed where `what` computes all of them."""
        return self._once(("part", what, share), lambda: ffn_work.expert_part_work(self._model, what, share))

    def matrices(self, what: Work) -> tuple[Work, ...]:
        """The FFN of one expert as the products of its matrices."""
        found = self._pieces.get(what)
        if found is None:
            found = self._pieces[what] = matrix_works(what)
        return found

    def handover(self, n_tokens: int) -> Work:
        """Activations to the host."""
        return self._once(("handover", n_tokens), lambda: work.handover_work(self._model, n_tokens))

    def back(self, n_tokens: int) -> Work:
        """Activations from the host."""
        return self._once(("return", n_tokens), lambda: work.return_work(self._model, n_tokens))

    def stream_experts(self, n_experts: int) -> Work:
        """So many experts from the host that pass through HBM."""
        return self.stream(n_experts * self._model.expert_bytes)

    def stream(self, n_bytes: int) -> Work:
        """Bytes from the host that pass through HBM."""
        return self._once(("stream", n_bytes), lambda: work.stream_work(n_bytes))

    def zero_copy(self, n_bytes: int, n_in_blocks: int) -> Work:
        """Bytes that a kernel reads where they lie in host memory, once and by every block of its rows."""
        return self._once(("zero copy", n_bytes, n_in_blocks), lambda: work.zero_copy_work(n_bytes, n_in_blocks))

    def copy(self, kind: OpKind) -> Work:
        """One expert moved."""
        return self._once(("copy", kind), lambda: work.expert_copy_work(self._model, kind))

    def sized(self, what: Work, moe_layer: int) -> Work:
        """The copy `what` of experts in the format of all layers together, in that of a MoE layer.

        A copy in fewer bits than experts are stored in is as large in every layer.
        """
        whole, here = self._model, self._moe_models[moe_layer]
        if here is whole or what.weight_bits != whole.expert_dtype.bits:
            return what
        n_bytes = what.copy_bytes * here.expert_bytes // whole.expert_bytes
        bits = here.expert_dtype.bits
        return self._once(("sized", what, bits), lambda: what._replace(weight_bits=bits, copy_bytes=n_bytes))

    def run(self, kind: OpKind, n: int) -> Work:
        """A run of `n` experts moved."""
        return self._once(("run", kind, n), lambda: run_work(self.copy(kind), n))


class Rows:
    """Candidate rows of one part: a number for every work that its ops may have."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self._row: dict[Work, int] = {}
        self._made_once: list[slice] = []

    def of(self, what: Work | None) -> int:
        """The row of a work, -1 for none."""
        if what is None:
            return -1
        row = self._row.setdefault(what, len(self.works))
        if row == len(self.works):
            self.works.append(what)
        return row

    def add(self, what: Sequence[Work], *, made_once: bool) -> int:
        """Rows for works that no other row has, nor are asked for again; returns the first. `made_once`: nor does a row
        of another part have an equal of theirs that is not the very same.
        """
        first = len(self.works)
        self.works += what
        if made_once:
            self._made_once.append(slice(first, len(self.works)))
        return first

    @property
    def made_once(self) -> NDArray[np.bool_]:
        """(n_works,), which were added as such."""
        found = np.zeros(len(self.works), np.bool_)
        for some in self._made_once:
            found[some] = True
        return found

    def of_counts(self, make: Callable[[int], Work | None], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of `make(count)` by count, 0 and above, each distinct one made once."""
        rows = np.full(int(counts.max(initial=-1)) + 1, -1, np.int64)
        for count in np.flatnonzero(np.bincount(counts)).tolist():
            rows[count] = self.of(make(count))
        return rows[counts]

    def of_layers(self, make: Callable[[Works, int], Work | None], works: Works, counts: _Ints, form: _Ints) -> _Ints:
        """The same of counts each in a form of its own, of `works.each`."""
        rows = np.full(len(counts), -1, np.int64)
        for i, one in enumerate(works.each):
            here = form[: len(counts)] == i if len(works.each) > 1 else slice(None)
            rows[here] = self.of_counts(partial(make, one), counts[here])
        return rows

    def of_forms(self, make: Callable[[Works, int], Work | None], works: Works, counts: _Ints) -> _Ints:
        """The same of counts in every form of `works`, one form after the other."""
        return np.concatenate([self.of_counts(partial(make, one), counts) for one in works.each])

    def of_moe_layers(self, make: Callable[[Works, Any], Work | None], works: Works, keys: Sequence[Any]) -> _Ints:
        """The rows of `make(works of a MoE layer, key)` by MoE layer and key."""
        forms = works.moe_form_of
        each = [self.each(partial(make, one), keys) for one in works.each]
        return np.concatenate([each[form] for form in forms])

    def each(self, make: Callable[[Any], Work | None], keys: Sequence[Any]) -> NDArray[np.int64]:
        """The rows of `make(key)`, each distinct key made once."""
        row = {key: self.of(make(key)) for key in dict.fromkeys(keys)}
        return np.array([row[key] for key in keys], np.int64)
