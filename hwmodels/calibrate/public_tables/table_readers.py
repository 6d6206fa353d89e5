"""Rows of the public tables of kernels (`hwmodels.calibrate.public_tables.kernel_tables`), as laws need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.laws.dispatch import DENSE_INSTRUCTION, FLASHINFER_CUTLASS, FP8_DISPATCH, TRITON_DEFAULT
from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.moe import ALIGNED
from hwmodels.quantity import ReadOnly

_LEFT_OUT: Mapping[tuple[str, str], str] = {
    ("vllm", "fp8_block"): "host time: small shapes all take what launching does",
}
"""GEMM tables, by engine and format, that are not times of a GPU."""

_GEMM_FORMATS = {
    "bfloat16": ("gemm", "bf16", "bf16"),
    "fp8": ("quantised_gemm", "fp8", "fp8"),
    "fp8_block": ("quantised_gemm", "fp8", "fp8-b128"),
    "nvfp4": ("quantised_gemm", "fp4", "nvfp4"),
}

_EXPERT_FORMATS = {
    "bfloat16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8-b128"),
    "w4a16_mxfp4": ("bf16", "mxfp4"),
    "nvfp4": ("fp4", "nvfp4"),
    "int4_wo": ("bf16", "int4-g128"),
}
_CACHE_FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}

_ATTENTION_KERNELS = (
    ("fa3", "flash-attention-3"),
    ("fa2", "flash-attention-2"),
    ("trtllmprefill", "trtllm-gen"),
    ("trtllmdecode", "trtllm-gen"),
    ("vllm_flash_attn", "flash-attention-2"),
)
"""What a kernel's name in a table ends in, and the layout that it is."""

_LATENT_KERNELS = {"flash_attention": "flash-mla", "trtllm_mla": "trtllm-gen-mla", "triton": "triton-mla"}
"""SGLang's kernels of latents by their names in a table, and the layouts that they are."""

_TENSORRT_LATENTS = {"9.0": "flash-mla", "10.x": "trtllm-gen-mla"}
"""TensorRT-LLM's by family of cards, which names all of them "default"; on others a block scans a whole context."""

_ABSORBED, _DECOMPRESSED = (576, 512), (192, 128)
"""Widths of a key and a value of the latents that every table is of: DeepSeek-V2 and later."""

_UNGATED = frozenset({(2688, 1856), (2048, 5120), (1024, 2688)})
"""(hidden size, FFN size) of experts without a gate projection: the Nemotron models, whose activation is relu2."""

_SGLANG_TRITON = "sglang_fused_moe_triton"
"""SGLang's Triton kernel of experts, which its benchmark ran with a gate projection whatever the model: an A100 takes
1.5 times as long for the Nemotron ones as reading theirs would, at 32 tokens and at 128."""

_FLASHINFER_CUTLASS = "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts"
"""FlashInfer's grouped products of experts in fp8, as vLLM calls them."""

