"""What is fitted of each law, and what is known of kernels beforehand: no numbers of a machine, and no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_GEMM: Mapping[str, tuple[str, float]] = {
    "fixed_s": ("time", 3e-6),
    "peak": ("ratio", 0.8),
    "memory": ("ratio", 0.85),
    "cache": ("ratio", 2.5),
    "kept": ("ratio", 0.7),
    "ramp": ("ratio", 150.0),
    "activations": ("ratio", 1.0),
    "split_s": ("time", 3e-6),
    "step_s": ("time", 1e-9),
    "sustained": ("ratio", 0.7),
    "boost_s": ("time", 1e-3),
}
"""What is fitted, by dimension, and where a fit starts.

fixed_s: per GEMM. peak, memory: what tiles achieve of the claimed arithmetic and weights of the claimed bandwidth.
cache: times the claimed bandwidth at which weights come that the cache still holds; kept: the share of the cache that
holds them. ramp: elements of the inner dimension that a tile loses to filling its pipeline. activations: what goes in
and comes out, over its time at the claimed bandwidth. split_s: adding up a split inner dimension. step_s: least time of
a tile for one element of the inner dimension. sustained: of the claimed arithmetic what power sustains; boost_s: how
long a product is not held back to it."""

_QUANTISED: Mapping[str, tuple[str, float]] = {
    **_GEMM,
    "quantise_s": ("time", 1.5e-6),
    "quantise": ("ratio", 1.0),
    "lone_row_s": ("time", 2e-6),
}
"""quantise_s, quantise: the kernel that makes activations of fewer bits, fixed and over its traffic's time. lone_row_s:
of a single row over two: FlashInfer's fp8 takes 14 to 16 us more for it on both cards of capability 10, whatever the
shape, other libraries next to nothing."""


_DECODE: Mapping[str, tuple[str, float]] = {
    "fixed_s": ("time", 5e-6),
    "memory": ("ratio", 0.8),
    "cache": ("ratio", 2.0),
    "kept": ("ratio", 0.7),
    "core": ("ratio", 2.0),
    "fill": ("ratio", 1.0),
    "wave_s": ("time", 2e-6),
    "split_s": ("time", 2e-6),
    "part_s": ("time", 1e-7),
    "sequences_s": ("time", 1e-7),
    "permute_s": ("time", 1e-6),
}
"""fixed_s: of the op. memory, cache, kept: as of a GEMM, of keys and values. core: a multiprocessor's own rate, over an
equal share of the claimed bandwidth. fill: pieces of a context that a wave of blocks loses to filling its pipeline, by
which wide heads start later. wave_s: of a wave of blocks, whatever they read; of a generated kernel's of eight rows, of
more the root of how many times longer. split_s, part_s: adding up a split context, and of each part. sequences_s: times
their root, for appending and metadata. permute_s: where a kernel turns heads into rows and back
(`AttentionKernel.permutes`)."""

_CONTEXT: Mapping[str, tuple[str, float]] = {
    "fixed_s": ("time", 8e-6),
    "peak": ("ratio", 0.6),
    "memory": ("ratio", 0.8),
    "softmax": ("ratio", 30.0),
    "tile_s": ("time", 2e-6),
    "append": ("ratio", 2.0),
    "kept": ("ratio", 0.9),
    "cache": ("ratio", 2.0),
}
"""softmax: of a score, as so many multiply-adds on tensor cores. tile_s: of a block of query rows, whatever it reads.
append: the kernel before it that writes new keys and values, over its traffic's time."""

_LATENT_DECODE: Mapping[str, tuple[str, float]] = {
    "fixed_s": ("time", 8e-6),
    "peak": ("ratio", 0.6),
    "memory": ("ratio", 0.8),
    "cache": ("ratio", 2.0),
    "kept": ("ratio", 0.7),
    "core": ("ratio", 2.0),
    "wave_s": ("time", 2e-6),
    "split_s": ("time", 2e-6),
    "part_s": ("time", 1e-7),
    "block_s": ("time", 1e-7),
    "activations": ("ratio", 1.0),
}
"""As of attention over keys and values. block_s: of a sequence and the heads that share a block, however short its
context: a grid has a place for every part that a context may be split in. peak: what scores reach of the claimed
arithmetic, a block of heads at a time: they all read one latent, the first from memory and the others from the cache
at `cache`. activations: queries and outputs as wide as a latent,
over their time at the claimed rate."""

