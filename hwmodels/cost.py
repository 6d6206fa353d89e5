"""The cost model: what an op asks of a machine (`Work`) becomes seconds, on one platform or on many at once.

Kernels by a roofline whose efficiencies the stack (claimed) or a fit (measured) owns; grouped expert GEMMs by
whole waves of output tiles; copies by latency + bytes / bandwidth; host time by launches and waits. Where a fit
measured kernels, GEMMs by the utilisation of their shape and each kind of op by constants of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import Figures, Number, figures_of
from hwmodels.kernels.all_reduce import all_reduce_s, send_s
from hwmodels.kernels.attention_traffic import attention_terms
from hwmodels.kernels.floors import alone_s, at_floor, fused_s, missing_s, read_bytes
from hwmodels.kernels.fused_counts import FusedCounts, RowCounts
from hwmodels.kernels.host_prices import host_s
from hwmodels.kernels.roofline import binding_term, cached_share, kernel_terms, roofline_s
from hwmodels.kernels.similar_works import alike
from hwmodels.laws.pricing import law_kernel
from hwmodels.platform import Platform
from offload.ops import KERNEL_KINDS, KINDS, Lane, OpKind, Work
from traces.errors import InvalidInput

_COPIES = tuple(k for k, row in KINDS.items() if row.lane in (Lane.H2D, Lane.D2H) and k is not OpKind.ZERO_COPY)


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Seconds by row of a schedule's works, each (n_works,), or (n_works, n_machines) for many machines.

    `issue_s`: host time to issue the op. `duration_s`: time it holds its lane when nothing else runs; of it `link_s`
    moves bytes over the link and `hbm_s` is what its HBM traffic would take at full bandwidth, at most the whole (0
    when not given): what machines that share either need to know. `crossed_s`: what `link_s` would be with copies going
    the other way all the while (`link_s` when not given); `contended`: the share of its rate that a transfer to the
    device, or an op of the host's processor, keeps while the other reads host memory (1 when not given);
    `beside_copies`: the share of its rate that a kernel or a readback keeps while copies to the device are under way (1
    when not given). FIFO lanes read the first two only.
    """

    issue_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    link_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    hbm_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    crossed_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    contended: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    beside_copies: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in ("link_s", "hbm_s"):
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.zeros(self.duration_s.shape, self.duration_s.dtype))
        if not self.crossed_s.size:
            object.__setattr__(self, "crossed_s", self.link_s)
        for name in ("contended", "beside_copies"):
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.ones(self.duration_s.shape, self.duration_s.dtype))


class Parts(NamedTuple):
    """Where the duration of an op goes; the parts sum to it. Each a float or (n_machines,).

    `fixed_s`: kernels beyond their roofline, copy latency, waits; `compute_s`: arithmetic; `hbm_s`: HBM traffic that
    nothing hides; `link_s`: bytes over the link; `disk_s`: bytes from storage; `dram_s`: bytes from host memory.
    """

    fixed_s: Number = 0.0
    compute_s: Number = 0.0
    hbm_s: Number = 0.0
    link_s: Number = 0.0
    disk_s: Number = 0.0
    dram_s: Number = 0.0

    @property
    def total_s(self) -> Number:
        """The duration."""
        total_s = self.fixed_s
        for part in self[1:]:
            if isinstance(part, np.ndarray) or part:  # most are plain zeros, for thousands of machines
                total_s = total_s + part
        return total_s


def price(works: Sequence[Work], platform: Platform) -> Costs:
    """Price every work on `platform`; a format that the accelerator has no rate for counts as the next wider."""
    return price_figures(works, figures_of(platform))


