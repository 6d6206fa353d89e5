"""What the host's processor takes for a part of a layer: rates of its memory, links, cores and formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodels.figures import Figures, Number, slower
from hwmodels.kernels.attention_traffic import beside_scores
from hwmodels.kernels.floors import NARROW_BITS
from offload.ops import Work

_TILE_SPEEDUP = 8
"""A matrix unit of AMX does 2,048 operations of int8 a core and cycle, eight times as many as AVX-512, and half of that
in bf16 (KTransformers, doc/en/AMX.md)."""


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
        rate = slower(rate, fabric)
    rate = rate * figures.stack_constant("cpu_efficiency")
    cores = figures["host.n_cores"] * figures.stack_constant("cpu_core_bytes_per_s")
    unpacking = _unpacking_bytes_per_s(work, figures)
    peak = figures["host.peak_flop_per_s"]
    n_sockets = figures.values.get("host.n_sockets")
    if n_sockets is not None:
        used = slower(_real(figures.stack_constant("cpu_sockets")) / n_sockets, 1.0)
        rate, cores, peak = rate * used, cores * used, peak * used
        unpacking = None if unpacking is None else unpacking * used
    weights_rate = slower(rate, cores if unpacking is None else unpacking)
    rate = slower(rate, cores)
    kv_bytes = work.hbm_bytes * figures.values.get("stack.cpu_kv_copies", 1.0)
    gemm_flop = work.total_flop - work.flop
    tiles = figures.values.get("stack.cpu_tile_gemm_efficiency") if _fills_tiles(work, figures) else None
    if tiles is None:
        flop_s: Any = gemm_flop / figures.stack_constant("cpu_gemm_efficiency")
    else:
        flop_s = gemm_flop / (tiles * _TILE_SPEEDUP)
    if work.weight_bits <= NARROW_BITS and work.compute != "fp8":
        flop_s = flop_s / figures.stack_constant("cpu_packed_speedup")
    elif work.compute in ("bf16", "fp8"):  # no processor has products of fp8: it is widened to bf16, or further
        flop_s = flop_s / _bf16_speedup(figures)
    unpack_s = None if unpacking is None else work.weight_bytes / unpacking
    products = figures.stack.host_products.on("host.tile_rows" in figures.values)
    compute_s, dram_s = products.seconds(_mean_rows(work), flop_s / peak, work.weight_bytes / weights_rate, unpack_s)
    scores_s = work.flop / _attention_share(work, figures) / peak
    more_compute_s, more_dram_s = beside_scores(work, scores_s, kv_bytes / rate)
    return compute_s + more_compute_s, dram_s + more_dram_s


def _attention_share(work: Work, figures: Figures) -> Number:
    """Of the peak rate, what scores reach: over keys and values that were made of latents where the stack says so."""
    made = None if work.attending is None else figures.values.get("stack.cpu_made_attention_efficiency")
    return figures.stack_constant("cpu_attention_efficiency") if made is None else made


def _fills_tiles(work: Work, figures: Figures) -> bool:
    """Whether the host has matrix units, and its stack multiplies so many rows in them."""
    at_least = figures.stack.host_products.padded_from
    return "host.tile_rows" in figures.values and 0 < at_least <= _mean_rows(work)


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
    if type(speedup) is float:
        return max(speedup, 1.0)
    return np.where(np.real(speedup) > 1, speedup, 1.0)


def _real(value: Number) -> Number:
    """What a number is without what a derivative adds to it."""
    return value if type(value) is float else np.real(value)


def _unpacking_bytes_per_s(work: Work, figures: Figures) -> Number | None:
    """Bytes of weights that all cores unpack and multiply by one row: None where the stack does not say how long a
    weight of each of their formats takes, or the host not its clock.
    """
    cycles, clock_hz = figures.stack.core_formats.cycles_of(work.stored), figures.values.get("host.clock_hz")
    if cycles is None or clock_hz is None:
        return None
    return figures["host.n_cores"] * clock_hz / cycles * (work.weight_bits / 8)
