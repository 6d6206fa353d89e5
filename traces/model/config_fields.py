"""Fields of a `config.json` under the names that different families give them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traces.errors import InvalidFile

__all__ = ["NAMES", "Fields", "text_model"]

NAMES: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size", "d_model", "n_embd", "dim"),
    "n_layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer"),
    "n_heads": ("num_attention_heads", "n_heads", "n_head"),
    "n_kv_heads": ("num_key_value_heads", "kv_n_heads", "n_kv_heads", "num_attention_groups"),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim"),
    "n_experts": (
        "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_moe_experts", "n_experts",
        "moe_num_primary_experts",
    ),
    "top_k": (
        "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts",
        "experts_per_token", "num_selected_experts", "n_activated_experts", "moe_num_active_primary_experts",
    ),
    "d_ff_expert": (
        "moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", "expert_intermediate_size",
    ),
    "d_ff": ("intermediate_size", "ffn_hidden_size", "d_ff"),
    "d_ff_dense": ("dense_intermediate_size", "intermediate_size_mlp"),
    "n_shared": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "d_ff_shared": (
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
        "shared_intermediate_size",
    ),
    "window": ("sliding_window", "attention_chunk_size", "sliding_window_size"),
    "first_dense": ("first_k_dense_replace", "num_dense_layers", "n_dense_layers", "first_dense_layers"),
}  # fmt: skip
"""Our name of a field: the keys that it is found under, the commonest first."""

_TEXT_MODELS = ("text_config", "llm_config", "language_config", "thinker_config", "language_model", "text_model_config")
_NESTED = ("ffn_config", "attn_config", "moe_config")


def text_model(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The language model in the configuration of a multimodal one, however deep; the configuration itself otherwise."""
    for key in _TEXT_MODELS:
        inner = config.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise InvalidFile(f"{where}: {key} is not a mapping")
        if inner:
            return text_model(inner, where)
    return config


@dataclass(frozen=True, slots=True)
class Fields:
    """The text model's keys, then those of the whole document, then those of nested sections (DBRX).

    `where` is the file. A list is taken as its first item: families that may state a value a layer have them all alike,
    or state those of another modality after.
    """

    documents: tuple[Mapping[str, Any], ...]
    where: str

    @classmethod
    def of(cls, text: Mapping[str, Any], whole: Mapping[str, Any], where: str) -> Fields:
        """The fields of `text`, the language model in `whole`."""
        nested = tuple(text[key] for key in _NESTED if isinstance(text.get(key), dict))
        return cls((text, *nested, *(() if whole is text else (whole,))), where)

    def get(self, key: str) -> Any:
        """The raw value of a key, None where it is null or absent."""
        return next((document[key] for document in self.documents if document.get(key) is not None), None)

    def integer(self, name: str, default: int | None = None, *, minimum: int = 0) -> int:
        """A whole number by our name of the field, or by a key. Raises `InvalidFile` when it is missing or wrong."""
        keys = NAMES.get(name, (name,))
        for key in keys:
            value = self.get(key)
            if isinstance(value, list) and value:
                value = value[0]
            if value is None:
                continue
            if type(value) is not int:
                raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not an integer")
            if value < minimum:
                raise InvalidFile(f"{self.where}: {key} = {value} is below {minimum}")
            return value
        if default is not None:
            return default
        raise InvalidFile(
            f"{self.where}: key {keys[0]!r} is missing" + (f" (or {', '.join(keys[1:])})" if keys[1:] else "")
        )

    def flag(self, *keys: str, default: bool = False) -> bool:
        """True or false under any of `keys`."""
        for key in keys:
            value = self.get(key)
            if value is None:
                continue
            if not isinstance(value, bool):
                raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not true or false")
            return value
        return default

    def texts(self, key: str) -> list[str]:
        """A list of words; empty when absent."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidFile(f"{self.where}: {key} is not a list of words")
        return value

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers; empty when absent."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise InvalidFile(f"{self.where}: {key} holds something that is not an integer")
        return value
