"""Families read by new fields: experts of a narrower width, adjugate experts, tables of n-grams, makers' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.test_quantised_configs import read
from traces.errors import InvalidFile
from traces.model.architecture import load_architecture
from traces.model.model_architecture import ModelArchitecture

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


def read_file(folder: Path, name: str, document: dict[str, Any]) -> ModelArchitecture:
    path = folder / name
    path.write_text(json.dumps(document))
    return load_architecture(path)


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


IGNORED = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]
"""What Kimi-K2-Thinking and K2.5 leave out: attention, shared experts, dense FFNs."""


@pytest.mark.parametrize("model_type", ["qwen2_moe", "kimi_k2"])
def test_dense_layers_that_are_left_out_leave_no_expert_out(model_type: str, tmp_path: Path) -> None:
    """`mlp.gate_proj` is the end of `switch_mlp.gate_proj` too, which is a name of MLX."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    group = {"group_0": {"targets": ["Linear"], "weights": weights}}
    found = read(
        tmp_path,
        model_type=model_type,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        quantization_config={"config_groups": group, "ignore": IGNORED},
    )
    assert (found.expert_dtype.name, found.dtype.name) == ("int4-g32", "bf16")
    only_dense = {"config_groups": group, "ignore": IGNORED[-1:]}
    assert read(tmp_path, quantization_config=only_dense).stored_shared_dtype.name == "int4-g32"


DEEPSEEK: dict[str, Any] = {
    "vocab_size": 129280, "dim": 7168, "inter_dim": 18432, "moe_inter_dim": 2048, "n_layers": 61, "n_dense_layers": 3,
    "n_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1, "n_activated_experts": 8, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "score_func": "sigmoid",
    "dtype": "fp8",
}  # fmt: skip
"""`inference/configs/config_671B.json` of DeepSeek-V3: 671 B, 37 B active without one of its two tables."""

MIXTRAL: dict[str, Any] = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8},
}  # fmt: skip
"""`params.json` of Mixtral-8x7B: 46.7 B, 12.9 B active."""

MISTRAL_LARGE: dict[str, Any] = {
    "dim": 7168, "n_layers": 61, "head_dim": 192, "hidden_dim": 16384, "n_heads": 128, "n_kv_heads": 128,
    "vocab_size": 131072, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "tied_embeddings": False, "quantization": {"qformat_weight": "fp8_e4m3"},
    "moe": {
        "num_experts": 128, "num_experts_per_tok": 4, "num_shared_experts": 1, "expert_hidden_dim": 4096,
        "first_k_dense_replace": 3, "route_every_n": 1,
    },
}  # fmt: skip
"""`params.json` of Mistral Large 3: 675 B with 2.5 B of an eye, 39 B active without one of its two tables."""

GPT_OSS: dict[str, Any] = {
    "num_hidden_layers": 36, "num_experts": 128, "experts_per_token": 4, "vocab_size": 201088, "hidden_size": 2880,
    "intermediate_size": 2880, "head_dim": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
    "sliding_window": 128, "initial_context_length": 4096,
}  # fmt: skip
"""`original/config.json` of gpt-oss-120b: 116.8 B, 5.1 B active without a table of 0.6 B."""


