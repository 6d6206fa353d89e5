"""Recording of types whose own default configuration is made small here, as most are that see pictures as well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from tests.grids import some_of
from traces.errors import InvalidInput
from traces.model.architecture import load_architecture

torch = pytest.importorskip("torch", reason="models run with PyTorch (the extra 'runtime')")
transformers = pytest.importorskip("transformers", reason="models are those of transformers (the extra 'hf')")

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402

SMALL: dict[str, Any] = {
    "vocab_size": 64, "unpadded_vocab_size": 64, "hidden_size": 32, "d_model": 32, "intermediate_size": 48,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_experts": 8, "n_routed_experts": 8,
    "num_local_experts": 8, "moe_num_experts": 8, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
SMALL_EYE: dict[str, Any] = {
    "num_hidden_layers": 1, "depth": 1, "hidden_size": 32, "num_attention_heads": 2, "num_heads": 2,
    "intermediate_size": 48, "out_hidden_size": 32, "embed_dim": 32, "deepstack_visual_indexes": [0],
}  # fmt: skip

MIXED = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
ALL_HEADS = {"num_key_value_heads": 4}
TURNED = {"rope_type": "default", "rope_theta": 10000.0}
TYPES: dict[str, dict[str, Any]] = {
    "aria": {},
    "aria_text": {},
    "axk2": ALL_HEADS,
    "beam": SPARSE,
    "dbrx": {
        "n_heads": 4, "n_layers": 2, "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "ernie4_5_vl_moe": {
        "text_config": SPARSE | {
            "moe_intermediate_size": [24, 24], "rope_parameters": TURNED | {"mrope_section": [1, 1, 2]},
        },
    },
    "gemma4_text": {
        "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 24, "enable_moe_block": True,
        "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64,
    },
    "glm4v_moe": {
        "text_config": {"rope_parameters": TURNED | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}},
    },
    "glm5_next": {"text_config": ALL_HEADS | MIXED | SPARSE | {"qk_rope_head_dim": 0, "head_dim": 0}},
    "granitemoehybrid": {
        "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "layer_types": ["mamba", "attention", "mamba"],
    },
    "hy_v4_vl": {"text_config": {"rope_parameters": TURNED | {"mrope_section": [2, 1, 1]}}},
    "inkling2_loop_text": {},
    "inkling2_text": {},
    "inkling_text": {},
    "kimi_k25": {"text_config": ALL_HEADS},
    "llama4": {},
    "longcat_flash": {
        "expert_ffn_hidden_size": 24, "ffn_hidden_size": 48, "num_layers": 2, "zero_expert_num": 2, "moe_topk": 4,
    } | ALL_HEADS,
    "mimo_v2_flash": {},
    "minimax_m3_vl_text": {},
    "mistral4": ALL_HEADS | {"head_dim": 16},
    "mistral_large4": {"text_config": ALL_HEADS},
    "qwen3_5_moe": {"text_config": MIXED},
    "qwen3_vl_moe": {},
    "qwen4_exp_text": MIXED | {
        "indexer_budget": 16, "indexer_compress_ratio": 4, "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    "step3p7": {
        "text_config": SPARSE | {
            "sliding_window": 16, "num_sliding_attention_heads": 4, "layer_types": ["full_attention"] * 3,
        },
    },
    "unlimited_ocr": {},
}  # fmt: skip
"""What each needs beyond small numbers, for its own checks."""


def shrunk(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that have a small value, inner configurations shrunk the same way."""
    found: dict[str, Any] = {"model_type": config.model_type}
    for name, stated in config.to_dict().items():
        if isinstance(stated, dict) and "model_type" in stated:
            sees = any(word in name for word in ("vision", "visual", "audio"))
            found[name] = shrunk(getattr(config, name), SMALL_EYE if sees else SMALL)
        elif name in values and isinstance(stated, int | float | list) and not isinstance(stated, bool):
            found[name] = values[name]
    return found


