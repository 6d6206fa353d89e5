"""Layers with indexers and modules beside a dense FFN, in the words of published configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read
from traces.errors import InvalidFile
from traces.model.attention import Attention

LATENT: dict[str, Any] = {
    "model_type": "glm_moe_dsa", "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
    "v_head_dim": 16, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4,
}  # fmt: skip


@pytest.mark.parametrize("word", ["deepseek_sparse_attention", "qwen_sparse_attention", "indexed_attention"])
def test_words_of_sparse_attention_say_what_no_word_says(word: str, tmp_path: Path) -> None:
    """GLM-5.2 in NVFP4 names its layers as transformers 5.11 did, which 5.24 calls indexed."""
    plain = read(tmp_path, **LATENT)
    assert read(tmp_path, layer_types=[word] * 4, **LATENT).decoder == plain.decoder
    assert plain.decoder.attention.index_topk == 4


M3 = {
    "sparse_attention_freq": [0, 1, 1, 1], "sparse_num_index_heads": 2, "sparse_index_dim": 8,
    "sparse_topk_blocks": 4, "sparse_block_size": 16, "use_sparse_attention": True,
}  # fmt: skip


def test_an_indexer_of_blocks_is_in_the_layers_that_have_one(tmp_path: Path) -> None:
    """MiniMax-M3: a key of the indexer a token beside keys and values, and 16 blocks of 128 tokens."""
    found = read(tmp_path, model_type="minimax_m3", sparse_attention_config=M3)
    first, *others = found.decoder.all_mixers
    assert isinstance(first, Attention)
    assert first.index_heads == 0
    assert all(isinstance(one, Attention) and one.index_topk == 64 for one in others)
    plain = read(tmp_path, model_type="minimax_m3")
    assert found.kv_bytes_per_token == plain.kv_bytes_per_token + 3 * 8 * 2
    without = read(tmp_path, model_type="minimax_m3", index_n_heads=2, index_head_dim=8, index_topk_blocks=4,
                   index_block_size=16, layer_types=["full_attention"] * 4)  # fmt: skip
    assert without.decoder == plain.decoder


FOUR_BITS = {"weights": {"num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"]}


def test_a_dense_ffn_that_is_left_out_leaves_in_the_experts_beside_it(tmp_path: Path) -> None:
    """Gemma 4 in NVFP4: `mlp*` is what runs for every token, experts stand beside it."""
    gemma = {"model_type": "gemma4_text", "enable_moe_block": True, "top_k_experts": 2}
    left_out = [f"model.language_model.layers.{i}.{part}*" for i in range(4) for part in ("mlp", "router", "self_attn")]
    found = read(tmp_path, **gemma, quantization_config={
        "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": left_out, "config_groups": {"g": FOUR_BITS},
    })  # fmt: skip
    assert (found.expert_dtype.name, found.dtype.name, found.stored_shared_dtype.name) == ("nvfp4", "bf16", "bf16")
    assert found.stored_attention_dtype.name == "bf16"


def test_what_an_algorithm_of_experts_leaves_out_stays_in_eight_bits(tmp_path: Path) -> None:
    """DeepSeek-V4-Flash in NVFP4: experts alone were converted anew, `ignore` names what was not."""
    found = read(tmp_path, expert_dtype="fp4", quantization_config={
        "quant_method": "fp8", "weight_block_size": [128, 128], "moe_quant_algo": "NVFP4",
        "ignore": ["*.attn.*", "*self_attn*", "*shared_expert*"], "config_groups": {"g": FOUR_BITS},
    })  # fmt: skip
    assert (found.expert_dtype.name, found.dtype.name) == ("nvfp4", "fp8-b128")
    assert found.stored_attention_dtype.name == found.stored_shared_dtype.name == "fp8-b128"


@pytest.mark.parametrize(
    ("modules", "part"),
    [
        (["attention.query_key_value", "attention.dense"], "attention"),  # Ling, Ring
        (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"], "attention"),  # LFM2
        (["feed_forward.experts.0.w1", "feed_forward.experts.0.w2", "feed_forward.experts.0.w3"], "experts"),  # LFM2
        (["block_sparse_moe.input_linear", "block_sparse_moe.output_linear"], "experts"),  # Granite
        (["shared_mlp.input_linear", "shared_mlp.output_linear"], "shared"),  # Granite
        (["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"], "dense"),  # LFM2
    ],
)
def test_modules_named_one_by_one_are_known_in_every_family(modules: list[str], part: str, tmp_path: Path) -> None:
    numbers = range(8) if "experts" in modules[0] else range(1)
    named = [f"model.layers.{layer}.{name.replace('.0.', f'.{n}.')}"
             for layer in range(4) for name in modules for n in numbers]  # fmt: skip
    found = read(tmp_path, quantization_config={"quant_method": "fp8", "ignored_layers": named})
    formats = {
        "attention": found.stored_attention_dtype,
        "experts": found.expert_dtype,
        "shared": found.stored_shared_dtype,
        "dense": found.dtype,
    }
    assert {key for key, form in formats.items() if form.name == "bf16"} == {part}


@pytest.mark.parametrize(
    "stated", [{"full_attn_idxs": [1]}, {"layer_types": ["short_conv", "full_attention", "short_conv", "short_conv"]}]
)
def test_layers_that_convolve_are_said_by_number_or_by_word(stated: dict[str, Any], tmp_path: Path) -> None:
    lfm = {"model_type": "lfm2_moe", "conv_L_cache": 3, "num_dense_layers": 1}
    found = read(tmp_path, **lfm, **stated)
    assert [isinstance(one, Attention) for one in found.decoder.all_mixers] == [False, True, False, False]
    with pytest.raises(InvalidFile, match=r"key 'layer_types' is missing \(or full_attn_idxs\)"):
        read(tmp_path, **lfm)


def test_an_end_of_minus_one_is_the_last_layer(tmp_path: Path) -> None:
    ernie = {"model_type": "ernie4_5_moe", "moe_layer_start_index": 1}
    assert read(tmp_path, **ernie, moe_layer_end_index=-1).decoder == read(tmp_path, **ernie).decoder
