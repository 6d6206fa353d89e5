"""Which layer is what, from a `config.json`: MoE or dense, and what mixes its tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

from traces.errors import InvalidFile
from traces.model.attention import Attention
from traces.model.configs.class_defaults import layer_letters
from traces.model.configs.config_compressed import compressed_attentions
from traces.model.configs.config_fields import Fields
from traces.model.configs.config_recurrent import recurrent_mixer
from traces.model.layer_stack import every_layer
from traces.model.linear_mixer import LinearMixer

Traits = dict[str, Any]
"""What a family does that its fields do not say; see `traces.model.configs.config_decoder`."""

BLOCKS = {
    "M": "linear", "E": "moe", "*": "full", "-": "mlp", "linear_attention": "linear", "mamba": "linear", "moe": "moe",
    "full_attention": "full", "attention": "full", "mlp": "mlp",
}  # fmt: skip
"""Nemotron-H: a layer is one block alone, by letter of the pattern or by name."""

_LINEAR = ("linear_attention", "mamba", "mamba2", "linear", "conv", "short_conv", "kda", "recurrent")
_SLIDING = (
    "sliding_attention", "chunked_attention", "sliding", "local", "hybrid_sliding", "reference_sliding_attention",
)  # fmt: skip
_FULL = ("full_attention", "attention", "global", "full", "hybrid", "softmax")
_INDEXED = ("indexed_attention", "deepseek_sparse_attention", "qwen_sparse_attention", "minimax_m3_sparse")
"""What an indexer picks tokens for, in words of transformers old and new."""


def block_letters(fields: Fields) -> list[str]:
    """The blocks of a model whose layers are one block each; empty for every other.

    Raises `InvalidFile` for a word that no block has.
    """
    pattern = fields.get("hybrid_override_pattern")
    names = list(pattern) if isinstance(pattern, str) else fields.texts("layers_block_type")
    if not isinstance(pattern, str) and not set(names) & {"moe", "mlp"}:
        return []
    unknown = [name for name in names if name not in BLOCKS]
    if unknown:
        raise InvalidFile(f"{fields.where}: a layer is {unknown[0]!r}, known: {', '.join(sorted(set(BLOCKS)))}")
    return [BLOCKS[name] for name in names]


def sparse_layers(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """The layers with experts, by whichever fields the family states them."""
    listed = _listed_sparse(fields, n_layers)
    return _repeated_sparse(fields, n_layers) if listed is None else listed


def _listed_sparse(fields: Fields, n_layers: int) -> tuple[int, ...] | None:
    """Of fields that name every layer; None where there is no such field."""
    kinds = fields.texts("mlp_layer_types")
    if kinds:
        fields.cut_to_layers("mlp_layer_types", kinds, n_layers)
        return tuple(i for i, kind in enumerate(kinds) if kind in ("sparse", "moe", "hash_moe"))
    for key in ("moe_layers", "moe_layers_idx"):
        listed = fields.get(key)
        if isinstance(listed, list) and listed:
            return tuple(fields.integers(key))
    enumerated = fields.get("moe_layers_enum")
    if isinstance(enumerated, str) and enumerated:
        return tuple(int(word) for word in enumerated.split(",") if word.strip().isdigit())
    for key in ("moe_layer_freq", "moe_layer_layout", "is_moe_layer"):
        switches = fields.get(key)
        if isinstance(switches, list):
            fields.cut_to_layers(key, switches, n_layers)
            return tuple(i for i, on in enumerate(switches) if on)
    return None


def _repeated_sparse(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """Of fields that say which of so many layers has experts; by default every layer."""
    first = fields.integer("first_dense", 0)
    if fields.get("expert_layer_period") is not None:
        step, offset = fields.integer("expert_layer_period", minimum=1), fields.integer("expert_layer_offset", 0)
        return tuple(layer for layer in range(n_layers) if layer % step == offset)
    if fields.get("moe_layer_start_index") is not None:
        last, step = (
            n_layers - 1
            if fields.get("moe_layer_end_index") == -1
            else fields.integer("moe_layer_end_index", n_layers - 1),
            fields.integer("moe_layer_interval", 1, minimum=1),
        )
        start = fields.integer("moe_layer_start_index")
        return tuple(i for i in range(n_layers) if start <= i <= last and (i + 1) % step == 0)
    if fields.get("interleave_moe_layer_step") is not None:
        step = fields.integer("interleave_moe_layer_step", minimum=1)
        return every_layer(n_layers, step - 1, step)
    sparse = fields.integer("sparse_step", 1, minimum=1)
    step = fields.integer("moe_layer_freq", 1, minimum=1)
    dense = fields.integers("mlp_only_layers")
    for layer in dense:
        if not 0 <= layer < n_layers:
            raise InvalidFile(f"{fields.where}: mlp_only_layers names layer {layer}, there are 0 to {n_layers - 1}")
    return tuple(
        layer
        for layer in range(n_layers)
        if layer >= first and (layer + 1) % sparse == 0 and layer % step == 0 and layer not in dense
    )


def mixers_by_layer(
    fields: Fields, n_layers: int, attention: Attention, d_model: int, traits: Traits
) -> tuple[Attention | LinearMixer | None, ...]:
    """What mixes the tokens of each layer. Raises `InvalidFile` for a kind that is not modelled."""
    blocks = block_letters(fields)
    if blocks:
        kinds = blocks
    elif traits.get("compressed"):
        return compressed_attentions(fields, n_layers, attention)
    else:
        kinds = _layer_kinds(fields, n_layers, traits.get("model_type", ""))
    sparse = frozenset(sparse_layers(fields, n_layers)) if value_experts(fields)[0] else frozenset()
    of_blocks = fields.integer("index_topk_blocks", 0) > 0  # MiniMax-M3: in layers that say so, and in no other
    made: list[Attention | LinearMixer | None] = []
    for layer, kind in enumerate(kinds[:n_layers]):
        if kind in ("moe", "mlp"):
            made.append(None)
        elif kind in _LINEAR:
            made.append(recurrent_mixer(fields, d_model, traits))
        elif kind in _SLIDING:
            made.append(_sliding_attention(fields, _of_layer(fields, attention, layer)))
        elif kind in _FULL or kind in _INDEXED:
            own = _of_layer(fields, attention, layer)
            if kind in _FULL and of_blocks:
                own = dataclasses.replace(own, index_heads=0, index_dim=0, index_topk=0)
            full = _full_attention(fields, own)
            made.append(_with_value_experts(fields, full) if layer in sparse else full)
        else:
            raise InvalidFile(f"{fields.where}: layer {layer} is of the kind {kind[:40]!r}, which is not modelled")
    return tuple(made)


_LETTERS = {"S": "sliding_attention", "F": "full_attention", "L": "linear_attention"}


def _layer_kinds(fields: Fields, n_layers: int, model_type: str) -> list[str]:
    """What mixes the tokens of each layer, in words, by whichever fields state it; by default full attention."""
    kinds = _listed_kinds(fields, n_layers) or _repeated_kinds(fields, n_layers)
    if kinds:
        return kinds
    if fields.get("conv_L_cache") is not None:
        raise InvalidFile(f"{fields.where}: key 'layer_types' is missing (or full_attn_idxs): which layers convolve")
    if model_type in _WINDOWED and _has_window(fields):
        start = fields.integer("max_window_layers", 0) if model_type == "qwen2_moe" else 0
        return ["sliding_attention" if i >= start else "full_attention" for i in range(n_layers)]
    letters = layer_letters(model_type, n_layers)
    return [_LETTERS[letter] for letter in letters] if letters else ["full_attention"] * n_layers


def _listed_kinds(fields: Fields, n_layers: int) -> list[str]:
    """Of fields that name every layer; none where there is no such field."""
    kinds = fields.texts("layer_types") or fields.texts("layers_block_type")
    if kinds:
        fields.cut_to_layers("layer_types", kinds, n_layers)
        return kinds
    sparse = fields.get("sparse_attention_freq")  # MiniMax-M3: 1 has an indexer
    if isinstance(sparse, list):
        fields.cut_to_layers("sparse_attention_freq", sparse, n_layers)
        return ["minimax_m3_sparse" if on else "full_attention" for on in sparse]
    switches = fields.get("attn_type_list")  # MiniMax-01: 1 is softmax attention
    if isinstance(switches, list):
        return ["full_attention" if on else "linear_attention" for on in switches][:n_layers]
    for key in ("sliding_window_layout", "hybrid_layer_pattern"):  # SmallThinker, MiMo-V2: 1 sees a window
        windows = fields.get(key)
        if isinstance(windows, list):
            fields.cut_to_layers(key, windows, n_layers)
            return ["sliding_attention" if on else "full_attention" for on in windows]
    local = fields.integers("local_layer_ids")  # Inkling
    if local:
        return ["sliding_attention" if i in local else "full_attention" for i in range(n_layers)]
    full = next(filter(None, map(fields.integers, _FULL_LAYERS)), ())
    if full:
        return ["full_attention" if i in full else "linear_attention" for i in range(n_layers)]
    linear = fields.get("linear_attn_config")  # Kimi Linear: layers counted from 1
    if isinstance(linear, dict):
        full = Fields((linear,), fields.where).integers("full_attn_layers")
        if not full and fields.get("gqa_interval") is not None:
            return []
        if not full:
            raise InvalidFile(f"{fields.where}: linear_attn_config names no full_attn_layers: which layers are linear?")
        return ["full_attention" if i + 1 in full else "linear_attention" for i in range(n_layers)]
    return []


_FULL_LAYERS = ("full_attention_layers", "full_attn_idxs", "gqa_layers")
"""Layers of full attention, counted from 0, where all others have a state: GigaChat 3.5, LFM2, Solar Open 2."""


def _repeated_kinds(fields: Fields, n_layers: int) -> list[str]:
    """Of fields that say which of so many layers is another; none where there is no such field."""
    if fields.get("attn_layer_period") is not None:
        step, offset = fields.integer("attn_layer_period", minimum=1), fields.integer("attn_layer_offset", 0)
        return ["full_attention" if i % step == offset else "linear_attention" for i in range(n_layers)]
    if fields.get("full_attention_interval") is not None:
        step = fields.integer("full_attention_interval", minimum=1)
        return ["linear_attention" if (i + 1) % step else "full_attention" for i in range(n_layers)]
    if fields.get("gqa_interval") is not None:  # Solar Open 2: so many linear layers follow each full one
        step = fields.integer("gqa_interval", minimum=1) + 1
        return ["linear_attention" if i % step else "full_attention" for i in range(n_layers)]
    group = fields.integer("layer_group_size", 0)  # Ring-linear: the last of so many is full, and what is left over
    if group:
        whole = n_layers // group * group
        return ["linear_attention" if (i + 1) % group and i < whole else "full_attention" for i in range(n_layers)]
    pattern = fields.get("sliding_window_pattern")  # by the last layer of so many, or by letters: L local, G global
    if pattern is None and fields.get("layer_types") is None:
        pattern = fields.get("global_attn_every_n_layers")
    if type(pattern) is int and pattern > 0:
        return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(n_layers)]
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        return [_LETTERS[{"L": "S", "G": "F"}[pattern[i % len(pattern)]]] for i in range(n_layers)]
    return []


_WINDOWED = ("mixtral", "phimoe", "qwen2_moe", "qwen3_moe")
"""Types whose class gives the window that a file states to every layer, Qwen's where `use_sliding_window` is true."""


