"""Shapes of decoder-only models from their Hugging Face configuration, read from the fields rather than by the name.

What a family does and its fields do not say (biases, norms, gates of outputs, two matrices in place of three) stands in
`TRAITS` and follows the model's own code in huggingface/transformers, src/transformers/models/<model_type>.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from traces.errors import InvalidFile
from traces.model.attention import Attention
from traces.model.configs.class_defaults import class_defaults
from traces.model.configs.config_fields import Fields
from traces.model.configs.config_layers import Traits, block_letters, mixers_by_layer, sparse_layers, value_experts
from traces.model.configs.field_names import NAMES, TIED
from traces.model.layer_stack import MAX_LAYERS, LayerStack

_QWEN3: Traits = {"qk_norm": "head"}
_QWEN3_NEXT: Traits = {"qk_norm": "head", "output_gate": "channel"}
TRAITS: dict[str, Traits] = {
    "deepseek_v4": {"compressed": True, "sinks": True},
    "alice_ai": _QWEN3_NEXT | {"kda_of_delta_net": True},
    "axk2": {"gated_queries": True},
    "berrylm": _QWEN3_NEXT,
    "bailing_hybrid": {"output_gate": "head", "kda_full_rank": True},
    "grove_moe": {"qk_norm": "head", "adjugate": True},
    "hunyuan_v1_moe": {"shared_of_expert_width": True},
    "hy_v4": {"output_gate": "channel"},
    "hy_v4_vl_text": {"output_gate": "channel"},
    "inkling2_text": {"output_gate": "channel"},
    "inkling2_loop_text": {"output_gate": "channel"},
    "jetmoe": {"attention_experts": True},
    "longcat_flash": {"double_layers": True},
    "muse_spark_text": {"output_gate": "channel"},
    "afmoe": {"qk_norm": "head", "output_gate": "channel"},
    "beam": {"qk_norm": "head", "output_gate": "channel"},
    "diffusion_gemma_text": {"fed_back": True},
    "flex_olmo": {"qk_norm": "full"},
    "gpt_oss": {"sinks": True, "attention_bias": True, "expert_bias": True, "gate_bias": True},
    "grok-1": {"tied": True},
    "llama4": {"shared_of_expert_width": True},
    "llama4_text": {"shared_of_expert_width": True},
    "nemotron_h": {"n_matrices": 2},
    "olmoe": {"qk_norm": "full"},
    "phimoe": {"norm_bias": True},
    "qwen2_moe": {"qkv_bias": True},
    "qwen3_5_moe": _QWEN3_NEXT,
    "qwen3_5_moe_text": _QWEN3_NEXT,
    "qwen3_moe": _QWEN3,
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_omni_moe_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "qwen4_exp_text": _QWEN3_NEXT,
    "step3p5": {"output_gate": "head"},
    "step3p7": {"output_gate": "head"},
}

CHECKED = frozenset(
    {
        "aria_text", "axk1", "bailing_moe", "cohere2_moe", "dbrx", "deepseek_v2", "deepseek_v3", "deepseek_v32",
        "dots1", "dots3_note_text", "ernie4_5_moe", "ernie4_5_vl_moe_text", "exaone_moe", "flint", "gemma4_text",
        "glm4_moe", "glm4_moe_lite", "glm4v_moe_text", "glm5_next_text", "glm_moe_dsa", "granitemoe",
        "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "inkling_text", "jamba",
        "k2_horizon", "kimi_k2", "kimi_linear", "kolibri1", "laguna", "lara_mini", "lfm2_moe", "mellum",
        "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3", "minimax_m3_vl_text", "mistral4", "mistral_large4_text",
        "mixtral", "sarvam_mla", "sarvam_moe", "solar_open", "solar_open2", "unlimited_ocr_text", "zaya", *TRAITS,
    }
)  # fmt: skip
"""Types whose counts were held against the model's own classes, or published figures, within 0.5 %."""


_MAX_STREAMS = 64


