"""Hugging Face configurations: each gives the shipped architecture, and a bad one a clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import architecture_names, load_architecture
from traces.model.configs.huggingface import MAX_CONFIG_BYTES, from_huggingface_config

DESCRIPTIVE = {"name", "sources", "published", "note", "trained_context"}
MADE_UP = {"switch-mini-16", "mixtral-mini-8"}
"""Models of the project's own validation suites have no published configuration."""
TABLED = {"glm-4.5", "hunyuan-a13b", "inkling-small", "laguna-s-2.1", "qwen3-coder-480b-a35b", "step-3.5-flash"}
"""Shipped models whose shapes others table; no whole copy of their config.json was at hand."""

_FILES = Path(__file__).parent
_CASES = {
    "glm-4.5-air": "C14", "glm-5.1": "C12", "minimax-m2.5": "C16", "qwen3-next-80b-a3b": "C23",
    "gemma-4-26b-a4b": "C24", "llama-4-maverick": "C25", "nemotron-3-nano-30b-a3b": "C27",
    "granite-4.0-h-small": "C40", "ernie-4.5-21b-a3b": "C42", "dots.llm1": "C44", "qwen2-57b-a14b": "C33",
    "moonlight-16b-a3b": "C35", "ling-lite": "C45",
}  # fmt: skip


def _published() -> dict[str, dict[str, Any]]:
    """Configurations of the models that ship, by name, as their makers publish them, the fields that decide alone."""
    cases = json.loads((_FILES / "published_configurations.json").read_text("utf-8"))
    shipped: dict[str, dict[str, Any]] = json.loads((_FILES / "shipped_model_configs.json").read_text("utf-8"))
    return shipped | {name: cases[case]["files"]["config.json"] for name, case in _CASES.items()}


CONFIGS = _published()


def write(tmp_path: Path, config: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [name for name in architecture_names() if name not in MADE_UP | TABLED])
def test_the_published_configuration_gives_the_shipped_architecture(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name] | {"rope_theta": 1e6, "architectures": ["Anything"], "_unknown": None}
    imported = load_architecture(write(tmp_path, config))
    shipped = load_architecture(name)
    for field in type(shipped).__dataclass_fields__:
        if field not in DESCRIPTIVE:
            assert getattr(imported, field) == getattr(shipped, field), field
    assert imported.total_params == shipped.total_params
    assert imported.sources


def test_a_configuration_says_how_far_its_sequences_go(tmp_path: Path) -> None:
    said = load_architecture(write(tmp_path, CONFIGS["mixtral-8x7b"] | {"max_position_embeddings": 32_768}))
    assert said.trained_context == load_architecture("mixtral-8x7b").trained_context == 32_768
    assert load_architecture(write(tmp_path, CONFIGS["mixtral-8x7b"])).trained_context == 0


def test_a_gate_of_attention_by_head_is_named_or_said_to_be_there(tmp_path: Path) -> None:
    laguna = {
        "model_type": "laguna", "hidden_size": 3072, "num_hidden_layers": 4, "num_attention_heads": 48,
        "num_key_value_heads": 8, "vocab_size": 100352, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
        "intermediate_size": 64, "head_dim": 128, "mlp_only_layers": [0],
    }  # fmt: skip
    for gating, columns in (("per-head", 48), (True, 48), (False, 0)):
        model = from_huggingface_config(write(tmp_path, laguna | {"gating": gating}))
        assert model.decoder.attention.output_gate == columns
    with pytest.raises(InvalidFile, match="gating"):
        from_huggingface_config(write(tmp_path, laguna | {"gating": "sometimes"}))


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
