"""Works that are priced together: those that differ in a context or in rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from hwmodels.figures import Figures
from hwmodels.kernels.fused_counts import FusedCounts, RowCounts, counted, row_counts
from hwmodels.kernels.fused_tile import FusedTile
from hwmodels.kernels.row_blocks import RowBlocks
from hwmodels.stacks.stack import SoftwareStack
from offload.ops import KINDS, FusedExperts, Lane, Work
from traces.foundation.memoised_values import ByIdentities, ByIdentity

_AT_ONCE = 256
"""Fused ops that a law prices together: with many machines their arrays stay small."""

_CONTEXT = Work._fields.index("flop"), Work._fields.index("hbm_bytes")
_EXPERTS = Work._fields.index("gemms"), Work._fields.index("fused")
"""The fields in which works differ that are priced together."""

_Group = tuple[Work, Any, FusedCounts | RowCounts | None]
"""A work that stands for others, the rows that they are, and counts of fused ops."""


def alike(works: Sequence[Work], figures: Figures, many: bool) -> Iterator[_Group]:
    """Works with the rows that they are: those that differ in attention alone as one, its `flop` and `hbm_bytes` (n,),
    or (n, 1) for `many` machines, so the rows of GEMMs where these alone differ too, and fused ops that differ in the
    rows of experts alone with counts of them. Contexts grow with every step, shapes of GEMMs do not; of a prompt no two
    blocks give experts the same rows, nor do two micro-batches.
    """
    about = figures.stack, bool(figures.laws), bool(figures.gemm_tables)
    if type(works) is tuple:  # which stays as it is: a schedule is priced on one machine, then on many near it
        found = _last_grouped(ByIdentity(works), ByIdentity(figures.stack), *about[1:])
    else:
        found = _grouped(works, *about)
    for like, rows, counts in found:
        if not many or not isinstance(rows, list):
            yield like, rows, counts
        elif counts is not None:
            yield like, rows, counts.of_machines()
        else:
            m: Any = like.gemms[0].m if like.gemms else 0
            if isinstance(m, np.ndarray):
                m = m[:, None]
                like = like._replace(gemms=tuple(gemm._replace(m=m) for gemm in like.gemms))
            flop: Any = like.flop
            hbm_bytes: Any = like.hbm_bytes
            yield like._replace(flop=flop[:, None], hbm_bytes=hbm_bytes[:, None]), rows, None


@lru_cache(2)
def _last_grouped(works: ByIdentity, stack: ByIdentity, by_law: bool, by_table: bool) -> list[_Group]:
    """Of works that are asked of again: grouping many of them takes as long as pricing them."""
    return _grouped(works.one, stack.one, by_law, by_table)


def _grouped(works: Sequence[Work], stack: SoftwareStack, by_law: bool, by_table: bool) -> list[_Group]:
    """`alike` for one machine."""
    found: list[_Group] = []
    # What fused ops of experts are counted by; laws, tables and waves of tiles price them one by one.
    tile = None if by_law or by_table or stack.tile is not None else stack.fused_tile
    tiled_from = 0 if tile is None or stack.row_blocks.passes or stack.graph_tokens else tile.tiled_from
    groups: dict[Any, list[int]] = {}
    fused: dict[tuple[Any, ...], list[int]] = {}
    last: Any = None
    group: list[int] = []
    last_fused: Any = None
    fused_group: list[int] = []
    for i, work in enumerate(works):
        if tile is not None and work.fused is not None:
            n_shared = len(work.gemms) - work.fused.n_gemms
            of_fused = _but(work, _EXPERTS), n_shared, *_launched(work.fused, stack)
            if of_fused != last_fused:
                last_fused, fused_group = of_fused, fused.setdefault(of_fused, [])
            fused_group.append(i)
        elif by_law and work.fused is not None:
            up, down = work.gemms[:2]
            beside = work._replace(gemms=work.gemms[work.fused.n_gemms :], fused=None)
            shape = up.n, up.k, up.n_gemms // down.n_gemms
            fused.setdefault((beside, *shape, *_launched(work.fused, stack)), []).append(i)
        else:
            key = _but_context(work, tiled_from)
            if key != last:  # mostly the same objects, which is found at once
                last, group = key, groups.setdefault(key, [])
            group.append(i)
    for each in fused.values():
        for rows in (each[i : i + _AT_ONCE] for i in range(0, len(each), _AT_ONCE)) if by_law else (each,):
            if len(rows) == 1:
                found.append((works[rows[0]], rows[0], None))
                continue
            ops = tuple(works[i] for i in rows)
            counts = row_counts(ops) if tile is None else _last_counted(ByIdentities(ops), tile, stack.row_blocks)
            found.append((works[rows[0]], rows, counts))
    for rows in groups.values():
        like = works[rows[0]]
        if len(rows) == 1:
            found.append((like, rows[0], None))
            continue
        flop, hbm_bytes = np.array([(works[i].flop, works[i].hbm_bytes) for i in rows], dtype=np.float64).T
        if any(works[i].gemms != like.gemms for i in rows):
            m: Any = np.array([works[i].gemms[0].m for i in rows])
            like = like._replace(gemms=tuple(gemm._replace(m=m) for gemm in like.gemms))
        found.append((like._replace(flop=flop, hbm_bytes=hbm_bytes), rows, None))
    return found


@lru_cache(2)
def _last_counted(ops: ByIdentities, tile: FusedTile, blocks: RowBlocks) -> FusedCounts:
    """Of ops that other schedules have too: designs that differ in what they keep where compute the same experts."""
    return counted(ops.each, tile, blocks)


def _but_context(work: Work, tiled_from: int) -> tuple[tuple[tuple[Any, ...], ...], int]:
    """All of a work but its context; of kernels neither how many rows all of its GEMMs have, only whether these are
    several, and `tiled_from` or more. 0: rows tell works apart.
    """
    m = work.gemms[0].m if work.gemms else 0
    if not (tiled_from and m and KINDS[work.kind].lane is Lane.COMPUTE and all(gemm.m == m for gemm in work.gemms)):
        return _but(work, _CONTEXT), 0
    gemms = tuple(gemm._replace(m=0) for gemm in work.gemms)
    return _but(work._replace(gemms=gemms), _CONTEXT), (m > 1) + (m >= tiled_from)


def _but(work: Work, fields: tuple[int, int]) -> tuple[tuple[Any, ...], ...]:
    """All of a work but two of its fields."""
    first, second = fields
    return work[:first], work[first + 1 : second], work[second + 1 :]


def _launched(fused: FusedExperts, stack: SoftwareStack) -> tuple[bool, bool, int]:
    """What the launches of a fused op depend on beside its stack and whether there are shared experts."""
    tiled = fused.n_tokens >= stack.fused_tile.tiled_from and stack.tiled_launches > 0
    n_apart = fused.n_experts if stack.fused_tile.are_apart(fused) else 0
    return tiled, not stack.graph_tokens or fused.n_tokens <= stack.graph_tokens, n_apart
