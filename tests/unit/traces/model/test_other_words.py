"""Shapes in words that are not read: an unknown type that states one is refused by name, and never read without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read
from traces.errors import InvalidFile
from traces.model.architecture import ModelArchitecture
from traces.model.attention import Attention


def other(folder: Path, *without: str, **more: Any) -> ModelArchitecture:
    """A model of a type that nobody checked, every layer with experts."""
    plain = {"model_type": "other", "mlp_only_layers": None, "shared_expert_intermediate_size": None}
    return read(folder, **plain | dict.fromkeys(without) | more)


@pytest.mark.parametrize("key", ["num_kv_heads", "n_head_kv", "n_kv_head", "num_query_groups", "multi_query_group_num"])
def test_heads_of_keys_and_values_are_read_under_any_name(key: str, tmp_path: Path) -> None:
    model = other(tmp_path, "num_key_value_heads", **{key: 2})
    assert model.kv_bytes_per_token == other(tmp_path, num_key_value_heads=2).kv_bytes_per_token


@pytest.mark.parametrize("key", ["head_size", "d_head", "attention_head_size"])
def test_the_width_of_a_head_is_read_under_any_name(key: str, tmp_path: Path) -> None:
    assert other(tmp_path, **{key: 32}).decoder == other(tmp_path, head_dim=32).decoder


@pytest.mark.parametrize("key", ["tie_embeddings", "tied_embeddings", "tie_weights", "tie_lm_head", "weight_tying"])
def test_one_table_for_head_and_embedding_is_read_under_any_name(key: str, tmp_path: Path) -> None:
    assert other(tmp_path, "tie_word_embeddings", **{key: True}).tied_embeddings
    assert "head and embedding are one" in other(tmp_path, "tie_word_embeddings").note


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_key_value_groups", 2, "heads of keys and values.*state num_key_value_heads"),
        ("dim_per_head", 32, "the width of a head.*state head_dim"),
        ("qk_head_dim", 32, "the width of a head"),
        ("shared_expert_num", 2, "experts that all tokens share.*state n_shared_experts"),
        ("moe_shared_intermediate_size", 32, "experts that all tokens share"),
        ("num_always_active_experts", 2, "experts that all tokens share"),
        ("num_dense_layer", 1, "layers without experts.*state first_k_dense_replace"),
        ("first_moe_layer", 1, "layers without experts"),
        ("moe_start_layer", 1, "layers without experts"),
        ("moe_freq", 2, "layers with experts by their number"),
        ("moe_every_k_layers", 2, "layers with experts by their number"),
        ("moe_layer_indices", [1, 3], "the kinds of layers"),
        ("ffn_types", ["dense", "moe"] * 2, "the kinds of layers"),
        ("block_configs", [{"ffn": {}}] * 4, "the kinds of layers"),
        ("swa_layers", [0, 1], "layers that see a window"),
        ("attn_layer_pattern", "LLLG", "layers that see a window"),
        ("use_mla", True, "latent attention.*state kv_lora_rank"),
        ("attention_type", "MLA", "latent attention"),
        ("ngram_embedding", {"size": 9}, "tables of rows beside the embedding"),
        ("total_ut_steps", 4, "layers run more than once, which is not modelled"),
        ("kv_sharing", True, "layers share keys and values, which is not modelled"),
        ("embedding_size", 16, "an embedding is 16 wide, a token 64: not modelled"),
        ("n_layers", 6, "num_hidden_layers = 4, n_layers = 6: one number under names that are read alike"),
    ],
)
def test_a_shape_in_words_that_are_not_read_is_refused(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    without = ["num_key_value_heads"] if "key_value" in key else []
    with pytest.raises(InvalidFile, match=expected):
        other(tmp_path, *without, **{key: value})
    assert read(tmp_path, **{key: value}).n_experts == 8  # a type whose class has no such key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_key_value_groups", 1), ("moe_freq", 1), ("first_moe_layer", 0), ("use_mla", False), ("num_loops", 1),
        ("embedding_size", 64), ("moe_layer_indices", []), ("linear_key_head_dim", 16), ("n_layers", 4),
    ],
)  # fmt: skip
def test_a_word_that_says_nothing_refuses_nothing(key: str, value: Any, tmp_path: Path) -> None:
    assert other(tmp_path, **{key: value}).n_experts == 8


def test_layers_of_several_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"num_experts has layers of 8 and 4: layers of several sizes"):
        other(tmp_path, num_experts=[8, 8, 4, 8])
    assert other(tmp_path, num_experts=[8] * 4).n_experts == 8
    assert other(tmp_path, num_experts=[8, 4], vision_config={"depth": 2}).n_experts == 8


def test_windows_of_a_pattern_of_ones_are_read(tmp_path: Path) -> None:
    """MiMo-V2 states its layers so: 1 sees a window."""
    model = other(tmp_path, sliding_window=16, hybrid_layer_pattern=[0, 1, 1, 0], max_position_embeddings=4096)
    assert [mixer.window for mixer in model.decoder.all_mixers if isinstance(mixer, Attention)] == [0, 16, 16, 0]


def test_what_is_taken_for_granted_stands_in_a_note(tmp_path: Path) -> None:
    assert "window_size = 16: no key says which layers" in other(tmp_path, window_size=16).note
    assert "no key says" not in other(tmp_path, window_size=16, use_sliding_window=False).note
    assert "three matrices" in other(tmp_path, hidden_act="relu2").note
    assert "4 of the experts that a token may choose compute nothing" in other(tmp_path, num_null_experts=4).note


def test_experts_without_a_gate_have_two_matrices(tmp_path: Path) -> None:
    assert other(tmp_path, use_gated_mlp=False).n_expert_matrices == 2


@pytest.mark.parametrize("key", ["use_moe", "moe_enable"])
def test_experts_that_are_switched_off_are_none(key: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="a other model is dense"):
        other(tmp_path, **{key: False})
