"""Configurations of small models as files, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from traces.model.architecture import ModelArchitecture, load_architecture

SHAPES: dict[str, Any] = {
    "model_type": "qwen2_moe", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "intermediate_size": 128, "shared_expert_intermediate_size": 32, "mlp_only_layers": [0], "vocab_size": 100,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def read_file(folder: Path, name: str, document: dict[str, Any]) -> ModelArchitecture:
    """The model of `document`, as `name` in `folder`."""
    path = folder / name
    path.write_text(json.dumps(document))
    return load_architecture(path)


def read(folder: Path, **more: Any) -> ModelArchitecture:
    """The model of `SHAPES` and fields more, or others, as config.json in `folder`."""
    return read_file(folder, "config.json", SHAPES | more)


def quantised(folder: Path, method: str, **more: Any) -> ModelArchitecture:
    """The same in a format of `method`."""
    return read(folder, quantization_config={"quant_method": method, **more})
