"""What each op of a transformer layer asks of a machine, from the architecture alone: GEMMs, bytes, FLOPs.

Counting rules (2 FLOP per multiply-add): attention scores and values cost `Attention.score_flop_per_pair` (latents
decompressed first: the widths of a head), the KV cache is read once a forward pass, weights are read once per GEMM.
Gates, head, KV cache and the arithmetic of scores are in the model's activation format; every part of the weights is
read as it is stored.
Nothing here may know time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from offload.ffn_work import experts_work
from offload.ops import Attending, Gemm, OpKind, Work
from traces.model.architecture import Attention, LayerStack, LinearMixer, ModelArchitecture
from traces.model.dtypes import Dtype

_IDS_BYTES = 4
"""An expert id travels as an int32."""


class ContextRates(NamedTuple):
    """What a context costs an attention: FLOP a query-key pair, numbers of an entry of the KV cache, bytes of each.

    `unpacked_bytes`: of a cached token, what is moved of keys and values that are made of latents, each of them
    `made_moves` times.
    """

    flop_per_pair: int
    elements: int
    element_bytes: float
    unpacked_bytes: float = 0.0
    made_moves: float = 0.0

    def moved_bytes(self, kv_tokens: int) -> int:
        """HBM traffic of `kv_tokens` cached tokens."""
        return int(kv_tokens * self.elements * self.element_bytes + kv_tokens * self.unpacked_bytes)

    @property
    def token_bytes(self) -> float:
        """HBM traffic of one."""
        return self.elements * self.element_bytes + self.unpacked_bytes

    @property
    def made_share(self) -> float:
        """Of that, what moves before any score is multiplied: all but reading keys and values once."""
        if not self.made_moves:
            return 0.0
        return (self.token_bytes - self.unpacked_bytes / self.made_moves) / self.token_bytes


def self_attention_work(
    model: ModelArchitecture,
    stack: LayerStack,
    n_tokens: int,
    kv_tokens: int,
    pairs: int,
    *,
    n_sequences: int = 1,
    made_moves: float = 0.0,
) -> Work:
    """Self-attention of one layer over `n_tokens` new tokens of `n_sequences`.

    `kv_tokens`: cached tokens read (summed over sequences); `pairs`: query-key pairs scored; `made_moves` as of
    `mixer_work`.
    """
    return mixer_work(
        model, stack.attention, n_tokens, kv_tokens, pairs, n_sequences=n_sequences, made_moves=made_moves
    )


def attention_rates(model: ModelArchitecture, attention: Attention, made_moves: float = 0.0) -> ContextRates:
    """What a context costs `attention`; latents as they are, or made into keys and values of every head, each byte of
    which is moved `made_moves` times.
    """
    stored = attention.entry_elements - attention.index_dim, model.stored_kv_dtype.bytes_per_param
    if not made_moves:
        return ContextRates(attention.score_flop_per_pair, *stored)
    width = attention.n_heads * (attention.head_dim + attention.value_dim)
    unpacked_bytes = made_moves * width * model.stored_activation_dtype.bytes_per_param
    return ContextRates(2 * width, *stored, unpacked_bytes, made_moves)


def mixer_work(
    model: ModelArchitecture,
    mixer: Attention | LinearMixer,
    n_tokens: int,
    kv_tokens: int,
    pairs: int,
    *,
    n_sequences: int = 1,
    index_tokens: int = 0,
    context_pairs: int = 0,
    made_moves: float = 0.0,
) -> Work:
    """What mixes tokens in one layer. `kv_tokens` and `pairs` of attention: those within its window or chosen by its
    indexer, which itself reads a key of all `index_tokens` and scores all `context_pairs`. A linear mixer reads and
    writes a state for each of `n_sequences`.

    `made_moves`: latent attention makes keys and values of its whole context first, as kernels do for a prompt
    (DeepSeek-V2, arXiv 2405.04434, section 2.1), in place of absorbing that projection; each of their bytes is moved so
    often: written and read at least. 0: it absorbs.
    """
    gemms = tuple(Gemm(n_tokens, n, k) for n, k in mixer.gemm_shapes(model.d_model))
    attending = None
    if isinstance(mixer, LinearMixer):
        flop, moved = n_tokens * mixer.flop_per_token, int(2 * n_sequences * mixer.state_elements * 4.0)
    else:
        made_moves = made_moves if decompresses(mixer) else 0.0
        rates = attention_rates(model, mixer, made_moves)
        flop = pairs * rates.flop_per_pair + context_pairs * mixer.index_flop_per_pair
        moved = rates.moved_bytes(kv_tokens) + int(index_tokens * mixer.index_dim * rates.element_bytes)
        attending = _attending(mixer, n_tokens, n_sequences, rates, made_moves > 0)
        if made_moves:
            up = mixer.latent_up
            gemms = tuple(g._replace(m=kv_tokens) if (g.n, g.k) == up else g for g in gemms)
    stored = model.stored_attention_dtype
    return Work(
        OpKind.SELF_ATTENTION,
        gemms,
        model.compute_format(stored),
        stored.bits,
        flop_compute=model.stored_activation_dtype.name,
        flop=flop,
        hbm_bytes=moved,
        attending=attending,
    )


def decompresses(mixer: Attention | LinearMixer) -> bool:
    """Whether a prompt may decompress what `mixer` caches: latents of which no indexer picks a few."""
    return isinstance(mixer, Attention) and mixer.kind == "mla" and not mixer.index_topk


def _attending(
    attention: Attention, n_tokens: int, n_sequences: int, rates: ContextRates, decompressed: bool = False
) -> Attending:
    """The shape of what runs: latents absorbed are one head of keys that all queries share."""
    if attention.kind == "mla" and not decompressed:
        rank = attention.kv_lora_rank
        heads, widths = (attention.n_heads, 1), (rank + attention.qk_rope_dim, rank)
    else:
        heads, widths = (attention.n_heads, attention.n_kv_heads), (attention.head_dim, attention.value_dim)
    window = 0 if attention.compression else attention.window
    if attention.index_topk and not attention.compression and n_tokens > n_sequences:
        window = attention.index_topk  # of a prompt each token sees as many
    return Attending(n_tokens, n_sequences, *heads, *widths, rates.token_bytes, window, rates.made_share)


def cross_attention_work(
    model: ModelArchitecture,
    stack: LayerStack,
    n_tokens: int,
    kv_tokens: int,
    new_memory_tokens: int,
    *,
    n_sequences: int = 1,
) -> Work:
    """Cross-attention of one decoder layer over `kv_tokens` encoder outputs (summed over `n_sequences`).

    `new_memory_tokens`: encoder outputs whose keys and values are projected now (first decode step only).
    """
    attention = stack.attention
    rates = attention_rates(model, attention)
    query, key, value, output = attention.gemm_shapes(model.d_model)
    gemms = [Gemm(n_tokens, *query), Gemm(n_tokens, *output)]
    if new_memory_tokens:
        gemms += [Gemm(new_memory_tokens, *key), Gemm(new_memory_tokens, *value)]
    return Work(
        OpKind.CROSS_ATTENTION,
        tuple(gemms),
        model.compute_format(model.stored_attention_dtype),
        model.stored_attention_dtype.bits,
        flop_compute=model.stored_activation_dtype.name,
        flop=kv_tokens * rates.flop_per_pair,
        hbm_bytes=rates.moved_bytes(kv_tokens),
        attending=_attending(attention, n_tokens, n_sequences, rates),
    )


def gate_work(model: ModelArchitecture, n_tokens: int) -> Work:
    """Gate GEMM (d_model x all it chooses among), top-k, the permutation of tokens by expert, projections around it."""
    stored = model.stored_activation_dtype
    moved_bytes = 2 * n_tokens * model.top_k * model.expert_width * stored.bytes_per_param
    shapes = ((model.d_expert, model.d_model), (model.d_model, model.d_expert)) if model.d_expert else ()
    around = tuple(Gemm(n_tokens, n, k) for n, k in shapes)
    return Work(
        OpKind.GATE,
        (Gemm(n_tokens, model.n_experts + model.n_free_experts, model.d_model), *around),
        stored.name,
        model.stored_gate_dtype.bits,
        hbm_bytes=int(moved_bytes),
    )


def head_work(model: ModelArchitecture, n_tokens: int) -> Work:
    """LM head over `n_tokens` (the last token of each sequence) and sampling."""
    gemms = (Gemm(n_tokens, model.vocab_size, model.d_model),)
    stored = model.stored_head_dtype
    logits_bytes = 2 * n_tokens * model.vocab_size * model.stored_activation_dtype.bytes_per_param
    return Work(OpKind.HEAD, gemms, model.compute_format(stored), stored.bits, hbm_bytes=int(logits_bytes))


def expert_copy_work(model: ModelArchitecture, kind: OpKind) -> Work:
    """One expert moved: `FETCH` over the link, `STAGE` within HBM, or `DISK_READ` from storage."""
    return Work(kind, weight_bits=model.expert_dtype.bits, copy_bytes=model.expert_bytes)


def readback_work(n_ids: int) -> Work:
    """The selected expert ids of one block, device to host."""
    return Work(OpKind.READBACK, copy_bytes=n_ids * _IDS_BYTES)


def sort_work(model: ModelArchitecture, n_tokens: int) -> Work:
    """The rows of `n_tokens` found by expert: all that each token chose is looked at once for every expert."""
    return Work(OpKind.SORT, n_entries=model.n_experts * n_tokens * model.top_k)


def gather_work(n_cells: int) -> Work:
    """`n_cells` of a KV cache listed and sorted twice: each is compared with as many others as the list halves."""
    return Work(OpKind.SORT, n_copies=0, n_entries=n_cells * (2 * n_cells.bit_length() + 3))


def mask_work(n_entries: int) -> Work:
    """A mask of `n_entries`, one for each token of a pass and each cell of its sequence's cache."""
    return Work(OpKind.MASK, n_entries=n_entries)