def tensors_in(item: Any, seen: set[int]) -> Iterator[Any]:
    """Every tensor that a cache holds, in whatever its class keeps them."""
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, list | tuple | dict):
        for inner in item.values() if isinstance(item, dict) else item:
            yield from tensors_in(inner, seen)
    elif type(item).__module__.startswith("transformers") and id(item) not in seen:
        seen.add(id(item))
        yield from tensors_in(vars(item), seen)


def kept_numbers(model: Any, n_tokens: int) -> int:
    """Numbers that its cache holds after a prompt of so many tokens."""
    with torch.inference_mode():
        cache = model.eval()(input_ids=torch.arange(n_tokens)[None] + 5, use_cache=True).past_key_values
    return sum({tensor.data_ptr(): tensor.numel() for tensor in tensors_in(cache, set())}.values())


UNLIKE = (
    "aria_text", "axk2", "dbrx", "ernie4_5_vl_moe", "gemma4_text", "granitemoehybrid", "llama4", "longcat_flash",
    "mimo_v2_flash", "qwen3_vl_moe",
)  # fmt: skip
"""Types that keep keys and values, or choose experts, unlike each other."""
POOLED = ("glm5_next", "qwen4_exp_text")
"""Types whose class keeps what an indexer has yet to pool, beside what it reads."""


def built(model_type: str, folder: Path) -> Any:
    """A model of random weights in `folder`, that never ends."""
    values, more = shrunk(CONFIG_MAPPING[model_type](), SMALL), TYPES[model_type]
    values |= {name: values.get(name, {}) | value if name == "text_config" else value for name, value in more.items()}
    del values["model_type"]
    config = CONFIG_MAPPING[model_type](**values)
    kind = AutoModelForCausalLM if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    torch.manual_seed(0)
    model = kind.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 999, 0
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", some_of(TYPES, UNLIKE))
def test_the_trace_is_one_of_the_model(model_type: str, tmp_path: Path) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    model = built(model_type, tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"ids": [5, 6, 7, 8]}) + "\n" + json.dumps({"ids": [9, 10]}))
    trace = pregate.record(tmp_path, tmp_path / "prompts.jsonl", output_tokens=12, device="cpu", batch=2)
    read = load_architecture(tmp_path / "config.json")
    trace.check_model(read)
    if model_type not in POOLED:
        a_token = (kept_numbers(model, 16) - kept_numbers(model, 8)) / 8
        assert read.kv_bytes_per_token == a_token * read.stored_kv_dtype.bits / 8
    assert trace.n_tokens == 4 + 2 + 2 * 11
    chosen = trace.experts >= 0
    assert chosen.any(axis=2).all()
    assert trace.gate_weights is not None
    assert np.isfinite(trace.gate_weights).all()
    assert trace.gate_weights[chosen].max() > 0


def test_experts_that_compute_nothing_are_no_choice(tmp_path: Path) -> None:
    """LongCat's zero-computation experts are numbered behind those that have weights."""
    model = built("longcat_flash", tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"ids": list(range(5, 45))}))
    trace = pregate.record(tmp_path, tmp_path / "prompts.jsonl", output_tokens=12, device="cpu")
    seen: list[Any] = []
    for name, module in model.named_modules():
        if name.endswith("router"):
            module.register_forward_hook(lambda module, given, answer: seen.append(answer))
    with torch.inference_mode():
        model.eval()(torch.arange(5, 45)[None])
    n_named = sum(
        int(((part >= 0) & (part < 8)).sum()) for answer in seen for part in answer if not part.is_floating_point()
    )
    prompt = trace.experts[:40]
    assert 0 < (prompt < 0).sum() < prompt.size
    assert (prompt >= 0).sum() == n_named
    assert trace.gate_weights is not None
    assert (trace.gate_weights[:40][prompt < 0] == 0).all()


def test_a_token_that_chooses_nothing_with_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "longcat_flash", TYPES["longcat_flash"] | {"zero_expert_num": 12, "moe_topk": 2})
    built("longcat_flash", tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"ids": list(range(5, 45))}))
    with pytest.raises(InvalidInput, match=r"token .* MoE layer .* nothing but experts without weights"):
        pregate.record(tmp_path, tmp_path / "prompts.jsonl", output_tokens=2, device="cpu")
