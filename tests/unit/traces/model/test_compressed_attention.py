"""Attention over a window and compressed entries (DeepSeek-V4): what is kept, read and multiplied, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pregate
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind, Work
from offload.policies import policy_named
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import Attention, ModelArchitecture, load_architecture, parse_architecture

CONFIG: dict[str, Any] = {
    "model_type": "deepseek_v4", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 16, "q_lora_rank": 32, "o_groups": 2, "o_lora_rank": 8, "index_n_heads": 2,
    "index_head_dim": 8, "index_topk": 3, "sliding_window": 8, "hc_mult": 2, "n_routed_experts": 8,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "vocab_size": 100,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "compress_ratios": [0, 4, 16, 0],
    "compress_rate_hca": 16,
}  # fmt: skip


def model_of(folder: Path, **changes: Any) -> ModelArchitecture:
    path = folder / "config.json"
    path.write_text(json.dumps({key: item for key, item in (CONFIG | changes).items() if item is not None}))
    return load_architecture(path)


def attention(layer: int, model: ModelArchitecture) -> Attention:
    mixer = model.decoder.mixer(layer)
    assert isinstance(mixer, Attention)
    return mixer


def last_attention_works(model: ModelArchitecture, n_prompt: int) -> list[Work]:
    trace = pregate.synthesize(model, n_prompt, 3)
    schedule = decode(model, trace.steps(), policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=0).schedule
    ops = [op for op in range(len(schedule)) if schedule.kind[op] == OpKind.SELF_ATTENTION]
    return [schedule.works[schedule.cost[op]] for op in ops[-model.decoder.n_layers :]]


def test_layers_are_read_from_their_ratios_and_printed_whole(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    assert [attention(layer, model).compression for layer in range(3)] == [0, 4, 16]
    assert [attention(layer, model).index_topk for layer in range(3)] == [0, 3, 0]
    assert {attention(layer, model).window for layer in range(3)} == {8}
    assert parse_architecture(model.to_yaml(), "printed") == model


def test_layers_that_no_key_names_are_those_of_the_model_class(tmp_path: Path) -> None:
    """Two heavily compressed layers, then heavily compressed and sparse ones in turn, at 128 and 4 tokens an entry."""
    changes = {"compress_ratios": None, "compress_rate_hca": None, "num_hidden_layers": 5}
    model = model_of(tmp_path, **changes)
    assert [attention(layer, model).compression for layer in range(5)] == [128, 128, 128, 4, 128]


def test_the_matrices_are_those_of_the_published_attention(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    plain = 32 * 64 + 64 * 32 + 16 * 64 + 16 * 32 + 64 * 16  # queries down and up, one key, groups, out
    heavy = plain + 2 * 16 * 64
    sparse = plain + 2 * 2 * 16 * 64 + 2 * 2 * 8 * 64 + 16 * 32 + 2 * 64
    assert [attention(layer, model).matrix_params(64) for layer in range(3)] == [plain, sparse, heavy]


def test_a_token_keeps_its_share_of_an_entry(tmp_path: Path) -> None:
    """A key that serves as value, with the indexer's key in sparse layers, for every 4 or 16 tokens; windows end."""
    model = model_of(tmp_path)
    assert [attention(layer, model).kv_elements_per_token for layer in range(3)] == [16, (16 + 8) // 4, 16 // 16]


def test_the_last_token_sees_its_window_and_the_entries_before(tmp_path: Path) -> None:
    """Position 34 of 35: 8 tokens of the window; 8 whole entries of 4, of which 3 are chosen; 2 of 16."""
    model = model_of(tmp_path)
    window, sparse, heavy = last_attention_works(model, 33)
    pair = 2 * 4 * (16 + 16)
    assert window.flop == 8 * pair
    assert sparse.flop == (8 + 3) * pair + 8 * 2 * 2 * 8
    assert heavy.flop == (8 + 2) * pair
    assert heavy.hbm_bytes == 2 * 16 * (8 + 2)  # a window of eight, the token itself among them, and two entries


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress_ratios": [0, 4, -1]}, "compress_ratios = -1 is below 0"),
        ({"compress_ratios": [0, 4]}, "compress_ratios names 2 layers of 3"),
        ({"compress_ratios": ["a", "b", "c"]}, "not an integer"),
        ({"o_groups": 3}, "output_groups = 3"),
        ({"sliding_window": 0}, "compression"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((InvalidFile, InvalidInput), match=message):
        model_of(tmp_path, **changes)


def test_experts_of_four_bits_in_an_fp8_checkpoint(tmp_path: Path) -> None:
    """`expert_dtype` stands beside the quantisation, or in it: blocks of 32 weights with one scale of 8 bits."""
    method = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    beside = model_of(tmp_path, quantization_config=method, expert_dtype="fp4")
    within = model_of(tmp_path, quantization_config=method | {"expert_dtype": "fp4"})
    assert beside.expert_dtype.name == within.expert_dtype.name == "mxfp4"
    assert beside.dtype.name == "fp8-b128"
    assert model_of(tmp_path, quantization_config=method, expert_dtype="fp8").expert_dtype.name == "fp8-b128"
    with pytest.raises(InvalidFile, match="expert_dtype = 'fp3'"):
        model_of(tmp_path, quantization_config=method, expert_dtype="fp3")


def group(bits: int, size: int | None, *targets: str) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "float", "group_size": size, "block_structure": None if size else [128, 128]}
    return {"targets": list(targets), "weights": weights}


def test_a_checkpoint_made_anew_from_packed_experts_has_its_own_format(tmp_path: Path) -> None:
    """RedHatAI's and NVIDIA's DeepSeek-V4 leave `expert_dtype` of the checkpoint that they were made from as it was."""
    groups = {
        "group_0": group(8, None, "re:.*attn.*(fused_wqa_wkv|wq_b|wo_a|wo_b)$"),
        "group_1": group(4, 16, "re:.*ffn.*(gate|up|down)_proj$"),
    }
    tensors = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": []}
    model = model_of(tmp_path, quantization_config=tensors, expert_dtype="fp4")
    found = (model.stored_attention_dtype, model.expert_dtype, model.stored_shared_dtype)
    assert [form.name for form in found] == ["fp8-b128", "nvfp4", "nvfp4"]
    layers = {f"layers.{i}.ffn.experts": {"quant_algo": "NVFP4", "group_size": 16} for i in range(8)}
    side = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers, "exclude_modules": ["*.attn.*", "head"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": side}))
    model = model_of(tmp_path, expert_dtype="fp4")
    found = (model.stored_attention_dtype, model.expert_dtype, model.stored_shared_dtype)
    assert [form.name for form in found] == ["bf16", "nvfp4", "bf16"]


def test_experts_may_be_packed_where_no_quantisation_is_stated(tmp_path: Path) -> None:
    model = model_of(tmp_path, expert_dtype="fp4")
    assert (model.expert_dtype.name, model.dtype.name) == ("mxfp4", "bf16")


def test_a_quantisation_by_no_method_is_none(tmp_path: Path) -> None:
    nothing = {"quant_method": None, "weight_block_size": None, "ignored_layers": []}
    assert model_of(tmp_path, quantization_config=nothing) == model_of(tmp_path)
