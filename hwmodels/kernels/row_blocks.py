"""Products of one row whose kernel gives a block of threads to each row of weights, as llama.cpp's mul_mat_vec_q.

Such a block looks up which weights it is to read, reads a few of each thread's, and adds up what its threads found.
Where rows are short that takes longer than the memory needs for them: a card of few multiprocessors then multiplies
small experts at a fraction of its memory rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offload.ops import Gemm
from traces.errors import InvalidFile
from traces.foundation.documents import Section


@dataclass(frozen=True, slots=True)
class RowBlocks:
    """`passes`: (bits, weights): of weights up to so many bits wide, how many all threads of a block read at a time,
    ascending; empty: kernels are bound by memory alone. `up_to_rows`: products of more rows run other kernels.
    `n_rows`: rows of weights of a block, for one row of activations; for more it takes two at least. `short_rows`: the
    same of rows of fewer weights than a pass; 0: as any. `pair_rows`: of experts that a pass of several tokens reads
    pair by pair, rows of a block that serves all its tokens; 0: a pair has blocks of its own. `pair_bits`: weights that
    are wider run other kernels for several tokens, which read an expert once; 0: none do.
    """

    passes: tuple[tuple[float, int], ...] = ()
    up_to_rows: int = 1
    n_rows: int = 1
    short_rows: int = 0
    pair_rows: int = 0
    pair_bits: int = 0

    def take_pairs(self, bits: float, n_tokens: Any) -> Any:
        """Whether experts of weights of `bits` are read pair by pair in a pass of `n_tokens`, if any are."""
        return (n_tokens == 1) | (not self.pair_bits or bits <= self.pair_bits)

    def held(self, k: Any, bits: float) -> Any:
        """Rows of `k` weights of `bits` that a block has for one row of activations; `k` an array or a number."""
        return self.n_rows + ((self.short_rows or self.n_rows) - self.n_rows) * (k < self.weights_a_pass(bits))

    def held_by_pair(self, k: Any, bits: float, n_tokens: Any) -> Any:
        """The same a block and pair of token and expert, in a pass of `n_tokens`."""
        alone = self.held(k, bits)
        return alone + (self.pair_rows * n_tokens - alone) * (n_tokens > 1) if self.pair_rows else alone

    def reads(self, m: Any, n_slots: Any) -> Any:
        """Times that an expert of `m` tokens is read from memory in a pass that reads pair by pair, each token of which
        has `n_slots` experts. Where a block serves all tokens, those that have it in the same slot read it once, at
        even odds; what caches hold from one slot to another is left out.
        """
        return n_slots * (1.0 - (1.0 - 1.0 / n_slots) ** m) if self.pair_rows else m

    def weights_a_pass(self, bits: float) -> int:
        """Weights of `bits` that a block reads at a time; of wider ones than any stated, as of the widest."""
        return next((weights for most, weights in self.passes if bits <= most), self.passes[-1][1])

    def counts(self, gemm: Gemm, bits: float) -> tuple[int, int]:
        """Blocks of all `gemm.n_gemms` products, and the weights that they multiply, once a row of activations; none
        where other kernels run.
        """
        if not self.passes or gemm.m > self.up_to_rows:
            return 0, 0
        held = self.held(gemm.k, bits) if gemm.m == 1 else max(self.n_rows, 2)
        return -(-gemm.n // held) * gemm.n_gemms, gemm.n * gemm.n_gemms * gemm.k * gemm.m

    def counts_by_pair(self, gemm: Gemm, bits: float, n_tokens: int) -> tuple[int, int]:
        """The same of experts that are read for each of their rows, in a pass of `n_tokens`."""
        if not self.passes:
            return 0, 0
        n_pairs = gemm.m * gemm.n_gemms
        return -(-gemm.n // self.held_by_pair(gemm.k, bits, n_tokens)) * n_pairs, gemm.n * gemm.k * n_pairs


NO_ROW_BLOCKS = RowBlocks()
"""Of a stack that states none: a product of one row takes as long as reading its weights."""


def read_row_blocks(section: Section) -> RowBlocks:
    """What a stack states in `row_blocks`. Raises `InvalidFile` for what is no ascending list of bits and weights."""
    table = section.optional_section("row_blocks")
    return NO_ROW_BLOCKS if table is None else read_blocks(table)


def read_blocks(table: Section) -> RowBlocks:
    """Blocks as their section states them. Raises `InvalidFile` for what is no ascending list of bits and weights."""
    raw, up_to_rows = table.items("passes"), table.integer("up_to_rows", 1, minimum=1)
    n_rows = table.integer("rows", 1, minimum=1)
    few = (table.integer(name, 0, minimum=0) for name in ("short_rows", "pair_rows", "pair_bits"))
    short_rows, pair_rows, pair_bits = few
    table.take("source")
    table.done()
    passes = []
    for one in raw:
        if not isinstance(one, list) or len(one) != 2 or any(isinstance(x, bool) for x in one):
            raise InvalidFile(f"{table.where}: passes: {one!r}: bits a weight, and weights read at a time")
        bits, weights = one
        if not isinstance(bits, int | float) or not isinstance(weights, int) or bits <= 0 or weights < 1:
            raise InvalidFile(f"{table.where}: passes: {one!r}: bits above 0, weights 1 or more")
        passes.append((float(bits), weights))
    if not passes or [bits for bits, _ in passes] != sorted({bits for bits, _ in passes}):
        raise InvalidFile(f"{table.where}: passes = {raw!r}: bits a weight ascend")
    return RowBlocks(tuple(passes), up_to_rows, n_rows, short_rows, pair_rows, pair_bits)
