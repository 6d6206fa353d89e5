"""GGUF files as the format's own package writes them: headers, parts, exact bytes, and files that are none."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, runner

from pregate import load_trace
from pregate.cli.built import as_recorded
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import ModelArchitecture, load_architecture, parse_architecture
from traces.model.attention import Attention
from traces.model.ggml_blocks import GGML_BLOCKS, block_type
from traces.model.gguf_file import read_gguf

gguf = pytest.importorskip("gguf", reason="the oracle of GGUF files is not installed")

D, FF, EXPERTS, LAYERS, VOCAB, HEADS, KV, DIM = 256, 512, 8, 3, 1024, 4, 2, 64
Shapes = dict[str, tuple[tuple[int, ...], str]]


def moe_tensors(n_layers: int = LAYERS, first_dense: int = 0) -> Shapes:
    """Shapes as numpy has them, outermost first, and the format of each tensor."""
    tensors: Shapes = {"token_embd.weight": ((VOCAB, D), "Q6_K"), "output.weight": ((VOCAB, D), "Q8_0"),
                       "output_norm.weight": ((D,), "F32")}  # fmt: skip
    for i in range(n_layers):
        blk = f"blk.{i}."
        tensors |= {
            blk + "attn_norm.weight": ((D,), "F32"), blk + "ffn_norm.weight": ((D,), "F32"),
            blk + "attn_q.weight": ((HEADS * DIM, D), "Q8_0"), blk + "attn_k.weight": ((KV * DIM, D), "Q8_0"),
            blk + "attn_v.weight": ((KV * DIM, D), "Q6_K" if i else "Q8_0"),
            blk + "attn_output.weight": ((D, HEADS * DIM), "Q8_0"),
            blk + "attn_q_norm.weight": ((DIM,), "F32"), blk + "attn_k_norm.weight": ((DIM,), "F32"),
        }  # fmt: skip
        if i < first_dense:
            tensors |= {
                blk + "ffn_up.weight": ((2 * FF, D), "Q5_K"), blk + "ffn_gate.weight": ((2 * FF, D), "Q5_K"),
                blk + "ffn_down.weight": ((D, 2 * FF), "Q5_K"),
            }  # fmt: skip
        else:
            tensors |= {
                blk + "ffn_gate_inp.weight": ((EXPERTS, D), "F32"),
                blk + "ffn_up_exps.weight": ((EXPERTS, FF, D), "Q4_K"),
                blk + "ffn_gate_exps.weight": ((EXPERTS, FF, D), "Q4_K"),
                blk + "ffn_down_exps.weight": ((EXPERTS, D, FF), "Q6_K" if i % 2 else "Q4_K"),
            }  # fmt: skip
    return tensors


KEYS: dict[str, Any] = {
    "block_count": LAYERS, "embedding_length": D, "attention.head_count": HEADS, "attention.head_count_kv": KV,
    "attention.key_length": DIM, "attention.value_length": DIM, "expert_count": EXPERTS, "expert_used_count": 2,
}  # fmt: skip


def write(
    path: Path, tensors: Shapes, keys: dict[str, Any] | None = None, family: str = "qwen3moe", split: int = 0
) -> Path:
    """A model as `gguf` writes it, its weights all zeros."""
    writer = gguf.GGUFWriter(str(path), family, split_max_tensors=split)
    for key, value in (KEYS | (keys or {})).items():
        if isinstance(value, list):
            writer.add_array(f"{family}.{key}", value)
        else:
            writer.add_uint32(f"{family}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"token{i}" for i in range(5000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 5000)
    for name, (shape, form) in tensors.items():
        kind = gguf.GGMLQuantizationType[form]
        size = gguf.quant_shape_to_byte_shape(shape, kind)
        if form == "F32":
            writer.add_tensor(name, np.zeros(shape, np.float32))
        else:
            writer.add_tensor(name, np.zeros(size, np.uint8), raw_shape=size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def their_bytes(path: Path) -> int:
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(str(path)).tensors)


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


def shared(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.ffn_up_shexp.weight": ((FF, D), "Q8_0"), f"blk.{i}.ffn_gate_shexp.weight": ((FF, D), "Q8_0"),
            f"blk.{i}.ffn_down_shexp.weight": ((D, FF), "Q8_0"), f"blk.{i}.ffn_gate_inp_shexp.weight": ((D,), "F32"),
        }  # fmt: skip
    return tensors


def biased(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.{name}_exps.bias": ((EXPERTS, width), "F32")
            for name, width in (("ffn_up", FF), ("ffn_gate", FF), ("ffn_down", D))
        }
        tensors |= {
            f"blk.{i}.ffn_gate_inp.bias": ((EXPERTS,), "F32"), f"blk.{i}.attn_sinks.weight": ((HEADS,), "F32"),
            f"blk.{i}.attn_q.bias": ((HEADS * DIM,), "F32"), f"blk.{i}.attn_output.bias": ((D,), "F32"),
        }  # fmt: skip
        del tensors[f"blk.{i}.attn_q_norm.weight"], tensors[f"blk.{i}.attn_k_norm.weight"]
    return tensors


def layer_norms(tensors: Shapes) -> Shapes:
    for name in [name for name in tensors if name.endswith("_norm.weight") and "_q_" not in name and "_k_" not in name]:
        tensors[name.replace("weight", "bias")] = tensors[name]
    return tensors | {"output.bias": ((VOCAB,), "F32")}


LORA, NOPE, ROPE, VALUE = 256, 64, 64, 64


def latent(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"):
            tensors.pop(f"blk.{i}.{name}.weight")
        tensors |= {
            f"blk.{i}.attn_q_a.weight": ((256, D), "Q8_0"),
            f"blk.{i}.attn_q_b.weight": ((HEADS * (NOPE + ROPE), 256), "Q8_0"),
            f"blk.{i}.attn_kv_a_mqa.weight": ((LORA + ROPE, D), "Q8_0"),
            f"blk.{i}.attn_k_b.weight": ((HEADS, LORA, NOPE), "Q8_0"),
            f"blk.{i}.attn_v_b.weight": ((HEADS, VALUE, LORA), "Q8_0"),
            f"blk.{i}.attn_output.weight": ((D, HEADS * VALUE), "Q8_0"),
            f"blk.{i}.exp_probs_b.bias": ((EXPERTS,), "F32"),
        }  # fmt: skip
    return tensors


LATENT_KEYS = {"attention.key_length": LORA + ROPE, "attention.value_length": LORA, "attention.key_length_mla": 128,
               "attention.value_length_mla": VALUE, "attention.kv_lora_rank": LORA, "rope.dimension_count": ROPE,
               "attention.head_count_kv": 1}  # fmt: skip


def linear(tensors: Shapes) -> Shapes:
    """Two of three layers with a state, as Qwen3-Next has them: queries, keys, values in one tensor, a gate apart."""
    for i in (0, 1):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"):
            tensors.pop(f"blk.{i}.{name}.weight")
        tensors |= {
            f"blk.{i}.attn_qkv.weight": ((1024, D), "Q8_0"), f"blk.{i}.attn_gate.weight": ((512, D), "Q8_0"),
            f"blk.{i}.ssm_ba.weight": ((16, D), "Q8_0"), f"blk.{i}.ssm_conv1d.weight": ((1024, 4), "F32"),
            f"blk.{i}.ssm_a": ((8,), "F32"), f"blk.{i}.ssm_dt.bias": ((8,), "F32"),
            f"blk.{i}.ssm_norm.weight": ((64,), "F32"), f"blk.{i}.ssm_out.weight": ((D, 512), "Q8_0"),
        }  # fmt: skip
    tensors["blk.2.attn_q.weight"] = ((2 * HEADS * DIM, D), "Q8_0")
    return tensors


LINEAR_KEYS = {"ssm.conv_kernel": 4, "ssm.state_size": 64, "ssm.inner_size": 512, "ssm.group_count": 4,
               "ssm.time_step_rank": 8}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "change", "keys"),
    [
        ("qwen2moe", shared, {}), ("gpt-oss", biased, {"attention.sliding_window": 128}),
        ("deepseek2", latent, LATENT_KEYS), ("qwen3next", linear, LINEAR_KEYS), ("somethingnew", lambda t: t, {}),
        ("phimoe", layer_norms, {}),
    ],
)  # fmt: skip
def test_families_are_read_by_their_tensors(
    family: str, change: Callable[[Shapes], Shapes], keys: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", change(moe_tensors()), keys, family)
    model = load_architecture(path)
    assert model.total_bytes == pytest.approx(their_bytes(path), rel=1e-3)
    assert model.other_params < 0.002 * model.total_params
    assert parse_architecture(model.to_yaml(), "printed") == model
    attention = model.decoder.attention
    match family:
        case "qwen2moe":
            assert (model.n_shared_experts, model.d_ff_shared, model.shared_expert_gate) == (1, FF, True)
            assert model.stored_shared_dtype.name == "q8_0"
        case "gpt-oss":
            assert (model.expert_bias, model.gate_bias, attention.sinks, attention.qk_norm) == (
                True,
                True,
                True,
                "none",
            )
            assert [mixer.window for mixer in model.decoder.all_mixers] == [128, 0, 128]  # type: ignore[union-attr]
        case "phimoe":
            assert (model.norm_bias, model.head_bias, model.other_params) == (True, True, 0)
        case "deepseek2":
            assert (attention.kind, attention.kv_lora_rank, attention.qk_nope_dim) == ("mla", LORA, NOPE)
            assert (attention.v_head_dim, attention.q_lora_rank, model.gate_bias) == (VALUE, 256, True)
        case "qwen3next":
            first = model.decoder.mixer(0)
            assert first is not None
            assert first.kind == "gated_delta_net"
            assert model.decoder.state_elements == 2 * (512 * 64 + 1024 * 3)
            assert attention.output_gate == HEADS * DIM


def test_layers_that_predict_further_tokens_are_not_run(tmp_path: Path) -> None:
    plain = load_architecture(write(tmp_path / "plain.gguf", moe_tensors()))
    more = load_architecture(
        write(tmp_path / "more.gguf", moe_tensors(LAYERS + 1), {"block_count": LAYERS + 1, "nextn_predict_layers": 1})
    )
    assert more.total_bytes == plain.total_bytes


def test_an_expert_a_tensor_as_files_of_2023_have_it(tmp_path: Path) -> None:
    tensors = moe_tensors()
    for i in range(LAYERS):
        for name in ("up", "gate", "down"):
            (_, *shape), form = tensors.pop(f"blk.{i}.ffn_{name}_exps.weight")
            tensors |= {f"blk.{i}.ffn_{name}.{e}.weight": (tuple(shape), form) for e in range(EXPERTS)}
    model = load_architecture(write(tmp_path / "old.gguf", tensors, family="llama"))
    whole = load_architecture(write(tmp_path / "new.gguf", moe_tensors()))
    assert (model.n_experts, model.total_bytes) == (whole.n_experts, whole.total_bytes)


def dense_model(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        for name in ("ffn_up_exps", "ffn_gate_exps", "ffn_down_exps", "ffn_gate_inp"):
            tensors.pop(f"blk.{i}.{name}.weight")
        tensors[f"blk.{i}.ffn_down.weight"] = ((D, FF), "Q4_K")
    return tensors


def without(name: str) -> Callable[[Shapes], Shapes]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def wide_queries(tensors: Shapes) -> Shapes:
    return {key: (((64, D), form) if "attn_q.w" in key else (shape, form)) for key, (shape, form) in tensors.items()}


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        (dense_model, {}, "model without experts"),
        (without("token_embd.weight"), {}, "token_embd.weight is missing"),
        (lambda tensors: tensors, {"block_count": 4}, "layer 3 of 4 has no tensors"),
        (lambda tensors: tensors, {"block_count": 0}, "block_count = 0"),
        (lambda tensors: tensors, {"expert_used_count": 9}, "top_k = 9"),
        (wide_queries, {}, "weights of attention"),
    ],
)
def test_models_that_cannot_be_read_say_why(
    change: Callable[[Shapes], Shapes], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", change(moe_tensors()), keys)
    with pytest.raises(InvalidFile, match=message) as caught:
        load_architecture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "none.gguf"), "qwen3moe")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InvalidFile, match=r"'qwen3moe\.block_count' is missing"):
        load_architecture(tmp_path / "none.gguf")


def test_every_cut_of_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    raw = write(tmp_path / "model.gguf", moe_tensors(1), {"block_count": 1}).read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (0, 1, 4, 8, 20, 24, 40, 200, 5000, len(raw) // 20, len(raw) // 2, len(raw) - 5000):
        path.write_bytes(raw[:size])
        with pytest.raises(InvalidFile) as caught:
            load_architecture(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def header(*pieces: bytes, version: int = 3, n_tensors: int = 0, n_keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + b"".join(pieces)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HOSTILE = {
    "counts beyond any file": header(n_tensors=2**63, n_keys=2**62),
    "a text longer than the file": header(struct.pack("<Q", 2**60), n_keys=1),
    "a list longer than the file": header(text("a"), struct.pack("<IIQ", 9, 4, 2**61), n_keys=1),
    "lists in lists without end": header(text("a"), struct.pack("<IIQ", 9, 9, 1) * 1000, n_keys=1),
    "texts that end beyond the file": header(text("a"), struct.pack("<IIQ", 9, 8, 5000) + b"\xff" * 41000, n_keys=1),
    "a kind that is none": header(text("a"), struct.pack("<I", 77), n_keys=1),
    "a key twice": header(*[text("a") + struct.pack("<II", 4, 1)] * 2, n_keys=2),
    "a tensor of a hundred dimensions": header(text("t"), struct.pack("<I", 100) + b"\1" * 2000, n_tensors=1),
    "a tensor of no rows": header(text("t"), struct.pack("<IQQIQ", 2, 32, 0, 0, 0), n_tensors=1),
    "a tensor beyond the file": header(text("t"), struct.pack("<IQQIQ", 2, 1 << 30, 1 << 30, 0, 0), n_tensors=1),
    "half a block": header(text("t"), struct.pack("<IQQIQ", 2, 100, 1, 12, 0), n_tensors=1),
    "an alignment of zero": header(text("general.alignment"), struct.pack("<II", 4, 0), n_keys=1),
    "version 1": header(version=1),
    "another byte order": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "no GGUF file": b"PK\3\4" + bytes(100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(InvalidInput) as caught:
        load_architecture(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="cannot be read"):
        load_architecture(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("n_texts", "message"),
    [(2**22 + 1, "a list of 4194305 values"), (2**33, "more than 64 MiB"), (5000, "architecture' is missing")],
)
def test_a_vocabulary_is_gone_past_within_limits(n_texts: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(header(text("a"), struct.pack("<IIQ", 9, 8, n_texts), n_keys=1))
        file.truncate(1 << 40)
    with pytest.raises(InvalidFile, match=message):
        load_architecture(path)


def test_tensors_of_every_block_type_take_the_bytes_of_their_blocks() -> None:
    for name, block in GGML_BLOCKS.items():
        assert block_type(block.number) == (name, block)


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
