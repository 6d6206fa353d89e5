"""Architectures: their counts against published ones, their arithmetic, and what the reader refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pregate.named import load_model
from traces.errors import InvalidFile, InvalidInput, UnknownName
from traces.model.architecture import (
    DTYPES,
    Attention,
    LayerStack,
    ModelArchitecture,
    PublishedCount,
    architecture_names,
    load_architecture,
    parse_architecture,
)

ALL = architecture_names()
UNPUBLISHED = {"switch-base-16", "switch-base-32"}
MADE_UP = {"switch-mini-16", "mixtral-mini-8"}
"""Models of the project's own validation suites; their files say so."""


def tolerance(count: PublishedCount) -> float:
    """2 %, or what the printed digits leave open where the file says so."""
    return max(0.02 * count.value, count.rounding)


def test_total_parameters_match_the_published_count() -> None:
    for name in [name for name in ALL if name not in UNPUBLISHED | MADE_UP]:
        model = load_architecture(name)
        count = model.published.total_params
        assert count is not None, name
        assert model.total_params == pytest.approx(count.value, abs=tolerance(count), rel=0), name


def test_active_parameters_match_the_published_count() -> None:
    for name in [name for name in ALL if name not in MADE_UP and not load_architecture(name).is_encoder_decoder]:
        model = load_architecture(name)
        count = model.published.active_params
        assert count is not None, name
        left_out = 0 if count.counts_input_embedding else model.embedding_params
        assert model.active_params - left_out == pytest.approx(count.value, abs=tolerance(count), rel=0), name


def test_few_published_counts_need_more_than_two_percent() -> None:
    coarse = {
        name
        for name in ALL
        for count in (
            load_architecture(name).published.total_params,
            load_architecture(name).published.active_params,
        )
        if count is not None and count.rounding > 0.02 * count.value
    }
    named = {
        "ernie-4.5-21b-a3b",
        "moonlight-16b-a3b",
        "glm-4.7-flash",
        "qwen3.5-122b-a10b",
        "qwen3.5-397b-a17b",
        "qwen3.6-35b-a3b",
        "qwen3-next-80b-a3b",
        "edge0-8b-a1b",
    }
    whole = {
        "glm-4.5",
        "glm-4.5-air",
        "glm-5.1",
        "glm-5.3-flash",
        "mimo-v2-flash",
        "minimax-m2.5",
        "minimax-m3",
        "granite-4.0-h-small",
        "lfm2-8b-a1b",
        "ling-lite",
        "step-3.5-flash",
    }  # their cards print whole 1e9
    assert coarse == {"deepseek-v2-lite"} | named | whole  # `named`: counted by their names


@pytest.mark.parametrize(
    ("name", "checkpoint_bytes"), [("mixtral-8x7b", 93_405_585_408), ("qwen3-30b-a3b", 61_064_245_248)]
)
def test_bytes_equal_the_checkpoint_index_exactly(name: str, checkpoint_bytes: int) -> None:
    """`metadata.total_size` of the model's model.safetensors.index.json, which is all tensors in bf16."""
    model = load_architecture(name)
    assert 2 * model.total_params == checkpoint_bytes
    experts = model.n_moe_layers * model.n_experts * model.expert_bytes
    assert model.non_expert_bytes + experts == checkpoint_bytes


@pytest.mark.parametrize("name", sorted(UNPUBLISHED))
def test_unpublished_switch_sizes_lie_on_the_line_of_the_published_ones(name: str) -> None:
    model, small, large = (
        load_architecture(name),
        load_architecture("switch-base-8"),
        load_architecture("switch-base-64"),
    )
    assert model.published.total_params is None
    share = (model.n_experts - 8) / (64 - 8)
    assert model.total_params == small.total_params + share * (large.total_params - small.total_params)


