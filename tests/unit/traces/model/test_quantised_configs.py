"""Formats of quantised checkpoints: methods by their own fields, modules with a format of their own, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offload.work import head_work
from tests.unit.traces.model.model_configs import SHAPES, quantised, read
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import ModelArchitecture, load_architecture, parse_architecture
from traces.model.dtypes import find_dtype


@pytest.mark.parametrize(
    ("method", "fields", "bits"),
    [
        ("hqq", {"quant_config": {"weight_quant_params": {"nbits": 3, "group_size": 64}}}, 3.7),
        ("hqq", {"nbits": 4, "group_size": 64}, 4.5),
        ("aqlm", {"num_codebooks": 1, "nbits_per_codebook": 16, "in_group_size": 8, "out_group_size": 1}, 2.0),
        ("quanto", {"weights": "int8"}, 8.0),
        ("torchao", {"quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}}, 4.5),
        ("torchao", {"quant_type": {"default": {"_type": "Float8WeightOnlyConfig", "_data": {}}}}, 8.0),
        ("eetq", {"weights": "int8"}, 8.0),
        ("exl3", {"bits": 3.5}, 3.5),
        ("gptq_marlin", {"bits": 4, "group_size": 128, "sym": True}, 4.125),
        ("fp_quant", {"forward_dtype": "mxfp4"}, 4.25),
        ("auto-round", {"bits": 4, "group_size": 32, "data_type": "mx_fp"}, 4.25),
        ("quark", {"global_quant_config": {"weight": {"dtype": "uint4", "group_size": 64}}}, 4 + 20 / 64),
        ("quark", {"global_quant_config": {"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4", "group_size": 128}]}},
         4.125),
        ("quark", {"global_quant_config": {"weight": [
            {"dtype": "fp4", "group_size": 16}, {"dtype": "fp8_e4m3", "is_scale_quant": True},
        ]}}, 4.5),
        ("quark", {"global_quant_config": {"weight": {"dtype": "fp8_e4m3"}},
                   "layer_type_quant_config": {"nn.Linear": {"weight": {"dtype": "fp4", "group_size": 32}}}}, 4.25),
    ],
)  # fmt: skip
def test_a_method_is_read_by_its_own_fields(method: str, fields: dict[str, Any], bits: float, tmp_path: Path) -> None:
    model = quantised(tmp_path, method, **fields)
    assert model.expert_dtype.bits == pytest.approx(bits)
    assert parse_architecture(model.to_yaml(), "printed") == model


@pytest.mark.parametrize("group", [0, -2])
@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("gptq", {"bits": 4}),
        ("awq", {"bits": 4}),
        ("auto-round", {"bits": 4}),
        ("hqq", {"nbits": 4}),
        ("mlx", {"bits": 4}),
        ("torchao", {"quant_type": "int4_weight_only"}),
        ("compressed-tensors", {"num_bits": 4, "type": "int"}),
        ("compressed-tensors", {"num_bits": 8, "type": "int"}),
    ],
)
def test_a_group_of_no_weights_is_refused(method: str, fields: dict[str, Any], group: int, tmp_path: Path) -> None:
    """A whole column is -1 in GPTQ and its like; nothing says what 0 would be."""
    fields = fields | {"group_size": group}
    if method == "compressed-tensors":
        fields = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": fields}}}
    elif method == "torchao":
        fields |= {"quant_type_kwargs": {"group_size": group}}
    with pytest.raises((InvalidFile, InvalidInput), match=rf"group_size = {group}|groups of"):
        quantised(tmp_path, method, **fields)


def test_a_method_nobody_reads_is_refused_with_a_way_out_that_exists(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"quant_method 'vptq' is not read.*--dtype .*w3\.5") as caught:
        quantised(tmp_path, "vptq")
    assert "\n" not in str(caught.value)
    assert find_dtype("w3.5").bits == 3.5
    for wrong in ("w0", "w33", "w3.55555"):
        with pytest.raises(InvalidInput):
            find_dtype(wrong)


def test_modules_with_a_format_of_their_own_keep_it(tmp_path: Path) -> None:
    dynamic = {"-:.*self_attn.*": {}, "+:.*shared_expert.*": {"bits": 8}}
    model = quantised(tmp_path, "gptq", bits=4, group_size=128, sym=True, dynamic=dynamic)
    assert (model.expert_dtype.name, model.stored_attention_dtype.name) == ("int4-g128", "bf16")
    assert model.stored_shared_dtype.name == "int8-g128"
    stages = {"*experts*": {"weight": {"dtype": "fp4", "group_size": 32}}}
    model = quantised(
        tmp_path, "quark", global_quant_config={"weight": {"dtype": "fp8_e4m3"}}, layer_quant_config=stages
    )
    assert (model.expert_dtype.name, model.dtype.name) == ("mxfp4", "fp8")


def test_a_part_of_several_formats_takes_their_mean_bits(tmp_path: Path) -> None:
    """Down-projections of two MoE layers of three at 6 bits, all else at 4: two of nine matrices have 2 bits more."""
    own = {f"model.layers.{i}.mlp.switch_mlp.down_proj": {"bits": 6, "group_size": 64} for i in (1, 2)}
    model = read(tmp_path, quantization={"bits": 4, "group_size": 64, **own})
    assert model.expert_dtype.bits == pytest.approx(4.5 + 2 * 2 / 9, abs=1e-3)
    assert model.stored_attention_dtype.bits == 4.5


def test_layers_that_are_not_converted_count_by_number(tmp_path: Path) -> None:
    """The dense first layer alone; the attention of one layer of four, and of three."""
    first = quantised(tmp_path, "awq", bits=4, group_size=128, modules_to_not_convert=["model.layers.0."])
    assert (first.dtype.name, first.expert_dtype.name) == ("bf16", "int4-g128-zp")
    one, three = (
        quantised(tmp_path, "fp8", modules_to_not_convert=[f"model.layers.{i}.self_attn" for i in layers])
        for layers in ((2,), (0, 1, 2))
    )
    assert (one.stored_attention_dtype.name, three.stored_attention_dtype.name) == ("fp8-w10", "bf16-w14")
    assert [model.compute_format(model.stored_attention_dtype) for model in (one, three)] == ["fp8", "bf16"]
    matrices = one.matrix_params["attention"] // 4
    assert three.non_expert_bytes - one.non_expert_bytes == 2 * matrices, "two layers more, a byte a weight"


def test_input_table_and_head_are_stored_as_the_file_says(tmp_path: Path) -> None:
    plain = read(tmp_path)
    assert plain.stored_embedding_dtype.name == plain.stored_head_dtype.name == "bf16"
    apple = {"bits": 4, "group_size": 64, "lm_head": {"bits": 6, "group_size": 64}}
    model = read(tmp_path, quantization=apple)
    assert (model.stored_embedding_dtype.name, model.stored_head_dtype.name) == ("int4-g64-b", "int6-g64-b")
    without = read(tmp_path, quantization=apple | {"lm_head": False, "model.embed_tokens": False})
    saved = 100 * 64 * (16 - 4.5 + 16 - 6.5) / 8
    assert without.non_expert_bytes - model.non_expert_bytes == pytest.approx(saved, abs=1)
    assert head_work(model, 3).weight_bits == 6.5
    tied = read(tmp_path, quantization=apple, tie_word_embeddings=True)
    assert tied.stored_head_dtype.name == "int4-g64-b"
    assert quantised(tmp_path, "exl3", bits=3.5, head_bits=6).stored_head_dtype.bits == 6
    assert parse_architecture(model.to_yaml(), "printed") == model


def remote(folder: Path, **fields: Any) -> ModelArchitecture:
    """A family whose code comes with its checkpoint, from the fields as published."""
    path = folder / "config.json"
    path.write_text(json.dumps({"tie_word_embeddings": False, "torch_dtype": "bfloat16"} | fields))
    return load_architecture(path)


def test_families_with_code_of_their_own_have_the_published_counts(tmp_path: Path) -> None:
    """Arctic 480 B / 17 B, Grok-2 270 B / 115 B, Step-3 316 B / 38 B (language model), SmallThinker 21 B."""
    arctic = remote(
        tmp_path, model_type="arctic", hidden_size=7168, intermediate_size=4864, num_attention_heads=56,
        num_key_value_heads=8, num_hidden_layers=35, num_local_experts=128, num_experts_per_tok=2,
        parallel_attn_mlp_res=True, vocab_size=32000,
    )  # fmt: skip
    assert (arctic.total_params, arctic.active_params) == pytest.approx((480e9, 17e9), rel=0.02)
    grok = remote(
        tmp_path, model_type="git", hidden_size=8192, intermediate_size=32768, moe_intermediate_size=16384,
        num_attention_heads=64, num_key_value_heads=8, num_hidden_layers=64, num_local_experts=8,
        num_experts_per_tok=2, residual_moe=True, head_dim=128, vocab_size=131072,
    )  # fmt: skip
    assert (grok.total_params, grok.active_params) == pytest.approx((270e9, 115e9), rel=0.005)
    layers = ",".join(map(str, range(4, 60)))
    text = {
        "model_type": "step3_text", "hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 64,
        "num_attention_groups": 1, "num_hidden_layers": 61, "vocab_size": 128815, "moe_layers_enum": layers,
        "moe_num_experts": 48, "moe_top_k": 3, "moe_intermediate_size": 5120, "share_expert_dim": 5120,
        "head_dim": 256, "share_q_dim": 2048,
    }  # fmt: skip
    step = remote(tmp_path, model_type="step3_vl", text_config=text)
    assert step.total_params == pytest.approx(316e9, rel=0.005)
    assert step.kv_bytes_per_token == 61 * 2 * 256 * 2
    assert parse_architecture(step.to_yaml(), "printed") == step
    small = remote(
        tmp_path, model_type="smallthinker", head_dim=128, hidden_size=2560, moe_ffn_hidden_size=768,
        moe_num_active_primary_experts=6, moe_num_primary_experts=64, num_attention_heads=28, num_hidden_layers=52,
        num_key_value_heads=4, sliding_window_size=4096, sliding_window_layout=[0, 1, 1, 1] * 13,
        moe_layer_layout=[1] * 52, vocab_size=151936,
    )  # fmt: skip
    assert small.total_params == pytest.approx(21.5e9, rel=0.005)
    assert sum(mixer.window == 4096 for mixer in small.decoder.all_mixers) == 39  # type: ignore[union-attr]


def test_experts_under_a_name_nobody_reads_are_not_called_dense(tmp_path: Path) -> None:
    shapes = {key: value for key, value in SHAPES.items() if key not in ("num_experts", "num_experts_per_tok")}
    (tmp_path / "config.json").write_text(json.dumps(shapes | {"n_gizmo_experts": 8}))
    with pytest.raises(InvalidFile, match="n_gizmo_experts") as caught:
        load_architecture(tmp_path / "config.json")
    assert "dense" not in str(caught.value)


def test_weights_in_groups_are_multiplied_in_the_format_of_activations(tmp_path: Path) -> None:
    """A card has rates for int8 and fp8, none for eight bits in groups of 128."""
    model = quantised(tmp_path, "gptq", bits=8, group_size=128, sym=True)
    assert model.compute_format(model.expert_dtype) == "bf16"
    assert [model.compute_format(find_dtype(name)) for name in ("int8", "fp8", "mxfp8", "w3.5")] == [
        "int8", "fp8", "fp8", "bf16",
    ]  # fmt: skip


def test_layers_listed_as_something_else_are_refused(tmp_path: Path) -> None:
    linear = {"full_attn_layers": 1.5, "num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4}
    with pytest.raises(InvalidFile, match="full_attn_layers"):
        read(tmp_path, linear_attn_config=linear)


def test_a_key_stated_twice_is_refused_unless_it_says_the_same(tmp_path: Path) -> None:
    text = json.dumps(SHAPES)
    (tmp_path / "config.json").write_text(text.replace("{", '{"num_experts": 4, ', 1))
    with pytest.raises(InvalidFile, match="num_experts is stated twice"):
        load_architecture(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(text.replace("{", '{"num_experts": 8, ', 1), encoding="utf-8-sig")
    assert load_architecture(tmp_path / "config.json").n_experts == 8
