"""Families read by new fields: experts of another width, adjugate experts, tables of n-grams, gates of attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read, read_file
from traces.errors import InvalidFile
from traces.model.architecture import load_architecture

FULL = [*range(4, 93, 4), 93]
"""Layers of Kimi K3 with latent attention, counted from 1; the others have a state."""


KIMI_K3: dict[str, Any] = {
    "model_type": "kimi_linear", "hidden_size": 7168, "intermediate_size": 33792, "num_hidden_layers": 93,
    "num_attention_heads": 96, "num_key_value_heads": 96, "num_experts": 896, "num_experts_per_token": 16,
    "num_shared_experts": 2, "moe_intermediate_size": 3072, "routed_expert_hidden_size": 3584,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "mla_use_output_gate": True, "vocab_size": 163840,
    "linear_attn_config": {
        "full_attn_layers": FULL, "kda_layers": [i for i in range(1, 94) if i not in FULL], "head_dim": 128,
        "num_heads": 96, "short_conv_kernel_size": 4, "use_full_rank_gate": True,
    },
}  # fmt: skip
"""moonshotai/Kimi-K3, 2.8 T in all: the text model of its `config.json`."""


def kimi_k3_by_hand(n_experts: int) -> int:
    """Parameters by the shapes of its tensors, `n_experts` of each MoE block."""
    d, width = 7168, 96 * 128
    state = 3 * width * (d + 4) + 128 * (d + width) + width + 96 + 96 * d + width * d + 128 + d * width
    latent = d * 1536 + 1536 + 1536 * 96 * 192 + d * 576 + 512 + 512 * 96 * 256 + 2 * d * width
    dense = 3 * d * 33792
    block = 896 * d + 3 * d * 6144 + 2 * d * 3584 + n_experts * 3 * 3584 * 3072
    return 24 * latent + 69 * state + 92 * block + dense + 93 * 2 * d + d + 2 * 163840 * d


def test_experts_of_kimi_k3_work_in_half_the_width(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", {"model_type": "kimi_k3", "text_config": KIMI_K3, "dtype": "bfloat16"})
    assert model.total_params == pytest.approx(kimi_k3_by_hand(896), rel=5e-4)
    assert model.active_params == pytest.approx(kimi_k3_by_hand(16), rel=5e-4)
    assert model.kv_bytes_per_token == 24 * 576 * 2


def test_a_type_that_is_not_stated_is_that_of_the_class(tmp_path: Path) -> None:
    stated = read(tmp_path)
    named = read(tmp_path, model_type=None, architectures=["Qwen2MoeForCausalLM"])
    assert (named.total_params, named.decoder) == (stated.total_params, stated.decoder)


def test_adjugate_experts_of_a_group_count_in_its_experts(tmp_path: Path) -> None:
    """GroveMoE-Inst (arXiv 2508.07785): 33 B in all, 3.14 to 3.28 B active without the tables (0.6 B)."""
    grove = {
        "model_type": "grove_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "tie_word_embeddings": False,
    }  # fmt: skip
    model = read_file(tmp_path, "config.json", grove)
    assert model.total_params == pytest.approx(32.95e9, rel=1e-3)
    assert 3.14e9 < model.active_params - 151936 * 2048 < 3.28e9


def test_tables_of_n_grams_lie_in_memory(tmp_path: Path) -> None:
    """LongCat-Flash-Lite (arXiv 2601.21204) has 31.4 B of them: 78 times its vocabulary of 131,072, 3,072 wide."""
    plain = read(tmp_path, model_type="other")
    more = read(tmp_path, model_type="other", ngram_vocab_size_ratio=78)
    assert more.total_params - plain.total_params == 78 * 100 * 64
    assert more.active_params == plain.active_params


def test_experts_in_lists_and_sections_of_llama_moe_and_moe_llava_are_read(tmp_path: Path) -> None:
    llama = read(
        tmp_path, model_type="llama_moe", moe_intermediate_size=None, num_experts_per_tok=None, mlp_only_layers=[],
        shared_expert_intermediate_size=None, num_selects=4, size_experts=[[16] * 8] * 4,
    )  # fmt: skip
    assert (llama.top_k, llama.d_ff_expert) == (4, 16)
    section = {"moe_enable": True, "num_experts": [6] * 2, "top_k_experts": 2, "moe_layers_idx": [0, 2]}
    llava = read(
        tmp_path, model_type="moe_llava_qwen", num_experts=None, num_experts_per_tok=None, moe_intermediate_size=None,
        shared_expert_intermediate_size=None, mlp_only_layers=None, moe=section,
    )  # fmt: skip
    assert (llava.n_experts, llava.top_k, llava.d_ff_expert, llava.decoder.moe_layers) == (6, 2, 128, (0, 2))


def test_a_width_of_experts_that_is_not_read_is_told_whatever_the_type(tmp_path: Path) -> None:
    assert "not read: moe_inner_ffn_size" in read(tmp_path, moe_inner_ffn_size=16).note
    assert "not read" not in read(tmp_path).note


@pytest.mark.parametrize(
    ("name", "as_named"),
    [
        ("deepseek-v2.5", "deepseek-v2"),
        ("intellect-3", "glm-4.5-air"),
        ("llama-4-maverick-17b-128e-instruct", "llama-4-maverick"),
    ],
)
def test_models_that_others_were_trained_from_have_their_shapes(name: str, as_named: str) -> None:
    assert load_architecture(name).total_params == load_architecture(as_named).total_params


def test_maverick_is_what_its_configuration_says(tmp_path: Path) -> None:
    text = {
        "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 202048, "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
    }  # fmt: skip
    read_in = read_file(tmp_path, "config.json", {"model_type": "llama4", "text_config": text, "dtype": "bfloat16"})
    shipped = load_architecture("llama-4-maverick")
    assert (shipped.total_params, shipped.active_params) == (read_in.total_params, read_in.active_params)


@pytest.mark.parametrize(("width", "d_expert"), [(32, 32), (64, 0), (96, 96), (128, 128)])
def test_experts_may_work_in_a_wider_space_than_the_model(width: int, d_expert: int, tmp_path: Path) -> None:
    """64 is the model's own."""
    assert read(tmp_path, routed_expert_hidden_size=width).d_expert == d_expert


