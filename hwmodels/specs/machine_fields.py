"""The figures of a machine by component: their dimensions, their dotted keys, and which values are possible."""

from __future__ import annotations

from dataclasses import dataclass

from hwmodels.compute_formats import PEAK_DTYPES
from hwmodels.quantity import check_plausible, positive_number
from hwmodels.specs.number_names import number_meant
from traces.errors import InvalidInput, unknown_name

HOST_MEMORY = ("pinned", "pageable", "mapped", "gathered", "remote")
"""How weights lie in host memory, which decides how fast they are copied. pinned: page-locked, read by the device.
pageable: ordinary memory, which the driver stages through a pinned buffer. mapped: pages of a file, staged likewise.
gathered: pinned, but in pieces of some tens of KB, a call each. remote: pinned, in the memory of another socket."""

WAYS = ("h2d", "d2h")
"""Directions of a link: to the device and back."""

_BACK = ("pageable", "remote")
"""Kinds of host memory that copies from the device are timed into."""


@dataclass(frozen=True, slots=True)
class Field:
    """One figure of a component: its dimension, whether it may be missing and whether it may be 0."""

    dimension: str
    optional: bool = False
    zero_ok: bool = False


FIELDS: dict[str, dict[str, Field]] = {
    "accelerator": {
        "hbm_bytes": Field("size"),
        "hbm_bytes_per_s": Field("bandwidth"),
        **{f"peak_flop_per_s.{dtype}": Field("compute", optional=dtype != "fp32") for dtype in PEAK_DTYPES},
        "n_sm": Field("count"),
        "clock_hz": Field("frequency"),
        "l2_bytes": Field("size"),
        "n_cards": Field("count", optional=True),
        "peer_bytes_per_s": Field("bandwidth", optional=True),
        "price_usd": Field("price", optional=True),
    },
    "host": {
        "dram_bytes": Field("size"),
        "dram_bytes_per_s": Field("bandwidth"),
        "n_cores": Field("count"),
        "peak_flop_per_s": Field("compute"),
        "n_sockets": Field("count", optional=True),
        "read_efficiency": Field("ratio", optional=True),
        "fabric_bytes_per_s": Field("bandwidth", optional=True),
        "clock_hz": Field("frequency", optional=True),
        "staging_bytes_per_s": Field("bandwidth", optional=True),
        "bf16_flop_per_s": Field("compute", optional=True),
        "tile_rows": Field("count", optional=True),
        "copies_beside_cpu": Field("ratio", optional=True),
        "cpu_beside_copies": Field("ratio", optional=True),
    },
    "link": {
        "h2d_bytes_per_s": Field("bandwidth"),
        "d2h_bytes_per_s": Field("bandwidth"),
        "copy_latency_s": Field("time", optional=True, zero_ok=True),
        **{f"{way}_efficiency": Field("ratio", optional=True) for way in WAYS},
        "both_ways_bytes_per_s": Field("bandwidth", optional=True),
        **{f"{kind}_h2d_bytes_per_s": Field("bandwidth", optional=True) for kind in HOST_MEMORY[1:]},
        **{f"{kind}_d2h_bytes_per_s": Field("bandwidth", optional=True) for kind in _BACK},
        **{f"{kind}_copy_latency_s": Field("time", optional=True, zero_ok=True) for kind in HOST_MEMORY[1:]},
    },
    "storage": {
        "read_bytes_per_s": Field("bandwidth"),
        "read_latency_s": Field("time", optional=True, zero_ok=True),
        "reader_bytes_per_s": Field("bandwidth", optional=True),
        "filing_bytes_per_s": Field("bandwidth", optional=True),
    },
}
"""The figures of each component. A YAML file spells them the same, but the price is `price`."""

ALIASES = {"hbm_bytes": "accelerator.hbm_bytes"}


def find_field(key: str) -> tuple[str, str]:
    """Component and field of a dotted key (`hbm_bytes` is the accelerator's). Raises `UnknownName`."""
    kind, _, field = ALIASES.get(key, key).partition(".")
    if field not in FIELDS.get(kind, {}):
        known = [f"{kind}.{field}" for kind, fields in FIELDS.items() for field in fields]
        every = [*known, *FIELDS, *ALIASES]
        raise unknown_name("override", key, every, spelled=number_meant(key, every))
    return kind, field


def check_figure(kind: str, field: str, value: float) -> None:
    """Raise `InvalidInput` unless `value` is possible for a field of a component."""
    possible_figure(value, FIELDS[kind][field], f"{kind}.{field}")


def possible_figure(value: object, rule: Field, where: str) -> float | int:
    """`value` in the type of its field: sizes are rounded down to whole bytes, counts must be whole.

    Raises `InvalidInput`, opened by `where`, for what is none or out of range.
    """
    number = positive_number(value, where, zero_ok=rule.zero_ok)
    if rule.dimension not in ("size", "count"):
        check_plausible(number, rule.dimension, where)
        return number
    if rule.dimension == "count" and number != int(number):
        raise InvalidInput(f"{where} = {number:.12g}: must be a whole number")
    if number < 1:
        raise InvalidInput(f"{where} = {number:.12g}: must be at least 1")
    check_plausible(number, rule.dimension, where)
    return int(number)
