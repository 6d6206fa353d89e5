"""The rows that Pre-gated MoE's authors publish, in their own columns: CSV in, checked rows out."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from offload.policies import PRESETS
from traces.errors import InvalidFile, unknown_name
from traces.foundation.documents import NUMBER, read_text

COLUMNS = (
    "model", "design", "batch", "forced_active_experts", "cache_policy", "cache_ratio", "expert_tier",
    "metric", "value", "unit",
)  # fmt: skip

METRICS = {
    "moe_layer_latency": "ms",
    "throughput": "tokens/s",
    "peak_gpu_memory": "bytes",
    "cache_hit_rate": "fraction",
    "max_active_experts": "experts",
}

PLAUSIBLE_VALUES = {
    "moe_layer_latency": (1e-6, 1e9),
    "throughput": (1e-9, 1e9),
    "peak_gpu_memory": (1.0, 1e17),
    "cache_hit_rate": (0.0, 1.0),
    "max_active_experts": (1.0, 1e6),
}
"""What a measurement can be, in its unit: far beyond any there is, so that what is outside is a slip."""

EVICTIONS = {"lru": "lru", "lfu": "lfu_released", "lifo": "lifo_released", "unstated": "lfu_released"}
"""Cache policies as the public code has them; its configuration says LFU where the paper names none."""


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure. `forced_active` 0: the authors forced nothing. `cache_ratio` 0: no cache."""

    model: str
    design: str
    batch: int
    forced_active: int
    cache_policy: str
    cache_ratio: float
    expert_tier: str
    metric: str
    value: float
    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        """A stable name: the configuration and the metric."""
        forced = f"/forced{self.forced_active}" if self.forced_active else ""
        cached = f"/{self.cache_policy}{self.cache_ratio:g}" if self.cache_ratio else ""
        ssd = "/ssd" if self.expert_tier == "ssd" else ""
        return f"{self.model}/{self.design}/b{self.batch}{forced}{cached}{ssd}/{self.metric}"

    @property
    def configuration(self) -> tuple[object, ...]:
        """What has to be simulated: everything but the metric and its value."""
        return (
            self.model, self.design, self.batch, self.forced_active, self.cache_policy, self.cache_ratio,
            self.expert_tier,
        )  # fmt: skip

    @property
    def is_timed(self) -> bool:
        """Whether it states something of a run, and not of memory or routing alone."""
        return self.metric in ("moe_layer_latency", "throughput", "cache_hit_rate")

    @property
    def natural_batch(self) -> bool:
        """Whether it depends on how the sequences of a batch share experts, which nobody published."""
        return self.batch > 1 and not self.forced_active


def read_rows(path: Path) -> list[Row]:
    """Parse a CSV with exactly the columns `COLUMNS`. Raises `InvalidFile` or `UnknownName` naming line and value."""
    reader = csv.reader(io.StringIO(read_text(path)))
    header = next(reader, [])
    if tuple(header) != COLUMNS:
        raise InvalidFile(f"{path}: columns are {','.join(header)[:200]!r}, expected {','.join(COLUMNS)}")
    rows = [parse_row(cells, f"{path} line {number}") for number, cells in enumerate(reader, 2) if cells]
    if not rows:
        raise InvalidFile(f"{path}: no rows")
    return rows


def parse_row(cells: list[str], where: str) -> Row:
    """One row from its cells. Raises `InvalidFile` or `UnknownName`."""
    if len(cells) != len(COLUMNS):
        raise InvalidFile(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}")
    model, design, batch, forced, cache_policy, ratio, tier, metric, value, unit = (cell.strip() for cell in cells)
    if design not in PRESETS:
        raise unknown_name("design", design, PRESETS, where)
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS, where)
    if unit != METRICS[metric]:
        raise InvalidFile(f"{where}: unit {unit!r} of {metric}, expected {METRICS[metric]!r}")
    if tier not in ("dram", "ssd"):
        raise unknown_name("expert tier", tier, ("dram", "ssd"), where)
    if cache_policy not in ("none", *EVICTIONS):
        raise unknown_name("cache policy", cache_policy, ("none", *EVICTIONS), where)
    for name, cell in (("batch", batch), ("active experts", forced), ("ratio", ratio), ("value", value)):
        if cell and NUMBER.fullmatch(cell) is None:
            raise InvalidFile(f"{where}: {name} {cell[:40]!r} is not a number")
    try:
        row = Row(
            model, design, int(batch), int(forced or 0), cache_policy, float(ratio or 0), tier, metric,
            float(value), tuple(cells),
        )  # fmt: skip
    except ValueError:
        raise InvalidFile(f"{where}: batch, active experts, ratio and value must be numbers") from None
    if row.batch < 1 or row.forced_active < 0 or not 0 <= row.cache_ratio <= 1 or not math.isfinite(row.value):
        raise InvalidFile(f"{where}: batch {row.batch}, {row.forced_active} active, ratio {row.cache_ratio:g}?")
    low, high = PLAUSIBLE_VALUES[metric]
    if row.value and not low <= row.value <= high:
        raise InvalidFile(f"{where}: value {row.value:g} of {metric}: {low:g} to {high:g} {unit} can be")
    if row.value <= 0 and metric != "cache_hit_rate":
        raise InvalidFile(f"{where}: value {row.value:g} of {metric} is not above 0, and has no relative error")
    return row
