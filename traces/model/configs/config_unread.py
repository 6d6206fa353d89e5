"""What a `config.json` says that is not read: what would change sizes is refused, the rest is told in a note."""

from __future__ import annotations

import re
from typing import Any

from traces.errors import InvalidFile
from traces.model.configs.config_fields import Fields
from traces.model.configs.field_names import NAMES

__all__ = ["refuse_unread", "unread_notes"]

_SHARING = {
    "cla_share_factor": ("use_cla", 1, "layers share keys and values"),
    "num_kv_shared_layers": ("", 0, "layers share keys and values"),
    "experts_shared_frequency": ("", 1, "layers share experts"),
}
"""Keys by what they mean, above which value, and the flag that they count with."""

_STATE = re.compile(r"(^|_)(linear_att(n|ention)|mamba|ssm|rwkv\d*|gla|retention|lightning|delta(_net)?|kda)(_|$)")
_LATENT = re.compile(r"(^|_)kv_(lora|latent|compress\w*)_")


def refuse_unread(fields: Fields, *, checked: bool) -> None:
    """Raise `InvalidFile` for what no architecture here can say, or a type nobody has checked says in its own words."""
    for key, (flag, least, meaning) in _SHARING.items():
        value = fields.get(key)
        if type(value) is int and value > least and (not flag or fields.flag(flag)):
            raise InvalidFile(f"{fields.where}: {key} = {value}: {meaning}, which is not modelled")
    sources = fields.get("kv_source_layers")  # Mistral Large 4: the layer whose cache each layer reads
    compressed = isinstance(fields.get("compress_ratios"), list)  # where they are read
    if isinstance(sources, list) and sources != list(range(len(sources))) and not compressed:
        raise InvalidFile(f"{fields.where}: kv_source_layers: layers share keys and values, which is not modelled")
    if checked:
        return
    sizes = [key for key in _STATE_SIZES if fields.get(key) is not None]
    if sizes and not any(fields.get(key) for key in _STATES_READ):
        raise InvalidFile(
            f"{fields.where}: {sizes[0]} speaks of layers with a state, but no key that is read here says which: "
            f"state {', '.join(_STATES_READ)}"
        )
    for what, pattern, read in (
        ("layers with a state", _STATE, _STATES_READ),
        ("latent attention", _LATENT, NAMES["kv_lora_rank"]),
    ):
        told = [key for key, value in _stated(fields) if pattern.search(key) and _says_something(value)]
        if told and not any(fields.get(key) for key in read):
            raise InvalidFile(
                f"{fields.where}: {', '.join(told)[:200]} speak of {what}, but no key that is read here says which: "
                f"state {', '.join(read)}"
            )


_STATES_READ = (
    "layer_types", "layers_block_type", "hybrid_override_pattern", "attn_type_list", "linear_attn_config",
    "attn_layer_period", "full_attention_interval", "layer_group_size", "full_attention_layers",
)  # fmt: skip
"""Keys that say which layers have a state."""


_STATE_SIZES = ("linear_num_value_heads", "linear_num_key_heads", "mamba_n_heads", "mamba_num_heads", "mamba_d_state")
"""Sizes of what has a state."""


def _says_something(value: Any) -> bool:
    return (type(value) is int and value > 0) or (isinstance(value, (list, dict)) and bool(value)) or value is True


def _stated(fields: Fields) -> list[tuple[str, Any]]:
    return [item for document in fields.documents[:-1] or fields.documents for item in document.items()]


_DENOISED = re.compile("diffusion|llada|sdar|dream")
"""Types that denoise blocks of tokens."""

_READ = {name for names in NAMES.values() for name in names} | {"parallel_expert_intermediate_size"}
_WIDTH = re.compile(r"(expert|moe).*_(hidden|intermediate|latent|inner|ffn)_|(hidden|intermediate)_\w+_(expert|moe)")
"""A width of experts in words of its own: counts may be short of what it says."""
_HARMLESS = re.compile(r"capacity|group|parallel|_size_per|zero_expert|hash|first_k|pad")


def unread_notes(fields: Fields, *, checked: bool) -> list[str]:
    """What is left out of the reading, in words."""
    notes = []
    if _DENOISED.search(str(fields.get("model_type"))):
        notes.append("it refines blocks of tokens in several passes; a pass a token is predicted, as of other models")
    if fields.integers("ple_layer_ids") or fields.integers("engram_layer_ids"):
        notes.append("its tables of n-grams count as host memory, and what looks rows up costs nothing")
    if fields.get("kv_source_layer_ids") is not None:
        notes.append("a prompt runs through all layers, though an engine may leave out those whose keys nobody reads")
    free = fields.get("zero_expert_num")
    if type(free) is int and free > 0:
        notes.append(f"{free} of the experts that a token may choose compute nothing; every choice counts as computed")
    for key in NAMES["n_experts"]:
        counts = fields.get(key)
        if isinstance(counts, list) and len(counts) > 1 and fields.get("vision_config") is not None:
            notes.append(f"{key} = {str(counts)[:40]}: experts of other modalities are left out")
    other = sorted({
        key for key, value in _stated(fields) if type(value) is int and value > 1 and key not in _READ
        and (_WIDTH.search(key) or (not checked and "expert" in key and not _HARMLESS.search(key)))
    })  # fmt: skip
    if other:
        notes.append(f"not read: {', '.join(other)[:200]}")
    return notes
