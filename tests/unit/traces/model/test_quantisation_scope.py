"""Which modules a quantisation converts: by keys that are read, and refused by keys that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import quantised, read
from traces.errors import InvalidFile
from traces.model.dtypes import find_dtype


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bits": 4, "scope": "glm53_routed_experts_only"}, "scope"),
        ({"bits": 3, "non_routed_quantization": {"quant_method": "fp8"}}, "non_routed_quantization"),
        ({"bits": 2, "base_quantization_config": {"quant_method": "fp8"}}, "base_quantization_config"),
        ({"bits": 4, "only_experts": True}, "only_experts"),
        ({"bits": 4, "excluded_layers": ["self_attn"]}, "excluded_layers"),
        ({"bits": 4, "modules_to_convert": ["experts"]}, "modules_to_convert"),
    ],
)
def test_a_key_that_may_narrow_a_quantisation_is_not_passed_over(
    fields: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidFile, match=f"{named}.* give the formats with --formats"):
        quantised(tmp_path, "exl3", **fields)


@pytest.mark.parametrize("listed", ["self_attn", {"self_attn": True}, [["self_attn"]], 3])
def test_modules_that_are_in_no_list_are_refused(listed: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"modules_to_not_convert = .* is not a list of modules"):
        quantised(tmp_path, "fp8", modules_to_not_convert=listed)


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_to_not_convert": None},
        {"modules_to_not_convert": [], "block_name_to_quantize": "model.layers", "true_sequential": True},
        {"only_experts": False, "excluded_layers": [], "scope": None},
    ],
)
def test_a_key_that_narrows_nothing_is_passed_over(fields: dict[str, Any], tmp_path: Path) -> None:
    assert quantised(tmp_path, "fp8", **fields).expert_dtype == find_dtype("fp8")


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("gptq", {"model_file_base_name": "model", "model_name_or_path": None, "desc_act": True}),  # AutoGPTQ's
        ("gptq", {"model_file_base_name": "gptq_model-4bit-128g", "base_model_name_or_path": "maker/moe"}),
        ("awq", {"zero_point": True, "do_fuse": True, "modules_to_fuse": {"attention": ["q_proj"]}}),
        ("auto-round", {"weight_only": True, "quant_block_list": ["model.layers"]}),
    ],
)
def test_names_of_files_and_kernels_narrow_nothing(method: str, fields: dict[str, Any], tmp_path: Path) -> None:
    assert quantised(tmp_path, method, bits=4, group_size=128, **fields).expert_dtype.name.startswith("int4-g128")


def test_a_method_that_is_null_beside_bits_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="bits is stated, but quant_method is null"):
        read(tmp_path, quantization_config={"quant_method": None, "bits": 4})


def test_torchao_converts_the_embeddings_where_it_says_so(tmp_path: Path) -> None:
    model = quantised(tmp_path, "torchao", quant_type="int8_weight_only", include_input_output_embeddings=True)
    assert model.head_dtype == model.embedding_dtype == find_dtype("int8")
    assert quantised(tmp_path, "torchao", quant_type="int8_weight_only").embedding_dtype is None


def test_a_table_of_ngrams_that_is_named_as_converted_is_in_eight_bits(tmp_path: Path) -> None:
    named = {"modules_to_convert": ["ple.ple_embedding.ngram_embedding"]}
    assert quantised(tmp_path, "fp8", **named).table_dtype == find_dtype("fp8")
    assert quantised(tmp_path, "fp8").table_dtype is None


def test_layers_before_windows_say_nothing_where_no_window_is_used(tmp_path: Path) -> None:
    """LLaDA2 copies Qwen's key, and has no window."""
    model = read(tmp_path, model_type="llada2_moe", max_window_layers=2)
    assert model.decoder == read(tmp_path, model_type="llada2_moe").decoder
    with pytest.raises(InvalidFile, match="max_window_layers"):
        read(tmp_path, model_type="llada2_moe", max_window_layers=2, use_sliding_window=True, sliding_window=16)
