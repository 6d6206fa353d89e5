"""GGUF files as the format's own package writes them: headers, parts, exact bytes, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodels.stacks.stack_files import load_stack
from pregate import load_trace
from pregate.cli.option_values import as_recorded
from tests.command_line import Run, runner
from traces.errors import InvalidFile
from traces.model.architecture import ModelArchitecture, load_architecture, parse_architecture
from traces.model.attention import Attention
from traces.model.dtypes import format_shares
from traces.model.files.gguf_file import read_gguf
from traces.model.files.stored_parts import StoredParts

gguf = pytest.importorskip("gguf", reason="the oracle of GGUF files is not installed")
from tests.gguf_files import DIM, EXPERTS, FF, HEADS, KV, LAYERS, VOCAB, D, moe_tensors, their_bytes, write  # noqa: E402


def test_a_header_is_read_as_its_package_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", moe_tensors())
    theirs = gguf.GGUFReader(str(path))
    ours = read_gguf(path)
    assert [(t.name, t.shape, t.n_bytes) for t in ours.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), int(t.n_bytes)) for t in theirs.tensors
    ]
    assert ours.metadata["general.architecture"] == "qwen3moe"
    assert ours.metadata["qwen3moe.expert_used_count"] == 2
    assert ours.metadata["tokenizer.ggml.tokens"] is None
    assert ours.metadata["tokenizer.ggml.scores"] is None


def test_an_architecture_is_that_of_the_tensors(tmp_path: Path) -> None:
    model = load_architecture(write(tmp_path / "tiny.gguf", moe_tensors()))
    assert (model.name, model.d_model, model.vocab_size, model.tied_embeddings) == ("tiny", D, VOCAB, False)
    assert (model.n_experts, model.top_k, model.d_ff_expert, model.n_expert_matrices) == (EXPERTS, 2, FF, 3)
    assert (model.decoder.n_layers, model.decoder.moe_layers) == (LAYERS, (0, 1, 2))
    assert model.decoder.attention == Attention("gqa", HEADS, KV, DIM, qk_norm="head")
    assert model.decoder.is_uniform
    stored = {part: form.name for part, form in model.formats.items()}
    assert stored["embedding"], stored["head"] == ("q6_k", "q8_0")
    assert (stored["gates"], stored["kv"], stored["activations"]) == ("fp32", "fp16", "fp16")
    assert model.expert_dtype.bits == pytest.approx((8 * 4.5 + 6.5625) / 9, abs=1e-4)
    assert parse_architecture(model.to_yaml(), "printed") == model


def test_parts_of_several_formats_say_how_many_of_their_weights_have_each(tmp_path: Path) -> None:
    """Of nine matrices of experts one is of 6 bits, of the attention's weights two value projections of three."""
    model = load_architecture(write(tmp_path / "tiny.gguf", moe_tensors()))
    assert model.expert_dtype.name == "q4_k*0.888889+q6_k*0.111111"
    shares = dict(format_shares(model.stored_attention_dtype.name))
    n_value, n_all = 2 * KV * DIM * D, LAYERS * (2 * HEADS + 2 * KV) * DIM * D
    assert shares == {"q6_k": pytest.approx(n_value / n_all, abs=1e-6), "q8_0": pytest.approx(1 - n_value / n_all)}


def test_a_host_takes_for_a_mixed_file_what_its_formats_take(tmp_path: Path) -> None:
    tensors = {name: (shape, "IQ3_XXS" if form == "Q4_K" else form) for name, (shape, form) in moe_tensors().items()}
    model = load_architecture(write(tmp_path / "tiny.gguf", tensors))
    formats = load_stack("llama-cpp").core_formats
    slow, fast = formats.cycles["iq3_xxs"], formats.cycles["q6_k"]
    assert formats.cycles_of(model.expert_dtype.name) == pytest.approx((8 * slow + fast) / 9, rel=1e-4)


def test_a_part_whose_formats_do_not_make_its_bytes_has_its_mean() -> None:
    """Types with a scale a row are larger than their blocks say."""
    parts = StoredParts("here")
    parts.add("experts", 1000, 500, "q4_k")
    parts.add("experts", 1000, 900, "q6_k")
    assert parts.stored("experts").name == "w5.6"


