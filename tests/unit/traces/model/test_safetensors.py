"""Models in safetensors files: shapes by the configuration, exact bytes by headers, and files that are none."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from traces.errors import InvalidFile
from traces.model.architecture import load_architecture, parse_architecture
from traces.model.files.safetensors_file import read_safetensors
from traces.model.layer_formats import LayerFormats
from traces.model.layer_models import layer_expert_bytes, models_by_layer

CONFIG: dict[str, Any] = {
    "model_type": "qwen2_moe", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
    "intermediate_size": 128, "shared_expert_intermediate_size": 32, "mlp_only_layers": [0], "vocab_size": 500,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
D, FF, KV = 64, 96, 32
_SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "U8": 1}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def bf16_tensors() -> Tensors:
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (500, D), "lm_head.weight": (500, D), "model.norm.weight": (D,),
    }  # fmt: skip
    for i in range(3):
        stem = f"model.layers.{i}."
        made |= {stem + f"self_attn.{n}_proj.weight": (D if n in "qo" else KV, D) for n in "qkvo"}
        made |= {stem + f"self_attn.{n}_proj.bias": (D if n == "q" else KV,) for n in "qkv"}
        made |= {stem + "input_layernorm.weight": (D,), stem + "post_attention_layernorm.weight": (D,)}
        if i == 0:
            made |= {stem + f"mlp.{n}_proj.weight": (128, D) for n in ("gate", "up")}
            made |= {stem + "mlp.down_proj.weight": (D, 128)}
            continue
        made |= {stem + "mlp.gate.weight": (8, D), stem + "mlp.shared_expert_gate.weight": (1, D)}
        for module, width in [(f"experts.{e}", FF) for e in range(8)] + [("shared_expert", 32)]:
            made |= {stem + f"mlp.{module}.{n}_proj.weight": (width, D) for n in ("gate", "up")}
            made |= {stem + f"mlp.{module}.down_proj.weight": (D, width)}
    return {name: ("BF16", shape) for name, shape in made.items()}


def grouped(tensors: Tensors) -> Tensors:
    """Experts as GPTQ packs them in groups of 32: integers in int32, 16-bit scales, packed zero points, an order."""
    changed: Tensors = {}
    for name, (form, shape) in tensors.items():
        if ".experts." not in name:
            changed[name] = (form, shape)
            continue
        (n, k), stem = shape, name.removesuffix("weight")
        changed |= {stem + "qweight": ("I32", (k // 8, n)), stem + "scales": ("F16", (k // 32, n)),
                    stem + "qzeros": ("I32", (k // 32, n // 8)), stem + "g_idx": ("I32", (k,))}  # fmt: skip
    return changed


def write(folder: Path, tensors: Tensors, config: dict[str, Any] | None = None, n_files: int = 1) -> Path:
    """The files of a model: headers as they are, weights a hole; the first of them, or their index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    names = list(tensors)
    files = ["model.safetensors"]
    if n_files > 1:
        files = [f"model-{i + 1:05d}-of-{n_files:05d}.safetensors" for i in range(n_files)]
        index = {name: files[i % n_files] for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for i, file in enumerate(files):
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name in names[i::n_files]:
            form, shape = tensors[name]
            size = math.prod(shape) * _SIZES[form]
            header[name] = {"dtype": form, "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[dict-item]
            at += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + at)
    return folder / ("model.safetensors.index.json" if n_files > 1 else files[0])


def n_bytes(tensors: Tensors) -> int:
    return sum(math.prod(shape) * _SIZES[form] for form, shape in tensors.values())


def test_a_header_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m", bf16_tensors())
    with safe_open(path, "np") as theirs:
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
    assert {tensor.name: tensor.shape for tensor in read_safetensors(path)} == shapes


@pytest.mark.parametrize("n_files", [1, 4])
def test_an_unquantised_model_is_that_of_its_configuration(n_files: int, tmp_path: Path) -> None:
    tensors = bf16_tensors()
    path = write(tmp_path / "m", tensors, n_files=n_files)
    model, stated = load_architecture(path), load_architecture(tmp_path / "m" / "config.json")
    assert {part: form.name for part, form in model.formats.items()} == {p: "bf16" for p in model.formats}
    assert model.total_params == stated.total_params
    assert model.total_bytes == n_bytes(tensors)


@pytest.mark.parametrize("name", ["model-00002-of-00004.safetensors", "", "model.safetensors.index.json"])
def test_any_file_of_a_model_and_its_folder_stand_for_it(name: str, tmp_path: Path) -> None:
    index = write(tmp_path / "folder", bf16_tensors(), n_files=4)
    model = load_architecture(tmp_path / "folder" / name)
    assert model.total_bytes == load_architecture(index).total_bytes
    assert model.name == "folder"


def test_packed_experts_take_the_bytes_of_all_their_tensors(tmp_path: Path) -> None:
    tensors = grouped(bf16_tensors())
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True,
                                      "modules_to_not_convert": ["self_attn", "shared_expert", "lm_head"]}}  # fmt: skip
    model = load_architecture(write(tmp_path / "m", tensors, config))
    experts = n_bytes({name: item for name, item in tensors.items() if ".experts." in name})
    assert model.expert_bytes == pytest.approx(experts / 16, rel=1e-3)
    assert model.total_bytes == pytest.approx(n_bytes(tensors), rel=1e-3)
    assert model.stored_attention_dtype.name == "bf16"
    assert model.stored_activation_dtype.name == "bf16"
    assert parse_architecture(model.to_yaml(), "printed") == model