_FUSED: Mapping[str, tuple[str, float]] = {
    "fixed_s": ("time", 25e-6),
    "peak": ("ratio", 0.6),
    "memory": ("ratio", 0.85),
    "ramp": ("ratio", 150.0),
    "activations": ("ratio", 1.0),
    "step_s": ("time", 1e-9),
    "rows_s": ("time", 5e-8),
    "kept": ("ratio", 0.4),
    "cache": ("ratio", 3.0),
    "expert_s": ("time", 1e-7),
}
"""As of a dense GEMM. fixed_s: of the whole op. expert_s: of each expert that has rows. rows_s: times the root of the
rows: top-k, sorting and permuting."""


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """How a library lays attention out.

    `block_rows`: query rows of a block of threads. `packs_prompt`: heads that share keys share a block in a prompt too.
    `permutes`: for one new token of several heads it turns heads into rows, two small kernels more. `splits_alone`: the
    context is split also where no heads share keys. `packs_window`: heads that share keys share a block also where a
    sliding window is asked for. `splits`: the context of one new token is split at all. `generated`: FlashInfer chooses
    among many of one new token (`hwmodels.laws.generated_kernels`); over latents what a block costs overlaps what
    others read. `key_blocks`: the widest head, and the cached tokens that a block of threads then takes at a
    time, ascending; 64 for wider heads. Where there are none it takes 128 of any.
    """

    name: str
    block_rows: int
    packs_prompt: bool
    permutes: bool
    splits_alone: bool
    packs_window: bool = True
    splits: bool = True
    generated: bool = False
    key_blocks: tuple[tuple[int, int], ...] = ()


KERNELS: Mapping[str, AttentionKernel] = {
    one.name: one
    for one in (
        # FlashAttention 2: csrc/flash_attn/flash_api.cpp, mha_varlen_fwd (seqlenq_ngroups_swapped), set_params_splitkv
        # (block_n by head size).
        AttentionKernel(
            "flash-attention-2",
            64,
            packs_prompt=False,
            permutes=True,
            splits_alone=False,
            packs_window=False,
            key_blocks=((64, 256), (128, 128)),
        ),
        # FlashAttention 3: hopper/flash_api.cpp and heuristics.h (should_pack_gqa).
        AttentionKernel("flash-attention-3", 128, packs_prompt=True, permutes=False, splits_alone=True),
        # TensorRT-LLM's generated kernels, called by FlashInfer on Blackwell.
        AttentionKernel("trtllm-gen", 128, packs_prompt=False, permutes=False, splits_alone=True, generated=True),
        # FlashMLA, and FlashAttention 3 with latents: 64 heads in a block.
        AttentionKernel("flash-mla", 64, packs_prompt=False, permutes=False, splits_alone=True),
        AttentionKernel("trtllm-gen-mla", 64, packs_prompt=False, permutes=False, splits_alone=True, generated=True),
        # SGLang's decode_attention.py: BLOCK_H = 16.
        AttentionKernel("triton-mla", 16, packs_prompt=False, permutes=False, splits_alone=True),
        # TensorRT-LLM before Hopper: one block scans a whole context, as its times grow with it and with nothing else.
        AttentionKernel("whole-context-mla", 64, packs_prompt=False, permutes=False, splits_alone=True, splits=False),
        # TensorRT-LLM's prompts, keys and values of every head: tiles of Hopper and later, and of cards before.
        AttentionKernel("fmha-128", 128, packs_prompt=False, permutes=False, splits_alone=True),
        AttentionKernel("fmha-64", 64, packs_prompt=False, permutes=False, splits_alone=True),
    )
}


@dataclass(frozen=True, slots=True)
class Form:
    """One law. `constants`: (dimension, where a fit starts); `axes`: numbers of a shape; `family`: those of a model.

    A family is what a model fixes: the weights of a GEMM, the heads of an attention, the experts of a layer. A law is
    tested on families that it was not fitted on.
    """

    name: str
    constants: Mapping[str, tuple[str, float]]
    axes: tuple[str, ...]
    family: tuple[str, ...]

    @property
    def is_attention(self) -> bool:
        """Whether it is of an attention, which has a kernel's layout and stores keys and values."""
        return "context" in self.axes


_ATTENTION_AXES = ("n_sequences", "n_heads", "n_kv_heads", "head_width", "context")
_HEADS = ("n_heads", "n_kv_heads", "head_width")
_LATENT_AXES = ("n_sequences", "n_heads", "key_width", "value_width", "context")
_EXPERT_AXES = ("n_tokens", "d_model", "d_ff", "top_k", "n_experts", "n_up")
_EXPERTS = ("d_model", "d_ff_whole", "top_k", "n_experts")

FORMS: Mapping[str, Form] = {
    one.name: one
    for one in (
        Form("gemm", _GEMM, ("m", "n", "k"), ("n", "k")),
        Form("quantised_gemm", _QUANTISED, ("m", "n", "k"), ("n", "k")),
        Form("decode_attention", _DECODE, _ATTENTION_AXES, _HEADS),
        Form("context_attention", _CONTEXT, _ATTENTION_AXES, _HEADS),
        Form("latent_decode", _LATENT_DECODE, _LATENT_AXES, ("n_heads",)),
        Form("latent_context", _CONTEXT, _LATENT_AXES, ("n_heads",)),
        Form("experts", _FUSED, _EXPERT_AXES, _EXPERTS),
    )
}
