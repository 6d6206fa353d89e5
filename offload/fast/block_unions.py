"""The unions of experts of many forward passes, and what their FFNs cost, as `decode_kernel` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from offload.decoding.micro_batches import tokens_of
from offload.decoding.work_rows import Rows, Works
from traces.foundation.kept_values import KeptWithArray
from traces.routing import Step

__all__ = ["UNIONS", "BlockUnions", "block_unions_of"]

UNIONS = Kernel("offload.fast.unions_kernel", "unions", ("int16[3]", "int64[1]", "int64", "int64", *["int64[1]"] * 4))


@dataclass(frozen=True, slots=True, eq=False)
class BlockUnions:
    """Of every (pass, block) in CSR form, (n_passes * n_blocks + 1,), where it starts; its `experts` ascending, and the
    `tokens` that each serves of each micro-batch of the pass, one micro-batch after the other.

    `n_parts`: (n_passes,) micro-batches; `n_shared`: (n_parts in all,) tokens that shared experts serve.
    """

    ptr: NDArray[np.int64]
    experts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    n_parts: NDArray[np.int64]
    n_shared: NDArray[np.int64]

    @property
    def n_blocks(self) -> int:
        """MoE blocks of a pass."""
        return (len(self.ptr) - 1) // len(self.n_parts)

    @property
    def union(self) -> NDArray[np.int64]:
        """Of each of `experts` its union."""
        return np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))

    @property
    def first_cost(self) -> NDArray[np.int64]:
        """Of each pass where its `tokens` begin, (n_passes,)."""
        sizes = self.n_parts * np.diff(self.ptr[:: self.n_blocks])
        return np.cumsum(sizes) - sizes

    def grouped(self, rows: Rows, works: Works, shares: NDArray[np.bool_], n_experts: int) -> NDArray[np.int64]:
        """The cost of one op of the experts of a union that `shares` (n_entries,) names, and of shared ones, of each
        pass by block and micro-batch; -1 for nothing.
        """
        if self.n_parts.max() > 1:
            return self._grouped_in_parts(rows, works, shares)
        sizes = np.bincount(self.union[shares], minlength=len(self.ptr) - 1)
        n_shared = np.repeat(self.n_shared, self.n_blocks)
        uneven = np.zeros(len(sizes), dtype=np.bool_)
        uneven[self.union[shares & (self.tokens > 1)]] = True
        n_sizes = n_experts + 1
        alike, place = np.unique((n_shared * n_sizes + sizes)[~uneven], return_inverse=True)
        pairs = [divmod(code, n_sizes) for code in alike.tolist()]
        made = [rows.of(works.grouped(shared, (1,) * size)) for shared, size in pairs]
        found = np.zeros(len(sizes), np.int64)
        found[~uneven] = np.array(made, np.int64)[place]
        which = np.flatnonzero(uneven)
        runs, ends = self._runs(shares & uneven[self.union])
        row, begin = list[int](), 0
        for shared, end in zip(n_shared[which].tolist(), ends[which].tolist(), strict=True):
            row.append(rows.of(works.grouped_runs(shared, tuple(runs[begin:end]))))
            begin = end
        found[which] = row
        return found

    def _runs(self, shares: NDArray[np.bool_]) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
        """Union after union, of its experts that `shares` (n_entries,) names: how many tokens they serve and how many
        experts serve so many, ascending; and where each union ends.
        """
        most = int(self.tokens.max(initial=0)) + 1
        code, n_experts = np.unique(self.union[shares] * most + self.tokens[shares], return_counts=True)
        ends = np.searchsorted(code, np.arange(1, len(self.ptr)) * most)
        return list(zip((code % most).tolist(), n_experts.tolist(), strict=True)), ends

    def _grouped_in_parts(self, rows: Rows, works: Works, shares: NDArray[np.bool_]) -> NDArray[np.int64]:
        n_blocks, most, first, served = self.n_blocks, int(np.diff(self.ptr).max(initial=0)), 0, []
        for i, (n_parts, at) in enumerate(zip(self.n_parts.tolist(), self.first_cost.tolist(), strict=True)):
            ptr = self.ptr[i * n_blocks : (i + 1) * n_blocks + 1]
            sizes, n = np.diff(ptr), int(ptr[-1] - ptr[0])
            counts = np.zeros((n_blocks, n_parts, 1 + most), np.int64)
            counts[:, :, 0] = self.n_shared[first : first + n_parts]
            first += n_parts
            mine = self.tokens[at : at + n * n_parts].reshape(n, n_parts) * shares[ptr[0] : ptr[-1], None]
            place = np.arange(n) - np.repeat(ptr[:-1] - ptr[0], sizes)
            counts[np.repeat(np.arange(n_blocks), sizes), :, 1 + place] = mine
            counts[:, :, 1:].sort(axis=2)
            served.append(counts.reshape(n_blocks * n_parts, 1 + most))
        distinct, place = _distinct(np.concatenate(served))
        found = np.empty(len(distinct), np.int64)
        for i, (shared, *tokens) in enumerate(distinct.tolist()):
            runs = tuple((n, len(list(alike))) for n, alike in groupby(tokens) if n)
            found[i] = rows.of(works.grouped_runs(shared, runs) if runs or shared else None)
        return found[place]


def _distinct(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct rows of a `table` of counts in the order in which they come first, and which of them each row is."""
    base = int(table.max(initial=0)) + 1
    if base ** table.shape[1] >= 1 << 63:
        _, first, place = np.unique(table, axis=0, return_index=True, return_inverse=True)
    else:  # as digits of one number
        codes = table @ np.array([base**i for i in range(table.shape[1])], np.int64)
        _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return table[first[order]], np.argsort(order)[place.reshape(-1)]