@pytest.mark.parametrize(
    ("name", "document", "counts", "expert_format"),
    [
        ("config_671B.json", DEEPSEEK, (671.0e9, 37.55e9), "fp8-b128"),
        ("params.json", MIXTRAL, (46.70e9, 12.88e9), "bf16"),
        ("params.json", MISTRAL_LARGE, (673.4e9, 39.95e9), "fp8"),
        ("config.json", GPT_OSS, (116.83e9, 5.71e9), "mxfp4"),
    ],
)
def test_files_in_the_words_of_their_makers_are_read(
    name: str, document: dict[str, Any], counts: tuple[float, float], expert_format: str, tmp_path: Path
) -> None:
    model = read_file(tmp_path, name, document)
    assert (model.total_params, model.active_params) == pytest.approx(counts, rel=0.002)
    assert model.expert_dtype.name == expert_format


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
    ("quantisation", "experts", "attention"),
    [
        (
            {"quant_method": "quark", "global_quant_config": {},
             "layer_quant_config": {"*mlp.experts*": {"weight": {"dtype": "fp4", "group_size": 32}}}},
            "mxfp4", "bf16",
        ),
        ({"quant_method": "w4afp8", "ignored_layers": ["lm_head"]}, "int4-g128", "fp8"),
        ({"quant_method": "blockwise_int8", "weight_block_size": [128, 128]}, "int8", "int8"),
        ({"quantization": "mix_quant", "dense_quant_type": "wint8", "moe_quant_type": "wint2"}, "w2", "int8"),
        ({"quantization": "mix_quant", "moe_quant_type": "block_wise_fp8"}, "fp8-b128", "bf16"),
        ({"quantization": "wint8"}, "int8", "int8"),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4_e2m1", "group_size": 32}}},
            "mxfp4", "mxfp4",
        ),
        (
            {"quant_method": "hqq", "quant_config": {
                "mlp.experts.gate_proj": {"weight_quant_params": {"nbits": 2, "group_size": 16}},
                "mlp.experts.up_proj": {"weight_quant_params": {"nbits": 2, "group_size": 16}},
                "mlp.experts.down_proj": {"weight_quant_params": {"nbits": 2, "group_size": 16}},
                **{f"self_attn.{letter}_proj": {"weight_quant_params": {"nbits": 4, "group_size": 64}}
                   for letter in "qkvo"},
            }},
            "hqq2-g16", "hqq4-g64",
        ),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "FqnToConfig", "_data": {"fqn_to_config": {
                "_default": None,
                "re:.*experts.*": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 32}},
            }}}}},
            "int4-g32-b", "bf16",
        ),
        (
            {"quant_method": "torchao", "quant_type": {"default": {
                "_type": "ModuleFqnToConfig", "_data": {"module_fqn_to_config": {
                    "_default": {"_type": "Int8WeightOnlyConfig", "_data": {}}, "re:.*self_attn.*": None,
                }}}}},
            "int8", "bf16",
        ),
    ],
)  # fmt: skip
def test_formats_by_module_leave_the_others_as_they_were(
    quantisation: dict[str, Any], experts: str, attention: str, tmp_path: Path
) -> None:
    model = read(tmp_path, quantization_config=quantisation)
    assert (model.expert_dtype.name, model.stored_attention_dtype.name) == (experts, attention)


def test_fastdeploy_states_the_format_of_its_cache(tmp_path: Path) -> None:
    stated = {"dense_quant_type": "wint8", "moe_quant_type": "w4a8", "kv_cache_quant_type": "float8_e4m3fn"}
    assert read(tmp_path, quantization_config=stated).stored_kv_dtype.name == "fp8"


def test_a_word_of_fastdeploy_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"moe_quant_type 'wint9' is not read: give the format with --dtype"):
        read(tmp_path, quantization_config={"moe_quant_type": "wint9"})


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


def test_tables_of_hashed_n_grams_and_low_rank_streams_lie_in_memory(tmp_path: Path) -> None:
    document = {"model_type": "qwen4_exp", "text_config": QWEN4_EXP, "dtype": "bfloat16"}
    model = read_file(tmp_path, "config.json", document)
    without = read_file(tmp_path, "config.json", document | {"text_config": QWEN4_EXP | {"ple_layer_ids": []}})
    d = 2560
    streams = 97 * 2 * 4 * d * 320 + 48 * 2 * 4 * 4 * d
    assert without.other_params == streams
    assert model.other_params == streams + 16 * 20_000_000 * 160 + d * 5 * d
    assert "tables of n-grams count as HBM" in model.note
    assert "n-grams" not in without.note
    assert model.total_params == pytest.approx(176.94e9, rel=5e-4)  # its class of transformers on the meta device
    full = model.decoder.attention
    assert (full.index_heads, full.index_dim, full.index_topk, full.output_gate) == (4, 128, 2048, 24 * 256)


GLM_5_2: dict[str, Any] = {
    "model_type": "glm_moe_dsa", "hidden_size": 6144, "intermediate_size": 12288, "num_hidden_layers": 78,
    "num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "kv_lora_rank": 512,
    "q_lora_rank": 2048, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "vocab_size": 154880,
    "index_topk": 2048, "index_n_heads": 32, "index_head_dim": 128, "dtype": "bfloat16",
}  # fmt: skip
OWN_INDEXER = (0, 1, 2, *range(6, 78, 4))