def decoder_only(fields: Fields, model_type: str) -> dict[str, Any]:
    """Fields of `ModelArchitecture` but name, sources and formats. Raises `InvalidFile` naming a missing or bad key."""
    traits = TRAITS.get(model_type, {}) | {"model_type": model_type}
    if isinstance(fields.get("compress_ratios"), list):  # what follows DeepSeek-V4
        traits = TRAITS["deepseek_v4"] | traits
    d_model = fields.integer("d_model", minimum=1)
    blocks = block_letters(fields)
    n_layers = len(blocks) or fields.integer("n_layers", minimum=1)
    if traits.get("double_layers"):  # LongCat: two attentions and two dense FFNs beside one MoE block
        n_layers *= 2
    if n_layers > MAX_LAYERS:
        raise InvalidFile(f"{fields.where}: n_layers = {n_layers}, expected 1 to {MAX_LAYERS}")
    experts = _experts(fields, traits)
    sparse = tuple(i for i, block in enumerate(blocks) if block == "moe") or sparse_layers(fields, n_layers)
    if traits.get("double_layers"):
        sparse = tuple(range(0, n_layers, 2))
    attention = _attention(fields, d_model, traits)
    mixers = mixers_by_layer(fields, n_layers, attention, d_model, traits)
    attention = _main_attention(mixers, attention)
    distinct = tuple(dict.fromkeys(mixer for mixer in mixers if mixer is not None and mixer != attention))
    places = {mixer: i + 1 for i, mixer in enumerate(distinct)}
    uneven = any(mixer != attention for mixer in mixers)
    bare = tuple(i for i, block in enumerate(blocks) if block in ("linear", "full"))
    ungated = fields.flag("use_gated_mlp", "gated_mlp", "gated_linear_unit", "use_glu", default=True) is False
    n_matrices = traits.get("n_matrices", 2 if ungated else 3)
    dense = fields.integer("d_ff_dense", fields.integer("d_ff", 0))
    has_dense = len(sparse) + len(bare) < n_layers
    return {
        "d_model": d_model,
        "vocab_size": fields.integer("vocab_size", minimum=1),
        "tied_embeddings": _tied(fields, traits),
        "decoder": LayerStack(
            n_layers=n_layers,
            moe_layers=sparse,
            attention=attention,
            cross_attention=False,
            d_ff_dense=dense if has_dense else 0,
            n_dense_matrices=n_matrices,
            mixers=distinct if uneven else (),
            mixer_of=tuple(-1 if m is None else places.get(m, 0) for m in mixers) if uneven else (),
            bare_layers=bare,
        ),
        "n_expert_matrices": n_matrices,
        "norm_bias": bool(traits.get("norm_bias")),
        "head_bias": fields.flag("lm_head_bias"),
        "trained_context": fields.integer("max_position_embeddings", 0),
        "pregated_from": _pregated_from(fields, n_layers),
        "d_expert": 0 if (width := fields.integer("d_expert", 0)) == d_model else width,
        "other_params": _other_params(fields, d_model, n_layers, attention, traits),
        "table_params": _tables(fields, d_model),
        **experts,
    }


def _main_attention(mixers: Sequence[object], stated: Attention) -> Attention:
    """The attention of most layers, one without a window first; as `stated` where no layer has one that is plain."""
    plain = [mixer for mixer in mixers if isinstance(mixer, Attention)]
    return max(dict.fromkeys(plain), key=lambda mixer: (mixer.window == 0, plain.count(mixer)), default=stated)


