"""What two rules of thumb say of the run of a row at claimed rates: its link alone, and its roofline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwmodels.compute_formats import computes_in
from hwmodels.kernels.gemm_cells import listed_gemms
from hwmodels.platform import Platform
from offload.lanes import computes
from offload.metrics.run_metrics import decode_steps
from offload.ops import Lane, OpKind, Work
from offload.schedule import Schedule
from pregate.ask.capturing.capture import Captured
from pregate.measured.rows.measured_row import MeasuredRow


def rules_of_thumb(row: MeasuredRow, captured: Captured, hw: Platform) -> dict[str, float]:
    """What they say, in the unit of the row.

    link: bytes over the link, all else free. roofline: FLOP or bytes of every kernel, of the host's share of DRAM,
    and the link, the longest of the three, nothing else.
    """
    counted, n_units = _counted(row, captured)
    link_s, roofline_s = _ideal_s(captured.decoded.schedule, hw, counted)
    said = {}
    for name, seconds in (("link", link_s), ("roofline", roofline_s)):
        if seconds > 0:
            said[name] = n_units / seconds if row.more_is_better else seconds / n_units
    return said


def _counted(row: MeasuredRow, captured: Captured) -> tuple[NDArray[np.bool_], float]:
    """The ops that the metric is of, (n_ops,), and of how many tokens, passes or layers they are."""
    schedule, steps = captured.decoded.schedule, decode_steps(captured.trace)
    decoding = np.isin(schedule.step, steps)
    n_passes = max(len(steps), 1)
    match row.metric:
        case "ttft":
            return ~decoding, 1
        case "prefill_tokens_per_s":
            return ~decoding, captured.workload.n_running * row.input_tokens
        case "tokens_per_s":
            return np.ones_like(decoding), captured.workload.n_output_tokens
        case "total_tokens_per_s":
            read = captured.workload.n_running * row.input_tokens
            return np.ones_like(decoding), captured.workload.n_output_tokens + read
        case "requests_per_s":
            return np.ones_like(decoding), captured.workload.n_running
        case "e2el":
            return np.ones_like(decoding), 1
        case "decode_tokens_per_s" | "microbatch_tokens_per_s":
            return decoding, captured.workload.n_running * n_passes
        case "moe_layer_latency":
            return decoding, n_passes * max(len(captured.model.decoder.moe_layers), 1)
        case _:
            return decoding, n_passes


def _ideal_s(schedule: Schedule, hw: Platform, counted: NDArray[np.bool_]) -> tuple[float, float]:
    """Seconds of the counted ops at claimed rates: the link alone, and the longest of kernels, host and link."""
    machine = hw.machine
    rates = machine.accelerator.peak_flop_per_s
    params, flop = _of_gemms(schedule.works)
    row_s = np.zeros(len(schedule.works))
    for i, work in enumerate(schedule.works):
        moved = params[i] * work.weight_bits / 8 + work.hbm_bytes
        if work.kind in (OpKind.CPU_EXPERT, OpKind.CPU_LAYER):
            row_s[i] = max(flop[i] / machine.host.peak_flop_per_s, moved / machine.host.dram_bytes_per_s)
        elif work.gemms or work.flop:
            flop_s = flop[i] / rates[computes_in(work.compute, rates)]
            row_s[i] = max(flop_s, moved / machine.accelerator.hbm_bytes_per_s)
    kernels_s, host_s = (
        float(row_s[schedule.cost[counted & mine]].sum())
        for mine in (computes(schedule.lane), schedule.lane == Lane.CPU)
    )
    crossing = counted & (schedule.lane == Lane.H2D) & (schedule.kind != OpKind.STAGE)
    link_s = int(schedule.bytes[crossing].sum()) / machine.link.h2d_bytes_per_s
    return link_s, max(kernels_s, host_s, link_s)


def _of_gemms(works: Sequence[Work]) -> tuple[list[int], list[int]]:
    """Of each work the weights that its GEMMs read, and all of its arithmetic."""
    cells = listed_gemms(works)
    m, columns, k, times = cells.columns
    params, flop = np.zeros((2, len(works)), np.int64)
    owner = cells.owner
    np.add.at(params, owner, columns * k * times)
    np.add.at(flop, owner, 2 * m * columns * k * times)
    return params.tolist(), [work.flop + products for work, products in zip(works, flop.tolist(), strict=True)]
