"""What a model's own class assumes for a shape that a `config.json` does not state.

From the configuration classes of huggingface/transformers 5.24, src/transformers/models/<model_type>: those defaults
alone that a reading of the other fields would not give. tests/hf holds them against the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traces.model.configs.field_names import NAMES

CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "afmoe": {"moe_intermediate_size": 1408, "num_dense_layers": 1, "num_shared_experts": 2, "sliding_window": 1024,
        "layers": "SSSF"},
    "aria_text": {"moe_num_shared_experts": 2},
    "axk1": {"first_k_dense_replace": 1, "kv_lora_rank": 512, "moe_intermediate_size": 2048, "n_shared_experts": 1,
        "q_lora_rank": 1536},
    "axk2": {"first_k_dense_replace": 1, "index_head_dim": 128, "index_n_heads": 16, "index_topk": 2048,
        "kv_lora_rank": 128, "moe_intermediate_size": 512, "n_shared_experts": 1, "q_lora_rank": 384},
    "bailing_hybrid": {"kv_lora_rank": 512, "moe_intermediate_size": 768, "num_shared_experts": 1,
        "layers": "LLLLLF"},
    "bailing_moe_v2_5": {"kv_lora_rank": 512, "num_shared_experts": 1, "layers": "LLLLF"},
    "beam": {"first_k_dense_replace": 3, "head_dim": 128, "moe_intermediate_size": 2560, "num_key_value_heads": 8,
        "sliding_window": 512, "layers": "|SSSSSF|F"},
    "cohere2_moe": {"sliding_window": 4096, "tie_word_embeddings": True, "layers": "SSSF"},
    "deepseek_v2": {"kv_lora_rank": 512, "moe_intermediate_size": 1407, "n_shared_experts": 2, "q_lora_rank": 1536},
    "deepseek_v3": {"first_k_dense_replace": 3, "kv_lora_rank": 512, "moe_intermediate_size": 2048,
        "n_shared_experts": 1, "q_lora_rank": 1536},
    "deepseek_v32": {"index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, "kv_lora_rank": 512,
        "moe_intermediate_size": 2048, "n_shared_experts": 1, "q_lora_rank": 1536},
    "deepseek_v4": {"hc_mult": 4, "head_dim": 512, "n_shared_experts": 1, "num_key_value_heads": 1,
        "q_lora_rank": 1024},
    "diffusion_gemma_text": {"attention_k_eq_v": True, "enable_moe_block": True, "global_head_dim": 512,
        "head_dim": 256, "num_key_value_heads": 4, "sliding_window": 512, "tie_word_embeddings": True,
        "layers": "SSSSSF"},
    "dots1": {"moe_intermediate_size": 1408, "n_shared_experts": 2},
    "ernie4_5_moe": {"moe_intermediate_size": 1536, "moe_layer_start_index": 1, "moe_num_shared_experts": 2,
        "num_key_value_heads": 4, "tie_word_embeddings": True},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": 1536, "moe_layer_start_index": 1, "moe_num_shared_experts": 2,
        "num_key_value_heads": 4},
    "exaone_moe": {"moe_intermediate_size": 1024, "num_shared_experts": 1, "sliding_window": 4096, "layers": "SSSF"},
    "flint": {"head_dim": 128, "mlp_only_layers": [0, 1], "moe_intermediate_size": 512, "num_key_value_heads": 4,
        "shared_expert_intermediate_size": 1024, "sliding_window": 513, "layers": "FF|SSSF|F"},
    "glm4_moe": {"first_k_dense_replace": 1, "moe_intermediate_size": 1408, "n_shared_experts": 1,
        "num_key_value_heads": 8},
    "glm4_moe_lite": {"first_k_dense_replace": 1, "kv_lora_rank": 512, "moe_intermediate_size": 1536,
        "n_shared_experts": 1, "q_lora_rank": 768},
    "glm4v_moe_text": {"attention_bias": True, "first_k_dense_replace": 1, "moe_intermediate_size": 1408,
        "n_shared_experts": 1, "num_key_value_heads": 8},
    "glm5_next_text": {"first_k_dense_replace": 3, "hc_mult": 4, "index_head_dim": 128, "index_n_heads": 32,
        "index_topk": 2048, "moe_intermediate_size": 2048, "n_shared_experts": 1, "q_lora_rank": 1536,
        "layers": "LLLF"},
    "glm_moe_dsa": {"index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048, "kv_lora_rank": 512,
        "moe_intermediate_size": 2048, "n_shared_experts": 1, "q_lora_rank": 2048},
    "gpt_oss": {"head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128, "layers": "SF"},
    "granitemoe_swa": {"sliding_window": 128, "layers": "FSSS"},
    "granitemoehybrid": {"mamba_n_heads": 128, "shared_intermediate_size": 1024, "layers": "L"},
    "hy_v3": {"first_k_dense_replace": 1, "head_dim": 128, "moe_intermediate_size": 1536, "num_key_value_heads": 8,
        "num_shared_experts": 1},
    "hy_v4": {"first_k_dense_replace": 1, "hc_mult": 4, "index_head_dim": 128, "index_n_heads": 16,
        "index_topk": 2048, "index_topk_freq": 4, "kv_lora_rank": 512, "moe_intermediate_size": 768,
        "n_shared_experts": 1, "q_lora_rank": 1536},
    "hy_v4_vl_text": {"first_k_dense_replace": 1, "hc_mult": 4, "index_head_dim": 128, "index_n_heads": 32,
        "index_topk": 2048, "index_topk_freq": 4, "kv_lora_rank": 512, "moe_intermediate_size": 2048,
        "n_shared_experts": 1, "q_lora_rank": 2048},
    "inkling2_loop_text": {"head_dim": 128, "num_key_value_heads": 8, "sliding_window_size": 1024,
        "layers": "SSSSSF"},
    "inkling2_text": {"head_dim": 128, "num_key_value_heads": 8, "sliding_window_size": 1024, "layers": "SSSSSF"},
    "inkling_text": {"head_dim": 128, "moe_intermediate_size": 3072, "n_shared_experts": 2, "num_key_value_heads": 8,
        "sliding_window_size": 512, "swa_num_key_value_heads": 16, "layers": "SSSSSF"},
    "jamba": {"attn_layer_offset": 4, "attn_layer_period": 8, "expert_layer_offset": 1, "expert_layer_period": 2,
        "mamba_d_state": 16, "num_key_value_heads": 8},
    "jetmoe": {"kv_channels": 128, "num_key_value_heads": 16, "tie_word_embeddings": True},
    "kimi_linear": {"first_k_dense_replace": 1, "kv_lora_rank": 512, "linear_num_heads": 32,
        "moe_intermediate_size": 1024, "num_shared_experts": 1, "layers": "L|LLLF"},
    "kolibri1": {"head_dim": 128, "num_key_value_heads": 4, "shared_expert_intermediate_size": 512,
        "sliding_window": 513, "layers": "SSSSF"},
    "laguna": {"first_k_dense_replace": 1, "gating": True, "head_dim": 128, "moe_intermediate_size": 512,
        "num_key_value_heads": 8, "shared_expert_intermediate_size": 512},
    "lara_mini": {"head_dim": 128, "linear_num_value_heads": 16, "num_key_value_heads": 4,
        "shared_expert_intermediate_size": 512, "sliding_window": 512, "tie_word_embeddings": True,
        "layers": "LSLFS"},
    "lfm2_moe": {"conv_L_cache": 3, "moe_intermediate_size": 1792, "num_dense_layers": 2, "num_key_value_heads": 8,
        "tie_word_embeddings": True},
    "llama4_text": {"attention_chunk_size": 8192, "num_key_value_heads": 8, "layers": "SSSF"},
    "mellum": {"head_dim": 128, "moe_intermediate_size": 896, "num_key_value_heads": 4},
    "mimo_v2_flash": {"first_k_dense_replace": 1, "head_dim": 192, "moe_intermediate_size": 2048,
        "num_key_value_heads": 4, "sliding_window": 129, "v_head_dim": 128, "layers": "F|SSSSFS"},
    "minimax": {"num_key_value_heads": 8, "layers": "FL"},
    "minimax_m2": {"head_dim": 128, "num_key_value_heads": 8},
    "minimax_m3_vl_text": {"head_dim": 128, "num_key_value_heads": 4, "shared_intermediate_size": 3072},
    "mistral4": {"kv_lora_rank": 256, "moe_intermediate_size": 2048, "n_shared_experts": 1, "q_lora_rank": 1024,
        "qk_rope_head_dim": 64},
    "mistral_large4_text": {"index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048, "kv_lora_rank": 512,
        "moe_intermediate_size": 6144, "n_shared_experts": 1},
    "mixtral": {"num_key_value_heads": 8},
    "muse_spark_text": {"moe_hidden_size": 4096, "moe_intermediate_size": 4096, "num_key_value_heads": 16,
        "sliding_window": 2048, "layers": "SFSS"},
    "nemotron_h": {"mamba_num_heads": 128, "moe_intermediate_size": 7688, "n_groups": 8, "num_key_value_heads": 8},
    "phimoe": {"num_key_value_heads": 8},
    "qwen2_moe": {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
    "qwen3_5_moe_text": {"head_dim": 256, "linear_num_value_heads": 32, "num_key_value_heads": 2,
        "shared_expert_intermediate_size": 512, "layers": "LLLF"},
    "qwen3_moe": {"moe_intermediate_size": 768, "num_key_value_heads": 4},
    "qwen3_next": {"head_dim": 256, "linear_num_value_heads": 32, "moe_intermediate_size": 512,
        "num_key_value_heads": 2, "shared_expert_intermediate_size": 512, "layers": "LLLF"},
    "qwen3_omni_moe_text": {"moe_intermediate_size": 768, "num_key_value_heads": 4},
    "qwen3_vl_moe": {"tie_word_embeddings": False},
    "qwen3_vl_moe_text": {"moe_intermediate_size": 1408},
    "qwen4_exp_text": {"hc_count": 4, "head_dim": 256, "linear_num_value_heads": 32, "moe_intermediate_size": 512,
        "num_key_value_heads": 2, "shared_expert_intermediate_size": 512, "layers": "LLLF"},
    "sarvam_mla": {"first_k_dense_replace": 1, "kv_lora_rank": 512, "moe_intermediate_size": 2048,
        "n_shared_experts": 1},
    "sarvam_moe": {"first_k_dense_replace": 1, "moe_intermediate_size": 1024, "n_shared_experts": 1,
        "num_key_value_heads": 4},
    "solar_open": {"head_dim": 128, "n_shared_experts": 1, "num_key_value_heads": 8},
    "step3p5": {"first_k_dense_replace": 3, "head_dim": 128, "moe_intermediate_size": 1280, "num_key_value_heads": 8,
        "share_expert_dim": 1280},
    "unlimited_ocr_text": {"first_k_dense_replace": 1, "moe_intermediate_size": 896, "n_shared_experts": 2,
        "sliding_window": 128, "layers": "S"},
    "zaya": {"head_dim": 128, "num_key_value_heads": 2, "tie_word_embeddings": True},
}  # fmt: skip
"""By model type and key. "layers": what mixes the tokens of each layer, S in a window, F over all, L with a state; what
stands after a bar repeats, but for the last layers where there is a second bar.
"""

_WRAPPED = {"inkling_mm_model": "inkling_text", "longcat_flash_ngram": "longcat_flash"}
_SAME_CLASS = {**_WRAPPED, "kimi_k2": "deepseek_v3", "kimi_k25": "deepseek_v3"}

_SAID_OTHERWISE = {
    "index_topk_freq": ("indexer_types", "index_topk_pattern"),
    "first_k_dense_replace": (
        "mlp_layer_types", "moe_layer_freq", "moe_layer_layout", "moe_layers_enum", "moe_layers", "mlp_only_layers",
    ),
    "linear_num_heads": ("linear_attn_config",),
    "moe_intermediate_size": ("dense_intermediate_size",),
    "mamba_n_heads": ("mamba_num_heads",),
    "moe_layer_start_index": ("first_k_dense_replace", "mlp_layer_types", "mlp_only_layers"),
    "shared_expert_intermediate_size": NAMES["n_shared"],
}  # fmt: skip
"""Keys that say in another way what a key says."""


def of_class(model_type: str) -> str:
    """The type under which a type's class stands here; its own name where there is none other."""
    return _WRAPPED.get(model_type, model_type)


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """What the class of a type assumes; nothing for a type that is not known."""
    return CLASS_DEFAULTS.get(_SAME_CLASS.get(model_type, model_type), {})


def assumed(model_type: str, documents: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    """The defaults that hold, as no document states the key: under no name of it, not even as null."""
    found = {}
    for key, value in class_defaults(model_type).items():
        names = next((keys for keys in NAMES.values() if key in keys), (key,))
        names += _SAID_OTHERWISE.get(key, ())
        if key != "layers" and not any(name in document for name in names for document in documents):
            found[key] = value
    return found


def layer_letters(model_type: str, n_layers: int) -> str:
    """The letters of `n_layers` layers of a type that states none; empty where its class has full attention."""
    first, repeated, last = [*class_defaults(model_type).get("layers", "").split("|"), "", ""][:3]
    if not repeated:
        first, repeated = "", first
    letters = (first + repeated * n_layers)[:n_layers] if repeated else ""
    return letters[: n_layers - len(last)] + last if letters else ""
