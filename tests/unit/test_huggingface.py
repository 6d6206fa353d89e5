"""Hugging Face configurations: each gives the shipped architecture, and a bad one a clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import architecture_names, load_architecture
from traces.model.huggingface import MAX_CONFIG_BYTES, from_huggingface_config

DESCRIPTIVE = {"name", "sources", "published", "note"}

PUBLISHED: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "published_configurations.json").read_text("utf-8")
)
"""Configurations as their makers publish them, the fields that decide alone."""


def as_published(case: str) -> dict[str, Any]:
    config: dict[str, Any] = PUBLISHED[case]["files"]["config.json"]
    return config


def switch(d_model: int, d_ff: int, layers: int, heads: int, n_experts: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "switch_transformers",
        "d_model": d_model,
        "d_kv": 64,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_sparse_encoder_layers": layers // 2,
        "num_sparse_decoder_layers": layers // 2,
        "num_heads": heads,
        "num_experts": n_experts,
        "vocab_size": 32128,
        "relative_attention_num_buckets": 32,
        "torch_dtype": "float32",
    } | more


def decoder_only(
    model_type: str, hidden: int, layers: int, heads: int, kv: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    } | more


def qwen3(hidden: int, layers: int, heads: int, width: int) -> dict[str, Any]:
    return decoder_only(
        "qwen3_moe",
        hidden,
        layers,
        heads,
        4,
        151936,
        head_dim=128,
        intermediate_size=3 * hidden,
        mlp_only_layers=[],
        moe_intermediate_size=width,
        num_experts=128,
        num_experts_per_tok=8,
        decoder_sparse_step=1,
        attention_bias=False,
    )


def qwen35(
    hidden: int, layers: int, heads: int, n_experts: int, top_k: int, width: int, value_heads: int
) -> dict[str, Any]:
    return decoder_only(
        "qwen3_5_moe_text",
        hidden,
        layers,
        heads,
        2,
        248320,
        head_dim=256,
        moe_intermediate_size=width,
        shared_expert_intermediate_size=width,
        num_experts=n_experts,
        num_experts_per_tok=top_k,
        linear_num_key_heads=16,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_conv_kernel_dim=4,
        full_attention_interval=4,
        attn_output_gate=True,
    )


def gpt_oss(layers: int, n_experts: int) -> dict[str, Any]:
    config = decoder_only(
        "gpt_oss",
        2880,
        layers,
        64,
        8,
        201088,
        head_dim=64,
        intermediate_size=2880,
        num_local_experts=n_experts,
        num_experts_per_tok=4,
        attention_bias=True,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * (layers // 2),
        quantization_config={"quant_method": "mxfp4"},
    )
    del config["torch_dtype"]
    return config


MADE_UP = {"switch-mini-16", "mixtral-mini-8"}
"""Models of the project's own validation suites have no published configuration."""

