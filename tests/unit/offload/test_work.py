"""What each op moves and multiplies, counted by hand for small numbers."""

from __future__ import annotations

import dataclasses

import pytest

from offload import ffn_work, work
from offload.ops import Attending, FusedExperts, Gemm, OpKind, Work
from traces.model.architecture import DTYPES, Attention, LayerStack, ModelArchitecture, load_architecture
from traces.model.linear_mixer import LinearMixer


def small(**changes: object) -> ModelArchitecture:
    """d_model 8, 2 heads of 4 with one KV head; 4 experts of width 6, three matrices; bf16."""
    attention = Attention("gqa", n_heads=2, n_kv_heads=1, head_dim=4)
    fields: dict[str, object] = {
        "name": "by-hand", "d_model": 8, "vocab_size": 10, "tied_embeddings": False,
        "decoder": LayerStack(2, (1,), attention, False, d_ff_dense=12, n_dense_matrices=3),
        "n_experts": 4, "top_k": 2, "d_ff_expert": 6, "n_expert_matrices": 3,
        "dtype": DTYPES["bf16"], "expert_dtype": DTYPES["bf16"], "sources": ("by hand",),
    }  # fmt: skip
    return ModelArchitecture(**(fields | changes))  # type: ignore[arg-type]


MODEL = small()


def test_self_attention_of_a_prompt() -> None:
    """Three tokens of one sequence: pairs 1 + 2 + 3, a cache of three read once."""
    what = work.self_attention_work(MODEL, MODEL.decoder, 3, 3, 6)
    assert what.gemms == (Gemm(3, 8, 8), Gemm(3, 4, 8), Gemm(3, 4, 8), Gemm(3, 8, 8))
    assert what.flop == 6 * 2 * (2 * 4 + 2 * 4)  # pairs x heads x (scores + values, 2 FLOP a multiply-add)
    assert what.hbm_bytes == 3 * (4 + 4) * 2  # tokens x (key + value of one head) x bf16
    assert what.weight_bytes == (64 + 32 + 32 + 64) * 2


def test_latent_attention_reads_latents_and_scores_over_them() -> None:
    latent = Attention(
        "mla", n_heads=2, n_kv_heads=2, head_dim=6, kv_lora_rank=5, qk_nope_dim=4, qk_rope_dim=2, v_head_dim=3
    )
    model = small(decoder=LayerStack(2, (1,), latent, False, d_ff_dense=12, n_dense_matrices=3))
    what = work.self_attention_work(model, model.decoder, 1, 7, 7)
    assert what.gemms == (Gemm(1, 12, 8), Gemm(1, 7, 8), Gemm(1, 14, 5), Gemm(1, 8, 6))
    assert what.flop == 7 * 2 * 2 * ((5 + 2) + 5)  # pairs x heads x (key width + value width) multiply-adds
    assert what.hbm_bytes == 7 * (5 + 2) * 2


LATENT = Attention(
    "mla", n_heads=2, n_kv_heads=2, head_dim=6, kv_lora_rank=5, qk_nope_dim=4, qk_rope_dim=2, v_head_dim=3
)


def test_a_prompt_of_latents_is_decompressed_over_its_whole_context() -> None:
    """Three new tokens after four: keys and values of seven are made, written, read; scores are as wide as a head."""
    model = small(decoder=LayerStack(2, (1,), LATENT, False, d_ff_dense=12, n_dense_matrices=3))
    what = work.self_attention_work(model, model.decoder, 3, 7, 18, n_sequences=1, made_moves=2.0)
    assert what.gemms == (Gemm(3, 12, 8), Gemm(3, 7, 8), Gemm(7, 14, 5), Gemm(3, 8, 6))
    assert what.flop == 18 * 2 * 2 * (6 + 3)
    token_bytes = (5 + 2) * 2 + 2 * 2 * (6 + 3) * 2  # the latent, and twice two heads of a key and a value in bf16
    assert what.hbm_bytes == 7 * token_bytes
    assert what.attending == Attending(3, 1, 2, 2, 6, 3, token_bytes, made_share=(14 + 36) / 86)  # but read once
    moved = work.self_attention_work(model, model.decoder, 3, 7, 18, n_sequences=1, made_moves=5.0)
    assert moved.hbm_bytes == 7 * (14 + 5 * 36)
    assert moved.attending == Attending(3, 1, 2, 2, 6, 3, 14 + 5 * 36, made_share=(14 + 4 * 36) / (14 + 5 * 36))
    on_host = work.cpu_layer_work(model, moved)
    assert on_host.attending == moved.attending
    absorbed = work.self_attention_work(model, model.decoder, 2, 9, 9, n_sequences=2)
    assert absorbed.attending == Attending(2, 2, 2, 1, 5 + 2, 5, 14.0)
    assert work.cpu_layer_work(model, absorbed).attending is None


