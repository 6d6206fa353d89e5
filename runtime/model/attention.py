"""Attention of one layer over the tokens of a pass: projections, cache, scores, output; plain functions on tensors.

Multi-head, grouped-query and latent attention (MLA as in DeepSeek-V2, arXiv 2405.04434, section 2.1, with the
up-projection of keys and values absorbed into the query's and the output's, so that the cache holds latents only).
No rotation by position: an architecture does not say which, and no op of a schedule counts it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from traces.model.architecture import Attention

_MAX_DISTANCE = 128
"""T5's largest distance with a bucket of its own kind (Raffel et al. 2020, section 2.1)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens that attend together: rows `start` to `stop` of a pass over `rows` of a cache, `n_context` tokens each.

    As many tokens of each row, row by row. `rows` None: over their own keys and values, which no cache keeps.
    `causal`: each token sees what came before it in the span; `ragged`: up to its own position in the cache. `mask`:
    added to the scores, broadcast to (rows, heads, tokens, n_context), in place of both.
    """

    start: int
    stop: int
    rows: slice | Tensor | None
    n_rows: int
    n_context: int
    causal: bool = False
    ragged: bool = False
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class KvCache:
    """What one layer keeps of every token: keys and values, (n_rows, n_context, width); a latent has keys only."""

    keys: Tensor
    values: Tensor

    def put(self, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keys and values (n, width) of new tokens at `places` (n,) int64 of the flat cache."""
        self.keys.view(-1, self.keys.shape[-1]).index_copy_(0, places, keys)
        if self.values is not self.keys:
            self.values.view(-1, self.values.shape[-1]).index_copy_(0, places, values)