QWEN4_EXP: dict[str, Any] = {
    "model_type": "qwen4_exp_text", "vocab_size": 248320, "hidden_size": 2560, "num_hidden_layers": 48,
    "full_attention_interval": 4, "num_attention_heads": 24, "num_key_value_heads": 2, "head_dim": 256,
    "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 640,
    "shared_expert_intermediate_size": 640, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "hc_count": 4, "hc_lowrank": 320, "indexer_budget": 2048,
    "indexer_compress_ratio": 4, "indexer_head_dim": 128, "indexer_n_heads": 4, "indexer_kv_heads": 1, "ngram_size": 3,
    "ngram_vocab_size_base": 20_000_000, "heads_per_ngram": 8, "ple_layer_ids": [2], "ple_embed_dim": 2560,
    "tie_word_embeddings": False,
}  # fmt: skip
"""Qwen/Qwen3.8-Flash-Next: the text model of its `config.json`."""


def test_tables_of_hashed_n_grams_lie_in_host_memory_and_low_rank_streams_in_hbm(tmp_path: Path) -> None:
    document = {"model_type": "qwen4_exp", "text_config": QWEN4_EXP, "dtype": "bfloat16"}
    model = read_file(tmp_path, "config.json", document)
    without = read_file(tmp_path, "config.json", document | {"text_config": QWEN4_EXP | {"ple_layer_ids": []}})
    d = 2560
    streams = 97 * 2 * 4 * d * 320 + 48 * 2 * 4 * 4 * d
    assert without.other_params == streams
    assert (model.other_params, model.table_params) == (streams + d * 5 * d, 16 * 20_000_000 * 160)
    assert model.total_bytes - without.total_bytes == 2 * (model.table_params + d * 5 * d)
    assert model.non_expert_bytes - without.non_expert_bytes == 2 * d * 5 * d
    assert "tables of n-grams count as host memory" in model.note
    assert "n-grams" not in without.note
    assert model.total_params == pytest.approx(176.94e9, rel=5e-4)  # its class of transformers on the meta device
    full = model.decoder.attention
    assert (full.index_heads, full.index_dim, full.index_topk, full.output_gate) == (4, 128, 2048, 24 * 256)


