"""Configurations of a tiny model of each type, in the words of transformers' own classes."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}

T5 = {
    "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 4, "num_decoder_layers": 4,
    "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "num_experts": 6,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
DEEPSEEK = LATENT | {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 2,
    "topk_group": 1, "num_key_value_heads": 4,
}  # fmt: skip
NLLB = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_experts": 6,
    "encoder_sparse_step": 2, "decoder_sparse_step": 2, "max_position_embeddings": 64, "pad_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}

QWEN = {"num_experts": 8, "num_experts_per_tok": 3, "decoder_sparse_step": 1}

MODELS: dict[str, dict[str, Any]] = {
    "mixtral": SMALL | LOCAL,
    "qwen2_moe": SMALL | QWEN | {"shared_expert_intermediate_size": 24},
    "qwen3_moe": SMALL | QWEN,
    "olmoe": SMALL | {"num_experts": 6, "num_experts_per_tok": 2},
    "phimoe": SMALL | LOCAL,
    "gpt_oss": SMALL | LOCAL | {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4},
    "deepseek_v2": SMALL | DEEPSEEK,
    "deepseek_v3": SMALL | DEEPSEEK,
    "glm4_moe": SMALL | {"n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1},
    "granitemoe": SMALL | LOCAL,
    "ernie4_5_moe": SMALL | {"moe_num_experts": 6, "moe_k": 2, "moe_layer_start_index": 0, "moe_num_shared_experts": 0},
    "switch_transformers": T5,
    "nllb-moe": NLLB,
}

MIXED = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}

ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}

MORE: dict[str, dict[str, Any]] = {
    "afmoe": SMALL | QWEN | {
        "num_dense_layers": 1, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "axk1": SMALL | DEEPSEEK,
    "bailing_hybrid": SMALL | LATENT | {
        "num_experts": 16, "n_group": 2, "topk_group": 1, "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "cohere2_moe": SMALL | {"num_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v32": SMALL | DEEPSEEK,
    "deepseek_v4": SMALL | {"num_local_experts": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "o_groups": 2},
    "dots1": SMALL | ROUTED | {"first_k_dense_replace": 1},
    "exaone_moe": SMALL | QWEN,
    "flex_olmo": SMALL | {"num_experts": 8, "num_experts_per_tok": 2},
    "flint": SMALL | QWEN,
    "glm4_moe_lite": SMALL | DEEPSEEK,
    "glm_moe_dsa": SMALL | DEEPSEEK,
    "granitemoe_swa": SMALL | LOCAL,
    "granitemoeshared": SMALL | LOCAL,
    "hunyuan_v1_moe": SMALL | {"num_experts": 8, "moe_topk": 2},
    "hy_v3": SMALL | {"num_experts": 8, "num_experts_per_tok": 2},
    "hy_v4": SMALL | LATENT | ROUTED,
    "jamba": SMALL | {
        "num_experts": 8, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "num_hidden_layers": 4, "use_mamba_kernels": False,
    },
    "jetmoe": SMALL | LOCAL,
    "kimi_linear": SMALL | LATENT | MIXED | {"num_experts": 16, "topk_group": 1, "num_key_value_heads": 4},
    "kolibri1": SMALL | LOCAL,
    "laguna": SMALL | {"num_experts": 8, "num_experts_per_tok": 2},
    "lara_mini": SMALL | LOCAL,
    "lfm2_moe": SMALL | {
        "num_experts": 8, "num_experts_per_tok": 2, "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "llama4_text": SMALL | LOCAL,
    "mellum": SMALL | LOCAL,
    "mimo_v2_flash": SMALL | {"v_head_dim": 8, "n_routed_experts": 8, "num_experts_per_tok": 2},
    "minimax": SMALL | LOCAL,
    "minimax_m2": SMALL | LOCAL,
    "nemotron_h": SMALL | ROUTED | {
        "layer_types": ["linear_attention", "moe", "full_attention", "mlp"], "num_hidden_layers": 4,
    },
    "qwen3_5_moe_text": SMALL | QWEN | MIXED,
    "qwen3_next": SMALL | QWEN | MIXED,
    "sarvam_mla": SMALL | DEEPSEEK,
    "sarvam_moe": SMALL | ROUTED | {"first_k_dense_replace": 1},
    "solar_open": SMALL | ROUTED,
    "zaya": SMALL | {"num_experts": 8, "num_experts_per_tok": 1},
}  # fmt: skip
"""What else the importer reads."""
