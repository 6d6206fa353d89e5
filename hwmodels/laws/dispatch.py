"""Which tile an engine multiplies with, where its source says: by shape, not by time.

vLLM's fp8 GEMMs, read in csrc/quantization/cutlass_w8a8 (scaled_mm_c2x_sm89_fp8_dispatch.cuh) and
csrc/libtorch_stable/quantization (scaled_mm_sm90_fp8_dispatch.cuh, scaled_mm_sm120_fp8_dispatch.cuh). None of them
splits the inner dimension. On compute capability 10 vLLM calls FlashInfer instead, which tries what is fastest.

Triton's fused experts without a configuration that was tuned for the card, as get_default_config in fused_moe.py of
vLLM and of SGLang has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Tile(NamedTuple):
    """Rows and columns of an output tile, and how many of each way run together on multiprocessors of their own.

    Numbers, or arrays of them: of each of many products.
    """

    rows: Any
    columns: Any
    together_rows: Any = 1
    together_columns: Any = 1


class _Choice(NamedTuple):
    """For m of `least_m` to `most_m`, n to `most_n`, k from `least_k`."""

    tile: Tile
    most_m: float = math.inf
    most_n: float = math.inf
    least_m: float = 0
    least_k: float = 0


DISPATCHES: Mapping[str, tuple[_Choice, ...]] = {
    # The first that holds; the last holds for all.
    "cutlass-sm89": (
        _Choice(Tile(32, 64), 32, 8192),
        _Choice(Tile(32, 128), 32, 16384),
        _Choice(Tile(32, 64), 32),
        _Choice(Tile(64, 64), 64, 8192),
        _Choice(Tile(64, 128), 64, 16384),
        _Choice(Tile(64, 64), 64),
        _Choice(Tile(64, 128), 128, 8192),
        _Choice(Tile(128, 128), 128, 16384),
        _Choice(Tile(128, 64), 128),
        _Choice(Tile(64, 128), 256, 4096),
        _Choice(Tile(128, 128), 256),
        _Choice(Tile(128, 128), most_n=4096),
        _Choice(Tile(256, 128), most_n=8192),
        _Choice(Tile(128, 128)),
    ),
    # Few rows: operands are swapped, so that columns lie where a tensor core has 64 rows.
    "cutlass-sm90": (
        _Choice(Tile(16, 64, 2), 16, 1280),
        _Choice(Tile(16, 64), 16),
        _Choice(Tile(16, 64, 4), 64, 1280),
        _Choice(Tile(64, 64), 64),
        _Choice(Tile(64, 128, 2), 128),
        _Choice(Tile(256, 128, 2), least_m=8192, least_k=6144),
        _Choice(Tile(128, 128, 2)),
    ),
    "cutlass-sm120": (
        _Choice(Tile(16, 64), 16),
        _Choice(Tile(32, 64), 32),
        _Choice(Tile(64, 64), 256),
        _Choice(Tile(128, 128)),
    ),
}

FP8_DISPATCH: Mapping[str, str] = {"8.9": "cutlass-sm89", "9.0": "cutlass-sm90", "12.x": "cutlass-sm120"}
"""By family of GPUs (`hwmodels.laws.families`), what vLLM multiplies fp8 with."""

_WIDTHS = range(16, 257, 16)

INSTRUCTION_TILES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "wgmma": tuple((rows, columns) for rows in (64, 128) for columns in _WIDTHS),
    "tcgen05": tuple((128, columns) for columns in _WIDTHS),
}
"""Tiles of a multiprocessor by the instruction that multiplies them, where libraries are generated for all its widths
(cuBLAS's kernels are named by theirs). PTX ISA: wgmma.mma_async takes 64 rows, 128 by two warpgroups, tcgen05.mma 128
(64 at half the rate); of columns a multiple of 8, and of 16, up to 256."""

DENSE_INSTRUCTION: Mapping[str, str] = {"9.0": "wgmma", "10.x": "tcgen05"}
"""By family of GPUs, what dense products in 16 bits are multiplied by; others have libraries of few tiles."""

MARLIN_TILES = tuple((rows, columns) for rows in (8, 16, 32, 48, 64) for columns in (64, 128, 256))
"""Of weights alone that are narrow, under vLLM on every card: Marlin (csrc/quantization/marlin, marlin.cu) takes 8 rows
up to 8, else as many times 16 as hold them, 64 at most, by mma whatever the card has besides, and one block a
multiprocessor, over which it cuts the inner dimension."""

TRITON_DEFAULT = "triton-default"
"""Fused experts in small tiles where tokens are no more than experts, in tall ones else (`hwmodels.laws.moe`)."""

FLASHINFER_CUTLASS = "flashinfer-cutlass"
"""Fused experts in fp8 of Hopper, whose weights come as fast as multiprocessors take them: an H100 and an H200 take the
same time for them within 3 % (16 bits: 1.35 times), whose memories differ by 1.43. Why is not known."""

TRITON_TUNED: Mapping[int, tuple[int, ...]] = {8: (1792, 2048, 3584, 4096, 7168)}
"""By number of experts, the widths for which configurations that were tuned on an A100 are shipped in 16 bits (vLLM,
vllm/model_executor/layers/fused_moe/configs, from which SGLang's come): they take what is fastest. Of what the tables
measured; 8,192, 14,336 and 16,384 have none."""