def price_figures(
    works: Sequence[Work], figures: Figures, n_machines: int | None = None, *, shares: bool = True
) -> Costs:
    """Price every work on one machine, (n_works,), or on the `n_machines` that `figures` has arrays for, (n_works, n).

    The same arithmetic in the same order for one and for many: the same seconds to the last bit. `shares`: also what of
    an op draws on the link and on HBM, which FIFO lanes do not ask.
    """
    figures = figures.for_works(works)
    shape = (len(works),) if n_machines is None else (len(works), n_machines)
    kind = np.result_type(np.float64, *(np.asarray(value).dtype for value in figures.values.values()))
    issue, duration = np.zeros(shape, dtype=kind), np.zeros(shape, dtype=kind)
    link, hbm = (np.zeros(shape if shares else 0, dtype=kind) for _ in range(2))
    contended, beside = (np.ones(shape if shares else 0, dtype=kind) for _ in range(2))
    for work, rows, counts in alike(works, figures, n_machines is not None):
        parts = parts_of(work, figures, counts)
        issue[rows], duration[rows] = _issue_s(work, figures), parts.total_s
        if shares:
            link[rows], hbm[rows] = parts.link_s, _hbm_traffic_s(work, figures, counts)
            contended[rows], beside[rows] = _contended(work, parts, figures), _beside_copies(work, parts, figures)
    if not shares:
        return Costs(issue, duration, link, hbm)
    return Costs(issue, duration, link, np.minimum(hbm, duration), link * figures.crossing_slowdown, contended, beside)


def _contended(work: Work, parts: Parts, figures: Figures) -> Number:
    """The share of its rate that the op keeps while the other side reads host memory; arithmetic is not slowed."""
    lane = KINDS[work.kind].lane
    if lane is Lane.H2D:
        return figures.values.get("host.copies_beside_cpu", 1.0)
    if lane is not Lane.CPU:
        return 1.0
    total_s = parts.total_s
    kept = figures.values.get("host.cpu_beside_copies", 1.0)
    slowed_s = total_s - parts.dram_s + parts.dram_s / kept
    return np.where(np.real(total_s) > 0, total_s / np.where(np.real(slowed_s) > 0, slowed_s, 1.0), 1.0)


def _beside_copies(work: Work, parts: Parts, figures: Figures) -> Number:
    """The share of its rate that a kernel, or a readback, keeps while copies are under way: all of it beside them, it
    takes `beside_copies_s` longer, of its kind or, a kernel, of the stack.
    """
    more_s = figures.kernel(work.kind, "beside_copies_s")
    if more_s is None and work.kind in KERNEL_KINDS:
        more_s = figures.values.get("stack.beside_copies_s")
    if more_s is None:
        return 1.0
    total_s = parts.total_s
    return np.where(np.real(total_s) > 0, total_s / (total_s + more_s), 1.0)


