"""The least time that kernels take: however little a kernel computes, it starts, fills the card, and drains.

Measured on present-day cards, GEMMs take 3 to 4 us at least, decode attention 10 to 12, a fused op of experts 17 to 31
in bf16 and 29 to 38 in 8 bits; a stack says its own (`SoftwareStack.constants`). Beyond its floor a kernel takes its
fixed time and its roofline. Fits that measured kernels know better, and use no floor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hwmodels.figures import Figures, Number
from hwmodels.kernels.fused_counts import FusedCounts
from offload.ops import FusedExperts, Gemm, Work

NARROW_BITS = 8.5
"""Weights of so many bits at most are narrow: they are unpacked, or multiplied in 8 bits and less."""


def missing_s(
    work: Work, figures: Figures, fixed_s: Number, gemms_s: list[Number], counts: FusedCounts | None = None
) -> Number:
    """What an op that takes `fixed_s` and, in its GEMMs, `gemms_s` lacks to its floors.

    `gemms_s`: by GEMM of `work`, of a fused op of experts by kernel. Each kernel has one `kernel_s` in `fixed_s`. An
    attention reads its context after its floor: that grows by as much as the context from the first token on. `counts`
    as of `fused_s`.
    """
    n_tiled = _n_tiled(work, figures) if counts is None else counts.n_tiled
    missing: Number = n_tiled * figures.cycles_s("tiled_gemm_s")
    if work.fused is not None:
        kind = "narrow_experts" if work.weight_bits <= NARROW_BITS else "experts"
        return missing + _lacking(figures, kind, fixed_s + missing + sum(gemms_s))
    kernel_s = figures.cycles_s("kernel_s")
    if work.attending is not None:
        missing = missing + _lacking(figures, "attention", kernel_s)
    for members in merged(work):
        missing = missing + _lacking(figures, "gemm", kernel_s + sum(gemms_s[i] for i in members))
    return missing


def at_floor(work: Work, figures: Figures, fixed_s: Number, gemms_s: list[Number]) -> bool:
    """Whether a fused op of experts is bound by its floor, on every machine: then no rate counts."""
    beyond = missing_s(work, figures, fixed_s, gemms_s) - _n_tiled(work, figures) * figures.cycles_s("tiled_gemm_s")
    return bool(np.all(np.real(beyond) > 0))


def _n_tiled(work: Work, figures: Figures) -> int:
    """Matrices that `work` multiplies in tiles; those of fused experts count once for all of them, unless each has a
    product of its own.
    """
    tile = figures.stack.fused_tile
    apart = work.fused is None or tile.are_apart(work.fused)
    alone = work.gemms if apart or work.fused is None else work.gemms[work.fused.n_gemms :]
    # experts alone have tiles whatever rows they have got more than one of
    least = 2 if work.fused is not None and apart else tile.tiled_from
    n = sum(gemm.n_gemms for gemm in alone if _at_least(gemm.m, least))
    if not apart and work.fused is not None and work.fused.n_tokens >= tile.tiled_from:
        up, down = work.gemms[:2]
        n += up.n_gemms // down.n_gemms + 1
    return n


def _at_least(m: Any, rows: int) -> bool:
    """Whether a GEMM has so many rows; of works that are priced together all have, or none."""
    return bool(m >= rows if type(m) is int else np.all(m >= rows))


def merged(work: Work) -> list[list[int]]:
    """The GEMMs of `work` by kernel: neighbours that read the same rows are one (queries, keys, values)."""
    kernels: list[list[int]] = []
    for i, gemm in enumerate(work.gemms):
        last = work.gemms[kernels[-1][-1]] if kernels else None
        if last is not None and (last.m, last.k) == (gemm.m, gemm.k):
            kernels[-1].append(i)
        else:
            kernels.append([i])
    return kernels


def _lacking(figures: Figures, kind: str, taken_s: Number) -> Number:
    floor_s = figures.values.get(f"stack.{kind}_floor_s")
    if floor_s is None:
        return 0.0
    short: Any = floor_s - taken_s
    return np.where(np.real(short) > 0, short, 0.0) if isinstance(short, np.ndarray) else max(short, 0.0, key=_real)


def _real(value: Any) -> float:
    return float(value.real)


def fused_s(
    work: Work, figures: Figures, flop_per_s: Number, bytes_per_s: Number, counts: FusedCounts | None = None
) -> list[tuple[Number, Number]]:
    """(arithmetic, traffic) of the two kernels of a fused op of experts, up and down, then of each GEMM of shared ones.

    Rows of each expert are padded to whole tiles (`SoftwareStack.fused_tile`). A block that loads, waits and multiplies
    hides no load behind a product of its own; those of other blocks share the memory rate all the same. Of one
    token, and where a kernel reads an expert for each of its rows, rows of weights have blocks
    (`SoftwareStack.row_blocks`). `counts`: of many ops that are like `work` but for the rows of experts, each priced as
    it is alone.
    """
    assert work.fused is not None
    bits = figures.read_bits(work)
    shape = figures.stack.fused_tile
    load_s = _tile_load_s(figures)
    if counts is not None:
        block_s, pass_s = _of_row_blocks(figures)
        each = zip(counts.flop, counts.weights, counts.loads, counts.blocks, counts.passes, strict=True)
        return [
            (flop / flop_per_s + n * load_s + (blocks * block_s + passes * pass_s), read * bits / 8 / bytes_per_s)
            for flop, read, n, blocks, passes in each
        ]
    n = work.fused.n_gemms
    kernels = [work.gemms[0:n:2], work.gemms[1:n:2], *((gemm,) for gemm in work.gemms[n:])]
    pairs = []
    for i, kernel in enumerate(kernels):
        flop = 0
        for gemm in kernel:
            tile = shape.height_of(work.fused, gemm.m) if i < 2 else 1
            flop += 2 * -(-gemm.m // tile) * tile * gemm.n * gemm.k * gemm.n_gemms
        by_pair = i < 2 and _reads_pairs(work, figures)
        weights = _read_by_pair(kernel, work.fused, figures) if by_pair else sum(map(_weights, kernel))
        if i < 2:
            loads = sum(shape.n_loads(work.fused, gemm) for gemm in kernel)
        else:
            loads = sum(n_loads_alone(gemm, figures) for gemm in kernel)
        in_blocks = kernel if i >= 2 or by_pair else ()
        blocks_s = row_blocks_s(in_blocks, work.weight_bits, figures, work.fused.n_tokens if by_pair else 0)
        pairs.append((flop / flop_per_s + loads * load_s + blocks_s, weights * bits / 8 / bytes_per_s))
    return pairs


def read_bytes(work: Work, figures: Figures) -> float:
    """Bytes of its weights that an op reads: those of an expert once for each row where its kernel does."""
    if work.fused is None or work.fused.n_tokens == 1 or not _reads_pairs(work, figures):
        return work.weight_bytes
    routed = work.gemms[: work.fused.n_gemms]
    again = _read_by_pair(routed, work.fused, figures) - sum(map(_weights, routed))
    return work.weight_bytes + again * work.weight_bits / 8


def _reads_pairs(work: Work, figures: Figures) -> bool:
    """Whether a fused op reads an expert for each of its rows."""
    assert work.fused is not None
    taken = figures.stack.row_blocks.take_pairs(work.weight_bits, work.fused.n_tokens)
    return figures.stack.fused_tile.reads_each_pair(work.fused) and bool(taken)


def _weights(gemm: Gemm) -> int:
    return gemm.n * gemm.k * gemm.n_gemms


def _read_by_pair(gemms: Iterable[Gemm], fused: FusedExperts, figures: Figures) -> int:
    """Weights that `gemms` read where each pair of token and expert has rows of threads of its own."""
    blocks, n_slots = figures.stack.row_blocks, -(-fused.n_rows // fused.n_tokens)
    return sum(round(_weights(gemm) * blocks.reads(gemm.m, n_slots)) for gemm in gemms)


def alone_s(gemm: Gemm, bits: float, figures: Figures) -> Number:
    """What the multiprocessors take for a product that is no fused one, beyond its arithmetic: for its tiles' loads, or
    for its blocks of rows, whichever its number of rows asks for.
    """
    return n_loads_alone(gemm, figures) * _tile_load_s(figures) + row_blocks_s((gemm,), bits, figures)


def n_loads_alone(gemm: Gemm, figures: Figures) -> int:
    """Loads that something waits for, where a stack says which kernel multiplies few rows; 0 where it does not."""
    blocks = figures.stack.row_blocks
    return figures.stack.fused_tile.n_loads_alone(gemm, blocks.up_to_rows + 1) if blocks.passes else 0


def _tile_load_s(figures: Figures) -> Number:
    """Of the whole card, whose multiprocessors have `FusedTile.blocks` at a time."""
    return figures.cycles_s("tile_load_s") / (figures["accelerator.n_sm"] * figures.stack.fused_tile.blocks)


def row_blocks_s(gemms: Iterable[Gemm], bits: float, figures: Figures, by_pair_of: int = 0) -> Number:
    """What the multiprocessors take for the blocks of rows of `gemms`, whose weights are `bits` wide; 0 where they have
    none. `by_pair_of`: of experts each of whose rows has blocks of its own, the tokens of the pass.
    """
    shape = figures.stack.row_blocks
    if by_pair_of:
        counts = [shape.counts_by_pair(gemm, bits, by_pair_of) for gemm in gemms]
    else:
        counts = [shape.counts(gemm, bits) for gemm in gemms]
    n_blocks, n_weights = (sum(each) for each in zip(*counts, strict=True)) if counts else (0, 0)
    if not n_blocks:
        return 0.0
    block_s, pass_s = _of_row_blocks(figures)
    return n_blocks * block_s + n_weights / shape.weights_a_pass(bits) * pass_s


def _of_row_blocks(figures: Figures) -> tuple[Number, Number]:
    """Of the whole card: a block of a row, and one pass of it."""
    n_sm = figures["accelerator.n_sm"]
    return figures.cycles_s("row_block_s") / n_sm, figures.cycles_s("row_pass_s") / n_sm