def _has_window(fields: Fields) -> bool:
    window = fields.integer("window", 0)
    return 0 < window < fields.integer("max_position_embeddings", 1 << 30) and fields.flag(
        "use_sliding_window", default=not str(fields.get("model_type")).startswith("qwen")
    )


def _of_layer(fields: Fields, attention: Attention, layer: int) -> Attention:
    """The attention with what a layer states apart (`per_layer_config`, heads by layer)."""
    changes: dict[str, int] = {}
    heads = fields.get("num_attention_heads_per_layer")
    if isinstance(heads, list) and layer < len(heads) and type(heads[layer]) is int:
        changes["n_heads"] = heads[layer]
    apart = fields.get("per_layer_config")
    if apart is not None and not (isinstance(apart, dict) and all(isinstance(one, dict) for one in apart.values())):
        raise InvalidFile(f"{fields.where}: per_layer_config is not a mapping of mappings, by layer")
    if apart:
        own: dict[str, Any] = next((item for key, item in apart.items() if key.isdigit() and int(key) == layer), {})
        names = {"head_dim": "head_dim", "num_key_value_heads": "n_kv_heads", "num_attention_heads": "n_heads"}
        changes |= {ours: own[key] for key, ours in names.items() if type(own.get(key)) is int}
    if attention.index_heads and _shares_indexer(fields, layer):
        changes |= {"index_heads": 0, "index_dim": 0}
    return _with_heads(attention, **changes) if changes else attention


