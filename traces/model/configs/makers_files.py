"""Shapes in the words of a model's makers, where a checkpoint has such a file beside, or in place of, `config.json`.

`params.json` of Mistral (mistral-common's names), `inference/config*.json` of DeepSeek, `original/config.json` of
gpt-oss. They state no `model_type`; their keys tell them apart. The names on the right are those of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_MISTRAL = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "hidden_dim": "intermediate_size", "tied_embeddings": "tie_word_embeddings",
}  # fmt: skip
_MISTRAL_EXPERTS = {
    "num_experts": "n_routed_experts", "expert_hidden_dim": "moe_intermediate_size",
    "num_shared_experts": "n_shared_experts", "route_every_n": "moe_layer_freq",
}  # fmt: skip
_DEEPSEEK = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "inter_dim": "intermediate_size", "moe_inter_dim": "moe_intermediate_size",
    "n_dense_layers": "first_k_dense_replace", "n_activated_experts": "num_experts_per_tok",
    "window_size": "sliding_window", "rope_head_dim": "qk_rope_head_dim",
}  # fmt: skip
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8": "bfloat16"}


_BY_CLASS = {"longcat_flash_ngram": "longcat_flash", "bailing_moe_v3": "bailing_hybrid"}
"""Types by their class in a file that states none: of LongCat-Flash-Lite and Ling 3."""


def in_common_names(config: Mapping[str, Any], known_types: Collection[str]) -> Mapping[str, Any]:
    """The configuration under the keys of transformers, with a `model_type`; as it is where it states one, or where
    neither its keys nor its class (`architectures`, of `known_types`) tell.
    """
    if config.get("model_type") == "bailing_hybrid" and _is_ling_2_5(config):
        return {**config, "model_type": "bailing_moe_v2_5"}
    if config.get("model_type") is not None:
        return config
    if "dim" in config and isinstance(config.get("moe"), dict):
        return _mistral(config)
    if "moe_inter_dim" in config and "dim" in config:
        return _deepseek(config)
    if "initial_context_length" in config and "experts_per_token" in config:
        return {"quantization_config": {"quant_method": "mxfp4"}, **config, "model_type": "gpt_oss"}
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"For[A-Z]\w*$", "", name)).lower()
    words = _BY_CLASS.get(words, words)
    return {**config, "model_type": words} if words in {*known_types, *_BY_CLASS.values()} else config


def _is_ling_2_5(config: Mapping[str, Any]) -> bool:
    """Whether a file is of Ling or Ring 2.5 and 2.6, whose lightning attention Ling 3 replaced under the same type."""
    return (
        "BailingMoeV2_5" in str(config.get("architectures"))
        and not any("kda" in key for key in config)
        and (config.get("linear_attention") in (None, "lightning"))
    )


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in config.items()}


def _mistral(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mixtral, or the layers of DeepSeek-V3 that Mistral Large 3 and Small 4 have."""
    experts = _renamed(config["moe"], _MISTRAL_EXPERTS)
    made = {**_renamed(config, _MISTRAL), **experts}
    made["model_type"] = "deepseek_v3" if config.get("kv_lora_rank") else "mixtral"
    stored = made.pop("quantization", None)
    if isinstance(stored, dict) and stored:
        eight = str(stored.get("qformat_weight", "")).startswith("fp8")
        made["quantization_config"] = {"quant_method": "fp8"} if eight else stored
    return made


def _deepseek(config: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSeek-V2 to V4; eight bits are stored in blocks of 128 x 128."""
    made = _renamed(config, _DEEPSEEK)
    kind = "v4" if "compress_ratios" in config else "v32" if config.get("index_topk") else "v3"
    made["model_type"] = f"deepseek_{kind}"
    stored = str(config.get("dtype", "fp8"))  # the default of their own code
    if stored == "fp8":
        made["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    made["dtype"] = _DTYPES.get(stored, stored)
    return {"tie_word_embeddings": False, **made}