def test_blocks_of_fp8_are_multiplied_in_fp8_as_the_configuration_says(tmp_path: Path) -> None:
    config = {"hidden_size": 512, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
              "intermediate_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8,
              "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}  # fmt: skip
    tensors: Tensors = {}
    for name, (_, shape) in bf16_tensors().items():
        old = {64: 512, 96: 256, 32: 512 if "self_attn" in name else 256, 128: 512}
        wide = tuple(old.get(n, n) for n in shape)
        is_matrix = len(wide) == 2 and "_proj" in name
        tensors[name] = ("F8_E4M3" if is_matrix else "BF16", wide)
        if is_matrix:
            tensors[name + "_scale_inv"] = ("F32", (wide[0] // 128, wide[1] // 128))
    model = load_architecture(write(tmp_path / "m", tensors, config))
    assert (model.expert_dtype.name, model.compute_format(model.expert_dtype)) == ("fp8-b128", "fp8")
    assert model.total_bytes == pytest.approx(n_bytes(tensors), rel=1e-4)


def test_layers_that_a_quantisation_leaves_wide_have_their_own_bytes(tmp_path: Path) -> None:
    """Experts of the second of three layers stay in bf16, those of the third are packed; the first has none."""
    plain = bf16_tensors()
    tensors = {name: item for name, item in grouped(plain).items() if "layers.1.mlp.experts." not in name}
    tensors |= {name: item for name, item in plain.items() if "layers.1.mlp.experts." in name}
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True,
                                      "modules_to_not_convert": ["self_attn", "shared_expert", "lm_head"]}}  # fmt: skip
    model = load_architecture(write(tmp_path / "m", tensors, config))
    there = [
        n_bytes({name: item for name, item in tensors.items() if f"layers.{i}.mlp.experts." in name}) for i in (1, 2)
    ]
    assert [8 * each for each in layer_expert_bytes(model)] == pytest.approx(there, rel=1e-3)
    assert there[0] > 3 * there[1]
    bits = 4 + 16 / 32 + 4 / 32 + 32 * (2 / FF + 1 / D) / 3  # a weight, scales, zero points, and an order by matrix
    assert [one.expert_dtype.name for one in models_by_layer(model)[1:]] == ["bf16", f"w{bits:.4f}"]
    assert model.layer_formats == LayerFormats(experts=tuple(one.expert_dtype for one in models_by_layer(model)))
    assert parse_architecture(model.to_yaml(), "printed") == model


def test_what_stands_beside_the_language_model_is_left_out(tmp_path: Path) -> None:
    plain = load_architecture(write(tmp_path / "a", bf16_tensors()))
    more = bf16_tensors() | {
        "visual.blocks.0.attn.qkv.weight": ("BF16", (300, 300)), "mtp.layers.0.mlp.experts.0.up_proj.weight":
        ("BF16", (300, 300)), "model.layers.3.mlp.experts.0.up_proj.weight": ("BF16", (300, 300)),
    }  # fmt: skip
    assert load_architecture(write(tmp_path / "b", more)).total_bytes == plain.total_bytes


def changed(tensors: Tensors, ending: str, item: tuple[str, tuple[int, ...]] | None) -> Tensors:
    kept = {name: old for name, old in tensors.items() if not name.endswith(ending)}
    return kept if item is None else tensors | dict.fromkeys(tensors.keys() - kept.keys(), item)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: changed(t, "lm_head.weight", None), "no tensor of head"),
        (lambda t: changed(t, "experts.3.up_proj.weight", None), "weights of experts"),
        (lambda t: changed(t, "q_proj.weight", ("BF16", (16, D))), "weights of attention"),
        (lambda t: {name: item for name, item in t.items() if "experts." not in name}, "no tensor of experts"),
    ],
)
def test_tensors_that_are_not_of_the_configuration_are_refused(
    change: Callable[[Tensors], Tensors], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m", change(bf16_tensors()))
    with pytest.raises(InvalidFile, match=message) as caught:
        load_architecture(path)
    assert "\n" not in str(caught.value)


HOSTILE = {
    "empty": b"", "a length alone": b"\1\0", "a length beyond the file": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": struct.pack("<Q", 3) + b"{{{", "a list": struct.pack("<Q", 2) + b"[]",
    "nested without end": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "offsets backwards": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[4,2]}}',
    "offsets of text": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":"ab"}}',
    "no shape": b'{"a":{"dtype":"F16","data_offsets":[0,0]}}',
    "a negative size": b'{"a":{"dtype":"F16","shape":[-1],"data_offsets":[0,0]}}',
    "beyond the file": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,99999]}}',
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m", bf16_tensors())
    raw = HOSTILE[name]
    path.write_bytes(struct.pack("<Q", len(raw)) + raw if raw.startswith(b"{") else raw)
    with pytest.raises(InvalidFile) as caught:
        load_architecture(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not valid JSON"), ("[]", "weight_map"), ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "not the name"),
        ('{"weight_map": {"a": "x.bin"}}', "not the name"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors: missing"),
    ],
)  # fmt: skip
def test_an_index_names_files_beside_it(index: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m", bf16_tensors(), n_files=2)
    path.write_text(index)
    with pytest.raises(InvalidFile, match=message):
        load_architecture(path)


def test_a_missing_file_and_a_missing_configuration_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m", bf16_tensors(), n_files=3)
    (tmp_path / "m" / "model-00003-of-00003.safetensors").unlink()
    for asked in (path, tmp_path / "m" / "model-00001-of-00003.safetensors"):
        with pytest.raises(InvalidFile, match=r"00003-of-00003\.safetensors: missing"):
            load_architecture(asked)
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(InvalidFile, match=r"no config\.json beside it"):
        load_architecture(path)


def test_a_file_that_is_not_there_is_named_first(tmp_path: Path) -> None:
    for name in ("x.safetensors", "model.safetensors.index.json"):
        with pytest.raises(InvalidFile, match="no such file"):
            load_architecture(tmp_path / name)


def test_a_folder_without_weights_is_that_of_its_configuration(tmp_path: Path) -> None:
    path = write(tmp_path / "m", bf16_tensors())
    path.unlink()
    assert load_architecture(tmp_path / "m") == load_architecture(tmp_path / "m" / "config.json")
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(InvalidFile, match="no model in this folder"):
        load_architecture(tmp_path / "m")
