"""What a type that nobody checked says of its shapes in words of its own: refused where no key that is read says it.

A key that is passed over leaves a model of other bytes behind, and nobody would notice. So a key whose words are those
of a shape is an error that names it and the keys which are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from traces.errors import InvalidFile
from traces.model.configs.config_fields import Fields
from traces.model.configs.field_names import NAMES

_STATES_READ = (
    "layer_types", "layers_block_type", "hybrid_override_pattern", "attn_type_list", "linear_attn_config",
    "attn_layer_period", "full_attention_interval", "layer_group_size", "full_attention_layers",
)  # fmt: skip
"""Keys that say which layers have a state."""
_STATE_SIZES = ("linear_num_value_heads", "linear_num_key_heads", "mamba_n_heads", "mamba_num_heads", "mamba_d_state")
"""Sizes of what has a state."""
_PLACES_READ = (
    *NAMES["first_dense"], *NAMES["sparse_step"], "moe_layer_freq", "moe_layers", "moe_layers_idx", "moe_layers_enum",
    "moe_layer_layout", "is_moe_layer", "mlp_layer_types", "mlp_only_layers", "moe_layer_start_index",
    "moe_layer_end_index", "expert_layer_period", "expert_layer_offset", "interleave_moe_layer_step",
)  # fmt: skip
"""Keys that say which layers have experts."""
WINDOWS_READ = (
    "layer_types", "sliding_window_layout", "hybrid_layer_pattern", "sliding_window_pattern", "local_layer_ids",
    "global_attn_every_n_layers", "full_attention_layers", "full_attn_idxs", "layers_block_type",
)  # fmt: skip
"""Keys that say which layers see a window."""
_TABLES_READ = (
    "ngram_vocab_size_ratio", "engram_layer_ids", "ple_layer_ids", "hidden_size_per_layer_input",
)  # fmt: skip


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _several(value: Any) -> bool:
    return type(value) is int and value > 1


def _listed(value: Any) -> bool:
    return isinstance(value, (list, dict)) and bool(value)


def _spelled(value: Any) -> bool:
    return _listed(value) or (isinstance(value, str) and len(value) > 1)


def _says_something(value: Any) -> bool:
    return _whole(value) or _listed(value) or value is True


@dataclass(frozen=True, slots=True)
class _Words:
    """Keys that speak of a shape, how a value must be to say something, and the keys that are read for it."""

    what: str
    pattern: re.Pattern[str]
    says: Callable[[Any], bool]
    read: tuple[str, ...]


_SPOKEN = (
    _Words(
        "layers with a state",
        re.compile(r"(^|_)(linear_att(n|ention)|mamba|ssm|rwkv\d*|gla|retention|lightning|delta(_net)?|kda)(_|$)"),
        _says_something, _STATES_READ,
    ),
    _Words(
        "latent attention", re.compile(r"(^|_)kv_(lora|latent|compress\w*)_|^d_latent$"),
        _says_something, NAMES["kv_lora_rank"],
    ),
    _Words(
        "latent attention", re.compile(r"^(use_)?mla$|^(attention|attn)_(type|method|kind|class)$"),
        lambda value: value is True or str(value).lower() == "mla", NAMES["kv_lora_rank"],
    ),
    _Words(
        "heads of keys and values",
        re.compile(r"(^|_)(kv|key_value)_(heads?|groups?)|(heads?|groups?)_(kv|key_value)$"),
        _whole, NAMES["n_kv_heads"],
    ),
    _Words(
        "the width of a head",
        re.compile(
            r"(^|_)(dim_(per_)?head|size_per_head|head_(width|channels|dimension))$"
            r"|^(attn|qk?|k|kv|key|query)_(head_)?dim$"
        ),
        _whole, (*NAMES["head_dim"], *NAMES["kv_lora_rank"]),
    ),
    _Words(
        "experts that all tokens share",
        re.compile(r"shared_(\w+_)?(experts?|mlp|ffn|intermediate|hidden)|experts?_(\w+_)?shared|always_active|^(n|num)_shared$|ff_shared$"),
        _whole, (*NAMES["n_shared"], *NAMES["d_ff_shared"]),
    ),
    _Words(
        "layers without experts",
        re.compile(
            r"(^|_)(first|num|n|initial|leading|start)_(\w+_)?dense|dense_(first|layers?|start)|first_moe|moe_(\w+_)?start"
        ),
        _says_something, _PLACES_READ,
    ),
    _Words(
        "layers with experts by their number",
        re.compile(r"(^|_)(moe|experts?|sparse)_(layer_|block_)?(freq\w*|interval|every\w*|steps?|period|stride)(_|$)"),
        _several, _PLACES_READ,
    ),
    _Words(
        "the kinds of layers", re.compile(
            r"(moe|sparse|dense|experts?|ffn|mlp|block)_(layers?_?)*(ids?|idx|ind\w+|list|types?|layers?|configs|pattern)$"
            r"|layers_with_(moe|experts)"
        ),
        _spelled, (*_PLACES_READ, *_STATES_READ),
    ),
    _Words(
        "layers that see a window", re.compile(
            r"(^|_)(swa|sliding|window|local|global|full)_(\w+_)?(layers?|ids|idx|ind\w+|pattern|every\w*|types?)$"
            r"|(attn|attention)_(layer_)?(types|pattern)$"
        ),
        lambda value: _spelled(value) or _several(value), (*WINDOWS_READ, *_STATES_READ),
    ),
    _Words(
        "tables of rows beside the embedding", re.compile(r"engram|n_?gram|per_layer_(embed|input)|hash_embed"),
        _says_something, _TABLES_READ,
    ),
)  # fmt: skip

_NOT_MODELLED = (
    ("layers run more than once", _several, re.compile(
        r"(^|_)(num|n|total|max)_(loops?|ut_steps|recurrences?|recursions?)$|^loops?(_|$)|recurrent_(depth|steps|layers)$"
    )),
    ("layers share keys and values", lambda value: _several(value) or value is True or _listed(value), re.compile(
        r"cross_layer_(kv|attention|cache)|(kv|key_value|cache)_?(shar(e|ed|ing)|reuse)|shared?_(kv|key_value|cache)"
    )),
)  # fmt: skip


def stated_keys(fields: Fields) -> Iterator[tuple[str, Any]]:
    """Keys and values of the language model and of the sections in it."""
    return (item for document in fields.documents[:-1] or fields.documents for item in document.items())


def refuse_other_words(fields: Fields) -> None:
    """Raise `InvalidFile` naming what the fields say of shapes in words that are not read."""
    sizes = [key for key in _STATE_SIZES if fields.get(key) is not None]
    if sizes and not any(fields.get(key) for key in _STATES_READ):
        raise InvalidFile(
            f"{fields.where}: {sizes[0]} speaks of layers with a state, but no key that is read here says which: "
            f"state {', '.join(_STATES_READ)}"
        )
    unsaid = () if fields.get("use_sliding_window") is True else ("max_window_layers",)  # Qwen's, of windows in use
    for words in _SPOKEN:
        told = [
            key for key, value in stated_keys(fields)
            if words.pattern.search(key) and key not in (*words.read, *unsaid) and words.says(value)
        ]  # fmt: skip
        if told and all(fields.get(key) is None for key in words.read):
            raise InvalidFile(
                f"{fields.where}: {', '.join(told)[:200]} speak of {words.what}, but no key that is read here says "
                f"which: state {', '.join(words.read)}"
            )
    narrow = {fields.get(key) for key in ("embedding_size", "embedding_dim", "embed_dim", "emb_dim")}
    if other := [width for width in narrow if _whole(width) and width != fields.integer("d_model")]:
        raise InvalidFile(
            f"{fields.where}: an embedding is {other[0]} wide, a token {fields.integer('d_model')}: not modelled"
        )
    for name in ("n_layers", "n_heads", "n_kv_heads", "head_dim", "n_experts", "top_k"):
        counts = {key: value for key in NAMES[name] if type(value := fields.get(key)) is int}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{key} = {value}" for key, value in counts.items())
            raise InvalidFile(f"{fields.where}: {said}: one number under names that are read alike: keep one")
    for what, says, pattern in _NOT_MODELLED:
        told = [key for key, value in stated_keys(fields) if pattern.search(key) and says(value)]
        if told:
            raise InvalidFile(f"{fields.where}: {', '.join(told)[:200]}: {what}, which is not modelled")