def parts_of(work: Work, figures: Figures, counts: FusedCounts | RowCounts | None = None) -> Parts:
    """The duration of `work` by what it is spent on; of fused ops like it with `counts`, the durations."""
    constant = figures.stack_constant
    match work.kind:
        case OpKind.ZERO_COPY:
            again = _power(work.n_entries / work.copy_bytes, figures.values.get("stack.reread_exponent", 1.0))
            return Parts(link_s=work.copy_bytes / figures.link_bytes_per_s("h2d") * again)
        case OpKind.FETCH | OpKind.JOIN:
            return Parts(
                work.n_copies * figures.fetch_latency_s, link_s=work.copy_bytes / figures.link_bytes_per_s("h2d")
            )
        case OpKind.READBACK:
            measured = figures.kernel(work.kind, "fixed_s")
            fixed_s = figures.copy_latency_s if measured is None else measured
            link_s = work.copy_bytes / figures.link_bytes_per_s("d2h")
            if figures.apart and figures.kernel(work.kind, "beside_copies_s") is not None:
                return Parts(fixed_s + link_s)  # a few bytes: what copies slow down is no transfer
            return Parts(fixed_s, link_s=link_s)
        case OpKind.WRITE_BACK:
            return Parts(figures.fetch_latency_s, link_s=work.copy_bytes / figures.link_bytes_per_s("d2h"))
        case OpKind.STAGE:
            fixed_s = work.n_copies * figures.stack.launches_of(work) * constant("kernel_s")
            return Parts(fixed_s, hbm_s=_hbm_traffic_s(work, figures))
        case OpKind.DISK_READ:
            rate = figures["storage.read_bytes_per_s"] * constant("storage_efficiency")
            return _read_parts(work, figures, rate)
        case OpKind.FILE:
            stated = figures.values.get("storage.filing_bytes_per_s")
            return Parts(dram_s=work.copy_bytes / (figures["host.dram_bytes_per_s"] / 2 if stated is None else stated))
        case OpKind.WAIT:
            return Parts(constant("sync_s"))
        case OpKind.ISSUE:
            return Parts(work.n_copies * _issue_s(Work(OpKind.FETCH), figures))
        case OpKind.STEP:
            return Parts(constant("step_s") + work.n_entries * figures.values.get("stack.load_s", 0.0))
        case OpKind.SCHEDULE:
            return Parts(figures.values.get("stack.schedule_s", 0.0))
        case OpKind.SORT:
            sorted_s = work.n_entries * figures.values.get("stack.sort_s", 0.0)
            return Parts(work.n_copies * _given_back_s(figures) + sorted_s)
        case OpKind.MASK:
            return Parts(work.n_entries * figures.values.get("stack.mask_s", 0.0))
        case OpKind.DRAFT:
            return Parts(work.n_entries * _draft_s(figures))
        case OpKind.ALL_REDUCE:
            return Parts(all_reduce_s(work, figures))
        case OpKind.SEND:
            return Parts(send_s(work, figures))
        case OpKind.HANDOVER:
            fixed_s = figures.copy_latency_s + constant("handover_s")
            return Parts(fixed_s, link_s=work.copy_bytes / figures.link_bytes_per_s("d2h"))
        case OpKind.STREAM | OpKind.RETURN:
            return Parts(figures.copy_latency_s, link_s=work.copy_bytes / figures.link_bytes_per_s("h2d"))
        case OpKind.CPU_EXPERT | OpKind.CPU_LAYER:
            compute_s, dram_s = host_s(work, figures)
            return Parts(compute_s=compute_s, dram_s=dram_s)
        case _ if figures.laws:
            assert not isinstance(counts, FusedCounts)
            return _law_parts(work, figures, counts)
        case _ if figures.gemm_tables:
            return _measured_parts(work, figures)
        case _:
            assert not isinstance(counts, RowCounts)
            return _kernel_parts(work, figures, counts)


def _power(base: float, exponent: Number) -> Number:
    """By the same arithmetic for one exponent and for many."""
    if np.ndim(exponent):
        return np.array([base**one for one in np.asarray(exponent).tolist()])
    return base**exponent


def _given_back_s(figures: Figures) -> Number:
    """A copy to the device that the host issues and waits for."""
    return figures.stack_constant("copy_issue_s") + figures.copy_latency_s + figures.stack_constant("sync_s")


def _draft_s(figures: Figures) -> Number:
    """The time of a drafted token. Raises `InvalidInput` where nobody stated it."""
    if "stack.draft_s" not in figures.values:
        raise InvalidInput("draft=stated: the time of a drafted token is not stated, give --set stack.draft_s=2ms")
    return figures.values["stack.draft_s"]


def _read_parts(work: Work, figures: Figures, rate: Number) -> Parts:
    """A read of storage. In rounds of reads at once, each costs the latency once, and takes as long as its largest read
    takes a reader at its own rate, or all bytes at the drive's.
    """
    latency_s, reader_rate = figures.values.get("storage.read_latency_s", 0.0), "storage.reader_bytes_per_s"
    disk_s: Number = work.copy_bytes / rate
    if work.reading is None:
        return Parts(latency_s, disk_s=disk_s)
    if reader_rate in figures.values:
        one_s = work.reading.n_rounds * work.reading.n_bytes / figures[reader_rate]
        disk_s = sum(binding_term(disk_s, one_s))
    return Parts(work.reading.n_rounds * latency_s, disk_s=disk_s)