def handover_work(model: ModelArchitecture, n_tokens: int) -> Work:
    """The activations of `n_tokens`, device to host."""
    return Work(OpKind.HANDOVER, copy_bytes=activation_row_bytes(model) * n_tokens)


def return_work(model: ModelArchitecture, n_tokens: int) -> Work:
    """The activations of `n_tokens`, host to device."""
    return handover_work(model, n_tokens)._replace(kind=OpKind.RETURN)


def send_work(model: ModelArchitecture, n_tokens: int, n_shares: int) -> Work:
    """What a card hands to the next for `n_tokens`: activations and the residual beside them, in `n_shares` where so
    many cards have them, each of which sends one and gets the others from those beside it (vLLM,
    distributed/parallel_state.py: send_tensor_dict).
    """
    return Work(OpKind.SEND, copy_bytes=2 * activation_row_bytes(model) * n_tokens, n_entries=n_shares)


def stream_work(n_bytes: int) -> Work:
    """`n_bytes` from host memory into a buffer in HBM, for one use."""
    return Work(OpKind.STREAM, copy_bytes=n_bytes)


def zero_copy_work(n_bytes: int, n_in_blocks: int) -> Work:
    """`n_bytes` of weights that a kernel reads where they lie in host memory, `n_in_blocks` were every block of its
    rows to read them again.
    """
    return Work(OpKind.ZERO_COPY, copy_bytes=n_bytes, n_copies=0, n_entries=n_in_blocks)


