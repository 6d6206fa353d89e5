"""Files in the words of a model's makers, which are none of Hugging Face's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read_file

DEEPSEEK: dict[str, Any] = {
    "vocab_size": 129280, "dim": 7168, "inter_dim": 18432, "moe_inter_dim": 2048, "n_layers": 61, "n_dense_layers": 3,
    "n_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1, "n_activated_experts": 8, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "score_func": "sigmoid",
    "dtype": "fp8",
}  # fmt: skip
"""`inference/configs/config_671B.json` of DeepSeek-V3: 671 B, 37 B active without one of its two tables."""


MIXTRAL: dict[str, Any] = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8},
}  # fmt: skip
"""`params.json` of Mixtral-8x7B: 46.7 B, 12.9 B active."""


MISTRAL_LARGE: dict[str, Any] = {
    "dim": 7168, "n_layers": 61, "head_dim": 192, "hidden_dim": 16384, "n_heads": 128, "n_kv_heads": 128,
    "vocab_size": 131072, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "tied_embeddings": False, "quantization": {"qformat_weight": "fp8_e4m3"},
    "moe": {
        "num_experts": 128, "num_experts_per_tok": 4, "num_shared_experts": 1, "expert_hidden_dim": 4096,
        "first_k_dense_replace": 3, "route_every_n": 1,
    },
}  # fmt: skip
"""`params.json` of Mistral Large 3: 675 B with 2.5 B of an eye, 39 B active without one of its two tables."""


GPT_OSS: dict[str, Any] = {
    "num_hidden_layers": 36, "num_experts": 128, "experts_per_token": 4, "vocab_size": 201088, "hidden_size": 2880,
    "intermediate_size": 2880, "head_dim": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
    "sliding_window": 128, "initial_context_length": 4096,
}  # fmt: skip
"""`original/config.json` of gpt-oss-120b: 116.8 B, 5.1 B active without a table of 0.6 B."""


@pytest.mark.parametrize(
    ("name", "document", "counts", "expert_format"),
    [
        ("config_671B.json", DEEPSEEK, (671.0e9, 37.55e9), "fp8-b128"),
        ("params.json", MIXTRAL, (46.70e9, 12.88e9), "bf16"),
        ("params.json", MISTRAL_LARGE, (673.4e9, 39.95e9), "fp8"),
        ("config.json", GPT_OSS, (116.83e9, 5.71e9), "mxfp4"),
    ],
)
def test_files_in_the_words_of_their_makers_are_read(
    name: str, document: dict[str, Any], counts: tuple[float, float], expert_format: str, tmp_path: Path
) -> None:
    model = read_file(tmp_path, name, document)
    assert (model.total_params, model.active_params) == pytest.approx(counts, rel=0.002)
    assert model.expert_dtype.name == expert_format


def test_inkling_is_read_in_the_words_of_its_makers(tmp_path: Path) -> None:
    """thinkingmachines/Inkling, 975 B: where dense layers have a width of their own, the other is of experts."""
    text = {
        "hidden_size": 6144, "num_hidden_layers": 66, "vocab_size": 201024, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "swa_num_attention_heads": 64, "swa_num_key_value_heads": 16,
        "swa_head_dim": 128, "sliding_window_size": 512, "local_layer_ids": [i for i in range(66) if (i + 1) % 6],
        "dense_mlp_idx": 2, "dense_intermediate_size": 24576, "intermediate_size": 3072, "n_routed_experts": 256,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "torch_dtype": "bfloat16",
    }  # fmt: skip
    model = read_file(tmp_path, "config.json", {"model_type": "inkling_mm_model", "text_config": text})
    block = 258 * 3 * 6144 * 3072 + 256 * 6144
    attention = 2 * 64 * 128 * 6144
    keys = 2 * 6144 * 128 * (55 * 16 + 11 * 8)
    by_hand = 64 * block + 2 * 3 * 6144 * 24576 + 66 * attention + keys + 2 * 201024 * 6144
    assert model.total_params == pytest.approx(by_hand, rel=1e-4)
    assert model.decoder.moe_layers == tuple(range(2, 66))
    assert model.kv_bytes_per_token == 2 * 2 * 128 * (55 * 16 + 11 * 8)