_LEAST_GEMM = 512
"""Columns and inner dimension of a GEMM at least: what a model multiplies on one device."""

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class KernelTable:
    """Rows of one kernel in one format: `shapes` by axis, each (n,), `seconds` (n,), `family` (n,) int.

    `source`: where they were read, as text. `windowed`: rows of the same kernel in sliding windows, with a shape more,
    `window`: what no law is fitted on, but judged by; None without any.
    """

    form: str
    compute: str
    stored: str
    kernel: str
    shapes: Mapping[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]
    family: NDArray[np.int64]
    source: Mapping[str, str]
    windowed: KernelTable | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is of: law, format of arithmetic, format of storage."""
        return self.form, self.compute, self.stored

    def __len__(self) -> int:
        return len(self.seconds)

    def rows(self, chosen: NDArray[Any]) -> KernelTable:
        """Some of its rows, by index or by mask."""
        shapes = {name: column[chosen] for name, column in self.shapes.items()}
        return KernelTable(
            self.form, self.compute, self.stored, self.kernel, ReadOnly(shapes), self.seconds[chosen],
            self.family[chosen], self.source,
        )  # fmt: skip


def _gemms(columns: Columns, source: Mapping[str, str], family: str | None) -> list[KernelTable]:
    wide = (columns["n"] >= _LEAST_GEMM) & (columns["k"] >= _LEAST_GEMM)
    found = []
    for name, (form, compute, stored) in _GEMM_FORMATS.items():
        rows = wide & (columns["gemm_dtype"] == name)
        if (source["engine"], name) not in _LEFT_OUT:
            shapes = {axis: columns[axis] for axis in ("m", "n", "k")}
            of_family = FP8_DISPATCH if (source["engine"], name) == ("vllm", "fp8") else {}
            if form == "gemm":
                of_family = DENSE_INSTRUCTION
            found.append(_table(form, compute, stored, of_family.get(family or "", ""), shapes, columns, rows, source))
    return found


def _attention(
    columns: Columns, source: Mapping[str, str], form: str, context: NDArray[Any], chosen: NDArray[np.bool_]
) -> list[KernelTable]:
    """Of each format of the cache the kernel that most rows ran, those in sliding windows apart."""
    shapes = {
        "n_sequences": columns["batch_size"],
        "n_heads": columns["num_heads"],
        "n_kv_heads": columns["num_key_value_heads"],
        "head_width": columns["head_dim"],
        "context": context,
    }
    window = columns.get("window_size", np.zeros(len(context)))
    found = []
    for name, stored in _CACHE_FORMATS.items():
        mine = chosen & (columns["kv_cache_dtype"] == name)
        ran = _commonest(columns["kernel_source"][mine & (window == 0)])
        kernel = next((kernel for end, kernel in _ATTENTION_KERNELS if ran.endswith(end)), None)
        if kernel is not None:
            rows = mine & (columns["kernel_source"] == ran)
            whole = _table(form, "bf16", stored, kernel, shapes, columns, rows & (window == 0), source)
            slid = {**shapes, "window": window}
            windowed = _table(form, "bf16", stored, kernel, slid, columns, rows & (window > 0), source)
            found.append(dataclasses.replace(whole, windowed=windowed if len(windowed) else None))
    return found


def _decode(columns: Columns, source: Mapping[str, str], family: str | None) -> list[KernelTable]:
    context = columns["isl"] + columns["step"]
    return _attention(columns, source, "decode_attention", context, np.ones(len(context), np.bool_))


def _context(columns: Columns, source: Mapping[str, str], family: str | None) -> list[KernelTable]:
    """Prompts of one token are decoding."""
    return _attention(columns, source, "context_attention", columns["isl"], columns["isl"] > 1)


def _latents(
    columns: Columns, source: Mapping[str, str], kernels: Mapping[str, str], form: str, widths: tuple[int, int]
) -> list[KernelTable]:
    """Rows of latent attention by the format of their cache, of one kernel whose layout is known."""
    n = len(columns["latency"])
    shapes = {
        "n_sequences": columns["batch_size"],
        "n_heads": columns["num_heads"],
        "key_width": np.full(n, widths[0]),
        "value_width": np.full(n, widths[1]),
        "context": columns["isl"] + columns["step"],
    }
    prompt = columns["isl"] > 1
    mine = (columns["mla_dtype"] == "bfloat16") & (prompt if form == "latent_context" else ~prompt)
    found = []
    for name, stored in _CACHE_FORMATS.items():
        for ran, kernel in kernels.items():
            rows = mine & (columns["kv_cache_dtype"] == name) & (columns["kernel_source"] == ran)
            if kernel == "triton-mla":  # a single head runs another kernel (decode_attention_fwd_normal)
                rows &= columns["num_heads"] > 1
            compute = stored if kernel == "trtllm-gen-mla" else "bf16"  # it multiplies in the format of the cache
            found.append(_table(form, compute, stored, kernel, shapes, columns, rows, source))
    return found


def _latent_decode(columns: Columns, source: Mapping[str, str], family: str | None) -> list[KernelTable]:
    """Latents absorbed, as every engine decodes."""
    if source["engine"] == "trtllm":
        kernels = {"default": _TENSORRT_LATENTS.get(family or "", "whole-context-mla")}
    else:
        kernels = _LATENT_KERNELS
    return _latents(columns, source, kernels, "latent_decode", _ABSORBED)


def _latent_context(columns: Columns, source: Mapping[str, str], family: str | None) -> list[KernelTable]:
    """Latents decompressed into keys and values of every head; of engines that absorb them in prompts too, none."""
    if source["engine"] == "trtllm":
        kernels = {"default": "fmha-128" if family in _TENSORRT_LATENTS else "fmha-64"}
    else:
        kernels = {"trtllm_mla": "fmha-128"}
    return _latents(columns, source, kernels, "latent_context", _DECOMPRESSED)


def _experts(columns: Columns, source: Mapping[str, str], family: str | None) -> list[KernelTable]:
    """Balanced rows on one device, of aligned widths: of skewed ones the tables do not say how many rows each expert
    got.
    """
    pairs = list(zip(columns["hidden_size"].tolist(), columns["inter_size"].tolist(), strict=True))
    shapes = {
        "n_tokens": columns["num_tokens"],
        "d_model": columns["hidden_size"],
        "d_ff": columns["inter_size"] / columns["moe_tp_size"],
        "d_ff_whole": columns["inter_size"],
        "top_k": columns["topk"],
        "n_experts": columns["num_experts"],
        "n_up": np.array([1 if pair in _UNGATED else 2 for pair in pairs]),
    }
    alone = (columns["distribution"] == "balanced") & (columns["moe_ep_size"] == 1)
    alone &= (shapes["d_model"] % ALIGNED == 0) & (shapes["d_ff"] % ALIGNED == 0)
    found = []
    for name, (compute, stored) in _EXPERT_FORMATS.items():
        mine = alone & (columns["moe_dtype"] == name)
        ran = _commonest(columns["kernel_source"][mine])
        rows = mine & (columns["kernel_source"] == ran)
        gated = {**shapes, "n_up": np.full(len(pairs), 2)} if ran == _SGLANG_TRITON else shapes
        tiles = TRITON_DEFAULT if (ran, name) == (_SGLANG_TRITON, "bfloat16") else ""
        if (ran, name, family) == (_FLASHINFER_CUTLASS, "fp8", "9.0"):
            tiles = FLASHINFER_CUTLASS
        found.append(_table("experts", compute, stored, tiles, gated, columns, rows, source))
    return found


def _numbered(columns: Columns, names: Sequence[str]) -> NDArray[np.int64]:
    """Rows alike in all of `names` have one number, from 0."""
    of_family = np.stack([columns[name] for name in names])
    if not of_family.shape[1]:
        return np.zeros(0, np.int64)
    return np.asarray(np.unique(of_family, axis=1, return_inverse=True)[1], np.int64).reshape(-1)


def _commonest(names: NDArray[Any]) -> str:
    """The name that most rows have; "" of none."""
    known, counts = np.unique(names, return_counts=True)
    return str(known[int(np.argmax(counts))]) if len(known) else ""


def _table(
    form: str, compute: str, stored: str, kernel: str, shapes: Columns, columns: Columns, rows: NDArray[np.bool_],
    source: Mapping[str, str],
) -> KernelTable:  # fmt: skip
    """Rows with a positive time, families numbered."""
    rows = rows & (columns["latency"] > 0)
    kept = {name: np.asarray(column, np.float64)[rows] for name, column in shapes.items()}
    family = _numbered(kept, FORMS[form].family)
    if form == "experts" and len(family) and not family.any():  # one model: its slices of the FFN
        family = _numbered(kept, ("d_ff",))
    ran = {"kernel": _commonest(columns["kernel_source"][rows])} if "kernel_source" in columns else {}
    return KernelTable(
        form, compute, stored, kernel, ReadOnly(kept), columns["latency"][rows] * 1e-3, family,
        ReadOnly({**source, **ran}),
    )  # fmt: skip


Reader = Callable[[Columns, Mapping[str, str], str | None], list[KernelTable]]
"""Of columns, where they were read, and the family of the card."""

READERS: Mapping[str, Reader] = {
    "gemm/gemm_perf": _gemms,
    "attention/generation_attention_perf": _decode,
    "attention/context_attention_perf": _context,
    "mla/generation_mla_perf": _latent_decode,
    "mla/context_mla_perf": _latent_context,
    "moe/moe_perf": _experts,
}
"""What reads a table, by its folder and name."""
