"""Models of engines' registries whose fields mean another thing than the same fields of others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from tests.model_configs import read_file

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
