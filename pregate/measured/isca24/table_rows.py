"""The rows of Pre-gated MoE (ISCA 2024) in the columns of every table, and back.

Their authors publish columns of their own; `routing` of a row says that its tokens spread over experts as that
workload's do, and of how many experts of a layer each forward pass was forced to make use of (`isca24:4`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from offload.policies import policy_named
from pregate.measured.isca24.machine_fit import HARDWARE, STACK, is_fitted
from pregate.measured.isca24.natural_routing import INPUT_TOKENS, OUTPUT_TOKENS
from pregate.measured.isca24.published_rows import EVICTIONS, Row, parse_row
from traces.errors import InvalidInput

METRICS: Mapping[str, tuple[str, str]] = {
    "moe_layer_latency": ("moe_layer_latency", "ms"),
    "throughput": ("tokens_per_s", "tokens/s"),
    "peak_gpu_memory": ("peak_hbm_bytes", "bytes"),
    "cache_hit_rate": ("hit_rate", "fraction"),
    "max_active_experts": ("max_active_experts", "experts"),
}
"""Metrics of the authors: name and unit of ours."""

_ROUTING = re.compile(r"isca24(:(?P<n>\d{1,4}))?", re.ASCII)


def cells_of(cells: list[str], where: str) -> dict[str, str]:
    """The cells of a table's row from those of the authors' columns. Raises `InvalidFile` or `UnknownName`."""
    row = parse_row(cells, where)
    cached = f"+{EVICTIONS[row.cache_policy]}:{row.cache_ratio!r}:warm" if row.cache_ratio else ""
    metric, unit = METRICS[row.metric]
    return {
        "name": row.name,
        "source": "Pre-gated MoE, ISCA 2024",
        "model": row.model,
        "hardware": HARDWARE,
        "policy": f"{row.design}{cached if row.cache_policy != 'none' else ''}",
        "stack": STACK,
        "batch": str(row.batch),
        "input_tokens": str(INPUT_TOKENS),
        "output_tokens": str(OUTPUT_TOKENS),
        "metric": metric,
        "value": repr(row.value),
        "unit": unit,
        "expert_tier": row.expert_tier,
        "routing": "isca24" + (f":{row.forced_active}" if row.forced_active else ""),
        "role": "stack" if is_fitted(row) else "",
    }


def published_row(
    model: str, design: str, batch: int, routing: str, expert_tier: str, metric: str, value: float, where: str
) -> Row:
    """The authors' row behind cells of a table. Raises `InvalidInput` for what that workload does not have."""
    match = _ROUTING.fullmatch(routing)
    if match is None:
        raise InvalidInput(f"{where}: routing {routing[:40]!r} is neither isca24 nor isca24:EXPERTS")
    names = {ours: theirs for theirs, (ours, _) in METRICS.items()}
    if metric not in names:
        raise InvalidInput(f"{where}: metric {metric} is not of routing isca24: {', '.join(names)} are")
    policy = policy_named(design)
    evictions = {ours: theirs for theirs, ours in EVICTIONS.items() if theirs != "unstated"}
    cache = policy.cache
    if cache is not None and (cache.eviction not in evictions or cache.ratio is None):
        raise InvalidInput(f"{where}: a cache of routing isca24 is {', '.join(evictions)}, with a ratio")
    name = design.partition("+")[0].strip()
    return Row(
        model, name, batch, int(match["n"] or 0),
        evictions[cache.eviction] if cache is not None else "none", (cache.ratio or 0.0) if cache is not None else 0.0,
        expert_tier, names[metric], value, (),
    )  # fmt: skip
