"""The names that different families give the same field of a `config.json`."""

from __future__ import annotations

NAMES: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size", "d_model", "n_embd", "dim"),
    "n_layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer"),
    "n_heads": ("num_attention_heads", "n_heads", "n_head"),
    "n_kv_heads": (
        "num_key_value_heads", "kv_n_heads", "n_kv_heads", "num_attention_groups", "num_kv_heads", "n_head_kv",
        "n_kv_head", "num_query_groups", "multi_query_group_num",
    ),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim", "head_size", "d_head", "attention_head_size"),
    "n_experts": (
        "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_moe_experts", "n_experts",
        "moe_num_primary_experts", "num_routed_experts",
    ),
    "top_k": (
        "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts",
        "experts_per_token", "num_selected_experts", "n_activated_experts", "moe_num_active_primary_experts",
        "num_selects", "experts_top_k",
    ),
    "d_ff_expert": (
        "moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", "expert_intermediate_size",
        "size_experts",
    ),
    "d_expert": ("moe_hidden_size", "moe_latent_size", "routed_expert_hidden_size"),
    "d_ff": ("intermediate_size", "ffn_hidden_size", "d_ff"),
    "d_ff_dense": ("dense_intermediate_size", "intermediate_size_mlp"),
    "n_shared": (
        "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert", "n_shared_expert",
    ),
    "kv_lora_rank": ("kv_lora_rank", "attention_kv_lora_dim"),
    "q_lora_rank": ("q_lora_rank", "attention_q_lora_dim"),
    "qk_nope_head_dim": ("qk_nope_head_dim", "attention_qk_dim"),
    "qk_rope_head_dim": ("qk_rope_head_dim", "attention_qk_rope_dim"),
    "v_head_dim": ("v_head_dim", "attention_v_dim"),
    "d_ff_shared": (
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
        "share_expert_dims", "shared_intermediate_size", "shared_experts_intermediate_size",
    ),
    "index_heads": ("index_n_heads", "indexer_n_heads", "sparse_num_index_heads"),
    "index_dim": ("index_head_dim", "indexer_head_dim", "sparse_index_dim"),
    "index_topk": ("index_topk", "indexer_budget"),
    "index_topk_blocks": ("index_topk_blocks", "sparse_topk_blocks"),
    "index_block": ("index_block_size", "sparse_block_size"),
    "window": ("sliding_window", "attention_chunk_size", "sliding_window_size"),
    "sparse_step": (
        "decoder_sparse_step", "moe_every_n_layers", "moe_layer_frequency", "moe_expert_interval",
        "moe_frequency", "expert_interval", "moe_layer_interval",
    ),
    "n_free_experts": ("zero_expert_num", "num_zero_experts", "n_zero_experts", "num_null_experts"),
    "first_dense": (
        "first_k_dense_replace", "num_dense_layers", "n_dense_layers", "first_dense_layers", "dense_mlp_idx",
        "n_dense_first_layers",
    ),
}  # fmt: skip
"""Our name of a field: the keys that it is found under, the commonest first."""

TIED = (
    "tie_word_embeddings", "tie_embedding", "tie_embeddings", "tied_embeddings", "tie_weights", "tie_lm_head",
    "share_embeddings", "weight_tying",
)  # fmt: skip
"""Keys that say whether the head is the embedding."""
