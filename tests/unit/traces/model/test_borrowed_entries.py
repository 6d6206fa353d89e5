"""DeepSeek-V4.1: entries that layers borrow from a layer before, tables of n-grams, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pregate
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import Attention, ModelArchitecture, load_architecture, parse_architecture

TEXT: dict[str, Any] = {
    "model_type": "deepseek_v41_text", "vocab_size": 129280, "hidden_size": 5120, "moe_intermediate_size": 2304,
    "num_hidden_layers": 40, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512,
    "qk_rope_head_dim": 64, "q_lora_rank": 1280, "o_lora_rank": 1024, "o_groups": 8, "n_routed_experts": 384,
    "n_shared_experts": 1, "num_experts_per_tok": 6, "sliding_window": 128, "index_n_heads": 32, "index_head_dim": 128,
    "index_topk": 512, "candidate_topk_blocks": 2048, "candidate_block_size": 8, "candidate_source_layer_id": 20,
    "hc_mult": 4, "num_nextn_predict_layers": 3, "compress_ratios": [0, 0, *[2] * 18, *[1] * 20, 0, 0, 0],
    "kv_source_layer_ids": [2, 8, 14, 20], "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36],
    "engram_layer_ids": [1, 14], "engram_num_embeddings": [384_006_168, 384_016_682], "engram_max_ngram_size": 4,
    "engram_n_heads": 8, "engram_head_dim": 256,
}  # fmt: skip
"""deepseek-ai/DeepSeek-V4.1-Flash: the text model of its `config.json`, as three engines' readers of it state it."""
QUANTISED = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32], "scale_fmt": "ue8m0",
    "expert_dtype": "fp4",
}  # fmt: skip


def model_of(folder: Path, quantised: bool = True, **changes: Any) -> ModelArchitecture:
    text = {key: item for key, item in (TEXT | changes).items() if item is not None}
    document = {"model_type": "deepseek_v41", "dtype": "bfloat16", "tie_word_embeddings": False, "text_config": text}
    path = folder / "config.json"
    path.write_text(json.dumps(document | ({"quantization_config": QUANTISED} if quantised else {})))
    return load_architecture(path)


def attention(layer: int, model: ModelArchitecture) -> Attention:
    mixer = model.decoder.mixer(layer)
    assert isinstance(mixer, Attention)
    return mixer


def test_counts_are_those_that_were_published(tmp_path: Path) -> None:
    """552 B and 196 B of tables, 16 B active in decoding; rows of 264 bytes, experts of 4.25 bits."""
    model = model_of(tmp_path)
    assert model.table_params == (384_006_168 + 384_016_682) * 256
    assert model.total_params - model.table_params == pytest.approx(552e9, rel=2e-3)
    assert model.active_params == pytest.approx(16e9, rel=0.03)
    assert model.table_bytes == (384_006_168 + 384_016_682) * 264
    assert (model.dtype.name, model.expert_dtype.name) == ("fp8", "mxfp4")
    assert model_of(tmp_path, quantised=False).table_bytes == 2 * model.table_params
    assert parse_architecture(model.to_yaml(), "printed") == model


def test_a_layer_that_borrows_entries_makes_and_keeps_none(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    d, q, width = 5120, 1280, 64 * 512
    plain = q * d + width * q + 512 * d + 8 * 1024 * (width // 8) + d * 8 * 1024
    queries, weights, keys = 32 * 128 * q, 32 * d, 128 * 512
    counted = {
        0: plain,
        2: plain + 2 * 512 * d + queries + weights + keys,
        3: plain,
        20: plain + 512 * d + queries + weights + keys,
        24: plain + queries + weights,
    }
    assert {layer: attention(layer, model).matrix_params(d) for layer in counted} == counted
    kept = [attention(layer, model).kv_elements_per_token for layer in (0, 2, 3, 8, 20, 21, 24)]
    assert kept == [512, 320, 0, 320, 640, 0, 0]
    assert [attention(layer, model).entries for layer in (0, 2, 3, 24)] == [
        "overlapping", "apart", "borrowed", "borrowed",
    ]  # fmt: skip


def test_a_borrowing_layer_reads_what_it_sees(tmp_path: Path) -> None:
    """Position 34 of 35, a window of 8: entries of two and of one token before it, of which 3 are chosen."""
    small = {
        "hidden_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "head_dim": 16, "q_lora_rank": 32, "o_lora_rank": 8, "o_groups": 2, "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 100, "sliding_window": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 3, "hc_mult": 2,
        "compress_ratios": [0, 2, 2, 2], "kv_source_layer_ids": [1], "index_source_layer_ids": [1, 3],
        "engram_layer_ids": [], "engram_num_embeddings": [],
    }  # fmt: skip
    model = model_of(tmp_path, quantised=False, **small)
    trace = pregate.synthesize(model, 33, 3)
    schedule = decode(model, trace.steps(), policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=0).schedule
    ops = [op for op in range(len(schedule)) if schedule.kind[op] == OpKind.SELF_ATTENTION][-4:]
    window, own, reused, picked = (schedule.works[schedule.cost[op]] for op in ops)
    pair = 2 * 4 * (16 + 16)
    assert window.flop == 8 * pair
    assert own.flop == picked.flop == (8 + 3) * pair + 17 * 2 * 2 * 8
    assert reused.flop == (8 + 3) * pair


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kv_source_layer_ids": [2, 8, 14, 40]}, "kv_source_layer_ids names layer 40, there are 0 to 39"),
        ({"kv_source_layer_ids": [8, 14, 20]}, "layer 2 has no entries of 2 tokens to read"),
        ({"kv_source_layer_ids": [2, 8, 14]}, "layer 20 has no entries of 1 tokens to read"),
        ({"engram_num_embeddings": [5, -1]}, "engram_num_embeddings = -1 rows: below 0"),
        ({"engram_num_embeddings": [5]}, "engram_num_embeddings has 1 tables for 2 layers"),
        ({"compress_ratios": None, "kv_source_layers": [0, 0]}, "layers share keys and values"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=told):
        model_of(tmp_path, **changes)


def test_entries_need_compression() -> None:
    for entries, told in (("borrowed", "without compression"), ("odd", "unknown entries of attention 'odd'")):
        with pytest.raises(InvalidInput, match=told):
            Attention("mha", 4, 4, 16, entries=entries)
