"""A card's share of a model whose layers several share: counted by hand, and all shares together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offload.decoding.work_rows import works_of
from offload.work import self_attention_work
from pregate.named import load_model
from traces.errors import InvalidInput
from traces.model.architecture import Attention, ModelArchitecture
from traces.model.tensor_parallel import sharded


def test_mixtral_on_two_cards_by_hand() -> None:
    whole = load_model("mixtral-8x7b")
    half = sharded(whole, 2)
    attention = half.decoder.attention
    assert (attention.n_heads, attention.n_kv_heads, attention.head_dim) == (16, 4, 128)
    assert (half.d_ff_expert, half.vocab_size, half.d_model) == (7168, 16000, 4096)
    assert 2 * half.expert_bytes == whole.expert_bytes
    assert 2 * half.kv_bytes_per_token == whole.kv_bytes_per_token
    gates = whole.n_moe_layers * whole.gate_params
    norms = (2 * whole.decoder.n_layers + 1) * whole.d_model
    assert 2 * half.total_params - whole.total_params == gates + norms, "gates and norms are on both cards"


@pytest.mark.parametrize(("n_cards", "n_kv_heads"), [(1, 4), (2, 2), (4, 1), (8, 1), (16, 1)])
def test_keys_and_values_of_fewer_heads_than_cards_are_on_several(n_cards: int, n_kv_heads: int) -> None:
    assert sharded(load_model("qwen3-30b-a3b"), n_cards).decoder.attention.n_kv_heads == n_kv_heads


def test_latents_are_on_every_card_and_their_heads_are_shared() -> None:
    whole = load_model("deepseek-v2-lite")
    part = sharded(whole, 4)
    assert part.kv_bytes_per_token == whole.kv_bytes_per_token
    assert 4 * part.decoder.attention.n_heads == whole.decoder.attention.n_heads
    assert part.decoder.attention.kv_lora_rank == whole.decoder.attention.kv_lora_rank
    assert 4 * part.decoder.d_ff_dense == whole.decoder.d_ff_dense
    assert 4 * part.d_ff_shared == whole.d_ff_shared


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-120b", "olmoe-1b-7b"])
@pytest.mark.parametrize("n_cards", [2, 4])
def test_cards_together_multiply_what_one_would(name: str, n_cards: int) -> None:
    whole = load_model(name)
    part = sharded(whole, n_cards)
    for make in (
        lambda model: works_of(model, 0).single(3),
        lambda model: works_of(model, 0).grouped(0, (1, 2, 5)),
        lambda model: self_attention_work(model, model.decoder, 5, 100, 300),
    ):
        assert n_cards * make(part).total_flop == make(whole).total_flop
        assert n_cards * make(part).weight_bytes == make(whole).weight_bytes
    assert works_of(part, 0).gate(3) == works_of(whole, 0).gate(3)


def test_a_vocabulary_is_filled_up_to_a_multiple_of_64() -> None:
    model = replace(load_model("mixtral-8x7b"), vocab_size=32001)
    assert sharded(model, 4).vocab_size == 8016


def test_linear_mixers_are_shared_by_their_heads() -> None:
    whole = load_model("qwen3-next-80b-a3b")
    part = sharded(whole, 2)
    ones, others = (model.decoder.mixers[0] for model in (whole, part))
    assert [n for n, _ in others.gemm_shapes(0)[:-1]] == [n // 2 for n, _ in ones.gemm_shapes(0)[:-1]]
    assert 2 * others.gemm_shapes(0)[-1][1] == ones.gemm_shapes(0)[-1][1]
    assert 2 * part.state_bytes_per_sequence == pytest.approx(whole.state_bytes_per_sequence, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "n_cards", "told"),
    [
        ("mixtral-8x7b", 3, "32 heads of attention cannot be shared evenly by 3 cards"),
        ("switch-base-8", 2, "encoder-decoder are not shared"),
        ("gpt-oss-120b", 7, "cannot be shared evenly by 7 cards"),
    ],
)
def test_what_cannot_be_shared_evenly_is_refused(model: str, n_cards: int, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        sharded(load_model(model), n_cards)


def test_parts_of_a_block_of_a_format_are_refused_where_vllm_refuses_them() -> None:
    """Qwen3-235B-A22B-FP8 on eight cards: 1,536 hidden units of an expert over 8 are a block and a half."""
    model = load_model("qwen3-235b-a22b").with_formats({"all": "fp8-b128"})
    with pytest.raises(InvalidInput, match=r"a card's 192 of 1536 hidden units of an expert .*experts=whole"):
        sharded(model, 8)
    assert sharded(model, 8, expert_groups=8).d_ff_expert == 1536
    assert sharded(model, 4).d_ff_expert == 384
    assert sharded(load_model("qwen3-235b-a22b"), 8).d_ff_expert == 192


def test_heads_of_keys_that_lie_unevenly_are_refused() -> None:
    model: ModelArchitecture = load_model("mixtral-8x7b")
    odd = replace(model.decoder, attention=Attention("gqa", n_heads=36, n_kv_heads=6, head_dim=128))
    with pytest.raises(InvalidInput, match="6 heads of keys and values cannot"):
        sharded(replace(model, decoder=odd), 4)
    with pytest.raises(InvalidInput, match=r"^mixtral-8x7b: 6 heads of keys.* take a number of cards"):
        sharded(replace(model, decoder=odd), 9)