def test_only_latents_without_an_indexer_are_decompressed() -> None:
    indexed = dataclasses.replace(LATENT, index_heads=3, index_dim=2, index_topk=2)
    for attention in (indexed, MODEL.decoder.attention):
        model = small(decoder=LayerStack(2, (1,), attention, False, d_ff_dense=12, n_dense_matrices=3))
        both = (work.mixer_work(model, attention, 3, 5, 6, made_moves=it) for it in (2.0, 0.0))
        assert next(both) == next(both)


def test_experts_of_one_op_say_how_many_they_are_and_which_products_are_theirs() -> None:
    what = ffn_work.experts_work(OF_SEVEN_FORMATS, [2, 1, 2], 3, fused=True)
    assert what.fused == FusedExperts(n_experts=3, n_rows=5, n_gemms=4, n_tokens=3)
    assert what._replace(fused=None) == ffn_work.experts_work(OF_SEVEN_FORMATS, [2, 1, 2], 3)
    assert ffn_work.experts_work(OF_SEVEN_FORMATS, (), 3, fused=True).fused is None  # shared experts alone


def test_latent_attention_of_deepseek_v2_lite_is_what_was_executed() -> None:
    """512 cached tokens, one new: 17.83 MFLOP of scores, counted by PyTorch in the runtime."""
    model = load_architecture("deepseek-v2-lite")
    what = work.self_attention_work(model, model.decoder, 1, 512, 512)
    assert what.flop == pytest.approx(17.83e6, rel=1e-3)


def test_cross_attention_projects_the_memory_once() -> None:
    attention = Attention("mha", n_heads=2, n_kv_heads=2, head_dim=4)
    stack = LayerStack(2, (1,), attention, True, d_ff_dense=12, n_dense_matrices=2)
    model = small(decoder=stack, encoder=LayerStack(1, (), attention, False, d_ff_dense=12, n_dense_matrices=2))
    first, later = (work.cross_attention_work(model, stack, 1, 9, fresh) for fresh in (9, 0))
    assert first.gemms == (Gemm(1, 8, 8), Gemm(1, 8, 8), Gemm(9, 8, 8), Gemm(9, 8, 8))
    assert later.gemms == (Gemm(1, 8, 8), Gemm(1, 8, 8))
    assert first.flop == later.flop == 9 * 2 * 16
    assert first.hbm_bytes == later.hbm_bytes == 9 * 16 * 2


def test_gate_head_and_dense_layer() -> None:
    gate = work.gate_work(MODEL, 3)
    assert gate.gemms == (Gemm(3, 4, 8),)
    assert gate.hbm_bytes == 2 * 3 * 2 * 8 * 2  # read and written: tokens x top-2 rows of d_model in bf16
    head = work.head_work(MODEL, 2)
    assert head.gemms == (Gemm(2, 10, 8),)
    assert head.hbm_bytes == 2 * 2 * 10 * 2  # logits written and read
    dense = ffn_work.dense_ffn_work(MODEL, MODEL.decoder, 3)
    assert dense.gemms == (Gemm(3, 12, 8, 2), Gemm(3, 8, 12))


def test_experts_and_what_moves_of_them() -> None:
    what = ffn_work.experts_work(MODEL, [1, 2, 1], slots_bytes=99)
    assert what.gemms == (Gemm(1, 6, 8, 4), Gemm(1, 8, 6, 2), Gemm(2, 6, 8, 2), Gemm(2, 8, 6, 1))
    assert what.weight_bytes == 3 * 3 * 48 * 2
    assert what.slots_bytes == 99
    fetch = work.expert_copy_work(MODEL, OpKind.FETCH)
    assert (fetch.copy_bytes, fetch.gemms) == (3 * 48 * 2, ())
    assert work.readback_work(6).copy_bytes == 24
    shared = ffn_work.experts_work(small(n_shared_experts=2, d_ff_shared=5), (), 3, slots_bytes=99)
    assert shared.gemms == (Gemm(3, 5, 8, 4), Gemm(3, 8, 5, 2))
    assert shared.slots_bytes == 0


