"""GGUF files of small models, written by the format's own package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
