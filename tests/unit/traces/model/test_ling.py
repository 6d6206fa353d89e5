"""Ling and Ring 2.5 to 3 and LongCat-Flash, as their makers publish them: one type for two architectures, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read_file
from traces.errors import InvalidFile

_MLA = {"kv_lora_rank": 512, "q_lora_rank": 256, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
LING_3: dict[str, Any] = _MLA | {
    "architectures": ["BailingMoeV3ForCausalLM"], "model_type": "bailing_hybrid", "hidden_size": 1536,
    "intermediate_size": 4608, "moe_intermediate_size": 512, "moe_shared_expert_intermediate_size": 512,
    "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128, "num_experts": 128,
    "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1, "layer_group_size": 4,
    "short_conv_kernel_size": 4, "no_kda_lora": True, "kda_safe_gate": True, "kda_lower_bound": -5,
    "vocab_size": 157184, "gated_attention_proj_granularity_type": "head_wise", "max_window_layers": 20,
    "tie_word_embeddings": False,
}  # fmt: skip
"""Edge0-8B-A1B, of Ling 3's classes: 7.893 B by transformers 5.24 on the meta device."""

RING_2_5: dict[str, Any] = _MLA | {
    "architectures": ["BailingMoeV2_5ForCausalLM"], "model_type": "bailing_hybrid", "hidden_size": 256,
    "intermediate_size": 512, "moe_intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 32, "num_experts": 16, "num_experts_per_tok": 2, "num_shared_experts": 1,
    "first_k_dense_replace": 1, "layer_group_size": 4, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip

LONGCAT_LITE: dict[str, Any] = _MLA | {
    "architectures": ["LongcatFlashNgramForCausalLM"], "vocab_size": 131072, "hidden_size": 3072, "q_lora_rank": 1536,
    "ffn_hidden_size": 6144, "expert_ffn_hidden_size": 1024, "num_layers": 14, "num_attention_heads": 32,
    "n_routed_experts": 256, "moe_topk": 12, "zero_expert_num": 128, "ngram_vocab_size_ratio": 78,
}  # fmt: skip
"""LongCat-Flash-Lite: 68.5 B are published; a layer has two attentions, each with a latent and a key of positions."""


def test_ling_3_is_read_as_published(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", LING_3)
    assert model.total_params == pytest.approx(7.893389856e9, rel=1e-3)
    assert model.kv_bytes_per_token == 6 * (512 + 64) * 2
    assert {mixer.kind for mixer in model.decoder.all_mixers if mixer} == {"kda", "mla"}


PREGATED = LING_3 | {
    "pregate_enabled": True, "pregate_cross_token": True, "pregate_hidden": 512, "pregate_start_layer": 7
}  # fmt: skip
"""Edge0-8B-A1B as it is published, with heads that choose a token ahead."""


def test_gates_that_choose_a_token_ahead_are_read(tmp_path: Path) -> None:
    model, plain = read_file(tmp_path, "config.json", PREGATED), read_file(tmp_path, "config.json", LING_3)
    reads = 1536 + 2 * 128  # a hidden state, what this token chose, and the one before
    assert model.pregated_from == 8
    assert plain.pregated_from == 0
    assert model.other_params == 16 * (reads * 512 + 512 * 128 + reads * 128)  # of layers 7 to 22
    assert model.decoder == plain.decoder


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pregate_cross_token": False}, "which layer chooses for which is not known"),
        ({"pregate_start_layer": 23}, "pregate_start_layer = 23, expected 0 to 22"),
        ({"pregate_start_layer": -2}, "pregate_start_layer"),
    ],
)
def test_other_gates_that_look_ahead_are_refused(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=words):
        read_file(tmp_path, "config.json", PREGATED | changed)


@pytest.mark.parametrize("lacking", [("architectures",), ("gated_attention_proj_granularity_type",), ("model_type",)])
def test_ling_3_is_known_by_its_class_or_its_keys(lacking: tuple[str, ...], tmp_path: Path) -> None:
    rest = {key: value for key, value in LING_3.items() if key not in lacking}
    assert read_file(tmp_path, "config.json", rest).decoder == read_file(tmp_path, "config.json", LING_3).decoder


def test_a_multimodal_ling_3_has_the_same_language_model(tmp_path: Path) -> None:
    text = {key: value for key, value in LING_3.items() if key not in ("model_type", "architectures")}
    whole = {"model_type": "bailing_moe_v3_vl", "text_config": text, "vision_config": {"depth": 1}}
    assert read_file(tmp_path, "config.json", whole).decoder == read_file(tmp_path, "config.json", LING_3).decoder


def test_ring_2_5_has_lightning_attention_under_the_type_of_ling_3(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", RING_2_5)
    width = 4 * 32
    lightning = 6 * (3 * 256 * width + 256 * width + width * 256)
    mla = 2 * (256 * 256 + 256 * 4 * 192 + 256 * 576 + 512 * 4 * 256 + 4 * 128 * 256)
    ffn = 3 * 256 * 512 + 7 * (17 * 3 * 256 * 64 + 16 * 256) + 2 * 1000 * 256
    assert model.total_params == pytest.approx(lightning + mla + ffn, rel=0.005)
    assert {mixer.kind for mixer in model.decoder.all_mixers if mixer} == {"lightning", "mla"}


def test_a_key_of_ling_3_goes_before_the_class_of_ring_2_5(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", RING_2_5 | {"no_kda_lora": True, "linear_attention": "kda"})
    assert "kda" in {mixer.kind for mixer in model.decoder.all_mixers if mixer}


def test_a_gate_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="granularity_type = 'group_wise': head_wise, element_wise"):
        read_file(tmp_path, "config.json", RING_2_5 | {"gated_attention_proj_granularity_type": "group_wise"})


@pytest.mark.parametrize("stated", [{}, {"model_type": "longcat_flash_ngram"}, {"model_type": "longcat_flash"}])
def test_longcat_lite_is_read_with_and_without_a_type(stated: dict[str, Any], tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", LONGCAT_LITE | stated)
    assert model.total_params == pytest.approx(68.5e9, rel=0.005)
    assert model.kv_bytes_per_token == 28 * (512 + 64) * 2
