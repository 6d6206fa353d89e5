"""What a schedule asks that a fit has not seen: shapes of kernels, number formats, devices.

A fit knows the formats that it was measured in, the shapes that kernels were measured on, and the constants of its
stack. A schedule is within it when all three cover it; of kernels, when nine tenths of their time are covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hwmodels.kernels.roofline import binding_term, roofline_s
from hwmodels.platform import Platform
from offload.ops import KERNEL_KINDS, OpKind, Work
from traces.model.dtypes import DTYPES

if TYPE_CHECKING:
    from hwmodels.figures import Figures


COVERED = 0.9
"""Share of the kernels' time that must lie within what was measured."""

_UNFITTED = {
    OpKind.DISK_READ: ("storage_efficiency", "storage"),
    OpKind.CPU_EXPERT: ("cpu_efficiency", "experts on the CPU"),
    OpKind.CPU_LAYER: ("cpu_efficiency", "layers on the CPU"),
    OpKind.FETCH: ("link_efficiency", "copies over the link"),
    OpKind.STREAM: ("link_efficiency", "copies over the link"),
    OpKind.ZERO_COPY: ("link_efficiency", "copies over the link"),
}
"""Kinds of op whose time rests on a constant of their own, which a fit may not have."""


class FitCoverage(NamedTuple):
    """How much of the kernels' time lies at shapes and in formats that a fit was measured on.

    `within_s` of `total_s`, 0 where the fit measured no kernels; `kernels`: what these are, in words, "" as well then;
    `unseen`: a device or a format that the fit has not seen, in words, "" none. `fitted`: whether there is a fit.
    """

    within_s: float = 0.0
    total_s: float = 0.0
    kernels: str = ""
    unseen: str = ""
    fitted: bool = False

    @property
    def share(self) -> float:
        """The share, 0 without a fit; all or nothing where constants of the stack were fitted, and no kernels."""
        if self.total_s:
            return self.within_s / self.total_s
        return 1.0 if self.fitted and not self.unseen else 0.0

    @property
    def beyond(self) -> str:
        """What is asked that the fit has not seen, in words; "" when it covers everything."""
        if self.unseen or not self.fitted or self.share >= COVERED:
            return self.unseen
        return f"{self.kernels} ({1 - self.share:.0%} of their time)"

    def plus(self, other: FitCoverage) -> FitCoverage:
        """Of both together, on one machine."""
        return FitCoverage(
            self.within_s + other.within_s,
            self.total_s + other.total_s,
            self.kernels or other.kernels,
            self.unseen or other.unseen,
            self.fitted or other.fitted,
        )


def coverage(works: Sequence[Work], hw: Platform, counts: Sequence[int] | None = None) -> FitCoverage:
    """What of the works of a schedule the platform's fit covers; `counts`: how often each runs, None once each.

    Without a fit nothing is beyond it.
    """
    fit = hw.fit
    if fit is None:
        return FitCoverage()
    found = FitCoverage(unseen=unseen(works, hw), fitted=True)
    if not fit.laws and not fit.gemm_tables:
        return found
    from hwmodels.figures import figures_of  # on use: numpy, which a refusal needs not

    runs = [1] * len(works) if counts is None else counts
    within_s, total_s = (_by_law if fit.laws else _by_table)(works, figures_of(hw), runs)
    return found._replace(within_s=within_s, total_s=total_s, kernels="kernels" if fit.laws else "GEMM shapes")


def beyond_fit(works: Sequence[Work], hw: Platform, counts: Sequence[int] | None = None) -> str:
    """`coverage(works, hw, counts).beyond`; no kernel is timed where a device or a format is beyond the fit."""
    return unseen(works, hw) or coverage(works, hw, counts).beyond


def _by_law(works: Sequence[Work], figures: Figures, runs: Sequence[int]) -> tuple[float, float]:
    """Seconds of kernels whose law was fitted on shapes and formats around theirs, and of all, one after the other."""
    import numpy as np

    from hwmodels.kernels.fused_counts import FusedCounts
    from hwmodels.kernels.similar_works import alike
    from hwmodels.laws.pricing import kernels_of

    seconds, within = list[Any](), list[Any]()  # by place of a kernel in its work, each (n_works,)
    for work, rows, counts in alike(works, figures, many=False):
        assert not isinstance(counts, FusedCounts)  # those are of a stack without laws
        if work.kind in KERNEL_KINDS and work.gemms:
            for i, (kernel, seen) in enumerate(kernels_of(work, figures, counts)):
                if i == len(seconds):
                    seconds.append(np.zeros(len(works)))
                    within.append(np.zeros(len(works), np.bool_))
                seconds[i][rows], within[i][rows] = kernel.total_s, seen
    if not seconds:
        return 0.0, 0.0
    each, known = (np.array(runs) * np.array(seconds)).T.ravel(), np.array(within).T.ravel()
    return float(np.cumsum(np.where(known, each, 0.0))[-1]), float(np.cumsum(each)[-1])


def _by_table(works: Sequence[Work], figures: Figures, runs: Sequence[int]) -> tuple[float, float]:
    """Seconds of GEMMs that lie in a table of their format, and of all."""
    within_s = total_s = 0.0
    for work, count in zip(works, runs, strict=True):
        for seconds, within in _gemms_of(work, figures) if work.kind in KERNEL_KINDS else ():
            total_s, within_s = total_s + count * seconds, within_s + (count * seconds if within else 0.0)
    return within_s, total_s


def _gemms_of(work: Work, figures: Figures) -> Iterator[tuple[float, bool]]:
    """Seconds of each GEMM, and whether it lies in a table of its format."""
    table = figures.gemm_table(work.compute)
    assert table is not None  # a fit of kernels has one
    rates = figures.peak_flop_per_s(work.compute), figures["accelerator.hbm_bytes_per_s"]
    measured = table.table.dtype == work.compute and work.weight_bits == DTYPES[work.compute].bits
    for gemm in work.gemms:
        seconds: Any = sum(binding_term(*roofline_s(gemm, figures.read_bits(work), *rates))) / table.at(gemm)
        yield float(seconds), measured and table.covers(gemm)


def unseen(works: Sequence[Work], hw: Platform) -> str:
    """A device or a format that the fit has not seen, in words, "" none; without a fit nothing is."""
    if hw.fit is None:
        return ""
    return unfitted_device(works, hw) or ("" if hw.fit.laws else _unseen_format(works, hw.fit.dtypes))


def _unseen_format(works: Sequence[Work], dtypes: Sequence[str]) -> str:
    """The first format of arithmetic or of weights that was not measured, in words."""
    formats = {work.compute for work in works if work.gemms} | {work.flop_format for work in works if work.flop}
    for name in sorted(formats - set(dtypes)):
        return f"arithmetic in {name}"
    for work in works:
        if work.gemms and work.weight_bits != DTYPES[work.compute].bits:
            return f"weights of {work.weight_bits:g} bits"
    return ""


def unfitted_device(works: Iterable[Work], hw: Platform) -> str:
    """The first of storage, the host's processor and the link that the works use and no constant of the fit is of."""
    fitted = hw.fit.constants if hw.fit is not None else {}
    kinds = {work.kind for work in works}
    for kind, (constant, device) in _UNFITTED.items():
        if kind in kinds and constant not in fitted:
            return device
    return ""
