"""Models of engines' registries whose fields mean another thing than the same fields of others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from tests.unit.traces.model.model_configs import read_file
from traces.errors import InvalidFile

HYBRID: dict[str, Any] = {
    "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512, "full_attention_interval": 4, "tie_word_embeddings": False,
}  # fmt: skip
BERRY = HYBRID | {
    "model_type": "berrylm", "vocab_size": 180224, "num_hidden_layers": 40, "num_experts": 128,
    "num_experts_per_tok": 8, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "kda_gate_bottleneck": 128,
    "kda_safe_gate": False, "attn_output_gate": True, "attn_res_block_size": 8,
}  # fmt: skip
ALICE = HYBRID | {
    "model_type": "alice_ai", "vocab_size": 129024, "num_hidden_layers": 48, "num_experts": 512,
    "num_experts_per_tok": 10, "linear_num_key_heads": 32, "linear_num_value_heads": 32,
}  # fmt: skip
LONGCAT: dict[str, Any] = {
    "model_type": "longcat_flash", "vocab_size": 131072, "hidden_size": 6144, "ffn_hidden_size": 12288,
    "expert_ffn_hidden_size": 2048, "num_layers": 28, "num_attention_heads": 64, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 512,
    "moe_topk": 12, "zero_expert_num": 256,
}  # fmt: skip
"""LongCat-Flash-Chat (arXiv 2509.01322): 560 B, of which a token computes 18.6 to 31.3 B without its table, 27 B on
average."""


K2_HORIZON: dict[str, Any] = {
    "model_type": "k2_horizon", "attention_gate_func": "softplus", "head_dim": 128, "hidden_size": 2560,
    "intermediate_size": 6144, "mlp_only_layers": [0, 1, 2], "moe_gate_bias": True, "moe_intermediate_size": 768,
    "mova_num_experts": 64, "mova_num_experts_per_tok": 4, "num_attention_heads": 32, "num_experts": 100,
    "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 8, "num_shared_experts": 1,
    "query_key_norm": False, "tie_word_embeddings": False, "vocab_size": 250624,
}  # fmt: skip
"""K2-Horizon-MoVA-36B-A4B: 74.9 GB in bf16, 39.8 in q8_0."""
SOLAR: dict[str, Any] = {
    "model_type": "solar_open2", "hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "gqa_interval": 3, "use_gqa_gate": True, "n_routed_experts": 320,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 1280, "vocab_size": 196608,
    "linear_attn_config": {"short_conv_kernel_size": 4, "head_dim": 128, "num_heads": 64}, "tie_word_embeddings": False,
}  # fmt: skip
"""Solar Open 2, 250B-A15B, by the defaults of its class in vLLM."""


def test_matrices_of_values_that_a_gate_chooses_among_are_counted(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", K2_HORIZON)
    assert model.total_params == pytest.approx(74.9e9 / 2, rel=1e-3)
    one = read_file(tmp_path, "config.json", K2_HORIZON | {"mova_num_experts_per_tok": 1})
    values = 2560 * 8 * 128
    assert model.active_params - one.active_params == 45 * 3 * values
    assert model.total_params == one.total_params
    assert model.kv_bytes_per_token == 48 * 2 * 8 * 128 * 2


@pytest.mark.parametrize("stated", [{}, {"gqa_layers": list(range(0, 48, 4))}])
def test_layers_of_full_attention_among_kimis_are_found(stated: dict[str, Any], tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", SOLAR | stated)
    assert model.kv_bytes_per_token == 12 * 2 * 8 * 128 * 2
    assert model.total_params == pytest.approx(250e9, rel=0.005)
    assert model.active_params == pytest.approx(14.5e9, rel=0.03)
    first = (
        model.decoder.mixers[model.decoder.mixer_of[0] - 1] if model.decoder.mixer_of[0] else model.decoder.attention
    )
    assert first.kind == "gqa"
    assert first.output_gate == 64 * 128


def test_linear_layers_that_nobody_names_are_refused(tmp_path: Path) -> None:
    """They were taken as all, without a cache of keys and values."""
    unnamed = {key: value for key, value in SOLAR.items() if key != "gqa_interval"}
    with pytest.raises(InvalidFile, match="names no full_attn_layers: which layers are linear"):
        read_file(tmp_path, "config.json", unnamed)


def test_heads_that_are_subtracted_are_refused(tmp_path: Path) -> None:
    """Motif-3, whose words for experts chosen and dense layers are read."""
    with pytest.raises(InvalidFile, match="num_noise_heads = 16: some heads are subtracted"):
        read_file(tmp_path, "config.json", LONGCAT | {"model_type": "motif", "num_noise_heads": 16})


def kda_by_hand(value_heads: int, projections: int) -> int:
    """Parameters of a layer of linear attention: `projections`, the output, decays by channel, convolutions, norm."""
    values = value_heads * 128
    return 2048 * projections + values * 2048 + 128 * (2048 + values) + values + value_heads + 128


def test_a_delta_net_with_decays_by_channel_keeps_its_key_heads(tmp_path: Path) -> None:
    """BerryLM-OS: 18 B, 2.8 B active (docs of transformers), its key heads half as many as those of values."""
    model = read_file(tmp_path, "config.json", BERRY)
    assert model.total_params == pytest.approx(18.29e9, rel=1e-3)
    assert model.active_params - 180224 * 2048 == pytest.approx(2.82e9, rel=1e-3)
    mixer = next(mixer for mixer in model.decoder.all_mixers if mixer is not None and mixer.kind == "kda")
    assert mixer.matrix_params(2048) + mixer.vector_params(2048) == kda_by_hand(32, 3 * 4096 + 32) + 4 * 8192
    assert mixer.state_elements == 32 * 128 * 128 + 3 * 8192


def test_kimis_mixer_is_read_in_the_words_of_a_delta_net(tmp_path: Path) -> None:
    """AliceAI-Foundation-80B-A3B: 162.6 GB with a block of 1.65 B that guesses a token ahead."""
    model = read_file(tmp_path, "config.json", ALICE)
    assert model.total_params == pytest.approx(162.6e9 / 2 - 1.65e9, rel=1e-3)
    mixer = next(mixer for mixer in model.decoder.all_mixers if mixer is not None and mixer.kind == "kda")
    gate = 128 * (2048 + 4096)
    assert mixer.matrix_params(2048) + mixer.vector_params(2048) == kda_by_hand(32, 3 * 4096 + 32) + gate + 4 * 3 * 4096


def test_choices_that_compute_nothing_are_left_out_of_what_a_token_meets(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", LONGCAT)
    table = 131072 * 6144
    every, none = dataclasses.replace(model, n_free_experts=0), dataclasses.replace(model, n_free_experts=4096)
    assert model.total_params == pytest.approx(560e9, rel=0.005)
    assert model.active_params - table == pytest.approx(27e9, rel=0.01)
    assert every.active_params - table == pytest.approx(31.3e9, rel=0.003)
    assert none.active_params < model.active_params
    assert pregate.load_model(_written(tmp_path, model)).n_free_experts == 256


def _written(folder: Path, model: Any) -> Path:
    path = folder / "model.yaml"
    path.write_text(model.to_yaml())
    return path


def test_made_up_routing_leaves_a_third_of_longcats_choices_out(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", LONGCAT)
    trace = pregate.synthesize(model, 64, 8)
    chosen = (trace.experts >= 0).sum(axis=2)
    assert chosen.mean() == pytest.approx(8, abs=0.1)
    assert chosen.min() >= 1
    assert np.array_equal(trace.experts, pregate.synthesize(model, 64, 8).experts)
    whole = pregate.synthesize(dataclasses.replace(model, n_free_experts=0), 64, 8).experts
    assert np.array_equal(trace.experts[trace.experts >= 0], whole[trace.experts >= 0])


def test_a_step_of_longcat_brings_the_experts_that_compute(tmp_path: Path) -> None:
    """On demand a token brings eight experts a layer, not twelve."""
    model = read_file(tmp_path, "config.json", LONGCAT | {"num_layers": 2, "dtype": "bfloat16"})
    trace = pregate.synthesize(model, 8, 16)
    moved = pregate.simulate(model, pregate.load_hardware("h200-sxm"), trace, "on_demand").h2d_bytes
    decoded, prompt = trace.experts[trace.phase == 1], trace.experts[trace.phase == 0]
    of_prompt = sum(len(np.unique(layer[layer >= 0])) for layer in np.moveaxis(prompt, 1, 0))
    assert moved == ((decoded >= 0).sum() + of_prompt) * model.expert_bytes