_KEPT = KeptWithArray[BlockUnions]()
"""Unions that take less than the choices that they are of: those of prompts."""


def block_unions_of(
    batch: Sequence[Step], parts: Sequence[Sequence[Step]], first: int, n_blocks: int, n_experts: int, shared: bool
) -> BlockUnions:
    """The unions of experts of passes in micro-batches `parts`; `shared`: whether the model has shared experts."""
    n_parts = [len(of) for of in parts]
    n_tokens = np.array([len(step.experts) for step in batch])
    n_entries = np.minimum(n_tokens * batch[0].experts.shape[2], n_experts) * n_blocks

    def made() -> BlockUnions:
        if max(n_parts) > 1:
            return _unions_in_parts(batch, parts, first, n_blocks, n_experts, shared)
        return _unions_of_passes(batch, first, n_blocks, n_experts, shared, int(n_entries.sum()))

    most_bytes = 8 * int((n_entries * (1 + np.array(n_parts))).sum())
    if most_bytes > sum(step.experts.nbytes for step in batch):
        return made()
    sizes = tuple(len(part.experts) for of in parts for part in of)  # with the order of sequences: which are in which
    split = tuple(step.sequence.tobytes() for step, of in zip(batch, parts, strict=True) if len(of) > 1)
    key = tuple(n_parts), sizes, split, first, n_blocks, n_experts, shared
    return _KEPT.of([step.experts for step in batch], key, made)


def _unions_of_passes(
    batch: Sequence[Step], first: int, n_blocks: int, n_experts: int, shared: bool, n_entries: int
) -> BlockUnions:
    """Those of passes that are each a micro-batch, of `n_entries` experts at most."""
    n_tokens = np.array([len(step.experts) for step in batch])
    experts = batch[0].experts if len(batch) == 1 else np.concatenate([step.experts for step in batch])
    ptr = np.zeros(len(batch) * n_blocks + 1, np.int64)
    found, tokens = np.zeros(n_entries, np.int64), np.zeros(n_entries, np.int64)
    bounds = np.append(0, np.cumsum(n_tokens))
    counts = np.zeros(n_experts, np.int64)
    loaded(UNIONS)(np.ascontiguousarray(experts), bounds, first, n_blocks, counts, ptr, found, tokens)
    n_parts = np.ones(len(batch), np.int64)
    return BlockUnions(ptr, found[: ptr[-1]], tokens[: ptr[-1]], n_parts, n_tokens * shared)


def _unions_in_parts(
    batch: Sequence[Step], parts: Sequence[Sequence[Step]], first: int, n_blocks: int, n_experts: int, shared: bool
) -> BlockUnions:
    """The same of passes in micro-batches `parts`."""
    sizes, experts, tokens = list[NDArray[np.int64]](), list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for step, of in zip(batch, parts, strict=True):
        counts = tokens_of(step, of, first, n_blocks, n_experts)
        named = counts.any(axis=2)
        sizes.append(named.sum(axis=1))
        experts.append(np.nonzero(named)[1])
        tokens.append(counts[named].ravel())
    n_shared = np.array([len(part.experts) for of in parts for part in of], np.int64) * shared
    ptr = np.append(0, np.cumsum(np.concatenate(sizes)))
    n_parts = np.array([len(of) for of in parts], np.int64)
    return BlockUnions(ptr, np.concatenate(experts), np.concatenate(tokens), n_parts, n_shared)