@pytest.mark.parametrize(
    "stated",
    [
        {"indexer_types": ["full" if i in OWN_INDEXER else "shared" for i in range(78)]},
        {"index_topk_pattern": "".join("F" if i in OWN_INDEXER else "S" for i in range(78))},
        {"index_topk_freq": 4, "index_skip_topk_offset": 3},
    ],
)
def test_layers_that_share_an_indexer_keep_no_keys_of_one(stated: dict[str, Any], tmp_path: Path) -> None:
    """GLM-5.2: of 78 layers 21 pick tokens, the others attend to what the last of them has picked."""
    every = read_file(tmp_path, "config.json", GLM_5_2)
    model = read_file(tmp_path, "config.json", GLM_5_2 | stated)
    shared = [mixer for mixer in (model.decoder.mixer(i) for i in range(78)) if not mixer.index_heads]
    assert len(shared) == 78 - 21
    assert {mixer.index_topk for mixer in shared} == {2048}
    assert model.kv_bytes_per_token == 2 * (78 * 576 + 21 * 128)
    own = 32 * 128 * 2048 + 128 * 6144 + 32 * 6144
    assert every.total_params - model.total_params == 57 * own


def test_a_pattern_of_indexers_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="index_topk_pattern names 2 layers, there are more"):
        read_file(tmp_path, "config.json", GLM_5_2 | {"index_topk_pattern": "FS"})


def test_layers_that_read_the_cache_of_another_are_refused(tmp_path: Path) -> None:
    own = GLM_5_2 | {"kv_source_layers": list(range(78))}
    assert read_file(tmp_path, "config.json", own) == read_file(tmp_path, "config.json", GLM_5_2)
    with pytest.raises(InvalidFile, match="kv_source_layers: layers share keys and values"):
        read_file(tmp_path, "config.json", GLM_5_2 | {"kv_source_layers": [0, 0, *range(2, 78)]})


PLAIN: dict[str, Any] = {
    "model_type": "sdar_moe", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_model_that_denoises_blocks_says_what_is_predicted(tmp_path: Path) -> None:
    assert "refines blocks of tokens in several passes" in read_file(tmp_path, "config.json", PLAIN).note
    assert "refines" not in read_file(tmp_path, "config.json", PLAIN | {"model_type": "olmoe"}).note


def test_experts_that_are_switched_off_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="is dense, it has no experts"):
        read_file(tmp_path, "config.json", PLAIN | {"model_type": "gemma4_text", "enable_moe_block": False})


def test_inkling_is_read_in_the_words_of_its_makers(tmp_path: Path) -> None:
    """thinkingmachines/Inkling, 975 B: where dense layers have a width of their own, the other is of experts."""
    text = {
        "hidden_size": 6144, "num_hidden_layers": 66, "vocab_size": 201024, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "swa_num_attention_heads": 64, "swa_num_key_value_heads": 16,
        "swa_head_dim": 128, "sliding_window_size": 512, "local_layer_ids": [i for i in range(66) if (i + 1) % 6],
        "dense_mlp_idx": 2, "dense_intermediate_size": 24576, "intermediate_size": 3072, "n_routed_experts": 256,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "torch_dtype": "bfloat16",
    }  # fmt: skip
    model = read_file(tmp_path, "config.json", {"model_type": "inkling_mm_model", "text_config": text})
    block = 258 * 3 * 6144 * 3072 + 256 * 6144
    attention = 2 * 64 * 128 * 6144
    keys = 2 * 6144 * 128 * (55 * 16 + 11 * 8)
    by_hand = 64 * block + 2 * 3 * 6144 * 24576 + 66 * attention + keys + 2 * 201024 * 6144
    assert model.total_params == pytest.approx(by_hand, rel=1e-4)
    assert model.decoder.moe_layers == tuple(range(2, 66))
    assert model.kv_bytes_per_token == 2 * 2 * 128 * (55 * 16 + 11 * 8)


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