def test_a_linear_mixer_reads_and_writes_a_state_a_sequence() -> None:
    mixer = LinearMixer("gated_delta_net", ((12, 8), (8, 4)), vectors=0, state_elements=30, flop_per_token=70)
    what = work.mixer_work(MODEL, mixer, 3, 5, 7, n_sequences=2)
    assert what.gemms == (Gemm(3, 12, 8), Gemm(3, 8, 4))
    assert what.flop == 3 * 70  # of the new tokens: nothing grows with the context
    assert what.hbm_bytes == 2 * 2 * 30 * 4  # read and written, two sequences, fp32


def test_experts_and_shared_experts_of_two_formats_weigh_what_they_store() -> None:
    model = small(n_shared_experts=1, d_ff_shared=5, expert_dtype=DTYPES["fp8"], shared_dtype=DTYPES["bf16"])
    what = ffn_work.experts_work(model, [1, 2], 3)
    assert what.weight_bytes == pytest.approx(2 * 3 * 48 * 1 + 3 * 40 * 2)


OF_SEVEN_FORMATS = small(
    dtype=DTYPES["fp16"], expert_dtype=DTYPES["fp8"], activation_dtype=DTYPES["bf16"], attention_dtype=DTYPES["mxfp8"],
    shared_dtype=DTYPES["nvfp4"], kv_dtype=DTYPES["int8"], head_dtype=DTYPES["nf4"], n_shared_experts=2, d_ff_shared=5,
    d_expert=6,
)  # fmt: skip
"""bf16 activations, and each part of the weights in a format of its own; experts read and write 6 numbers a token."""


def test_every_op_is_of_its_kind_reads_what_is_stored_and_multiplies_in_its_format() -> None:
    model = OF_SEVEN_FORMATS
    attention, dense = model.decoder.attention, model.decoder
    projections = ((8, 8), (4, 8), (4, 8), (8, 8))
    assert work.self_attention_work(model, dense, 3, 5, 6) == Work(
        OpKind.SELF_ATTENTION, tuple(Gemm(3, n, k) for n, k in projections), "fp8", 8.25,
        flop=6 * 32, hbm_bytes=5 * 8, flop_compute="bf16", attending=Attending(3, 1, 2, 1, 4, 4, 8.0),
    )  # fmt: skip
    assert work.mixer_work(model, attention, 3, 5, 6) == work.self_attention_work(model, dense, 3, 5, 6)
    assert work.cross_attention_work(model, dense, 3, 5, 0) == Work(
        OpKind.CROSS_ATTENTION, (Gemm(3, 8, 8), Gemm(3, 8, 8)), "fp8", 8.25,
        flop=5 * 32, hbm_bytes=5 * 8, flop_compute="bf16", attending=Attending(3, 1, 2, 1, 4, 4, 8.0),
    )  # fmt: skip
    around = (Gemm(3, 6, 8), Gemm(3, 8, 6))  # to the width of experts, and back
    assert work.gate_work(model, 3) == Work(
        OpKind.GATE, (Gemm(3, 4, 8), *around), "bf16", 16.0, hbm_bytes=2 * 3 * 2 * 6 * 2
    )
    assert ffn_work.experts_work(model, [2]) == Work(OpKind.EXPERTS, (Gemm(2, 6, 6, 2), Gemm(2, 6, 6)), "fp8", 8.0)
    assert ffn_work.experts_work(model, (), 3) == Work(
        OpKind.EXPERTS, (Gemm(3, 5, 8, 4), Gemm(3, 8, 5, 2)), "bf16", 4.5
    )  # fmt: skip
    assert ffn_work.dense_ffn_work(model, dense, 3) == Work(
        OpKind.DENSE_FFN, (Gemm(3, 12, 8, 2), Gemm(3, 8, 12)), "fp16", 16.0
    )
    assert work.head_work(model, 2) == Work(OpKind.HEAD, (Gemm(2, 10, 8),), "bf16", 4.127, hbm_bytes=2 * 2 * 10 * 2)
    for kind in (OpKind.FETCH, OpKind.STAGE, OpKind.DISK_READ):
        assert work.expert_copy_work(model, kind) == Work(kind, weight_bits=8.0, copy_bytes=3 * 6 * 6)
    assert work.readback_work(6) == Work(OpKind.READBACK, copy_bytes=24)


