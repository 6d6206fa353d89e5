"""What the experts of forward passes cost, as the compiled decode loop reads it: alone, fused, and copied in runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offload.decoding.decode_job import DecodeJob
from offload.decoding.work_rows import Rows, Works
from offload.fast.block_unions import BlockUnions
from offload.fast.kernels import kernel_layout as layout
from offload.fast.placed_tables import PlacedTables
from offload.ops import OpKind, Work


def expert_tables(
    works: Works, rows: Rows, unions: BlockUnions, placed: PlacedTables, plan: Mapping[str, int]
) -> dict[str, NDArray[np.int64]]:
    """The unions, and what their experts cost on the device: one by one, and of each block in one op those that are
    neither of the host nor one by one.
    """
    i_pass, block = np.divmod(unions.union, unions.n_blocks)
    layer = plan["FIRST"] + block
    here = placed.on_device(layer, unions.experts, i_pass)
    at_home, each = placed.home[layer], np.zeros(0, np.int64)
    form_of = works.moe_form_of[plan["FIRST"] :][: unions.n_blocks]
    form = np.repeat(np.array(form_of)[block], unions.n_parts[i_pass])
    others = unions.tokens
    if plan["ANSWER"] == layout.FETCHED:
        others = others[:0] if here.all() else np.where(here, 0, others)
    if plan["RESIDENT"]:
        at_home = np.ones_like(at_home)
    shares = np.where(at_home, plan["FUSED_AT_HOME"], plan["FUSED"]) > 0
    if not (plan["FUSED"] and plan["FUSED_AT_HOME"]):
        each = rows.of_layers(lambda one, n: one.single(n) if n else None, works, unions.tokens, form)
    return {
        "UNION_PTR": unions.ptr,
        "UNION_EXPERT": unions.experts,
        "ENTRY_AT": unions.first_cost,
        "COST_SINGLE": each,
        "COST_CPU": rows.of_layers(lambda one, n: one.cpu_expert(n) if n else None, works, others, form),
        "COST_GROUPED": unions.grouped(rows, works, shares & here, form_of),
    }


def run_tables(job: DecodeJob, works: Works, rows: Rows, in_runs: bool) -> dict[str, NDArray[np.int64]]:
    """Costs of runs of copies, by how many copies; nothing where there are no runs."""
    sizes = range(job.model.n_experts + 1) if in_runs else range(0)
    n_hops = 2 if job.execution.stage else 1
    return {
        "COST_FETCH_RUN": rows.of_moe_layers(lambda one, n: one.run(OpKind.FETCH, n), works, sizes),
        "COST_STAGE_RUN": rows.of_moe_layers(lambda one, n: one.run(OpKind.STAGE, n), works, sizes),
        "COST_ISSUE": rows.each(lambda n: Work(OpKind.ISSUE, n_copies=(n - 1) * n_hops), sizes),
    }