def _issue_s(work: Work, figures: Figures) -> Number:
    if work.kind is OpKind.EXPERTS and not work.n_copies:  # of another card, which has a host thread of its own
        return 0.0
    measured = figures.kernel(work.kind, "issue_s")
    if measured is not None:
        return measured if work.kind is not OpKind.EXPERTS else measured + _more_to_issue_s(work, figures)
    if work.kind in _COPIES:
        return figures.stack_constant("copy_issue_s")
    return figures.stack.launches_of(work) * figures.launch_of(work)


def _more_to_issue_s(work: Work, figures: Figures) -> Number:
    """Of an expert, what gathering the rows of several tokens and a third matrix cost its host."""
    more_s: Number = 0.0
    if any(gemm.m > 1 for gemm in work.gemms):
        more_s = _or(figures.kernel(work.kind, "issue_rows_s"), 0.0)
    if sum(gemm.n_gemms for gemm in work.gemms) > 2:  # beside those up and down, that of a gate
        more_s = more_s + _or(figures.kernel(work.kind, "issue_gated_s"), 0.0)
    return more_s


def _hbm_traffic_s(work: Work, figures: Figures, counts: FusedCounts | RowCounts | None = None) -> Number:
    """What the op's HBM traffic takes at the full rate; a copy within HBM is read and written."""
    match work.kind:
        case _ if work.kind in _COPIES:
            moved: Number = work.copy_bytes * (2 if work.kind is OpKind.STAGE else 1)
        case _ if KINDS[work.kind].lane in (Lane.HOST, Lane.DISK, Lane.CPU):
            return 0.0
        case _ if counts is not None:
            moved = counts.n_weights * work.weight_bits / 8 + work.hbm_bytes
        case _:
            moved = read_bytes(work, figures) + work.hbm_bytes
    return moved / figures.hbm_bytes_per_s


def _kernel_parts(work: Work, figures: Figures, counts: FusedCounts | None = None) -> Parts:
    """Kernels of one op run one after the other: fixed time each, then the roofline of each GEMM.

    Traffic and arithmetic outside the GEMMs (KV cache, attention scores) overlap each other where they are fused.
    """
    rate, bandwidth = figures.flop_per_s(figures.multiplied_in(work)), figures.hbm_bytes_per_s
    compute_s, hbm_s = attention_terms(work, figures)
    fixed_s = figures.stack.launches_of(work) * figures.cycles_s("kernel_s")
    if work.kind is OpKind.EXPERTS and figures.stack.tile is not None:
        pairs = _grouped_gemms_s(work, figures, rate, bandwidth)
    elif work.fused is not None:
        pairs = fused_s(work, figures, rate, bandwidth, counts)
    else:
        bits = figures.read_bits(work)
        pairs = [roofline_s(gemm, bits, rate, bandwidth) for gemm in work.gemms]
        if figures.stack.row_blocks.passes:
            pairs = [
                (flop_s + alone_s(gemm, work.weight_bits, figures), bytes_s)
                for gemm, (flop_s, bytes_s) in zip(work.gemms, pairs, strict=True)
            ]
    gemms_s = []
    for flop_s, bytes_s in pairs:
        more_compute_s, more_hbm_s = binding_term(flop_s, bytes_s)
        compute_s, hbm_s = compute_s + more_compute_s, hbm_s + more_hbm_s
        gemms_s.append(more_compute_s + more_hbm_s)
    if work.kind not in KERNEL_KINDS or figures.stack.tile is not None:
        return Parts(fixed_s, compute_s, hbm_s)
    missing = missing_s(work, figures, fixed_s, gemms_s, counts)
    is_fused = work.fused is not None and counts is None
    if is_fused and at_floor(work, figures, fixed_s, gemms_s):  # a floor is nothing but fixed
        return Parts(fixed_s + missing + compute_s + hbm_s)
    return Parts(fixed_s + missing, compute_s, hbm_s)


