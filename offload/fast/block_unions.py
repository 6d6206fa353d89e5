"""The unions of experts of many forward passes, and what their FFNs cost, as `decode_kernel` reads them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from offload.decoding.micro_batches import tokens_of
from offload.decoding.work_rows import Rows, Works
from offload.ops import Work
from traces.foundation.memoised_values import KeptWithArray
from traces.routing import Step

UNIONS = Kernel(
    "offload.fast.kernels.unions_kernel", "unions", ("int16[3]", "int64[1]", "int64", "int64", *["int64[1]"] * 4)
)

GROUPS = Kernel(
    "offload.fast.kernels.groups_kernel",
    "groups",
    (*["int64[1]"] * 4, "int8[1]", *["int64[1]"] * 5),
    returns=True,
    unrolls=False,
)

_SERVED = 1 << 13
"""Numbers of tokens an expert below which experts that serve as many are counted."""


class _Grouped(NamedTuple):
    """The works of groups that have experts, those of others by number of the group, and the group at each place."""

    made: list[Work]
    others: list[tuple[int, Work | None]]
    place: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class BlockUnions:
    """Of every (pass, block) in CSR form, (n_passes * n_blocks + 1,), where it starts; its `experts` ascending, and the
    `tokens` that each serves of each micro-batch of the pass, one micro-batch after the other.

    `n_parts`: (n_passes,) micro-batches; `n_shared`: (n_parts in all,) tokens that shared experts serve. `latest`: what
    `grouped` found last, by what it was asked with, which it does not keep alive.
    """

    ptr: NDArray[np.int64]
    experts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    n_parts: NDArray[np.int64]
    n_shared: NDArray[np.int64]
    latest: dict[Any, _Grouped] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """MoE blocks of a pass."""
        return (len(self.ptr) - 1) // len(self.n_parts)

    @property
    def union(self) -> NDArray[np.int64]:
        """Of each of `experts` its union, (len(experts),)."""
        return np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))

    @property
    def first_cost(self) -> NDArray[np.int64]:
        """Of each pass where its `tokens` begin, (n_passes,)."""
        sizes = self.n_parts * np.diff(self.ptr[:: self.n_blocks])
        return np.cumsum(sizes) - sizes

    def grouped(self, rows: Rows, works: Works, shares: NDArray[np.bool_], form: Sequence[int]) -> NDArray[np.int64]:
        """The cost of one op of the experts of a union that `shares` (n_entries,) names, and of shared ones, of each
        pass by block and micro-batch. -1 for nothing, where there are micro-batches. `form`: (n_blocks,), which of
        `works.each` a block has.
        """
        key = weakref.ref(works), shares.tobytes(), tuple(form)
        found = self.latest.get(key)
        if found is None:  # else another design fetches the same experts of the same passes
            found = self._grouped(works, shares, form)
            self.latest.clear()
            self.latest[key] = found
        made, others, place = found
        row = np.full(len(made) + len(others), -1, np.int64)
        has_runs = np.ones(len(row), np.bool_)
        has_runs[[i for i, _ in others]] = False
        row[has_runs] = rows.add(made, made_once=len(works.each) == 1) + np.arange(len(made))
        for i, work in others:
            row[i] = rows.of(work)
        return row[place]

    def _grouped(self, works: Works, shares: NDArray[np.bool_], form: Sequence[int]) -> _Grouped:
        n_groups = self.n_blocks * int(self.n_parts.sum())
        place, begins = np.empty(n_groups, np.int64), np.zeros(n_groups + 1, np.int64)
        numbers = np.empty(n_groups + 2 * len(self.tokens) + 2, np.int64)
        table = np.full(1 << (2 * n_groups).bit_length(), -1, np.int64)
        of_entries = self.ptr, self.tokens, self.n_parts, self.n_shared, np.ascontiguousarray(shares).view(np.int8)
        serving = np.zeros(_SERVED, np.int64)
        n_found, each = loaded(GROUPS)(*of_entries, place, begins, numbers, table, serving), works.each
        n_forms = len(each)
        of, form_of = np.arange(n_found), np.zeros(n_found, np.int64)
        if n_forms > 1:
            forms = np.concatenate([np.repeat(form, n) for n in self.n_parts.tolist()])
            wanted, place = np.unique(place * n_forms + forms, return_inverse=True)
            of, form_of = np.divmod(wanted, n_forms)
        text, is_split = numbers[: begins[n_found]].tobytes(), self.n_parts.max() > 1
        has_runs = np.diff(begins[: n_found + 1])[of] > 1  # of which a model makes one work each, unlike any other
        bounds = zip(*((8 * begins[of[has_runs] + end]).tolist() for end in (0, 1)), strict=True)
        made = [
            each[one].grouped_runs(text[begin:end])
            for one, (begin, end) in zip(form_of[has_runs].tolist(), bounds, strict=True)
        ]
        others = list[tuple[int, Work | None]]()
        for i in np.flatnonzero(~has_runs).tolist():
            shared = int(numbers[begins[of[i]]])
            others.append((i, each[form_of[i]].grouped(shared, ()) if shared or not is_split else None))
        return _Grouped(made, others, place)


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
