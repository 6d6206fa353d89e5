"""The cost model: what an op asks of a machine (`Work`) becomes seconds on a platform.

Kernels by a roofline whose efficiencies the stack (claimed) or a fit (measured) owns; grouped expert GEMMs by
whole waves of output tiles; copies by latency + bytes / bandwidth; host time by launches and waits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from hwmodels.spec import PEAK_DTYPES
from offload.ops import Gemm, OpKind, Work
from traces.errors import InvalidInput

__all__ = ["Costs", "price"]


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Seconds by row of a schedule's works, each (n_works,): `issue_s` on the host, `duration_s` on the lane."""

    issue_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]


def price(works: Sequence[Work], platform: Platform) -> Costs:
    """Price every work on `platform`. Raises `InvalidInput` for a dtype the accelerator has no peak rate for."""
    return Costs(
        np.array([_issue_s(work, platform) for work in works], dtype=np.float64),
        np.array([_duration_s(work, platform) for work in works], dtype=np.float64),
    )


def _issue_s(work: Work, platform: Platform) -> float:
    if work.kind in (OpKind.FETCH, OpKind.STAGE, OpKind.READBACK):
        return platform.constant("copy_issue_s")
    return platform.stack.launches.get(work.kind, 0) * platform.constant("launch_s")


def _duration_s(work: Work, platform: Platform) -> float:
    machine, constant = platform.machine, platform.constant
    match work.kind:
        case OpKind.FETCH:
            rate = machine.link.h2d_bytes_per_s * constant("link_efficiency")
            return _copy_latency_s(platform) + work.copy_bytes / rate
        case OpKind.READBACK:
            rate = machine.link.d2h_bytes_per_s * constant("link_efficiency")
            return _copy_latency_s(platform) + work.copy_bytes / rate
        case OpKind.STAGE:  # read and written
            moved_s = 2 * work.copy_bytes / _hbm_bytes_per_s(platform)
            return platform.stack.launches[OpKind.STAGE] * constant("kernel_s") + moved_s
        case OpKind.DISK_READ:
            rate = machine.storage.read_bytes_per_s * constant("storage_efficiency")
            return (machine.storage.read_latency_s or 0.0) + work.copy_bytes / rate
        case OpKind.WAIT:
            return constant("sync_s")
        case OpKind.STEP:
            return constant("step_s")
        case OpKind.CPU_EXPERT:
            return _cpu_s(work, platform)
        case _:
            return _kernels_s(work, platform)


def _copy_latency_s(platform: Platform) -> float:
    """Fixed time of a copy over the link: the link's where it has one (or the user set one), else the stack's."""
    stated = platform.machine.link.copy_latency_s
    return platform.constant("copy_latency_s") if stated is None else stated


def _hbm_bytes_per_s(platform: Platform) -> float:
    return platform.machine.accelerator.hbm_bytes_per_s * platform.constant("hbm_efficiency")


def _flop_per_s(dtype: str, platform: Platform) -> float:
    peaks = platform.machine.accelerator.peak_flop_per_s
    if dtype not in peaks:
        settable = f", or --set accelerator.peak_flop_per_s.{dtype}=..." if dtype in PEAK_DTYPES else ""
        raise InvalidInput(
            f"{platform.machine.accelerator.name} states no {dtype} rate (it has {', '.join(sorted(peaks))}): "
            f"choose another dtype{settable}"
        )
    return peaks[dtype] * platform.constant("gemm_efficiency")


def _kernels_s(work: Work, platform: Platform) -> float:
    """Kernels of one op run one after the other: fixed time each, then the roofline of each GEMM.

    Traffic and arithmetic outside the GEMMs (KV cache, attention scores) overlap each other.
    """
    rate, bandwidth = _flop_per_s(work.dtype, platform), _hbm_bytes_per_s(platform)
    fixed_s = platform.stack.launches.get(work.kind, 0) * platform.constant("kernel_s")
    rest_s = max(work.hbm_bytes / bandwidth, work.flop / rate)
    if work.kind is OpKind.EXPERTS and platform.stack.tile is not None:
        gemms_s = _grouped_gemms_s(work, platform, rate, bandwidth)
    else:
        gemms_s = sum(_gemm_s(gemm, work.weight_bits, rate, bandwidth) for gemm in work.gemms)
    return fixed_s + rest_s + gemms_s


def _gemm_s(gemm: Gemm, weight_bits: float, flop_per_s: float, bytes_per_s: float) -> float:
    """Roofline of `n_gemms` products: arithmetic, or reading the weights once."""
    flop_s = 2 * gemm.m * gemm.n * gemm.k / flop_per_s
    bytes_s = gemm.n * gemm.k * weight_bits / 8 / bytes_per_s
    return gemm.n_gemms * max(flop_s, bytes_s)


def _grouped_gemms_s(work: Work, platform: Platform, flop_per_s: float, bytes_per_s: float) -> float:
    """Grouped GEMM: all experts' products of one shape in one launch, in whole waves of output tiles.

    Every tile takes its full time however few of its rows are used, one tile per multiprocessor at a time and
    the inner dimension is not split: waves = ceil(tiles / multiprocessors), each 2 x rows x columns x k FLOP at
    a multiprocessor's share of the rate. Never below the time to read the weights.
    """
    assert platform.stack.tile is not None
    rows, columns = platform.stack.tile
    n_sm = platform.machine.accelerator.n_sm
    tiles: Counter[tuple[int, int]] = Counter()
    weights: Counter[tuple[int, int]] = Counter()
    for gemm in work.gemms:
        tiles[gemm.n, gemm.k] += math.ceil(gemm.m / rows) * math.ceil(gemm.n / columns) * gemm.n_gemms
        weights[gemm.n, gemm.k] += gemm.n * gemm.k * gemm.n_gemms
    total_s = 0.0
    for (n, k), n_tiles in tiles.items():
        tile_s = 2 * rows * columns * k / (flop_per_s / n_sm)
        bytes_s = weights[n, k] * work.weight_bits / 8 / bytes_per_s
        total_s += max(math.ceil(n_tiles / n_sm) * tile_s, bytes_s)
    return total_s


def _cpu_s(work: Work, platform: Platform) -> float:
    """One expert on the host: weights read from DRAM once, or arithmetic, both at `cpu_efficiency`."""
    host, efficiency = platform.machine.host, platform.constant("cpu_efficiency")
    bytes_s = work.weight_bytes / (host.dram_bytes_per_s * efficiency)
    flop_s = work.total_flop / (host.peak_flop_per_s * efficiency) if host.peak_flop_per_s else 0.0
    return max(bytes_s, flop_s)