class Block:
    """The weights of one attention block, by their names in `runtime.model.weights`, and what it does with them."""

    def __init__(self, attention: Attention, weights: Mapping[str, Tensor]) -> None:
        self.attention, self._weights = attention, weights
        self._latent = attention.kind == "mla"
        if self._latent:
            up = weights["latent_up"].view(attention.n_heads, -1, attention.kv_lora_rank)
            self._key_up, self._value_up = up[:, : attention.qk_nope_dim], up[:, attention.qk_nope_dim :]

    def _project(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._weights[name], self._weights.get(f"{name}.bias"))

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        """RMS norm over the width that the scale has: one head's or all heads'; as it is when there is no scale."""
        scale = self._weights.get(f"{name}.scale")
        if scale is None:
            return x
        return functional.rms_norm(x.reshape(-1, scale.shape[0]), scale.shape, scale).view(x.shape)

    def queries(self, x: Tensor) -> Tensor:
        """(n, n_heads, width of a key) of the normed states `x` (n, d_model)."""
        if "query_down" in self._weights:
            x = self._scaled("query_down", self._project("query_down", x))
        query = self._scaled("query", self._project("query", x)).view(len(x), self.attention.n_heads, -1)
        if not self._latent:
            return query
        n_plain = self.attention.qk_nope_dim
        plain, shared = query[..., :n_plain], query[..., n_plain:]
        absorbed = torch.bmm(plain.transpose(0, 1), self._key_up)  # [heads, n, kv_lora_rank]
        return torch.cat((absorbed.transpose(0, 1), shared), dim=2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of `x` (n, d_model): keys and values (n, kv heads x head size), or a latent twice."""
        if not self._latent:
            return self._scaled("key", self._project("key", x)), self._project("value", x)
        latent, rank = self._project("latent", x), self.attention.kv_lora_rank
        kept = torch.cat((self._scaled("latent", latent[:, :rank]), latent[:, rank:]), dim=1)
        return kept, kept

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
        """(n, d_model) of the span's queries (n, n_heads, width) over its keys and values (rows, n_context, width)."""
        attention = self.attention
        n_kv = 1 if self._latent else attention.n_kv_heads
        key = keys.view(span.n_rows, span.n_context, n_kv, -1).transpose(1, 2)
        value = values.view(span.n_rows, span.n_context, n_kv, -1).transpose(1, 2)
        if self._latent:
            value = value[..., : attention.kv_lora_rank]
        n, scale = len(query), 1 / math.sqrt(attention.head_dim)
        if n == span.n_rows:  # a token a row: the heads that share a key are its queries
            mask = span.mask
            if mask is not None and mask.shape[1] > 1:
                mask = mask.view(n, n_kv, -1, span.n_context)
            query = query.view(n, n_kv, attention.n_heads // n_kv, -1)
            out = _weighted(query, key, value, mask, False, scale, self._sinks(n_kv))
        else:
            query = query.view(span.n_rows, -1, *query.shape[1:]).transpose(1, 2)
            key, value = (_for_each_head(x, attention.n_heads) for x in (key, value))
            out = _weighted(query, key, value, span.mask, span.causal, scale, self._sinks(attention.n_heads))
            out = out.transpose(1, 2)
        out = out.reshape(n, attention.n_heads, -1)
        if self._latent:
            out = torch.bmm(out.transpose(0, 1), self._value_up.transpose(1, 2)).transpose(0, 1)
        return self._project("output", out.reshape(n, -1))

    def _sinks(self, n_groups: int) -> Tensor | None:
        """The learned logit of each head, as (1, n_groups, heads of a group, 1)."""
        sinks = self._weights.get("sinks")
        return None if sinks is None else sinks.view(1, n_groups, -1, 1)


def _for_each_head(x: Tensor, n_heads: int) -> Tensor:
    """(rows, n_kv, m, width) as (rows, n_heads, m, width); nothing is copied when all heads share one."""
    rows, n_kv, m, width = x.shape
    return x.unsqueeze(2).expand(rows, n_kv, n_heads // n_kv, m, width).reshape(rows, n_heads, m, width)


def _weighted(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, sinks: Tensor | None
) -> Tensor:
    """Softmax(query key^T x scale + mask) value; a sink takes its share of the softmax and gives nothing."""
    if sinks is None:
        return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    if causal:
        n, m = scores.shape[-2:]
        scores.masked_fill_(torch.ones(n, m, dtype=torch.bool, device=scores.device).triu(1), -math.inf)
    if mask is not None:
        scores += mask
    shares = torch.cat((scores, sinks.expand(*scores.shape[:-1], 1)), dim=-1).softmax(-1)[..., :-1]
    return torch.matmul(shares, value)


def seen_in(cache: KvCache, span: Span) -> tuple[Tensor, Tensor]:
    """Keys and values (n_rows, n_context, width) that a span sees of a cache (all rows, all context, width)."""
    if isinstance(span.rows, slice):
        return cache.keys[span.rows, : span.n_context], cache.values[span.rows, : span.n_context]
    rows = span.rows
    assert rows is not None
    keys = cache.keys[:, : span.n_context].index_select(0, rows)
    if cache.values is cache.keys:
        return keys, keys
    return keys, cache.values[:, : span.n_context].index_select(0, rows)


def position_bias(table: Tensor, queries: Tensor, n_context: int, bidirectional: bool) -> Tensor:
    """T5's bias of scores by distance: (n, n_heads, 1, n_context) for queries at positions `queries` (n,).

    `table` (n_heads, n_buckets). Half of the buckets are exact, the rest grow logarithmically to 128; in an encoder
    half of all serve the keys that come after (Raffel et al. 2020, section 2.1).
    """
    n_buckets = table.shape[1]
    distance = queries.unsqueeze(1) - torch.arange(n_context, device=table.device)
    bucket = torch.zeros_like(distance)
    if bidirectional:
        n_buckets //= 2
        bucket += (distance < 0) * n_buckets
        distance = distance.abs()
    distance = distance.clamp(min=0)
    n_exact = max(n_buckets // 2, 1)
    ratio = torch.log(distance.clamp(min=1) / n_exact) / math.log(_MAX_DISTANCE / n_exact)
    far = n_exact + (ratio * (n_buckets - n_exact)).long()
    bucket += torch.where(distance < n_exact, distance, far.clamp(max=n_buckets - 1))
    return table[:, bucket].transpose(0, 1).unsqueeze(2)