def _law_parts(work: Work, figures: Figures, counts: RowCounts | None) -> Parts:
    """By the laws that were fitted of its kernels."""
    kernel = law_kernel(work, figures, counts)
    beside = figures.scatter.get(work.kind.name.lower(), 1.0)
    return Parts(kernel.fixed_s * beside, kernel.compute_s * beside, kernel.hbm_s * beside)


def _measured_parts(work: Work, figures: Figures) -> Parts:
    """Fixed time, then each GEMM at the utilisation measured for its shape, then what lies between the GEMMs.

    All over the rates that the accelerator claims: a faster machine of the same kind scales with them.
    """
    rate, bandwidth = figures.peak_flop_per_s(work.compute), figures["accelerator.hbm_bytes_per_s"]
    table = figures.gemm_table(work.compute)
    assert table is not None
    compute_s: Number = 0.0
    hbm_s: Number = 0.0
    rest = figures.peak_flop_per_s(work.flop_format)
    work = work._replace(weight_bits=figures.read_bits(work))
    for name, (flop_s, bytes_s) in kernel_terms(work, table, rate, bandwidth, rest).items():
        factor = _or(figures.kernel_of(work, name), 1.0 if name == "gemm" else 0.0)
        compute_s, hbm_s = compute_s + flop_s * factor, hbm_s + bytes_s * factor
    fixed_s = _or(figures.kernel_of(work, "fixed_s"), 0.0)
    beside = _beside(work, figures) * figures.scatter.get(work.kind.name.lower(), 1.0)
    return Parts(fixed_s * beside, compute_s * beside, hbm_s * beside)


def _beside(work: Work, figures: Figures) -> Number:
    """How many times as long as alone an op takes in a schedule that fetches experts."""
    if not figures.offloaded:
        return 1.0
    factor = _or(figures.kernel(work.kind, "apart" if figures.apart else "offloaded"), 1.0)
    cached, cache_bytes = (figures.kernel(work.kind, name) for name in ("cached", "cache_bytes"))
    if work.slots_bytes and cached is not None and cache_bytes is not None:
        factor = factor * (1 - cached_share(work.slots_bytes, cache_bytes) * (1 - cached))
    return factor


def _or(value: Number | None, default: float) -> Number:
    return default if value is None else value


def _grouped_gemms_s(
    work: Work, figures: Figures, flop_per_s: Number, bytes_per_s: Number
) -> list[tuple[Number, Number]]:
    """Grouped GEMM: all experts' products of one shape in one launch, in whole waves of output tiles.

    Every tile takes its full time however few of its rows are used, one tile per multiprocessor at a time and
    the inner dimension is not split: waves = ceil(tiles / multiprocessors), each 2 x rows x columns x k FLOP at
    a multiprocessor's share of the rate. Never below the time to read the weights.
    """
    assert figures.stack.tile is not None
    rows, columns = figures.stack.tile
    n_sm = figures["accelerator.n_sm"]
    bits = figures.read_bits(work)
    tiles, weights = Counter[tuple[int, int, int]](), Counter[tuple[int, int, int]]()
    for i, gemm in enumerate(work.gemms):
        launch = i % 2, gemm.n, gemm.k  # `offload.ffn_work` lists up and down projections in turn, a launch each
        tiles[launch] += math.ceil(gemm.m / rows) * math.ceil(gemm.n / columns) * gemm.n_gemms
        weights[launch] += gemm.n * gemm.k * gemm.n_gemms
    pairs = []
    for (place, n, k), n_tiles in tiles.items():
        tile_s = 2 * rows * columns * k / (flop_per_s / n_sm)
        bytes_s = weights[place, n, k] * bits / 8 / bytes_per_s
        pairs.append((np.ceil(n_tiles / np.real(n_sm)) * tile_s, bytes_s))
    return pairs
