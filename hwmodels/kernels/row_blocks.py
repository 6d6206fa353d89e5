"""Products of one row whose kernel gives a block of threads to each row of weights, as llama.cpp's mul_mat_vec_q.

Such a block looks up which weights it is to read, reads a few of each thread's, and adds up what its threads found.
Where rows are short that takes longer than the memory needs for them: a card of few multiprocessors then multiplies
small experts at a fraction of its memory rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from offload.ops import Gemm
from traces.errors import InvalidFile
from traces.foundation.documents import Section

__all__ = ["NO_ROW_BLOCKS", "RowBlocks", "read_blocks", "read_row_blocks"]


@dataclass(frozen=True, slots=True)
class RowBlocks:
    """`passes`: (bits, weights): of weights up to so many bits wide, how many all threads of a block read at a time,
    ascending; empty: kernels are bound by memory alone. `up_to_rows`: products of more rows run other kernels.
    `n_rows`: rows of weights of a block, for one row of activations; for more it takes two at least.
    """

    passes: tuple[tuple[float, int], ...] = ()
    up_to_rows: int = 1
    n_rows: int = 1

    def weights_a_pass(self, bits: float) -> int:
        """Weights of `bits` that a block reads at a time; of wider ones than any stated, as of the widest."""
        return next((weights for most, weights in self.passes if bits <= most), self.passes[-1][1])

    def counts(self, gemm: Gemm) -> tuple[int, int]:
        """Blocks of all `gemm.n_gemms` products, and the weights that they multiply, once a row of activations; none
        where other kernels run.
        """
        if not self.passes or gemm.m > self.up_to_rows:
            return 0, 0
        held = self.n_rows if gemm.m == 1 else max(self.n_rows, 2)
        return -(-gemm.n // held) * gemm.n_gemms, gemm.n * gemm.n_gemms * gemm.k * gemm.m

    def counts_by_pair(self, gemm: Gemm) -> tuple[int, int]:
        """The same of experts each of whose rows has blocks of its own."""
        return self.counts(gemm._replace(m=1, n_gemms=gemm.m * gemm.n_gemms))


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
    return RowBlocks(tuple(passes), up_to_rows, n_rows)