def cpu_layer_work(model: ModelArchitecture, what: Work) -> Work:
    """An op of a layer, computed by the host: what it reads of HBM elsewhere (keys and values) is read of DRAM.

    The shape of an attention is kept where keys and values are made of latents first.
    """
    stored = _unpacked_by_core(_dtype_of(model, what.kind)) if what.gemms else ""
    made = what.attending if what.attending is not None and what.attending.made_share else None
    return what._replace(kind=OpKind.CPU_LAYER, slots_bytes=0, attending=made, fused=None, stored=stored)


def _dtype_of(model: ModelArchitecture, kind: OpKind) -> Dtype:
    """The format of the weights that an op of a layer without routed experts multiplies by."""
    match kind:
        case OpKind.SELF_ATTENTION | OpKind.CROSS_ATTENTION:
            return model.stored_attention_dtype
        case OpKind.GATE:
            return model.stored_gate_dtype
        case OpKind.EXPERTS:
            return model.stored_shared_dtype
        case OpKind.HEAD:
            return model.stored_head_dtype
        case _:
            return model.dtype


def _unpacked_by_core(stored: Dtype) -> str:
    return stored.name if stored.is_packed else ""


def cpu_expert_work(model: ModelArchitecture, n_tokens: int) -> Work:
    """One expert FFN, computed by the host."""
    return experts_work(model, [n_tokens])._replace(
        kind=OpKind.CPU_EXPERT, stored=_unpacked_by_core(model.expert_dtype)
    )


def activation_row_bytes(model: ModelArchitecture) -> int:
    """Bytes of one token's activations between two layers."""
    return math.ceil(model.d_model * model.stored_activation_dtype.bytes_per_param)
