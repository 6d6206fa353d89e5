"""Layers that attend to the tokens which the indexer of another has picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.model.model_configs import read_file
from traces.errors import InvalidFile

GLM_5_2: dict[str, Any] = {
    "model_type": "glm_moe_dsa", "hidden_size": 6144, "intermediate_size": 12288, "num_hidden_layers": 78,
    "num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "kv_lora_rank": 512,
    "q_lora_rank": 2048, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "vocab_size": 154880,
    "index_topk": 2048, "index_n_heads": 32, "index_head_dim": 128, "dtype": "bfloat16",
}  # fmt: skip


OWN_INDEXER = (0, 1, 2, *range(6, 78, 4))


@pytest.mark.parametrize(
    "stated",
    [
        {"indexer_types": ["full" if i in OWN_INDEXER else "shared" for i in range(78)]},
        {"index_topk_pattern": "".join("F" if i in OWN_INDEXER else "S" for i in range(78))},
        {"index_topk_freq": 4, "index_skip_topk_offset": 3},
    ],
)
def test_layers_that_share_an_indexer_keep_no_keys_of_one(stated: dict[str, Any], tmp_path: Path) -> None:
    """GLM-5.2: of 78 layers 21 pick tokens, the others attend to what the last of them has picked."""
    every = read_file(tmp_path, "config.json", GLM_5_2)
    model = read_file(tmp_path, "config.json", GLM_5_2 | stated)
    shared = [mixer for mixer in (model.decoder.mixer(i) for i in range(78)) if not mixer.index_heads]
    assert len(shared) == 78 - 21
    assert {mixer.index_topk for mixer in shared} == {2048}
    assert model.kv_bytes_per_token == 2 * (78 * 576 + 21 * 128)
    own = 32 * 128 * 2048 + 128 * 6144 + 32 * 6144
    assert every.total_params - model.total_params == 57 * own


def test_a_pattern_of_indexers_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="index_topk_pattern names 2 layers, there are more"):
        read_file(tmp_path, "config.json", GLM_5_2 | {"index_topk_pattern": "FS"})


def test_layers_that_read_the_cache_of_another_are_refused(tmp_path: Path) -> None:
    own = GLM_5_2 | {"kv_source_layers": list(range(78))}
    assert read_file(tmp_path, "config.json", own) == read_file(tmp_path, "config.json", GLM_5_2)
    with pytest.raises(InvalidFile, match="kv_source_layers: layers share keys and values"):
        read_file(tmp_path, "config.json", GLM_5_2 | {"kv_source_layers": [0, 0, *range(2, 78)]})
