"""The layers of a model on a device: real matrix products in buffers that exist before the clock starts.

Results do not depend on the policy: every expert writes its own rows of one buffer, and the last FFN op of a block
sums them token by token, experts ascending, whatever the order in which they were computed. Which experts a token has
is forced from the trace; with what weights, its gate decides. What kernels need for themselves comes from the
framework's allocator, which keeps it for the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from offload.ops import Piece
from runtime.model.attention import Block, KvCache, Span, position_bias, seen_in
from runtime.model.bound_pass import BoundPass
from runtime.model.buffer_rows import BoundRows
from runtime.model.sliding_windows import WindowedPass
from runtime.model.window_attention import attend_several
from traces.model.architecture import ModelArchitecture


class FfnWeights(NamedTuple):
    """One FFN, matrices transposed for products from the right; `gate` None for two matrices, biases None or all."""

    gate: Tensor | None
    up: Tensor
    down: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None


def ffn_weights(tensors: Mapping[str, Tensor], prefix: str = "") -> FfnWeights:
    """The FFN of `runtime.model.weights` whose names begin with `prefix`."""
    gate = tensors.get(f"{prefix}gate")
    biases = [tensors.get(f"{prefix}{name}.bias") for name in ("gate", "up", "down")]
    return FfnWeights(
        None if gate is None else gate.t(), tensors[f"{prefix}up"].t(), tensors[f"{prefix}down"].t(), *biases
    )


@dataclass(frozen=True, slots=True)
class Scratch:
    """Flat buffers that one lane computes FFNs in, each as large as the widest FFN of the largest pass."""

    gate: Tensor
    up: Tensor
    inputs: Tensor
    outputs: Tensor

    def ffn(self, x: Tensor, weights: FfnWeights, out: Tensor) -> None:
        """`out` (n, d_model) = FFN of `x` (n, d_model): ReLU between two matrices, a SiLU gate with three."""
        n, width = len(x), weights.up.shape[1]
        up = _linear(x, weights.up, weights.up_bias, self.up[: n * width].view(n, width))
        if weights.gate is None:
            functional.relu(up, inplace=True)
        else:
            gate = _linear(x, weights.gate, weights.gate_bias, self.gate[: n * width].view(n, width))
            up.mul_(functional.silu(gate, inplace=True))
        _linear(up, weights.down, weights.down_bias, out)

    def product(self, x: Tensor, weights: FfnWeights, out: Tensor, piece: Piece) -> None:
        """The same, one matrix after the other: gate, up, down, each with what lies between it and the next."""
        n, width = len(x), weights.up.shape[1]
        up = self.up[: n * width].view(n, width)
        gate = up if weights.gate is None else self.gate[: n * width].view(n, width)
        if piece.is_last:
            _linear(up, weights.down, weights.down_bias, out)
        elif weights.gate is not None and piece.i == 0:
            functional.silu(_linear(x, weights.gate, weights.gate_bias, gate), inplace=True)
        else:
            _linear(x, weights.up, weights.up_bias, up)
            functional.relu(up, inplace=True) if weights.gate is None else up.mul_(gate)

    def routed(
        self,
        x: Tensor,
        tokens: BoundRows,
        weights: FfnWeights,
        results: Tensor,
        places: BoundRows,
        piece: Piece | None = None,
    ) -> None:
        """Rows `places` of `results` = FFN of rows `tokens` of `x`, or the `piece` of it whose turn it is."""
        width = x.shape[1]
        if isinstance(tokens, slice):
            inputs = x[tokens]
        else:
            inputs = self.inputs[: len(tokens) * width].view(-1, width)
            if piece is None or piece.i == 0:
                torch.index_select(x, 0, tokens, out=inputs)
        outputs = results[places] if isinstance(places, slice) else self.outputs[: len(places) * width].view(-1, width)
        if piece is None:
            self.ffn(inputs, weights, outputs)
        else:
            self.product(inputs, weights, outputs, piece)
        if not isinstance(places, slice) and (piece is None or piece.is_last):
            results.index_copy_(0, places, outputs)


def _linear(x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    if bias is None:
        return torch.mm(x, matrix, out=out)
    return torch.addmm(bias, x, matrix, out=out)


class Choice(NamedTuple):
    """What the trace has the gate of one block choose: `experts` (n_tokens, top_k) int64, `pads` where it chose none.

    `ids` (n_tokens x top_k,) int32, -1 pads: what the host reads back.
    """

    experts: Tensor
    pads: Tensor | None
    ids: Tensor


class Masked(NamedTuple):
    """The spans of a pass with their masks, of layers that see all and, by window, of those that see so many tokens."""

    spans: tuple[Span, ...]
    singles: Mapping[int, tuple[Span, ...]]


class Layers:
    """One method an op kind; `tensors` by the names of `runtime.model.weights`, `buffers` and `caches` of `loading`.

    `states` (n_tokens of the run, d_model): the final hidden states, which cross-attention reads an encoder's from.
    `tokens`: where the likeliest go (None: made here). Layers without tensors are another's.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        tensors: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        caches: Mapping[str, KvCache],
        states: Tensor,
        tokens: Tensor | None = None,
    ) -> None:
        self.model, self._tensors, self._caches, self.states = model, tensors, caches, states
        self._hidden, self._normed, self._results = (buffers[name] for name in ("hidden", "normed", "results"))
        self._weights, self._logits, self._shared = (buffers[name] for name in ("weights", "logits", "shared"))
        self.scratch = Scratch(*(buffers[name] for name in ("gate", "up", "inputs", "outputs")))
        self._blocks: dict[str, Block] = {}
        self._ffns: dict[str, FfnWeights] = {}
        for side, stack in zip(("encoder", "decoder")[-len(model.stacks) :], model.stacks, strict=True):
            for layer in range(stack.n_layers):
                at = f"{side}.{layer}."
                for block in ("self", "cross")[: 2 if stack.cross_attention else 1]:
                    prefix = f"{at}{block}."
                    own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                    attention = stack.attention if block == "cross" else stack.attention_of(layer)
                    if own:
                        self._blocks[prefix] = Block(attention, own)
                for prefix in [f"{at}ffn.", *(f"{at}shared.{i}." for i in range(model.n_shared_experts))]:
                    if f"{prefix}up" in tensors:
                        self._ffns[prefix] = ffn_weights(tensors, prefix)
        self._spans: tuple[Span, ...] = ()
        self._cross_spans: tuple[Span, ...] = ()
        self._singles: Mapping[int, tuple[Span, ...]] = {}
        if tokens is None:
            tokens = torch.zeros(len(self._logits), dtype=torch.int64, device=self._logits.device)
        self.tokens = tokens

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale, bias = self._tensors[f"{name}.scale"], self._tensors.get(f"{name}.bias")
        if bias is None:
            return functional.rms_norm(x, scale.shape, scale)
        return functional.layer_norm(x, scale.shape, scale, bias)

    def embed(self, bound: BoundPass) -> None:
        """The tokens of a pass, those just made where it goes on from them, as the residual stream begins."""
        n = bound.one.n_tokens
        if bound.continues:
            bound.ids.copy_(self.tokens[:n])
        torch.index_select(self._tensors["embedding"], 0, bound.ids, out=self._hidden[:n])

    def begin(self, bound: BoundPass, masked: Masked | None = None) -> None:
        """The tokens of a pass attend as its masks say: those `masked`, or made here."""
        self._spans, self._singles = self.masked(bound) if masked is None else masked
        self._cross_spans = bound.cross_spans

    def masked(self, bound: BoundPass) -> Masked:
        """The spans of a pass with their masks."""
        table = self._tensors.get(f"{bound.side}.positions")
        spans = tuple(self._masked(span, bound, table) for span in bound.spans)
        singles = {
            window: tuple(self._masked(span, bound, None) for span in seen.singles)
            for window, seen in bound.windows.items()
        }
        return Masked(spans, singles)

    def mask_bytes(self, bound: BoundPass) -> int:
        """The most that `masked` takes of a pass, scores of 64 bits on the way to them included."""
        table = self._tensors.get(f"{bound.side}.positions")
        n_heads = 1 if table is None else table.shape[0]
        spans = [*bound.spans, *(span for seen in bound.windows.values() for span in seen.singles)]
        return sum(8 * n_heads * (span.stop - span.start) * span.n_context for span in spans)

    def _masked(self, span: Span, bound: BoundPass, table: Tensor | None) -> Span:
        """A span of self-attention with its mask: T5's bias, and nothing of what comes after a token."""
        n = span.stop - span.start
        if n != span.n_rows:  # rows are alike: one mask for all
            n //= span.n_rows
        positions, mask = bound.positions[span.start : span.start + n], None
        if table is not None:
            mask = position_bias(table, positions, span.n_context, bound.one.encoding)
        if span.ragged or (span.causal and mask is not None):
            later = torch.arange(span.n_context, device=positions.device) > positions.unsqueeze(1)
            hidden = torch.zeros(n, 1, 1, span.n_context, dtype=self._hidden.dtype, device=positions.device)
            hidden.masked_fill_(later.view(n, 1, 1, -1), -math.inf)
            mask = hidden if mask is None else mask + hidden
        if mask is None:
            return span
        if span.stop - span.start != span.n_rows:  # (1, heads, tokens, context)
            mask = mask.permute(2, 1, 0, 3)
        return Span(span.start, span.stop, span.rows, span.n_rows, span.n_context, mask=mask)

    def self_attention(self, bound: BoundPass, layer: int) -> None:
        """The residual stream gains what each token finds in its own sequence."""
        name = f"{bound.side}.{layer}.self."
        block, cache = self._blocks[name], self._caches.get(name)
        hidden = self._hidden[: bound.one.n_tokens]
        x = self._norm(f"{name}norm", hidden)
        query = block.queries(x)
        keys, values = block.keys_values(x)
        if block.attention.window:
            assert cache is not None
            self._in_window(block, cache, bound.windows[block.attention.window], query, keys, values)
            return
        if cache is not None:
            cache.put(bound.kv_places, keys, values)
        for span in self._spans:
            here = slice(span.start, span.stop)
            seen = (keys[here], values[here])
            if cache is not None:
                seen = seen_in(cache, span)
            hidden[here] += block.attend(query[here], *seen, span)

    def _in_window(
        self, block: Block, ring: KvCache, seen: WindowedPass, query: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """The same where a token sees a window: single tokens from the ring, several from it and from one another."""
        if seen.single_rows is not None:
            ring.put(seen.single_places, keys[seen.single_rows], values[seen.single_rows])
        for span in self._singles[block.attention.window]:
            here = slice(span.start, span.stop)
            self._hidden[here] += block.attend(query[here], *seen_in(ring, span), span)
        for several in seen.several:
            here = slice(several.start, several.stop)
            attend_several(block, ring, several, query[here], keys[here], values[here], self._hidden[here])
        if seen.kept_rows is not None:
            ring.put(seen.kept_places, keys[seen.kept_rows], values[seen.kept_rows])

    def cross_attention(self, bound: BoundPass, layer: int) -> None:
        """The residual stream gains what each token finds in its encoder's outputs, projected when first seen."""
        name = f"{bound.side}.{layer}.cross."
        block, cache = self._blocks[name], self._caches[name]
        hidden = self._hidden[: bound.one.n_tokens]
        if len(bound.memory_sources):
            memory = self.states.index_select(0, bound.memory_sources)
            cache.put(bound.memory_places, *block.keys_values(memory))
        query = block.queries(self._norm(f"{name}norm", hidden))
        for span in self._cross_spans:
            here = slice(span.start, span.stop)
            hidden[here] += block.attend(query[here], *seen_in(cache, span), span)

    def dense(self, bound: BoundPass, layer: int) -> None:
        """The FFN of a layer without experts."""
        n, name = bound.one.n_tokens, f"{bound.side}.{layer}.ffn."
        hidden = self._hidden[:n]
        out = self.scratch.outputs[: hidden.numel()].view(hidden.shape)
        self.scratch.ffn(self._norm(f"{name}norm", hidden), self._ffns[name], out)
        hidden += out

    def gate(self, bound: BoundPass, layer: int, choice: Choice, ids: Tensor) -> None:
        """Normed input of the block, logits of all experts, softmax over those that the trace has chosen."""
        self.enter(bound, layer)
        weights, logits = self._weights[: bound.one.n_tokens], self.gate_logits(bound, layer)
        chosen = logits.gather(1, choice.experts)
        if choice.pads is not None:
            chosen.masked_fill_(choice.pads, torch.finfo(chosen.dtype).min)
        weights.copy_(chosen.softmax(1))
        if choice.pads is not None:
            weights.masked_fill_(choice.pads, 0)
        ids.copy_(choice.ids)

    def enter(self, bound: BoundPass, layer: int) -> None:
        """The normed input of a MoE block, which its gates and its experts read."""
        n = bound.one.n_tokens
        self._normed[:n].copy_(self._norm(f"{bound.side}.{layer}.ffn.norm", self._hidden[:n]))

    def gate_logits(self, bound: BoundPass, layer: int) -> Tensor:
        """(n_tokens, n_experts) of the gate of `layer` on the block that was entered last."""
        at = f"{bound.side}.{layer}."
        bias = self._tensors.get(f"{at}gate.bias")
        return functional.linear(self._normed[: bound.one.n_tokens], self._tensors[f"{at}gate"], bias)

    def shared(self, bound: BoundPass, layer: int) -> None:
        """The experts that every token meets."""
        n, at = bound.one.n_tokens, f"{bound.side}.{layer}."
        normed, total = self._normed[:n], self._shared[:n]
        out = self.scratch.outputs[: total.numel()].view(total.shape)
        for i in range(self.model.n_shared_experts):
            self.scratch.ffn(normed, self._ffns[f"{at}shared.{i}."], out if i else total)
            if i:
                total += out
        gate = self._tensors.get(f"{at}shared.gate")
        if gate is not None:
            total *= functional.linear(normed, gate).sigmoid()

    @property
    def hidden(self) -> Tensor:
        """(n_widest, d_model): the residual stream."""
        return self._hidden

    @property
    def normed(self) -> Tensor:
        """(n_widest, d_model): the input of the MoE block that runs."""
        return self._normed

    def expert(self, tokens: BoundRows, places: BoundRows, weights: FfnWeights, scratch: Scratch) -> None:
        """One expert on its tokens, into rows `places` (token x top_k + rank) of the results."""
        scratch.routed(self._normed, tokens, weights, self._results, places)

    def expert_matrix(
        self, tokens: BoundRows, places: BoundRows, weights: FfnWeights, scratch: Scratch, piece: Piece
    ) -> None:
        """The product of one expert by one matrix, which come one after the other; the last fills the results."""
        scratch.routed(self._normed, tokens, weights, self._results, places, piece)

    def combine(self, bound: BoundPass, weights: Tensor | None = None) -> None:
        """The residual stream gains the block's experts, each token's ascending, weighted as its gate says.

        `weights` (n_tokens, top_k): of a gate that has run elsewhere.
        """
        n, top_k = bound.one.n_tokens, self.model.top_k
        hidden = self._hidden[:n]
        if self.model.n_shared_experts:
            hidden += self._shared[:n]
        results = self._results[: n * top_k].view(n, top_k, -1)
        weights = self._weights[:n] if weights is None else weights
        hidden.unsqueeze(1).baddbmm_(weights.unsqueeze(1), results)

    def finish(self, bound: BoundPass) -> None:
        """Final norm: the states that an encoder hands over, that the head reads, that a run is judged by."""
        first, n = bound.one.first, bound.one.n_tokens
        self.states[first : first + n] = self._norm(f"{bound.side}.norm", self._hidden[:n])

    def head(self, bound: BoundPass) -> None:
        """Logits of each sequence's last token, and the likeliest."""
        first = bound.one.first
        states = self.states[first : first + bound.one.n_tokens]
        last = (
            states[bound.last_rows] if isinstance(bound.last_rows, slice) else states.index_select(0, bound.last_rows)
        )
        matrix = self._tensors["embedding" if self.model.tied_embeddings else "head"]
        logits = _linear(last, matrix.t(), self._tensors.get("head.bias"), self._logits[: len(last)])
        torch.argmax(logits, dim=1, out=self.tokens[: len(last)])
