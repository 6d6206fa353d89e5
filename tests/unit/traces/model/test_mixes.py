"""Files that mix formats by a published rule, and models whose size is all that is known."""

from __future__ import annotations

import dataclasses

import pytest

import pregate
from pregate.sweeps.axes import read_axes
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import load_architecture
from traces.model.dtypes import find_dtype, format_shares, shares_dtype
from traces.model.files.llama_mixes import MIXES, is_mix, mix_formats
from traces.model.formats_by_part import parse_formats
from traces.model.model_architecture import ModelArchitecture

QWEN, MIXTRAL = load_architecture("qwen3-30b-a3b"), load_architecture("mixtral-8x7b")


def test_the_layers_of_more_bits_are_the_first_and_last_eighth_and_every_third_between() -> None:
    """48 layers: 6 + 6, and 12 of the 36 between; the third matrix of an expert in six bits there."""
    found = mix_formats(QWEN, "Q4_K_M")
    assert found["experts"].bits == pytest.approx((2 * 4.5 + (24 * 6.5625 + 24 * 4.5) / 48) / 3, abs=1e-4)
    kv = 4 * 128
    attention = ((2 * 4096 + kv) * 4.5 + kv * (6.5625 + 4.5) / 2) / (2 * 4096 + 2 * kv)
    assert found["attention"].bits == pytest.approx(attention, abs=1e-4)
    assert (found["head"].name, found["embedding"].name, found["gates"].name) == ("q6_k", "q4_k", "fp32")


def test_the_size_of_a_published_file_is_met() -> None:
    """Qwen3-30B-A3B's Q4_K_M has 17.28 GiB, as llama.cpp prints it (offload_field.csv of the published tables)."""
    assert QWEN.with_formats({"all": "q4_k_m"}).total_bytes / 2**30 == pytest.approx(17.28, rel=0.003)


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [
        ("Q2_K", 11_258_610_240), ("Q3_K_S", 13_292_468_800), ("Q3_K_M", 14_711_847_488), ("IQ4_XS", 16_378_073_664),
        ("IQ4_NL", 17_310_782_016), ("Q4_0", 17_379_988_032), ("Q4_1", 19_192_500_800), ("Q4_K_S", 17_456_009_792),
        ("Q4_K_M", 18_556_686_912), ("Q5_K_S", 21_080_511_040), ("Q5_K_M", 21_725_581_888), ("Q6_K", 25_092_532_800),
        ("Q8_0", 32_483_932_736),
    ],
)  # fmt: skip
def test_the_sizes_of_a_published_folder_are_met(name: str, n_bytes: int) -> None:
    """unsloth/Qwen3-30B-A3B-GGUF at d5b1d57b, as its listing has them; 6 MB of each are words and headers. Its Q4_0 has
    parts of more bits than the rule gives them.
    """
    off = 0.005 if name == "Q4_0" else 0.0012
    assert QWEN.with_formats({"all": name}).total_bytes == pytest.approx(n_bytes, rel=off)
    assert QWEN.with_dtype(name) == QWEN.with_formats({"all": name})


def test_a_name_of_files_and_of_a_format_is_the_format_where_it_is_said_of_a_part() -> None:
    model = QWEN.with_formats({"all": "iq2_xxs", "experts": "iq2_xxs"})  # a file's first layers have q2_k
    assert model.expert_dtype.name == "iq2_xxs"
    assert model.stored_head_dtype.name == "q5_k"
    assert model.layer_formats is None or not model.layer_formats.experts