def value_experts(fields: Fields) -> tuple[int, int]:
    """(number, chosen) of matrices that make values, of which a gate chooses for a token (K2 Horizon's mixture of
    values: transformers, models/k2_horizon); (0, 0) where there is one.
    """
    number = fields.integer("mova_num_experts", 0)
    return (number, fields.integer("mova_num_experts_per_tok", minimum=1)) if number else (0, 0)


def _with_value_experts(fields: Fields, attention: Attention) -> Attention:
    """The attention of a layer with experts: what reads the state beside queries and keys counts as its output gate.
    Tokens of a pass that choose other matrices are taken to read the same.
    """
    number, chosen = value_experts(fields)
    if not number:
        return attention
    more = (chosen - 1) * attention.n_kv_heads * attention.value_dim + number
    return dataclasses.replace(attention, output_gate=attention.output_gate + more)


def _shares_indexer(fields: Fields, layer: int) -> bool:
    """Whether a layer attends to what the indexer of a layer before has picked, and has none (GLM-5.2).

    Stated by layer ("shared"), by letters (S), or as every so many layers from an offset on.
    """
    for key in ("indexer_types", "index_topk_pattern"):
        stated = fields.get(key)
        if stated is not None and not isinstance(stated, list | str):
            raise InvalidFile(f"{fields.where}: {key} is neither a list nor letters, one a layer")
        if stated:
            if layer >= len(stated):
                raise InvalidFile(f"{fields.where}: {key} names {len(stated)} layers, there are more")
            return stated[layer] in ("shared", "S")
    step = fields.integer("index_topk_freq", 1)
    return step > 1 and max(layer - fields.integer("index_skip_topk_offset", 2) + 1, 0) % step != 0


