"""Families that do not ship: their spellings are read, what cannot be said is refused, the rest is in a note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import SHAPES, read
from traces.errors import InvalidFile
from traces.model.architecture import load_architecture
from traces.model.attention import Attention

PANGU: dict[str, Any] = {
    "model_type": "pangu_ultra_moe", "hidden_size": 7680, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "num_routed_experts": 256, "num_shared_experts": 1, "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048, "intermediate_size": 18432, "num_dense_layers": 3, "attention_kv_lora_dim": 512,
    "attention_q_lora_dim": 1536, "attention_qk_dim": 128, "attention_qk_rope_dim": 64, "attention_v_dim": 128,
    "vocab_size": 153600,
}  # fmt: skip
"""openPangu-Ultra-MoE-718B-V1.1, Huawei: 718 B in all, 39 B active."""

YUAN: dict[str, Any] = {
    "model_type": "yuan2", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
    "num_attention_heads": 16, "attention_projection_size": 4096, "vocab_size": 135040, "tie_word_embeddings": True,
    "moe_config": {"moe_num_experts": 32, "moe_top_k": 2, "ffn_hidden_size": 8192},
}  # fmt: skip
"""Yuan2-M32 (arXiv 2405.17976): 40 B, 3.7 B active, of which its convolutions are not read (0.2 B)."""

RING: dict[str, Any] = {
    "model_type": "bailing_moe_linear", "hidden_size": 4096, "intermediate_size": 9216, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 256, "num_experts_per_tok": 8,
    "moe_intermediate_size": 1024, "first_k_dense_replace": 1, "num_shared_experts": 1, "layer_group_size": 8,
    "vocab_size": 157184,
}  # fmt: skip
"""Ring-flash-linear-2.0 (arXiv 2510.19338): 104 B; one layer of eight has softmax attention."""


def architecture(folder: Path, **config: Any) -> Any:
    path = folder / "config.json"
    path.write_text(json.dumps({"torch_dtype": "bfloat16", "tie_word_embeddings": False} | config))
    return load_architecture(path)


@pytest.mark.parametrize(
    ("config", "total", "kv_bytes"),
    [(PANGU, 718e9, 61 * 2 * 576), (YUAN, 40e9, 24 * 2 * 2 * 4096), (RING, 104.2e9, 4 * 2 * 2 * 4 * 128)],
)
def test_sizes_under_other_names_are_read(config: dict[str, Any], total: float, kv_bytes: int, tmp_path: Path) -> None:
    model = architecture(tmp_path, **config)
    assert model.total_params == pytest.approx(total, rel=0.01)
    assert model.kv_bytes_per_token == kv_bytes
    assert "no count of this type was checked" in model.note


@pytest.mark.parametrize("n_layers", [4, 6])
def test_a_layer_in_a_group_has_full_attention_and_what_is_left_over_too(n_layers: int, tmp_path: Path) -> None:
    small = RING | {"num_hidden_layers": n_layers, "layer_group_size": 4}
    kinds = [isinstance(mixer, Attention) for mixer in architecture(tmp_path, **small).decoder.all_mixers]
    assert kinds == [False, False, False, True, True, True][:n_layers]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_cla": True, "cla_share_factor": 2}, r"cla_share_factor = 2: layers share keys and values"),
        ({"num_kv_shared_layers": 2}, r"num_kv_shared_layers = 2: layers share keys and values"),
        ({"experts_shared_frequency": 3}, r"experts_shared_frequency = 3: layers share experts"),
        ({"model_type": "other", "mamba_state": 16}, r"mamba_state speak of layers with a state.*state layer_types"),
        ({"model_type": "other", "kv_latent_dim": 512}, r"kv_latent_dim speak of latent attention.*kv_lora_rank"),
    ],
)
def test_what_changes_sizes_and_cannot_be_said_is_refused(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidFile, match=expected):
        read(tmp_path, **changes)


def test_a_family_of_experts_without_their_number_is_not_called_dense(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"key 'n_routed_experts' is missing \(or num_experts, "):
        architecture(tmp_path, model_type="mixtral", hidden_size=64)
    with pytest.raises(InvalidFile, match="a llama model is dense"):
        architecture(tmp_path, model_type="llama", hidden_size=64)


def test_flags_that_are_off_refuse_nothing(tmp_path: Path) -> None:
    off = {"use_cla": False, "cla_share_factor": 2, "num_kv_shared_layers": 0, "experts_shared_frequency": 1}
    assert read(tmp_path, **off, model_type="other", mamba_state=0, kv_latent_dim=None).n_experts == 8


def test_choices_that_compute_nothing_and_experts_of_other_modalities_stand_in_a_note(tmp_path: Path) -> None:
    assert "4 of the experts that a token may choose compute nothing" in read(tmp_path, zero_expert_num=4).note
    two = read(tmp_path, num_experts=[8, 4], vision_config={"depth": 2})
    assert (two.n_experts, "experts of other modalities are left out" in two.note) == (8, True)
    assert "not read: n_far_experts" in read(tmp_path, model_type="other", n_far_experts=3).note


@pytest.mark.parametrize("key", ["moe_every_n_layers", "moe_layer_frequency", "moe_expert_interval", "expert_interval"])
def test_every_other_layer_has_experts_under_any_name(key: str, tmp_path: Path) -> None:
    assert read(tmp_path, **{"mlp_only_layers": [], key: 2}).decoder.moe_layers == (1, 3)
    with pytest.raises(InvalidFile, match=f"{key} = 0 is below 1"):
        read(tmp_path, **{key: 0})


def test_layers_with_experts_are_listed_as_true(tmp_path: Path) -> None:
    listed = read(tmp_path, model_type="other", mlp_only_layers=[], is_moe_layer=[False, True, False, True])
    assert listed.decoder.moe_layers == (1, 3)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, [16] * 4),
        ({"model_type": "qwen2_moe", "use_sliding_window": True, "max_window_layers": 2}, [0, 0, 16, 16]),
        ({"model_type": "qwen3_moe", "use_sliding_window": True}, [16] * 4),
        ({"model_type": "qwen3_moe", "use_sliding_window": False}, [0] * 4),
        ({"model_type": "qwen3_moe"}, [0] * 4),
        ({"model_type": "mixtral", "max_position_embeddings": 16}, [0] * 4),
        ({"model_type": "afmoe", "global_attn_every_n_layers": 2, "qk_norm": None}, [16, 0, 16, 0]),
    ],
)
def test_a_stated_window_is_of_the_layers_that_the_class_gives_it_to(
    changes: dict[str, Any], windows: list[int], tmp_path: Path
) -> None:
    model = read(tmp_path, **{"sliding_window": 16, "max_position_embeddings": 4096} | changes)
    assert [mixer.window for mixer in model.decoder.all_mixers if isinstance(mixer, Attention)] == windows


def test_shapes_used_here_are_those_of_a_plain_model(tmp_path: Path) -> None:
    assert read(tmp_path).n_moe_layers == SHAPES["num_hidden_layers"] - 1
