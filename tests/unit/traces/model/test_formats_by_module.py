"""Formats of weights that a configuration states module by module, in the words of several tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read
from traces.errors import InvalidFile

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


@pytest.mark.parametrize(
    ("quantisation", "experts", "attention"),
    [
        (
            {"quant_method": "quark", "global_quant_config": {},
             "layer_quant_config": {"*mlp.experts*": {"weight": {"dtype": "fp4", "group_size": 32}}}},
            "mxfp4", "bf16",
        ),
        ({"quant_method": "w4afp8", "ignored_layers": ["lm_head"]}, "int4-g128", "fp8"),
        (
            {"quant_method": "modelopt_fp4", "quantization": {
                "quant_algo": "NVFP4", "exclude_modules": ["lm_head", "*self_attn*"],
            }},
            "nvfp4", "bf16",
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "modules_in_block_to_quantize": [
                [f"mlp.experts.{expert}.{name}_proj" for expert in range(8)] for name in ("gate", "up", "down")
            ]},
            "int4-g128", "bf16",
        ),
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


def test_a_head_among_converted_layers_is_stored_so(tmp_path: Path) -> None:
    """Qwen3.6-35B-A3B in NVFP4, whose head is converted too; blocks of fp8, and a module that is left, by name."""
    layers = {
        f"model.language_model.layers.{i}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16} for i in range(4)
    }
    others = {"model.layers.0.self_attn": {"quant_algo": "UNQUANTIZED"}, "lm_head": {"quant_algo": "FP8_BLOCK_SCALES"}}
    found = read(tmp_path, quantization_config={
        "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers | others,
    })  # fmt: skip
    assert (found.stored_head_dtype.name, found.stored_embedding_dtype.name) == ("fp8-b128", "bf16")
    assert (found.expert_dtype.name, found.stored_attention_dtype.name) == ("nvfp4", "bf16")
    plain = read(tmp_path, quantization_config={
        "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers,
    })  # fmt: skip
    assert plain.stored_head_dtype.name == "bf16"