def _other_params(fields: Fields, d_model: int, n_layers: int, attention: Attention, traits: Traits) -> int:
    """Parameters that no op of ours reads: attention experts not chosen (JetMoE, K2 Horizon), tables by layer (Gemma)
    or of n-grams (LongCat-Flash-Lite), what brings rows of such tables in (Qwen4-Exp, DeepSeek-V4.1), what mixes
    parallel residual streams (DeepSeek-V4, arXiv 2512.24880), the FFN that takes up the guess of a step before
    (DiffusionGemma), heads that choose experts a token ahead.
    """
    total = 0
    if traits.get("attention_experts"):
        idle = fields.integer("n_experts") - fields.integer("top_k")
        width = attention.n_heads * attention.head_dim // fields.integer("top_k")
        total += n_layers * (idle * 2 * d_model * width + d_model * fields.integer("n_experts"))
    number, chosen = value_experts(fields)
    if number:
        values = attention.n_kv_heads * attention.value_dim
        total += len(sparse_layers(fields, n_layers)) * (number - chosen) * values * d_model
    per_layer = fields.integer("hidden_size_per_layer_input", 0)
    if per_layer:
        table = fields.integer("vocab_size_per_layer_input", fields.integer("vocab_size"))
        total += n_layers * per_layer * (table + 3 * d_model)
    ratio = fields.integer("ngram_vocab_size_ratio", 0)  # LongCat: tables of n-grams, that many times the vocabulary
    total += ratio * fields.integer("vocab_size") * d_model
    streams = _streams(fields, "hc_mult")
    if streams:  # hyper-connections: before attention and FFN of a layer, and one that joins the streams at the end
        total += (n_layers * 2 * (2 + streams) + 1) * streams * streams * d_model
    total += _engram_matrices(fields, d_model, max(streams, 1))
    streams = _streams(fields, "hc_count")
    if streams:  # Qwen4-Exp: the same with matrices of a low rank
        wide = streams * d_model
        total += (2 * n_layers + 1) * 2 * wide * fields.integer("hc_lowrank", 320) + n_layers * 2 * streams * wide
        total += len(fields.integers("ple_layer_ids")) * fields.integer("ple_embed_dim", d_model) * (wide + d_model)
    if traits.get("fed_back"):
        total += 3 * d_model * fields.integer("d_ff")
    return total + _pregate_params(fields, d_model, n_layers)


def _pregated_from(fields: Fields, n_layers: int) -> int:
    """The first layer whose experts are chosen a token before, 0 where none is (Edge0-8B-A1B): the layers from
    `pregate_start_layer` on own a head, which chooses for the layer after them and the next token (Edge0-AI/Edge0,
    engine/ling.py and prerouter/spec.py). Raises `InvalidFile` for gates that look ahead within a token.
    """
    if not fields.flag("pregate_enabled"):
        return 0
    if not fields.flag("pregate_cross_token"):
        raise InvalidFile(
            f"{fields.where}: pregate_enabled without pregate_cross_token: which layer chooses for which is not "
            f"known, set pregate_enabled false to read the model with gates of its own"
        )
    first = fields.integer("pregate_start_layer", 7) + 1
    if not 0 < first < n_layers:
        raise InvalidFile(f"{fields.where}: pregate_start_layer = {first - 1}, expected 0 to {n_layers - 2}")
    return first


def _pregate_params(fields: Fields, d_model: int, n_layers: int) -> int:
    """Heads that choose a token ahead: an FFN without a gate and a linear map beside it, both of the hidden state and
    of what this token and the one before chose (Edge0-AI/Edge0, prerouter/heads.py).
    """
    first = _pregated_from(fields, n_layers)
    if not first:
        return 0
    n_experts, hidden = fields.integer("n_experts"), fields.integer("pregate_hidden", 512, minimum=1)
    read = d_model + 2 * n_experts
    return (n_layers - first) * (read * hidden + hidden * n_experts + read * n_experts)


def _streams(fields: Fields, key: str) -> int:
    """How many residual streams run in parallel. Raises `InvalidFile` for more than anybody has."""
    streams = fields.integer(key, 0)
    if streams > _MAX_STREAMS:
        raise InvalidFile(f"{fields.where}: {key} = {streams}, expected 0 to {_MAX_STREAMS} residual streams")
    return streams


def _engram_matrices(fields: Fields, d_model: int, streams: int) -> int:
    """What brings the rows that layers find in tables of n-grams into each of `streams` (DeepSeek-V4.1)."""
    heads = (fields.integer("engram_max_ngram_size", 4, minimum=2) - 1) * fields.integer("engram_n_heads", 8, minimum=1)
    width = heads * fields.integer("engram_head_dim", 256, minimum=1)
    return len(fields.integers("engram_layer_ids")) * width * (streams + 1) * d_model


