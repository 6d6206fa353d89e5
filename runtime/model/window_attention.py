"""Attention of several tokens of a sequence in a sliding window: over what the ring holds, and over one another."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.model.attention import Block, KvCache, Span
from runtime.model.sliding_windows import SeveralTokens


def attend_several(
    block: Block, ring: KvCache, several: SeveralTokens, query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor
) -> None:
    """`hidden` (n, d_model) gains what the queries (n, n_heads, width) find in their windows.

    `keys`, `values` (n, width) are the tokens' own, which the ring does not hold yet.
    """
    n_rows = several.n_rows
    query, keys, values = (x.view(n_rows, -1, *x.shape[1:]) for x in (query, keys, values))
    latent = ring.values is ring.keys
    keys = _after(ring.keys, several, keys)
    values = keys if latent else _after(ring.values, several, values)
    out = hidden.view(n_rows, -1, hidden.shape[-1])
    for group in several.groups:
        n, seen = group.stop - group.start, slice(group.first, group.last)
        span = Span(0, n * n_rows, None, n_rows, group.last - group.first, mask=group.mask)
        asked = query[:, group.start : group.stop].reshape(n * n_rows, *query.shape[2:])
        found = block.attend(asked, keys[:, seen], values[:, seen], span)
        out[:, group.start : group.stop] += found.view(n_rows, n, -1)


def _after(ring: Tensor, several: SeveralTokens, own: Tensor) -> Tensor:
    """(n_rows, n_before + n, width): what the ring holds of the tokens before, then the tokens' own."""
    if several.before is None:
        return own
    rows = ring[several.rows] if isinstance(several.rows, slice) else ring.index_select(0, several.rows)
    return torch.cat((rows.index_select(1, several.before), own), dim=1)
