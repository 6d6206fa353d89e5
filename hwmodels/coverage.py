"""What a schedule asks that a fit has not seen: shapes of kernels, number formats, devices.

A fit knows the formats that it was measured in, the grid of GEMM shapes where kernels were measured, and the constants
of its stack. A schedule is within it when all three cover it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hwmodels.kernels import GemmTable
from hwmodels.platform import Platform
from offload.ops import KERNEL_KINDS, Gemm, OpKind, Work
from traces.model.dtypes import DTYPES

__all__ = ["COVERED", "beyond_fit", "share_within", "unfitted_device"]

COVERED = 0.9
"""Share of the multiply-adds and of the weights read, the lesser of both, that must lie within the measured shapes."""

_UNFITTED = {
    OpKind.DISK_READ: ("storage_efficiency", "storage"),
    OpKind.CPU_EXPERT: ("cpu_efficiency", "experts on the CPU"),
    OpKind.CPU_LAYER: ("cpu_efficiency", "layers on the CPU"),
}
"""Kinds of op whose time rests on a constant of their own, which a fit may not have."""


def beyond_fit(works: Iterable[Work], hw: Platform) -> str:
    """What the works of a schedule ask that the platform's fit has not seen, in words; "" when it covers them all.

    Nothing without a fit as well: then nothing is fitted. Of shapes each work counts once, however often it runs.
    """
    fit = hw.fit
    if fit is None:
        return ""
    works = list(works)
    device = unfitted_device(works, hw)
    if device:
        return device
    if fit.laws:
        share = share_within(works, hw)
        return "" if share >= COVERED else f"kernels ({1 - share:.0%} of their time)"
    formats = {work.compute for work in works if work.gemms} | {work.flop_format for work in works if work.flop}
    for name in sorted(formats - set(fit.dtypes)):
        return f"arithmetic in {name}"
    for work in works:
        if work.gemms and work.weight_bits != DTYPES[work.compute].bits:
            return f"weights of {work.weight_bits:g} bits"
    return _beyond_shapes(works, fit.gemm_tables)


def share_within(works: Iterable[Work], hw: Platform) -> float:
    """The share of kernels' time that lies within what laws were fitted on, each work counting once; 1 of none."""
    from hwmodels.figures import figures_of  # on use: they import numpy, which a refusal needs not
    from hwmodels.laws.pricing import kernels_of

    figures = figures_of(hw)
    total_s = within_s = 0.0
    for work in works:
        if work.kind in KERNEL_KINDS and work.gemms:
            for kernel, within in kernels_of(work, figures):
                seconds = float(kernel.total_s)
                total_s, within_s = total_s + seconds, within_s + (seconds if within else 0.0)
    return within_s / total_s if total_s else 1.0


def unfitted_device(works: Iterable[Work], hw: Platform) -> str:
    """Of storage and the host's processor the first that the works use and the platform's fit has no constant for."""
    fitted = hw.fit.constants if hw.fit is not None else {}
    kinds = {work.kind for work in works}
    for kind, (constant, device) in _UNFITTED.items():
        if kind in kinds and constant not in fitted:
            return device
    return ""


def _beyond_shapes(works: list[Work], tables: Iterable[GemmTable]) -> str:
    """Whether too much of the arithmetic or of the reading is in GEMMs beyond the measured grid."""
    by_format = {table.dtype: table for table in tables}
    if not by_format:
        return ""
    inside = {}
    totals, covered = [0, 0], [0, 0]
    for work in works:
        for gemm in work.gemms:
            key = (work.compute, gemm)
            if key not in inside:
                inside[key] = by_format[work.compute].covers(gemm)
            sizes = _sizes(gemm)
            for i, size in enumerate(sizes):
                totals[i] += size
                covered[i] += size if inside[key] else 0
    share = min((done / total for done, total in zip(covered, totals, strict=True) if total), default=1.0)
    return "" if share >= COVERED else f"GEMM shapes ({1 - share:.0%} of them by size)"


def _sizes(gemm: Gemm) -> tuple[int, int]:
    """Multiply-adds, and weights read."""
    weights = gemm.n * gemm.k * gemm.n_gemms
    return gemm.m * weights, weights
