"""Parameter counts against the model's own classes in transformers, built on the meta device: no weights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.grids import some_of
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import load_architecture

torch = pytest.importorskip("torch", reason="models are built with PyTorch (the extra 'runtime')")
transformers = pytest.importorskip("transformers", reason="counts are held against transformers (the extra 'hf')")

from transformers import CONFIG_MAPPING  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

OTHER_MODALITIES = re.compile(r"vision|visual|audio|multi_modal|projector|patch|image|resampler|mtp")

CHANGES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "diffusion_gemma": {
        "text_config": {"num_experts": 16, "top_k_experts": 4, "moe_intermediate_size": 512, "num_hidden_layers": 12}
    },
    "dots1": {"n_routed_experts": 32, "n_shared_experts": 2, "num_experts_per_tok": 6, "num_hidden_layers": 6},
    "hunyuan_v1_moe": {"num_experts": 8, "moe_topk": 2, "head_dim": 128, "num_hidden_layers": 4},
    "qwen4_exp_text": {
        "num_hidden_layers": 4,
        "eos_token_id": 1,
        "ple_layer_ids": [2],
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_budget": 2048,
        "indexer_head_dim": 256,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 100_000,
    },
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2, "num_hidden_layers": 6},
}
"""What a class's defaults leave out."""

TYPES = (
    "afmoe", "aria", "axk1", "axk2", "beam", "bailing_hybrid", "cohere2_moe", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "deepseek_v4", "diffusion_gemma", "dots1", "ernie4_5_moe", "ernie4_5_vl_moe", "exaone_moe",
    "flex_olmo", "flint", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm5_next", "glm_moe_dsa", "gpt_oss",
    "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4",
    "hy_v4_vl", "inkling2", "inkling2_loop", "inkling_text", "jamba", "jetmoe", "kimi_linear", "kolibri1",
    "laguna", "lara_mini", "lfm2_moe", "llama4_text", "mellum", "mimo_v2_flash", "minimax", "minimax_m2",
    "minimax_m3_vl", "mistral4", "mistral_large4", "mixtral", "muse_spark", "nemotron_h", "nllb-moe", "olmoe",
    "phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_thinker", "qwen3_vl_moe",
    "qwen4_exp_text", "sarvam_mla", "sarvam_moe", "solar_open", "step3p7", "switch_transformers", "unlimited_ocr",
    "zaya",
)  # fmt: skip

NOT_READ = {
    "doge": "is dense, it has no experts",  # unless is_moe says otherwise
}

MAPPINGS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)


def config_of(model_type: str) -> Any:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    return CONFIG_MAPPING[model_type](**CHANGES.get(model_type, {}))


def read(config: Any, folder: Path) -> Any:
    path = folder / "config.json"
    path.write_text(json.dumps(config.to_dict(), default=str))
    return load_architecture(path)


@pytest.fixture(autouse=True)
def no_drawn_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are made with no values drawn for them, which are only counted."""
    for kind in (torch.nn.Linear, torch.nn.Embedding):
        monkeypatch.setattr(kind, "reset_parameters", lambda layer: None)


EXPERTS = re.compile(r"(^|\.)experts\.(?!.*shared)")
UNNAMED_EXPERTS = {"jetmoe"}
"""Types whose tensors do not say which are of experts."""


def language_params(config: Any) -> dict[str, int]:
    """Parameters of each tensor of the language model as its own class makes it, each tensor once."""
    kind = next(mapping[type(config)] for mapping in MAPPINGS if type(config) in mapping)
    kind = kind[0] if isinstance(kind, tuple) else kind
    with torch.device("meta"):
        model = kind._from_config(config)
    named = {id(p): (name, p) for name, p in reversed(list(model.named_parameters()))}
    return {name: p.numel() for name, p in named.values() if not OTHER_MODALITIES.search(name)}


@pytest.mark.parametrize("model_type", TYPES)
def test_the_fields_give_the_parameters_of_the_class(model_type: str, tmp_path: Path) -> None:
    config = config_of(model_type)
    found, of_class = read(config, tmp_path), language_params(config)
    assert found.total_params == pytest.approx(sum(of_class.values()), rel=0.005)
    if model_type not in UNNAMED_EXPERTS:
        experts = sum(n for name, n in of_class.items() if EXPERTS.search(name))
        assert found.n_moe_layers * found.n_experts * found.expert_params == pytest.approx(experts, rel=0.002)


@pytest.mark.parametrize("model_type", NOT_READ)
def test_what_is_not_modelled_is_refused_in_one_line(model_type: str, tmp_path: Path) -> None:
    config = config_of(model_type)
    with pytest.raises(InvalidFile, match=NOT_READ[model_type]) as caught:
        read(config, tmp_path)
    assert "\n" not in str(caught.value)


def test_experts_of_one_row_are_not_modelled(tmp_path: Path) -> None:
    config = config_of("doge")
    config.is_moe = True
    with pytest.raises(InvalidFile, match="single rows of two tables, looked up by product keys"):
        read(config, tmp_path)


def test_longcat_counts_the_experts_that_exist(tmp_path: Path) -> None:
    """Its class in transformers also makes matrices for the experts that compute nothing; 560 B are published."""
    assert read(config_of("longcat_flash"), tmp_path).total_params == pytest.approx(560e9, rel=0.005)


NOT_SHAPES = {"model_type", "text_config", "architectures", "dtype", "torch_dtype"}
STATED = {
    "layer_types", "n_routed_experts", "n_shared_experts", "text_config.moe_intermediate_size", "ple_layer_ids",
    "indexer_n_heads", "indexer_head_dim", "indexer_budget", "ngram_vocab_size_base",
}  # fmt: skip
SAID_BY_CHANGES = {
    model_type: STATED & {*changes, *(f"text_config.{key}" for key in changes.get("text_config", ()))}
    for model_type, changes in CHANGES.items()
}
"""What is no default of the class, as `CHANGES` states it."""


def without_each_key(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key of the whole and of its language model, with a document that lacks it."""
    for key, item in document.items():
        rest = {name: value for name, value in document.items() if name != key}
        if key not in NOT_SHAPES:
            yield key, rest
        elif key == "text_config" and isinstance(item, dict):
            yield from ((f"{key}.{inner}", rest | {key: text}) for inner, text in without_each_key(item))


@pytest.mark.parametrize("model_type", some_of(TYPES, TYPES[::3]))
def test_a_key_that_is_not_stated_is_as_the_class_assumes_or_asked_for(model_type: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    document = json.loads(json.dumps(config_of(model_type).to_dict(), default=str))

    def model(of: dict[str, Any]) -> Any:
        path.write_text(json.dumps(of))
        # A context that is not stated is not told: no count depends on it.
        return dataclasses.replace(load_architecture(path), note="", trained_context=0)

    whole = model(document)
    others = []
    for key, rest in without_each_key(document):
        try:
            found = model(rest)
        except InvalidInput:
            continue
        if found != whole and key not in SAID_BY_CHANGES.get(model_type, ()):
            others.append(key)
    assert not others
