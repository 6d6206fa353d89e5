"""A design as it serves and all that its cost rests on, in round numbers."""

from __future__ import annotations

from pregate.ask.timing.time_errors import TimeError
from pregate.economics.serving import RequestShape, Served

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
