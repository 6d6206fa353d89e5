"""A design as it serves, all that its cost rests on, and reports of costs, in round numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from pregate.ask.timing.time_errors import TimeError
from pregate.economics.assumptions import Assumption
from pregate.economics.cost_draws import Estimate
from pregate.economics.costing import CostReport, DesignCost
from pregate.economics.serving import LatencyPromise, RequestShape, Served, Unserved

CARD = "a100-sxm4-80gb"
SURE = {
    "electricity_usd_per_kwh": 0.36, "pue": 1.5, "utilisation": 0.25, "years": 4.0, "machine_usd": 5000.0,
    "upkeep_per_year": 0.1, "engineering_usd_per_day": 1000.0, "host_idle_watts": 100.0, "host_busy_watts": 300.0,
    "busy_share": 0.8, "idle_share": 0.2, "transfer_joules_per_gb": 0.5, "unfitted_error": 3.0,
    f"cards.{CARD}.limit_watts": 400.0, f"cards.{CARD}.price_usd": 15000.0, f"cards.{CARD}.usd_per_hour": 2.0,
    "engineering_days.pregate": 40.0, "engineering_days.other": 7.0,
}  # fmt: skip
REQUEST = RequestShape(16, 8)
SERVED = Served("pregate", 4, 2.0, 0.5, 6.0, 0.75, 0.5, 3e9, 1e9, 0.5, 1 << 30, TimeError(rows=1.0))


def of(value: float, by: float = 0.5) -> Estimate:
    return Estimate(value, value - by, value + by)


def design(
    name: str, total: float, cheapest_in: float, *, is_ranked: bool = True, paid: float | None = 9.0
) -> DesignCost:
    served = dataclasses.replace(SERVED, design=name)
    payback = None if paid is None else of(paid)
    return DesignCost(served, of(1.0), of(2.0), of(3.0), of(4.0), of(total), payback, cheapest_in, is_ranked)


def report(*designs: DesignCost, **other: Any) -> CostReport:
    values: dict[str, Any] = {
        "model": "m", "hardware": "h", "basis": "own", "calibration": "claimed", "request": RequestShape(16, 8),
        "objective": LatencyPromise(1.5), "requests_per_s": 7.0, "designs": designs,
        "unserved": (Unserved("x", "x is too large", 5), Unserved("y", "y is slow")), "gpus_for_gpu_only": 3,
        "assumed": {"pue": Assumption(1.5, 1.2, 2.0, "1", "a test", "2026-01-01")}, "drivers": {"pue": 0.9},
        "now": "a", "told_apart": ("z cannot be built.",), **other,
    }  # fmt: skip
    return CostReport(**values)
