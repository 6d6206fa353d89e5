"""Under which conditions a machine was measured: clocks, throttling, link, memory nodes, driver.

A shared fit carries them, and nothing else of the machine it is from: names of hosts and users, serial numbers and
addresses have no key here, so that no file can bring them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from traces.errors import InvalidFile, unknown_name
from traces.foundation.documents import Section

Condition = str | float | bool

CONDITIONS: Mapping[str, type] = {
    "system": str,
    "processor": str,
    "device": str,
    "driver": str,
    "n_sockets": float,
    "n_numa_nodes": float,
    "device_numa_node": float,
    "dram_bytes": float,
    "pcie_generation": float,
    "pcie_generation_max": float,
    "pcie_width": float,
    "pcie_width_max": float,
    "sm_clock_hz": float,
    "sm_clock_least_hz": float,
    "sm_clock_max_hz": float,
    "memory_clock_hz": float,
    "power_limit_w": float,
    "temperature_c": float,
    "throttled": str,
    "ecc": bool,
}
"""What a shared fit may say of its conditions, by type. The clocks are the median and the least that were seen between
parts; `throttled`: why the device held its clock back, by the driver's words, "no" where it did not."""

_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,()+@_-]{0,79}", re.ASCII)
"""Names of products and versions: no path, no address, no line."""

_ADDRESS = re.compile(r"\S@\S|\b[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]+)+\b|\b\d{1,3}(\.\d{1,3}){3}\b", re.I)

_RANGES: Mapping[str, tuple[float, float]] = {
    "sm_clock_hz": (1e8, 1e10),
    "sm_clock_least_hz": (1e8, 1e10),
    "sm_clock_max_hz": (1e8, 1e10),
    "memory_clock_hz": (1e8, 1e11),
    "temperature_c": (0, 150),
    "dram_bytes": (1e8, 1e14),
    "power_limit_w": (1, 1e4),
    "n_sockets": (1, 64),
    "n_numa_nodes": (1, 1024),
    "device_numa_node": (0, 1023),
    "pcie_generation": (1, 8),
    "pcie_generation_max": (1, 8),
    "pcie_width": (1, 32),
    "pcie_width_max": (1, 32),
}
"""What a condition can be: a clock in megahertz is none."""

_ORDERED = (
    ("sm_clock_least_hz", "sm_clock_hz", "the median"),
    ("sm_clock_hz", "sm_clock_max_hz", "the most"),
    ("pcie_generation", "pcie_generation_max", "the most"),
    ("pcie_width", "pcie_width_max", "the most"),
    ("device_numa_node", "n_numa_nodes", "how many there are"),
)
"""Which condition is never above which other."""

_COUNTS = ("n_sockets", "n_numa_nodes", "device_numa_node", "pcie_generation", "pcie_width")


def check_conditions(conditions: Mapping[str, Any], where: str = "conditions") -> None:
    """Raise `UnknownName` for a key that is none, `InvalidFile` for a value that is no such condition."""
    for key, value in conditions.items():
        if key not in CONDITIONS:
            raise unknown_name("condition", key, CONDITIONS, where)
        wanted = CONDITIONS[key]
        if wanted is str:
            fits = isinstance(value, str) and _TEXT.fullmatch(value) is not None and not is_address(value)
        elif wanted is bool:
            fits = isinstance(value, bool)
        else:
            fits = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < 1e18
            fits = fits and math.isfinite(value)
        if not fits:
            words = {str: "a name of a product or a version", bool: "true or false"}.get(wanted, "a number from 0 on")
            raise InvalidFile(f"{where}: {key} = {str(value)[:40]!r} is not {words}")
    _check_possible(conditions, where)


def _check_possible(conditions: Mapping[str, Any], where: str) -> None:
    for key, (least, most) in _RANGES.items():
        if key in conditions and not least <= conditions[key] <= most:
            raise InvalidFile(f"{where}: {key} = {conditions[key]:g}: {least:g} to {most:g} can be, in SI units")
        if key.removesuffix("_max") in _COUNTS and key in conditions and conditions[key] != int(conditions[key]):
            raise InvalidFile(f"{where}: {key} = {conditions[key]:g} is no whole number")
    for less, more, what in _ORDERED:
        if conditions.get(less, 0.0) > conditions.get(more, math.inf):
            raise InvalidFile(f"{where}: {less} is above {more}, {what}")


def read_conditions(section: Section | None) -> Mapping[str, Condition]:
    """The conditions in a section of a file. Raises as `check_conditions`."""
    if section is None:
        return {}
    found = {key: section.take(key) for key in section.remaining()}
    check_conditions(found, section.where)
    return {key: float(value) if CONDITIONS[key] is float else value for key, value in found.items()}


def is_address(text: str) -> bool:
    """Whether a text looks like a name of a host or a user: user@host, a name with a domain, four numbers."""
    return _ADDRESS.search(text) is not None