@pytest.mark.parametrize("name", ["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "tq1_0", "tq2_0"])
def test_a_file_keeps_its_head_and_its_table_wider_than_its_experts(name: str) -> None:
    model = QWEN.with_formats({"all": name})
    assert model.stored_head_dtype.bits > model.expert_dtype.bits
    assert model.stored_embedding_dtype.bits >= find_dtype(name).bits
    assert 8 * model.total_bytes / model.total_params == pytest.approx(find_dtype(name).bits, rel=0.08)


def test_models_of_eight_experts_keep_keys_and_values_in_eight_bits() -> None:
    found = mix_formats(MIXTRAL, "q4_k_m")
    d, kv = 4096, 1024
    assert found["attention"].bits == pytest.approx((d * 4.5 + d * 5.5 + 2 * kv * 8.5) / (2 * d + 2 * kv), abs=1e-4)


@pytest.mark.parametrize(
    ("model", "name", "shares"),
    [
        (MIXTRAL, "iq2_xxs", {"iq2_xxs": 0.4, "q5_k": 0.4, "q4_k": 0.2}),  # queries, outputs, keys and values
        (MIXTRAL, "q2_k", {"q2_k": 0.4, "q5_k": 0.4, "q8_0": 0.2}),
        (QWEN, "iq1_s", {"iq1_s": 0.5, "iq2_xxs": 0.4444, "q4_k": 0.0556}),  # queries and keys, outputs, values
        (QWEN, "iq2_s", {"iq2_xs": 0.5, "iq3_s": 0.4444, "q4_k": 0.0556}),
    ],
)
def test_attention_of_files_of_few_bits_is_as_the_rule_has_it(
    model: ModelArchitecture, name: str, shares: dict[str, float]
) -> None:
    """llama_tensor_get_type of llama.cpp, by hand."""
    assert mix_formats(model, name)["attention"].name == "+".join(f"{one}*{share}" for one, share in shares.items())


def test_rows_that_blocks_of_256_do_not_divide_have_the_next_format() -> None:
    model = load_architecture("gpt-oss-20b")  # rows of 2880
    assert mix_formats(model, "q4_k_m")["experts"].bits > find_dtype("q5_0").bits
    assert mix_formats(model, "mxfp4_moe")["experts"].name == "mxfp4"
    assert mix_formats(model, "mxfp4_moe")["attention"].name == "q8_0"


@pytest.mark.parametrize("name", [*MIXES, "mxfp4_moe"])
@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3", "gpt-oss-20b", "mixtral-8x7b", "switch-base-8"])
def test_every_mix_gives_every_part_of_every_model_a_format(name: str, model: str) -> None:
    assert is_mix(name.upper())
    before = load_architecture(model)
    made = before.with_formats({"all": name})
    assert made == before.with_dtype(name)
    assert made.total_bytes < before.with_dtype("bf16").total_bytes
    assert made.stored_activation_dtype == before.stored_activation_dtype


def test_wider_mixes_are_larger() -> None:
    order = ["q2_k_s", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m"]
    sizes = [QWEN.with_formats({"all": name}).total_bytes for name in order]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_one_part_can_be_of_a_mix() -> None:
    model = QWEN.with_formats({"experts": "q4_k_m", "attention": "q8_0"})
    assert model.expert_dtype == mix_formats(QWEN, "q4_k_m")["experts"]
    assert model.stored_attention_dtype.name == "q8_0"
    for part in ("kv", "activations"):
        with pytest.raises(InvalidInput):
            QWEN.with_formats({part: "q4_k_m"})


@pytest.mark.parametrize("size", ["15.4GiB", "15.4 GiB", "20GB", "0.015TiB"])
def test_a_size_of_the_whole_model_is_met(size: str) -> None:
    units = {"GiB": 2**30, "GB": 1e9, "TiB": 2**40}
    unit = next(unit for unit in units if size.endswith(unit))
    model = QWEN.with_formats({"all": size})
    assert model.total_bytes == pytest.approx(float(size.removesuffix(unit)) * units[unit], rel=1e-4)


def test_a_size_leaves_what_is_named_beside_it_as_it_is() -> None:
    model = load_architecture("deepseek-v3").with_formats({"all": "226GiB", "attention": "q8_0", "head": "q6_k"})
    assert model.total_bytes == pytest.approx(226 * 2**30, rel=1e-4)
    assert model.stored_attention_dtype.name == "q8_0"
    assert model.stored_shared_dtype == model.expert_dtype


@pytest.mark.parametrize("size", ["1GiB", "500GiB", "0GB", "15.4Gib", "15.4", "-3GiB", "1e9GiB"])
def test_a_size_that_cannot_be_is_refused(size: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        QWEN.with_formats({"all": size})
    assert "\n" not in str(caught.value)


def test_a_size_is_of_the_whole_model_only() -> None:
    with pytest.raises(InvalidInput):
        QWEN.with_formats({"experts": "15GiB"})


def test_mixes_and_sizes_are_taken_where_formats_are() -> None:
    assert parse_formats("all=106.8GiB,kv=q8_0") == {"all": "106.8GiB", "kv": "q8_0"}
    assert read_axes({"formats.all": ["q4_k_m", "15GiB"]})[0].values.tolist() == ["q4_k_m", "15GiB"]
    assert read_axes({"dtype": ["q4_k_m", "bf16"]})[0].values.tolist() == ["q4_k_m", "bf16"]
    assert pregate.load_model("qwen3-30b-a3b", dtype="q4_k_m") == QWEN.with_formats({"all": "q4_k_m"})


def test_the_same_layers_count_whatever_stands_between() -> None:
    attention = dataclasses.replace(QWEN.decoder.attention, n_kv_heads=QWEN.decoder.attention.n_heads, kind="mha")
    wide = dataclasses.replace(QWEN, decoder=dataclasses.replace(QWEN.decoder, attention=attention))
    assert mix_formats(wide, "iq3_xs")["attention"].bits != mix_formats(QWEN, "iq3_xs")["attention"].bits


def test_a_mix_says_what_share_of_its_weights_has_which_format() -> None:
    """24 of 48 layers keep the third matrix of an expert in six bits: a sixth of all weights."""
    assert mix_formats(QWEN, "q4_k_m")["experts"].name == "q4_k*0.8333+q6_k*0.1667"
    stated = find_dtype("IQ3_S*0.75+iq3_xxs*0.25")
    assert stated.bits == pytest.approx(0.75 * 3.4375 + 0.25 * 3.0625)
    assert stated.is_packed
    assert format_shares(stated.name) == (("iq3_s", 0.75), ("iq3_xxs", 0.25))
    assert format_shares("q4_k") == (("q4_k", 1.0),)
    assert shares_dtype({"q6_k": 1, "q4_k": 10**9}).name == "q4_k"
    assert QWEN.with_formats({"experts": stated.name}).expert_dtype == stated


@pytest.mark.parametrize("name", ["q4_k*0.5+q6_k*0.4", "q4_k*1+q6_k*.", "q4_k*.+q6_k*.", "q4_k*0.5+nosuch*0.5"])
def test_shares_that_are_none_of_a_whole_are_refused(name: str) -> None:
    with pytest.raises((InvalidInput, UnknownName)):
        find_dtype(name)
