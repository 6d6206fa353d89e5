"""What the host's processor takes for a part of a layer: rates of its memory, links, cores and formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodels.figures import Figures, Number, slower
from hwmodels.kernels.floors import NARROW_BITS
from hwmodels.kernels.roofline import binding_term
from offload.ops import Work

__all__ = ["host_s"]


def host_s(work: Work, figures: Figures) -> tuple[Any, Any]:
    """(arithmetic, reading) of a part of a layer on the host: of its products (`hwmodels.kernels.host_products`), and
    then of its attention, what is read of DRAM or arithmetic, whichever takes longer.

    Of several sockets the stack uses as many as it says: their memory, of which all cores read a share and no more than
    the links between dies carry, and of that the stack its own share; and their cores, which take in no more than they
    can unpack and do the arithmetic.
    """
    rate = figures["host.dram_bytes_per_s"] * figures.values.get("host.read_efficiency", 1.0)
    fabric = figures.values.get("host.fabric_bytes_per_s")
    if fabric is not None:
        rate = np.where(np.real(fabric) < np.real(rate), fabric, rate)
    rate = rate * figures.stack_constant("cpu_efficiency")
    cores = figures["host.n_cores"] * figures.stack_constant("cpu_core_bytes_per_s")
    unpacking = _unpacking_bytes_per_s(work, figures)
    peak = figures["host.peak_flop_per_s"]
    n_sockets = figures.values.get("host.n_sockets")
    if n_sockets is not None:
        used = np.minimum(np.real(figures.stack_constant("cpu_sockets")) / n_sockets, 1.0)
        rate, cores, peak = rate * used, cores * used, peak * used
        unpacking = None if unpacking is None else unpacking * used
    weights_rate = slower(rate, cores if unpacking is None else unpacking)
    rate = slower(rate, cores)
    kv_bytes = work.hbm_bytes * figures.values.get("stack.cpu_kv_copies", 1.0)
    gemm_flop = work.total_flop - work.flop
    flop_s: Any = gemm_flop / figures.stack_constant("cpu_gemm_efficiency")
    if work.weight_bits <= NARROW_BITS and work.compute != "fp8":
        flop_s = flop_s / figures.stack_constant("cpu_packed_speedup")
    elif work.compute in ("bf16", "fp8"):  # no processor has products of fp8: it is widened to bf16, or further
        flop_s = flop_s / _bf16_speedup(figures)
    unpack_s = None if unpacking is None else work.weight_bytes / unpacking
    products = figures.stack.host_products.on("host.tile_rows" in figures.values)
    compute_s, dram_s = products.seconds(_mean_rows(work), flop_s / peak, work.weight_bytes / weights_rate, unpack_s)
    attention_s = work.flop / figures.stack_constant("cpu_attention_efficiency") / peak
    more_compute_s, more_dram_s = binding_term(attention_s, kv_bytes / rate)
    return compute_s + more_compute_s, dram_s + more_dram_s


def _mean_rows(work: Work) -> float:
    """Rows that a weight of `work` is multiplied by, on average; 0 of none."""
    weights = sum(gemm.n * gemm.k * gemm.n_gemms for gemm in work.gemms)
    return sum(gemm.m * gemm.n * gemm.k * gemm.n_gemms for gemm in work.gemms) / weights if weights else 0.0


def _bf16_speedup(figures: Figures) -> Number:
    """How many times as fast as fp32 the host multiplies bf16, which it may widen to fp32 first: at least once."""
    stated = figures.values.get("host.bf16_flop_per_s")
    if stated is None:
        return 1.0
    speedup = stated / figures["host.peak_flop_per_s"]
    return np.where(np.real(speedup) > 1, speedup, 1.0)


def _unpacking_bytes_per_s(work: Work, figures: Figures) -> Number | None:
    """Bytes of weights that all cores unpack and multiply by one row: None where the stack does not say how long a
    weight of each of their formats takes, or the host not its clock.
    """
    cycles, clock_hz = figures.stack.core_formats.cycles_of(work.stored), figures.values.get("host.clock_hz")
    if cycles is None or clock_hz is None:
        return None
    return figures["host.n_cores"] * clock_hz / cycles * (work.weight_bits / 8)