CONFIGS: dict[str, dict[str, Any]] = {
    **{f"switch-base-{n}": switch(768, 3072, 12, 12, n) for n in (8, 16, 32, 64, 128, 256)},
    "switch-large-128": switch(1024, 4096, 24, 16, 128),
    "switch-xxl-128": switch(4096, 10240, 24, 64, 128, dense_act_fn="gated-gelu"),
    "nllb-moe-54b": {
        "model_type": "nllb-moe",
        "d_model": 2048,
        "encoder_layers": 24,
        "decoder_layers": 24,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_ffn_dim": 8192,
        "decoder_ffn_dim": 8192,
        "encoder_sparse_step": 4,
        "decoder_sparse_step": 4,
        "num_experts": 128,
        "vocab_size": 256206,
        "router_bias": False,
        "torch_dtype": "float32",
    },
    "mixtral-8x7b": decoder_only(
        "mixtral", 4096, 32, 32, 8, 32000, intermediate_size=14336, num_local_experts=8, num_experts_per_tok=2
    ),
    "mixtral-8x22b": decoder_only(
        "mixtral",
        6144,
        56,
        48,
        8,
        32000,
        intermediate_size=16384,
        num_local_experts=8,
        num_experts_per_tok=2,
        head_dim=None,
    ),
    "qwen1.5-moe-a2.7b": decoder_only(
        "qwen2_moe",
        2048,
        24,
        16,
        16,
        151936,
        intermediate_size=5632,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
        num_experts=60,
        num_experts_per_tok=4,
        decoder_sparse_step=1,
    ),
    "qwen3-30b-a3b": qwen3(2048, 48, 32, 768),
    "qwen3-235b-a22b": qwen3(4096, 94, 64, 1536),
    "deepseek-v2-lite": decoder_only(
        "deepseek_v2",
        2048,
        27,
        16,
        16,
        102400,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        topk_method="greedy",
        attention_bias=False,
    ),
    "deepseek-v3": decoder_only(
        "deepseek_v3",
        7168,
        61,
        128,
        128,
        129280,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        first_k_dense_replace=3,
        moe_layer_freq=1,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        topk_method="noaux_tc",
        attention_bias=False,
        quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    ),
    "kimi-k2-thinking": decoder_only(
        "kimi_k2",
        7168,
        61,
        64,
        64,
        163840,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        n_routed_experts=384,
        n_shared_experts=1,
        num_experts_per_tok=8,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        topk_method="noaux_tc",
        attention_bias=False,
    ),
    "glm-4.7-flash": decoder_only(
        "glm4_moe_lite",
        2048,
        47,
        20,
        20,
        154880,
        intermediate_size=10240,
        moe_intermediate_size=1536,
        n_routed_experts=64,
        n_shared_experts=1,
        num_experts_per_tok=4,
        first_k_dense_replace=1,
        q_lora_rank=768,
        kv_lora_rank=512,
        qk_nope_head_dim=192,
        qk_rope_head_dim=64,
        v_head_dim=256,
        attention_bias=False,
    ),
    "glm-4.5-air": as_published("C14"),
    "glm-5.1": as_published("C12"),
    "minimax-m2.5": as_published("C16"),
    "qwen3-next-80b-a3b": as_published("C23"),
    "gemma-4-26b-a4b": as_published("C24"),
    "mimo-v2-flash": decoder_only(
        "mimo_v2_flash",
        4096,
        48,
        64,
        4,
        152576,
        intermediate_size=16384,
        moe_intermediate_size=2048,
        n_routed_experts=256,
        n_shared_experts=None,
        num_experts_per_tok=8,
        head_dim=192,
        v_head_dim=128,
        swa_num_attention_heads=64,
        swa_num_key_value_heads=8,
        swa_head_dim=192,
        swa_v_head_dim=128,
        sliding_window=128,
        hybrid_layer_pattern=[0, *[1, 1, 1, 1, 0], *[1, 1, 1, 1, 1, 0] * 7],
        moe_layer_freq=[0, *[1] * 47],
        add_full_attention_sink_bias=False,
        attention_bias=False,
        topk_method="noaux_tc",
        quantization_config={"quant_method": "fp8"},
    ),
    "deepseek-v4-flash": decoder_only(
        "deepseek_v4",
        4096,
        43,
        64,
        1,
        129280,
        moe_intermediate_size=2048,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=6,
        head_dim=512,
        hc_mult=4,
        num_hash_layers=3,
        index_head_dim=128,
        index_n_heads=64,
        index_topk=512,
        o_groups=8,
        o_lora_rank=1024,
        q_lora_rank=1024,
        qk_rope_head_dim=64,
        sliding_window=128,
        compress_ratios=[0, 0, *[4, 128] * 20, 4, 0],
        expert_dtype="fp4",
        topk_method="noaux_tc",
        attention_bias=False,
        quantization_config={"quant_method": "fp8"},
    ),
    "glm-5.3-flash": decoder_only(
        "glm5_next_text",
        4096,
        45,
        64,
        64,
        154880,
        intermediate_size=12288,
        moe_intermediate_size=2048,
        n_routed_experts=288,
        n_shared_experts=1,
        num_experts_per_tok=8,
        kv_lora_rank=512,
        q_lora_rank=1536,
        qk_nope_head_dim=256,
        qk_rope_head_dim=0,
        v_head_dim=256,
        index_head_dim=128,
        index_n_heads=32,
        index_topk=2048,
        linear_head_dim=128,
        linear_num_heads=64,
        linear_conv_kernel_dim=4,
        hc_mult=4,
        mlp_layer_types=[*["dense"] * 3, *["sparse"] * 42],
        attention_bias=False,
    ),
    "qwen3.6-35b-a3b": qwen35(2048, 40, 16, 256, 8, 512, 32),
    "qwen3.5-122b-a10b": qwen35(3072, 48, 32, 256, 8, 1024, 64),
    "qwen3.5-397b-a17b": qwen35(4096, 60, 32, 512, 10, 1024, 64),
    "olmoe-1b-7b": decoder_only(
        "olmoe", 2048, 16, 16, 16, 50304, intermediate_size=1024, num_experts=64, num_experts_per_tok=8
    ),
    "phi-3.5-moe": decoder_only(
        "phimoe",
        4096,
        32,
        32,
        8,
        32064,
        intermediate_size=6400,
        num_local_experts=16,
        num_experts_per_tok=2,
        attention_bias=True,
        lm_head_bias=True,
    ),
    "gpt-oss-20b": gpt_oss(24, 32),
    "gpt-oss-120b": gpt_oss(36, 128),
    "llama-4-scout": {
        "model_type": "llama4",
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 1408},
        "text_config": decoder_only(
            "llama4_text",
            5120,
            48,
            40,
            8,
            202048,
            head_dim=128,
            intermediate_size=8192,
            intermediate_size_mlp=16384,
            num_local_experts=16,
            num_experts_per_tok=1,
            interleave_moe_layer_step=1,
            attention_chunk_size=8192,
            layer_types=[*["chunked_attention"] * 3, "full_attention"] * 12,
        ),
    },
}


