"""How far a claimed machine's constants may be off: the scatter from source to source of what others measured.

`spreads.yaml` is written by `pregate reproduce field --spreads FILE`; nobody types its numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidInput
from traces.foundation.documents import read_yaml

SPREAD_KEYS = (
    "stack.cpu_efficiency", "stack.cpu_core_bytes_per_s", "host.clock_hz", "stack.cpu_gemm_efficiency",
    "stack.cpu_attention_efficiency", "stack.cpu_made_attention_efficiency", "stack.cpu_tile_gemm_efficiency",
    "stack.handover_s", "stack.hbm_efficiency", "stack.gemm_efficiency", "stack.kernel_s", "stack.row_block_s",
    "stack.row_pass_s", "stack.tile_load_s", "stack.tiled_gemm_s", "stack.gemm_floor_s", "stack.attention_floor_s",
    "stack.experts_floor_s", "stack.narrow_experts_floor_s", "stack.attention_efficiency",
    "stack.launch_s", "stack.batch_launch_s", "stack.split_launch_s", "stack.sync_s", "stack.step_s",
    "stack.schedule_s", "stack.sort_s", "stack.mask_s", "stack.load_s", "stack.copy_issue_s", "stack.copy_latency_s",
    "link.h2d_efficiency", "stack.link_efficiency", "link.pageable_h2d_bytes_per_s", "link.mapped_h2d_bytes_per_s",
    "stack.storage_efficiency", "stack.reread_exponent",
    "stack.all_reduce_s", "stack.ring_step_s", "stack.peer_efficiency", "stack.ring_efficiency",
)  # fmt: skip
"""The numbers that scatter: times and rates of a stack, what links and a host's cores reach of their makers' words,
and how often rows read weights of the host. Those that a user sets, or that a row determined, are exact instead. What
multiplies another of these is left out (`dequant_efficiency`, `cpu_packed_speedup`): one scale says both.
"""

OF_HOST = (
    *(key for key in SPREAD_KEYS if key.startswith(("stack.cpu_", "host."))), "stack.handover_s",
    "link.pageable_h2d_bytes_per_s", "link.mapped_h2d_bytes_per_s", "stack.storage_efficiency",
)  # fmt: skip
"""Of these the ones of a stack on a host, whatever card stands in it: what cores read, compute and stage."""

SPREADS_FILE = Path(__file__).parent / "spreads.yaml"

GATHERED = "2026-11"
"""Until when the measurements were gathered."""

TAIL = 4.0
"""Degrees of freedom of the t law that measurements follow: a few are off by far more than a normal law has them."""

_ANY: Mapping[str, float] = ReadOnly({})
"""No limit to any number."""

HALF_95 = 2.7764451051977987
"""Half a 95 % interval of that law, in its scales."""


@dataclass(frozen=True, slots=True)
class ClaimedSpread:
    """Scales of ln, of a t law: `constants` by figure, with the number of sources that bear on each; `row` is what a
    measurement is off by itself.
    """

    constants: Mapping[str, float]
    n_bearing: Mapping[str, int]
    row: float
    n_rows: int
    n_sources: int

    def __post_init__(self) -> None:
        if set(self.constants) != set(SPREAD_KEYS):
            raise InvalidInput(f"a spread has {', '.join(SPREAD_KEYS)}, not {', '.join(self.constants)}")
        for name, sigma in (*self.constants.items(), ("row", self.row)):
            if not 0 < sigma < 10:
                raise InvalidInput(f"spread {name} = {sigma:g}: a scale of ln lies between 0 and 10")
        object.__setattr__(self, "constants", ReadOnly(dict(self.constants)))
        object.__setattr__(self, "n_bearing", ReadOnly(dict(self.n_bearing)))

    def half_width(
        self, elasticities: Mapping[str, float], room: Mapping[str, float] = _ANY, rows: float = 1.0
    ) -> float:
        """Half a 95 % interval of ln(metric), which depends on numbers by `elasticities`: how far up the metric goes.
        `room`: by how much ln of a number may rise, of those with a limit; `rows`: how many times a measurement is off
        by itself.
        """
        terms = []
        for key, sigma in self.constants.items():
            depends, far = elasticities.get(key, 0.0), HALF_95 * sigma
            terms.append(depends * (min(far, room.get(key, far)) if depends > 0 else far))
        return math.hypot(HALF_95 * self.row * rows, *terms)

    def interval(
        self, value: float, elasticities: Mapping[str, float], room: Mapping[str, float] = _ANY
    ) -> tuple[float, float]:
        """The 95 % interval of a metric that is `value`; `elasticities` and `room` as of `half_width`."""
        down = self.half_width({key: -depends for key, depends in elasticities.items()}, room)
        return value * math.exp(-down), value * math.exp(self.half_width(elasticities, room))

    def __str__(self) -> str:
        return f"the scatter of constants over {self.n_rows} rows of {self.n_sources} sources"

    def to_yaml(self) -> str:
        """As `shipped_spread` reads it."""
        lines = [
            "# Written by `pregate reproduce field --spreads FILE`: scales of ln, from source to source.",
            f"n_rows: {self.n_rows}",
            f"n_sources: {self.n_sources}",
            f"row: {self.row:.4g}",
            "constants:",
        ]
        lines += [
            f"  {key}: {{sigma: {sigma:.4g}, n_sources: {self.n_bearing.get(key, 0)}}}"
            for key, sigma in self.constants.items()
        ]
        return "\n".join(lines) + "\n"


@functools.cache
def shipped_spread() -> ClaimedSpread:
    """The scatter that ships. Raises `InvalidFile` for a file that is none."""
    section = read_yaml(SPREADS_FILE)
    table = section.section("constants")
    sigmas, bearing = {}, {}
    for key in SPREAD_KEYS:
        entry = table.section(key)
        sigmas[key], bearing[key] = entry.number("sigma"), entry.integer("n_sources")
        entry.done()
    table.done()
    found = ClaimedSpread(
        sigmas, bearing, section.number("row"), section.integer("n_rows"), section.integer("n_sources")
    )
    section.done()
    return found
