"""The layers of DeepSeek-V4 from its `config.json`: a window, and beyond it entries that stand for several tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

from traces.errors import InvalidFile
from traces.model.attention import Attention
from traces.model.configs.config_fields import Fields

_SPARSE, _HEAVY = "compressed_sparse_attention", "heavily_compressed_attention"


def compressed_attentions(fields: Fields, n_layers: int, attention: Attention) -> tuple[Attention, ...]:
    """The attention of each layer. Raises `InvalidFile` for a layer of another kind."""
    ratios = _ratios(fields, n_layers)
    sources = _layers_named(fields, ("kv_source_layer_ids", "kv_source_layers"), n_layers)
    if not sources:
        return tuple(_compressed_attention(fields, attention, ratio) for ratio in ratios)
    indexing = _layers_named(fields, ("index_source_layer_ids", "index_source_layers"), n_layers)
    for layer, ratio in enumerate(ratios):
        owner = max((source for source in sources if source <= layer), default=None)
        if ratio and (owner is None or ratios[owner] != ratio):
            raise InvalidFile(
                f"{fields.where}: layer {layer} has no entries of {ratio} tokens to read: compress_ratios?"
            )
    made = []
    for layer, ratio in enumerate(ratios):
        changes: dict[str, Any] = {"window": fields.integer("window", 128), "compression": ratio}
        if ratio:
            changes |= {"entries": "apart" if layer in sources else "borrowed"} | _indexer(fields)
            if layer not in indexing:  # what the indexer of a layer before has picked
                changes |= {"index_heads": 0, "index_dim": 0}
        made.append(dataclasses.replace(attention, **changes))
    return tuple(made)


def _layers_named(fields: Fields, keys: tuple[str, ...], n_layers: int) -> list[int]:
    """The layers that one of `keys` lists (DeepSeek-V4.1: those that make entries, those that pick them)."""
    key = next((key for key in keys if fields.get(key) is not None), keys[0])
    named = fields.integers(key)
    if named and not 0 <= min(named) <= max(named) < n_layers:
        raise InvalidFile(f"{fields.where}: {key} names layer {max(named)}, there are 0 to {n_layers - 1}")
    return named


def _indexer(fields: Fields) -> dict[str, Any]:
    return {
        "index_heads": fields.integer("index_n_heads", 64, minimum=1),
        "index_dim": fields.integer("index_head_dim", 128, minimum=1),
        "index_topk": fields.integer("index_topk", 512, minimum=1),
    }


def _ratios(fields: Fields, n_layers: int) -> list[int]:
    """DeepSeek-V4: tokens an entry stands for beyond the window, by layer; 0 where there are no entries."""
    listed = fields.integers("compress_ratios")
    if listed:
        fields.cut_to_layers("compress_ratios", listed, n_layers)
        if min(listed) < 0:
            raise InvalidFile(f"{fields.where}: compress_ratios = {min(listed)} is below 0")
        return listed
    kinds = fields.texts("layer_types") or [_HEAVY if i < 2 or i % 2 == 0 else _SPARSE for i in range(n_layers)]
    fields.cut_to_layers("layer_types", kinds, n_layers)
    stated = fields.get("compress_rates")
    rates = Fields((stated,), f"{fields.where}: compress_rates") if isinstance(stated, dict) else fields
    names = (_SPARSE, _HEAVY) if isinstance(stated, dict) else ("compress_rate_csa", "compress_rate_hca")
    of_kind = {"sliding_attention": 0} | {
        kind: rates.integer(name, default, minimum=1)
        for kind, name, default in zip((_SPARSE, _HEAVY), names, (4, 128), strict=True)
    }
    for layer, kind in enumerate(kinds):
        if kind not in of_kind:
            raise InvalidFile(f"{fields.where}: layer {layer} is of the kind {kind[:40]!r}, which is not modelled")
    return [of_kind[kind] for kind in kinds]


_OVERLAPPING_RATIO = 4
"""Entries of so few tokens overlap and are picked by an indexer; those of more are all seen."""


def _compressed_attention(fields: Fields, attention: Attention, ratio: int) -> Attention:
    """A window, and entries of `ratio` tokens each beyond it; of a ratio of 0 the window alone (DeepSeek-V4)."""
    changes: dict[str, Any] = {"window": fields.integer("window", 128), "compression": ratio}
    if ratio == _OVERLAPPING_RATIO:
        changes |= _indexer(fields)
    return dataclasses.replace(attention, **changes)
