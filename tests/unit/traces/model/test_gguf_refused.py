"""GGUF files that are cut, hostile or of no model that can be read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import load_architecture
from traces.model.files.ggml_blocks import GGML_BLOCKS, block_type

gguf = pytest.importorskip("gguf", reason="the oracle of GGUF files is not installed")
from tests.gguf_files import FF, LAYERS, D, Shapes, moe_tensors, write  # noqa: E402


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
