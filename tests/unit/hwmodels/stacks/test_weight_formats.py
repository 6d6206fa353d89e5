"""Formats of weights that the engines of stacks read, refused or told of where a model has others."""

from __future__ import annotations

from pathlib import Path

import pytest

import pregate
from hwmodels.shipped import STACKS_DIR
from hwmodels.stacks.stack_files import load_stack
from hwmodels.stacks.weight_formats import check_weights, reads_all, unmeasured_weights, why_unread
from pregate.measured.rows.table import read_table
from pregate.measured.table_prediction import predict_table
from pregate.page.writing import explore_page
from traces.errors import InvalidFile, InvalidInput, UnknownName

_GGUF = ("llama-cpp", "llama-cpp-late-2025", "llama-cpp-2025", "llama-cpp-2023", "pipelined-sharding")


@pytest.mark.parametrize(
    ("stack", "format"),
    [(stack, format) for stack in _GGUF for format in ("fp8", "fp8-b128", "int4-g128", "nf4", "iq4_ks", "mxfp8")]
    + [("ik-llama", "fp8"), ("vllm", "int4-g64-b"), ("vllm", "iq4_ks"), ("ktransformers", "nf4")]
    + [("ktransformers", "int2-g64"), ("ktransformers", "int3-g128"), ("llama-cpp-2023", "iq4_xs")]
    + [("llama-cpp-2023", "mxfp4")],
)
def test_weights_that_an_engine_does_not_read_are_refused_with_the_way_out(stack: str, format: str) -> None:
    model = pregate.load_model("olmoe-1b-7b", formats={"all": format})
    with pytest.raises(InvalidInput, match=rf"{stack} reads no weights in {format} .*try --formats all=.*--stack"):
        check_weights(model, load_stack(stack))


@pytest.mark.parametrize(
    ("stack", "format"),
    [
        (stack, format)
        for stack in (*_GGUF, "ik-llama", "ktransformers", "ktransformers-llamafile")
        for format in ("q4_k_m", "iq4_xs", "q8_0", "mxfp4", "bf16", "w4.8")
        if stack != "llama-cpp-2023" or format not in ("iq4_xs", "mxfp4")
    ]
    + [("ktransformers", "int4-g32"), ("ktransformers", "int8-g128-zp"), ("llama-cpp-2023", "q3_k_s")],
)
def test_engines_that_load_gguf_files_read_what_these_have(stack: str, format: str) -> None:
    assert reads_all(pregate.load_model("olmoe-1b-7b", formats={"all": format}), load_stack(stack))


@pytest.mark.parametrize("format", ["bf16", "fp8", "fp8-b128", "fp8-w8.4", "int8", "int4-g128-zp", "mxfp4", "nvfp4"])
def test_vllm_reads_what_safetensors_of_its_quantisations_have(format: str) -> None:
    assert reads_all(pregate.load_model("olmoe-1b-7b", formats={"experts": format}), load_stack("vllm"))


@pytest.mark.parametrize("stack", [*_GGUF, "ik-llama", "vllm", "ktransformers", "ktransformers-llamafile"])
def test_16_bits_with_some_wider_weights_are_read_by_every_engine(stack: str) -> None:
    mixed = pregate.load_model("olmoe-1b-7b", formats={"attention": "bf16-w16.1", "experts": "bf16-w16.02"})
    assert reads_all(mixed, load_stack(stack))


def test_some_wider_weights_make_no_format_read_that_is_not() -> None:
    why = why_unread(pregate.load_model("olmoe-1b-7b", formats={"experts": "fp8-w8.4"}), load_stack("llama-cpp"))
    assert "llama-cpp reads no weights in fp8-w8.4" in why


@pytest.mark.parametrize(
    ("stack", "kept", "instead"),
    [("llama-cpp", "fp8", "q8_0"), ("llama-cpp", "q4_k", "q8_0"), ("ik-llama", "int8", "q8_0"), ("vllm", "q8_0", "fp8"),
     ("ktransformers", "q8_0", "fp8"), ("llama-cpp-2025", "q6_0", "q8_0"), ("llama-cpp-2023", "iq4_nl", "q8_0")],
)  # fmt: skip
def test_keys_and_values_in_what_an_engine_does_not_keep_are_refused(stack: str, kept: str, instead: str) -> None:
    model = pregate.load_model("olmoe-1b-7b", formats={"kv": kept})
    with pytest.raises(InvalidInput, match=rf"{stack} keeps no keys and values in {kept}: try --formats kv={instead},"):
        check_weights(model, load_stack(stack))


