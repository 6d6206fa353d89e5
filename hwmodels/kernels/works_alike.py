"""Works that are priced together: those that differ in a context or in rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hwmodels.figures import Figures
from hwmodels.kernels.fused_counts import FusedCounts, RowCounts, counted, row_counts
from hwmodels.kernels.fused_tile import FusedTile
from offload.ops import KINDS, Lane, Work

__all__ = ["alike"]

_AT_ONCE = 256
"""Fused ops that a law prices together: with many machines their arrays stay small."""


def alike(
    works: Sequence[Work], figures: Figures, many: bool
) -> Iterator[tuple[Work, Any, FusedCounts | RowCounts | None]]:
    """Works with the rows that they are: those that differ in attention alone as one, its `flop` and `hbm_bytes` (n,),
    or (n, 1) for `many` machines, so the rows of GEMMs where these alone differ too, and fused ops that differ in the
    rows of experts alone with counts of them. Contexts grow with every step, shapes of GEMMs do not; of a prompt no two
    blocks give experts the same rows, nor do two micro-batches.
    """
    tile, by_law = _tile(figures), bool(figures.laws)
    by_rows = tile is not None and not (figures.stack.row_blocks.passes or figures.stack.graph_tokens)
    groups: dict[Any, list[int]] = {}
    fused: dict[tuple[Any, ...], list[int]] = {}
    for i, work in enumerate(works):
        if tile is not None and work.fused is not None:
            n_shared = len(work.gemms) - work.fused.n_gemms
            fused.setdefault((work._replace(gemms=(), fused=None), n_shared, _launched(work, figures)), []).append(i)
        elif by_law and work.fused is not None:
            up, down = work.gemms[:2]
            beside = work._replace(gemms=work.gemms[work.fused.n_gemms :], fused=None)
            shape = up.n, up.k, up.n_gemms // down.n_gemms
            fused.setdefault((beside, *shape, _launched(work, figures)), []).append(i)
        else:
            groups.setdefault(_but_context(work, by_rows), []).append(i)
    for each in fused.values():
        for rows in (each[i : i + _AT_ONCE] for i in range(0, len(each), _AT_ONCE)) if by_law else (each,):
            if len(rows) == 1:
                yield works[rows[0]], rows[0], None
                continue
            ops = [works[i] for i in rows]
            counts: FusedCounts | RowCounts = (
                row_counts(ops) if tile is None else counted(ops, tile, figures.stack.row_blocks)
            )
            yield works[rows[0]], rows, counts.of_machines() if many else counts
    for rows in groups.values():
        like = works[rows[0]]
        if len(rows) == 1:
            yield like, rows[0], None
            continue
        rest = np.array([(works[i].flop, works[i].hbm_bytes) for i in rows], dtype=np.float64).T
        flop, hbm_bytes = rest[..., None] if many else rest
        if any(works[i].gemms != like.gemms for i in rows):
            of_each = np.array([works[i].gemms[0].m for i in rows])
            m: Any = of_each[:, None] if many else of_each
            like = like._replace(gemms=tuple(gemm._replace(m=m) for gemm in like.gemms))
        yield like._replace(flop=flop, hbm_bytes=hbm_bytes), rows, None


def _but_context(work: Work, by_rows: bool) -> tuple[Work, bool]:
    """All of a work but its context; `by_rows`: of kernels neither how many rows all of its GEMMs have, only whether
    these are several.
    """
    m = work.gemms[0].m if work.gemms else 0
    if not (by_rows and m and KINDS[work.kind].lane is Lane.COMPUTE and all(gemm.m == m for gemm in work.gemms)):
        return work._replace(flop=0, hbm_bytes=0), False
    gemms = tuple(gemm._replace(m=0) for gemm in work.gemms)
    return work._replace(gemms=gemms, flop=0, hbm_bytes=0), m > 1


def _launched(work: Work, figures: Figures) -> tuple[int, bool]:
    """What the launches of a fused op depend on beside its stack."""
    return figures.stack.launches_of(work), figures.in_graph(work)


def _tile(figures: Figures) -> FusedTile | None:
    """What fused ops of experts are counted by, None where laws, tables or waves of tiles price them one by one."""
    one_by_one = figures.laws or figures.gemm_tables or figures.stack.tile is not None
    return None if one_by_one else figures.stack.fused_tile
