"""What a `config.json` says that is not read: what would change sizes is refused, the rest is told in a note."""

from __future__ import annotations

import re

from traces.errors import InvalidFile
from traces.model.configs.config_fields import Fields
from traces.model.configs.config_other_words import WINDOWS_READ, refuse_other_words, stated_keys
from traces.model.configs.field_names import NAMES, TIED

_SHARING = {
    "cla_share_factor": ("use_cla", 1, "layers share keys and values"),
    "num_kv_shared_layers": ("", 0, "layers share keys and values"),
    "experts_shared_frequency": ("", 1, "layers share experts"),
    "num_noise_heads": ("", 0, "some heads are subtracted from others (differential attention)"),
}
"""Keys by what they mean, above which value, and the flag that they count with."""


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
    refuse_other_words(fields)


_DENOISED = re.compile("diffusion|llada|sdar|dream")
"""Types that denoise blocks of tokens."""

_READ = {name for names in NAMES.values() for name in names} | {
    "parallel_expert_intermediate_size", "mova_num_experts", "mova_num_experts_per_tok",
}  # fmt: skip
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
    free = fields.integer("n_free_experts", 0)
    if free:
        notes.append(
            f"{free} of the experts that a token may choose compute nothing: so do as many of its choices, on average"
        )
    for key in NAMES["n_experts"]:
        counts = fields.get(key)
        if isinstance(counts, list) and len(counts) > 1 and fields.get("vision_config") is not None:
            notes.append(f"{key} = {str(counts)[:40]}: experts of other modalities are left out")
    notes += [] if checked else _taken_for_granted(fields)
    other = sorted({
        key for key, value in stated_keys(fields) if type(value) is int and value > 1 and key not in _READ
        and (_WIDTH.search(key) or (not checked and "expert" in key and not _HARMLESS.search(key)))
    })  # fmt: skip
    if other:
        notes.append(f"not read: {', '.join(other)[:200]}")
    return notes


_UNGATED = ("relu2", "squared_relu", "sqrelu", "gelu", "gelu_new", "quick_gelu", "gelu_fast")
"""Activations of FFNs that mostly have no gate, and so two matrices."""


def _taken_for_granted(fields: Fields) -> list[str]:
    """What a type that nobody checked leaves open, and how it is taken."""
    notes = []
    if all(fields.get(key) is None for key in TIED):
        notes.append("whether head and embedding are one is not stated: taken as two")
    notes += [
        f"{key} = {fields.get(key)}: an FFN is taken to have a gate, three matrices"
        for key in ("hidden_act", "mlp_hidden_act", "hidden_activation", "activation_function")
        if str(fields.get(key)).lower() in _UNGATED
    ]
    placed = any(fields.get(key) for key in WINDOWS_READ) or fields.get("use_sliding_window") is False
    for key, value in stated_keys(fields):
        within = type(value) is int and 0 < value < fields.integer("max_position_embeddings", 1 << 30)
        if _WINDOW.search(key) and within and not placed:
            notes.append(f"{key} = {value}: no key says which layers see a window, so all see everything")
    return notes


_WINDOW = re.compile(r"(^|_)window(_size|_len(gth)?)?$")