@pytest.mark.parametrize(
    ("name", "d_model", "n_moe_layers", "expert_bytes"),
    [
        *((f"switch-base-{n}", 768, 12, 18_874_368) for n in (8, 16, 32, 64, 128, 256)),
        ("switch-large-128", 1024, 24, 33_554_432),
        ("switch-xxl-128", 4096, 24, 503_316_480),
    ],
)
def test_switch_models_have_the_shapes_of_the_pregated_evaluation(
    name: str, d_model: int, n_moe_layers: int, expert_bytes: int
) -> None:
    """Pre-gated MoE (arXiv 2308.12066), evaluation set-up: fp32, top-1, MoE in odd layers."""
    model = load_architecture(name)
    assert model.n_experts == int(name.rsplit("-", 1)[1])
    assert (model.d_model, model.top_k, model.dtype.name) == (d_model, 1, "fp32")
    assert (model.n_moe_layers, model.n_encoder_moe_layers) == (n_moe_layers, n_moe_layers // 2)
    assert model.decoder.moe_layers == tuple(range(1, n_moe_layers, 2))
    assert model.expert_bytes == expert_bytes


def test_gpt_oss_experts_take_four_and_a_quarter_bits_and_bf16_biases() -> None:
    model = load_architecture("gpt-oss-20b")
    weights, biases = 3 * 2880 * 2880, 3 * 2880
    assert model.expert_params == weights + biases
    assert model.expert_bytes == weights * 17 // 32 + 2 * biases


def test_latent_attention_caches_the_latent_and_one_rope_key() -> None:
    """DeepSeek-V3: 512 + 64 numbers in 61 layers, bf16: 70.272 KB a token (arXiv 2505.09343, Table 1)."""
    model = load_architecture("deepseek-v3")
    assert model.decoder.attention.kv_elements_per_token == 576
    assert model.kv_bytes_per_token == 70_272


def test_grouped_query_attention_caches_two_vectors_for_each_kv_head() -> None:
    model = load_architecture("mixtral-8x7b")
    assert model.kv_bytes_per_token == 32 * 2 * 8 * 128 * 2
    assert model.cross_kv_bytes_per_token == 0


def test_cross_attention_caches_as_much_for_an_encoder_token() -> None:
    model = load_architecture("switch-base-8")
    assert model.cross_kv_bytes_per_token == model.kv_bytes_per_token == 12 * 2 * 768 * 4


def test_latent_attention_gemm_shapes_follow_the_paper() -> None:
    """DeepSeek-V2 (arXiv 2405.04434), section 2.1, with the widths of DeepSeek-V3."""
    assert load_architecture("deepseek-v3").decoder.attention.gemm_shapes(7168) == (
        (1536, 7168),
        (128 * 192, 1536),
        (576, 7168),
        (128 * 256, 512),
        (7168, 128 * 128),
    )


@pytest.mark.parametrize("name", ALL)
def test_written_yaml_reads_back_equal(name: str) -> None:
    model = load_architecture(name)
    again = parse_architecture(model.to_yaml(), "written.yaml")
    assert again == model
    assert hash(again) == hash(model)


@pytest.mark.parametrize("name", ALL)
def test_every_shipped_file_is_named_after_its_model_and_states_sources(name: str) -> None:
    model = load_architecture(name)
    assert model.name == name
    assert any("config.json" in source for source in model.sources)
    for count in (model.published.total_params, model.published.active_params):
        assert count is None or count.source


def test_a_field_cannot_be_changed() -> None:
    model = load_architecture("switch-base-8")
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.top_k = 2  # type: ignore[misc]


def test_half_precision_halves_every_byte_count() -> None:
    full, half = load_architecture("switch-base-8"), load_architecture("switch-base-8").with_dtype("fp16")
    assert 2 * half.expert_bytes == full.expert_bytes
    assert 2 * half.non_expert_bytes == full.non_expert_bytes
    assert 2 * half.kv_bytes_per_token == full.kv_bytes_per_token
    assert half.total_params == full.total_params


def test_four_bit_weights_leave_the_kv_cache_as_it_was() -> None:
    full, small = load_architecture("mixtral-8x7b"), load_architecture("mixtral-8x7b").with_dtype("mxfp4")
    assert small.kv_bytes_per_token == full.kv_bytes_per_token
    assert small.expert_bytes * 16 == full.expert_bytes * 4.25


def test_changing_to_a_format_and_back_is_the_same_model() -> None:
    model = load_architecture("mixtral-8x7b")
    assert model.with_dtype("fp8").with_dtype("bf16") == model


def test_one_more_expert_a_token_adds_one_expert_a_moe_layer() -> None:
    model = load_architecture("mixtral-8x7b")
    more = model.with_top_k(3)
    assert more.active_params - model.active_params == 32 * model.expert_params
    assert more.published.active_params is None
    assert model.with_top_k(2) == model


def test_more_experts_a_token_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidInput, match="top_k = 9, expected 1 to 8"):
        load_architecture("mixtral-8x7b").with_top_k(9)


def test_a_misspelt_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'mixtral-8x7'.*did you mean 'mixtral-8x7b'"):
        load_architecture("mixtral-8x7")


def test_a_misspelt_dtype_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'fp16'"):
        load_architecture("mixtral-8x7b").with_dtype("fp61")