def _with_heads(attention: Attention, **changes: Any) -> Attention:
    """The attention with other heads: its kind and the width of its output gate follow from them."""
    heads = changes.get("n_heads", attention.n_heads)
    kv_heads = changes.get("n_kv_heads", attention.n_kv_heads)
    gate = attention.output_gate
    if gate:  # one a channel or one a head: as many more as there are heads or channels more
        wider = gate > attention.n_heads and changes.get("head_dim", attention.head_dim) / attention.head_dim
        gate = int(heads * (gate // attention.n_heads) * (wider or 1))
    if attention.kind != "mla":
        changes["kind"] = "mha" if heads == kv_heads else "gqa"
    return dataclasses.replace(attention, output_gate=gate, **changes)


def _sliding_attention(fields: Fields, attention: Attention) -> Attention:
    """A layer that sees a window; its heads may be its own (MiMo-V2)."""
    changes: dict[str, Any] = {"window": fields.integer("window", 0)}
    if fields.get("model_type") == "mimo_v2_flash":  # its class in transformers doubles them, and writes no field
        changes["n_kv_heads"] = 2 * attention.n_kv_heads
    for key, ours in (("swa_num_key_value_heads", "n_kv_heads"), ("swa_num_attention_heads", "n_heads"),
                      ("swa_head_dim", "head_dim"), ("swa_v_head_dim", "v_head_dim")):  # fmt: skip
        if type(fields.get(key)) is int:
            changes[ours] = fields.get(key)
    apart = fields.get("attention_other_setting")  # Step 3.5 and 3.7
    if isinstance(apart, dict):
        names = {"num_attention_heads": "n_heads", "num_attention_groups": "n_kv_heads", "head_dim": "head_dim"}
        changes |= {ours: apart[key] for key, ours in names.items() if type(apart.get(key)) is int}
    return _with_heads(attention, **changes)


def _full_attention(fields: Fields, attention: Attention) -> Attention:
    """A layer that sees all; in Gemma 4 with heads of its own, keys serving as values."""
    changes: dict[str, Any] = {}
    for key, ours in (("global_head_dim", "head_dim"), ("num_global_key_value_heads", "n_kv_heads")):
        if type(fields.get(key)) is int:
            changes[ours] = fields.get(key)
    if changes and fields.flag("attention_k_eq_v"):
        changes["shared_key_value"] = True
    return _with_heads(attention, **changes) if changes else attention