@pytest.mark.parametrize(
    ("stack", "kept"),
    [("llama-cpp", "q8_0"), ("llama-cpp", "iq4_nl"), ("llama-cpp", "fp32"), ("llama-cpp", "w6.5"), ("ik-llama", "q6_0"),
     ("ik-llama", "q8_kv"), ("vllm", "fp8"), ("vllm", "int8"), ("vllm", "fp16"), ("ktransformers", "fp8"),
     ("streams", "q8_0"), ("fastertransformer", "fp8")],
)  # fmt: skip
def test_keys_and_values_in_what_an_engine_keeps_are_not_refused(stack: str, kept: str) -> None:
    assert not why_unread(pregate.load_model("olmoe-1b-7b", formats={"kv": kept}), load_stack(stack))


def test_weights_and_keys_that_an_engine_does_not_have_are_told_in_one_line() -> None:
    model = pregate.load_model("olmoe-1b-7b", formats={"all": "fp8", "kv": "fp8"})
    assert why_unread(model, load_stack("llama-cpp")).endswith("try --formats all=q8_0,kv=q8_0, or another --stack")


def test_a_model_that_is_published_in_what_an_engine_does_not_read_says_which_parts() -> None:
    why = why_unread(pregate.load_model("deepseek-v4-flash"), load_stack("llama-cpp"))
    assert "fp8-b128 (attention, dense, shared of deepseek-v4-flash)" in why
    assert "attention=q8_0,dense=q8_0,shared=q8_0" in why


def test_kernels_that_were_not_measured_are_told_and_not_refused() -> None:
    model, vllm = pregate.load_model("olmoe-1b-7b", formats={"all": "q4_k_m"}), load_stack("vllm")
    check_weights(model, vllm)
    assert "vllm-gguf-plugin" in unmeasured_weights(model, vllm)
    assert not reads_all(model, vllm)


def test_whatever_is_asked_of_them_is_refused(tmp_path: Path) -> None:
    model = pregate.load_model("olmoe-1b-7b", formats={"all": "fp8"})
    hw = pregate.load_hardware("rtx-4090", stack="llama-cpp")
    trace = pregate.synthesize(model, input_tokens=2, output_tokens=2, batch=1, seed=0)
    with pytest.raises(InvalidInput, match="llama-cpp reads no weights in fp8"):
        pregate.simulate(model, hw, trace, "gpu_only")
    with pytest.raises(InvalidInput, match="llama-cpp reads no weights in fp8"):
        pregate.plan(model, "rtx-4090", stacks=["llama-cpp"])
    with pytest.raises(InvalidInput, match="llama-cpp reads no weights in fp8"):
        explore_page([model], [hw], tmp_path / "page.html", ["gpu_only"])


def test_a_measured_row_is_predicted_all_the_same_and_told_of(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(
        "model,hardware,stack,formats,output_tokens,metric,value\n"
        "olmoe-1b-7b,rtx-4090,llama-cpp,all=fp8,2,decode_tokens_per_s,100\n"
    )
    found = predict_table(read_table(table))
    assert len(found.scored) == 1
    assert "llama-cpp reads no weights in fp8" in found.doubts[0]
    assert found.to_dict()["doubts"] == list(found.doubts)


def test_cards_of_a_model_that_no_engine_reads_in_turn_share_layers() -> None:
    from pregate.card.plan import platforms_of

    model = pregate.load_model("deepseek-v3")
    assert next(iter(platforms_of(model, "8x h200-sxm", None, None))) == "vllm"
    assert next(iter(platforms_of(model.with_dtype("q4_k"), "8x h200-sxm", None, None))) == "llama-cpp"


@pytest.mark.parametrize(
    ("stated", "error"), [("read: bf16", InvalidFile), ("read: [bf61]", UnknownName), ("read: []", InvalidFile)]
)
def test_a_stack_that_states_no_list_of_formats_is_refused(stated: str, error: type[Exception], tmp_path: Path) -> None:
    text = (STACKS_DIR / "llama-cpp.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace('read: [fp32, bf16, fp16, gguf, "w*"]', stated))
    with pytest.raises(error):
        load_stack(str(path))


@pytest.mark.parametrize("formats", [None, {"all": "q4_k_m"}])
@pytest.mark.parametrize("stack", ["ktransformers", "ktransformers-llamafile"])
def test_an_engine_that_adds_no_biases_to_experts_runs_no_model_that_has_them(
    stack: str, formats: dict[str, str] | None
) -> None:
    model = pregate.load_model("gpt-oss-20b", formats=formats)
    told = f"{stack} adds no biases to what experts compute, and gpt-oss-20b has them: try another --stack"
    assert why_unread(model, load_stack(stack)) == told
    assert not why_unread(model, load_stack("llama-cpp"))
    assert "biases" not in why_unread(pregate.load_model("qwen3-30b-a3b", formats=formats), load_stack(stack))
