"""Families of models in GGUF files, read by their tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from traces.model.architecture import load_architecture, parse_architecture
from traces.model.attention import Attention

gguf = pytest.importorskip("gguf", reason="the oracle of GGUF files is not installed")
from tests.gguf_files import DIM, EXPERTS, FF, HEADS, LAYERS, VOCAB, D, Shapes, moe_tensors, their_bytes, write  # noqa: E402


def shared(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.ffn_up_shexp.weight": ((FF, D), "Q8_0"), f"blk.{i}.ffn_gate_shexp.weight": ((FF, D), "Q8_0"),
            f"blk.{i}.ffn_down_shexp.weight": ((D, FF), "Q8_0"), f"blk.{i}.ffn_gate_inp_shexp.weight": ((D,), "F32"),
        }  # fmt: skip
    return tensors


def biased(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.{name}_exps.bias": ((EXPERTS, width), "F32")
            for name, width in (("ffn_up", FF), ("ffn_gate", FF), ("ffn_down", D))
        }
        tensors |= {
            f"blk.{i}.ffn_gate_inp.bias": ((EXPERTS,), "F32"), f"blk.{i}.attn_sinks.weight": ((HEADS,), "F32"),
            f"blk.{i}.attn_q.bias": ((HEADS * DIM,), "F32"), f"blk.{i}.attn_output.bias": ((D,), "F32"),
        }  # fmt: skip
        del tensors[f"blk.{i}.attn_q_norm.weight"], tensors[f"blk.{i}.attn_k_norm.weight"]
    return tensors


def layer_norms(tensors: Shapes) -> Shapes:
    for name in [name for name in tensors if name.endswith("_norm.weight") and "_q_" not in name and "_k_" not in name]:
        tensors[name.replace("weight", "bias")] = tensors[name]
    return tensors | {"output.bias": ((VOCAB,), "F32")}


LORA, NOPE, ROPE, VALUE = 256, 64, 64, 64


def latent(tensors: Shapes) -> Shapes:
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"):
            tensors.pop(f"blk.{i}.{name}.weight")
        tensors |= {
            f"blk.{i}.attn_q_a.weight": ((256, D), "Q8_0"),
            f"blk.{i}.attn_q_b.weight": ((HEADS * (NOPE + ROPE), 256), "Q8_0"),
            f"blk.{i}.attn_kv_a_mqa.weight": ((LORA + ROPE, D), "Q8_0"),
            f"blk.{i}.attn_k_b.weight": ((HEADS, LORA, NOPE), "Q8_0"),
            f"blk.{i}.attn_v_b.weight": ((HEADS, VALUE, LORA), "Q8_0"),
            f"blk.{i}.attn_output.weight": ((D, HEADS * VALUE), "Q8_0"),
            f"blk.{i}.exp_probs_b.bias": ((EXPERTS,), "F32"),
        }  # fmt: skip
    return tensors


LATENT_KEYS = {"attention.key_length": LORA + ROPE, "attention.value_length": LORA, "attention.key_length_mla": 128,
               "attention.value_length_mla": VALUE, "attention.kv_lora_rank": LORA, "rope.dimension_count": ROPE,
               "attention.head_count_kv": 1}  # fmt: skip


def linear(tensors: Shapes) -> Shapes:
    """Two of three layers with a state, as Qwen3-Next has them: queries, keys, values in one tensor, a gate apart."""
    for i in (0, 1):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"):
            tensors.pop(f"blk.{i}.{name}.weight")
        tensors |= {
            f"blk.{i}.attn_qkv.weight": ((1024, D), "Q8_0"), f"blk.{i}.attn_gate.weight": ((512, D), "Q8_0"),
            f"blk.{i}.ssm_ba.weight": ((16, D), "Q8_0"), f"blk.{i}.ssm_conv1d.weight": ((1024, 4), "F32"),
            f"blk.{i}.ssm_a": ((8,), "F32"), f"blk.{i}.ssm_dt.bias": ((8,), "F32"),
            f"blk.{i}.ssm_norm.weight": ((64,), "F32"), f"blk.{i}.ssm_out.weight": ((D, 512), "Q8_0"),
        }  # fmt: skip
    tensors["blk.2.attn_q.weight"] = ((2 * HEADS * DIM, D), "Q8_0")
    return tensors


LINEAR_KEYS = {"ssm.conv_kernel": 4, "ssm.state_size": 64, "ssm.inner_size": 512, "ssm.group_count": 4,
               "ssm.time_step_rank": 8}  # fmt: skip


def delta_and_gated_latent(tensors: Shapes) -> Shapes:
    """Two layers with a state for each channel and one of latent attention with a gate a head, as Ling 3 has them
    (llama.cpp, src/models/bailingmoe3.cpp at 38d3906); convolutions have four dimensions, two of them 1.
    """
    tensors = latent(tensors) | {"blk.2.attn_gate.weight": ((HEADS, D), "Q8_0")}
    inner = HEADS * DIM
    for i in (0, 1):
        for name in ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_output"):
            tensors.pop(f"blk.{i}.{name}.weight")
        for name in "qkv":
            tensors[f"blk.{i}.ssm_conv1d_{name}.weight"] = ((1, inner, 1, 4), "F32")
            tensors[f"blk.{i}.attn_{name}.weight"] = ((inner, D), "Q8_0")
        tensors |= {
            f"blk.{i}.ssm_f_a.weight": ((inner, D), "Q8_0"), f"blk.{i}.ssm_g_a.weight": ((inner, D), "Q8_0"),
            f"blk.{i}.ssm_beta.weight": ((HEADS, D), "Q8_0"), f"blk.{i}.ssm_a": ((HEADS, 1), "F32"),
            f"blk.{i}.ssm_dt.bias": ((inner,), "F32"), f"blk.{i}.ssm_norm.weight": ((DIM,), "F32"),
            f"blk.{i}.attn_output.weight": ((D, inner), "Q8_0"),
        }  # fmt: skip
    return tensors


@pytest.mark.parametrize(
    ("family", "change", "keys"),
    [
        ("qwen2moe", shared, {}), ("gpt-oss", biased, {"attention.sliding_window": 128}),
        ("deepseek2", latent, LATENT_KEYS), ("qwen3next", linear, LINEAR_KEYS), ("somethingnew", lambda t: t, {}),
        ("phimoe", layer_norms, {}),
        ("bailingmoe3", delta_and_gated_latent, LATENT_KEYS | {"ssm.conv_kernel": 4, "kda.head_dim": DIM}),
    ],
)  # fmt: skip
def test_families_are_read_by_their_tensors(
    family: str, change: Callable[[Shapes], Shapes], keys: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", change(moe_tensors()), keys, family)
    model = load_architecture(path)
    assert model.total_bytes == pytest.approx(their_bytes(path), rel=1e-3)
    assert model.other_params < 0.002 * model.total_params
    assert parse_architecture(model.to_yaml(), "printed") == model
    attention = model.decoder.attention
    match family:
        case "qwen2moe":
            assert (model.n_shared_experts, model.d_ff_shared, model.shared_expert_gate) == (1, FF, True)
            assert model.stored_shared_dtype.name == "q8_0"
        case "gpt-oss":
            assert (model.expert_bias, model.gate_bias, attention.sinks, attention.qk_norm) == (
                True,
                True,
                True,
                "none",
            )
            assert [mixer.window for mixer in model.decoder.all_mixers] == [128, 0, 128]  # type: ignore[union-attr]
        case "phimoe":
            assert (model.norm_bias, model.head_bias, model.other_params) == (True, True, 0)
        case "deepseek2":
            assert (attention.kind, attention.kv_lora_rank, attention.qk_nope_dim) == ("mla", LORA, NOPE)
            assert (attention.v_head_dim, attention.q_lora_rank, model.gate_bias) == (VALUE, 256, True)
        case "bailingmoe3":
            assert [mixer.kind for mixer in model.decoder.all_mixers if mixer is not None] == ["kda", "kda", "mla"]
            assert model.decoder.state_elements == 2 * (HEADS * DIM**2 + 3 * HEADS * DIM * 3)
            assert attention.output_gate == HEADS
        case "qwen3next":
            first = model.decoder.mixer(0)
            assert first is not None
            assert first.kind == "gated_delta_net"
            assert model.decoder.state_elements == 2 * (512 * 64 + 1024 * 3)
            assert attention.output_gate == HEADS * DIM


def test_layers_that_predict_further_tokens_are_not_run(tmp_path: Path) -> None:
    plain = load_architecture(write(tmp_path / "plain.gguf", moe_tensors()))
    more = load_architecture(
        write(tmp_path / "more.gguf", moe_tensors(LAYERS + 1), {"block_count": LAYERS + 1, "nextn_predict_layers": 1})
    )
    assert more.total_bytes == plain.total_bytes


def test_an_expert_a_tensor_as_files_of_2023_have_it(tmp_path: Path) -> None:
    tensors = moe_tensors()
    for i in range(LAYERS):
        for name in ("up", "gate", "down"):
            (_, *shape), form = tensors.pop(f"blk.{i}.ffn_{name}_exps.weight")
            tensors |= {f"blk.{i}.ffn_{name}.{e}.weight": (tuple(shape), form) for e in range(EXPERTS)}
    model = load_architecture(write(tmp_path / "old.gguf", tensors, family="llama"))
    whole = load_architecture(write(tmp_path / "new.gguf", moe_tensors()))
    assert (model.n_experts, model.total_bytes) == (whole.n_experts, whole.total_bytes)


def test_latent_attention_without_an_indexer_attends_to_what_another_layer_has_picked(tmp_path: Path) -> None:
    """GLM-5.2: here the first of three layers has an indexer, of four heads of 64."""
    tensors = latent(moe_tensors()) | {
        "blk.0.indexer.attn_q_b.weight": ((4 * 64, 256), "Q8_0"), "blk.0.indexer.attn_k.weight": ((64, D), "Q8_0"),
        "blk.0.indexer.proj.weight": ((4, D), "F32"),
    }  # fmt: skip
    indexer = {"attention.indexer.head_count": 4, "attention.indexer.key_length": 64, "attention.indexer.top_k": 512}
    model = load_architecture(write(tmp_path / "m.gguf", tensors, LATENT_KEYS | indexer, "glm-dsa"))
    found = [mixer for mixer in model.decoder.all_mixers if isinstance(mixer, Attention)]
    assert [(mixer.index_heads, mixer.index_dim, mixer.index_topk) for mixer in found] == [
        (4, 64, 512), (0, 0, 512), (0, 0, 512),
    ]  # fmt: skip
    without = load_architecture(write(tmp_path / "n.gguf", latent(moe_tensors()), LATENT_KEYS | indexer, "deepseek2"))
    assert without.decoder.mixers == ()
    assert without.decoder.attention.index_topk == 0


def test_tables_of_n_grams_and_streams_lie_beside_the_layers(tmp_path: Path) -> None:
    """Qwen4-Exp: a table half as large as the model is no projection of an attention, and no reason to refuse."""
    plain = load_architecture(write(tmp_path / "plain.gguf", moe_tensors()))
    table = {
        "blk.1.ple_ngram_embd.weight": ((40_000, 256), "Q8_0"), "blk.1.ple_key.weight": ((4 * D, 256), "Q8_0"),
        "blk.1.hc_attn_down.weight": ((32, 4 * D), "F32"), "blk.1.hc_ffn_up.weight": ((4 * D, 256), "Q8_0"),
    }  # fmt: skip
    model = load_architecture(path := write(tmp_path / "m.gguf", moe_tensors() | table))
    assert model.total_bytes == pytest.approx(their_bytes(path), rel=1e-3)
    assert model.stored_attention_dtype == plain.stored_attention_dtype
    assert model.decoder == plain.decoder
    assert model.other_params > plain.other_params