@pytest.mark.parametrize("first_dense", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_are_those_of_the_tensors(first_dense: int, tied: bool, tmp_path: Path) -> None:
    tensors = moe_tensors(first_dense=first_dense)
    if tied:
        del tensors["output.weight"]
    path = write(tmp_path / "model.gguf", tensors)
    model = load_architecture(path)
    assert model.total_bytes == pytest.approx(their_bytes(path), rel=1e-3)
    experts = sum(int(t.n_bytes) for t in gguf.GGUFReader(str(path)).tensors if "_exps" in t.name)
    n_sparse = LAYERS - first_dense
    assert model.expert_bytes == pytest.approx(experts / n_sparse / EXPERTS, rel=1e-4)
    assert len(model.decoder.moe_layers) == n_sparse


@pytest.mark.parametrize("asked", [1, 2, 4])
def test_a_model_in_parts_is_read_from_any_of_them(asked: int, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", moe_tensors(), split=10)
    parts = sorted(tmp_path.glob("model-*.gguf"))
    assert len(parts) == 4
    whole = load_architecture(write(tmp_path / "whole.gguf", moe_tensors()))
    model = load_architecture(parts[asked - 1])
    assert model.name == "model"
    assert model.total_bytes == whole.total_bytes
    parts[2].unlink()
    with pytest.raises(InvalidFile, match=r"model-00003-of-00004\.gguf: missing"):
        load_architecture(parts[0])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_the_command_line_takes_a_gguf_file(run: Run, tmp_path: Path) -> None:
    path = str(write(tmp_path / "tiny.gguf", moe_tensors()))
    status, out, _ = run("models", "show", path)
    assert status == 0
    assert "top_k: 2" in out
    words = ("--hardware", "rtx-4090", "--output-tokens", "4", "--policies", "on_demand,pregate", "--format", "json")
    status, out, _ = run("compare", path, *words)
    assert status == 0
    moved = [row["h2d_bytes"] for row in json.loads(out)["results"]]
    assert all(n % load_architecture(path).expert_bytes == 0 for n in moved)
    status, _, told = run("compare", str(tmp_path / "no.gguf"), *words)
    assert (status, told.count("\n")) == (2, 1)


def test_experts_are_as_large_as_the_file_says_whatever_a_trace_recorded() -> None:
    model = load_architecture("qwen3-30b-a3b").with_expert_dtype("w3")
    trace = load_trace("qwen3-30b-a3b-phone", model=model)
    for name, same in (("qwen3-30b-a3b", False), ("qwen.gguf", True), ("qwen.SAFETENSORS", True)):
        assert (as_recorded(model, trace, name, None) == model) == same


def header_of(path: Path, model: ModelArchitecture, family: str, keys: dict[str, Any]) -> Path:
    """A file as large as `model` whose weights are a hole: the tensors that llama.cpp's converters name, in q8_0."""
    d, f, e, attention = model.d_model, model.d_ff_expert, model.n_experts, model.decoder.attention
    q, kv = attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (model.vocab_size, d), "output.weight": (model.vocab_size, d), "output_norm.weight": (d,),
    }  # fmt: skip
    for i in range(model.decoder.n_layers):
        named: dict[str, tuple[int, ...]] = {"attn_norm.weight": (d,), "ffn_norm.weight": (d,)}
        if attention.kind == "mla":
            lora, up = attention.kv_lora_rank, attention.qk_nope_dim
            named |= {
                "attn_q_a.weight": (attention.q_lora_rank, d), "attn_q_b.weight": (q, attention.q_lora_rank),
                "attn_kv_a_mqa.weight": (lora + attention.qk_rope_dim, d),
                "attn_k_b.weight": (attention.n_heads, lora, up),
                "attn_v_b.weight": (attention.n_heads, attention.v_head_dim, lora),
                "attn_output.weight": (d, attention.n_heads * attention.v_head_dim),
                "attn_q_a_norm.weight": (attention.q_lora_rank,), "attn_kv_a_norm.weight": (lora,),
            }  # fmt: skip
        else:
            named |= {"attn_q.weight": (q, d), "attn_k.weight": (kv, d), "attn_v.weight": (kv, d),
                      "attn_output.weight": (d, q)}  # fmt: skip
            if attention.qk_norm == "head":
                named |= {"attn_q_norm.weight": (attention.head_dim,), "attn_k_norm.weight": (attention.head_dim,)}
        if i in model.decoder.moe_layers:
            named |= {"ffn_gate_inp.weight": (e, d), "ffn_up_exps.weight": (e, f, d), "ffn_gate_exps.weight": (e, f, d),
                      "ffn_down_exps.weight": (e, d, f)}  # fmt: skip
            width = model.n_shared_experts * model.d_ff_shared
            if width:
                named |= {"ffn_up_shexp.weight": (width, d), "ffn_gate_shexp.weight": (width, d),
                          "ffn_down_shexp.weight": (d, width), "exp_probs_b.bias": (e,)}  # fmt: skip
        else:
            width = model.decoder.d_ff_dense
            named |= {"ffn_up.weight": (width, d), "ffn_gate.weight": (width, d), "ffn_down.weight": (d, width)}
        tensors |= {f"blk.{i}.{name}": shape for name, shape in named.items()}
    writer = gguf.GGUFWriter(str(path), family)
    for key, value in keys.items():
        writer.add_uint32(f"{family}.{key}", value)
    writer.add_uint32(f"{family}.block_count", model.decoder.n_layers)
    writer.add_uint32(f"{family}.expert_used_count", model.top_k)
    writer.add_uint32(f"{family}.attention.head_count", attention.n_heads)
    total = 0
    for name, shape in tensors.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if len(shape) > 1 and "gate_inp" not in name else None
        n_bytes = int(np.prod(gguf.quant_shape_to_byte_shape(shape, kind))) if kind else 4 * int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes, raw_dtype=kind)
        total += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 64 + total)
    return path


@pytest.mark.parametrize(
    ("name", "family", "keys"),
    [
        ("qwen3-30b-a3b", "qwen3moe", {"attention.head_count_kv": 4, "attention.key_length": 128}),
        ("mixtral-8x7b", "llama", {"attention.head_count_kv": 8}),
        ("deepseek-v3", "deepseek2", {
            "attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512,
            "attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.kv_lora_rank": 512,
            "rope.dimension_count": 64, "expert_shared_count": 1,
        }),
    ],
)  # fmt: skip
def test_a_model_that_ships_is_the_same_from_its_gguf_file(
    name: str, family: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    shipped = load_architecture(name)
    path = header_of(tmp_path / f"{name}.gguf", shipped, family, keys)
    model = load_architecture(path)
    assert model.total_params == pytest.approx(shipped.total_params, rel=1e-4)
    assert model.active_params == pytest.approx(shipped.active_params, rel=1e-4)
    assert model.decoder.attention == shipped.decoder.attention
    for field in ("d_model", "vocab_size", "n_experts", "top_k", "d_ff_expert", "n_shared_experts", "d_ff_shared"):
        assert getattr(model, field) == getattr(shipped, field)
    assert model.decoder.moe_layers == shipped.decoder.moe_layers
    assert model.total_bytes == pytest.approx(path.stat().st_size, rel=1e-3)
    assert model.expert_dtype.name == "q8_0"
    path.unlink()