def _tables(fields: Fields, d_model: int) -> int:
    """Parameters of tables of n-grams: of stated rows (DeepSeek-V4.1); or a table for each head of each n, of about as
    many rows (the next primes) as are stated (Qwen4-Exp).
    """
    layers, stated = fields.integers("engram_layer_ids"), fields.integers("engram_num_embeddings")
    if min(stated, default=0) < 0:
        raise InvalidFile(f"{fields.where}: engram_num_embeddings = {min(stated)} rows: below 0")
    if len(layers) != len(stated):
        raise InvalidFile(f"{fields.where}: engram_num_embeddings has {len(stated)} tables for {len(layers)} layers")
    total = sum(stated) * fields.integer("engram_head_dim", 256, minimum=1)
    if not _streams(fields, "hc_count"):
        return total
    heads = (fields.integer("ngram_size", 3, minimum=2) - 1) * fields.integer("heads_per_ngram", 8, minimum=1)
    width = fields.integer("ple_embed_dim", d_model, minimum=1) // heads
    return total + len(fields.integers("ple_layer_ids")) * heads * width * fields.integer(
        "ngram_vocab_size_base", 20_000_000
    )


def _tied(fields: Fields, traits: Traits) -> bool:
    """Whether head and input table are one; of a multimodal model the whole decides, not the text model."""
    for document in reversed(fields.documents):
        tied = next((document[key] for key in TIED if document.get(key) is not None), None)
        if isinstance(tied, bool):
            return tied
        if tied is not None:
            raise InvalidFile(f"{fields.where}: tie_word_embeddings = {reprlib.repr(tied)} is not true or false")
        of_class = class_defaults(str(document.get("model_type"))).get("tie_word_embeddings")
        if isinstance(of_class, bool):
            return of_class
    return bool(traits.get("tied"))


def _experts(fields: Fields, traits: Traits) -> dict[str, Any]:
    """The MoE blocks; a model without experts is told so by the caller."""
    d_ff_expert = fields.integer("d_ff_expert", fields.integer("d_ff", 0), minimum=0)
    told = any(fields.get(key) is not None for key in NAMES["d_ff_expert"])
    if d_ff_expert < 1 or (not (told or traits["model_type"] in CHECKED) and fields.integer("first_dense", 0)):
        raise InvalidFile(f"{fields.where}: key 'moe_intermediate_size' is missing: the width of an expert")
    n_shared, width = _shared(fields, d_ff_expert, traits)
    if traits.get("adjugate"):  # GroveMoE: a small FFN that experts of a group share counts as a part of each of them
        group = fields.integer("experts_per_group", 2, minimum=1)
        d_ff_expert += fields.integer("parallel_expert_intermediate_size", 128) // group
    return {
        "n_experts": fields.integer("n_experts", minimum=1),
        "top_k": fields.integer("top_k", minimum=1),
        "n_free_experts": fields.integer("n_free_experts", 0),
        "d_ff_expert": d_ff_expert,
        "n_shared_experts": n_shared,
        "d_ff_shared": width,
        "shared_expert_gate": bool(n_shared) and fields.get("shared_expert_intermediate_size") is not None,
        "expert_bias": bool(traits.get("expert_bias")),
        "gate_bias": bool(traits.get("gate_bias")) or fields.get("topk_method") == "noaux_tc",
    }


def _shared(fields: Fields, d_ff_expert: int, traits: Traits) -> tuple[int, int]:
    """(number, width) of what runs for every token in an MoE block."""
    if traits.get("shared_of_expert_width"):
        return 1, d_ff_expert
    if fields.flag("enable_moe_block") or traits.get("double_layers"):  # Gemma 4: a dense FFN beside the experts
        return 1, fields.integer("d_ff", minimum=1)
    if fields.flag("residual_moe"):  # Grok-2: a dense FFN beside the experts
        return 1, fields.integer("d_ff", minimum=1)
    if fields.flag("parallel_attn_mlp_res"):  # Arctic: a dense FFN as wide as the model beside attention and experts
        return 1, fields.integer("d_model", minimum=1)
    width, number = fields.integer("d_ff_shared", 0), fields.integer("n_shared", 0)
    if width:
        return (number or 1), width
    return (number, d_ff_expert) if number else (0, 0)


_GATES = {"head_wise": "head", "element_wise": "channel"}


_CHANNEL_GATES = ("mla_use_output_gate", "use_gqa_gate")
"""Flags of a gate a channel: Kimi K3 and Solar Open 2; K2 Horizon names its function."""


