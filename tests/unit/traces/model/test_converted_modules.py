"""Quantisations that name modules: which part of a model has which format, family by family, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import SHAPES, quantised, read
from traces.errors import InvalidFile
from traces.model.architecture import ModelArchitecture, load_architecture, parse_architecture

LAYERS = range(SHAPES["num_hidden_layers"])
NAMED = "qkvo"

NEMOTRON: dict[str, Any] = {
    "model_type": "nemotron_h", "hidden_size": 64, "hybrid_override_pattern": "MEM*EM", "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2,
    "ssm_state_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 64, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip
"""Blocks called `mixer` whatever they are: three state spaces, two MoE blocks, one attention."""


def side(folder: Path, config: dict[str, Any], name: str, document: dict[str, Any]) -> ModelArchitecture:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / name).write_text(json.dumps(document))
    return load_architecture(folder / "config.json")


def modelopt(folder: Path, config: dict[str, Any], **quantisation: Any) -> ModelArchitecture:
    return side(folder, config, "hf_quant_config.json", {"quantization": quantisation})


def eight_bits(*ignored: str, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "strategy": "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"config_groups": groups, "ignore": ["lm_head", *ignored], **more}


LEFT_OUT = ("self_attn.q_proj", "self_attn.o_proj", "eh_proj", "mlp.experts.0.up_proj", "mlp.shared_expert.up_proj")


def left_out_of(layer: int) -> dict[str, Any]:
    return eight_bits(*(f"model.layers.{layer}.{module}" for module in LEFT_OUT))


def test_what_is_left_out_of_the_prediction_layer_is_left_out_of_no_other(tmp_path: Path) -> None:
    """It lies behind the last one, and checkpoints list it too."""
    model = quantised(tmp_path, "compressed-tensors", **left_out_of(7))
    found = (model.stored_attention_dtype, model.expert_dtype, model.stored_shared_dtype, model.dtype)
    assert {form.name for form in found} == {"fp8"}


def test_what_is_left_out_of_one_layer_takes_its_bytes_and_no_more(tmp_path: Path) -> None:
    """Counted matrix by matrix. Two of four of attention in one of four layers; one of three of one expert of eight, in
    one layer; one of three of the shared expert of one layer. All are multiplied in fp8, as most are.
    """
    whole = quantised(tmp_path, "compressed-tensors", **eight_bits())
    model = quantised(tmp_path, "compressed-tensors", **left_out_of(1))
    assert whole.decoder.moe_layers == (1, 2, 3)
    matrix = model.d_model * model.d_ff_expert
    wider = model.n_moe_layers * model.n_experts * (model.expert_bytes - whole.expert_bytes)
    assert wider == pytest.approx(matrix, abs=25), "an expert has whole bytes, and four digits of the mean bits"
    q_and_o = 2 * model.d_model * model.d_model
    beside = model.non_expert_bytes - whole.non_expert_bytes
    assert beside == pytest.approx(q_and_o + model.d_model * model.d_ff_shared, abs=2)
    for form in (model.stored_attention_dtype, model.expert_dtype, model.stored_shared_dtype):
        assert form.name.startswith("fp8-w")
        assert model.compute_format(form) == "fp8"
    assert parse_architecture(model.to_yaml(), "again") == model


def test_blocks_called_mixer_are_what_they_are(tmp_path: Path) -> None:
    names = [f"backbone.layers.{i}.mixer.{m}" for i in (0, 2, 5) for m in ("in_proj", "out_proj")]
    names += [f"backbone.layers.3.mixer.{m}_proj" for m in NAMED]
    for left_out in (names, ["*in_proj", "*out_proj", *(f"*{m}_proj" for m in NAMED)]):
        model = modelopt(tmp_path, NEMOTRON, quant_algo="NVFP4", exclude_modules=["lm_head", *left_out])
        assert (model.stored_attention_dtype.name, model.expert_dtype.name) == ("bf16", "nvfp4")
    layers = {name: {"quant_algo": "FP8"} for name in names} | {
        f"backbone.layers.{i}.mixer.experts.{e}.{m}_proj": {"quant_algo": "NVFP4"}
        for i in (1, 4) for e in range(8) for m in ("up", "down")
    }  # fmt: skip
    model = modelopt(tmp_path, NEMOTRON, quant_algo="MIXED_PRECISION", quantized_layers=layers)
    found = (model.stored_attention_dtype.name, model.expert_dtype.name, model.stored_shared_dtype.name)
    assert found == ("fp8", "nvfp4", "bf16")


def test_attention_and_layers_with_a_state_count_by_their_weights(tmp_path: Path) -> None:
    """Three of four layers have a state; left out, they are most weights of what mixes the tokens."""
    hybrid = SHAPES | {
        "model_type": "qwen3_next", "head_dim": 16, "linear_num_key_heads": 8, "linear_num_value_heads": 16,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "full_attention_interval": 4,
    }  # fmt: skip
    model = modelopt(tmp_path, hybrid, quant_algo="FP8", exclude_modules=["*linear_attn*"])
    weights = [mixer.matrix_params(64) for mixer in model.decoder.all_mixers if mixer is not None]
    assert model.stored_attention_dtype.bits == pytest.approx(16 - 8 * weights[3] / sum(weights), abs=1e-4)
    assert (model.compute_format(model.stored_attention_dtype), model.expert_dtype.name) == ("bf16", "fp8")
    mixed = modelopt(tmp_path, hybrid, quant_algo="NVFP4", exclude_modules=["*self_attn*"])
    expected = (4.5 * sum(weights[:3]) + 16 * weights[3]) / sum(weights)
    assert mixed.stored_attention_dtype.bits == pytest.approx(expected, abs=1e-3)


def test_one_layer_of_experts_at_full_width_counts_by_its_share(tmp_path: Path) -> None:
    """All eight experts of one of three MoE layers: a third; four of them: a sixth."""
    for n, share in ((8, 1 / 3), (4, 1 / 6)):
        names = [
            f"model.layers.1.mlp.experts.{e}.{m}_proj" for e in range(n) for m in ("gate", "up", "down")
        ]  # fmt: skip
        model = quantised(tmp_path, "awq", bits=4, group_size=128, modules_to_not_convert=names)
        assert model.expert_dtype.bits == pytest.approx(4 + 20 / 128 + share * (12 - 20 / 128), abs=1e-3)


def test_what_is_converted_is_known_by_its_names_or_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"none is known here: .*--formats"):
        modelopt(tmp_path, NEMOTRON, quantized_layers={"transformer.h.0.c_attn": {"quant_algo": "FP8"}})
    with pytest.raises(InvalidFile, match=r"sparse-24-bitmask.*--dtype"):
        quantised(tmp_path, "compressed-tensors", **eight_bits(sparsity_config={"format": "sparse-24-bitmask"}))
    assert quantised(tmp_path, "compressed-tensors", **eight_bits(sparsity_config={"format": "dense"})).dtype.bits == 8


@pytest.mark.parametrize("keys", [("quantization", "quantization_config"), ("quantization_config",)])
@pytest.mark.parametrize("more", [{}, {"mode": "affine"}])
def test_mlx_is_told_by_its_fields_under_either_key(
    keys: tuple[str, ...], more: dict[str, Any], tmp_path: Path
) -> None:
    """Converters write the same mapping under both keys, with no method: 4 bits, a scale and a bias for 64 weights."""
    model = read(tmp_path, **{key: {"group_size": 64, "bits": 4, **more} for key in keys})
    assert {form.name for form in (model.expert_dtype, model.dtype, model.stored_embedding_dtype)} == {"int4-g64-b"}
    old = read(tmp_path, quantization_config={"group_size": 64, "bits": 4, "desc_act": False, "sym": True})
    assert (old.expert_dtype.name, old.stored_embedding_dtype.name) == ("int4-g64", "bf16")


def test_bitsandbytes_has_what_its_fields_say(tmp_path: Path) -> None:
    """Without double quantisation, the default, a 32-bit constant for 64 weights (QLoRA, arXiv 2305.14314)."""
    assert quantised(tmp_path, "bitsandbytes", load_in_4bit=True).expert_dtype.bits == 4 + 32 / 64
    assert quantised(tmp_path, "bitsandbytes", load_in_4bit=True, bnb_4bit_use_double_quant=True).dtype.name == "nf4"
    assert read(tmp_path, quantization_config={"load_in_8bit": True}).expert_dtype.name == "int8"
    with pytest.raises(InvalidFile, match="neither load_in_4bit nor load_in_8bit"):
        quantised(tmp_path, "bitsandbytes", load_in_4bit=False, load_in_8bit=False)


def test_half_quadratic_scales_that_are_quantised_too_are_smaller(tmp_path: Path) -> None:
    inner = {"weight_quant_params": {"nbits": 2, "group_size": 16}}
    wide = quantised(tmp_path, "hqq", quant_config=inner)
    meta = {"scale_quant_params": {"nbits": 8, "group_size": 128}, "zero_quant_params": {"nbits": 8}}
    narrow = quantised(tmp_path, "hqq", quant_config=inner | meta)
    assert (wide.expert_dtype.bits, narrow.expert_dtype.bits) == (4.0, 2 + 16.25 / 16)


def test_quark_states_the_cache_of_keys_and_values(tmp_path: Path) -> None:
    weight = {"weight": {"dtype": "fp4", "group_size": 32}}
    cache = {"*k_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}, "*v_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}}
    model = quantised(tmp_path, "quark", global_quant_config=weight, kv_cache_quant_config=cache)
    assert (model.expert_dtype.name, model.stored_kv_dtype.name) == ("mxfp4", "fp8")


def test_a_word_a_tensor_beside_the_configuration_is_read(tmp_path: Path) -> None:
    """MindStudio ModelSlim: attention as it was, experts of 4 bits in columns, the dense layer of 8."""
    words: dict[str, Any] = {"model_quant_type": "W4A8_DYNAMIC", "model.embed_tokens.weight": "FLOAT"}
    words |= {f"model.layers.{i}.self_attn.{m}_proj.weight": "FLOAT" for i in LAYERS for m in NAMED}
    for m in ("gate", "up", "down"):
        words[f"model.layers.0.mlp.{m}_proj.weight"] = "W8A8_DYNAMIC"
        words |= {
            f"model.layers.{i}.mlp.experts.{e}.{m}_proj.weight": "W4A8_DYNAMIC" for i in (1, 2, 3) for e in range(8)
        }
    model = side(tmp_path, SHAPES, "quant_model_description_w4a8.json", words)
    found = (model.stored_attention_dtype, model.expert_dtype, model.dtype, model.stored_shared_dtype)
    assert [form.bits for form in found] == pytest.approx([16, 4, 8, 16], abs=1e-3)
    with pytest.raises(InvalidFile, match=r"quant_model_description_w4a8\.json: .*'W3A3' is not read"):
        side(tmp_path, SHAPES, "quant_model_description_w4a8.json", {"layers.0.mlp.up_proj.weight": "W3A3"})


@pytest.mark.parametrize("name", ["openvino_config.json", "qmodel.pt", "mlc-chat-config.json"])
def test_weights_quantised_in_a_way_that_is_not_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=rf"{name} beside it says how the weights are quantised.*--formats"):
        side(tmp_path, SHAPES, name, {"dtype": "int4"})


def test_a_file_that_ends_early_says_so_and_where(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, expected in (
        ('{\n "a": 1,\n "b": [1,', "at line 3, where the file ends early"),
        ('{\n "a": 1;\n}', r"at line 2 \("),
    ):
        path.write_text(text)
        with pytest.raises(InvalidFile, match=expected):
            load_architecture(path)
