"""Layers that are not all stored alike: in files, by the rule of a mix, as data, and what each then takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.gguf_files import EXPERTS, gguf, moe_tensors, write
from tests.small_models import decoder_only, encoder_decoder, stored_apart
from traces.errors import InvalidInput
from traces.model.architecture import load_architecture, parse_architecture
from traces.model.dtypes import DTYPES, Dtype
from traces.model.layer_bytes import layer_weight_bytes
from traces.model.layer_formats import LayerFormats
from traces.model.layer_models import layer_expert_bytes, models_by_layer

QWEN = load_architecture("qwen3-30b-a3b")


def tensor_bytes(path: Path, layer: int, *, of_experts: bool) -> int:
    """Bytes of the matrices of a layer, as the format's own package counts them."""
    return sum(
        int(tensor.n_bytes)
        for tensor in gguf.GGUFReader(str(path)).tensors
        if tensor.name.startswith(f"blk.{layer}.") and ("_exps" in tensor.name) == of_experts
    )


def test_each_layer_of_a_file_has_the_bytes_of_its_own_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", moe_tensors(n_layers=5, first_dense=1), {"block_count": 5})
    model = load_architecture(str(path))
    experts = [EXPERTS * n for n in layer_expert_bytes(model)]
    assert experts == pytest.approx([tensor_bytes(path, i, of_experts=True) for i in range(1, 5)], rel=1e-6)
    assert len({*experts}) == 2
    others = [tensor_bytes(path, i, of_experts=False) for i in range(5)]
    assert layer_weight_bytes(model) == pytest.approx(others, rel=3e-3)  # that of all layers is shared out evenly
    assert model.layer_formats is not None
    assert model.layer_formats.dense == ()
    assert [one.stored_attention_dtype.bits > 8.2 for one in models_by_layer(model)] == [True] + 4 * [False]


def test_layers_of_a_mix_have_what_its_rule_gives_them() -> None:
    """Q4_K_M: the last matrix of an expert in six bits in the first and last eighth, and in every third between."""
    model = QWEN.with_formats({"all": "q4_k_m"})
    wide = [i for i in range(48) if i < 6 or i >= 42 or (i - 6) % 3 == 2]
    bits = [one.expert_dtype.bits for one in models_by_layer(model)]
    assert bits == pytest.approx([(2 * 4.5 + 6.5625) / 3 if i in wide else 4.5 for i in range(48)], abs=1e-3)
    together = sum(layer_expert_bytes(model)) / model.n_moe_layers
    assert together == pytest.approx(model.expert_bytes, rel=1e-4)


def test_layers_of_a_mix_of_few_wide_layers_differ_by_a_quarter() -> None:
    sizes = layer_expert_bytes(QWEN.with_formats({"all": "q2_k_s"}))
    assert sizes[0] / sizes[-1] == pytest.approx(3.25 / 2.625, rel=1e-3)
    assert len({*sizes[:6]}) == len({*sizes[6:]}) == 1


def test_layers_alike_are_one_model_and_all_of_them_the_model_where_none_differs() -> None:
    assert {id(one) for one in models_by_layer(QWEN)} == {id(QWEN)}
    assert QWEN.with_formats({"all": "mxfp4_moe"}).layer_formats is None
    assert len({id(one) for one in models_by_layer(QWEN.with_formats({"all": "q4_k_m"}))}) == 2


def test_a_part_that_is_given_another_format_has_it_in_every_layer() -> None:
    mixed = QWEN.with_formats({"all": "q4_k_m"})
    assert mixed.layer_formats is not None
    assert mixed.layer_formats.attention
    plain = mixed.with_formats({"experts": "q8_0"})
    assert plain.layer_formats == dataclasses.replace(mixed.layer_formats, experts=())
    assert plain == mixed.with_expert_dtype("q8_0")
    assert mixed.with_formats({"all": "q8_0"}).layer_formats is None
    assert mixed.with_formats({"all": "15GiB"}).layer_formats is None
    assert mixed.with_dtype("bf16").layer_formats is None
    assert QWEN.with_formats({"experts": "q4_k_m"}).layer_formats == mixed.layer_formats.without(["attention"])


def test_formats_by_layer_are_read_back() -> None:
    for model in (stored_apart(decoder_only(n_shared=1)), QWEN.with_formats({"all": "q4_k_m"})):
        assert parse_architecture(model.to_yaml(), "a test") == model


def test_parts_that_follow_the_dense_matrices_keep_their_own_format() -> None:
    """Attention without a format of its own has that of dense matrices, of the model and not of the layer."""
    layers = LayerFormats(dense=tuple[Dtype, ...](DTYPES[name] for name in ("fp32", "q8_0", "q4_k", "fp32")))
    model = dataclasses.replace(decoder_only(), layer_formats=layers)
    assert [one.stored_attention_dtype.name for one in models_by_layer(model)] == ["fp32"] * 4
    assert [one.dtype.name for one in models_by_layer(model)] == ["fp32", "q8_0", "q4_k", "fp32"]


def test_a_layer_without_a_part_has_the_format_of_the_first_that_has_one() -> None:
    wide, narrow = DTYPES["q8_0"], DTYPES["q4_k"]
    found = LayerFormats.of({"dense": [wide, None, wide], "experts": [None, narrow, wide]})
    assert found == LayerFormats(experts=(narrow, narrow, wide)), "and a part that is alike wherever it is has none"


def test_formats_of_another_number_of_layers_are_refused() -> None:
    layers = LayerFormats(experts=(DTYPES["fp32"],) * 3)
    with pytest.raises(InvalidInput, match="experts of 3 layers, expected 4"):
        dataclasses.replace(decoder_only(), layer_formats=layers)
    with pytest.raises(InvalidInput, match="encoder-decoder"):
        dataclasses.replace(encoder_decoder(), layer_formats=layers)