def _output_gate(fields: Fields, traits: Traits) -> str | None:
    """What of an attention's output has a gate each: a "channel" or a "head"; None: there is none."""
    stated = fields.get("attn_output_gate")
    gate: str | None = traits.get("output_gate") if fields.flag("attn_output_gate", default=True) else None
    if gate is None and (stated is True or fields.flag("gated_attention")):
        gate = "channel"
    if gate is None and (fields.flag(*_CHANNEL_GATES) or fields.get("attention_gate_func")):
        gate = "channel"
    by_words = fields.get("gated_attention_proj_granularity_type")
    if gate is None and by_words is not None:  # Ling 3
        if by_words not in _GATES:
            raise InvalidFile(
                f"{fields.where}: gated_attention_proj_granularity_type = {reprlib.repr(by_words)}: {', '.join(_GATES)}"
            )
        gate = _GATES[by_words]
    if gate is None:  # "per-head" where others say true
        by_head = fields.get("gating") == "per-head" or fields.flag("gating", "use_head_wise_attn_gate")
        gate = "head" if by_head else None
    return gate


def _attention(fields: Fields, d_model: int, traits: Traits) -> Attention:
    """The attention that most layers have: latent where a rank of keys and values is stated, else by its heads."""
    bias = fields.flag("attention_bias", default=bool(traits.get("attention_bias")))
    qkv_bias = fields.flag(
        "qkv_bias", "use_qkv_bias", "attention_qkv_bias", default=bias or bool(traits.get("qkv_bias"))
    )
    compressed = traits.get("compressed", False)
    indexer: dict[str, Any] = {
        "index_heads": fields.integer("index_heads", 0),
        "index_dim": fields.integer("index_dim", 0),
        "index_topk": fields.integer("index_topk", 0)
        or fields.integer("index_topk_blocks", 0) * fields.integer("index_block", 0),
    }
    indexer = indexer if all(indexer.values()) and not compressed else {}
    gate = _output_gate(fields, traits)
    if fields.integer("kv_lora_rank", 0):
        return _latent_attention(fields, d_model, traits, bias, gate, indexer)
    n_heads = fields.integer("n_heads", minimum=1)
    n_kv_heads = fields.integer("n_kv_heads", n_heads, minimum=1)
    width = fields.integer("attention_projection_size", d_model)  # Yuan2: of all heads
    head_dim = fields.integer("head_dim", width // n_heads, minimum=1)
    value_dim = fields.integer("v_head_dim", 0)
    return Attention(
        kind="mha" if n_kv_heads == n_heads else "gqa",
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        v_head_dim=value_dim if value_dim != head_dim else 0,
        q_lora_rank=fields.integer("q_lora_rank" if compressed else "share_q_dim", 0),
        qkv_bias=qkv_bias,
        output_bias=bias,
        qk_norm=traits.get("qk_norm", "none"),
        sinks=bool(traits.get("sinks")),
        output_gate={None: 0, "channel": n_heads * head_dim, "head": n_heads}[gate],
        shared_key_value=compressed,
        output_groups=fields.integer("o_groups", 0) if compressed else 0,
        output_rank=fields.integer("o_lora_rank", 0) if compressed else 0,
        **indexer,
    )


def _latent_attention(
    fields: Fields, d_model: int, traits: Traits, bias: bool, gate: str | None, indexer: dict[str, Any]
) -> Attention:
    """Keys and values of all heads in one latent vector a token (DeepSeek-V2, arXiv 2405.04434)."""
    n_heads = fields.integer("n_heads", minimum=1)
    nope, rope = fields.integer("qk_nope_head_dim"), fields.integer("qk_rope_head_dim", fields.integer("head_dim", 64))
    rank, value_dim = fields.integer("q_lora_rank", 0), fields.integer("v_head_dim")
    width = {None: 0, "channel": n_heads * value_dim, "head": n_heads}[gate]
    if traits.get("gated_queries"):  # A.X-K2: one matrix of two ranks makes queries and gates
        width = n_heads * rank * (nope + rope + 2 * value_dim) // d_model
    return Attention(
        kind="mla",
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=nope + rope,
        q_lora_rank=rank,
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_dim=nope,
        qk_rope_dim=rope,
        v_head_dim=value_dim,
        qkv_bias=bias,
        output_bias=bias,
        output_gate=width,
        **indexer,
    )