def test_an_own_file_loads_by_its_path(tmp_path: Path) -> None:
    model = dataclasses.replace(load_architecture("olmoe-1b-7b"), name="mine")
    path = tmp_path / "mine.yaml"
    path.write_text(model.to_yaml(), encoding="utf-8")
    assert load_architecture(path) == model
    assert load_architecture(str(path)) == model


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"nowhere\.yaml: cannot be read"):
        load_architecture(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("top_k: 2", "top_kk: 2", "key 'top_k' is missing"),
        ("vocab_size: 32000", "vocab_size: 32000\nvocab_sizes: 1", "unknown key 'vocab_sizes'.*'vocab_size'"),
        ("top_k: 2", "top_k: two", "top_k = 'two' is not an integer"),
        ("top_k: 2", "top_k: 0", "top_k = 0, expected 1 to 8"),
        ("n_experts: 8", "n_experts: 5000", "n_experts = 5000, expected 1 to 4096"),
        ("tied_embeddings: false", "", "key 'tied_embeddings' is missing"),
        ("dtype: bf16\nexpert", "dtype: bf61\nexpert", "unknown dtype 'bf61'.*'bf16'"),
        ("dtype: bf16\nexpert", "dtype: fp8\nexpert", "fp8 needs an activation_dtype"),
        ("{first: 0, step: 1}", "{first: 0, step: 0}", "step = 0 is below 1"),
        ("{first: 0, step: 1}", "[0, 1, 1]", "1 after 1, expected strictly increasing"),
        ("{first: 0, step: 1}", "[0, 32]", "32 after 0.*below n_layers = 32"),
        ("{first: 0, step: 1}", "[0, true]", "not an integer"),
        ("{first: 0, step: 1}", "all", "neither a list nor a mapping"),
        ("n_layers: 32", "n_layers: 1000000000000", "n_layers = 1000000000000, expected 1 to 1024"),
        ("d_ff_dense: 0", "d_ff_dense: 7", "every layer is MoE: write 0"),
        ("n_kv_heads: 8", "n_kv_heads: 5", "not a multiple of n_kv_heads = 5"),
        ("kind: gqa", "kind: gqaa", "unknown attention kind 'gqaa'.*'gqa'"),
        ("kind: gqa", "kind: mha", "mha with 8 KV heads"),
        ("kind: gqa", "kind: mla", "kv_lora_rank = 0"),
        ("head_dim: 128", "head_dim: 128\n    kv_lora_rank: 64", "no low-rank fields"),
        ("    value: 46.7e9", "    value: -1", "published count -1"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_it(old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[4] / "traces/model/architectures/mixtral-8x7b.yaml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(InvalidInput, match=message) as caught:
        parse_architecture(text.replace(old, new, 1), "broken.yaml")
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_sources_is_refused() -> None:
    model = dataclasses.replace(load_architecture("mixtral-8x7b"), sources=())
    with pytest.raises(InvalidFile, match="'sources' is missing"):
        parse_architecture(model.to_yaml(), "x.yaml")


def tiny(**changes: object) -> ModelArchitecture:
    fields: dict[str, object] = {
        "name": "tiny",
        "d_model": 4,
        "vocab_size": 10,
        "tied_embeddings": True,
        "decoder": LayerStack(2, (1,), Attention("mha", 2, 2, 2), False, 8, 2),
        "n_experts": 3,
        "top_k": 1,
        "d_ff_expert": 6,
        "n_expert_matrices": 2,
        "dtype": DTYPES["fp32"],
        "expert_dtype": DTYPES["fp32"],
    }
    return ModelArchitecture(**(fields | changes))  # type: ignore[arg-type]


def test_counts_of_a_model_small_enough_to_count_by_hand() -> None:
    model = tiny()
    attention, dense, norms, gate, embedding = 4 * 4 * 4, 2 * 4 * 8, 4, 4 * 3, 10 * 4
    assert model.expert_params == 2 * 4 * 6
    assert model.non_expert_params == 2 * attention + dense + 5 * norms + gate + embedding
    assert model.total_params == model.non_expert_params + 3 * 48
    assert model.active_params == model.non_expert_params + 48
    assert tiny(tied_embeddings=False).total_params == model.total_params + embedding


def test_cross_attention_needs_an_encoder() -> None:
    with pytest.raises(InvalidInput, match="cross-attention without an encoder"):
        tiny(decoder=LayerStack(2, (1,), Attention("mha", 2, 2, 2), True, 8, 2))


def test_a_model_without_moe_layers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no MoE layer"):
        tiny(decoder=LayerStack(2, (), Attention("mha", 2, 2, 2), False, 8, 2))


def test_a_name_says_how_many_experts_a_token_takes() -> None:
    six = load_model("deepseek-v3?top_k=6")
    assert six == load_model("deepseek-v3", top_k=6)
    assert six.top_k == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deepseek-v3?top_k=0", "top_k"), ("deepseek-v3?top_k=999", "256"), ("deepseek-v3?experts=6", r"\?top_k=N"),
        ("deepseek-v3?", r"\?top_k=N"), ("deepseek-w3?top_k=6", "deepseek-v3"),
        ("deepseek-v3?top_k=\N{ARABIC-INDIC DIGIT TWO}", r"\?top_k=N"),
    ],
)  # fmt: skip
def test_what_else_follows_a_name_is_refused(name: str, words: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match=words):
        load_model(name)


def test_a_name_and_an_option_for_the_experts_of_a_token_are_one_too_many() -> None:
    with pytest.raises(InvalidInput, match="give one of the two"):
        load_model("deepseek-v3?top_k=6", top_k=6)