PLAIN: dict[str, Any] = {
    "model_type": "sdar_moe", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_model_that_denoises_blocks_says_what_is_predicted(tmp_path: Path) -> None:
    assert "refines blocks of tokens in several passes" in read_file(tmp_path, "config.json", PLAIN).note
    assert "refines" not in read_file(tmp_path, "config.json", PLAIN | {"model_type": "olmoe"}).note


@pytest.mark.parametrize(
    "stated",
    [
        {"model_type": "openai_privacy_filter", "architectures": ["OpenAIPrivacyFilterForTokenClassification"]},
        {"model_type": "openai_privacy_filter"},
        {"model_type": "nomic_bert"},
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForTokenClassification"]},
    ],
)
def test_a_model_that_generates_no_tokens_is_refused_by_name(stated: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=rf"a {stated['model_type']} model.* of a text and generates none"):
        read_file(tmp_path, "config.json", PLAIN | stated)


def test_experts_that_are_switched_off_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="is dense, it has no experts"):
        read_file(tmp_path, "config.json", PLAIN | {"model_type": "gemma4_text", "enable_moe_block": False})


def test_windowed_layers_of_step_have_heads_of_their_own(tmp_path: Path) -> None:
    document = PLAIN | {
        "model_type": "step3p7", "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8,
        "num_attention_groups": 2, "num_key_value_heads": None, "share_expert_dims": 48, "first_k_dense_replace": 0,
        "attention_other_setting": {
            "attention_type": "sliding_attention", "num_attention_heads": 8, "num_attention_groups": 4, "head_dim": 16,
        },
    }  # fmt: skip
    model = read_file(tmp_path, "config.json", document | {"head_dim": 16, "moe_num_experts": 8, "moe_top_k": 2})
    full, windowed = model.decoder.mixer(0), model.decoder.mixer(1)
    assert (full.n_heads, full.n_kv_heads) == (4, 2)
    assert (windowed.n_heads, windowed.n_kv_heads, windowed.window) == (8, 4, 8)
    assert model.d_ff_shared == 48


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"per_layer_config": [1]}, "per_layer_config is not a mapping of mappings"),
        ({"per_layer_config": {"0": 1}}, "per_layer_config is not a mapping of mappings"),
        ({"hc_count": 65}, "hc_count = 65, expected 0 to 64 residual streams"),
        ({"ple_layer_ids": [1], "hc_count": 4, "ngram_size": 1}, "ngram_size = 1 is below 2"),
        (
            {"indexer_types": 5, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4},
            "indexer_types is neither a list nor letters",
        ),
    ],
)
def test_new_fields_of_another_type_are_named(stated: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=message):
        read_file(tmp_path, "config.json", PLAIN | stated)


LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


def test_layers_of_full_attention_may_be_listed_alone(tmp_path: Path) -> None:
    """GigaChat 3.5 and its like: every other layer has a state; attention has a gate of each channel."""
    stated = PLAIN | LINEAR | {"model_type": "gigachat3_5", "gated_attention": True}
    model = read_file(tmp_path, "config.json", stated | {"full_attention_layers": [1]})
    assert [mixer.kind for mixer in model.decoder.all_mixers] == ["gated_delta_net", "gqa"]
    assert model.decoder.attention.output_gate == 64
    assert model.kv_bytes_per_token == 2 * 2 * 2 * 16
    with pytest.raises(InvalidFile, match="linear_num_value_heads speaks of layers with a state, but no key"):
        read_file(tmp_path, "config.json", stated)


def test_a_gate_of_attention_that_is_stated_is_read_whatever_the_type(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", PLAIN | {"model_type": "berrylm", "attn_output_gate": True})
    assert model.decoder.attention.output_gate == 64
    off = read_file(tmp_path, "config.json", PLAIN | {"model_type": "berrylm", "attn_output_gate": False})
    assert off.decoder.attention.output_gate == 0


def test_compressed_attention_is_told_by_its_ratios_whatever_the_type(tmp_path: Path) -> None:
    """DeepSeek-V4.1 has the fields of DeepSeek-V4 in a model of text and pictures."""
    text = PLAIN | {
        "model_type": "deepseek_v41_text", "num_key_value_heads": 1, "head_dim": 16, "q_lora_rank": 32, "o_groups": 2,
        "o_lora_rank": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 3, "sliding_window": 8, "hc_mult": 2,
        "compress_ratios": [0, 4], "n_shared_experts": 1,
    }  # fmt: skip
    found = read_file(tmp_path, "config.json", {"model_type": "deepseek_v41", "text_config": text})
    same = read_file(tmp_path, "config.json", text | {"model_type": "deepseek_v4"})
    assert found.decoder == same.decoder
    assert found.total_params == same.total_params