def write(tmp_path: Path, config: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [name for name in architecture_names() if name not in MADE_UP])
def test_the_published_configuration_gives_the_shipped_architecture(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name] | {"rope_theta": 1e6, "architectures": ["Anything"], "_unknown": None}
    imported = load_architecture(write(tmp_path, config))
    shipped = load_architecture(name)
    for field in type(shipped).__dataclass_fields__:
        if field not in DESCRIPTIVE:
            assert getattr(imported, field) == getattr(shipped, field), field
    assert imported.total_params == shipped.total_params
    assert imported.sources


def test_an_imported_model_is_named_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Mixtral-8x7B-v0.1"
    folder.mkdir()
    assert from_huggingface_config(write(folder, CONFIGS["mixtral-8x7b"])).name == "Mixtral-8x7B-v0.1"


def test_interleaved_llama_layers_alternate_with_dense_ones(tmp_path: Path) -> None:
    text = CONFIGS["llama-4-scout"]["text_config"] | {"interleave_moe_layer_step": 2}
    model = from_huggingface_config(write(tmp_path, CONFIGS["llama-4-scout"] | {"text_config": text}))
    assert model.decoder.moe_layers == tuple(range(1, 48, 2))
    assert model.decoder.d_ff_dense == 16384


def test_layers_listed_as_dense_are_dense(tmp_path: Path) -> None:
    model = from_huggingface_config(write(tmp_path, CONFIGS["qwen3-30b-a3b"] | {"mlp_only_layers": [0, 5]}))
    assert model.decoder.n_dense_layers == 2
    assert model.decoder.d_ff_dense == 3 * 2048
    assert not {0, 5} & set(model.decoder.moe_layers)


def test_a_type_that_nobody_checked_is_read_by_its_fields_and_says_so(tmp_path: Path) -> None:
    model = from_huggingface_config(write(tmp_path, CONFIGS["mixtral-8x7b"] | {"model_type": "mixtrall"}))
    assert model.total_params == load_architecture("mixtral-8x7b").total_params
    assert "mixtrall is read by its fields" in model.note


def test_a_dense_model_is_told_that_it_has_no_experts(tmp_path: Path) -> None:
    dense = {k: v for k, v in CONFIGS["mixtral-8x7b"].items() if k not in ("num_local_experts", "num_experts_per_tok")}
    with pytest.raises(InvalidFile, match="a llama model is dense, it has no experts to offload") as caught:
        from_huggingface_config(write(tmp_path, dense | {"model_type": "llama"}))
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("hidden_size", "key 'hidden_size' is missing"),
        ("num_local_experts", "key 'n_routed_experts' is missing .*num_local_experts"),
        ("intermediate_size", "key 'moe_intermediate_size' is missing: the width of an expert"),
        ("vocab_size", "key 'vocab_size' is missing"),
        ("num_experts_per_tok", "key 'num_experts_per_tok' is missing"),
    ],
)
def test_a_missing_key_is_named(key: str, named: str, tmp_path: Path) -> None:
    config = {name: value for name, value in CONFIGS["mixtral-8x7b"].items() if name != key}
    with pytest.raises(InvalidFile, match=f"config.json: {named}"):
        from_huggingface_config(write(tmp_path, config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**15}, "expected 1 to 1024"),
        ({"num_local_experts": 10**9}, "expected 1 to 4096"),
        ({"hidden_size": 10**30}, "head_dim = .*expected 1 to 65536"),
        ({"hidden_size": "big"}, "hidden_size = 'big' is not an integer"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 is below 1"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True is not an integer"),
        ({"num_experts_per_tok": 9}, "top_k = 9, expected 1 to 8"),
        ({"torch_dtype": "float8"}, "unknown torch_dtype 'float8'"),
        ({"torch_dtype": 16}, "torch_dtype = 16 is not text"),
        ({"quantization_config": {"quant_method": "magic"}}, "'magic' is not read: .*--dtype"),
        ({"quantization_config": {"quant_method": "awq", "bits": "4"}}, "bits = '4' is not an integer"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 12}}, "1 to 8 bits"),
        ({"layer_types": ["sideways"] * 32}, "of the kind 'sideways', which is not modelled"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types names 3 layers of 32"),
        ({"quantization_config": 4}, "quantization_config is not a mapping"),
        ({"text_config": []}, "text_config is not a mapping"),
    ],
)
def test_a_hostile_value_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        from_huggingface_config(write(tmp_path, CONFIGS["mixtral-8x7b"] | changes))
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", "[" * 100_000, '{"model_type": ' + "9" * 5000 + "}", '{"model_type": {}}', "{}"],
    ids=["empty", "list", "torn", "null", "deep", "long-number", "mapping", "no-type"],
)
def test_what_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidFile, match=r"config\.json"):
        from_huggingface_config(path)


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(" " * (MAX_CONFIG_BYTES + 1), encoding="utf-8")
    with pytest.raises(InvalidFile, match="at most"):
        from_huggingface_config(path)