def test_routed_and_shared_experts_of_two_formats_have_the_mean_of_their_bits() -> None:
    """Three matrices of 6 x 6 in each of three experts at 8 bits, three of 5 x 8 in each of two at 4.5."""
    what = ffn_work.experts_work(OF_SEVEN_FORMATS, [2, 2, 2], 3)
    n_routed, n_shared = 3 * 3 * 36, 2 * 3 * 40
    assert what.weight_bits == pytest.approx((n_routed * 8 + n_shared * 4.5) / (n_routed + n_shared))
    assert what.gemms == (Gemm(2, 6, 6, 6), Gemm(2, 6, 6, 3), Gemm(3, 5, 8, 4), Gemm(3, 8, 5, 2))
    assert what.compute == "fp8"


def test_shared_experts_run_on_the_tokens_that_they_are_given() -> None:
    alone = ffn_work.experts_work(OF_SEVEN_FORMATS, [2], 0)
    assert alone.gemms == ffn_work.experts_work(OF_SEVEN_FORMATS, [2]).gemms == (Gemm(2, 6, 6, 2), Gemm(2, 6, 6))
    assert ffn_work.experts_work(MODEL, [2], 3).gemms == (Gemm(2, 6, 8, 2), Gemm(2, 8, 6))  # it has none
    assert ffn_work.experts_work(MODEL, [2]).slots_bytes == 0


def test_an_indexer_scores_the_whole_context_and_attention_what_it_chose() -> None:
    chosen = Attention("gqa", n_heads=2, n_kv_heads=1, head_dim=4, index_heads=3, index_dim=2, index_topk=2)
    model = small(decoder=LayerStack(2, (1,), chosen, False, d_ff_dense=12, n_dense_matrices=3))
    what = work.mixer_work(model, chosen, 1, 2, 2, context_pairs=9)
    assert what.flop == 2 * 32 + 9 * 2 * 3 * 2
    assert work.mixer_work(model, chosen, 1, 2, 2).flop == 2 * 32


def test_a_linear_mixer_of_one_sequence_unless_more_are_said() -> None:
    mixer = LinearMixer("gated_delta_net", ((12, 8), (8, 4)), vectors=0, state_elements=30, flop_per_token=70)
    assert work.mixer_work(MODEL, mixer, 1, 5, 7).hbm_bytes == 2 * 30 * 4


def test_what_crosses_between_device_and_host_is_activations_and_weights_in_passing() -> None:
    """Rows of eight bf16 numbers a token."""
    model = OF_SEVEN_FORMATS
    assert work.activation_row_bytes(model) == 16
    assert work.handover_work(model, 3) == Work(OpKind.HANDOVER, copy_bytes=48)
    assert work.return_work(model, 3) == Work(OpKind.RETURN, copy_bytes=48)
    assert work.stream_work(99) == Work(OpKind.STREAM, copy_bytes=99)


def test_the_host_computes_what_the_device_would_from_memory_of_its_own() -> None:
    experts = ffn_work.experts_work(OF_SEVEN_FORMATS, [2], slots_bytes=77)
    assert work.cpu_layer_work(OF_SEVEN_FORMATS, experts) == experts._replace(
        kind=OpKind.CPU_LAYER, slots_bytes=0, stored="nvfp4"
    )
    assert work.cpu_expert_work(OF_SEVEN_FORMATS, 2) == Work(
        OpKind.CPU_EXPERT, (Gemm(2, 6, 6, 2), Gemm(2, 6, 6)), "fp8", 8.0
    )


def test_the_host_is_told_which_format_its_cores_unpack() -> None:
    """A mix by its shares; nothing of weights that are multiplied as they are stored, nor of an op without any."""
    model = load_architecture("qwen3-30b-a3b").with_formats({"all": "iq3_xs", "gates": "fp32", "head": "bf16"})
    assert work.cpu_expert_work(model, 1).stored == model.expert_dtype.name == "iq3_s*0.5+iq3_xxs*0.5"
    mixing = work.mixer_work(model, model.decoder.attention, 1, 8, 8)
    assert work.cpu_layer_work(model, mixing).stored == model.stored_attention_dtype.name
    assert work.cpu_layer_work(model, mixing._replace(gemms=())).stored == ""
    assert work.cpu_layer_work(model, work.gate_work(model, 1)).stored == ""
    assert work.cpu_layer_work(model, work.head_work(model, 1)).stored == ""
