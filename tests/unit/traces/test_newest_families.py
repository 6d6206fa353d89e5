"""Families read by new fields: experts of a narrower width, adjugate experts, tables of n-grams, makers' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.traces.test_quantised_configs import read
from traces.model.architecture import load_architecture
from traces.model.model_architecture import ModelArchitecture

FULL = [*range(4, 93, 4), 93]
"""Layers of Kimi K3 with latent attention, counted from 1; the others have a state."""

KIMI_K3: dict[str, Any] = {
    "model_type": "kimi_linear", "hidden_size": 7168, "intermediate_size": 33792, "num_hidden_layers": 93,
    "num_attention_heads": 96, "num_key_value_heads": 96, "num_experts": 896, "num_experts_per_token": 16,
    "num_shared_experts": 2, "moe_intermediate_size": 3072, "routed_expert_hidden_size": 3584,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "mla_use_output_gate": True, "vocab_size": 163840,
    "linear_attn_config": {
        "full_attn_layers": FULL, "kda_layers": [i for i in range(1, 94) if i not in FULL], "head_dim": 128,
        "num_heads": 96, "short_conv_kernel_size": 4, "use_full_rank_gate": True,
    },
}  # fmt: skip
"""moonshotai/Kimi-K3, 2.8 T in all: the text model of its `config.json`."""


def read_file(folder: Path, name: str, document: dict[str, Any]) -> ModelArchitecture:
    path = folder / name
    path.write_text(json.dumps(document))
    return load_architecture(path)


def kimi_k3_by_hand(n_experts: int) -> int:
    """Parameters by the shapes of its tensors, `n_experts` of each MoE block."""
    d, width = 7168, 96 * 128
    state = 3 * width * (d + 4) + 128 * (d + width) + width + 96 + 96 * d + width * d + 128 + d * width
    latent = d * 1536 + 1536 + 1536 * 96 * 192 + d * 576 + 512 + 512 * 96 * 256 + 2 * d * width
    dense = 3 * d * 33792
    block = 896 * d + 3 * d * 6144 + 2 * d * 3584 + n_experts * 3 * 3584 * 3072
    return 24 * latent + 69 * state + 92 * block + dense + 93 * 2 * d + d + 2 * 163840 * d


def test_experts_of_kimi_k3_work_in_half_the_width(tmp_path: Path) -> None:
    model = read_file(tmp_path, "config.json", {"model_type": "kimi_k3", "text_config": KIMI_K3, "dtype": "bfloat16"})
    assert model.total_params == pytest.approx(kimi_k3_by_hand(896), rel=5e-4)
    assert model.active_params == pytest.approx(kimi_k3_by_hand(16), rel=5e-4)
    assert model.kv_bytes_per_token == 24 * 576 * 2


IGNORED = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]
"""What Kimi-K2-Thinking and K2.5 leave out: attention, shared experts, dense FFNs."""


@pytest.mark.parametrize("model_type", ["qwen2_moe", "kimi_k2"])
def test_dense_layers_that_are_left_out_leave_no_expert_out(model_type: str, tmp_path: Path) -> None:
    """`mlp.gate_proj` is the end of `switch_mlp.gate_proj` too, which is a name of MLX."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    group = {"group_0": {"targets": ["Linear"], "weights": weights}}
    found = read(
        tmp_path,
        model_type=model_type,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        quantization_config={"config_groups": group, "ignore": IGNORED},
    )
    assert (found.expert_dtype.name, found.dtype.name) == ("int4-g32", "bf16")
    only_dense = {"config_groups": group, "ignore": IGNORED[-1:]}
    assert read(tmp_path, quantization_config=only_dense).stored_shared_dtype.name == "int4-g32"
