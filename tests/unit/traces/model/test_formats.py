"""Storage formats: bits by the layout of blocks, a format for each part of a model, where they are asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from offload.ffn_work import dense_ffn_work, experts_work
from offload.work import gate_work, head_work, self_attention_work
from pregate.cli.option_values import as_recorded
from pregate.sweeps.axes import FORMATS, read_axes
from tests.command_line import Run, runner
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import DTYPES, ModelArchitecture, load_architecture, parse_architecture
from traces.model.dtypes import find_dtype, mean_dtype
from traces.model.files.ggml_blocks import GGML_BLOCKS, block_bits
from traces.model.formats_by_part import FORMAT_PARTS, parse_formats

QWEN = load_architecture("qwen3-30b-a3b")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("q4_0", 4.5), ("q4_1", 5), ("q5_0", 5.5), ("q5_1", 6), ("q8_0", 8.5), ("q2_k", 2.625), ("q3_k", 3.4375),
        ("q4_k", 4.5), ("q5_k", 5.5), ("q6_k", 6.5625), ("iq1_s", 1.5625), ("iq1_m", 1.75), ("iq2_xxs", 2.0625),
        ("iq2_xs", 2.3125), ("iq2_s", 2.5625), ("iq3_xxs", 3.0625), ("iq3_s", 3.4375), ("iq4_nl", 4.5),
        ("iq4_xs", 4.25), ("mxfp4", 4.25), ("nvfp4", 4.5), ("tq1_0", 1.6875), ("tq2_0", 2.0625),
        ("iq2_k", 2.375), ("iq3_k", 3.4375), ("iq4_k", 4.5), ("iq5_k", 5.5), ("iq6_k", 6.625), ("iq4_ks", 4.25),
        ("iq3_ks", 3.1875), ("iq4_kss", 4.0), ("iq2_ks", 2.1875), ("iq5_ks", 5.25), ("iq2_kl", 2.6875),
        ("q4_k_r4", 4.5), ("iq4_ks_r4", 4.25), ("iq2_k_r4", 2.375), ("q8_0_r8", 8.5),
        ("fp8-b128", 8.001953125), ("int4-g128", 4.125), ("int4-g128-zp", 4.15625),
        ("hqq4-g64", 4.5), ("hqq2-g16", 4.0), ("hqq2-g16-m", 3.015625), ("hqq3-g64", 3.7), ("w2.7054", 2.7054),
        ("w8.25", 8.25), ("w16", 16.0),
    ],
)  # fmt: skip
def test_a_weight_takes_the_bits_of_its_block(name: str, bits: float) -> None:
    assert find_dtype(name).bits == pytest.approx(bits, rel=1e-12)
    assert find_dtype(name.upper()) == find_dtype(name)
    assert find_dtype(name).name == name


def test_blocks_are_those_of_the_package_that_writes_gguf_files() -> None:
    gguf = pytest.importorskip("gguf", reason="the oracle of GGUF files is not installed")
    not_stored = {"Q8_1", "Q8_K", "F32", "F16", "F64", "BF16", "I8", "I16", "I32", "I64"}
    theirs = {kind.name: (int(kind), *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    for name, (number, n_weights, n_bytes) in theirs.items():
        if name not in not_stored:
            block = GGML_BLOCKS[name.lower()]
            assert (block.number, block_bits(block)) == (number, 8 * n_bytes / n_weights)


def test_no_two_block_types_share_a_number() -> None:
    assert len({block.number for block in GGML_BLOCKS.values()}) == len(GGML_BLOCKS)


@pytest.mark.parametrize("name", ["Q4_K_M", "q2_k_xl", "UD-Q2_K_XL", "iq3_xs", "Q3_K_S", "iq2_m"])
def test_the_name_of_a_mix_is_no_format_and_the_ways_out_are_named(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"several formats: give the file .*experts=q4_k.*\(w4\.8\)"):
        find_dtype(name)


@pytest.mark.parametrize("name", ["q4_kk", "w0", "w33", "w", "hqq5-g64", "", "q", "w\uff14"])
def test_a_name_that_is_no_format_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        find_dtype(name)


def test_groups_too_small_are_refused() -> None:
    with pytest.raises(InvalidInput, match="groups of 8"):
        find_dtype("hqq4-g4")


def test_a_mean_keeps_four_digits() -> None:
    assert mean_dtype(4.123456789).bits == 4.1235
    assert mean_dtype(4.0).name == "w4"
    assert mean_dtype(10.5).name == "w10.5"


def test_what_is_packed_is_multiplied_in_the_format_of_the_activations() -> None:
    for name in DTYPES:
        stored = find_dtype(name)
        wanted = {"mxfp8": "fp8", "fp8-b128": "fp8"}.get(name, "bf16" if stored.is_packed else name)
        assert QWEN.compute_format(stored) == wanted, name


MIXED = QWEN.with_formats(
    {"experts": "q4_k", "attention": "q8_0", "embedding": "q6_k", "head": "q5_k", "gates": "fp32", "kv": "q8_0"}
)


def test_each_part_is_read_as_it_is_stored() -> None:
    stack = MIXED.decoder
    assert self_attention_work(MIXED, stack, 1, 10, 10).weight_bits == 8.5
    assert experts_work(MIXED, [1]).weight_bits == 4.5
    assert head_work(MIXED, 1).weight_bits == 5.5
    assert gate_work(MIXED, 1).weight_bits == 32
    assert gate_work(MIXED, 1).compute == "bf16"
    assert self_attention_work(MIXED, stack, 1, 10, 10).compute == "bf16"
    kv, before = (self_attention_work(m, stack, 1, 1000, 10).hbm_bytes for m in (MIXED, QWEN))
    assert kv / before == pytest.approx(8.5 / 16)


def test_bytes_are_counted_part_by_part() -> None:
    attention = QWEN.decoder.mixer_matrix_params(QWEN.d_model)
    expert = 3 * QWEN.d_model * QWEN.d_ff_expert
    assert MIXED.expert_bytes == expert * 4.5 / 8
    rest = QWEN.non_expert_params - attention - 2 * QWEN.embedding_params
    by_hand = attention * 8.5 / 8 + QWEN.embedding_params * (6.5625 + 5.5) / 8 + rest * 4
    assert MIXED.non_expert_bytes == pytest.approx(by_hand, abs=1)
    assert MIXED.total_bytes == MIXED.non_expert_bytes + 48 * 128 * MIXED.expert_bytes


@pytest.mark.parametrize("part", [part for part in FORMAT_PARTS if part not in ("all", "activations")])
@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-30b-a3b", "gpt-oss-20b", "switch-base-8"])
def test_one_part_changes_alone(part: str, name: str) -> None:
    model = load_architecture(name)
    tied = {"head", "embedding"} if model.tied_embeddings and part in ("head", "embedding") else {part}
    if model.tied_embeddings and part == "embedding":
        tied = {"embedding", "head"}
    changed = model.with_formats({part: "q5_1"})
    for other, stored in changed.formats.items():
        assert stored == (find_dtype("q5_1") if other in tied else model.formats[other]), other
    assert parse_architecture(changed.to_yaml(), "printed") == changed


def test_all_is_every_matrix_and_a_part_named_beside_it_is_its_own() -> None:
    model = QWEN.with_formats({"all": "q4_k", "attention": "q8_0"})
    names = {part: stored.name for part, stored in model.formats.items()}
    assert names == {
        "attention": "q8_0", "dense": "q4_k", "shared": "q4_k", "experts": "q4_k", "embedding": "q4_k", "head": "q4_k",
        "gates": "bf16", "kv": "bf16", "activations": "bf16",
    }  # fmt: skip
    assert QWEN.with_formats({"all": "fp16"}) == QWEN.with_dtype("fp16")
    assert QWEN.with_formats({}) == QWEN


def test_a_dense_format_leaves_attention_and_shared_experts_as_they_were() -> None:
    model = load_architecture("deepseek-v3")
    changed = model.with_formats({"dense": "q4_k"})
    assert changed.stored_attention_dtype == model.stored_attention_dtype
    assert changed.stored_shared_dtype == model.stored_shared_dtype
    assert dense_ffn_work(changed, changed.decoder, 1).weight_bits == 4.5


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"expert": "q4_k"}, "unknown part of a model 'expert'.*'experts'"),
        ({"experts": "q4_kk"}, "unknown dtype 'q4_kk'"),
        ({"experts": 4}, "is not the name of a format"),
        ({"activations": "q8_0"}, "activations=q8_0: one of fp32"),
    ],
)
def test_formats_that_cannot_be_are_refused(formats: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        QWEN.with_formats(formats)


def test_a_tied_head_has_the_format_of_the_table() -> None:
    model = load_architecture("switch-base-8")
    assert model.with_formats({"head": "q6_k"}).stored_embedding_dtype.name == "q6_k"
    with pytest.raises(InvalidInput, match="tied"):
        model.with_formats({"head": "q6_k", "embedding": "q8_0"})


@pytest.mark.parametrize("text", ["experts", "experts=", "=q4_k", "experts=q4_k,", "experts=q4_k,experts=q8_0", " "])
def test_text_that_is_no_list_of_formats_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_formats(text)


def test_text_of_formats_is_read() -> None:
    assert parse_formats(None) == {}
    assert parse_formats("experts=Q4_K, attention=q8_0") == {"experts": "Q4_K", "attention": "q8_0"}


def test_formats_of_a_model_are_given_by_name_in_python() -> None:
    assert pregate.load_model("qwen3-30b-a3b", formats={"experts": "q4_k"}) == QWEN.with_formats({"experts": "q4_k"})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_the_command_line_takes_formats(run: Run) -> None:
    common = ("--hardware", "rtx-4090", "--output-tokens", "2", "--input-tokens", "4", "--policies", "on_demand")
    link = []
    for words in ((), ("--formats", "experts=q4_k,attention=q8_0")):
        status, out, _ = run("compare", "qwen3-30b-a3b", *common, *words, "--format", "json")
        assert status == 0
        link.append(json.loads(out)["results"][0]["h2d_bytes"])
    assert link[1] / link[0] == pytest.approx(4.5 / 16)
    status, _, told = run("compare", "qwen3-30b-a3b", *common, "--formats", "exprts=q4_k")
    assert status == 2
    assert "did you mean 'experts'" in told


def test_formats_asked_for_count_more_than_what_a_trace_recorded() -> None:
    trace = pregate.load_trace("qwen3-30b-a3b-phone", model=QWEN)
    recorded = as_recorded(QWEN, trace, QWEN.name, None)
    assert recorded != QWEN
    for formats, same in (("experts=fp8", True), ("all=q4_k", True), ("attention=fp8", False)):
        asked = QWEN.with_formats(parse_formats(formats))
        assert (as_recorded(asked, trace, QWEN.name, None, formats) == asked) == same


def test_formats_are_axes() -> None:
    assert {axis.partition(".")[2] for axis in FORMATS} == set(FORMAT_PARTS)
    axis = read_axes({"formats.experts": ["q4_k", "w2.7"]})[0]
    assert not axis.is_price_only
    grid = pregate.sweep(
        QWEN, "rtx-4090", pregate.TraceRecipe(4, 2), policies=["on_demand"], cache_dir=False,
        axes={"formats.experts": ["bf16", "q4_k", "w2"], "formats.kv": ["q8_0", "fp16"],
              "link.h2d_bytes_per_s": [1e10, 2e10]},
    )  # fmt: skip
    moved = grid.h2d_bytes.isel(policy=0).sel({"formats.kv": "fp16", "link.h2d_bytes_per_s": 1e10}).values
    np.testing.assert_allclose(moved / moved[0], [1, 4.5 / 16, 2 / 16], rtol=1e-6)


@pytest.mark.parametrize(
    "axes", [{"formats.exprts": ["q4_k"]}, {"formats.experts": ["q4_kk"]}, {"formats.activations": ["q4_k"]},
             {"formats.experts": [4]}, {"dtype": ["ud-q2_k_xl"]}],
)  # fmt: skip
def test_axes_of_formats_that_cannot_be_are_refused(axes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read_axes(axes)


def test_a_sweep_states_formats_in_its_file(tmp_path: Path) -> None:
    from pregate.sweeps.sweep_file import read_sweep

    path = tmp_path / "sweep.yaml"
    path.write_text(
        "model: qwen3-30b-a3b\nformats: {experts: q4_k}\nhardware: rtx-4090\npolicies: [on_demand]\n"
        "axes: {formats.attention: [q8_0, bf16]}\n"
    )
    arguments = read_sweep(path)
    assert arguments["model"].expert_dtype.name == "q4_k"


def test_the_runtime_refuses_a_part_that_is_stored_otherwise(tmp_path: Path) -> None:
    from runtime.memory import element_type

    model = load_architecture("mixtral-mini-8").with_dtype("bf16")
    assert element_type(model) is not None
    for part in FORMAT_PARTS[:-1]:
        name = "fp32" if part == "activations" else "q8_0"
        with pytest.raises(InvalidInput, match="the runtime computes in one of"):
            element_type(model.with_formats({part: name}))


@pytest.mark.parametrize("formats", ["experts=q4_k", ["experts"], None, 5])
def test_formats_that_are_no_mapping_are_refused(formats: Any) -> None:
    with pytest.raises(InvalidInput, match="no mapping of parts"):
        QWEN.with_formats(formats)


def test_names_are_found_near() -> None:
    with pytest.raises(UnknownName, match="did you mean 'int4-g128'"):
        find_dtype("int4")
    with pytest.raises(UnknownName, match="did you mean 'iq4_xs'"):
        find_dtype("iq4xs")


def widths(model: ModelArchitecture) -> list[float]:
    return [stored.bits for stored in model.formats.values()]


def test_an_architecture_states_the_format_of_its_gates() -> None:
    model = dataclasses.replace(QWEN, gate_dtype=DTYPES["fp32"])
    assert widths(parse_architecture(model.to_yaml(), "printed")) == widths(model)
